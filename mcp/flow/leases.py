"""A limit of the whole cluster, handed out in shares that expire: the replicated side.

Each node asks for a share of the limit now and then, spends it by itself (:mod:`mcp.flow.shares`) and asks
anew before it ends. So there is one command in the log per node and a few seconds, and none per request.
Only the order of the log and its stamps decide; every copy of the ledger hands out the same.

**Why the shares never sum to more than the limit.** The ledger charges a node with the most that it may be
using. A node obeys three rules: it numbers what it asks and takes only the answer to the last; it lowers its
own share to what it wants *before* it asks; and it says which answer it works under (``held``). So at most
two shares of a node are ever usable: the one under ``held``, cut down to what it wanted, until that ends;
and the one granted now. It is charged with the larger. Nobody is granted more than the limit less what the
others are charged with. If an answer is lost, the ledger goes on charging for both until they end: a lost
answer costs, for the length of a lease, what it carried.

**Who gets how much.** What the nodes want is met max-min fairly: a limit that is wanted twice goes in equal
parts to those who want more than that. What is then left over is handed out as headroom, half of it, in
proportion to what is wanted; the other half waits for who comes next. A node that wants little still has its
part of :data:`RESERVE_PERCENT`, so that it can begin at once.

Sources: Gray and Cheriton, "Leases", SOSP 1989; Bertsekas and Gallager, "Data Networks", 2nd edition,
section 6.5.2 (max-min fairness); Raghavan et al., "Cloud Control with Distributed Rate Limiting", SIGCOMM
2007 (one limit for many that split it).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

from mcp.errors import Busy, ConfigInvalid, InvalidArgument, NotFound
from mcp.flow.limiter import AMOUNT_MAX, Rate

UNITS: Final = 1000
"""Shares are counted in thousandths of a request, so that a small limit can be shared by many."""
LIMITS_MAX: Final = 256
"""Limits of one cluster."""
HOLDERS_MAX: Final = 256
"""Nodes that hold a share of one limit at a time."""
NAME_LETTERS_MAX: Final = 256
"""The longest name of a limit or a node."""
RESERVE_PERCENT: Final = 2
"""So much of a limit is kept for those who want less than their part of it."""


@dataclass(frozen=True, slots=True)
class SharedLimit:
    """A limit that a cluster has: ``rate`` in all, in shares that last ``lease_s``.

    ``skew_s``: how far the stamps of two leaders may be apart. The ledger counts a share as handed out for
    so much longer, since a leader whose clock is ahead would end it early.
    Raises :class:`~mcp.errors.ConfigInvalid`.
    """

    rate: Rate
    lease_s: float = 5.0
    skew_s: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.lease_s <= 3600 or not 0 <= self.skew_s <= 3600:
            raise ConfigInvalid(
                f"lease_s={self.lease_s!r} is above 0, skew_s={self.skew_s!r} not below, and "
                "neither is above 3600"
            )

    @property
    def units(self) -> int:
        """The rate's amount, as shares count it."""
        return self.rate.amount * UNITS


@dataclass(frozen=True, slots=True)
class Grant:
    """The answer to the request ``seq``: ``units`` of the limit, for ``lease_s`` from when that was sent."""

    seq: int
    units: int
    lease_s: float


@dataclass(slots=True)
class _Holder:
    """What one node may be using: up to two shares, each until its end on the ledger's clock."""

    seq: int = 0
    want: int = 0
    held_seq: int = 0
    held: int = 0
    held_until: float = -math.inf
    given: int = 0
    given_until: float = -math.inf

    def charged(self, now: float) -> int:
        held = self.held if self.held_until > now else 0
        return max(held, self.given) if self.given_until > now else held


class ShareLedger:
    """Who holds how much of which limit. Deterministic: the same calls give the same answers and state.

    ``now`` is the stamp of the entry of the log, in seconds; one that is earlier than another before it is
    taken for that one.
    """

    def __init__(self) -> None:
        self._limits: dict[str, SharedLimit] = {}
        self._holders: dict[str, dict[str, _Holder]] = {}
        self._now = -math.inf

    @property
    def limits(self) -> dict[str, SharedLimit]:
        """The limits by name, in its order."""
        return {name: self._limits[name] for name in sorted(self._limits)}

    def declare(self, name: str, limit: SharedLimit) -> None:
        """Have a limit under ``name``, or change it. Shares of before a change last until they end.

        Raises :class:`~mcp.errors.InvalidArgument` for a name that is none, and :class:`~mcp.errors.Busy`
        at :data:`LIMITS_MAX`.
        """
        _check_name("limit", name)
        if name not in self._limits and len(self._limits) >= LIMITS_MAX:
            raise Busy(f"{LIMITS_MAX} limits are declared; withdraw one first")
        self._limits[name] = limit
        self._holders.setdefault(name, {})

    def withdraw(self, name: str, now: float) -> None:
        """Have no limit under ``name`` any more. One that is not there is left so.

        Who holds a share may be using it until it ends, and is charged with it if the limit comes back.
        """
        self._limits.pop(name, None)
        self._now = max(self._now, now)
        for known in [known for known in self._holders if known not in self._limits]:
            self._forget_ended(self._holders[known])
            if not self._holders[known]:
                del self._holders[known]

    def grant(self, name: str, node: str, *, seq: int, held: int, want: int, now: float) -> Grant | None:
        """Give ``node`` a share, for its request ``seq``, made while it works under the answer to ``held``.

        ``want`` is its demand, in thousandths of a request per period; ``held`` is 0 for none. A node that
        was started anew goes by another name, or counts on from where it was. ``None``: a later request has
        overtaken this one. Raises :class:`~mcp.errors.NotFound` for an unknown limit,
        :class:`~mcp.errors.InvalidArgument` for numbers that make no sense, and :class:`~mcp.errors.Busy`
        at :data:`HOLDERS_MAX`.
        """
        limit, holders = self._open(name, now)
        _check_name("node", node)
        if not (0 <= held < seq and 0 <= want <= AMOUNT_MAX * UNITS):
            raise InvalidArgument(
                f"seq={seq}, held={held}, want={want}: requests are numbered from 1, an earlier one is held, "
                f"and from 0 to {AMOUNT_MAX * UNITS} are wanted"
            )
        holder = holders.get(node)
        if holder is None:
            if len(holders) >= HOLDERS_MAX:
                raise Busy(f"{HOLDERS_MAX} nodes hold a share of {name!r}; ask again when one has ended")
            holder = holders[node] = _Holder()
        elif seq <= holder.seq:
            return None
        self._adopt(holder, held, want)
        holder.seq, holder.want = seq, want
        others = sum(other.charged(self._now) for key, other in holders.items() if key != node)
        units = max(0, min(self._fair(limit, holders, node), limit.units - others))
        holder.given, holder.given_until = units, self._now + limit.lease_s + limit.skew_s
        return Grant(seq, units, limit.lease_s)

    def return_(self, name: str, node: str, *, seq: int, now: float) -> None:
        """``node`` uses its share no more, from before it sent this. An overtaken or needless one is ignored.

        Raises :class:`~mcp.errors.NotFound` for an unknown limit.
        """
        _, holders = self._open(name, now)
        if node in holders and seq > holders[node].seq:
            del holders[node]

    def handed_out(self, name: str, now: float) -> dict[str, int]:
        """What each node may be using at ``now``, in thousandths of a request per period, by node.

        Changes nothing. Raises :class:`~mcp.errors.NotFound` for an unknown limit.
        """
        self._limit(name)
        holders = self._holders[name]
        return {node: holders[node].charged(max(now, self._now)) for node in sorted(holders)}

    def _limit(self, name: str) -> SharedLimit:
        limit = self._limits.get(name)
        if limit is None:
            known = ", ".join(sorted(self._limits)) or "none"
            raise NotFound(f"there is no cluster limit {name!r:.80}; there are: {known:.400}")
        return limit

    def _open(self, name: str, now: float) -> tuple[SharedLimit, dict[str, _Holder]]:
        """The limit and who holds a share of it, without those whose shares have ended."""
        limit = self._limit(name)
        self._now = max(self._now, now)
        holders = self._holders[name]
        self._forget_ended(holders)
        return limit, holders

    def _forget_ended(self, holders: dict[str, _Holder]) -> None:
        for node in [
            node
            for node, holder in holders.items()
            if holder.held_until <= self._now and holder.given_until <= self._now
        ]:
            del holders[node]

    @staticmethod
    def _adopt(holder: _Holder, held: int, want: int) -> None:
        """Charge only for the share that the node says it works under, as far as it still uses it."""
        if held and held == holder.seq:
            holder.held_seq, holder.held, holder.held_until = held, holder.given, holder.given_until
        elif held != holder.held_seq or not held:
            holder.held_seq, holder.held, holder.held_until = 0, 0, -math.inf
        holder.held = min(holder.held, want)

    @staticmethod
    def _fair(limit: SharedLimit, holders: dict[str, _Holder], node: str) -> int:
        """The part of ``node`` if all asked at once: max-min fair, and some headroom from what is left."""
        reserve = limit.units * RESERVE_PERCENT // 100 // len(holders)
        wanted = sorted((max(holder.want, reserve), name) for name, holder in holders.items())
        left, part = limit.units, 0
        for place, (want, name) in enumerate(wanted):
            given = min(want, left // (len(wanted) - place))
            left -= given
            if name == node:
                part = given
        total = sum(want for want, _ in wanted)
        mine = max(holders[node].want, reserve)
        return part + (left // 2 * mine // total if total else 0)

    def to_plain(self) -> list[Any]:
        """Plain values, equal for equal ledgers."""
        return [
            None if self._now == -math.inf else self._now,
            [
                [name, limit.rate.amount, limit.rate.per_s, limit.lease_s, limit.skew_s]
                for name, limit in self.limits.items()
            ],
            [
                [name, node, h.seq, h.want, h.held_seq, h.held, _time(h.held_until), h.given, h.given_until]
                for name in sorted(self._holders)
                for node, h in sorted(self._holders[name].items())
            ],
        ]

    @classmethod
    def from_plain(cls, plain: list[Any]) -> ShareLedger:
        """Rebuild what :meth:`to_plain` wrote."""
        ledger = cls()
        now, limits, holders = plain
        ledger._now = -math.inf if now is None else now
        for name, amount, per_s, lease_s, skew_s in limits:
            ledger.declare(name, SharedLimit(Rate(amount, per_s), lease_s, skew_s))
        for name, node, seq, want, held_seq, held, held_until, given, given_until in holders:
            until = -math.inf if held_until is None else held_until
            ledger._holders.setdefault(name, {})[node] = _Holder(
                seq, want, held_seq, held, until, given, given_until
            )
        return ledger


def _time(moment: float) -> float | None:
    """A time as plain values have it: no infinity."""
    return None if moment == -math.inf else moment


def _check_name(what: str, name: str) -> None:
    if not isinstance(name, str) or not 1 <= len(name) <= NAME_LETTERS_MAX:
        raise InvalidArgument(f"{name!r:.80} is no name of a {what}: 1 to {NAME_LETTERS_MAX} letters")
