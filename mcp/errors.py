"""The one tree of errors that a user meets.

Every error has a ``code`` that is the same in Python, on every wire and on the command line; a message
that says what was wrong, what was expected and what to do next; ``retryable`` (sending the same again
later can succeed) and ``outcome_known`` (``False``: the request may have taken effect, so retry only
under the same request id). ``details`` holds plain values for programs.

The pillars have trees of their own; :mod:`mcp.node` translates them by code.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar


class McpError(Exception):
    """Root of the tree. Raised as itself only for a defect in this library or an unknown code."""

    code: ClassVar[str] = "INTERNAL"
    retryable: ClassVar[bool] = False
    outcome_known: ClassVar[bool] = True

    def __init__(self, message: str, *, details: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.details: dict[str, Any] = dict(details or {})

    def to_wire(self) -> dict[str, Any]:
        """Plain values for any codec: ``code``, ``message`` and, where there are any, ``details``."""
        wire: dict[str, Any] = {"code": self.code, "message": self.message}
        if self.details:
            wire["details"] = self.details
        return wire


class RemoteError(McpError):
    """A peer sent a code that this version does not know. ``details["code"]`` has it."""

    code = "REMOTE"


class InvalidArgument(McpError):
    """The caller's own mistake: a value that no cluster would accept. Nothing was sent."""

    code = "INVALID_ARGUMENT"


class ConfigInvalid(McpError):
    """A setting is missing, unknown or contradicts another."""

    code = "CONFIG_INVALID"


class ProtocolError(McpError):
    """A peer sent bytes that are no message of this protocol. The connection is closed."""

    code = "PROTOCOL_ERROR"


class FrameTooLarge(ProtocolError):
    """A frame is larger than ``frame_bytes_max``."""

    code = "FRAME_TOO_LARGE"


class VersionMismatch(ProtocolError):
    """The two ends speak different major versions of the protocol."""

    code = "VERSION_MISMATCH"


class AuthenticationFailed(McpError):
    """A peer could not prove that it belongs: another cluster, or another cluster key."""

    code = "AUTHENTICATION_FAILED"


class PermissionDenied(McpError):
    """The peer is known, and may not do this."""

    code = "PERMISSION_DENIED"


class Unsupported(McpError):
    """A node of the cluster runs an older version, which cannot execute this. Nothing was done."""

    code = "UNSUPPORTED"


class Unavailable(McpError):
    """Nobody can answer now: not connected, starting, stopping, or no quorum."""

    code = "UNAVAILABLE"
    retryable = True


class FrameDamaged(Unavailable):
    """What arrived is not what was sent: bytes were changed on the way. The connection is closed."""

    code = "FRAME_DAMAGED"


class NoLeader(Unavailable):
    """An election is under way, or no quorum is reachable. Nothing was written."""

    code = "NO_LEADER"


class CircuitOpen(Unavailable):
    """Calls of that model at that node failed or were too slow lately, so none is made for a while.

    ``details``: ``retry_after_s``, ``node``, ``model`` (HTTP 503).
    """

    code = "CIRCUIT_OPEN"


class Busy(McpError):
    """A named limit is reached. Nothing was done; retry later."""

    code = "BUSY"
    retryable = True


class ResourceExhausted(Busy):
    """More is asked for than is let in: a rate, a share or the load. Nothing is broken, nothing was done.

    ``details``: ``retry_after_s``, and ``reason``, which names what refused (HTTP 429).
    """

    code = "RESOURCE_EXHAUSTED"


class DeadlineExceeded(McpError):
    """The deadline passed before there was an answer, and nothing was written."""

    code = "DEADLINE_EXCEEDED"


class OutcomeUnknown(McpError):
    """The request may or may not have taken effect. Retry only under the same request id."""

    code = "OUTCOME_UNKNOWN"
    retryable = True
    outcome_known = False


class Cancelled(McpError):
    """The caller cancelled the request."""

    code = "CANCELLED"


class MessageExpired(McpError):
    """A message's hop limit or its expiry was reached before it was handled."""

    code = "MESSAGE_EXPIRED"


class SessionExpired(McpError):
    """The cluster does not know this session any more, so it cannot tell a retry from a new command."""

    code = "SESSION_EXPIRED"


class VersionConflict(McpError):
    """A compare-and-set lost. ``details``: ``key``, and the winner's ``value`` and ``version``."""

    code = "VERSION_CONFLICT"


class NotFound(McpError):
    """There is no record under that id or key."""

    code = "NOT_FOUND"


class ModelNotFound(NotFound):
    """No model answers to that hint. ``details["candidates"]`` lists those that exist."""

    code = "MODEL_NOT_FOUND"


class ModelNotReady(Unavailable):
    """The model is agreed on, but this node has not loaded it yet."""

    code = "MODEL_NOT_READY"


class ModelInvalid(McpError):
    """The bytes are no model that can be served."""

    code = "MODEL_INVALID"


class InputInvalid(McpError):
    """An input's name, type or shape is not what the model declares."""

    code = "INPUT_INVALID"


class InferenceFailed(McpError):
    """The model was run and failed."""

    code = "INFERENCE_FAILED"


class ProviderUnavailable(McpError):
    """An execution provider was asked for that the node lacks, and no fallback was allowed."""

    code = "PROVIDER_UNAVAILABLE"


class Fenced(McpError):
    """A result came with a fencing token that is not the current one. It was not recorded."""

    code = "FENCED"


class MembershipRefused(McpError):
    """A change of the cluster's members makes no sense, or is not safe as things are. Nothing was changed."""

    code = "MEMBERSHIP_REFUSED"


class NameTaken(MembershipRefused):
    """Another process has this node's name and is alive. One name is one process, with one data directory."""

    code = "NAME_TAKEN"


class NotCaughtUp(MembershipRefused):
    """An observer lags too far behind the log to vote. Nothing was changed; promote it later."""

    code = "NOT_CAUGHT_UP"
    retryable = True


class TooLarge(McpError):
    """A value is over a named limit."""

    code = "TOO_LARGE"


class StorageError(McpError):
    """The node's disk refused: damaged, failed or unusable."""

    code = "STORAGE"


class StorageLocked(StorageError):
    """Another process uses the data directory."""

    code = "STORAGE_LOCKED"


class StorageCorrupt(StorageError):
    """Stored bytes are damaged. The message names the file and the offset."""

    code = "STORAGE_CORRUPT"


class DiskFull(StorageError):
    """No room on the node's disk. Nothing is acknowledged until there is."""

    code = "DISK_FULL"
    retryable = True


class InvariantViolated(McpError):
    """A rule that the consensus guarantees did not hold, so the node stopped before it did harm."""

    code = "INVARIANT_VIOLATED"
    outcome_known = False


class DependencyMissing(McpError):
    """A package that this operation needs is not installed."""

    code = "DEPENDENCY_MISSING"


def _tree(root: type[McpError]) -> dict[str, type[McpError]]:
    known = {root.code: root}
    for child in root.__subclasses__():
        known.update(_tree(child))
    return known


def from_wire(wire: Mapping[str, Any]) -> McpError:
    """The error that a peer sent, as an exception of this tree.

    An unknown code gives a :class:`RemoteError`. Never raises, whatever the values are.
    """
    code = str(wire.get("code", "REMOTE"))
    message = str(wire.get("message", "the peer gave no message"))
    details = wire.get("details")
    plain = dict(details) if isinstance(details, Mapping) else {}
    kind = _tree(McpError).get(code)
    if kind is None:
        return RemoteError(f"{code}: {message}", details={**plain, "code": code})
    return kind(message, details=plain)
