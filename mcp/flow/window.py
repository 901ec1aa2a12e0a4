"""Sliding window: at most so much in *any* time of that length, wherever it begins.

Exact for amounts up to :data:`LOG_ENTRIES_MAX`: every admission is kept with its time until it leaves the
window. For larger amounts admissions are gathered into that many slots of equal length, and a slot counts
until its end has left the window. Still no window ever holds more than the amount; what is let in may only
count up to one slot, a thousandth of the window, longer than it should.
"""

from __future__ import annotations

import math
from collections import deque
from typing import Final, Self

from mcp.flow.limiter import ADMITTED, TICKS_PER_S, Rate, Refused, Verdict, check_cost, seconds_until

LOG_ENTRIES_MAX: Final = 1024
"""Admissions, or slots of them, that one window remembers."""


class SlidingWindow:
    """Lets in ``rate.amount`` within any ``rate.per_s`` seconds: in (now - per_s, now]. Starts empty."""

    __slots__ = ("_amount", "_at", "_log", "_per", "_step", "_total")

    def __init__(self, rate: Rate) -> None:
        self._amount = rate.amount
        self._per = rate.per_ticks
        self._step = 1 if rate.amount <= LOG_ENTRIES_MAX else -(-self._per // LOG_ENTRIES_MAX)
        self._log: deque[list[int]] = deque()
        self._total = 0
        self._at = -(1 << 62)

    def admit(self, now: float, cost: int = 1) -> Verdict:
        """See :meth:`mcp.flow.limiter.Limiter.admit`. A refusal of a large cost may look at the whole log."""
        asked_at = int(now * TICKS_PER_S)
        self._at = max(self._at, asked_at)
        log = self._log
        horizon = self._at - self._per
        while log and log[0][0] <= horizon:
            self._total -= log.popleft()[1]
        check_cost(cost)
        if self._total + cost > self._amount:
            return self._refusal(cost, asked_at)
        self._total += cost
        last_tick = self._at - self._at % self._step + self._step - 1
        if log and log[-1][0] == last_tick:
            log[-1][1] += cost
        else:
            log.append([last_tick, cost])
        return ADMITTED

    def _refusal(self, cost: int, asked_at: int) -> Refused:
        missing = self._total + cost - self._amount
        for tick, spent in self._log:
            missing -= spent
            if missing <= 0:
                return Refused(seconds_until(tick + self._per, asked_at))
        return Refused(math.inf)

    def undo(self, cost: int = 1) -> None:
        """See :meth:`mcp.flow.limiter.Limiter.undo`."""
        last = self._log[-1]
        last[1] -= cost
        self._total -= cost
        if not last[1]:
            self._log.pop()

    def idle(self, now: float) -> bool:
        """See :meth:`mcp.flow.limiter.Limiter.idle`."""
        return not self._log or self._log[-1][0] <= int(now * TICKS_PER_S) - self._per

    def copy(self) -> Self:
        """See :meth:`mcp.flow.limiter.Limiter.copy`."""
        other = object.__new__(type(self))
        other._amount, other._per, other._step = self._amount, self._per, self._step
        other._log = deque([*entry] for entry in self._log)
        other._total, other._at = self._total, self._at
        return other
