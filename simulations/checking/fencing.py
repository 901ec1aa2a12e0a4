"""Work that is done once in effect: leases are fenced, records are final, and what was accepted ends.

A lease is void from the moment another is granted, though its holder may not know it. So every grant
carries a token from one counter that only grows, and a result counts only under the token of the
current grant: a holder that was taken for dead, and finishes late, changes nothing. The work may be done many
times, and its result is recorded once. Two checks, for the two sides that can be seen:

*Inside*, over the steps that one replica applied: every grant's token is above all that were granted
before, of any task; a result is recorded of the current grant's node under its token, and only one; what
is refused (``FENCED``) would indeed have been wrong to record.

*Outside*, over what clients read: a finished record never changes or disappears, whoever reads it; within
a session neither status nor token goes back, and what the session submitted is there; nothing is read that
nobody submitted, or that failed to be submitted; with ``settled``, every acknowledged submission was seen to
end.

Not covered: whether a result is right; how often the work was done; inside, tasks that several nodes run
under one grant (replicated inferences), whose late reports change no result.

Sources: Gray and Cheriton, "Leases: An Efficient Fault-Tolerant Mechanism for Distributed File Cache
Consistency", 1989; Kleppmann, "How to do distributed locking", 2016 (fencing tokens).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from simulations.checking.history import History
from simulations.checking.operations import Absent, Fetch, Operation, Recorded, Submit, canonical
from simulations.checking.verdict import Verdict, Violation, verdict

FENCING: Final = "fencing"
RECORDS: Final = "one recorded result"
_RANKS: Final = {"waiting": 0, "assigned": 0, "done": 1, "failed": 1}


@dataclass(frozen=True, slots=True)
class Granted:
    """Task ``id`` was assigned to ``node`` under ``token``."""

    id: str
    node: str
    token: int


@dataclass(frozen=True, slots=True)
class Reported:
    """``node`` gave a result under ``token``; ``accepted``: it was recorded, else it was refused.

    The same report again, which changes nothing, counts as accepted.
    """

    id: str
    node: str
    token: int
    result: Any
    accepted: bool


@dataclass(frozen=True, slots=True)
class Revoked:
    """The current grant of task ``id`` is void: its node was lost, or gave it up. None need follow."""

    id: str


Step = Granted | Reported | Revoked
"""What a replica applied about a task, in the order of its log."""


def check_fencing(steps: Sequence[Step]) -> Verdict:
    """Check the steps of one replica, in order."""
    fence = _Fence()
    for step in steps:
        if isinstance(step, Granted):
            fence.grant(step)
        elif isinstance(step, Revoked):
            fence.revoke(step)
        else:
            fence.report(step)
    return verdict(FENCING, len(steps), fence.violations)


class _Fence:
    def __init__(self) -> None:
        self.violations: list[Violation] = []
        self._highest: Granted | None = None
        self._grants: dict[str, Granted] = {}
        self._records: dict[str, Reported] = {}

    def grant(self, step: Granted) -> None:
        if self._highest is not None and step.token <= self._highest.token:
            self._accuse(
                f"token {step.token} was granted after token {self._highest.token}", self._highest, step
            )
        else:
            self._highest = step
        if step.id in self._records:
            self._accuse(
                f"task {step.id} was granted after its result was recorded", self._records[step.id], step
            )
        self._grants[step.id] = step

    def revoke(self, step: Revoked) -> None:
        self._grants.pop(step.id, None)

    def report(self, step: Reported) -> None:
        grant, record = self._grants.get(step.id), self._records.get(step.id)
        if record is not None:
            self._again(step, record)
        elif grant is None or (grant.node, grant.token) != (step.node, step.token):
            if step.accepted:
                what = f"a result of task {step.id} was recorded under a grant that is not the current one"
                self._accuse(what, *([] if grant is None else [grant]), step)
        elif step.accepted:
            self._records[step.id] = step
        else:
            self._accuse(f"the holder of task {step.id} was refused under its current token", grant, step)

    def _again(self, step: Reported, record: Reported) -> None:
        if step.accepted and _content(step) != _content(record):
            self._accuse(f"two results of task {step.id} were recorded", record, step)

    def _accuse(self, what: str, *steps: Step) -> None:
        self.violations.append(Violation(what, tuple(map(str, steps))))


def _content(step: Reported) -> tuple[str, int, bytes]:
    return step.node, step.token, canonical(step.result)


def check_records(history: History, *, settled: bool = False, forgets: bool = False) -> Verdict:
    """Check what clients read of what they submitted.

    ``settled``: every acknowledged submission was awaited. ``forgets``: the oldest finished records may
    have been dropped, so that absence after the end is no violation.
    """
    check = _Records(history, forgets)
    events = [(o.invoked, o, False) for o in check.operations]
    events += [(o.completed, o, True) for o in check.operations if o.completed is not None]
    for _, operation, completed in sorted(events, key=lambda event: event[0]):
        if completed:
            check.complete(operation)
        else:
            check.invoke(operation)
    if settled:
        check.settle()
    return verdict(RECORDS, len(check.operations), check.violations)


class _Records:
    def __init__(self, history: History, forgets: bool) -> None:
        self.operations = [o for o in history if isinstance(o.call, Submit | Fetch)]
        self.violations: list[Violation] = []
        self._forgets = forgets
        self._submissions: dict[str, list[Operation]] = {}
        self._ends: dict[str, Operation] = {}
        self._views: dict[tuple[str, str], Operation] = {}
        self._floors: dict[int, Operation | None] = {}

    def invoke(self, operation: Operation) -> None:
        self._floors[operation.id] = self._views.get((operation.session, _id(operation)))
        if isinstance(operation.call, Submit):
            self._submissions.setdefault(operation.call.id, []).append(operation)

    def complete(self, operation: Operation) -> None:
        earlier = self._floors.pop(operation.id)
        if operation.result is None:
            return
        if isinstance(operation.result, Recorded):
            self._recorded(operation, operation.result, earlier)
        elif isinstance(operation.result, Absent):
            self._absent(operation, earlier)
        if not isinstance(operation.result, Absent):
            self._see(operation)

    def _see(self, operation: Operation) -> None:
        """Remember the most that the session knows of a record."""
        name = operation.session, _id(operation)
        before = self._views.get(name)
        if before is None or _standing(operation) > _standing(before):
            self._views[name] = operation

    def _recorded(self, operation: Operation, record: Recorded, earlier: Operation | None) -> None:
        submissions = self._submissions.get(_id(operation), [])
        if all(o.failed for o in submissions):
            why = "and submitting it had failed" if submissions else "and nobody had submitted it"
            self._accuse(f"{_id(operation)} was read {why}", *submissions, operation)
        if earlier is not None and _went_back(_standing(operation), _standing(earlier)):
            self._accuse(f"{_id(operation)} went back in its session", earlier, operation)
        if record.status not in _RANKS:
            self._accuse(f"{_id(operation)} was read with an unknown status", operation)
        if isinstance(operation.call, Fetch) and operation.call.wait and not record.finished:
            self._accuse(f"{_id(operation)} was awaited, and the answer is not the end of it", operation)
        if record.finished:
            end = self._ends.setdefault(_id(operation), operation)
            if _end(end) != _end(operation):
                self._accuse(f"{_id(operation)} ended in two ways", end, operation)

    def _absent(self, operation: Operation, earlier: Operation | None) -> None:
        if earlier is not None and not (self._forgets and _id(operation) in self._ends):
            self._accuse(f"{_id(operation)} is gone", earlier, operation)

    def settle(self) -> None:
        """Say which acknowledged submissions nobody has seen to end."""
        for id_, submissions in self._submissions.items():
            if id_ not in self._ends and any(o.result is not None for o in submissions):
                self._accuse(f"{id_} was acknowledged and never seen to end", *submissions)

    def _accuse(self, what: str, *operations: Operation) -> None:
        story = sorted({o.id: o for o in operations}.values(), key=lambda o: o.invoked)
        self.violations.append(Violation(what, tuple(map(str, story))))


def _id(operation: Operation) -> str:
    assert isinstance(operation.call, Submit | Fetch)
    return operation.call.id


def _standing(operation: Operation) -> tuple[int, int]:
    """How far a record was: its end counts most, then its token. A submission knows of neither."""
    record = operation.result
    return (_RANKS.get(record.status, 0), record.token) if isinstance(record, Recorded) else (0, 0)


def _went_back(now: tuple[int, int], before: tuple[int, int]) -> bool:
    return now[0] < before[0] or now[1] < before[1]


def _end(operation: Operation) -> tuple[str, int, str | None, bytes]:
    record = operation.result
    assert isinstance(record, Recorded)
    return record.status, record.token, record.node, canonical(record.result)
