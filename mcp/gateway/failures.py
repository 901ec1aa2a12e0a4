"""Which HTTP status an error of our tree has: one table.

Too much (429) and broken (503) are never mixed: after the first a client comes back later, after the second
it goes elsewhere. What the caller got wrong is 4xx and stays wrong when it is sent again. 500 is a defect of
this library, and no input brings one about. Pure. Source of the meanings: RFC 9110, section 15.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from mcp import errors

STATUS: Final[dict[type[errors.McpError], int]] = {
    errors.InvalidArgument: 400,
    errors.InputInvalid: 400,
    errors.ModelInvalid: 400,
    errors.ConfigInvalid: 400,
    # It had no time or no hop left when it came.
    errors.MessageExpired: 400,
    errors.PermissionDenied: 403,
    errors.NotFound: 404,
    errors.VersionConflict: 409,
    errors.TooLarge: 413,
    errors.Busy: 429,
    errors.Unsupported: 501,
    errors.DeadlineExceeded: 504,
    # Whoever is at fault, this server cannot answer: another one may.
    errors.Unavailable: 503,
    errors.InferenceFailed: 503,
    errors.OutcomeUnknown: 503,
    errors.ProtocolError: 503,
    errors.AuthenticationFailed: 503,
    errors.Cancelled: 503,
    errors.SessionExpired: 503,
    errors.ProviderUnavailable: 503,
    errors.StorageError: 503,
    errors.DependencyMissing: 503,
    errors.InvariantViolated: 503,
    errors.RemoteError: 503,
    errors.Fenced: 503,
    errors.MembershipRefused: 503,
    errors.McpError: 500,
}
"""By class; a class that is not named has the status of its nearest ancestor."""

BODY_TOO_SLOW: Final = 408
_RETRY_AFTER_S_MAX: Final = 3600
_RETRY_AFTER_S: Final = 1.0
"""What is told where too much was asked for and nobody has said when there is room."""
_COME_BACK: Final = (429, 503)
_OPEN: Final = (errors.OutcomeUnknown, errors.RemoteError)
"""Errors of an attempt that say nothing of why there is no answer."""


@dataclass(frozen=True, slots=True)
class Failure:
    """An answer that is none: ``status``, our ``code``, and a ``message`` for people.

    ``retry_after_s`` is there where the status is 429, and where it is 503 and the error tells it.
    """

    status: int
    code: str
    message: str
    retry_after_s: float | None = None

    @property
    def retry_after(self) -> str | None:
        """The value of HTTP's ``Retry-After``: whole seconds, rounded up."""
        return None if self.retry_after_s is None else str(math.ceil(self.retry_after_s))


def failure(error: errors.McpError) -> Failure:
    """How an error is told. Never raises."""
    meant = _meant(error)
    status = _status(type(meant))
    return Failure(status, meant.code, error.message, _retry_after_s(meant, status))


def _status(found: type[errors.McpError]) -> int:
    return next(STATUS[kind] for kind in found.__mro__ if kind in STATUS)


def _meant(error: errors.McpError) -> errors.McpError:
    """A deadline that passed while every node refused is a refusal: of what kind the last one says."""
    last = error.details.get("last_code")
    if not isinstance(error, errors.DeadlineExceeded) or last is None:
        return error
    meant = errors.from_wire({"code": last, "message": error.message, "details": error.details})
    return meant if _status(type(meant)) in _COME_BACK and not isinstance(meant, _OPEN) else error


def _retry_after_s(error: errors.McpError, status: int) -> float | None:
    told = error.details.get("retry_after_s")
    if status in _COME_BACK and isinstance(told, int | float) and 0 < told < _RETRY_AFTER_S_MAX:
        return float(told)
    return _RETRY_AFTER_S if status == STATUS[errors.Busy] else None
