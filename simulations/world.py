"""One world: a virtual clock, a heap of what comes next, one seed.

Everything that happens in a simulation happens in an event of :class:`World`, in the order of time and,
at one time, in the order in which it was asked for. Randomness comes from streams that are all derived
from the seed by name: taking one fault out of a plan does not change what the network draws, which is
what makes a failing run shrink. Strings seed a stream through SHA-512, so neither the process nor
PYTHONHASHSEED matter. The trace hash covers every event that the levels report, so equal hashes mean
equal runs.
"""

from __future__ import annotations

import hashlib
import heapq
import math
import random
from collections import deque
from collections.abc import Callable
from typing import Any

from simulations.chronicle import SILENT, Chronicle
from simulations.story import Story

WALL_EPOCH_S = 1.7e9
"""What a wall clock shows when a world begins."""

TIMER_STEP_S = 1e-9
"""A timer is never for less: rounding between clocks may make a deadline seem ahead when it is due."""


STANDSTILL_EVENTS = 100_000
STANDSTILL_S = 0.01
"""So many events in so little virtual time are an endless loop."""


class Standstill(Exception):
    """Events follow on events and time does not pass: something waits for what it never gets."""


class World:
    """See the head of this module. ``now`` is in virtual seconds from the start.

    ``chronicle`` is told what happens, for whoever wants a picture of it; it decides nothing.
    """

    def __init__(self, seed: int, chronicle: Chronicle = SILENT) -> None:
        self.seed = seed
        self.chronicle = chronicle
        self.now = 0.0
        self.story = Story()
        self.events = 0
        self._heap: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._soon: deque[tuple[Callable[..., None], tuple[Any, ...]]] = deque()
        self._order = 0
        self._looked_at = (0, -math.inf)
        self._hash = hashlib.blake2b(digest_size=8)

    def stream(self, name: str) -> random.Random:
        """A generator of its own for ``name``; the same seed and name give the same numbers."""
        return random.Random(f"{self.seed}/{name}")

    def at(self, when: float, call: Callable[..., None], *arguments: Any) -> None:
        """Call at ``when``, or now if that is over."""
        self._order += 1
        heapq.heappush(self._heap, (max(when, self.now), self._order, call, arguments))

    def after(self, delay_s: float, call: Callable[..., None], *arguments: Any) -> None:
        """Call when ``delay_s`` has passed."""
        self.at(self.now + delay_s, call, *arguments)

    def soon(self, call: Callable[..., None], *arguments: Any) -> None:
        """Call at this very time, after what runs now."""
        self._soon.append((call, arguments))

    def run(self, until: float) -> None:
        """Let everything happen that is due up to ``until``; the clock stands there afterwards.

        Raises :class:`Standstill` instead of running for ever.
        """
        heap, soon = self._heap, self._soon
        while True:
            while soon:
                call, arguments = soon.popleft()
                self.events += 1
                call(*arguments)
                if self.events - self._looked_at[0] >= STANDSTILL_EVENTS:
                    self._look_for_standstill()
            if not heap or heap[0][0] > until:
                break
            self.now, _, call, arguments = heapq.heappop(heap)
            self.events += 1
            call(*arguments)
            if self.events - self._looked_at[0] >= STANDSTILL_EVENTS:
                self._look_for_standstill()
        self.now = until

    def _look_for_standstill(self) -> None:
        events, since = self._looked_at
        if self.now - since < STANDSTILL_S:
            raise Standstill(
                f"{self.events - events} events in {self.now - since:.6f} virtual seconds, at {self.now:.6f}"
            )
        self._looked_at = self.events, self.now

    def trace(self, data: bytes) -> None:
        """What has just happened, for the trace hash."""
        self._hash.update(data)

    def tell(self, who: str, what: str) -> None:
        """What has just happened, for people and for the trace hash."""
        self.story.add(self.now, who, what)
        self._hash.update(f"{self.now!r} {who} {what}\n".encode())

    @property
    def trace_hash(self) -> str:
        """Sixteen hexadecimal digits over everything so far."""
        return self._hash.hexdigest()


class Clock:
    """One node's clocks, which need not agree with the world's.

    :meth:`now` is monotonic: it may run fast or slow and may leap ahead, as after a suspended machine,
    but never goes back. :meth:`wall` may be anything.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self._since = world.now
        self._base = world.now
        self.rate = 1.0
        self.wall_offset_s = 0.0

    def now(self) -> float:
        """Seconds on this node's monotonic clock."""
        return self._base + (self._world.now - self._since) * self.rate

    def wall(self) -> float:
        """Seconds since the epoch, as this node believes."""
        return WALL_EPOCH_S + self.now() + self.wall_offset_s

    def when(self, local: float) -> float:
        """The world's time at which this clock shows ``local``, if nothing is done to it until then."""
        return self._since + (local - self._base) / self.rate

    def set_rate(self, rate: float) -> None:
        """Run ``rate`` times as fast from now on."""
        self._base, self._since, self.rate = self.now(), self._world.now, rate

    def leap(self, seconds: float) -> None:
        """Jump ahead."""
        self._base += seconds
