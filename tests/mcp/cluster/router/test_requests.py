"""From a message to features: what is read, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp.causality.vector import VersionVector
from mcp.cluster.router.features import Features, Hint, Tensor
from mcp.cluster.router.requests import HEADER_CHARS_MAX, HEADERS_MAX, features_of
from mcp.errors import InvalidArgument
from mcp.wire.messages import Message


def message(**payload: Any) -> Message:
    return Message(
        "INFER_REQUEST",
        {"model_hint": "glm", **payload},
        "id-1",
        "trace-1",
        VersionVector.from_mapping({"log": 17, "n1": 3}),
    )


def test_a_text_is_one_string_of_any_rank() -> None:
    found = features_of(message(data_chunk="用户", timeout_ms=3000), client="c", session="s")
    assert found == Features(
        "glm",
        (Tensor("", "BYTES", None, 6),),
        2,
        1,
        6,
        deadline_s=3.0,
        client="c",
        session="s",
        trace_id="trace-1",
        position=17,
    )


def test_tensors_are_read_off_their_specs() -> None:
    specs = [
        {"name": "ids", "dtype": "INT64", "shape": [2, 7], "segment": 0},
        {"name": "x", "dtype": "FP16", "shape": [2, 5, 3], "data": b"..."},
        {"name": "text", "dtype": "BYTES", "shape": [2], "segment": 1},
        {"name": "more", "dtype": "BYTES", "shape": [1], "data": b"12345"},
        {"name": "unknown", "dtype": "BYTES", "shape": [1], "segment": 9},
    ]
    found = features_of(message(inputs=specs), segment_bytes={0: 112, 1: 33})
    assert found.tensors == (
        Tensor("ids", "INT64", (2, 7), 112),
        Tensor("x", "FP16", (2, 5, 3), 60),
        Tensor("text", "BYTES", (2,), 33),
        Tensor("more", "BYTES", (1,), 5),
        Tensor("unknown", "BYTES", (1,), 0),
    )
    assert (found.length, found.batch, found.size) == (7, 2, 210)


def test_without_inputs_nothing_is_known_of_them() -> None:
    found = features_of(message())
    assert (found.tensors, found.length, found.batch, found.size) == (None, None, None, None)
    assert features_of(message(inputs=[])).tensors == ()


def test_a_hint_may_come_in_parts() -> None:
    assert features_of(message(model_hint={"family": "glm", "tags": ["zh", "chat"]})).hint == Hint(
        family="glm", tags=("zh", "chat")
    )


def test_the_connection_knows_headers_better() -> None:
    found = features_of(message(headers={"X-User": "a", "x-b": "b"}), headers={"x-user": "real"})
    assert found.headers == {"x-user": "real", "x-b": "b"}


def test_what_is_not_the_routers_is_left_alone() -> None:
    found = features_of(message(priority=-3, parameters={"t": 0.5}, outputs=["y"], anything=[1]))
    assert (found.priority, found.parameters) == (-3, {"t": 0.5})


@pytest.mark.parametrize(
    ("payload", "said"),
    [
        ({"model_hint": None}, "model_hint: missing"),
        ({"model_hint": 7}, "model_hint: a map is expected"),
        ({"model_hint": {"label": "x"}}, "model_hint.label: unknown field: take it out; there are: name, "),
        ({"model_hint": {"tags": "x"}}, "model_hint.tags: a list"),
        ({"model_hint": {"tags": ["x"] * 33}}, "model_hint.tags: 33 items"),
        ({"data_chunk": 7}, "data_chunk: a text"),
        ({"data_chunk": "x", "inputs": []}, "inputs: data_chunk is there"),
        ({"inputs": {}}, "inputs: a list"),
        ({"inputs": [7]}, r"inputs\[0\]: a map"),
        ({"inputs": [{"dtype": "FP32"}]}, r"inputs\[0\].shape: missing"),
        ({"inputs": [{"dtype": "float32", "shape": []}]}, r"inputs\[0\].dtype: one of BOOL"),
        ({"inputs": [{"dtype": "FP32", "shape": [-1]}]}, r"inputs\[0\].shape: an integer"),
        ({"inputs": [{"dtype": "FP32", "shape": [1] * 17}]}, r"inputs\[0\].shape: 17 items"),
        ({"inputs": [{"dtype": "FP32", "shape": []}] * 70_000}, "inputs: 70000 items"),
        ({"timeout_ms": -1}, "timeout_ms: an integer"),
        ({"priority": 2**31}, "priority: an integer"),
        ({"headers": []}, "headers: a map is expected"),
        ({"headers": {"x": 1}}, "headers.x: a text"),
        ({"headers": {"x": "y" * (HEADER_CHARS_MAX + 1)}}, "headers.x: a text"),
        ({"headers": {"x" * 129: "y"}}, "headers.x+: a text"),
        ({"headers": {str(number): "" for number in range(HEADERS_MAX + 1)}}, "headers_max=64"),
        ({"parameters": 7}, "parameters: a map is expected"),
    ],
)
def test_what_is_wrong_is_refused_by_its_field(payload: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidArgument, match=said):
        features_of(message(**payload))


PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=5)
    | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
FIELDS = st.sampled_from(
    ["model_hint", "data_chunk", "inputs", "timeout_ms", "priority", "headers", "parameters", "else"]
)


@given(st.dictionaries(FIELDS, PLAIN))
def test_any_payload_is_read_or_refused(payload: dict[str, Any]) -> None:
    try:
        found = features_of(message(**payload))
    except InvalidArgument:
        return
    assert isinstance(found.hint, str | Hint)
