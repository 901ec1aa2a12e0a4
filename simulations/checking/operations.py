"""What a history is made of: calls, their results, and operations with two points in time.

A call is what a client asked for, a result is what it was told. Both are plain data, and each has a
place in the JSON form of a history. Which results a call can have is one table, :data:`RESULTS`.

Values are compared as the state compares them: by their msgpack bytes, so that ``1``, ``1.0`` and
``True`` are three values, and a tuple is the list that it becomes on the wire.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

import msgpack

Consistency = Literal["session", "linearizable", "stale"]
"""How fresh a read was asked to be; the same words as in the client."""


class HistoryInvalid(ValueError):
    """Whoever records a history did it wrong, or a kept history is damaged. Says where and what."""


# -- calls --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Put:
    """Write a key, whatever is there."""

    key: str
    value: Any


@dataclass(frozen=True, slots=True)
class Get:
    """Read a key."""

    key: str
    consistency: Consistency = "session"


@dataclass(frozen=True, slots=True)
class CompareAndSet:
    """Write a key if it is at ``expected_version``; 0: if there is no such key."""

    key: str
    value: Any
    expected_version: int


@dataclass(frozen=True, slots=True)
class Delete:
    """Remove a key, if it is at ``expected_version`` where one is given."""

    key: str
    expected_version: int | None = None


@dataclass(frozen=True, slots=True)
class Submit:
    """Put an inference, or a task, into the log under an id."""

    id: str
    mode: str = "durable"


@dataclass(frozen=True, slots=True)
class Fetch:
    """Read the record of what was submitted; with ``wait``, once it is finished."""

    id: str
    wait: bool = True


@dataclass(frozen=True, slots=True)
class Send:
    """Send a message, to the processes named, or to all. The id is unique over the whole history."""

    message: str
    to: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Deliver:
    """A message is handed to the process: it happens at one point, that of the invocation."""

    message: str


# -- results ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Written:
    """The version that a write made, and the log index of it where that is known."""

    version: int
    index: int | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """A key's value and version, and the log index of the write that made it where that is known."""

    value: Any
    version: int
    index: int | None = None


@dataclass(frozen=True, slots=True)
class Absent:
    """There is no such key, or no such record."""


@dataclass(frozen=True, slots=True)
class Removed:
    """The version that a deleted key had; 0: there was no such key."""

    version: int


@dataclass(frozen=True, slots=True)
class Conflict:
    """A version was expected and another was there: the winner's; 0 with no value: no such key."""

    version: int
    value: Any = None


@dataclass(frozen=True, slots=True)
class Recorded:
    """A record as it was read: ``result`` is the outcome or a digest of it, once there is one."""

    status: str
    token: int
    node: str | None = None
    result: Any = None

    @property
    def finished(self) -> bool:
        """Whether the record may not change any more."""
        return self.status in {"done", "failed"}


@dataclass(frozen=True, slots=True)
class Done:
    """It was done, and there is nothing to tell."""


Call = Put | Get | CompareAndSet | Delete | Submit | Fetch | Send | Deliver
"""What a client can ask for."""
Result = Written | Found | Absent | Removed | Conflict | Recorded | Done
"""What a client can be told."""
KeyCall = Put | Get | CompareAndSet | Delete
"""Calls about one key."""

RESULTS: Final[Mapping[type, tuple[type, ...]]] = {
    Put: (Written,),
    Get: (Found, Absent),
    CompareAndSet: (Written, Conflict),
    Delete: (Removed, Conflict),
    Submit: (Done,),
    Fetch: (Recorded, Absent),
    Send: (Done,),
    Deliver: (Done,),
}
"""Which results each call can have."""


# -- outcomes -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Ok:
    """Acknowledged, with a result. A lost compare-and-set is one too: it was told the winner."""

    result: Result


@dataclass(frozen=True, slots=True)
class Failed:
    """Refused with the promise that nothing was changed, now or later. ``reason``: an error's code."""

    reason: str = ""


@dataclass(frozen=True, slots=True)
class Unknown:
    """No answer: it took effect, or will at any later time, or never."""

    reason: str = ""


Outcome = Ok | Failed | Unknown
"""How an operation ended for whoever asked."""


@dataclass(slots=True)
class Operation:
    """One call between two events.

    ``invoked`` and ``completed`` are positions in the history's total order of events, ``invoked_at`` and
    ``completed_at`` are seconds on the clock of whoever recorded it. All of a session's operations carry
    its name; ``request`` is what makes an effect recognisable, where there is such an id.
    """

    id: int
    process: str
    session: str
    call: Call
    invoked: int
    invoked_at: float
    request: str | None = None
    completed: int | None = None
    completed_at: float | None = None
    outcome: Outcome | None = None

    @property
    def result(self) -> Result | None:
        """What an acknowledged operation was told; ``None`` for any other."""
        return self.outcome.result if isinstance(self.outcome, Ok) else None

    @property
    def failed(self) -> bool:
        """Whether it was promised that there is no effect."""
        return isinstance(self.outcome, Failed)

    @property
    def pending(self) -> bool:
        """Whether nobody was told how it ended, so that it may still take effect."""
        return self.outcome is None or isinstance(self.outcome, Unknown)

    def before(self, other: Operation) -> bool:
        """Whether it was over, with an answer, before ``other`` began."""
        return self.completed is not None and not self.pending and self.completed < other.invoked

    def __str__(self) -> str:
        ended = "       ?" if self.completed_at is None else f"{self.completed_at:8.3f}"
        who = self.process if self.process == self.session else f"{self.process}/{self.session}"
        return f"#{self.id} {who} [{self.invoked_at:8.3f} .. {ended}] {_asked(self.call)} -> {self._told()}"

    def _told(self) -> str:
        match self.outcome:
            case Ok(result):
                return _answered(result)
            case Failed(reason):
                return f"failed {reason}".rstrip()
            case Unknown(reason):
                return f"unknown {reason}".rstrip()
        return "no answer"


def canonical(value: Any) -> bytes:
    """Return bytes that are equal for values that the state cannot tell apart."""
    data: bytes = msgpack.packb(value)
    return data


def _shown(value: Any) -> str:
    return f"{value!r:.60}"


def _asked(call: Call) -> str:
    match call:
        case Put(key, value):
            return f"put {key} = {_shown(value)}"
        case Get(key, consistency):
            return f"get {key} ({consistency})"
        case CompareAndSet(key, value, expected):
            return f"cas {key} from version {expected} to {_shown(value)}"
        case Delete(key, expected):
            return f"delete {key}" + ("" if expected is None else f" at version {expected}")
        case Submit(id_, mode):
            return f"submit {id_} ({mode})"
        case Fetch(id_, wait):
            return f"fetch {id_}" + (" when finished" if wait else "")
        case Send(message, to):
            return f"send {message} to " + ("all" if to is None else ", ".join(to))
        case Deliver(message):
            return f"deliver {message}"


def _answered(result: Result) -> str:
    match result:
        case Written(version):
            return f"version {version}"
        case Found(value, version):
            return f"{_shown(value)} at version {version}"
        case Removed(version):
            return f"removed version {version}" if version else "was not there"
        case Conflict(version, value):
            return f"conflict with version {version}" + (f", {_shown(value)}" if version else "")
        case Recorded(status, token, node, recorded):
            return f"{status} under token {token} by {node}: {_shown(recorded)}"
        case Absent():
            return "absent"
        case Done():
            return "done"
