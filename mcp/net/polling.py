"""Looking for the next bytes for a moment, before the event loop goes to sleep.

Where one caller asks and waits, both ends fall asleep in turn, and to be woken costs more than many an
answer: a processor that has nothing to do is handed back (tens of microseconds, more in a virtual machine),
and whoever wakes up finds its caches cold. So an end that has sent a request or an answer has its loop turn
without sleeping for ``poll_s``. To look for no longer than sleeping and waking would have cost is at most
twice as dear as the best choice in hindsight (Karlin, Manasse, McGeoch and Owicki, "Competitive randomized
algorithms for nonuniform problems", Algorithmica 11, 1994, section 2: the deterministic bound).

It looks only while that pays: each time that bytes came earns trust, each time in vain costs some, and
without any it rests. It makes way for others at each look, and rests at once where somebody else wanted the
processor.
"""

from __future__ import annotations

import asyncio
import functools
import os
from collections.abc import Callable
from typing import Final
from weakref import WeakKeyDictionary, ref

from mcp.clock import SystemClock

POLL_S: Final = 0.0004
"""So long it is looked, unless somebody says otherwise: what sleeping, waking and cold caches cost."""
POLL_S_MAX: Final = 0.01
"""The longest that may be asked for."""
TRIES: Final = 4
"""After a rest, so many looks in vain until the next one."""
TRUST_MAX: Final = 32
"""However often it paid, so many looks in vain are enough for a rest."""
REST_S: Final = 0.05
GIVE_WAY: Final[Callable[[], object]] = getattr(os, "sched_yield", lambda: None)


class Polling:
    """Whether to look. Pure: it is told the time, in seconds."""

    __slots__ = ("_limit_s", "_looked", "_rests_until", "_trust", "_until", "looking")

    def __init__(self) -> None:
        self.looking = False
        self._trust = TRIES
        self._until = 0.0
        self._looked = 0.0
        self._limit_s = 0.0
        self._rests_until = 0.0

    def sent(self, now: float, limit_s: float) -> bool:
        """Something was sent that bytes will follow: whether to look for them, for ``limit_s``."""
        if not self._trust:
            if now < self._rests_until:
                return False
            self._trust = TRIES
        self._limit_s = limit_s
        self._until = now + limit_s
        self._looked = now
        self.looking = True
        return True

    def came(self) -> None:
        """Bytes have come while it looked."""
        self.looking = False
        if self._trust < TRUST_MAX:
            self._trust += 1

    def look(self, now: float) -> bool:
        """Whether to look once more."""
        if not self.looking:
            return False
        if now - self._looked > self._limit_s:
            self._trust = 0  # it was kept from looking: somebody else has work to do here
        elif now < self._until:
            self._looked = now
            return True
        else:
            self._trust -= 1
        self.looking = False
        if not self._trust:
            self._rests_until = now + REST_S
        return False


class Poller:
    """Has one event loop turn while it is worth looking. All calls on the loop's thread."""

    __slots__ = ("_give_way", "_loop", "_monotonic", "_polling", "_turning")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        *,
        monotonic: Callable[[], float] = SystemClock.monotonic,
        give_way: Callable[[], object] = GIVE_WAY,
    ) -> None:
        self._loop = ref(loop)  # which is known by its loop, and must not keep it
        self._monotonic = monotonic  # the loop's own clock stands still within a turn
        self._give_way = give_way
        self._polling = Polling()
        self._turning = False

    def sent(self, limit_s: float) -> None:
        """Look for what follows, for ``limit_s`` at most, from the loop's next turn on."""
        if self._polling.sent(self._monotonic(), limit_s) and not self._turning:
            self._turning = True
            self._next_turn()

    def came(self) -> None:
        """Bytes have come."""
        if self._polling.looking:
            self._polling.came()

    def _turn(self) -> None:
        self._give_way()
        if self._polling.look(self._monotonic()):
            self._next_turn()
        else:
            self._turning = False

    def _next_turn(self) -> None:
        loop = self._loop()
        if loop is not None:
            loop.call_soon(self._turn)


_pollers: Final[WeakKeyDictionary[asyncio.AbstractEventLoop, Poller]] = WeakKeyDictionary()


def poller_of(loop: asyncio.AbstractEventLoop) -> Poller:
    """The one poller of a loop, for all its connections."""
    found = _pollers.get(loop)
    if found is None:
        found = _pollers[loop] = Poller(loop)
    return found


@functools.cache
def several_processors() -> bool:
    """Whether this process may run on more than one: on one, whoever looks keeps the other from answering."""
    affinity = getattr(os, "sched_getaffinity", None)  # not everywhere
    return (len(affinity(0)) if affinity is not None else os.cpu_count() or 1) > 1
