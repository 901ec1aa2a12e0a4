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
    errors.PermissionDenied: 403,
    errors.NotFound: 404,
    errors.VersionConflict: 409,
    errors.TooLarge: 413,
    errors.Busy: 429,
    errors.Unsupported: 501,
    errors.DeadlineExceeded: 504,
    errors.MessageExpired: 504,
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


@dataclass(frozen=True, slots=True)
class Failure:
    """An answer that is none: ``status``, our ``code``, and a ``message`` for people.

    ``retry_after_s`` is there exactly where the status is 429: whole seconds from 1 on.
    """

    status: int
    code: str
    message: str
    retry_after_s: int | None = None


def failure(error: errors.McpError) -> Failure:
    """How an error is told. Never raises."""
    status = next(STATUS[kind] for kind in type(error).__mro__ if kind in STATUS)
    wait_s = _retry_after_s(error) if status == STATUS[errors.Busy] else None
    return Failure(status, error.code, error.message, wait_s)


def _retry_after_s(error: errors.McpError) -> int:
    told = error.details.get("retry_after_s")
    if isinstance(told, int | float) and 0 < told < _RETRY_AFTER_S_MAX:
        return math.ceil(told)
    return 1
