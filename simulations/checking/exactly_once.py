"""One effect per request: what was acknowledged happened once, what failed did not, the rest at most once.

A client cannot see an effect, only answers; so the other half of the evidence comes from inside: the order
in which each replica applied requests, or the final state. A request id stands for one intention however
often it was sent, so its fate is the best that any sending of it was told: acknowledged if one was,
failed if all were, unknown otherwise. A compare-and-set that was told of a conflict had no effect, and yet
was applied; so it may stand in what was applied or not, and once at most. Then

- an acknowledged request stands exactly once in what a replica applied, a failed one never, an unknown
  one at most once, and nothing stands there that nobody asked for;
- what one replica applied is a prefix of what another did, so each effect also has one place;
- in the final state a key that was never deleted is at the version that counts its effects: at least
  the acknowledged writes, at most these and the unknown ones (if no other key was deleted either, for it
  may have begun above that one's version); and if it counts by compare-and-set, its number tells the same.

Not covered: which of two unknown requests took effect; keys that were deleted, or written by clients that
the history does not record; effects outside the replicated state.

Sources: Lampson, "Hints for Computer System Design", 1983, section 4 (end to end); Ongaro, "Consensus:
Bridging Theory and Practice", 2014, section 6.3 (what is to be shown).
"""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Final

from simulations.checking.answers import wrote
from simulations.checking.history import History
from simulations.checking.linearizability import by_key
from simulations.checking.operations import (
    Absent,
    CompareAndSet,
    Conflict,
    Delete,
    Found,
    Operation,
    Removed,
    Written,
)
from simulations.checking.verdict import Verdict, Violation, verdict

EXACTLY_ONCE: Final = "exactly one effect"
COUNTS: Final = "effects counted in the final state"
COUNTERS: Final = "counters count every raise once"

FinalState = Mapping[str, Found | Absent]
"""Of each key what a read found after everything had come to rest."""


class Fate(enum.Enum):
    """What is owed to a request: how often it may stand in what was applied, least and most."""

    ACKNOWLEDGED = (1, 1)
    UNKNOWN = (0, 1)
    FAILED = (0, 0)


def fates(history: History) -> dict[str, Fate]:
    """Return the fate of every request that has an id."""
    sendings: dict[str, list[Operation]] = {}
    for operation in history:
        if operation.request is not None:
            sendings.setdefault(operation.request, []).append(operation)
    return {request: _fate(operations) for request, operations in sendings.items()}


def _fate(sendings: Iterable[Operation]) -> Fate:
    results = [o.result for o in sendings]
    if any(result is not None and not isinstance(result, Conflict) for result in results):
        return Fate.ACKNOWLEDGED
    if all(o.failed for o in sendings):
        return Fate.FAILED
    return Fate.UNKNOWN


def check_applied(history: History, applied: Mapping[str, Sequence[str]]) -> Verdict:
    """Compare what clients were told with what each replica applied, in order, as request ids.

    ``applied`` is of replicas that have applied everything that was acknowledged, by their names. Ids of
    requests that no operation of the history carries are a violation: leave out what is not the clients'.
    """
    owed = fates(history)
    told = {o.request: str(o) for o in history if o.request is not None}
    violations = []
    for replica, requests in applied.items():
        counted = Counter(requests)
        strangers = [request for request in counted if request not in owed]
        violations += [Violation(f"{replica} applied {r!r}, which nobody asked for") for r in strangers]
        for request, fate in owed.items():
            least, most = fate.value
            if not least <= counted[request] <= most:
                what = (
                    f"{replica} applied {request!r} {counted[request]} times, and it was {fate.name.lower()}"
                )
                violations.append(Violation(what, (told[request],)))
    violations += _disagreements(applied)
    return verdict(EXACTLY_ONCE, len(owed) * len(applied), violations)


def _disagreements(applied: Mapping[str, Sequence[str]]) -> list[Violation]:
    violations = []
    for one, other in pairwise(sorted(applied, key=lambda name: len(applied[name]))):
        for place, (mine, theirs) in enumerate(zip(applied[one], applied[other], strict=False)):
            if mine != theirs:
                what = f"{one} applied {mine!r} in place {place}, where {other} applied {theirs!r}"
                violations.append(Violation(what))
                break
    return violations


def check_counts(history: History, final: FinalState) -> Verdict:
    """Compare each key's final version with the writes that clients know of.

    ``final`` is what was read, once nothing was in flight any more, of all keys that are to be checked.
    """
    keys = by_key(history)
    deleted = {key for key, operations in keys.items() if any(map(_may_have_removed, operations))}
    violations, checked = [], 0
    for key, found in final.items():
        if key not in deleted:
            checked += 1
            violations += _counted(key, keys.get(key, []), found, above=bool(deleted))
    return verdict(COUNTS, checked, violations)


def check_counters(history: History, final: Mapping[str, int]) -> Verdict:
    """Compare counters, keys that compare-and-set raises by one and nothing else writes, with the raises."""
    violations = []
    keys = by_key(history)
    for key, value in final.items():
        raises = [o for o in keys.get(key, []) if isinstance(o.call, CompareAndSet)]
        violations += _within(f"counter {key!r} ended at {value}", value, raises)
    return verdict(COUNTERS, len(final), violations)


def _may_have_removed(operation: Operation) -> bool:
    if not isinstance(operation.call, Delete) or operation.failed:
        return False
    return operation.pending or (isinstance(operation.result, Removed) and operation.result.version > 0)


def _counted(
    key: str, operations: Sequence[Operation], found: Found | Absent, *, above: bool
) -> list[Violation]:
    version = found.version if isinstance(found, Found) else 0
    return _within(f"key {key!r} ended at version {version}", version, operations, above=above)


def _within(
    what: str, count: int, operations: Sequence[Operation], *, above: bool = False
) -> list[Violation]:
    """Compare a count with the writes; ``above``: it may have begun above 0."""
    sure = [o for o in operations if isinstance(o.result, Written)]
    maybe = [o for o in operations if o.pending and wrote(o) is not None]
    if len(sure) <= count and (above or count <= len(sure) + len(maybe)):
        return []
    last = sure[-1:] if count < len(sure) else [o for o in operations if o.failed][-3:]
    told = f"{what}, and {len(sure)} writes were acknowledged and {len(maybe)} are unknown"
    return [Violation(told, tuple(map(str, last)))]
