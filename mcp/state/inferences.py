"""Durable and replicated inferences: who runs what, and which result counts.

A durable inference is assigned to one live member that holds its model. An assignment carries a fencing
token from a counter that only grows. A result is recorded only with the token of the current assignment:
a node that was taken for dead, and finishes late, cannot overwrite the result of the one that took over.
So the model may run several times, and the result is recorded once.

A replicated inference is asked of every live member that holds the model. The first result is the
reference that the others are compared with; it is finished when every one of them has reported or is gone.

Whatever is decided here is decided from the agreed order alone: the least loaded member, ties by
rendezvous hashing, so equal states choose the same node.

Sources: Gray and Cheriton, "Leases", 1989; Kleppmann, "How to do distributed locking", 2016 (fencing
tokens); Thaler and Ravishankar, "Using Name-Based Mappings to Increase Hit Rates", 1998 (rendezvous).
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Final

from mcp.errors import Busy, Fenced, InferenceFailed, InvalidArgument, McpError, ModelNotFound, NotFound
from mcp.plain import shown
from mcp.state import arguments
from mcp.state.arguments import ID, NODE
from mcp.state.commands import Moment
from mcp.state.events import Event, InferenceAssigned, InferenceFinished, ReplicaDiverged, ReplicatedRequested
from mcp.state.limits import StateLimits
from mcp.state.members import Members
from mcp.state.models import HINT_BYTES_MAX, Models
from mcp.state.outcomes import DETERMINISTIC_ERRORS, pack, read_outcome, read_tensors
from mcp.state.records import InferenceRecord, Mode, Report, Status, Trigger
from mcp.state.replicas import compare

TRACE_BYTES_MAX: Final = 256
REASON_BYTES_MAX: Final = 512
BLOB_OUTCOME_BYTES_MAX: Final = 512
"""No outcome that names a blob is larger: a digest, a size, a node and a difference."""

_SUBMIT: Final = frozenset({"id", "model_hint", "inputs", "mode"})
_TRACE: Final = frozenset({"trace_id"})
_COMPLETE: Final = frozenset({"id", "node", "token", "outcome"})
_REASSIGN: Final = frozenset({"id", "token", "reason"})
_REPORT: Final = frozenset({"id", "node", "outcome"})
_READ: Final = frozenset({"id"})

Answer = tuple[dict[str, Any], list[Event]]


class Inferences:
    """The inferences: all that are not finished, and the latest that are."""

    def __init__(self, limits: StateLimits, members: Members, models: Models) -> None:
        self._limits = limits
        self._members = members
        self._models = models
        self._records: dict[str, InferenceRecord] = {}
        self._waiting: set[str] = set()
        # Of each node, in the order of the tokens: a record is filed anew whenever it gets a new one.
        self._owed: dict[str, dict[str, None]] = {}
        self._finished: OrderedDict[str, None] = OrderedDict()
        self._inputs_bytes = 0
        self._outcomes_bytes = 0
        self._token = 0
        self.done = 0
        """Inferences that have finished with a result."""
        self.failed = 0
        """Inferences that have finished with an error."""
        self.diverged = 0
        """Replicas that gave another result than the reference."""

    def __len__(self) -> int:
        return len(self._records)

    @property
    def unfinished(self) -> int:
        """How many are waiting or assigned."""
        return len(self._records) - len(self._finished)

    @property
    def waiting(self) -> int:
        """How many wait for a live member that holds their model."""
        return len(self._waiting)

    def get(self, inference: str) -> InferenceRecord | None:
        """Return the record with this id, or ``None``."""
        return self._records.get(inference)

    def owed_by(self, node: str) -> list[InferenceRecord]:
        """Return what ``node`` is to run, of both modes, in the order of the assignments."""
        return [self._records[inference] for inference in self._owed.get(node, ())]

    def owes(self, node: str, inference: str, token: int) -> bool:
        """Say whether ``node`` is still to run this inference under this token."""
        record = self._records.get(inference)
        return record is not None and record.token == token and node in record.owing

    def blobs(self) -> set[str]:
        """Return the digests of all results that are kept as blobs."""
        small = (r for r in self._records.values() if 0 < len(r.packed_outcome) <= BLOB_OUTCOME_BYTES_MAX)
        return {outcome["digest"] for record in small if "digest" in (outcome := record.outcome)}

    def assigned_to(self, node: str) -> list[InferenceRecord]:
        """Return the durable inferences that ``node`` is to complete."""
        return [record for record in self.owed_by(node) if record.mode is Mode.DURABLE]

    def expected_of(self, node: str) -> list[InferenceRecord]:
        """Return the replicated inferences that ``node`` is to report."""
        return [record for record in self.owed_by(node) if record.mode is Mode.REPLICATED]

    def read(self, args: dict[str, Any]) -> dict[str, Any] | None:
        """``{id}``: return the record as plain values, or ``None``."""
        arguments.only(args, _READ)
        record = self._records.get(arguments.matching(args["id"], "id", ID))
        return None if record is None else record.to_wire()

    # -- operations ---------------------------------------------------------------------------------

    def submit(self, args: dict[str, Any], moment: Moment) -> Answer:
        """``{id, model_hint, inputs, mode, trace_id?}``: take an inference and say who runs it.

        The same id with the same content again gives the record's answer as it is by now. Raises
        :class:`~mcp.errors.ModelNotFound`, :class:`~mcp.errors.Busy` and, when the id is taken by other
        content or an argument is bad, :class:`~mcp.errors.InvalidArgument` and its like.
        """
        arguments.only(args, _SUBMIT, _TRACE)
        inference = arguments.matching(args["id"], "id", ID)
        hint = arguments.text(args["model_hint"], "model_hint", HINT_BYTES_MAX, bytes_min=1)
        mode = _mode(args["mode"])
        trace_id = args.get("trace_id")
        if trace_id is not None:
            arguments.text(trace_id, "trace_id", TRACE_BYTES_MAX)
        inputs = pack(read_tensors(args["inputs"], "inputs", self._limits))
        content = hashlib.sha256(pack([hint, mode.value, inputs])).digest()
        known = self._records.get(inference)
        if known is not None:
            if known.content != content:
                raise InvalidArgument(
                    f"inference {inference} was submitted with other content; choose a new id"
                )
            return known.to_answer(), []
        model = self._models.resolve(hint)
        self._check_room(len(inputs))
        record = InferenceRecord(
            id=inference,
            mode=mode,
            model=model.name,
            version=model.version,
            digest=model.digest,
            content=content,
            trace_id=trace_id,
            packed_inputs=inputs,
            index=moment.index,
            position=moment.position,
            submitted_s=moment.time_s,
        )
        self._put(record)
        events = self._dispatch(record, moment)
        return self._records[inference].to_answer(), events

    def complete(self, args: dict[str, Any], moment: Moment) -> Answer:
        """``{id, node, token, outcome}``: the assignee's result.

        An error that another node need not meet leads to another attempt. The same result again changes
        nothing. Raises :class:`~mcp.errors.Fenced` unless node and token are those of the current
        assignment, and :class:`~mcp.errors.NotFound`.
        """
        arguments.only(args, _COMPLETE)
        node = arguments.matching(args["node"], "node", NODE)
        token = arguments.integer(args["token"], "token")
        outcome = read_outcome(args["outcome"], self._limits)
        record = self._of_mode(args["id"], Mode.DURABLE)
        packed = pack(outcome)
        if record.finished and (record.node, record.token, record.packed_outcome) == (node, token, packed):
            return {}, []
        if record.assignee != node or record.token != token:
            raise _fenced(record, f"a result of {node} with token {token}")
        error = outcome.get("error")
        if error is None:
            return {}, self._finish(record, moment, Trigger.FINISH, node, packed)
        if error["code"] in DETERMINISTIC_ERRORS:
            return {}, self._finish(record, moment, Trigger.FAIL, node, packed)
        reason = f"{node}: {error['code']}: {error['message']}"
        return {}, self._lose(record, moment, reason, avoid=node)

    def reassign(self, args: dict[str, Any], moment: Moment) -> Answer:
        """``{id, token, reason}``: take the inference away from its assignee, if the token is current.

        Raises :class:`~mcp.errors.Fenced` otherwise, and :class:`~mcp.errors.NotFound`.
        """
        arguments.only(args, _REASSIGN)
        token = arguments.integer(args["token"], "token")
        reason = arguments.text(args["reason"], "reason", REASON_BYTES_MAX)
        record = self._of_mode(args["id"], Mode.DURABLE)
        if record.assignee is None or record.token != token:
            raise _fenced(record, f"a reassignment of token {token}")
        return {}, self._lose(record, moment, reason, avoid=record.assignee)

    def report(self, args: dict[str, Any], moment: Moment) -> Answer:
        """``{id, node, outcome}``: one replica's result. A second one of the same node changes nothing.

        Raises :class:`~mcp.errors.Fenced` when the node is not expected to report, and
        :class:`~mcp.errors.NotFound`.
        """
        arguments.only(args, _REPORT)
        node = arguments.matching(args["node"], "node", NODE)
        outcome = read_outcome(args["outcome"], self._limits)
        record = self._of_mode(args["id"], Mode.REPLICATED)
        if any(report.node == node for report in record.reports):
            return {}, []
        if node not in record.owing:
            raise _fenced(record, f"a report of {node}")
        changes, events = self._compared(record, node, outcome)
        self.diverged += len(events)
        changes["owing"] = tuple(other for other in record.owing if other != node)
        record = self._move(record, Trigger.REPORT, moment, node, changes)
        return {}, events + self._conclude(record, moment)

    # -- what other machines tell -------------------------------------------------------------------

    def lost(self, node: str, moment: Moment) -> list[Event]:
        """``node`` is down, or has started again: nobody runs any more what it was to run."""
        events: list[Event] = []
        for record in self.owed_by(node):
            if record.mode is Mode.DURABLE:
                events += self._lose(record, moment, f"{node} is down or was restarted")
                continue
            owing = tuple(other for other in record.owing if other != node)
            record = self._move(record, Trigger.RELEASE, moment, node, {"owing": owing})  # noqa: PLW2901
            events += self._conclude(record, moment)
        return events

    def wake(self, moment: Moment) -> list[Event]:
        """Members, holders or models have changed: assign what waits, in the order of submission."""
        waiting = [self._records[inference] for inference in self._waiting]
        waiting.sort(key=lambda record: (record.index, record.position))
        return [event for record in waiting for event in self._dispatch(record, moment)]

    # -- transitions --------------------------------------------------------------------------------

    def _dispatch(self, record: InferenceRecord, moment: Moment, avoid: str | None = None) -> list[Event]:
        """Assign a waiting record, leave it waiting, or let it fail for good."""
        model = self._models.get(record.model, record.version)
        if model is None or model.digest != record.digest:
            gone = ModelNotFound(f"{record.model} {record.version} was undeployed before it could be run")
            return self._fail(record, moment, gone)
        if record.attempts >= self._limits.attempts_max:
            return self._fail(record, moment, _exhausted(record))
        live = [node for node in model.holders if self._members.is_up(node)]
        if not live:
            return []
        replicated = record.mode is Mode.REPLICATED
        owing = tuple(live) if replicated else (self._pick(record.id, live, avoid),)
        self._token += 1
        changes = {"owing": owing, "token": self._token, "attempts": record.attempts + 1}
        record = self._move(record, Trigger.ASSIGN, moment, " ".join(owing), changes)
        if replicated:
            return [ReplicatedRequested(record.id, owing)]
        return [InferenceAssigned(record.id, owing[0], record.token)]

    def _pick(self, inference: str, live: list[str], avoid: str | None) -> str:
        def preference(node: str) -> tuple[bool, int, bytes]:
            weight = hashlib.sha256(f"{inference} {node}".encode()).digest()
            return node != avoid, -len(self._owed.get(node, ())), weight

        return max(live, key=preference)

    def _lose(
        self, record: InferenceRecord, moment: Moment, reason: str, avoid: str | None = None
    ) -> list[Event]:
        changes = {"owing": (), "reason": reason[:REASON_BYTES_MAX]}
        record = self._move(record, Trigger.LOSE, moment, " ".join(record.owing), changes)
        return self._dispatch(record, moment, avoid)

    def _compared(
        self, record: InferenceRecord, node: str, outcome: dict[str, Any]
    ) -> tuple[dict[str, Any], list[Event]]:
        """Compare a report with the reference, or make it that: a result takes over from an error."""
        reference = record.outcome
        earlier = record.reports
        events: list[Event] = []
        if not reference or ("error" in reference and "error" not in outcome):
            earlier = tuple(Report(report.node, False, None) for report in earlier)
            events += [ReplicaDiverged(record.id, report.node, None) for report in earlier]
            report = Report(node, True, None if "error" in outcome else 0.0)
            return {"reports": (*earlier, report), "node": node, "packed_outcome": pack(outcome)}, events
        equal, difference = compare(reference, outcome)
        if not equal:
            events.append(ReplicaDiverged(record.id, node, difference))
        return {"reports": (*earlier, Report(node, equal, difference))}, events

    def _conclude(self, record: InferenceRecord, moment: Moment) -> list[Event]:
        """Finish a replicated inference when nobody owes a report; ask again when nobody gave one."""
        if record.owing:
            return []
        if record.node is None:
            return self._lose(record, moment, "every replica is down or was restarted")
        trigger = Trigger.FAIL if "error" in record.outcome else Trigger.FINISH
        return self._finish(record, moment, trigger, record.node, record.packed_outcome)

    def _fail(self, record: InferenceRecord, moment: Moment, error: McpError) -> list[Event]:
        return self._finish(record, moment, Trigger.FAIL, None, pack({"error": error.to_wire()}))

    def _finish(
        self, record: InferenceRecord, moment: Moment, trigger: Trigger, node: str | None, outcome: bytes
    ) -> list[Event]:
        changes = {
            "owing": (),
            "node": node,
            "packed_outcome": outcome,
            "packed_inputs": b"",
            "finished_s": moment.time_s,
        }
        record = self._move(record, trigger, moment, node or "", changes)
        if trigger is Trigger.FINISH:
            self.done += 1
        else:
            self.failed += 1
        self._trim()
        return [InferenceFinished(record.id, record.status.value)]

    def _move(
        self, record: InferenceRecord, trigger: Trigger, moment: Moment, node: str, changes: dict[str, Any]
    ) -> InferenceRecord:
        moved = record.moved(trigger, moment, node, changes)
        self._put(moved)
        return moved

    # -- indexes and bounds -------------------------------------------------------------------------

    def _put(self, record: InferenceRecord) -> None:
        before = self._records.get(record.id)
        if before is not None:
            self._unindex(before, record.owing)
        self._records[record.id] = record
        self._inputs_bytes += len(record.packed_inputs)
        self._outcomes_bytes += len(record.packed_outcome)
        if record.finished:
            self._finished[record.id] = None
        elif record.status is Status.WAITING:
            self._waiting.add(record.id)
        for node in record.owing:
            self._owed.setdefault(node, {}).setdefault(record.id)

    def _unindex(self, record: InferenceRecord, still_owing: tuple[str, ...] = ()) -> None:
        self._inputs_bytes -= len(record.packed_inputs)
        self._outcomes_bytes -= len(record.packed_outcome)
        self._waiting.discard(record.id)
        for node in record.owing:
            if node in still_owing:
                continue
            del self._owed[node][record.id]
            if not self._owed[node]:
                del self._owed[node]

    def _trim(self) -> None:
        limits = self._limits
        while len(self._finished) > limits.finished_max or (
            self._outcomes_bytes > limits.finished_bytes_max and len(self._finished) > 1
        ):
            oldest, _ = self._finished.popitem(last=False)
            self._unindex(self._records.pop(oldest))

    def _check_room(self, size: int) -> None:
        limits = self._limits
        if self.unfinished >= limits.inferences_max:
            raise Busy(f"inferences_max={limits.inferences_max} are not finished; retry later")
        if self._inputs_bytes + size > limits.inferences_bytes_max:
            raise Busy(
                f"inferences_bytes_max={limits.inferences_bytes_max} is reached by the inputs of what is not "
                "finished; retry later"
            )

    def _of_mode(self, inference: object, mode: Mode) -> InferenceRecord:
        record = self._records.get(arguments.matching(inference, "id", ID))
        if record is None:
            raise NotFound(f"there is no inference {inference}; it was never submitted, or finished long ago")
        if record.mode is not mode:
            raise InvalidArgument(f"inference {inference} is {record.mode}, and this is for {mode} ones")
        return record

    def to_plain(self) -> list[Any]:
        """Return plain values, equal for equal inferences."""
        return self.frozen()()

    def frozen(self) -> Callable[[], list[Any]]:
        """What :meth:`to_plain` gives, of now. The call may come later, and from another thread."""
        records, order = dict(self._records), tuple(self._finished)
        counts = self._token, self.done, self.failed, self.diverged

        def plain() -> list[Any]:
            finished = [records[inference].to_plain() for inference in order]
            active = [record.to_plain() for _, record in sorted(records.items()) if not record.finished]
            return [active, finished, *counts]

        return plain

    @classmethod
    def from_plain(
        cls, plain: list[Any], limits: StateLimits, members: Members, models: Models
    ) -> Inferences:
        """Rebuild what :meth:`to_plain` wrote."""
        inferences = cls(limits, members, models)
        active, finished, inferences._token, *counts = plain
        inferences.done, inferences.failed, inferences.diverged = counts
        records = [InferenceRecord.from_plain(record) for record in active]
        records.sort(key=lambda record: record.token)
        for record in records + [InferenceRecord.from_plain(record) for record in finished]:
            inferences._put(record)
        return inferences


def _mode(value: object) -> Mode:
    if type(value) is not str or value not in set(Mode):
        raise InvalidArgument(f'mode is "durable" or "replicated", not {shown(value)}')
    return Mode(value)


def _fenced(record: InferenceRecord, what: str) -> Fenced:
    return Fenced(
        f"{what} for inference {record.id} was not recorded: it is {record.status}, with token "
        f"{record.token} and owed by {', '.join(record.owing) or 'nobody'}",
        details={"token": record.token, "status": record.status.value, "owing": list(record.owing)},
    )


def _exhausted(record: InferenceRecord) -> InferenceFailed:
    return InferenceFailed(
        f"given up after {record.attempts} attempts, the last of which was lost: {record.reason}",
        details={"attempts": record.attempts},
    )
