"""Requests of the Open Inference Protocol: any bytes give a request or an error that names the field."""

from __future__ import annotations

import copy
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcp.errors import InputInvalid, InvalidArgument, McpError, TooLarge
from mcp.gateway.failures import failure
from mcp.gateway.limits import CONTAINERS_MAX, INFER_TIMEOUT_S, JSON_BYTES_MAX, OBJECTS_MAX, TIMEOUT_S_MAX
from mcp.gateway.requests import InferenceRequest, read_header_length, read_json, read_request
from mcp.gateway.tensors import Array, datatype_of, to_raw

ONE: dict[str, Any] = {"name": "x", "datatype": "INT64", "shape": [2], "data": [1, 2]}


def body(**fields: Any) -> bytes:
    return json.dumps({"inputs": [ONE], **fields}).encode()


def encoded(inputs: dict[str, Array], binary: set[str], **fields: Any) -> tuple[bytes, str]:
    """A body as Triton's client makes it: JSON, and behind it the inputs that are binary."""
    tensors, behind = [], b""
    for name, array in inputs.items():
        tensor: dict[str, Any] = {"name": name, "datatype": datatype_of(array), "shape": list(array.shape)}
        if name in binary:
            raw = bytes(to_raw(name, array))
            tensor["parameters"] = {"binary_data_size": len(raw)}
            behind += raw
        else:
            tensor["data"] = array.reshape(-1).tolist()
        tensors.append(tensor)
    head = json.dumps({"inputs": tensors, **fields}).encode()
    return head + behind, str(len(head))


def refused(data: bytes, header: str | None = None) -> McpError:
    with pytest.raises(McpError) as error:
        read_request(data, header)
    assert failure(error.value).status in (400, 413)
    return error.value


names = st.text("abcxyz/-", min_size=1, max_size=4)
values = st.builds(
    lambda shape, seed, kind: np.random.default_rng(seed).integers(0, 100, shape).astype(kind),
    st.lists(st.integers(0, 3), max_size=3).map(tuple),
    st.integers(0, 99),
    st.sampled_from(["u1", "<i8", "<f4", "<f2", "?"]),
)


@given(st.dictionaries(names, values, min_size=1, max_size=5), st.data())
def test_inputs_arrive_whichever_way_each_is_sent(inputs: dict[str, Array], data: st.DataObject) -> None:
    binary = data.draw(st.sets(st.sampled_from(sorted(inputs))))
    got = read_request(*encoded(inputs, binary)).inputs
    assert list(got) == list(inputs)
    for name, array in inputs.items():
        assert (got[name].dtype, got[name].shape) == (array.dtype, array.shape)
        assert got[name].tobytes() == array.tobytes()


def test_binary_inputs_are_views_of_the_body() -> None:
    array = np.arange(1000.0)
    data, header = encoded({"x": array}, {"x"})
    assert np.shares_memory(read_request(data, header).inputs["x"], np.frombuffer(data, np.uint8))


def test_what_is_left_out_has_its_default() -> None:
    got = read_request(body())
    assert (got.id, got.outputs, got.names) == (None, None, None)
    assert got.wishes.timeout_s == INFER_TIMEOUT_S
    assert not got.is_binary("y")


def test_outputs_are_binary_as_each_says_or_as_the_request_does() -> None:
    asked = [{"name": "a"}, {"name": "b", "parameters": {"binary_data": False}}]
    got = read_request(body(outputs=asked, parameters={"binary_data_output": True}))
    assert got.names == ["a", "b"]
    assert (got.is_binary("a"), got.is_binary("b")) == (True, False)
    asked[1]["parameters"] = {"binary_data": True}
    got = read_request(body(outputs=asked))
    assert (got.is_binary("a"), got.is_binary("b")) == (False, True)
    assert read_request(body(parameters={"binary_data_output": True})).is_binary("anything")
    assert read_request(body(outputs=[])).names is None


@pytest.mark.parametrize(
    ("timeout", "seconds"),
    [(1, 1e-6), (2_500_000, 2.5), (0, INFER_TIMEOUT_S), (2**63, TIMEOUT_S_MAX)],
)
def test_a_timeout_is_in_microseconds_and_bounded(timeout: int, seconds: float) -> None:
    assert read_request(body(parameters={"timeout": timeout})).wishes.timeout_s == pytest.approx(seconds)


def test_id_and_priority_are_read_and_unknown_parameters_are_not_minded() -> None:
    got = read_request(body(id="7", parameters={"priority": 3, "colour": "red", "sequence_id": 0}))
    assert (got.id, got.wishes.priority) == ("7", 3)


MISTAKES: list[tuple[dict[str, Any], str]] = [
    ({"inputs": None}, '"inputs" must be a list'),
    ({"inputs": []}, '"inputs" must be a list of 1 to'),
    ({"inputs": [ONE] * 257}, '"inputs" must be a list'),
    ({"inputs": ["x"]}, "inputs[0] must be an object"),
    ({"inputs": [ONE, ONE]}, 'inputs[1] "x": the name is there twice'),
    ({"inputs": [{**ONE, "name": 5}]}, 'inputs[0]: "name"'),
    ({"inputs": [{**ONE, "datatype": "BF16"}]}, "BF16 cannot be carried"),
    ({"inputs": [{**ONE, "shape": [-2]}]}, '"shape" must hold integers from 0 on'),
    ({"inputs": [{"name": "x", "datatype": "INT64", "shape": [2]}]}, '"data" must be a list'),
    ({"inputs": [{**ONE, "parameters": {"binary_data_size": 16}}]}, 'both "data" and "binary_data_size"'),
    ({"inputs": [{**ONE, "parameters": {"shared_memory_region": "r"}}]}, '"shared_memory_region"'),
    ({"inputs": [{**ONE, "parameters": {"a": []}}]}, 'the parameter "a" must be'),
    ({"outputs": [{"name": "y", "parameters": {"classification": 3}}]}, '"classification" is not supported'),
    ({"outputs": [{"name": "y", "parameters": {"binary_data": 1}}]}, '"binary_data" must be true or false'),
    ({"outputs": [{"name": "y"}, {"name": "y"}]}, "outputs[1]: the name"),
    ({"outputs": "y"}, '"outputs" must be a list'),
    ({"outputs": [{}]}, 'outputs[0]: "name"'),
    ({"id": 5}, '"id" must be a text'),
    ({"id": "x" * 1025}, '"id" must be a text'),
    ({"id": "\ud800"}, '"id" must be a text'),
    ({"parameters": []}, '"parameters" must be an object'),
    ({"parameters": {str(n): n for n in range(65)}}, '"parameters" must be an object of at most 64'),
    ({"parameters": {"timeout": -1}}, '"timeout" must be an integer'),
    ({"parameters": {"timeout": 1.5}}, '"timeout" must be an integer'),
    ({"parameters": {"timeout": True}}, '"timeout" must be an integer'),
    ({"parameters": {"priority": 2**64}}, '"priority" must be an integer'),
    ({"parameters": {"binary_data_output": "yes"}}, '"binary_data_output" must be true or false'),
    ({"parameters": {"sequence_id": 1}}, '"sequence_id" cannot be honoured'),
    ({"parameters": {"sequence_start": True}}, '"sequence_start" cannot be honoured'),
]


@pytest.mark.parametrize(("fields", "words"), MISTAKES)
def test_a_mistake_is_told_with_its_field(fields: dict[str, Any], words: str) -> None:
    assert words in refused(body(**fields)).message


def test_sizes_of_binary_data_have_to_be_those_of_the_body() -> None:
    data, header = encoded({"x": np.arange(2)}, {"x"})
    assert "15 bytes are left" in refused(data[:-1], header).message
    assert "17 bytes behind the JSON" in refused(data + b"!", header).message
    assert "is no JSON" in refused(data, str(int(header) - 1)).message
    assert "is no UTF-8" in refused(data + b"\xff", None).message
    huge = json.loads(data[: int(header)])
    huge["inputs"][0]["parameters"]["binary_data_size"] = 2**62
    head = json.dumps(huge).encode()
    assert "bytes are left" in refused(head + bytes(16), str(len(head))).message


@pytest.mark.parametrize("text", ["-1", "+1", "1.0", "", " 1", "11", "1" * 100, "x", "\u0661"])
def test_a_length_of_the_json_is_a_number_within_the_body(text: str) -> None:
    with pytest.raises(InvalidArgument, match="Inference-Header-Content-Length"):
        read_header_length(text, 10)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"[1]", "must be a JSON object"),
        (b"5", "must be a JSON object"),
        (b"{", "is no JSON"),
        (b'{"a": NaN}', "NaN is none of its numbers"),
        (b'{"a": -Infinity}', "Infinity is none of its numbers"),
        (b"\xff\xfe{\0}\0", "no UTF-8"),
        (b'{"a": ' + b"9" * 5000 + b"}", "is no JSON"),
        (b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested too deeply"),
    ],
)
def test_what_is_no_json_object_is_refused(data: bytes, words: str) -> None:
    with pytest.raises(InvalidArgument, match=words):
        read_json(data)


def test_json_is_bounded_before_it_is_read() -> None:
    with pytest.raises(TooLarge, match="json_bytes_max"):
        read_json(b" " * (JSON_BYTES_MAX + 1))
    with pytest.raises(TooLarge, match="containers_max"):
        read_json(b'{"a":[' + b"[]," * CONTAINERS_MAX + b"0]}")
    assert read_json(b"") == read_json(b" \n") == read_json(b"{}") == {}


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)


def outcome(data: bytes, header: str | None) -> InferenceRequest | McpError:
    try:
        return read_request(data, header)
    except McpError as refusal:
        error = refusal
    assert failure(error).status in (400, 413)
    assert error.message
    return error


@given(st.binary(max_size=200), st.none() | st.text(max_size=4) | st.integers(0, 200).map(str))
def test_random_bytes_are_refused_and_nothing_worse(data: bytes, header: str | None) -> None:
    assert isinstance(outcome(data, header), McpError)


@settings(max_examples=300)
@given(st.data())
def test_a_request_with_anything_anywhere_is_read_or_refused(data: st.DataObject) -> None:
    tensor = copy.deepcopy(ONE)
    request: dict[str, Any] = {
        "id": "1",
        "inputs": [{**tensor, "parameters": {"a": 1}}, {**copy.deepcopy(ONE), "name": "z"}],
        "outputs": [{"name": "y", "parameters": {"binary_data": True}}],
        "parameters": {"timeout": 5, "priority": 1},
    }
    for _ in range(data.draw(st.integers(1, 3))):
        place: Any = request
        while True:
            keys = sorted(place) if isinstance(place, dict) else list(range(len(place)))
            if not keys:
                break
            key = data.draw(st.sampled_from(keys))
            if isinstance(place[key], dict | list) and data.draw(st.booleans()):
                place = place[key]
                continue
            place[key] = data.draw(anything)
            break
    outcome(json.dumps(request).encode(), None)


@given(st.integers(0, 400), st.integers(0, 255))
def test_a_request_with_one_byte_changed_is_read_or_refused(place: int, byte: int) -> None:
    inputs = {"x": np.arange(4.0), "s": np.array([b"ab", b""], object)}
    data, header = encoded(inputs, {"x", "s"}, parameters={"binary_data_output": True})
    changed = bytearray(data)
    changed[place % len(data)] = byte
    outcome(bytes(changed), header)


def test_strings_in_raw_bytes_are_bounded_together() -> None:
    half = np.full(OBJECTS_MAX // 2 + 1, b"", object)
    data, header = encoded({"a": half}, {"a"})
    assert read_request(data, header).inputs["a"].size == half.size
    data, header = encoded({"a": half, "b": half}, {"a", "b"})
    assert isinstance(refused(data, header), TooLarge)
    data, header = encoded({"a": np.zeros(2 * OBJECTS_MAX, np.int8)}, {"a"})
    assert read_request(data, header).inputs["a"].size == 2 * OBJECTS_MAX


def test_an_input_that_does_not_fit_is_an_invalid_input() -> None:
    assert isinstance(refused(body(inputs=[{**ONE, "data": [1]}])), InputInvalid)
