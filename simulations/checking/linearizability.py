"""Linearizability of keys: every key behaves as if each operation had happened at one point in time.

A history is linearizable if and only if its part on each object is (Herlihy and Wing 1990, theorem 1:
locality), so each key is searched by itself (Horn and Kroening 2015, P-compositionality), against the
register of :mod:`simulations.checking.register`, by :func:`~simulations.checking.search.search`. All
writes take part, and those reads that asked for it; an operation without an answer may take effect at
any later time or never. A search that meets its bound makes the verdict inconclusive.

What answers alone contradict is told first (``answers.py``). Any other violation is told with as few
operations as possible. Operations after the completion that no order gets
past are left out. Of the others, completions are forgotten while the rest still contradicts itself: that
can make an impossible history possible and never the reverse, so what remains contradicts itself without
any of the others. Leaving a write out altogether would prove nothing: its value might then have come from
nowhere. Who wrote what the remaining operations speak of is added, to be read with them.

The one thing that keys share is checked apart, as far as compare-and-set from version 0 tells it: a
created key's version is one above some deleted version, and above every one deleted before.

Let every write have a value of its own: then a read tells whose write took effect, and ten thousand
operations take well under a second. Where values repeat and many outcomes are unknown, the bound may be met.

Not covered: session and stale reads (``sessions.py``); whether a created key starts exactly one above
the highest deleted version when several keys are deleted; the conflict log; lists of keys; keys that
were there, or deleted, before the history began or by clients that it does not record.

Sources: Herlihy and Wing, "Linearizability", 1990, sections 2 and 3; Wing and Gong 1993; Lowe 2017; Horn and
Kroening, "Faster Linearizability Checking via P-Compositionality", 2015, section 3; for forgetting, the
delta debugging of Zeller and Hildebrandt, "Simplifying and Isolating Failure-Inducing Input", 2002.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Final

from simulations.checking.answers import contradictions, saw, told
from simulations.checking.history import History
from simulations.checking.operations import (
    CompareAndSet,
    Delete,
    Get,
    KeyCall,
    Operation,
    Put,
    Removed,
    Written,
    canonical,
)
from simulations.checking.register import register
from simulations.checking.search import CONFIGURATIONS_MAX, Finding, Search, search
from simulations.checking.verdict import Verdict, Violation, verdict

STORY_FIRST: Final = 8
"""How many of the last completed operations are tried first when a violation is made small."""
SHRINKING_MAX: Final = 400
"""How many searches making one violation small may take."""
CONTEXT_MAX: Final = 8
"""How many operations are added to a story to say who wrote what."""
FAILED_MAX: Final = 3
"""How many that failed are added, for they may not have."""


def by_key(history: History) -> dict[str, list[Operation]]:
    """Return the operations on keys, each key's in the order of invocation."""
    keys: dict[str, list[Operation]] = {}
    for operation in history:
        if isinstance(operation.call, KeyCall):
            keys.setdefault(operation.call.key, []).append(operation)
    return keys


def check_linearizability(history: History, *, configurations_max: int = CONFIGURATIONS_MAX) -> Verdict:
    """Check every key; ``configurations_max`` bounds the search of each."""
    keys = {key: participants(operations) for key, operations in by_key(history).items()}
    deleting = {key for key, operations in keys.items() if any(map(_may_delete, operations))}
    violations, undecided = [], []
    for key, operations in keys.items():
        alone = deleting <= {key}
        obvious = next(contradictions(operations), None)
        if obvious is not None:
            violations.append(_violation(key, operations, obvious[1], obvious[0]))
            continue
        result, _ = _searched(operations, alone, configurations_max)
        if result.finding is Finding.BOUND:
            undecided.append(key)
        elif result.finding is Finding.IMPOSSIBLE:
            core = _shrunk(operations, result, alone, configurations_max)
            violations.append(_violation(key, operations, core, "no order explains these"))
    violations += _creations(keys)
    note = ""
    if undecided:
        note = f"configurations_max={configurations_max} was met by {', '.join(map(repr, undecided[:5]))}" + (
            f" and {len(undecided) - 5} more keys" if len(undecided) > 5 else ""
        )
    return verdict("linearizability", sum(map(len, keys.values())), violations, note)


def linearization(
    operations: Sequence[Operation], *, alone: bool = True, configurations_max: int = CONFIGURATIONS_MAX
) -> tuple[Search, list[Operation]]:
    """Search one key; with what was found, the operations that took effect in an order that is legal.

    Reads take part if they were asked for as linearizable. ``alone``: no other key is ever deleted.
    """
    chosen = participants(operations)
    result, ids = _searched(chosen, alone, configurations_max)
    by_id = {operation.id: operation for operation in chosen}
    return result, [by_id[ids[number]] for number in result.order]


def participants(operations: Iterable[Operation]) -> list[Operation]:
    """Return all writes, and the answered reads that were to be linearizable."""
    return [
        o
        for o in operations
        if not isinstance(o.call, Get) or (o.call.consistency == "linearizable" and o.result is not None)
    ]


def _searched(
    operations: Sequence[Operation], alone: bool, configurations_max: int, excused: Collection[int] = ()
) -> tuple[Search, list[int]]:
    intervals, ids, model = register(operations, alone=alone, excused=excused)
    return search(intervals, model, configurations_max=configurations_max), ids


def _may_delete(operation: Operation) -> bool:
    if not isinstance(operation.call, Delete):
        return False
    return operation.pending or (isinstance(operation.result, Removed) and operation.result.version > 0)


# -- making it small ------------------------------------------------------------------------------------


class _Shrinking:
    """Finds few completions, among those of the ``candidates``, that cannot all be true."""

    def __init__(
        self, operations: Sequence[Operation], candidates: Sequence[int], alone: bool, configurations_max: int
    ) -> None:
        self._operations = operations
        self._candidates = list(candidates)
        self._alone = alone
        self._configurations_max = configurations_max
        self._searches = 0

    def contradictory(self, kept: Sequence[int]) -> bool:
        """Whether there is no order even if only the completions of ``kept`` are remembered."""
        if self._searches >= SHRINKING_MAX:
            return False
        self._searches += 1
        excused = {o.id for o in self._operations}.difference(kept)
        result, _ = _searched(self._operations, self._alone, self._configurations_max, excused)
        return result.finding is Finding.IMPOSSIBLE

    def run(self) -> list[int]:
        """Return the candidates whose completions are needed."""
        kept = self._last_ones()
        chunk = max(1, len(kept) // 2)
        while True:
            kept = self._without_chunks(kept, chunk)
            if chunk == 1:
                return kept
            chunk //= 2

    def _last_ones(self) -> list[int]:
        """Return as few of the last candidates as a doubling number finds."""
        size = STORY_FIRST
        while size < len(self._candidates):
            if self.contradictory(self._candidates[-size:]):
                return self._candidates[-size:]
            size *= 2
        return self._candidates

    def _without_chunks(self, kept: list[int], chunk: int) -> list[int]:
        start = 0
        while start < len(kept) > 1:
            fewer = kept[:start] + kept[start + chunk :]
            if fewer and self.contradictory(fewer):
                kept = fewer
            else:
                start += chunk
        return kept


def _shrunk(
    operations: Sequence[Operation], result: Search, alone: bool, configurations_max: int
) -> list[Operation]:
    """Return few operations that contradict each other."""
    answered = sorted((o.completed, o.id) for o in operations if o.completed is not None and not o.pending)
    cut = result.stuck_at
    if cut is not None:
        before = [o for o in operations if o.invoked <= cut]
        candidates = [id_ for completed, id_ in answered if completed <= cut]
        shrinking = _Shrinking(before, candidates, alone, configurations_max)
        # If not, then what was answered later had cut the search short: it is part of the contradiction.
        if shrinking.contradictory(candidates):
            return _chosen(operations, shrinking.run())
    shrinking = _Shrinking(operations, [id_ for _, id_ in answered], alone, configurations_max)
    return _chosen(operations, shrinking.run())


def _chosen(operations: Sequence[Operation], ids: Sequence[int]) -> list[Operation]:
    return [operation for operation in operations if operation.id in set(ids)]


def _violation(key: str, operations: Sequence[Operation], core: Sequence[Operation], what: str) -> Violation:
    story = [(o.invoked, str(o)) for o in core]
    story += [(o.invoked, f"(see also) {o}") for o in _context(operations, core)]
    return Violation(f"key {key!r}: {what}", tuple(line for _, line in sorted(story)))


def _context(operations: Sequence[Operation], core: Sequence[Operation]) -> list[Operation]:
    """Return others that wrote a value, or made or removed a version, that the core speaks of.

    The last that failed before are among them: they may not have failed after all.
    """
    versions = {version for o in core for version in (told(o), told(o) - 1) if version > 0}
    values = {saw(o) for o in core} - {None}
    ended, chosen = max(o.completed or o.invoked for o in core), {o.id for o in core}
    writes = [o for o in operations if o.id not in chosen and not isinstance(o.call, Get)]
    found = [
        o
        for o in writes
        if (isinstance(o.call, Put | CompareAndSet) and canonical(o.call.value) in values)
        or (isinstance(o.result, Written | Removed) and told(o) in versions)
    ]
    failed = [o for o in writes if o.failed and o.invoked < ended and o not in found]
    return found[-CONTEXT_MAX:] + failed[-FAILED_MAX:]


# -- what keys share ------------------------------------------------------------------------------------


def _creations(keys: dict[str, list[Operation]]) -> list[Violation]:
    """Compare every creation that is certain, a compare-and-set from 0 that won, with the deletions."""
    deletions = [o for operations in keys.values() for o in operations if _may_delete(o)]
    violations = []
    for operations in keys.values():
        for created in operations:
            if not isinstance(created.call, CompareAndSet) or created.call.expected_version != 0:
                continue
            if isinstance(created.result, Written):
                violations += _creation(created, created.result.version, deletions)
    return violations


def _creation(created: Operation, version: int, deletions: Sequence[Operation]) -> list[Violation]:
    earlier = [o for o in deletions if o.before(created) and told(o) >= version]
    if earlier:
        what = "a key was created at a version that is not above one deleted before"
        return [Violation(what, (str(earlier[0]), str(created)))]
    possible = [o for o in deletions if created.completed is not None and o.invoked < created.completed]
    if version == 1 or any(o.pending or told(o) == version - 1 for o in possible):
        return []
    return [
        Violation(
            f"a key was created at version {version}, and nobody deleted {version - 1}", (str(created),)
        )
    ]
