"""Inputs, answers and results: what is taken, and what is said about what is not."""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp.client import answers, arguments
from mcp.client.results import NodeStatus, cluster_status
from mcp.client.tensors import INPUT_BYTES_MAX, normalised, packed, packed_inline, unpacked, unpacked_blob
from mcp.errors import InvalidArgument, McpError, ModelInvalid, ProtocolError, TooLarge, Unavailable
from mcp.wire.codec import encode_map
from mcp.wire.tensors import pack_inline, unpack_all


def test_inputs_travel_unchanged_and_uncopied() -> None:
    image = np.arange(64, dtype=np.float32).reshape(1, 8, 8)
    fields, segments = packed({"image": image, "words": np.array(["a", "ü"])})
    assert np.shares_memory(np.frombuffer(segments[0], np.float32), image)
    back = unpack_all(fields["inputs"], segments, text=True)
    assert np.array_equal(back["image"], image)
    assert back["words"].tolist() == ["a", "ü"]


@pytest.mark.parametrize(
    ("given_", "expected"),
    [
        (np.float32(3), np.float32(3)),
        (np.arange(6).reshape(2, 3)[:, ::2], np.array([[0, 2], [3, 5]])),
        (np.array([1, 2], ">i4"), np.array([1, 2])),
        (np.array([True]), np.array([True])),
    ],
)
def test_a_bare_array_of_any_layout_is_the_only_input(given_: Any, expected: Any) -> None:
    (array,) = unpack_all(*_fields(given_)).values()
    assert np.array_equal(array, expected)
    assert list(normalised(given_)) == [""]


def _fields(inputs: Any) -> tuple[Any, Any]:
    fields, segments = packed(inputs)
    return fields["inputs"], segments


def test_lists_numbers_and_texts_by_name_become_arrays() -> None:
    arrays = normalised({"a": [[1.0, 2.0]], "b": "text", "c": b"bytes", "d": 3})  # type: ignore[dict-item]
    assert arrays["a"].shape == (1, 2)
    assert arrays["b"].tolist() == ["text"]
    assert arrays["c"].tolist() == [b"bytes"]
    assert arrays["d"].shape == ()


def test_a_text_is_a_data_chunk_and_in_the_log_a_tensor() -> None:
    assert packed("用户") == ({"data_chunk": "用户"}, [])
    (spec,) = packed_inline("用户")
    assert (spec["name"], spec["dtype"], spec["shape"]) == ("", "BYTES", [1])


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"": np.zeros(1)},
        {3: np.zeros(1)},
        {"x": None},
        {"x": {"y": 1}},
        {"x": [[1], [2, 3]]},
        {"x": np.zeros(1, "datetime64[s]")},
        {"x": np.array([object()])},
        {f"i{n}": np.zeros(1) for n in range(300)},
        "\ud800",
        None,
        [1, 2],
    ],
    ids=lambda value: repr(value)[:30],
)
def test_inputs_that_no_model_takes_are_refused(wrong: Any) -> None:
    with pytest.raises(InvalidArgument):
        packed(wrong)
    with pytest.raises(InvalidArgument):
        packed_inline(wrong)


def test_inputs_that_do_not_fit_are_refused_with_what_to_do() -> None:
    with pytest.raises(TooLarge, match="smaller batches"):
        packed(np.broadcast_to(np.uint8(0), (INPUT_BYTES_MAX + 1,)))
    assert packed_inline(np.zeros(64 * 1024, np.uint8))
    with pytest.raises(TooLarge, match="use infer"):
        packed_inline(np.zeros(64 * 1024 + 1, np.uint8))


def test_outputs_are_text_where_they_can_be() -> None:
    assert unpacked([pack_inline("y", np.array(["ü"]))])["y"].tolist() == ["ü"]
    assert unpacked([pack_inline("y", np.array([b"\xff"], object))])["y"].tolist() == [b"\xff"]
    content = encode_map({"outputs": [pack_inline("y", np.float32([1]))]})
    assert unpacked_blob(content)["y"].tolist() == [1]


@pytest.mark.parametrize("garbage", [None, 3, [{}], [{"name": "y"}], [{"name": "y", "dtype": "FP32"}]])
def test_outputs_that_cannot_be_read_are_the_nodes_fault(garbage: object) -> None:
    with pytest.raises(ProtocolError):
        unpacked(garbage)


_plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.binary(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
_names = (
    "key version index value writer name digest size holders node address state status id mode outputs"
    " error replicas peers members models inputs aliases tags versions"
)
_fields_of_answers = st.dictionaries(st.sampled_from(_names.split(" ")), _plain)


@given(_fields_of_answers)
def test_no_answer_of_a_node_breaks_anything_but_the_protocol(payload: dict[str, Any]) -> None:
    readers = [
        answers.key_value,
        answers.deployment,
        answers.model,
        answers.member,
        lambda value: answers.node_status("a:1", value),
        lambda value: answers.record(value, None),
        lambda value: answers.items(value.get("value"), "w"),
    ]
    for reader in readers:
        with contextlib.suppress(ProtocolError):
            reader(payload)


def test_a_node_of_a_later_version_is_understood() -> None:
    status = answers.node_status("a:1", {"node": "n1", "role": "witness", "new": {"x": 1}, "term": 3})
    assert (status.node, status.role, status.term, status.details["new"]) == ("n1", "witness", 3, {"x": 1})


def node(name: str, **fields: Any) -> NodeStatus:
    return NodeStatus(f"{name}:1", name, voters=["n1", "n2", "n3"], **fields)


def test_the_newest_term_says_who_leads() -> None:
    status = cluster_status(
        [
            node("n1", role="leader", term=4, applied_index=90),
            node("n2", role="leader", term=5, applied_index=100),
            NodeStatus("n3:1", "n3", Unavailable("gone")),
        ]
    )
    assert (status.leader, status.term) == ("n2", 5)
    assert status.has_quorum
    assert [n.node for n in status.reachable] == ["n1", "n2"]


def test_a_cut_off_leader_of_an_older_term_is_none() -> None:
    status = cluster_status([node("n1", role="leader", term=4), node("n2", role="candidate", term=5)])
    assert status.leader is None


def test_whoever_was_removed_is_shown_only_while_it_runs() -> None:
    members: dict[str, Any] = {"voters": ["n1", "n2"], "observers": ["n5"]}
    gone = Unavailable("nobody there")
    nodes = [
        NodeStatus("a:1", "n1", role="leader", term=4, applied_index=50, standing="voter", **members),
        NodeStatus("a:2", "n2", gone),
        NodeStatus("a:3", "n3", gone),
        NodeStatus(
            "a:4", "n4", role="follower", term=9, applied_index=99, standing="outsider", voters=["n4"]
        ),
        NodeStatus("a:5", "n5", gone),
        NodeStatus("a:6", None, gone),
    ]
    told = cluster_status(nodes)
    assert [node.node for node in told.nodes] == ["n1", "n2", "n4", "n5", None]
    assert told.voters == ["n1", "n2"]
    assert len(cluster_status(nodes[1:3]).nodes) == 2, "nobody says who is a member"


def test_without_answers_there_is_no_quorum() -> None:
    error: McpError = Unavailable("gone")
    status = cluster_status([NodeStatus("a:1", error=error), NodeStatus("b:1", error=error)])
    assert not status.has_quorum
    assert status.voters == []
    assert (status.leader, status.term) == (None, 0)
    one_of_three = cluster_status([node("n1", role="follower", term=1)])
    assert not one_of_three.has_quorum


def sound(name: str, **fields: Any) -> NodeStatus:
    return node(name, **{"role": "follower", "leader": "n1", "term": 3, "storage": "ok", **fields})


LEADER = sound("n1", role="leader")
GONE = NodeStatus("n3:1", "n3", Unavailable("gone"))


@pytest.mark.parametrize(
    ("nodes", "serves"),
    [
        ([LEADER, sound("n2"), sound("n3")], True),
        ([LEADER, sound("n2"), GONE], True),
        ([LEADER, sound("n2", caught_up=True), sound("n3", storage="failed: gone")], True),
        ([LEADER, sound("n2", storage="full"), GONE], False),
        ([LEADER, sound("n2", caught_up=False), GONE], False),
        ([LEADER, sound("n2", leader=None), GONE], False),
        ([LEADER, sound("n2", leader="n3"), GONE], False),
        ([sound("n1", role="leader", storage="failed: x"), sound("n2"), sound("n3")], False),
        ([sound("n2", leader=None), sound("n3", leader=None), sound("n1", leader=None)], False),
        ([sound("n2"), sound("n3"), NodeStatus("n1:1", "n1", Unavailable("gone"))], False),
        ([LEADER], False),
        ([], False),
    ],
)
def test_a_cluster_serves_with_a_leader_and_a_majority_that_is_sound(
    nodes: list[NodeStatus], serves: bool
) -> None:
    assert cluster_status(nodes).serves is serves


def test_a_status_says_nothing_of_what_the_node_did_not_tell() -> None:
    told = {"node": "n1", "models": [{"name": "m", "problem": {"code": "MODEL_INVALID", "message": "no"}}]}
    (model,) = answers.node_status("a:1", told).models
    assert (model.size, model.tags, model.inputs, model.outputs, model.ready) == (None,) * 5
    assert isinstance(model.problem, ModelInvalid)


def test_one_address_may_be_given_as_a_text() -> None:
    assert arguments.addresses("h:1") == ["h:1"]
    assert arguments.addresses(["h:1", "h:1", "unix:///x"]) == ["h:1", "unix:///x"]


@pytest.mark.parametrize(
    "wrong", [0, -1, float("inf"), float("nan"), pytest.param(10**9999, id="huge"), "1", True]
)
def test_a_timeout_is_a_number_of_seconds(wrong: Any) -> None:
    with pytest.raises(InvalidArgument):
        arguments.timeout(wrong, 1.0)
