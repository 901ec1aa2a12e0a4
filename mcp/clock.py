"""The only module that reads the clock or draws randomness.

Everything else takes time and randomness as arguments, so that a test or a simulation can decide
them. Replace a :class:`Clock` to run a node in virtual time.
"""

from __future__ import annotations

import os
import random
import time
from typing import Protocol


class Clock(Protocol):
    """A source of time and randomness."""

    def monotonic(self) -> float:
        """Seconds on a clock that never goes back. Its zero means nothing."""

    def wall(self) -> float:
        """Seconds since the epoch. May jump."""

    def entropy(self, size: int) -> bytes:
        """``size`` unpredictable bytes."""

    def random(self) -> random.Random:
        """A generator of its own, seeded from :meth:`entropy`."""


class SystemClock:
    """The operating system's clock and entropy."""

    monotonic = staticmethod(time.monotonic)  # asked several times for a request: without a call in between

    def wall(self) -> float:
        """Seconds since the epoch on the system's clock."""
        return time.time()

    def entropy(self, size: int) -> bytes:
        """``size`` bytes from the operating system's generator."""
        return os.urandom(size)

    def random(self) -> random.Random:
        """A generator seeded with 128 bits from the operating system."""
        return random.Random(self.entropy(16))


def new_id(clock: Clock) -> str:
    """A fresh 128-bit identifier, 32 hexadecimal digits."""
    return clock.entropy(16).hex()
