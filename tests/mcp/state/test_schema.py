"""Two versions, one log: equal results until the raise, and who cannot follow stops there."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest

from mcp.errors import InvalidArgument, Unavailable, Unsupported, VersionMismatch
from mcp.state import events
from mcp.state.applied import Applied
from mcp.state.commands import SCHEMA_MAX, encode_command
from mcp.state.keys import DELETED_MAX
from mcp.state.state import ReplicatedState

VOTERS = ["n1", "n2", "n3"]
SESSION = "s" * 32


class Log:
    """States of nodes that apply one log, by name; each of the schema that it was started with."""

    def __init__(self, **schema_max: int) -> None:
        self.states = {name: ReplicatedState(schema_max=most) for name, most in schema_max.items()}
        self.index = 0
        self.seq = 0

    def add(self, data: bytes) -> dict[str, Applied]:
        self.index += 1
        return {
            name: state.apply(data, index=self.index, position=0, term=1, time_s=1.0 * self.index, seed=0)
            for name, state in self.states.items()
        }

    def agreed(self, data: bytes) -> Applied:
        """Add a command; all results, and all states after it, are equal."""
        results = list(self.add(data).values())
        assert all(result == results[0] for result in results)
        assert len({state.digest() for state in self.states.values()}) == 1
        return results[0]

    def node(self, op: str, **args: Any) -> Applied:
        return self.agreed(encode_command(op, args))

    def client(self, op: str, *, schema: int | None = None, **args: Any) -> Applied:
        self.seq += op not in ("session.open", "session.close")
        data = encode_command(op, args, session=SESSION, seq=max(1, self.seq), ack=1)
        if schema is not None:
            data = msgpack.packb([schema, *msgpack.unpackb(data)[1:]])
        return self.agreed(data)

    def hello(self, node: str, schema: int, incarnation: int = 1) -> Applied:
        said = {"address": node, "incarnation": incarnation, "providers": [], "schema": schema}
        return self.node("member.hello", node=node, **said)

    def raised(self, schema: int = 2, voters: list[str] = VOTERS) -> Applied:
        return self.node("schema.raise", schema=schema, voters=voters)


def code(applied: Applied) -> str | None:
    return applied.error[0] if applied.error else None


def all_of_two() -> Log:
    log = Log(a=2, b=2)
    for node in VOTERS:
        log.hello(node, 2)
    log.client("session.open")
    return log


# -- before the raise ---------------------------------------------------------------------------------------


def test_an_old_and_a_new_version_give_equal_results_before_the_raise() -> None:
    log = Log(old=1, new=2)
    log.hello("n1", 1)
    log.hello("n2", 2)
    log.client("session.open")
    assert log.client("key.put", key="k", value=1).value == {"version": 1, "index": log.index}
    # What an older version makes of an operation that it has never heard of.
    refused = log.client("key.delete_prefix", schema=1, prefix="k")
    assert code(refused) == InvalidArgument.code
    assert refused.error is not None
    assert "key.delete_prefix'; there are noop" in refused.error[1]
    assert "delete_prefix" not in refused.error[1].partition(";")[2]
    assert code(log.client("no.such", prefix="k")) == InvalidArgument.code
    assert code(log.raised()) == Unsupported.code
    assert code(log.raised(schema=1)) is None
    assert log.states["old"].snapshot() == log.states["new"].snapshot()
    # So a node of either version may start from the other's snapshot.
    for most in (1, 2):
        other = ReplicatedState(schema_max=most)
        other.restore(log.states["new"].snapshot())
        assert other.digest() == log.states["new"].digest()


@pytest.mark.parametrize(
    ("said", "what"),
    [
        ({"n1": 2, "n2": 2}, "n3 has said nothing"),
        ({"n1": 2, "n2": 1, "n3": 2}, "n2 executes up to 1"),
        ({"n1": 2, "n2": 2, "n3": 2, "observer": 1}, "observer executes up to 1"),
    ],
)
def test_it_is_not_raised_over_a_node_that_cannot(said: dict[str, int], what: str) -> None:
    log = Log(a=2)
    for node, schema in said.items():
        log.hello(node, schema)
    refused = log.raised()
    assert code(refused) == Unsupported.code
    assert refused.error is not None
    assert what in refused.error[1]
    schema = log.states["a"].schema
    assert (schema.in_force, schema.due(VOTERS)) == (1, None)
    refusal = schema.refusal("key.delete_prefix", VOTERS)
    assert type(refusal) is (Unavailable if "nothing" in what else Unsupported)
    assert not schema.has("key.delete_prefix")
    assert schema.has("key.put")


def test_a_node_that_went_back_before_the_raise_is_heeded() -> None:
    log = Log(a=2)
    for node in VOTERS:
        log.hello(node, 2)
    assert log.states["a"].schema.due(VOTERS) == 2
    log.hello("n2", 1, incarnation=2)
    assert log.states["a"].schema.due(VOTERS) is None
    assert code(log.raised()) == Unsupported.code
    # A voter that is down may come back as what it was.
    log.node("member.down", node="n2", incarnation=2)
    assert code(log.raised()) == Unsupported.code
    log.hello("n2", 2, incarnation=3)
    assert code(log.raised()) is None


def test_a_member_that_is_down_and_does_not_vote_is_not_waited_for() -> None:
    log = Log(a=2)
    for node in VOTERS:
        log.hello(node, 2)
    log.hello("observer", 1)
    log.node("member.down", node="observer", incarnation=1)
    assert log.states["a"].schema.due(VOTERS) == 2
    assert log.raised().events == (events.SchemaRaised(2),)


def test_a_command_that_is_not_in_force_is_refused_should_it_stand_in_the_log() -> None:
    log = Log(a=2, b=2)
    log.client("session.open")
    assert code(log.client("key.delete_prefix", prefix="k")) == Unsupported.code


# -- from the raise on --------------------------------------------------------------------------------------


def test_it_is_raised_once_by_one_and_never_back() -> None:
    log = all_of_two()
    assert log.raised().events == (events.SchemaRaised(2),)
    assert log.raised() == Applied({"schema": 2}, None, (), executed=True)
    assert log.raised(schema=1).value == {"schema": 2}
    assert code(log.raised(schema=4)) == InvalidArgument.code
    log.hello("n3", 1, incarnation=2)
    assert log.states["a"].schema.in_force == 2
    assert log.client("key.delete_prefix", prefix="k").value == {"deleted": 0, "more": False}


def test_an_old_version_stops_at_the_raise_and_at_a_snapshot_behind_it() -> None:
    log = all_of_two()
    log.states["old"] = ReplicatedState(schema_max=1)
    log.states["old"].restore(log.states["a"].snapshot())
    results = log.add(encode_command("schema.raise", {"schema": 2, "voters": VOTERS}))
    assert code(results["a"]) is None
    assert code(results["old"]) == VersionMismatch.code
    assert not results["old"].recorded
    assert "schema 2 comes into force here" in str(results["old"].error)
    snapshot = log.states["a"].snapshot()
    with pytest.raises(
        VersionMismatch, match="the snapshot has schema 2, and this node reads up to schema 1"
    ):
        ReplicatedState(schema_max=1).restore(snapshot)
    again = ReplicatedState()
    again.restore(snapshot)
    assert (again.schema.in_force, again.digest()) == (2, log.states["a"].digest())


def test_which_schema_is_in_force_counts_in_the_digest() -> None:
    log = all_of_two()
    state = log.states["a"]
    before = state.digest()
    state.schema.in_force = 2
    assert state.digest() != before


def test_no_version_executes_what_it_does_not_know() -> None:
    for most in (0, SCHEMA_MAX + 1):
        with pytest.raises(ValueError, match=f"schema {most}: this version executes 1 to {SCHEMA_MAX}"):
            ReplicatedState(schema_max=most)


# -- what schema 2 brings -----------------------------------------------------------------------------------


def test_keys_are_deleted_by_prefix_in_order_and_bounded() -> None:
    log = all_of_two()
    log.raised()
    for name in ["a", "b", *(f"k/{i:04}" for i in range(DELETED_MAX + 3))]:
        log.seq += 1
        data = encode_command("key.put", {"key": name, "value": 1}, session=SESSION, seq=log.seq, ack=log.seq)
        log.add(data)
    keys = log.states["a"].keys
    assert log.client("key.delete_prefix", prefix="k/").value == {"deleted": DELETED_MAX, "more": True}
    assert keys.read_list({"limit": 1000}) == ["a", "b", *(f"k/{DELETED_MAX + i:04}" for i in range(3))]
    assert log.client("key.delete_prefix", prefix="k/").value == {"deleted": 3, "more": False}
    assert keys.read_list({}) == ["a", "b"]
    assert code(log.client("key.delete_prefix", prefix="")) == InvalidArgument.code
    assert len(keys) == 2
    # A writer that remembers a deleted key's version does not win against the key that comes after it.
    assert log.client("key.put", key="k/0000", value=2).value["version"] == 2
