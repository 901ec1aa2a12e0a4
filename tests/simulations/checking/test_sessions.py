from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcp.state.commands import Moment
from mcp.state.keys import Keys
from mcp.state.limits import StateLimits
from simulations.checking.history import History
from simulations.checking.operations import (
    Absent,
    Call,
    CompareAndSet,
    Conflict,
    Delete,
    Failed,
    Found,
    Get,
    Ok,
    Outcome,
    Put,
    Removed,
    Result,
    Unknown,
    Written,
)
from simulations.checking.sessions import (
    GUARANTEES,
    MONOTONIC_READS,
    MONOTONIC_WRITES,
    READ_YOUR_WRITES,
    READS_OF_WRITES,
    WRITES_FOLLOW_READS,
    check_sessions,
)

Row = tuple[str, Call, Result | Outcome]
LOST = Unknown()


def in_turn(rows: Sequence[Row]) -> History:
    """Operations one after the other: (session, call, result or outcome)."""
    history = History()
    for number, (session, call, told) in enumerate(rows):
        outcome = told if isinstance(told, Ok | Failed | Unknown) else Ok(told)
        history.record(f"p{number}", call, outcome, 2.0 * number, 2.0 * number + 1, session=session)
    return history


def broken(history: History) -> set[str]:
    return {verdict.rule for verdict in check_sessions(history) if not verdict.ok}


OTHERS: list[Row] = [
    ("o", Put("k", "a"), Written(1, 10)),
    ("o", Put("k", "b"), Written(2, 20)),
    ("o", Put("k", "c"), Written(3, 30)),
]
BROKEN: dict[str, tuple[str, list[Row]]] = {
    "own write is not seen": (
        READ_YOUR_WRITES,
        [*OTHERS, ("s", Put("k", "mine"), Written(4)), ("s", Get("k"), Found("c", 3))],
    ),
    "own write is not seen at all": (
        READ_YOUR_WRITES,
        [("s", Put("k", "mine"), Written(1)), ("s", Get("k"), Absent())],
    ),
    "own deletion is not seen": (
        READ_YOUR_WRITES,
        [*OTHERS, ("s", Delete("k"), Removed(3)), ("s", Get("k"), Found("c", 3))],
    ),
    "a conflict that does not know the own write": (
        READ_YOUR_WRITES,
        [*OTHERS, ("s", Put("k", "d"), Written(4)), ("s", CompareAndSet("k", "e", 9), Conflict(2, "b"))],
    ),
    "own write is not seen on another key's read at an older index": (
        READ_YOUR_WRITES,
        [*OTHERS, ("s", Put("j", "x"), Written(1, 40)), ("s", Get("k"), Found("b", 2))],
    ),
    "going back in time": (
        MONOTONIC_READS,
        [*OTHERS, ("s", Get("k"), Found("c", 3)), ("s", Get("k"), Found("b", 2))],
    ),
    "going back to before the creation": (
        MONOTONIC_READS,
        [*OTHERS, ("s", Get("k"), Found("a", 1)), ("s", Get("k"), Absent())],
    ),
    "deleted, and there again": (
        MONOTONIC_READS,
        [
            *OTHERS,
            ("o", Delete("k"), Removed(3)),
            ("s", Get("k"), Found("b", 2)),
            ("s", Get("k"), Absent()),
            ("s", Get("k"), Found("c", 3)),
        ],
    ),
    "gone by a deletion that came too early": (
        MONOTONIC_READS,
        [
            *OTHERS[:1],
            ("o", Delete("k", 1), Removed(1)),
            ("o", Put("k", "z"), Written(2)),
            ("s", Get("k"), Found("z", 2)),
            ("s", Get("k"), Absent()),
        ],
    ),
    "gone by a deletion that failed": (
        MONOTONIC_READS,
        [*OTHERS, ("s", Get("k"), Found("c", 3)), ("o", Delete("k"), Failed()), ("s", Get("k"), Absent())],
    ),
    "gone before it was deleted": (
        MONOTONIC_READS,
        [*OTHERS, ("s", Get("k"), Found("c", 3)), ("s", Get("k"), Absent()), ("o", Delete("k"), Removed(3))],
    ),
    "going back on another key": (
        MONOTONIC_READS,
        [
            ("o", Put("k", "a"), Written(1, 1)),
            ("o", Put("k", "b"), Written(2, 2)),
            ("o", Put("j", "x"), Written(1, 3)),
            ("s", Get("j"), Found("x", 1, 3)),
            ("s", Get("k"), Found("a", 1, 1)),
        ],
    ),
    "a later write becomes an earlier version": (
        MONOTONIC_WRITES,
        [("s", Put("k", "a"), Written(2)), ("s", Put("k", "b"), Written(1))],
    ),
    "two writes become one version": (
        MONOTONIC_WRITES,
        [("s", Put("k", "a"), Written(1)), ("s", Put("k", "b"), Written(1))],
    ),
    "a later write gets an earlier place in the log": (
        MONOTONIC_WRITES,
        [("s", Put("k", "a"), Written(1, 9)), ("s", Put("j", "b"), Written(1, 8))],
    ),
    "a write before what was read": (
        WRITES_FOLLOW_READS,
        [*OTHERS, ("s", Get("k"), Found("c", 3)), ("s", Put("k", "d"), Written(3))],
    ),
    "a deletion of what had been read to be overwritten": (
        WRITES_FOLLOW_READS,
        [*OTHERS, ("s", Get("k"), Found("c", 3)), ("s", Delete("k"), Removed(2))],
    ),
    "a stale read of a value never written": (
        READS_OF_WRITES,
        [*OTHERS, ("s", Get("k", "stale"), Found("ghost", 1))],
    ),
    "a stale read of what had failed": (
        READS_OF_WRITES,
        [("o", Put("k", "no"), Failed()), ("s", Get("k", "stale"), Found("no", 1))],
    ),
    "a read of what was written later": (
        READS_OF_WRITES,
        [("s", Get("k"), Found("a", 1)), *OTHERS],
    ),
    "a value at another version than it was written": (
        READS_OF_WRITES,
        [*OTHERS, ("s", Get("k"), Found("a", 2))],
    ),
    "a value at a version that nobody knows of": (
        READS_OF_WRITES,
        [*OTHERS, ("s", Get("k"), Found("a", 7))],
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_promise_is_told_by_its_name(name: str) -> None:
    rule, rows = BROKEN[name]
    found = {verdict.rule: verdict for verdict in check_sessions(in_turn(rows))}
    assert not found[rule].ok, found
    assert all(violation.story for violation in found[rule].violations)


@pytest.mark.parametrize("name", [name for name, (rule, _) in BROKEN.items() if rule != READS_OF_WRITES])
def test_nobody_promises_it_to_stale_reads_or_to_other_sessions(name: str) -> None:
    _, rows = BROKEN[name]
    apart = [(f"{session}{n}", call, told) for n, (session, call, told) in enumerate(rows)]
    assert not broken(in_turn(apart)) & set(GUARANTEES)


@pytest.mark.parametrize("name", BROKEN)
def test_stale_reads_are_promised_nothing_but_that_somebody_wrote_it(name: str) -> None:
    rule, rows = BROKEN[name]
    stale = [
        (session, Get(call.key, "stale") if isinstance(call, Get) else call, told)
        for session, call, told in rows
    ]
    by_reading = any(isinstance(call, Get) for _, call, _ in stale)
    assert (rule in broken(in_turn(stale))) is (rule == READS_OF_WRITES or not by_reading)


SOUND: dict[str, list[Row]] = {
    "another session is behind": [*OTHERS, ("s", Get("k"), Found("a", 1)), ("s", Get("k"), Found("b", 2))],
    "a key that goes and comes": [
        *OTHERS,
        ("s", Get("k"), Found("c", 3)),
        ("o", Delete("k"), Removed(3)),
        ("s", Get("k"), Absent()),
        ("o", Put("k", "d"), Written(4)),
        ("s", Get("k"), Found("d", 4)),
    ],
    "gone by a deletion that nobody was told of": [
        *OTHERS,
        ("o", Delete("k"), LOST),
        ("s", Get("k"), Found("c", 3)),
        ("s", Get("k"), Absent()),
        ("s", Get("k"), Absent()),
    ],
    "not there yet": [("s", Get("k"), Absent()), ("s", Get("k"), Absent()), *OTHERS],
    "an unknown write binds nobody": [
        *OTHERS,
        ("s", Put("k", "maybe"), LOST),
        ("s", Get("k"), Found("c", 3)),
        ("s", Get("k"), Found("maybe", 4)),
    ],
    "an older index of a key that has not changed since": [
        *OTHERS,
        ("o", Put("j", "x"), Written(1, 40)),
        ("s", Get("j"), Found("x", 1, 40)),
        ("s", Get("k"), Found("c", 3, 30)),
    ],
    "a deletion of nothing is a read": [
        *OTHERS[:1],
        ("s", Delete("k"), Removed(1)),
        ("s", Delete("k"), Removed(0)),
        ("s", Delete("k", 4), Conflict(0)),
    ],
}


@pytest.mark.parametrize("name", SOUND)
def test_a_session_that_may_go_on_like_this_passes(name: str) -> None:
    assert not broken(in_turn(SOUND[name]))


def test_what_overlaps_in_a_session_is_not_before() -> None:
    history = History()
    reading = history.invoke("p1", Get("k"), 0.0, session="s")
    writing = history.invoke("p2", Put("k", "a"), 0.0, session="s")
    history.complete(writing, Ok(Written(1)), 1.0)
    history.complete(reading, Ok(Absent()), 2.0)
    history.record("p1", Get("k"), Ok(Found("a", 1)), 3.0, session="s")
    assert not broken(history)
    history.record("p1", Get("k"), Ok(Absent()), 4.0, session="s")
    assert broken(history) == {READ_YOUR_WRITES, MONOTONIC_READS}


def test_an_answer_that_comes_late_does_not_make_the_session_forget() -> None:
    history = in_turn(OTHERS)
    late = history.invoke("p1", Get("k"), 10.0, session="s")
    newest = history.invoke("p2", Get("k"), 10.0, session="s")
    history.complete(newest, Ok(Found("c", 3)), 11.0)
    history.complete(late, Ok(Found("b", 2)), 12.0)
    assert not broken(history)
    history.record("p1", Get("k"), Ok(Found("b", 2)), 13.0, session="s")
    assert broken(history) == {MONOTONIC_READS}


# -- against the whole log ------------------------------------------------------------------------------


class Replicated:
    """A log, and what each of its prefixes would answer; sessions read where they are told to."""

    def __init__(self, deletes: bool) -> None:
        self.states = [Keys(StateLimits())]
        self.rows: list[Row] = []
        self.deletes = deletes

    def write(self, session: str, key: str, chance: random.Random) -> None:
        keys = Keys.from_plain(self.states[-1].to_plain(), [], StateLimits())
        index = len(self.states)
        moment = Moment(index, 0, float(index), session)
        if self.deletes and chance.random() < 0.3:
            self.rows.append((session, Delete(key), Removed(keys.delete({"key": key}, moment)["version"])))
        else:
            put = Put(key, f"value {index}")
            version = keys.put({"key": key, "value": put.value}, moment)["version"]
            self.rows.append((session, put, Written(version, index)))
        self.states.append(keys)

    def answer(self, key: str, place: int) -> Result:
        slot = self.states[place].read({"key": key})
        return Absent() if slot is None else Found(slot["value"], slot["version"], slot["index"])

    def legal(self) -> bool:
        """Whether each read can be given a place in the log at or after all that its session knew."""
        floors: dict[str, int] = {}
        written = 0
        for session, call, told in self.rows:
            floor = floors.get(session, 0)
            if isinstance(call, Get):
                places = range(floor, written + 1)
                place = next((p for p in places if self.answer(call.key, p) == told), None)
                if place is None:
                    return False
            else:
                written += 1
                place = written
            floors[session] = place
        return True


@settings(deadline=None, max_examples=300)
@given(st.integers(0, 2**32), st.integers(1, 25), st.booleans(), st.booleans())
def test_sessions_are_judged_as_by_looking_for_a_place_in_the_log(
    seed: int, size: int, faithful: bool, deletes: bool
) -> None:
    chance, world = random.Random(seed), Replicated(deletes)
    floors: dict[str, int] = {}
    for _ in range(size):
        session, key = chance.choice("st"), chance.choice("jk")
        last = len(world.states) - 1
        if chance.random() < 0.5:
            world.write(session, key, chance)
            floors[session] = last + 1
        else:
            place = chance.randint(floors.get(session, 0) if faithful else 0, last)
            world.rows.append((session, Get(key), world.answer(key, place)))
            floors[session] = max(floors.get(session, 0), place)
    found = broken(in_turn(world.rows))
    if faithful:
        assert world.legal()
    if world.legal():
        assert not found
    elif not deletes:
        assert found
