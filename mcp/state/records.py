"""The record of one inference, and the table of its states.

.. code-block:: text

    waiting --assign--> assigned --finish--> done
       |  ^                | | ^
       |  '------lose------' | '--report, release (replicated: others still owe theirs)
       '------fail-----.     |
                       failed <--fail--'

Done and failed are final. Whatever is not in the table is a defect of this package.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Final, NamedTuple

import msgpack

from mcp.state.commands import Moment
from mcp.state.packing import reader

STORY_MAX: Final = 8
"""How many of its last transitions a record remembers."""


class Status(enum.StrEnum):
    """Where an inference is. ``waiting``: no live member holds its model."""

    WAITING = "waiting"
    ASSIGNED = "assigned"
    DONE = "done"
    FAILED = "failed"


class Mode(enum.StrEnum):
    """``durable``: one node runs it. ``replicated``: every live holder does, and the results are compared."""

    DURABLE = "durable"
    REPLICATED = "replicated"


class Trigger(enum.StrEnum):
    """What moves a record."""

    ASSIGN = "assign"
    LOSE = "lose"
    REPORT = "report"
    RELEASE = "release"
    FINISH = "finish"
    FAIL = "fail"


TRANSITIONS: Final[Mapping[tuple[Status, Trigger], Status]] = {
    (Status.WAITING, Trigger.ASSIGN): Status.ASSIGNED,
    (Status.WAITING, Trigger.FAIL): Status.FAILED,
    (Status.ASSIGNED, Trigger.LOSE): Status.WAITING,
    (Status.ASSIGNED, Trigger.REPORT): Status.ASSIGNED,
    (Status.ASSIGNED, Trigger.RELEASE): Status.ASSIGNED,
    (Status.ASSIGNED, Trigger.FINISH): Status.DONE,
    (Status.ASSIGNED, Trigger.FAIL): Status.FAILED,
}
"""Every transition that there is."""


class InvalidTransition(Exception):
    """A defect: a record was moved in a way that the table does not know. The message tells its story."""

    def __init__(self, record: InferenceRecord, trigger: Trigger) -> None:
        steps = "; ".join(f"at {s.at} {s.trigger} {s.node} token {s.token}" for s in record.story)
        super().__init__(f"inference {record.id} is {record.status} and cannot {trigger}. Before: {steps}")


class Step(NamedTuple):
    """One transition: at which log index, what, whom it concerned, and the token from then on."""

    at: int
    trigger: str
    node: str
    token: int


class Report(NamedTuple):
    """How one replica's result compares with the reference. The difference is ``None`` if not finite."""

    node: str
    equal: bool
    max_abs_diff: float | None


@dataclass(frozen=True, slots=True)
class InferenceRecord:
    """One inference as it stands. Immutable: every transition makes a new one."""

    id: str
    mode: Mode
    model: str
    version: str
    digest: str
    content: bytes
    """A hash of what was submitted: the same id with other content is refused."""
    trace_id: str | None
    packed_inputs: bytes
    """Inline specs as msgpack; dropped when the record is finished."""
    index: int
    position: int
    submitted_s: float
    status: Status = Status.WAITING
    owing: tuple[str, ...] = ()
    """Who is to give a result: the assignee, or the replicas that have not reported."""
    token: int = 0
    """The fencing token of the last assignment; 0 before the first."""
    attempts: int = 0
    node: str | None = None
    """Who gave the result, or the reference so far."""
    packed_outcome: bytes = b""
    """The result, or the reference so far, as msgpack; empty while there is none."""
    reports: tuple[Report, ...] = ()
    reason: str = ""
    """Why the last assignment was lost."""
    finished_s: float | None = None
    story: tuple[Step, ...] = ()

    @property
    def finished(self) -> bool:
        """Whether the record is done or failed."""
        return self.status is Status.DONE or self.status is Status.FAILED

    @property
    def assignee(self) -> str | None:
        """The node that a durable inference is assigned to."""
        return self.owing[0] if self.owing and self.mode is Mode.DURABLE else None

    @property
    def inputs(self) -> list[dict[str, Any]]:
        """The inputs as inline specs; empty when the record is finished."""
        inputs: list[dict[str, Any]] = msgpack.unpackb(self.packed_inputs) if self.packed_inputs else []
        return inputs

    @property
    def outcome(self) -> dict[str, Any]:
        """``{"outputs"}``, ``{"digest", "size", "node"}`` or ``{"error"}``; empty while there is none."""
        outcome: dict[str, Any] = msgpack.unpackb(self.packed_outcome) if self.packed_outcome else {}
        return outcome

    def moved(
        self, trigger: Trigger, moment: Moment, node: str, changes: Mapping[str, Any]
    ) -> InferenceRecord:
        """Return the record after a transition. Raises :class:`InvalidTransition`."""
        status = TRANSITIONS.get((self.status, trigger))
        if status is None:
            raise InvalidTransition(self, trigger)
        step = Step(moment.index, trigger.value, node, changes.get("token", self.token))
        return replace(self, status=status, story=(*self.story, step)[-STORY_MAX:], **changes)

    def to_answer(self) -> dict[str, Any]:
        """Return what ``inference.submit`` answers."""
        return {
            "id": self.id,
            "status": self.status.value,
            "model": self.model,
            "version": self.version,
            "digest": self.digest,
            "assignee": self.assignee,
            "token": self.token,
        }

    def to_wire(self) -> dict[str, Any]:
        """Return the record as a client reads it. ``outputs``, ``blob``, ``error``: at most one is given."""
        outcome = self.outcome if self.finished else {}
        return {
            "id": self.id,
            "status": self.status.value,
            "mode": self.mode.value,
            "model": self.model,
            "version": self.version,
            "digest": self.digest,
            "node": self.node if self.finished else self.assignee,
            "token": self.token,
            "attempts": self.attempts,
            "outputs": outcome.get("outputs"),
            "blob": outcome if "digest" in outcome else None,
            "error": outcome.get("error"),
            "replicas": {
                report.node: {"equal": report.equal, "max_abs_diff": report.max_abs_diff}
                for report in self.reports
            },
            "owing": list(self.owing),
            "trace_id": self.trace_id,
            "submitted_s": self.submitted_s,
            "finished_s": self.finished_s,
            "index": self.index,
        }

    def to_plain(self) -> list[Any]:
        """Return plain values, equal for equal records."""
        return list(_values(self))

    @classmethod
    def from_plain(cls, plain: list[Any]) -> InferenceRecord:
        """Rebuild what :meth:`to_plain` wrote."""
        values = dict(zip(_FIELDS, plain, strict=True))
        values["mode"] = Mode(values["mode"])
        values["status"] = Status(values["status"])
        values["owing"] = tuple(values["owing"])
        values["reports"] = tuple(Report(*report) for report in values["reports"])
        values["story"] = tuple(Step(*step) for step in values["story"])
        return cls(**values)


_FIELDS: Final = tuple(field.name for field in fields(InferenceRecord))
_values: Final = reader(InferenceRecord)
