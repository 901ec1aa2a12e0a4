"""Notices when this machine stood still, which no node can be blamed for.

The clients, the relays and the supervisor share one process. When it gets no processor for seconds (an
overloaded host, a virtual machine that is paused) calls end late whatever the cluster does. So time that
this process did not see does not count against a deadline.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

BEAT_S: Final = 0.05
STALL_S: Final = 0.25
"""A beat that comes so much too late is a stall."""


@dataclass(slots=True)
class Pulse:
    """``now``: seconds since the beginning of the run. :meth:`run` until cancelled."""

    now: Callable[[], float]
    stalls: list[tuple[float, float]] = field(default_factory=list)
    """From when to when nothing ran."""

    async def run(self) -> None:
        """Beat for ever."""
        last = self.now()
        while True:
            await asyncio.sleep(BEAT_S)
            now = self.now()
            if now - last > BEAT_S + STALL_S:
                self.stalls.append((last + BEAT_S, now))
            last = now

    def within(self, begin: float, end: float) -> float:
        """How many seconds of this time nothing ran."""
        return sum(max(0.0, min(end, until) - max(begin, since)) for since, until in self.stalls)

    @property
    def longest_s(self) -> float:
        """The longest stall."""
        return max((until - since for since, until in self.stalls), default=0.0)
