"""Strategies side by side: what each sustains, and what each makes of the same load."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from mcp.cluster.scheduler.strategies import ROUND_ROBIN, STRATEGIES, SchedulerSettings
from simulations.scheduling.fleet import FLEETS
from simulations.scheduling.trial import MEAN_ROWS, Trial, run

P99_S: Final = 0.3
"""A load is sustained while the 99th percentile is no longer than this."""

STEPS: Final = 8
"""Halvings of the interval in which the sustained load is sought."""

RATIO: Final = 1.5
"""The bar: so many times round robin's load at the same 99th percentile, or half of that at the same load."""


@dataclass(frozen=True, slots=True)
class Case:
    """A fleet, and how many schedulers choose for it independently."""

    fleet: str
    schedulers: int
    seed: int
    seconds: float

    def trial(self, strategy: str, rate: float) -> Trial:
        """The run of a strategy under a load."""
        settings = SchedulerSettings(default=strategy)
        return Trial(self.fleet, settings, rate, self.seed, self.schedulers, seconds=self.seconds)


@dataclass(frozen=True, slots=True)
class Standing:
    """How a strategy did in a case. Rates in requests a second outside the bursts, times in seconds."""

    fleet: str
    schedulers: int
    seed: int
    strategy: str
    sustained: float
    """The largest load with a 99th percentile of no more than :data:`P99_S`,"""
    ratio: float
    """and the same beside round robin's."""
    load: float
    """What round robin sustains:"""
    p50_s: float
    """this strategy's median at that load,"""
    p99_s: float
    """its 99th percentile there,"""
    p99_ratio: float
    """and that beside round robin's."""

    @property
    def meets_bar(self) -> bool:
        """Whether one half of the bar is met."""
        return self.ratio >= RATIO or self.p99_ratio <= 0.5


def capacity(fleet: str) -> float:
    """Requests a second that a fleet runs with nothing slowed and no place idle, all sizes everywhere."""
    return sum(kind.rate(MEAN_ROWS) for kind in FLEETS[fleet])


def sustained(case: Case, strategy: str) -> float:
    """The largest load that keeps the 99th percentile, found by halving; where none does, a load near 0."""
    # Where small inputs go to one kind of node and large ones to another, more than the capacity is possible.
    least, most = 0.0, 2 * capacity(case.fleet)
    for _ in range(STEPS):
        middle = (least + most) / 2
        if run(case.trial(strategy, middle)).at(0.99) <= P99_S:
            least = middle
        else:
            most = middle
    return least or most


def compare(case: Case, strategies: Sequence[str] = STRATEGIES) -> Iterator[Standing]:
    """Every strategy's standing; round robin is the yardstick whether or not it is among them."""
    yardstick = sustained(case, ROUND_ROBIN)
    yardstick_p99_s = run(case.trial(ROUND_ROBIN, yardstick)).at(0.99)
    for strategy in strategies:
        rate = yardstick if strategy == ROUND_ROBIN else sustained(case, strategy)
        latencies = run(case.trial(strategy, yardstick))
        yield Standing(
            case.fleet,
            case.schedulers,
            case.seed,
            strategy,
            rate,
            rate / yardstick,
            yardstick,
            latencies.at(0.5),
            latencies.at(0.99),
            latencies.at(0.99) / yardstick_p99_s,
        )
