"""The time that a leader stamps entries with: the wall clock's, but never at a standstill.

Stamps never go back, or what expires by them would come to life again. So the largest that any leader
ever wrote is a floor, also where that leader's clock was wrong by years: without more, the cluster's time
would stand still until every clock had come there, and no session and no share of a limit would end any
more. While the wall clock is behind the floor, time therefore goes on from there, at :data:`CATCH_UP` of its
rate: all that expires does so, later, and the wall clock catches up where the distance is one that it can
catch up with. Time that goes on so never comes to be ahead of the clock that the floor is from.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from mcp.clock import Clock

CATCH_UP: Final = 0.5
"""Seconds of the cluster's time in a second, while it is ahead of the wall clock. Below 1."""


class Stamps:
    """See the head of this module. ``told()`` is the latest stamp that was executed, in seconds."""

    def __init__(self, clock: Clock, told: Callable[[], float]) -> None:
        self._clock = clock
        self._told = told
        self._last = 0.0
        self._last_at = clock.monotonic()

    def now(self) -> float:
        """The stamp of an entry that is made now, in seconds since the epoch."""
        wall, at, told = self._clock.wall(), self._clock.monotonic(), self._told()
        if wall >= max(told, self._last):
            stamp = wall
        elif told > self._last:
            stamp = told  # of another leader: how long ago that was is not known
        else:
            stamp = self._last + CATCH_UP * (at - self._last_at)
        self._last, self._last_at = stamp, at
        return stamp
