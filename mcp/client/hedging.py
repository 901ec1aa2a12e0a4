"""When to ask a second node too: after most answers would have come, and seldom.

Pure: time is an argument. A request that takes longer than 95 of 100 did is asked of another node as well,
and the first answer counts: that cuts the tail of the latency at the price of a few more requests (Dean and
Barroso, "The Tail at Scale", Communications of the ACM 56(2), 2013, "hedged requests"). Two bounds keep it
from making an overload worse: a budget, which each request fills a little and each hedge empties, and
that nothing is hedged before enough is known about how long it takes.

Only for requests without an effect: both may be executed.
"""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from dataclasses import dataclass, field
from typing import Final

from mcp.errors import InvalidArgument

SAMPLES_MIN: Final = 32
"""With fewer latencies nothing is hedged."""
SAMPLES_MAX: Final = 512
"""So many of the latest latencies are looked at."""
SAMPLES_PER_LOOK: Final = 32
"""After so many new ones the quantile is taken anew."""
KINDS_MAX: Final = 256
"""Models whose latencies are remembered; the one that was not asked for longest is forgotten."""
BUDGET_MAX: Final = 10.0
"""Hedges that may be saved up."""


@dataclass(frozen=True, slots=True)
class Hedge:
    """How requests are hedged: after ``quantile`` of the latencies, and at most ``share`` of the requests.

    Raises :class:`~mcp.errors.InvalidArgument` for numbers that make no sense.
    """

    quantile: float = 0.95
    share: float = 0.05
    delay_min_s: float = 0.001

    def __post_init__(self) -> None:
        if not (0 < self.quantile < 1 and 0 < self.share <= 1):
            raise InvalidArgument(
                f"quantile={self.quantile!r} and share={self.share!r}: the first is between 0 and 1, "
                "and the second above 0 and at most 1"
            )
        if not 0 <= self.delay_min_s < math.inf:
            raise InvalidArgument(f"delay_min_s={self.delay_min_s!r} is not a time in seconds")


@dataclass(slots=True)
class _Latencies:
    latest_s: deque[float] = field(default_factory=lambda: deque(maxlen=SAMPLES_MAX))
    fresh: int = 0
    quantile_s: float | None = None

    def add(self, latency_s: float, quantile: float) -> None:
        self.latest_s.append(latency_s)
        self.fresh += 1
        if self.fresh >= SAMPLES_PER_LOOK and len(self.latest_s) >= SAMPLES_MIN:
            self.fresh = 0
            ordered = sorted(self.latest_s)
            self.quantile_s = ordered[min(len(ordered) - 1, math.ceil(quantile * len(ordered)) - 1)]


class Hedging:
    """What one client knows for it. ``kind`` is whatever has latencies of its own: a model."""

    def __init__(self, hedge: Hedge) -> None:
        self._hedge = hedge
        self._known: OrderedDict[str, _Latencies] = OrderedDict()
        self._budget = 0.0
        self.requests = 0
        """Requests that could have been hedged."""
        self.hedges = 0
        """Those that were."""
        self.won = 0
        """Hedges that were answered first."""

    def begun(self, kind: str) -> float | None:
        """A request begins. Gives how long to wait for it before :meth:`spend`; ``None``: to its end."""
        self.requests += 1
        self._budget = min(BUDGET_MAX, self._budget + self._hedge.share)
        known = self._known.get(kind)
        if known is None or known.quantile_s is None:
            return None
        return max(known.quantile_s, self._hedge.delay_min_s)

    def spend(self) -> bool:
        """Whether a second node may be asked now; if so, that is counted."""
        if self._budget < 1:
            return False
        self._budget -= 1
        self.hedges += 1
        return True

    def answered(self, kind: str, latency_s: float, *, by_hedge: bool = False) -> None:
        """A request was answered after ``latency_s``, of the node that answered.

        One that a hedge has won tells how long the first node took at least; the other end of that is not
        known, so callers give the time since the request began.
        """
        self.won += by_hedge
        known = self._known.get(kind)
        if known is None:
            known = self._known[kind] = _Latencies()
            if len(self._known) > KINDS_MAX:
                self._known.popitem(last=False)
        else:
            self._known.move_to_end(kind)
        known.add(latency_s, self._hedge.quantile)
