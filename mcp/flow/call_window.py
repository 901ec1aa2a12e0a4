"""The latest calls of a breaker: how many there were, how many failed, how many were slow.

*The latest* are the last N calls, or those of the last seconds. The second is counted in
:data:`SLOTS` slots of equal length, so that its memory does not grow with the calls: the slot that has begun
and the nine before it, together at least nine tenths of the window and at most all of it.
"""

from __future__ import annotations

from collections import deque
from typing import Final, Protocol

FAILED: Final = 1
"""The call failed."""
SLOW: Final = 2
"""The call was slow."""
SLOTS: Final = 10
"""Slots of a window of time."""
CALLS_MAX: Final = 10_000
"""The longest window of calls."""


class CallWindow(Protocol):
    """Counts of the latest calls."""

    calls: int
    failed: int
    slow: int

    def add(self, now: float, verdict: int) -> None:
        """A call ended now: :data:`FAILED`, :data:`SLOW`, their sum or 0."""

    def clear(self) -> None:
        """Forget all."""


class LastCalls:
    """The last ``size`` calls."""

    __slots__ = ("_log", "_size", "calls", "failed", "slow")

    def __init__(self, size: int) -> None:
        self._size = size
        self._log: deque[int] = deque()
        self.calls = 0
        self.failed = 0
        self.slow = 0

    def add(self, now: float, verdict: int) -> None:
        """See :meth:`CallWindow.add`."""
        if self.calls >= self._size:
            oldest = self._log.popleft()
            if oldest:
                self.failed -= oldest & FAILED
                self.slow -= oldest >> 1
        else:
            self.calls += 1
        self._log.append(verdict)
        if verdict:
            self.failed += verdict & FAILED
            self.slow += verdict >> 1

    def clear(self) -> None:
        """See :meth:`CallWindow.clear`."""
        self._log.clear()
        self.calls = self.failed = self.slow = 0


class LastSeconds:
    """The calls of the last ``length_s`` seconds, as of the latest call."""

    __slots__ = ("_slot_s", "_slots", "calls", "failed", "slow")

    def __init__(self, length_s: float) -> None:
        self._slot_s = length_s / SLOTS
        self._slots: deque[list[int]] = deque()
        self.calls = 0
        self.failed = 0
        self.slow = 0

    def add(self, now: float, verdict: int) -> None:
        """See :meth:`CallWindow.add`."""
        number = int(now // self._slot_s)
        slots = self._slots
        while slots and slots[0][0] <= number - SLOTS:
            _, calls, failures, slows = slots.popleft()
            self.calls -= calls
            self.failed -= failures
            self.slow -= slows
        if not slots or slots[-1][0] < number:
            slots.append([number, 0, 0, 0])
        last = slots[-1]
        last[1] += 1
        last[2] += verdict & FAILED
        last[3] += verdict >> 1
        self.calls += 1
        self.failed += verdict & FAILED
        self.slow += verdict >> 1

    def clear(self) -> None:
        """See :meth:`CallWindow.clear`."""
        self._slots.clear()
        self.calls = self.failed = self.slow = 0
