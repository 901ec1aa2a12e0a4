"""Token bucket and leaky bucket: a rate that holds in the long run, and a bound on bursts.

A token bucket fills at the rate up to ``burst``, and everything that is let in takes its cost out. A leaky
bucket *as a meter* is its mirror image: what is let in is poured in, and it leaks at the rate. A leaky
bucket *as a queue* lets nothing through faster than the rate: who is let in is told how long to wait for
its turn. In any time of t seconds the first two let in at most ``burst + t * rate``.

Levels are counted in parts of a request: the rate's period in ticks makes one. With whole numbers then, a
tick adds exactly ``amount`` parts, and nothing is ever rounded.

Sources: Turner, "New Directions in Communications", IEEE Communications Magazine 24(10), 1986 (leaky
bucket); Tanenbaum and Wetherall, "Computer Networks", 5th edition, section 5.4.2 (both, and that they are
one); ITU-T I.371 (2004), Annex A (the generic cell rate algorithm).
"""

from __future__ import annotations

import math
from typing import Final, Self

from mcp.errors import ConfigInvalid
from mcp.flow.limiter import (
    ADMITTED,
    AMOUNT_MAX,
    TICKS_PER_S,
    Admitted,
    Rate,
    Refused,
    Verdict,
    check_cost,
    seconds_until,
)

_LONG_AGO: Final = -(1 << 62)


def _checked_burst(name: str, burst: int, least: int) -> int:
    if isinstance(burst, bool) or not least <= burst <= AMOUNT_MAX:
        raise ConfigInvalid(f"{name}={burst!r}: a number from {least} to {AMOUNT_MAX} is expected")
    return burst


class TokenBucket:
    """Lets in ``rate`` and, after a pause, up to ``burst`` at once. Starts full.

    ``burst`` is the rate's amount if it is not given. Raises :class:`~mcp.errors.ConfigInvalid`.
    """

    __slots__ = ("_amount", "_at", "_capacity", "_level", "_per")

    def __init__(self, rate: Rate, burst: int | None = None) -> None:
        self._amount = rate.amount
        self._per = rate.per_ticks
        most = _checked_burst("burst", rate.amount if burst is None else burst, 1)
        self._level = self._capacity = most * self._per
        self._at = _LONG_AGO

    def admit(self, now: float, cost: int = 1) -> Verdict:
        """See :meth:`mcp.flow.limiter.Limiter.admit`."""
        at = int(now * TICKS_PER_S)
        level = self._level
        if at > self._at:
            level += (at - self._at) * self._amount
            level = min(level, self._capacity)
            self._at = at
        need = cost * self._per
        if 0 < need <= level:
            self._level = level - need
            return ADMITTED
        self._level = level
        check_cost(cost)
        if need > self._capacity:
            return Refused(math.inf)
        return Refused(seconds_until(self._at - (level - need) // self._amount, at))

    def undo(self, cost: int = 1) -> None:
        """See :meth:`mcp.flow.limiter.Limiter.undo`."""
        self._level = min(self._capacity, self._level + cost * self._per)

    def idle(self, now: float) -> bool:
        """See :meth:`mcp.flow.limiter.Limiter.idle`."""
        missing = self._capacity - self._level
        return missing <= max(0, int(now * TICKS_PER_S) - self._at) * self._amount

    def copy(self) -> Self:
        """See :meth:`mcp.flow.limiter.Limiter.copy`."""
        other = object.__new__(type(self))
        other._amount, other._per, other._capacity = self._amount, self._per, self._capacity
        other._level, other._at = self._level, self._at
        return other


class LeakyBucket:
    """The meter: lets in as long as the bucket does not run over. It holds ``capacity``, and starts empty.

    ``capacity`` is the rate's amount if it is not given. Raises :class:`~mcp.errors.ConfigInvalid`.
    """

    __slots__ = ("_amount", "_at", "_capacity", "_level", "_per")

    def __init__(self, rate: Rate, capacity: int | None = None) -> None:
        self._amount = rate.amount
        self._per = rate.per_ticks
        self._capacity = (
            _checked_burst("capacity", rate.amount if capacity is None else capacity, 1) * self._per
        )
        self._level = 0
        self._at = _LONG_AGO

    def admit(self, now: float, cost: int = 1) -> Verdict:
        """See :meth:`mcp.flow.limiter.Limiter.admit`."""
        at = int(now * TICKS_PER_S)
        if at > self._at:
            self._level = max(0, self._level - (at - self._at) * self._amount)
            self._at = at
        check_cost(cost)
        before = self._level
        over = before + cost * self._per - self._capacity
        if over <= 0:
            self._level = before + cost * self._per
            return self._admitted(before, at)
        if over > before:
            return Refused(math.inf)
        return Refused(seconds_until(self._at - (-over // self._amount), at))

    def _admitted(self, before: int, at: int) -> Admitted:
        """What is said to whom is let in at the tick ``at``, with so much in the bucket before it."""
        return ADMITTED

    def undo(self, cost: int = 1) -> None:
        """See :meth:`mcp.flow.limiter.Limiter.undo`."""
        self._level = max(0, self._level - cost * self._per)

    def idle(self, now: float) -> bool:
        """See :meth:`mcp.flow.limiter.Limiter.idle`."""
        return self._level <= max(0, int(now * TICKS_PER_S) - self._at) * self._amount

    def copy(self) -> Self:
        """See :meth:`mcp.flow.limiter.Limiter.copy`."""
        other = object.__new__(type(self))
        other._amount, other._per, other._capacity = self._amount, self._per, self._capacity
        other._level, other._at = self._level, self._at
        return other


class LeakyQueue(LeakyBucket):
    """The queue: turns are ``cost / rate`` seconds apart, and costs of ``waiting_max`` may wait for theirs.

    :class:`~mcp.flow.limiter.Admitted` says how long to wait. One whose turn is now does not count as
    waiting. The caller keeps who waits; if one gives up, its turn passes unused.
    Raises :class:`~mcp.errors.ConfigInvalid`.
    """

    __slots__ = ()

    def __init__(self, rate: Rate, waiting_max: int) -> None:
        super().__init__(rate, _checked_burst("waiting_max", waiting_max, 0) + 1)

    def _admitted(self, before: int, at: int) -> Admitted:
        wait_ticks = self._at - at - (-before // self._amount)
        return Admitted(wait_ticks / TICKS_PER_S) if wait_ticks else ADMITTED
