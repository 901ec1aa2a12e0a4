"""What a session is promised, whatever node it talks to: its own view never goes back.

The four guarantees of Terry et al., for the versions of keys, whose order is the order of the log:

- *read your writes*: a read is at least as new as every write that the session was told of before;
- *monotonic reads*: and at least as new as everything that it had read before;
- *monotonic writes*: a write comes after every write that the session was told of before;
- *writes follow reads*: and after everything that it had read before.

Before means: answered before this was asked, so a session may be used by many tasks at once. Where
answers tell the log index, all four hold across keys as well: who has seen index 9 may not read of any
key what was overwritten at 9 or before. That a key is absent is explained by the oldest deletion
which explains it. Stale reads are promised nothing of this. One thing is asked of them too: whatever was
read, at whatever consistency, is what some write wrote, which was asked for before the read was answered.

The view is a floor that only rises, so one pass over the events finds every violation that the answers tell.

Not covered: versions of which no answer tells the index are compared within their key only; a write
without an answer binds nobody; the lists of keys and the conflict log. A key that starts above another
key's deleted version is taken for newer, whatever that says.

Source: Terry, Demers, Petersen, Spreitzer, Theimer and Welch, "Session Guarantees for Weakly Consistent
Replicated Data", 1994, section 3.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from simulations.checking.answers import Contradiction, told, values_at_odds
from simulations.checking.history import History
from simulations.checking.linearizability import by_key
from simulations.checking.operations import (
    Absent,
    Conflict,
    Delete,
    Found,
    Get,
    KeyCall,
    Operation,
    Removed,
    Written,
)
from simulations.checking.verdict import Verdict, Violation, verdict

READ_YOUR_WRITES: Final = "read your writes"
MONOTONIC_READS: Final = "monotonic reads"
MONOTONIC_WRITES: Final = "monotonic writes"
WRITES_FOLLOW_READS: Final = "writes follow reads"
READS_OF_WRITES: Final = "reads are of writes"
GUARANTEES: Final = (READ_YOUR_WRITES, MONOTONIC_READS, MONOTONIC_WRITES, WRITES_FOLLOW_READS)

_RULES: Final = {
    (True, False): READ_YOUR_WRITES,
    (False, False): MONOTONIC_READS,
    (True, True): MONOTONIC_WRITES,
    (False, True): WRITES_FOLLOW_READS,
}
"""By whether the earlier operation wrote, and whether this one does."""


class _Seen(NamedTuple):
    """A point in a key's life, ``2 * version``, one more if that was deleted, and who knew of it."""

    position: int
    operation: Operation


@dataclass(slots=True)
class _View:
    """What a session knows: by key what it wrote and read last, and the highest log index of all."""

    wrote: dict[str, _Seen] = field(default_factory=dict)
    read: dict[str, _Seen] = field(default_factory=dict)
    latest: _Seen | None = None


class _Floors(NamedTuple):
    """What an operation may not fall below, as its session's view was when it was invoked."""

    wrote: _Seen | None
    read: _Seen | None
    latest: _Seen | None

    def highest(self) -> int:
        """The position that the key had reached at least."""
        return max((seen.position for seen in (self.wrote, self.read) if seen), default=0)


def check_sessions(history: History) -> list[Verdict]:
    """One verdict for each of :data:`GUARANTEES`, and one for :data:`READS_OF_WRITES`."""
    return [*_Check(history).run(), check_reads(history)]


def check_reads(history: History) -> Verdict:
    """Whatever was read, also by stale reads, is what a write wrote at that version."""
    violations, checked = [], 0
    for operations in by_key(history).values():
        checked += sum(isinstance(o.result, Found | Conflict) for o in operations)
        violations += [_violation(found) for found in values_at_odds(operations)]
    return verdict(READS_OF_WRITES, checked, violations)


def _violation(found: Contradiction) -> Violation:
    what, operations = found
    return Violation(what, tuple(map(str, sorted(operations, key=lambda o: o.invoked))))


class _Check:
    def __init__(self, history: History) -> None:
        keys = by_key(history)
        self._operations = [o for operations in keys.values() for o in operations]
        self._deletions = {k: [o for o in os if isinstance(o.call, Delete)] for k, os in keys.items()}
        self._indexes = {key: _indexes(operations) for key, operations in keys.items()}
        self._views: dict[str, _View] = {}
        self._violations: dict[str, list[Violation]] = {rule: [] for rule in GUARANTEES}
        self._checked = dict.fromkeys(GUARANTEES, 0)

    def run(self) -> list[Verdict]:
        bound = [o for o in self._operations if o.result is not None and not _stale(o)]
        events = [(o.invoked, o, False) for o in bound]
        events += [(o.completed, o, True) for o in bound if o.completed is not None]
        floors: dict[int, _Floors] = {}
        for _, operation, completed in sorted(events, key=lambda event: event[0]):
            view = self._views.setdefault(operation.session, _View())
            if not completed:
                key = _key(operation)
                floors[operation.id] = _Floors(view.wrote.get(key), view.read.get(key), view.latest)
                continue
            then = floors.pop(operation.id)
            self._judge(operation, then)
            self._learn(operation, view, then.highest())
        return [verdict(rule, self._checked[rule], self._violations[rule]) for rule in GUARANTEES]

    # -- one operation against what its session knew ------------------------------------------------

    def _judge(self, operation: Operation, floors: _Floors) -> None:
        writes = _writes(operation)
        for seen, wrote in ((floors.wrote, True), (floors.read, False)):
            if seen is None:
                continue
            rule = _RULES[wrote, writes]
            self._checked[rule] += 1
            position = self._position(operation, seen.position)
            if position is None or position < seen.position or (writes and position == seen.position):
                self._accuse(rule, operation, (seen.operation,))
        if floors.latest is None:
            return
        if not writes:
            self._judge_read(operation, floors.latest)
        elif (index := _index(operation)) is not None and index <= floors.latest.position:
            self._accuse(
                _RULES[_writes(floors.latest.operation), True], operation, (floors.latest.operation,)
            )

    def _judge_read(self, operation: Operation, known: _Seen) -> None:
        """Compare a read with the newest version that the session's log index covers."""
        covered = self._covered(_key(operation), known.position)
        rule = _RULES[_writes(known.operation), False]
        if covered is None or known.operation is covered.operation:
            return
        self._checked[rule] += 1
        position = self._position(operation, covered.position)
        if position is None or position < covered.position:
            self._accuse(rule, operation, (covered.operation, known.operation))

    def _covered(self, key: str, index: int) -> _Seen | None:
        indexes = self._indexes[key]
        place = bisect.bisect_right(indexes, index, key=lambda entry: entry[0])
        return indexes[place - 1][1] if place else None

    def _accuse(self, rule: str, operation: Operation, earlier: Sequence[Operation]) -> None:
        story = sorted({o.id: o for o in (*earlier, operation)}.values(), key=lambda o: o.invoked)
        what = f"session {operation.session!r} went back on key {_key(operation)!r}"
        self._violations[rule].append(Violation(what, tuple(map(str, story))))

    def _position(self, operation: Operation, floor: int) -> int | None:
        """Where an answer stands. Of an absence: the lowest place from ``floor`` on; ``None``: nowhere."""
        if not _found_nothing(operation):
            return 2 * told(operation) + isinstance(operation.result, Removed)
        if floor <= 1:
            return floor
        possible = [
            2 * version + 1
            for deletion in self._deletions[_key(operation)]
            if not deletion.failed and _begun(deletion, operation)
            for version in [_deleted(deletion, floor)]
            if 2 * version + 1 >= floor
        ]
        return min(possible, default=None)

    # -- what the session knows from then on --------------------------------------------------------

    def _learn(self, operation: Operation, view: _View, floor: int) -> None:
        key, known = _key(operation), view.wrote if _writes(operation) else view.read
        before = known.get(key)
        position = self._position(operation, floor)
        if position is not None and (before is None or position > before.position):
            known[key] = _Seen(position, operation)
        index = _index(operation)
        if index is not None and (view.latest is None or index > view.latest.position):
            view.latest = _Seen(index, operation)


def _key(operation: Operation) -> str:
    assert isinstance(operation.call, KeyCall)
    return operation.call.key


def _stale(operation: Operation) -> bool:
    return isinstance(operation.call, Get) and operation.call.consistency == "stale"


def _writes(operation: Operation) -> bool:
    """Whether it made or removed a version; a lost compare-and-set has read."""
    return isinstance(operation.result, Written | Removed) and told(operation) > 0


def _found_nothing(operation: Operation) -> bool:
    result = operation.result
    return isinstance(result, Absent) or (isinstance(result, Removed | Conflict) and result.version == 0)


def _begun(deletion: Operation, reader: Operation) -> bool:
    return reader.completed is None or deletion.invoked < reader.completed


def _deleted(deletion: Operation, floor: int) -> int:
    """Which version a deletion removed, the lowest that ``floor`` allows if that is open; -1: none."""
    if deletion.result is not None:
        return told(deletion) if isinstance(deletion.result, Removed) and told(deletion) else -1
    assert isinstance(deletion.call, Delete)
    expected = deletion.call.expected_version
    return floor // 2 if expected is None else expected


def _index(operation: Operation) -> int | None:
    return operation.result.index if isinstance(operation.result, Written | Found) else None


def _indexes(operations: Iterable[Operation]) -> list[tuple[int, _Seen]]:
    """Return the log index of every version that an answer tells it of, ascending."""
    known: dict[int, _Seen] = {}
    for operation in operations:
        index = _index(operation)
        if index is not None:
            known.setdefault(index, _Seen(2 * told(operation), operation))
    return sorted(known.items(), key=lambda entry: entry[0])
