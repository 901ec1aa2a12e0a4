"""A limit of the whole cluster, handed out in shares that expire: the node's side.

A node spends its share by a token bucket that fills at the share's rate and, unlike others, starts empty:
what is taken from one node must not be there twice. How much is wanted is measured on what is *asked*, let
in or not. The node asks anew in the middle of a lease; earlier, if more is wanted than it told, or if it got
less than it wanted; and again, if no answer comes. Each request carries what the ledger must know to charge
no more than can be used (:mod:`mcp.flow.leases` says why that is safe).

A share ends here earlier than it does in the ledger: its time is counted from when the request was *sent*,
and cut by :data:`DRIFT_MAX`, by which the clocks may run apart.

What costs more than the bucket holds is let in on credit as soon as the bucket is full, so that a small share
cannot refuse a large request for ever. In any time of t seconds a node thus lets in at most what its shares
add up to, the burst and the cost of one request.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from mcp.flow.leases import UNITS, Grant, SharedLimit
from mcp.flow.limiter import ADMITTED, AMOUNT_MAX, TICKS_PER_S, Refused, Verdict, check_cost, seconds_until

DRIFT_MAX: Final = 0.01
"""The share by which a node's clock may run slower than the leader's."""
BURST_SHARE: Final = 0.2
"""A bucket holds so large a part of its share of one period, and one request at least.

All nodes together thus let in at most 5 % more than the limit in any four periods, and one request each. With
a smaller bucket a share that just meets a node's demand would be lost in the gaps between its requests.
"""
RENEW_SHARE: Final = 1 / 2
"""A share is renewed after this part of its lease,"""
SHORT_SHARE: Final = 1 / 5
"""and after this one, where it is less than was wanted; where more is wanted than was told, at once,"""
ASK_SHARE: Final = 1 / 20
"""but never sooner than after this part. An answer is waited for as long."""
HEADROOM: Final = 1.05
"""So many times the demand is told, and the same again while the demand is not above it,"""
SHRINK: Final = 0.85
"""nor below this part of it. What is told must not change with every chance, or shares are on the move."""
QUICK_SHARE: Final = 1 / 5
"""The demand is smoothed over a lease, and over this part of one"""
LEAP: Final = 4.0
"""to see when it has leapt: when they differ by so many times the standard deviation of chance (Poisson)."""


@dataclass(frozen=True, slots=True)
class Ask:
    """What a node asks the ledger: see :meth:`mcp.flow.leases.ShareLedger.grant`."""

    seq: int
    held: int
    want: int


class LeasedShare:
    """One node's share of one limit. Starts with none, so the first requests are refused.

    A :class:`~mcp.flow.limiter.Limiter`, except that it cannot be copied and is never idle.
    """

    def __init__(self, limit: SharedLimit) -> None:
        self._limit = limit
        self._per = limit.rate.per_ticks
        self._units = 0
        self._until = -(1 << 62)
        """The tick at which the share ends."""
        self._level = 0
        self._at = -(1 << 62)
        self._held = 0
        self._held_since = -math.inf
        self._seq = 0
        self._sent_at = -math.inf
        self._told = 0
        self._waiting = False
        self._asked = 0
        self._demand = 0.0
        self._quick = 0.0
        self._measured_at = -math.inf
        self._silent_since = math.inf

    @property
    def units(self) -> int:
        """The share, in thousandths of a request per period; of the past, if its time is over."""
        return self._units

    @property
    def ends_at(self) -> float:
        """When the share ends, in seconds."""
        return self._until / TICKS_PER_S

    # -- spending ---------------------------------------------------------------------------------

    def admit(self, now: float, cost: int = 1) -> Verdict:
        """See :meth:`mcp.flow.limiter.Limiter.admit`."""
        at = int(now * TICKS_PER_S)
        self._asked += cost
        self._fill(at)
        one = UNITS * self._per
        need = cost * one
        if at < self._until and need > 0 and (self._level >= need or self._level >= self._capacity(one)):
            self._level -= need
            return ADMITTED
        check_cost(cost)
        if at >= self._until or not self._units:
            return Refused(self._limit.lease_s * ASK_SHARE)
        missing = min(need, self._capacity(one)) - self._level
        return Refused(seconds_until(self._at - (-missing // self._units), at))

    def undo(self, cost: int = 1) -> None:
        """See :meth:`mcp.flow.limiter.Limiter.undo`."""
        self._level += cost * UNITS * self._per
        self._asked -= cost

    def _capacity(self, one: int) -> int:
        return max(one, int(self._units * BURST_SHARE) * self._per)

    def _fill(self, at: int) -> None:
        until = min(at, self._until)
        if until > self._at:
            self._level += (until - self._at) * self._units
            self._level = min(self._level, self._capacity(UNITS * self._per))
            self._at = until

    # -- asking -----------------------------------------------------------------------------------

    def due(self, now: float) -> Ask | None:
        """What to ask the ledger now, if anything; to be called often, a hundredth of a lease apart.

        The share is lowered to what is asked at once, so what this gives must be sent, or lost.
        """
        self._measure(now)
        limit, idle_s = self._limit, now - self._sent_at
        if idle_s < limit.lease_s * ASK_SHARE:
            return None
        age_s = now - self._held_since
        want = self._want()
        if (
            self._waiting
            or age_s >= limit.lease_s * RENEW_SHARE
            or want > self._told
            or (self._units < self._told and age_s >= limit.lease_s * SHORT_SHARE)
        ):
            return self._ask(want, now)
        return None

    def give_back(self, now: float) -> Ask:
        """Use the share no more: what to tell the ledger's ``return_``, whose answer does not matter."""
        ask = self._ask(0, now)
        self._waiting, self._held = False, 0
        return ask

    def answered(self, grant: Grant, now: float) -> None:
        """The ledger's answer has come. One to another request than the last is ignored."""
        if grant.seq != self._seq or not self._waiting:
            return
        self._fill(int(now * TICKS_PER_S))
        self._waiting = False
        self._units = grant.units
        self._until = int((self._sent_at + grant.lease_s * (1 - DRIFT_MAX)) * TICKS_PER_S)
        self._level = min(self._level, self._capacity(UNITS * self._per))
        self._at = max(self._at, int(now * TICKS_PER_S))
        self._held, self._held_since = grant.seq, self._sent_at
        self._silent_since = now

    def lost(self, now: float) -> bool:
        """Whether the share has ended and the ledger has not answered for a lease: nobody can say more.

        Then a refusal means that something is broken, and not that too much is asked.
        """
        return int(now * TICKS_PER_S) >= self._until and now - self._silent_since > self._limit.lease_s

    def _ask(self, want: int, now: float) -> Ask:
        self._fill(int(now * TICKS_PER_S))
        self._units = min(self._units, want)
        self._seq += 1
        self._sent_at, self._told, self._waiting = now, want, True
        return Ask(self._seq, self._held, want)

    def _want(self) -> int:
        demand = self._demand * UNITS * self._limit.rate.per_s
        if not SHRINK * self._told <= demand <= self._told:
            demand *= HEADROOM
        else:
            demand = self._told
        return min(self._limit.units, max(UNITS, math.ceil(demand)))

    def _measure(self, now: float) -> None:
        """Smooth the demand, in cost per second."""
        if self._measured_at == -math.inf:
            self._measured_at = self._silent_since = now
            return
        elapsed_s = now - self._measured_at
        if elapsed_s < self._limit.lease_s / 100:
            return
        rate, leases = min(self._asked, AMOUNT_MAX) / elapsed_s, elapsed_s / self._limit.lease_s
        self._demand += (rate - self._demand) * -math.expm1(-leases)
        self._quick += (rate - self._quick) * -math.expm1(-leases / QUICK_SHARE)
        # An exponential average over t seconds varies as a plain one over 2 t seconds.
        seen_s = 2 * QUICK_SHARE * self._limit.lease_s
        if (self._quick - self._demand) ** 2 * seen_s > LEAP**2 * max(self._quick, self._demand):
            self._demand = self._quick
        self._asked = 0
        self._measured_at = now
