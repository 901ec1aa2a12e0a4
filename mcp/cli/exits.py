"""Which exit status stands for which error, so that a script can tell a retry from a mistake."""

from __future__ import annotations

from typing import Final

SUCCESS: Final = 0
FAILED: Final = 1
INVALID: Final = 2
UNAVAILABLE: Final = 3
REFUSED: Final = 4
NOT_FOUND: Final = 5
OUTCOME_UNKNOWN: Final = 6
INTERRUPTED: Final = 130
OUTPUT_CLOSED: Final = 141

EXPLANATION: Final = """\
Exit status: 0 done, 1 failed, 2 the command or its input is wrong, 3 nobody can answer now (try again),
4 refused or in conflict, 5 not found, 6 the outcome is unknown, 130 interrupted, 141 the reader of the
output has left."""

_STATUS: Final = {
    "INVALID_ARGUMENT": INVALID,
    "CONFIG_INVALID": INVALID,
    "INPUT_INVALID": INVALID,
    "MODEL_INVALID": INVALID,
    "TOO_LARGE": INVALID,
    "UNAVAILABLE": UNAVAILABLE,
    "NO_LEADER": UNAVAILABLE,
    "FRAME_DAMAGED": UNAVAILABLE,
    "BUSY": UNAVAILABLE,
    "RESOURCE_EXHAUSTED": UNAVAILABLE,
    "CIRCUIT_OPEN": UNAVAILABLE,
    "DEADLINE_EXCEEDED": UNAVAILABLE,
    "MODEL_NOT_READY": UNAVAILABLE,
    "DISK_FULL": UNAVAILABLE,
    "VERSION_CONFLICT": REFUSED,
    "PERMISSION_DENIED": REFUSED,
    "UNSUPPORTED": REFUSED,
    "AUTHENTICATION_FAILED": REFUSED,
    "VERSION_MISMATCH": REFUSED,
    "SESSION_EXPIRED": REFUSED,
    "FENCED": REFUSED,
    "MEMBERSHIP_REFUSED": REFUSED,
    "NAME_TAKEN": REFUSED,
    "NOT_CAUGHT_UP": UNAVAILABLE,
    "NOT_FOUND": NOT_FOUND,
    "MODEL_NOT_FOUND": NOT_FOUND,
    "OUTCOME_UNKNOWN": OUTCOME_UNKNOWN,
    "CANCELLED": INTERRUPTED,
}


def exit_status(code: str) -> int:
    """Return the exit status for an error's ``code``; 1 for those that have none of their own."""
    return _STATUS.get(code, FAILED)
