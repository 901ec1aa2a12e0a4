"""A cluster's limit in shares: never more than the limit, hardly less, whatever gets lost on the way."""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from mcp.flow.leases import SharedLimit, ShareLedger
from mcp.flow.limiter import ADMITTED, Rate
from mcp.flow.shares import DRIFT_MAX, Ask, LeasedShare

NAME = "all"


@dataclass
class Cluster:
    """Nodes that spend a limit, one ledger, and messages between them that come late or never."""

    limit: SharedLimit
    demands: list[Callable[[float], float]]
    seed: int
    lost: float = 0.0
    delay_s: float = 0.05
    drift: float = 0.0
    cut_off: dict[int, tuple[float, float]] = field(default_factory=dict)
    admitted: list[float] = field(default_factory=list)
    asks: int = 0
    offered: int = 0
    now: float = 0.0

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self.ledger = ShareLedger()
        self.ledger.declare(NAME, self.limit)
        self.nodes = [LeasedShare(self.limit) for _ in self.demands]
        self.rates = [1 + self.drift * self.random.uniform(-1, 1) for _ in self.demands]
        self.heap: list[tuple[float, int, Callable[[], None]]] = []
        self.order = itertools.count()
        for number in range(len(self.nodes)):
            self.later(0.0, lambda n=number: self.tick(n))
            self.later(0.0, lambda n=number: self.arrival(n, first=True))

    def later(self, delay_s: float, do: Callable[[], None]) -> None:
        heapq.heappush(self.heap, (self.now + delay_s, next(self.order), do))

    def local(self, number: int) -> float:
        """The node's own clock: another zero, another pace."""
        return 1000.0 * number + self.now * self.rates[number]

    def arrival(self, number: int, first: bool = False) -> None:
        rate = self.demands[number](self.now)
        if not first and rate > 0:
            self.offered += 1
            if self.nodes[number].admit(self.local(number)) is ADMITTED:
                self.admitted.append(self.now)
        self.later(
            self.random.expovariate(rate) if rate > 0 else 0.1, lambda: self.arrival(number, rate <= 0)
        )

    def tick(self, number: int) -> None:
        ask = self.nodes[number].due(self.local(number))
        if ask is not None:
            self.asks += 1
            self.send(number, lambda: self.decide(number, ask))
        self.later(self.limit.lease_s / 100, lambda: self.tick(number))

    def send(self, number: int, do: Callable[[], None]) -> None:
        begin, end = self.cut_off.get(number, (0.0, 0.0))
        if self.random.random() >= self.lost and not begin <= self.now < end:
            self.later(self.random.uniform(0, 2 * self.delay_s), do)

    def decide(self, number: int, ask: Ask) -> None:
        grant = self.ledger.grant(NAME, f"n{number}", seq=ask.seq, held=ask.held, want=ask.want, now=self.now)
        if grant is not None:
            self.send(number, lambda: self.nodes[number].answered(grant, self.local(number)))

    def in_use(self) -> int:
        """What the nodes may spend at this instant, seen by nobody but the test."""
        return sum(node.units for number, node in enumerate(self.nodes) if self.local(number) < node.ends_at)

    def run(self, until_s: float) -> None:
        while self.heap[0][0] <= until_s:
            self.now, _, do = heapq.heappop(self.heap)
            do()
            handed_out = sum(self.ledger.handed_out(NAME, self.now).values())
            assert self.in_use() <= handed_out <= self.limit.units
        self.now = until_s

    def most_in(self, window_s: float) -> int:
        most = begin = 0
        for end, at in enumerate(self.admitted):
            while self.admitted[begin] <= at - window_s:
                begin += 1
            most = max(most, end - begin + 1)
        return most

    def used(self, begin_s: float, end_s: float) -> float:
        """The share of the limit that was used between two times."""
        count = sum(begin_s <= at < end_s for at in self.admitted)
        return count / (self.limit.rate.amount * (end_s - begin_s) / self.limit.rate.per_s)


LIMIT = SharedLimit(Rate(400), lease_s=2.0, skew_s=0.2)
SKEWED = [(lambda t, d=d: d) for d in (600.0, 300.0, 150.0, 75.0, 40.0)]


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("lost", [0.0, 0.2])
def test_a_limit_that_is_wanted_thrice_holds_within_5_percent(seed: int, lost: float) -> None:
    cluster = Cluster(LIMIT, SKEWED, seed, lost=lost, drift=DRIFT_MAX / 2)
    cluster.run(20.0)
    assert 0.95 <= cluster.used(4.0, 20.0) <= 1.0
    assert cluster.most_in(1.0) <= 1.05 * 400 + len(SKEWED)
    assert cluster.asks < cluster.offered / 50, "no write of the log per request"
