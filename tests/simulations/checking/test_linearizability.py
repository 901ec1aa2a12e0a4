from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mcp.errors import VersionConflict
from mcp.state.commands import Moment
from mcp.state.keys import Keys
from mcp.state.limits import StateLimits
from simulations.checking.answers import contradictions
from simulations.checking.history import History
from simulations.checking.linearizability import check_linearizability, linearization, participants
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
    Operation,
    Outcome,
    Put,
    Removed,
    Result,
    Unknown,
    Written,
    canonical,
)
from simulations.checking.search import Finding
from simulations.checking.verdict import Status, Verdict

Row = tuple[float, float, Call, Outcome | Result | None]
LOST = Unknown("OUTCOME_UNKNOWN")
FAILED = Failed("DEADLINE_EXCEEDED")


def recorded(rows: Sequence[Row]) -> History:
    """A history of (invoked at, completed at, call, outcome or result); all times are different."""
    events = [(row[0], 0, number) for number, row in enumerate(rows)]
    events += [(row[1], 1, number) for number, row in enumerate(rows) if row[3] is not None]
    assert len({event[0] for event in events}) == len(events)
    history, numbers = History(), {}
    for at, kind, row in sorted(events):
        _, _, call, told = rows[row]
        if kind == 0:
            numbers[row] = history.invoke(f"p{row}", call, at)
        elif told is not None:
            outcome = told if isinstance(told, Unknown | Failed | Ok) else Ok(told)
            history.complete(numbers[row], outcome, at)
    return history


def read(key: str = "k") -> Get:
    return Get(key, "linearizable")


def verdict(*rows: Row) -> Verdict:
    return check_linearizability(recorded(rows))


# -- brute force: every order, on the state that the product runs ---------------------------------------


def executed(keys: Keys, call: Call, index: int) -> Result:
    """What the product's own state answers."""
    moment = Moment(index, 0, float(index), "")
    try:
        match call:
            case Put(key, value):
                return Written(keys.put({"key": key, "value": value}, moment)["version"])
            case CompareAndSet(key, value, expected):
                args = {"key": key, "value": value, "expected_version": expected}
                return Written(keys.cas(args, moment)["version"])
            case Delete(key, expected):
                given_version = {} if expected is None else {"expected_version": expected}
                return Removed(keys.delete({"key": key} | given_version, moment)["version"])
            case Get(key, _):
                slot = keys.read({"key": key})
                return Absent() if slot is None else Found(slot["value"], slot["version"])
    except VersionConflict as conflict:
        return Conflict(conflict.details["version"], conflict.details["value"])
    raise AssertionError(call)


def copied(keys: Keys) -> Keys:
    return Keys.from_plain(keys.to_plain(), [], StateLimits())


def same(one: Result, other: Result) -> bool:
    if type(one) is not type(other):
        return False
    values = (getattr(one, "value", None), getattr(other, "value", None))
    versions = (getattr(one, "version", 0), getattr(other, "version", 0))
    return versions[0] == versions[1] and canonical(values[0]) == canonical(values[1])


class Brute:
    """Wing and Gong without any cut, over all keys at once.

    ``raised``: other keys, which are not in the history, may be deleted at any time, so a key that is
    created may start at any higher version up to that one. ``kept``: only of these operations is the
    completion remembered, while the others still take effect as they were told, or not at all.
    """

    def __init__(self, history: History, *, raised: int = 0, kept: set[int] | None = None) -> None:
        ops = [o for o in history if not o.failed]
        ops = [o for o in ops if not isinstance(o.call, Get) or o.call.consistency == "linearizable"]
        self.operations = ops
        self.bound = {o.id for o in ops if not o.pending and (kept is None or o.id in kept)}
        self.promised = {o.result.version for o in ops if isinstance(o.result, Written)}
        self.excuses = kept is not None
        self.raised = raised

    def legal(self) -> bool:
        return self.ordered(self.operations, Keys(StateLimits()), 1)

    def ordered(self, left: list[Operation], keys: Keys, index: int) -> bool:
        if not any(o.id in self.bound for o in left):
            return True
        for chosen in left:
            if any(o.id in self.bound and o.before(chosen) for o in left):
                continue
            rest = [o for o in left if o is not chosen]
            for after in self.starts(keys, chosen):
                told = executed(after, chosen.call, index)
                if self.fits(chosen, told) and self.ordered(rest, after, index + 1):
                    return True
        return False

    def starts(self, keys: Keys, chosen: Operation) -> list[Keys]:
        slots, deleted = keys.to_plain()
        if slots or not isinstance(chosen.call, Put | CompareAndSet):
            return [copied(keys)]
        floors = range(deleted, max(deleted, self.raised) + 1)
        return [Keys.from_plain([[], floor], [], StateLimits()) for floor in floors]

    def fits(self, chosen: Operation, told: Result) -> bool:
        if chosen.result is not None:
            return same(told, chosen.result)
        return not (self.excuses and isinstance(told, Written) and told.version in self.promised)


def has_an_order(history: History) -> bool:
    return Brute(history).legal()


# -- named histories that must not pass -----------------------------------------------------------------

BROKEN: dict[str, list[Row]] = {
    "stale read": [
        (0, 1, Put("k", "old"), Written(1)),
        (2, 3, Put("k", "new"), Written(2)),
        (4, 5, read(), Found("old", 1)),
    ],
    "read of a key that another client has been told is written": [
        (0, 1, Put("k", "a"), Written(1)),
        (2, 3, read(), Absent()),
    ],
    "lost update": [
        (0, 1, Put("k", "base"), Written(1)),
        (2, 5, CompareAndSet("k", "mine", 1), Written(2)),
        (3, 6, CompareAndSet("k", "yours", 1), Written(2)),
    ],
    "two creators": [
        (0, 3, CompareAndSet("k", "mine", 0), Written(1)),
        (1, 4, CompareAndSet("k", "yours", 0), Written(1)),
    ],
    "acknowledged write is gone": [
        (0, 1, Put("k", "a"), Written(1)),
        (2, 3, Put("k", "b"), Written(1)),
    ],
    "read of a value never written": [
        (0, 1, Put("k", "a"), Written(1)),
        (2, 3, read(), Found("ghost", 2)),
    ],
    "read of what was answered as failed": [
        (0, 1, Put("k", "a"), Written(1)),
        (2, 3, Put("k", "refused"), FAILED),
        (4, 5, read(), Found("refused", 2)),
    ],
    "failed write made a version all the same": [
        (0, 1, Put("k", "a"), Written(1)),
        (2, 3, Put("k", "refused"), FAILED),
        (4, 5, Put("k", "b"), Written(3)),
    ],
    "write that took effect twice": [
        (0, 1, Put("k", "a"), Written(1)),
        (2, 3, Put("k", "b"), Written(3)),
    ],
    "unknown write that took effect before it was asked for": [
        (0, 1, Put("k", "a"), Written(1)),
        (2, 3, read(), Found("late", 2)),
        (4, 5, Put("k", "late"), LOST),
    ],
    "unknown write that came and went": [
        (0, 1, Put("k", "a"), Written(1)),
        (2, 3, Put("k", "maybe"), LOST),
        (4, 5, read(), Found("maybe", 2)),
        (6, 7, read(), Found("a", 1)),
    ],
    "resurrected: one unknown write seen at two versions": [
        (0, 1, Put("k", "maybe"), LOST),
        (2, 3, read(), Found("maybe", 1)),
        (4, 5, Put("k", "b"), Written(2)),
        (6, 7, read(), Found("maybe", 3)),
    ],
    "unknown compare-and-set from a version that never was there": [
        (0, 1, Put("k", "a"), Written(1)),
        (2, 3, CompareAndSet("k", "b", 7), LOST),
        (4, 5, read(), Found("b", 2)),
    ],
    "split brain: two leaders answer reads": [
        (0, 1, Put("k", "a"), Written(1)),
        (2, 3, Put("k", "b"), Written(2)),
        (4, 5, read(), Found("b", 2)),
        (4.5, 5.5, read(), Found("b", 2)),
        (6, 7, read(), Found("a", 1)),
        (8, 9, read(), Found("b", 2)),
    ],
    "split brain: two leaders take writes": [
        (0, 1, Put("k", "a"), Written(1)),
        (2, 5, Put("k", "left"), Written(2)),
        (3, 6, Put("k", "right"), Written(2)),
        (7, 8, read(), Found("left", 2)),
    ],
    "a value that lost its compare-and-set is read": [
        (0, 1, Put("k", "a"), Written(1)),
        (2, 3, CompareAndSet("k", "lost", 0), Conflict(1, "a")),
        (4, 5, CompareAndSet("k", "b", 1), LOST),
        (6, 7, read(), Found("lost", 2)),
    ],
    "a value at another version than its write was told": [
        (0, 1, Put("k", "a"), Written(1)),
        (2, 3, Put("k", "b"), LOST),
        (4, 5, read(), Found("a", 2)),
    ],
    "one version with two values": [
        (0, 1, Put("k", "a"), LOST),
        (2, 3, Put("k", "b"), LOST),
        (4, 7, read(), Found("a", 1)),
        (5, 8, read(), Found("b", 1)),
    ],
    "a version is seen before the write that is told to have made it": [
        (0, 1, Put("k", "a"), LOST),
        (2, 3, read(), Found("a", 1)),
        (4, 5, Put("k", "a"), Written(1)),
    ],
    "two readers disagree on the order": [
        (0, 20, Put("k", "a"), LOST),
        (1, 19, Put("k", "b"), LOST),
        (2, 3, read(), Found("a", 1)),
        (4, 5, read(), Found("b", 2)),
        (6, 7, read(), Found("a", 1)),
    ],
    "going back in time while a write is in flight": [
        (0, 1, Put("k", "a"), Written(1)),
        (2, 9, Put("k", "b"), Written(2)),
        (3, 4, read(), Found("b", 2)),
        (5, 6, read(), Found("a", 1)),
    ],
    "deleted key is read": [
        (0, 1, Put("k", "a"), Written(1)),
        (2, 3, Delete("k"), Removed(1)),
        (4, 5, read(), Found("a", 1)),
    ],
    "deleted twice": [
        (0, 1, Put("k", "a"), Written(1)),
        (2, 5, Delete("k"), Removed(1)),
        (3, 6, Delete("k"), Removed(1)),
    ],
    "deletion that removed nothing of a key that is there": [
        (0, 1, Put("k", "a"), Written(1)),
        (2, 3, Delete("k"), Removed(0)),
    ],
    "recreated key starts from the beginning": [
        (0, 1, Put("k", "a"), Written(1)),
        (2, 3, Delete("k"), Removed(1)),
        (4, 5, Put("k", "b"), Written(1)),
    ],
    "recreated key leaves out a version": [
        (0, 1, Put("k", "a"), Written(1)),
        (2, 3, Delete("k"), Removed(1)),
        (4, 5, Put("k", "b"), Written(3)),
    ],
    "conflict that names a winner who never was": [
        (0, 1, Put("k", "a"), Written(1)),
        (2, 3, CompareAndSet("k", "b", 5), Conflict(2, "ghost")),
    ],
    "conflict with nobody that names a value": [
        (0, 1, CompareAndSet("k", "b", 5), Conflict(0, "ghost")),
    ],
    "one unknown write explains two versions": [
        (0, 1, Put("k", "maybe"), LOST),
        (2, 3, Put("k", "a"), Written(2)),
        (4, 5, Put("k", "too late"), LOST),
        (6, 7, read(), Found("maybe", 3)),
    ],
    "conflict with the version that was expected": [
        (0, 1, Put("k", "a"), Written(1)),
        (2, 3, CompareAndSet("k", "b", 1), Conflict(1, "a")),
    ],
    "conflict of a deletion that expected nothing": [
        (0, 1, Put("k", "a"), Written(1)),
        (2, 3, Delete("k"), Conflict(1, "a")),
    ],
    "conflict that tells an old winner": [
        (0, 1, Put("k", "a"), Written(1)),
        (2, 3, Put("k", "b"), Written(2)),
        (4, 5, CompareAndSet("k", "c", 7), Conflict(1, "a")),
    ],
    "compare-and-set that won from the wrong version": [
        (0, 1, Put("k", "a"), Written(1)),
        (2, 3, Put("k", "b"), Written(2)),
        (4, 5, CompareAndSet("k", "c", 1), Written(3)),
    ],
    "creation of a key that is there": [
        (0, 1, Put("k", "a"), Written(1)),
        (2, 3, CompareAndSet("k", "b", 0), Written(2)),
    ],
    "a version that was open until a read told it": [
        (0, 1, Put("j", "a"), Written(1)),
        (2, 3, Delete("j"), Removed(1)),
        (4, 5, Put("k", "c"), LOST),
        (6, 7, Put("k", "c"), LOST),
        (8, 9, read(), Found("c", 2)),
        (10, 11, CompareAndSet("k", "d", 4), Written(5)),
    ],
    "value of another type": [
        (0, 1, Put("k", 1), Written(1)),
        (2, 3, read(), Found(True, 1)),
    ],
    "no write in between can fill the gap": [
        (0, 1, Put("k", "a"), Written(1)),
        (2, 3, CompareAndSet("k", "x", 1), LOST),
        (4, 5, CompareAndSet("k", "y", 1), LOST),
        (6, 7, Put("k", "b"), Written(4)),
    ],
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_history_is_told_and_told_briefly(name: str) -> None:
    rows = BROKEN[name]
    assert not has_an_order(recorded(rows)), "the example itself is wrong"
    found = verdict(*rows)
    assert found.status is Status.VIOLATION, found
    assert all(1 <= len(violation.story) <= len(rows) for violation in found.violations)
    assert "key 'k'" in str(found)


def test_the_story_has_what_contradicts_and_leaves_out_the_rest() -> None:
    noise: list[Row] = [(10 + i, 10.5 + i, Put("k", f"noise {i}"), Written(i + 3)) for i in range(20)]
    other: list[Row] = [(0.1 + i, 0.6 + i, Put("j", i), Written(i + 1)) for i in range(20)]
    (violation,) = verdict(*BROKEN["stale read"], *noise, *other).violations
    assert "older version" in violation.what
    assert [line.split(" -> ")[0].split("] ")[1] for line in violation.story if "see also" not in line] == [
        "put k = 'new'",
        "get k (linearizable)",
    ]
    assert "[   4.000 ..    5.000]" in violation.story[-1]


def test_what_only_the_search_finds_is_made_small() -> None:
    """A read of nothing between two others: no two answers contradict each other."""
    noise: list[Row] = [(10.1 + i, 10.6 + i, Put("k", f"n{i}"), Written(i + 2)) for i in range(50)]
    rows: list[Row] = [(0, 1, Put("k", "a"), Written(1)), *noise, (70, 71, read(), Absent())]
    (violation,) = verdict(*rows).violations
    assert "no order" in violation.what
    told = [line for line in violation.story if "see also" not in line]
    assert len(told) == 2
    assert "absent" in told[-1]


def test_a_read_that_is_needed_for_the_contradiction_is_in_the_story() -> None:
    (violation,) = verdict(*BROKEN["one unknown write explains two versions"]).violations
    assert [line[:2] for line in violation.story if "see also" not in line] == ["#1", "#3"]


def test_a_failed_write_that_explains_the_gap_is_in_the_story() -> None:
    (violation,) = verdict(*BROKEN["failed write made a version all the same"]).violations
    assert any("'refused'" in line for line in violation.story)


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("stale read", "older version"),
        ("lost update", "made by two writes"),
        ("split brain: two leaders take writes", "made by two writes"),
        ("deleted twice", "removed by two deletions"),
        ("deleted key is read", "older version"),
        ("value of another type", "another value than was written"),
        ("one version with two values", "seen with two values"),
        ("read of a value never written", "nobody can have written"),
        ("read of what was answered as failed", "nobody can have written"),
        ("a value that lost its compare-and-set is read", "nobody can have written"),
        ("a value at another version than its write was told", "nobody can have written"),
        ("unknown write that took effect before it was asked for", "nobody can have written"),
        ("unknown compare-and-set from a version that never was there", "nobody can have written"),
        ("a version is seen before the write that is told to have made it", "older version"),
        ("recreated key starts from the beginning", "made by two writes"),
        ("write that took effect twice", "no order"),
    ],
)
def test_the_kind_of_contradiction_is_named(name: str, what: str) -> None:
    assert what in verdict(*BROKEN[name]).violations[0].what


# -- named histories that must pass ---------------------------------------------------------------------

SOUND: dict[str, list[Row]] = {
    "nothing": [],
    "a read sees a write that is still in flight": [
        (0, 9, Put("k", "a"), Written(1)),
        (1, 2, read(), Found("a", 1)),
    ],
    "a read misses a write that is still in flight": [
        (0, 9, Put("k", "a"), Written(1)),
        (1, 2, read(), Absent()),
    ],
    "writes take effect in the other order than they were asked for": [
        (0, 9, Put("k", "a"), Written(2)),
        (1, 8, Put("k", "b"), Written(1)),
        (10, 11, read(), Found("a", 2)),
    ],
    "an unknown write takes effect long after": [
        (0, 1, Put("k", "late"), LOST),
        (2, 3, Put("k", "a"), Written(1)),
        (4, 5, read(), Found("a", 1)),
        (6, 7, read(), Found("late", 2)),
    ],
    "an unknown write never takes effect": [
        (0, 1, Put("k", "never"), LOST),
        (2, 3, Put("k", "a"), Written(1)),
        (4, 5, read(), Found("a", 1)),
    ],
    "an operation that is never answered at all": [
        (0, 1, Put("k", "silent"), None),
        (2, 3, read(), Found("silent", 1)),
    ],
    "unknown writes fill gaps that nobody saw": [
        (0, 1, Put("k", "u"), LOST),
        (2, 3, Put("k", "v"), LOST),
        (4, 5, Put("k", "a"), Written(3)),
    ],
    "of two unknown writes the one that is seen later must not fill the gap": [
        (0, 1, Put("k", "seen"), LOST),
        (2, 3, Put("k", "unseen"), LOST),
        (4, 5, Put("k", "a"), Written(2)),
        (6, 7, read(), Found("seen", 3)),
    ],
    "two unknown writes of one value, one of them seen": [
        (0, 1, Put("k", "twin"), LOST),
        (2, 3, Put("k", "twin"), LOST),
        (4, 5, Put("k", "a"), Written(2)),
        (6, 7, read(), Found("twin", 3)),
    ],
    "an unknown write of a value that another wrote fills a gap": [
        (0, 1, Put("k", "twin"), Written(1)),
        (2, 3, read(), Found("twin", 1)),
        (4, 5, Put("k", "twin"), LOST),
        (6, 7, Put("k", "a"), Written(3)),
    ],
    "an unknown compare-and-set that won": [
        (0, 1, Put("k", "a"), Written(1)),
        (2, 3, CompareAndSet("k", "b", 1), LOST),
        (4, 5, CompareAndSet("k", "c", 1), Conflict(2, "b")),
    ],
    "an unknown deletion": [
        (0, 1, Put("k", "a"), Written(1)),
        (2, 3, Delete("k"), LOST),
        (4, 5, read(), Found("a", 1)),
        (6, 7, read(), Absent()),
        (8, 9, Put("k", "b"), Written(2)),
    ],
    "an unknown deletion or none, which no version tells": [
        (0, 1, Put("k", "a"), Written(1)),
        (2, 3, Delete("k"), LOST),
        (4, 5, Put("k", "b"), Written(2)),
        (6, 7, Delete("k", 2), Removed(2)),
    ],
    "two compare-and-sets, one wins, the other is told": [
        (0, 1, Put("k", "a"), Written(1)),
        (2, 5, CompareAndSet("k", "b", 1), Written(2)),
        (3, 6, CompareAndSet("k", "c", 1), Conflict(2, "b")),
    ],
    "a deletion of nothing at version 0": [
        (0, 1, Delete("k", 0), Removed(0)),
        (2, 3, Delete("k", 4), Conflict(0)),
        (4, 5, Delete("k"), Removed(0)),
    ],
    "a key that goes and comes": [
        (0, 1, CompareAndSet("k", "a", 0), Written(1)),
        (2, 3, Delete("k", 1), Removed(1)),
        (4, 5, CompareAndSet("k", "b", 0), Written(2)),
        (6, 7, read(), Found("b", 2)),
    ],
    "a key starts above what was deleted of another": [
        (0, 1, Put("j", "a"), Written(1)),
        (2, 3, Put("j", "b"), Written(2)),
        (4, 5, Delete("j"), Removed(2)),
        (6, 7, Put("k", "c"), Written(3)),
        (8, 9, CompareAndSet("i", "d", 0), Written(3)),
    ],
    "an unknown creation beside deletions, whose version only a read tells": [
        (0, 1, Put("j", "a"), Written(1)),
        (2, 3, Put("j", "b"), Written(2)),
        (4, 5, Delete("j"), Removed(2)),
        (6, 7, Put("k", "c"), LOST),
        (8, 9, Put("k", "d"), LOST),
        (10, 11, read(), Found("d", 4)),
    ],
    "everything at once": [
        (0, 10, Put("k", "a"), Written(2)),
        (1, 11, Put("k", "b"), Written(1)),
        (2, 12, read(), Absent()),
        (3, 13, read(), Found("b", 1)),
        (4, 14, Delete("k"), Removed(2)),
        (5, 15, CompareAndSet("k", "c", 0), Written(3)),
        (6, 16, CompareAndSet("k", "d", 1), Conflict(0)),
        (7, 17, read(), Found("c", 3)),
    ],
    "reads that did not ask for it take no part": [
        (0, 1, Put("k", "a"), Written(1)),
        (2, 3, Get("k", "session"), Absent()),
        (4, 5, Get("k", "stale"), Absent()),
    ],
    "a lost read is no read": [
        (0, 1, Put("k", "a"), Written(1)),
        (2, 3, read(), LOST),
        (4, 5, read(), FAILED),
    ],
    "structured values": [
        (0, 1, Put("k", {"a": [1, 2.5, None, b"x"]}), Written(1)),
        (2, 3, read(), Found({"a": [1, 2.5, None, b"x"]}, 1)),
    ],
}


@pytest.mark.parametrize("name", SOUND)
def test_a_hard_but_correct_history_passes(name: str) -> None:
    history = recorded(SOUND[name])
    assert has_an_order(history), "the example itself is wrong"
    assert check_linearizability(history).ok, check_linearizability(history)


# -- creations, which is what keys share ----------------------------------------------------------------


def test_a_key_created_below_what_was_deleted_before_is_told() -> None:
    found = verdict(
        (0, 1, Put("j", "a"), Written(1)),
        (2, 3, Delete("j"), Removed(1)),
        (4, 5, CompareAndSet("k", "b", 0), Written(1)),
    )
    assert "not above one deleted before" in found.violations[0].what


def test_a_key_created_above_what_nobody_deleted_is_told() -> None:
    found = verdict(
        (0, 1, Put("j", "a"), Written(1)),
        (2, 3, Delete("j"), Removed(1)),
        (4, 5, CompareAndSet("k", "b", 0), Written(3)),
    )
    assert "nobody deleted 2" in found.violations[0].what


# -- the bound ------------------------------------------------------------------------------------------


def test_a_search_that_meets_its_bound_is_no_pass() -> None:
    found = check_linearizability(recorded(SOUND["everything at once"]), configurations_max=2)
    assert found.status is Status.INCONCLUSIVE
    assert not found.ok
    assert "configurations_max=2" in found.note
    assert "'k'" in found.note


def test_a_violation_counts_more_than_a_bound() -> None:
    rows = [*SOUND["everything at once"], (20, 21, Put("j", 1), Written(1)), (22, 23, read("j"), Found(2, 2))]
    assert check_linearizability(recorded(rows), configurations_max=2).status is Status.VIOLATION


# -- random histories -----------------------------------------------------------------------------------

Draw = tuple[str, int, int, int, int, int, str]
DRAWS = st.tuples(
    st.sampled_from(["put", "cas", "get", "delete", "delete at"]),
    st.integers(0, 1),  # key
    st.integers(0, 2),  # value
    st.integers(-1, 1),  # how far the expected version is off
    st.integers(0, 30),  # how long before its point it is invoked
    st.integers(0, 30),  # how long after its point it is completed
    st.sampled_from(["ok", "ok", "ok", "lost before", "lost after", "failed"]),
)


def asked(draw: Draw, keys: Keys, key: str, number: int) -> Call:
    kind, _, value, off, _, _, _ = draw
    slot = keys.read({"key": key})
    expected = max(0, (slot["version"] if slot else 0) + off)
    written = f"{value}" if value else f"unique {number}"
    match kind:
        case "put":
            return Put(key, written)
        case "cas":
            return CompareAndSet(key, written, expected)
        case "delete":
            return Delete(key)
        case "delete at":
            return Delete(key, expected)
    return read(key)


CHANGES = st.tuples(st.integers(), st.integers(0, 99))


def simulated(draws: Sequence[Draw], keys_max: int, floor: int = 0) -> list[Row]:
    """Rows of a history that is linearizable by construction: each has its effect at its point.

    ``floor``: the version of another key that was deleted before.
    """
    keys, rows = Keys.from_plain([[], floor], [], StateLimits()), []
    for number, draw in enumerate(draws):
        _, which, _, _, before, after, fate = draw
        call = asked(draw, keys, f"k{which % keys_max}", number)
        told: Outcome | Result = FAILED if fate == "failed" else LOST
        if fate in {"ok", "lost after"}:
            result = executed(keys, call, number + 1)
            told = result if fate == "ok" else LOST
        point = 10.0 * number
        rows.append((point - before - number / 1000, point + after + 0.1 + number / 1000, call, told))
    return rows


def mutated(row: Row, choice: int) -> Row:
    """The same row with another answer."""
    begun, ended, call, told = row
    results: list[Outcome | Result] = [FAILED, LOST]
    for version in (1, 2, 3):
        match call:
            case Get():
                results += [Absent(), Found("1", version), Found("2", version)]
            case Put():
                results += [Written(version)]
            case CompareAndSet():
                results += [Written(version), Conflict(version, "1"), Conflict(0)]
            case Delete():
                results += [Removed(version), Removed(0), Conflict(version, "2"), Conflict(0)]
    if isinstance(told, Written | Removed):
        results += [replace(told, version=told.version + 1), replace(told, version=max(0, told.version - 1))]
    if isinstance(told, Found | Conflict):
        results += [replace(told, version=told.version + 1), replace(told, value="1")]
    return begun, ended, call, results[choice % len(results)]


@settings(deadline=None, max_examples=150)
@given(st.lists(DRAWS, max_size=40), st.integers(1, 2))
def test_what_is_linearizable_by_construction_passes_with_a_legal_order(
    draws: list[Draw], keys_max: int
) -> None:
    history = recorded(simulated(draws, keys_max))
    found = check_linearizability(history)
    assert found.ok, found
    if keys_max == 1:
        result, order = linearization(list(history))
        assert result.finding is Finding.FOUND
        assert_legal(history, order)


def assert_legal(history: History, order: list[Operation]) -> None:
    """Replay an order on the product's state: every answer is given, every answered operation is in it."""
    keys = Keys(StateLimits())
    for index, operation in enumerate(order, 1):
        told = executed(keys, operation.call, index)
        assert operation.result is None or same(told, operation.result)
    ids = [o.id for o in order]
    assert len(set(ids)) == len(ids)
    assert {o.id for o in participants(list(history)) if o.result is not None} <= set(ids)
    for earlier, later in pairwise(order):
        assert not later.before(earlier)


@settings(deadline=None, max_examples=400)
@given(
    st.lists(DRAWS, min_size=1, max_size=7),
    st.lists(st.tuples(st.integers(), st.integers(0, 99)), max_size=2),
)
@example(
    [("put", 0, 0, 0, 0, 0, "ok"), ("delete", 0, 0, 0, 0, 0, "lost after"), ("get", 0, 0, 0, 0, 0, "ok")], []
)
def test_one_key_is_judged_exactly_as_by_brute_force(
    draws: list[Draw], changes: list[tuple[int, int]]
) -> None:
    rows = simulated(draws, keys_max=1)
    for which, choice in changes:
        rows[which % len(rows)] = mutated(rows[which % len(rows)], choice)
    history = recorded(rows)
    found = check_linearizability(history)
    assert found.status is (Status.OK if has_an_order(history) else Status.VIOLATION), found
    assert_agree(history, found)


def assert_agree(history: History, found: Verdict) -> None:
    """What answers alone contradict the search contradicts too."""
    operations = participants(list(history))
    if any(True for _ in contradictions(operations)):
        assert linearization(operations)[0].finding is Finding.IMPOSSIBLE
        assert not found.ok


@settings(deadline=None, max_examples=200)
@given(st.lists(DRAWS, min_size=1, max_size=6), st.lists(CHANGES, max_size=2), st.integers(0, 3))
@example([("put", 0, 0, 0, 0, 0, "lost after"), ("get", 0, 0, 0, 0, 0, "ok")], [], 3)
def test_a_key_beside_deleted_ones_is_judged_exactly_as_by_brute_force(
    draws: list[Draw], changes: list[tuple[int, int]], floor: int
) -> None:
    rows = simulated(draws, keys_max=1, floor=floor)
    for which, choice in changes:
        rows[which % len(rows)] = mutated(rows[which % len(rows)], choice)
    history = recorded(rows)
    result, _ = linearization(list(history), alone=False)
    legal = Brute(history, raised=8).legal()
    assert result.finding is (Finding.FOUND if legal else Finding.IMPOSSIBLE)


@settings(deadline=None, max_examples=200)
@given(st.lists(DRAWS, min_size=2, max_size=7), st.lists(CHANGES, min_size=1, max_size=2))
def test_what_a_story_shows_contradicts_itself_and_needs_every_part(
    draws: list[Draw], changes: list[tuple[int, int]]
) -> None:
    rows = simulated(draws, keys_max=1)
    for which, choice in changes:
        rows[which % len(rows)] = mutated(rows[which % len(rows)], choice)
    history = recorded(rows)
    for violation in check_linearizability(history).violations:
        if "no order" in violation.what:
            core = {int(line[1:].split()[0]) for line in violation.story if line.startswith("#")}
            assert not Brute(history, kept=core).legal()
            assert all(Brute(history, kept=core - {id_}).legal() for id_ in core)


@settings(deadline=None, max_examples=200)
@given(
    st.lists(DRAWS, min_size=1, max_size=7),
    st.integers(),
    st.integers(0, 99),
)
def test_several_keys_are_judged_exactly_where_none_is_deleted_and_never_wrongly_accused(
    draws: list[Draw], which: int, choice: int
) -> None:
    rows = simulated(draws, keys_max=2)
    rows[which % len(rows)] = mutated(rows[which % len(rows)], choice)
    history = recorded(rows)
    found, legal = check_linearizability(history), has_an_order(history)
    deleting = any(isinstance(o.call, Delete) for o in history)
    if legal or not deleting:
        assert found.ok is legal, found


# -- size -----------------------------------------------------------------------------------------------


def crowd(seed: int, size: int, processes: int, deletes: float = 0.1) -> list[Row]:
    """A long linearizable history: every process waits for its answer before it asks again."""
    chance = random.Random(seed)
    free = [chance.random() for _ in range(processes)]
    spans: list[tuple[float, float, float]] = []
    for _ in range(size):
        process = free.index(min(free))
        begun, long = free[process], 0.01 + chance.expovariate(1)
        spans.append((begun + long * chance.random(), begun, begun + long))
        free[process] = begun + long + 0.001 + chance.random() / 10
    keys, rows = Keys(StateLimits()), []
    for number, (_, begun, ended) in enumerate(sorted(spans)):
        kind = chance.choice(["put", "put", "cas", "get", "delete" if chance.random() < deletes else "get"])
        draw: Any = (kind, 0, 0, chance.choice([0, 0, -1]), 0, 0, "")
        call = asked(draw, keys, "k", number)
        lost = kind != "get" and chance.random() < 0.03
        told = LOST if lost and chance.random() < 0.5 else executed(keys, call, number + 1)
        rows.append((begun, ended, call, LOST if lost else told))
    return rows


def test_ten_thousand_operations_of_twenty_processes_need_few_configurations() -> None:
    history = recorded(crowd(1, 10_000, 20))
    assert sum(o.pending for o in history) > 100
    result, order = linearization(list(history))
    assert result.finding is Finding.FOUND
    assert result.explored < 2 * len(history)
    assert_legal(history, order)


def test_no_order_among_many_unknown_outcomes_is_found_out_with_few_configurations() -> None:
    rows = crowd(3, 2000, 20, deletes=0)
    ended = rows[1000][1]
    history = recorded([*rows, (ended + 0.00001, ended + 0.00002, read(), Absent())])
    assert sum(o.pending for o in history) > 30
    result, _ = linearization(list(history))
    assert result.finding is Finding.IMPOSSIBLE
    assert result.explored < 2 * len(history)


def test_a_needle_among_ten_thousand_operations_is_found_and_shown_alone() -> None:
    puts: list[Row] = [
        (begun, ended, Put("k", number), Written(number + 1))
        for number, (begun, ended, _, _) in enumerate(crowd(2, 10_000, 20))
    ]
    ended = puts[5000][1]
    needle: Row = (ended + 0.00001, ended + 0.00002, read(), Absent())
    found = check_linearizability(recorded([*puts, needle]))
    assert found.status is Status.VIOLATION
    (violation,) = found.violations
    assert len(violation.story) <= 4
    assert "absent" in str(violation)
