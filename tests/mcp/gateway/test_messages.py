"""Messages in JSON: whatever comes is an ask or an error that says why, and what goes out is JSON."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp.client.results import Inference, InferenceRecord, ReplicaComparison, Step
from mcp.errors import InputInvalid, InvalidArgument, McpError, ModelInvalid
from mcp.gateway.failures import failure
from mcp.gateway.messages import (
    answer_pieces,
    end_event,
    error_event,
    read_ask,
    read_message,
    read_mode,
    read_stream,
    record_pieces,
    step_event,
    tensor_pieces,
)
from mcp.gateway.tensors import from_raw
from mcp.wire.json_tensors import from_json
from mcp.wire.messages import Message

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
NAMES = st.sampled_from(
    [
        "model_hint",
        "data_chunk",
        "inputs",
        "outputs",
        "timeout_ms",
        "encoding",
        "carry",
        "steps",
        "until",
        "mode",
    ]
)
TENSOR = st.fixed_dictionaries(
    {},
    optional={
        "name": st.text(max_size=3) | PLAIN,
        "dtype": st.sampled_from(["FP32", "INT8", "BYTES", "BOOL", "BF16"]) | PLAIN,
        "shape": st.lists(st.integers(0, 3), max_size=3) | PLAIN,
        "data": st.lists(st.integers(-3, 300), max_size=9) | st.just({"$bytes": "AAAAAA=="}) | PLAIN,
    },
)
FREE = st.dictionaries(NAMES, PLAIN | st.lists(TENSOR, max_size=3), max_size=6)
RIGHT = {"model_hint": "m", "data_chunk": "x", "steps": 1}
# Mostly right, so that what is looked at last is looked at.
PAYLOAD = FREE | st.dictionaries(NAMES, PLAIN, max_size=1).map(lambda wrong: {**RIGHT, **wrong})


@given(PAYLOAD, st.dictionaries(st.sampled_from(["id", "trace_id", "vector", "ttl"]), PLAIN, max_size=3))
def test_whatever_comes_is_an_ask_or_an_error(payload: dict[str, Any], more: dict[str, Any]) -> None:
    fields = {"mcp_version": "1.0", "type": "INFER_STREAM", "payload": payload, **more}
    try:
        body = json.dumps(fields).encode()
    except ValueError:
        return
    try:
        message = read_message(body, new_id="new")
        ask, stream, mode = read_ask(message), read_stream(message), read_mode(message)
    except McpError as error:
        status = failure(error).status
    else:
        status = 200
        assert 0 < ask.timeout_s <= 600
        assert stream.steps >= 1
        assert isinstance(mode, str)
    assert status in (200, 400, 413)


@given(st.binary(max_size=64))
def test_random_bytes_are_refused(body: bytes) -> None:
    with pytest.raises(McpError):
        read_message(body, new_id="new")


ARRAYS = {
    "f": np.array([[1.5, -0.0], [1e-40, 3.0]], np.float32),
    "s": np.array(["ä", ""], object),
    "b": np.array([True, False]),
    "none": np.empty((0, 3), np.int8),
    "one": np.array(7, np.uint64),
}


@pytest.mark.parametrize("encoding", ["list", "base64"])
def test_tensors_are_written_as_they_are_read(encoding: str) -> None:
    told = json.loads("".join(tensor_pieces(ARRAYS, encoding)))
    assert [each["name"] for each in told] == list(ARRAYS)
    message = Message("INFER_REQUEST", {"model_hint": "m", "inputs": told}, "1")
    body = {"mcp_version": "1.0", "type": message.type, "payload": message.payload}
    inputs = read_ask(read_message(json.dumps(body).encode(), new_id="1")).inputs
    assert isinstance(inputs, dict)
    for name, array in ARRAYS.items():
        found = inputs[name]
        if name == "s":
            assert [bytes(each).decode() for each in found] == array.tolist()
        else:
            assert (found.dtype, found.shape, found.tobytes()) == (array.dtype, array.shape, array.tobytes())


def test_what_a_list_has_no_form_for_says_how_it_can_be_had() -> None:
    for array in (np.array([math.nan]), np.array([b"\xff"], object)):
        with pytest.raises(InvalidArgument, match='"encoding": "base64"'):
            "".join(tensor_pieces({"y": array}, "list"))
        json.loads("".join(tensor_pieces({"y": array}, "base64")))
    with pytest.raises(InvalidArgument, match="json_elements_max"):
        "".join(tensor_pieces({"y": np.zeros(2**20 + 1, np.int8)}, "list"))


def test_answers_records_and_events_are_json() -> None:
    message = Message("INFER_REQUEST", {}, "7", "trace\n")
    answer = json.loads("".join(answer_pieces(message, Inference(ARRAYS, "m", "1", "n1"), "list")))
    assert (answer["id"], answer["trace_id"], answer["payload"]["node"]) == ("7", "trace\n", "n1")
    record = InferenceRecord(
        *("i", "failed", "durable", "m", "1", None, ModelInvalid("bad", details={"n": np.int64(1)})),
        *("n1", 3, 1, {"n2": ReplicaComparison(False, math.inf)}),
    )
    told = json.loads("".join(record_pieces(record, "list")))
    assert (told["error"]["code"], told["outputs"]) == ("MODEL_INVALID", None)
    assert told["replicas"] == {"n2": {"equal": False, "max_abs_diff": None}}
    event = "".join(step_event(Step(2, {"s": np.array(["a\nb\r\n\u2028"], object)}, "m", "1", "n1"), "list"))
    head, data, *rest = event.split("\n", 2)
    assert (head, data, rest[0][:6], event[-2:]) == ("event: step", "id: 2", "data: ", "\n\n")
    assert event.count("\n") == 4, "a line break of a text would end the event"
    assert json.loads(rest[0][6:])["outputs"][0]["data"] == ["a\nb\r\n\u2028"]
    assert end_event(2) == 'event: end\ndata: {"steps":2}\n\n'
    assert "INVALID_ARGUMENT" in error_event(failure(InvalidArgument("a\nb")))


def test_the_oracle_of_the_other_form_agrees() -> None:
    told = json.loads("".join(tensor_pieces({"f": ARRAYS["f"]}, "list")))[0]
    found = from_json("f", told["dtype"], tuple(told["shape"]), told["data"])
    assert found.tobytes() == from_raw("f", "f", "FP32", (2, 2), ARRAYS["f"].tobytes()).tobytes()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *((name, None) for name in ("data_chunk", "inputs", "outputs", "session", "headers", "priority")),
        *((name, None) for name in ("timeout_ms", "encoding")),
        ("inputs", [{"name": None, "dtype": "FP32", "shape": [1], "data": [1]}]),
    ],
)
def test_a_field_that_is_there_has_a_value_of_its_type(field: str, value: object) -> None:
    tensor = {"dtype": "FP32", "shape": [1], "data": [1]}
    payload = {"model_hint": "m", "inputs": [tensor], field: value}
    with pytest.raises((InvalidArgument, InputInvalid)):
        read_ask(Message("INFER_REQUEST", payload, "1"))


def test_the_output_that_ends_a_stream_is_a_text() -> None:
    with pytest.raises(InvalidArgument, match="until"):
        read_stream(Message("INFER_STREAM", {"steps": 1, "until": None}, "1"))
