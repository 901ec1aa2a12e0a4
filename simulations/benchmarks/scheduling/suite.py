"""``scheduling``: three nodes, one of them four times as slow; round robin against predicted completion.

Real node processes on loopback, whose runs take a set time (:mod:`.paced`): the machine's own speed and
what else it does matter little, and who chooses the nodes matters a lot. One client process asks in an open
loop, in bursts and with few or many rows; it asks any node, and that one gives the request on. Every round
has the same arrivals for all. First all strategies get the load that round robin can just bear; then
predicted completion gets more, until its 99th percentile is above that of round robin or something is
refused.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Final

import numpy as np
from numpy.typing import NDArray

from mcp.cli.demo.digits import Digits, load_digits
from mcp.client.client import Client
from mcp.cluster.scheduler.strategies import (
    LEAST_LOADED,
    PREDICTED_COMPLETION,
    PRIORITY_QUEUE,
    ROUND_ROBIN,
)
from mcp.errors import McpError
from simulations.benchmarks.arrivals import poisson
from simulations.benchmarks.cluster import bench
from simulations.benchmarks.figures import Bar, Figure, Grid, Report, percentile
from simulations.benchmarks.in_process import InProcess, Outputs, equal
from simulations.benchmarks.progress import Steps
from simulations.benchmarks.scheduling.paced import PROGRAM, run_s

MODEL: Final = "digits"
PACES: Final = {"n1": 1.0, "n2": 1.0, "n3": 4.0}
"""How slow each node is."""
ROWS: Final = (1, 1, 1, 1, 4, 4, 4, 16)
"""Of a request, each as often as it stands here."""
BURST: Final = 3
"""Requests that come at once."""
SHARE: Final = 0.75
"""Of what the slow node can run, so much is offered to each node by round robin."""
STRATEGIES: Final = (None, ROUND_ROBIN, LEAST_LOADED, PRIORITY_QUEUE, PREDICTED_COMPLETION)
"""``None``: the node that the client chose answers itself."""
RATIO_MIN: Final = 1.5
P99_RATIO_MIN: Final = 2.0
SETTLE_S: Final = 1.0
"""Of each stretch of load so much is not counted: the strategy has just begun."""


@dataclass(frozen=True, slots=True)
class Size:
    """Rounds, the seconds of a stretch of load, and by which factors the load is raised."""

    rounds: int
    seconds: float
    factors: tuple[float, ...]


FULL: Final = Size(rounds=5, seconds=7.0, factors=(1.5, 2.0, 2.5))
QUICK: Final = Size(rounds=1, seconds=2.0, factors=(1.5,))


@dataclass(slots=True)
class Stretch:
    """Answers to one stretch of load: seconds from when each was due, who answered, and what was refused."""

    latencies_s: list[float] = field(default_factory=list)
    nodes: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    @property
    def p99_s(self) -> float:
        """The 99th percentile of what was answered, in seconds."""
        return percentile(self.latencies_s, 0.99) if self.latencies_s else 0.0


@dataclass(slots=True)
class Results:
    """By strategy its stretches under the same load; and how much more predicted completion carried."""

    stretches: dict[str | None, list[Stretch]] = field(default_factory=dict)
    carried: list[float] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def p99_ratios(self, strategy: str | None) -> list[float]:
        """Round robin's 99th percentile against that of a strategy, by round."""
        pairs = zip(self.stretches[ROUND_ROBIN], self.stretches[strategy], strict=True)
        return [one.p99_s / other.p99_s for one, other in pairs]


class Load:
    """Offers requests to a cluster. The answers that are right are worked out beforehand."""

    def __init__(self, client: Client, digits: Digits) -> None:
        own = InProcess(digits.model)
        self._client = client
        self._scans = {rows: digits.images[:rows] for rows in set(ROWS)}
        self._right = {rows: own.infer(scans) for rows, scans in self._scans.items()}

    async def offer(self, strategy: str | None, rate: float, seconds: float, seed: int) -> Stretch:
        """Ask ``rate`` times a second on average, with this strategy in force."""
        await self._client.set_strategy(MODEL, strategy)
        # Whoever is asked has seen the strategy from here on.
        await self._client.get("nothing", consistency="linearizable")
        stretch, sizes = Stretch(), Random(seed)
        begun = time.perf_counter() + 0.05
        calls = []
        for due in poisson(rate / BURST, seconds + SETTLE_S, seed):
            await asyncio.sleep(max(0.0, begun + due - time.perf_counter()))
            for _ in range(BURST):
                rows = sizes.choice(ROWS)
                counted = due >= SETTLE_S
                calls.append(asyncio.ensure_future(self._ask(stretch, rows, begun + due, counted=counted)))
        await asyncio.gather(*calls)
        return stretch

    async def _ask(self, stretch: Stretch, rows: int, due: float, *, counted: bool) -> None:
        try:
            answer = await self._client.infer(MODEL, self._scans[rows])
        except McpError as error:
            stretch.refused[error.code] += 1
            return
        if counted:
            stretch.latencies_s.append(time.perf_counter() - due)
            stretch.nodes[answer.node] += 1
        self._check(stretch, answer.outputs, rows)

    def _check(self, stretch: Stretch, outputs: dict[str, NDArray[np.generic]], rows: int) -> None:
        right: Outputs = self._right[rows]
        if not equal(outputs, right):
            stretch.wrong.append(f"{rows} rows: the outputs differ")


def base_rate() -> float:
    """The load that round robin can bear, in requests a second."""
    mean_s = sum(run_s(rows, max(PACES.values())) for rows in ROWS) / len(ROWS)
    return SHARE * len(PACES) / mean_s


async def measure(size: Size, steps: Steps) -> Report:
    """Run the suite."""
    steps.begin("scheduling", size.rounds)
    results, digits = Results(), load_digits()
    programs = {node: (*PROGRAM, str(pace)) for node, pace in PACES.items()}
    async with bench(len(PACES), ("--workers", "1", "--no-batching"), programs) as made:
        await made.client.deploy(MODEL, digits.model)
        await made.calm()
        load = Load(made.client, digits)
        await load.offer(ROUND_ROBIN, base_rate(), size.seconds / 2, 0)
        for number in range(size.rounds):
            await one_round(load, size, results, number + 1)
            steps.done()
    return report(results)


async def one_round(load: Load, size: Size, results: Results, seed: int) -> None:
    """The same load for all; then more for predicted completion, while it does no worse than round robin."""
    stretches = {}
    for strategy in STRATEGIES:
        stretch = stretches[strategy] = await load.offer(strategy, base_rate(), size.seconds, seed)
        results.stretches.setdefault(strategy, []).append(stretch)
        results.wrong += stretch.wrong
    carried = 1.0
    for factor in size.factors:
        more = await load.offer(PREDICTED_COMPLETION, factor * base_rate(), size.seconds, seed)
        results.wrong += more.wrong
        if more.refused or more.p99_s > stretches[ROUND_ROBIN].p99_s:
            break
        carried = factor
    results.carried.append(carried)


def report(results: Results) -> Report:
    """Put the figures together."""
    p99 = Figure.of_ratios(
        "p99 of round robin / of predicted completion, same load", results.p99_ratios(PREDICTED_COMPLETION)
    )
    carried = Figure.of_ratios("load of predicted completion / of round robin, p99 no worse", results.carried)
    bars = [
        Bar(p99, P99_RATIO_MIN, "half of round robin's p99 at the same load", at_least=True),
        Bar(carried, RATIO_MIN, "one and a half times its load at the same p99", at_least=True),
    ]
    refused = [
        f"{name(strategy)}: {count} were refused with {code}"
        for strategy, stretches in results.stretches.items()
        for code, count in sum((each.refused for each in stretches), Counter[str]()).items()
    ]
    return Report(
        "scheduling",
        [p99, carried],
        bars,
        results.wrong,
        {"nodes": len(PACES), "paces": dict(PACES), "requests_per_s": round(base_rate(), 1)},
        [grid(results.stretches)],
        remarks=[*refused, "what a run takes is set, and waited for: the nodes' own costs come on top"],
    )


def grid(found: dict[str | None, list[Stretch]]) -> Grid:
    """Medians over the rounds, by strategy."""
    rows: list[tuple[str | float | None, ...]] = []
    for strategy, stretches in found.items():
        everything = [taken for each in stretches for taken in each.latencies_s]
        answered = sum((each.nodes for each in stretches), Counter[str]())
        slow = answered[max(PACES, key=lambda node: PACES[node])] / max(1, answered.total())
        p50, p99 = (1e3 * _or_zero(everything, share) for share in (0.5, 0.99))
        rows.append((name(strategy), p50, p99, 100 * slow))
    title = f"{base_rate():.0f} requests a second, in bursts of {BURST}"
    return Grid(title, ("strategy", "p50 ms#", "p99 ms#", "answered by the slow node %#"), tuple(rows))


def _or_zero(samples: Sequence[float], share: float) -> float:
    return percentile(samples, share) if samples else 0.0


def name(strategy: str | None) -> str:
    """What a strategy is called for people."""
    return "none: the client's choice" if strategy is None else strategy.replace("_", " ")
