"""The sequential model of one key: a register whose every write makes a new version.

The state is what a client of the key could know: its value and version, or that it is absent. A write
makes the next version. A key that is created starts above every version that was ever deleted, of any
key: alone, a key starts one above its own last deleted version; beside keys that are deleted, only
somewhere above it. Then the version is a lower bound in the state until an answer tells it: a set of
states at once, which is exact, for what follows depends on the bound alone.

So a key's versions only grow, through deletions too, and each is made by one write. What was answered
about versions is used ahead of the search, to cut what cannot be: an unanswered write takes a
version only if nobody was promised that version, and nobody saw another value there; and the only
unanswered write of a value that was seen must be the one that was seen.

Not modelled: limits (Busy is a failure without effect), the conflict log, log indexes and writers.
Source: ``mcp/state/keys.py``, which the tests compare this with.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

from simulations.checking.operations import (
    Absent,
    CompareAndSet,
    Conflict,
    Delete,
    Found,
    Get,
    KeyCall,
    Operation,
    Put,
    Removed,
    Written,
    canonical,
)
from simulations.checking.search import Interval, Model

ABSENT: Final = -1
UNSEEN: Final = 0
"""The value of every write whose value nobody saw: what nobody saw, nobody can tell apart."""


class KeyState(NamedTuple):
    """``version``: of an absent key the highest it had. Not ``exact``: at least this."""

    value: int
    version: int
    exact: bool


@dataclass(frozen=True, slots=True)
class Write:
    """A put, or a compare-and-set that won. ``version``: what it was told, or must have made."""

    value: int
    expected: int | None
    version: int | None


@dataclass(frozen=True, slots=True)
class Observe:
    """A read, a lost compare-and-set, or a deletion of nothing."""

    value: int
    version: int


@dataclass(frozen=True, slots=True)
class Remove:
    """A deletion of a key that was there."""

    version: int | None


@dataclass(frozen=True, slots=True)
class Never:
    """An answer that no state gives, such as a conflict with the very version that was expected."""


RegisterCall = Write | Observe | Remove | Never


class RegisterModel(Model[KeyState, RegisterCall]):
    """One key. ``alone``: no other key is ever deleted. ``seen`` and ``claimed`` are the known answers."""

    def __init__(self, *, alone: bool, seen: dict[int, int], claimed: Collection[int]) -> None:
        self._alone = alone
        self._seen = seen
        self._claimed = claimed

    def initial(self) -> KeyState:
        """No key."""
        return KeyState(ABSENT, 0, True)

    def reads(self, call: RegisterCall) -> bool:
        """Whether it is an observation."""
        return type(call) is Observe

    def step(self, state: KeyState, call: RegisterCall) -> KeyState | None:
        """See :class:`~simulations.checking.search.Model`."""
        if type(call) is Observe:
            return self._observe(state, call)
        if type(call) is Write:
            return self._write(state, call)
        if type(call) is Remove:
            return _remove(state, call)
        return None

    def needs(self, call: RegisterCall) -> int | None:
        """Return the version that comes next where the call can be taken."""
        if type(call) is Write:
            if call.expected:
                return call.expected + 1
            return call.version
        if type(call) is Remove and call.version is not None:
            return call.version + 1
        return None

    def offers(self, state: KeyState) -> int | None:
        """Return the version that comes next, if that is certain."""
        certain = state.exact and (self._alone or state.value != ABSENT)
        return state.version + 1 if certain else None

    def _observe(self, state: KeyState, call: Observe) -> KeyState | None:
        if ABSENT in {call.value, state.value}:
            return state if call.value == state.value else None
        if call.value != state.value or not _may_be(state, call.version):
            return None
        return state if state.exact else KeyState(call.value, call.version, True)

    def _write(self, state: KeyState, call: Write) -> KeyState | None:
        low, exact = state.version + 1, state.exact
        if state.value == ABSENT:
            if call.expected:
                return None
            exact = self._alone
        elif call.expected is not None:
            if not _may_be(state, call.expected):
                return None
            low, exact = call.expected + 1, True
        if call.version is not None:
            fits = low == call.version if exact else low <= call.version
            return KeyState(call.value, call.version, True) if fits else None
        if exact and not self._free(low, call.value):
            return None
        return KeyState(call.value, low, exact)

    def _free(self, version: int, value: int) -> bool:
        return version not in self._claimed and self._seen.get(version, value) == value


def _may_be(state: KeyState, version: int) -> bool:
    return version == state.version if state.exact else version >= state.version


def _remove(state: KeyState, call: Remove) -> KeyState | None:
    if state.value == ABSENT:
        return None
    if call.version is None:
        return KeyState(ABSENT, state.version, True)
    return KeyState(ABSENT, call.version, True) if _may_be(state, call.version) else None


# -- from operations to calls ---------------------------------------------------------------------------


def register(
    operations: Sequence[Operation], *, alone: bool, excused: Collection[int] = ()
) -> tuple[list[Interval[RegisterCall]], list[int], RegisterModel]:
    """Translate one key's operations: intervals, the operation of each by its id, and the model.

    Left out are operations that failed and reads that nobody answered: neither can have an effect. Of
    operations in ``excused`` (ids) the completion is forgotten: a read is left out, a write may take effect
    at any time or never, though if it does, then as it was answered, and nobody else makes the version
    that it was promised. Whatever is legal stays legal by that.
    """
    taking = [o for o in operations if not o.failed and not _idle(o, o.id in excused)]
    seen_values = {canonical(v): n for n, v in enumerate(_seen_values(taking), UNSEEN + 1)}
    seen: dict[int, int] = {}
    claimed: set[int] = set()
    for operation in taking:
        if isinstance(operation.result, Found | Conflict) and operation.result.version:
            seen.setdefault(operation.result.version, seen_values[canonical(operation.result.value)])
        elif isinstance(operation.result, Written):
            claimed.add(operation.result.version)
    calls = [_call(o, seen_values) for o in taking]
    _pin(calls, [n for n, operation in enumerate(taking) if operation.pending], seen, claimed)
    intervals = []
    for operation, call in zip(taking, calls, strict=True):
        answered = not operation.pending and operation.id not in excused
        intervals.append(Interval(operation.invoked, operation.completed if answered else None, call))
    return intervals, [o.id for o in taking], RegisterModel(alone=alone, seen=seen, claimed=claimed)


def _idle(operation: Operation, excused: bool) -> bool:
    """Whether an operation asks nothing of the order, for want of an answer."""
    if isinstance(operation.call, Get) and operation.pending:
        return True
    changes = isinstance(operation.result, Written | Removed) and operation.result.version > 0
    return excused and not operation.pending and not changes


def _seen_values(operations: Iterable[Operation]) -> list[object]:
    values: dict[bytes, object] = {}
    for operation in operations:
        if isinstance(operation.result, Found | Conflict) and operation.result.version:
            values.setdefault(canonical(operation.result.value), operation.result.value)
    return list(values.values())


def _call(operation: Operation, values: dict[bytes, int]) -> RegisterCall:
    asked: KeyCall = operation.call  # type: ignore[assignment]
    match asked, operation.result:
        case _, Found(value, version):
            return Observe(values[canonical(value)], version) if version > 0 else Never()
        case _, Absent():
            return Observe(ABSENT, 0)
        case ((CompareAndSet(_, _, expected) | Delete(_, expected)), Conflict(version, value)):
            if expected is None or expected == version or (version == 0 and value is not None):
                return Never()
            return Observe(values[canonical(value)], version) if version else Observe(ABSENT, 0)
        case Put(_, value), Written(version):
            return Write(values.get(canonical(value), UNSEEN), None, version)
        case CompareAndSet(_, value, expected), Written(version):
            return Write(values.get(canonical(value), UNSEEN), expected, version)
        case Delete(_, expected), Removed(version):
            if expected is not None and expected != version:
                return Never()
            return Remove(version) if version else Observe(ABSENT, 0)
        case Put(_, value), None:
            return Write(values.get(canonical(value), UNSEEN), None, None)
        case CompareAndSet(_, value, expected), None:
            return Write(values.get(canonical(value), UNSEEN), expected, expected + 1 if expected else None)
        case Delete(_, expected), None:
            return Remove(expected)
    return Never()


def _pin(
    calls: list[RegisterCall], unanswered: Iterable[int], seen: dict[int, int], claimed: Collection[int]
) -> None:
    """Say of the only unanswered write of a value where it must go, if the value was seen there."""
    wanted: dict[int, list[int]] = {}
    for version, value in seen.items():
        if version not in claimed:
            wanted.setdefault(value, []).append(version)
    writes = {n: call for n in unanswered if isinstance(call := calls[n], Write)}
    supply = Counter(call.value for call in writes.values())
    for number, call in writes.items():
        versions = wanted.get(call.value, ())
        if call.version is None and supply[call.value] == 1 and len(versions) == 1:
            calls[number] = replace(call, version=versions[0])
