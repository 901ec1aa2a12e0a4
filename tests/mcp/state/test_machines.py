"""Users' machines: executed where every node has them, or nowhere."""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import pytest

from mcp.state.applied import Applied, Incapable
from mcp.state.commands import Moment, encode_command
from mcp.state.machines import Machine
from mcp.state.state import ReplicatedState

SESSION = "5" * 32


class Words:
    """Keeps what it was given, in order."""

    def __init__(self) -> None:
        self.words: list[bytes] = []

    def execute(self, data: bytes, moment: Moment) -> int:
        self.words.append(data)
        return len(self.words)

    def snapshot(self) -> bytes:
        return b" ".join(self.words)

    def restore(self, snapshot: bytes) -> None:
        self.words = snapshot.split()


class Log:
    """One log, and the states of nodes that have these machines, by node."""

    def __init__(self, **having: str) -> None:
        self.words = {node: {name: Words() for name in names.split()} for node, names in having.items()}
        self.states = {node: ReplicatedState(machines=self._of(node)) for node in having}
        self.index = self.seq = 0
        self.add(encode_command("session.open", {}, session=SESSION, seq=1, ack=1))

    def _of(self, node: str) -> dict[str, Machine]:
        return dict(self.words[node])

    def add(self, data: bytes) -> dict[str, Applied]:
        self.index += 1
        where: dict[str, Any] = {"index": self.index, "position": 0, "term": 1, "time_s": 1.0, "seed": 0}
        return {node: state.apply(data, **where) for node, state in self.states.items()}

    def hello(self, node: str, executors: str, incarnation: int = 1) -> None:
        said = {"node": node, "address": node, "incarnation": incarnation, "providers": []}
        self.add(encode_command("member.hello", {**said, "executors": executors.split()}))

    def down(self, node: str) -> None:
        self.add(encode_command("member.down", {"node": node, "incarnation": 1}))

    def execute(self, name: str, data: bytes = b"x") -> dict[str, Applied]:
        self.seq += 1
        args = {"machine": name, "data": data}
        return self.add(encode_command("machine.execute", args, session=SESSION, seq=self.seq, ack=self.seq))

    def agreed(self, name: str) -> Applied:
        """Execute one command: all results, and all states after it, are equal."""
        results = list(self.execute(name).values())
        assert all(result == results[0] for result in results)
        assert len({state.digest() for state in self.states.values()}) == 1
        return results[0]


def code(applied: Applied) -> str | None:
    return applied.error[0] if applied.error else None


def test_it_is_executed_where_every_member_that_is_up_has_it() -> None:
    log = Log(a="w", b="w v")
    assert code(log.agreed("w")) == "NOT_FOUND", "nobody has said anything"
    log.hello("a", "w")
    assert log.agreed("w").value == 1
    log.hello("b", "w v")
    assert log.agreed("w").value == 2
    refused = log.agreed("v")
    assert code(refused) == "UNSUPPORTED"
    assert "a of the cluster's nodes has no executor 'v'" in str(refused.error)
    assert code(log.agreed("u")) == "NOT_FOUND"
    assert "there are: v, w" in str(log.agreed("u").error)
    log.hello("a", "", incarnation=2)
    assert code(log.agreed("w")) == "UNSUPPORTED"
    assert log.words["b"]["w"].words == [b"x", b"x"], "and nothing was executed"


def test_whoever_is_down_is_not_waited_for_and_stops_where_it_cannot_follow() -> None:
    log = Log(a="w", b="")
    log.hello("a", "w")
    log.hello("b", "")
    assert code(log.agreed("w")) == "UNSUPPORTED"
    log.down("b")
    results = log.execute("w")
    assert results["a"].value == 1
    assert code(results["b"]) == "VERSION_MISMATCH"
    assert "'w', which this node has not" in str(results["b"].error)
    assert not results["b"].recorded, "it is no outcome of the command"


def test_a_machine_is_part_of_the_state_from_its_first_command_on() -> None:
    log = Log(a="w", b="w v")
    log.hello("a", "w")
    log.hello("b", "w")
    early = log.states["b"].snapshot()
    ReplicatedState().restore(early)
    assert log.agreed("w").value == 1
    late = log.states["b"].snapshot()
    bare = ReplicatedState()
    before = bare.digest()
    with pytest.raises(Incapable, match="the state of the executor w, which this node has not"):
        bare.restore(late)
    assert bare.digest() == before
    words = Words()
    again = ReplicatedState(machines={"w": words})
    again.restore(late)
    assert (words.words, again.digest()) == ([b"x"], log.states["a"].digest())
    again.restore(early)
    assert words.words == [], "as it was at the start"
    again.restore(late)
    assert words.words == [b"x"]


class Gives:
    """Gives the same object each time, as ``change`` leaves it."""

    def __init__(self, value: Any, change: Callable[[Any], object] = lambda _: None) -> None:
        self.value = value
        self.change = change

    def execute(self, data: bytes, moment: Moment) -> Any:
        self.change(self.value)
        return self.value

    def snapshot(self) -> bytes:
        return b""

    def restore(self, snapshot: bytes) -> None:
        assert not snapshot


def state_with(machine: Machine) -> tuple[ReplicatedState, Callable[[int], Applied]]:
    """A state that has it as ``m``, and what executes a command of a number."""
    state, index = ReplicatedState(machines={"m": machine}), itertools.count(1)

    def add(data: bytes) -> Applied:
        return state.apply(data, index=next(index), position=0, term=1, time_s=1.0, seed=0)

    said = {"node": "n1", "address": "n1", "incarnation": 1, "providers": [], "executors": ["m"]}
    add(encode_command("session.open", {}, session=SESSION, seq=1, ack=1))
    add(encode_command("member.hello", said))
    args = {"machine": "m", "data": b""}
    return state, lambda seq: add(encode_command("machine.execute", args, session=SESSION, seq=seq, ack=1))


@pytest.mark.parametrize(
    "value",
    [{1: 2}, {b"k": 1}, {None: 1}, {(1,): 1}, {"a": {2: 3}}, [[{"a": 1}, {b"a": 1}]], {1}, OrderedDict()],
)
def test_a_result_that_is_no_plain_value_is_an_error_now_and_when_it_is_asked_for_again(value: Any) -> None:
    _, execute = state_with(Gives(value))
    first, again = execute(1), execute(1)
    assert first.error is not None
    assert first.error[0] == "INVALID_ARGUMENT"
    assert first.error[1].startswith("the result of m holds")
    assert (again.error, again.executed, again.recorded) == (first.error, False, True)


@pytest.mark.parametrize("value", [[0], {"n": [0]}])
def test_a_result_stays_what_it_was_when_the_machine_goes_on(value: Any) -> None:
    _, execute = state_with(Gives(value, lambda held: (held if type(held) is list else held["n"]).append(1)))
    first = execute(1)
    told = repr(first.value)
    assert execute(2).value != first.value
    assert repr(first.value) == told
    assert execute(1).value == first.value
