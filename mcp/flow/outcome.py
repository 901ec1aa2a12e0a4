"""How a call ended, as far as it says something about who was called."""

from __future__ import annotations

import enum


class Outcome(enum.Enum):
    """What breakers and limits learn from a call."""

    SUCCEEDED = "succeeded"
    """It was answered. So is a caller's mistake, if finding it took as long as an answer."""
    FAILED = "failed"
    """A fault of who was called: it says nothing about its load."""
    TIMED_OUT = "timed out"
    """No answer in time: a fault, and a sign of too much load."""
    ABANDONED = "abandoned"
    """The caller went away, or was refused later on: says nothing."""
