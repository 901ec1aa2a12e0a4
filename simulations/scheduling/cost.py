"""What a choice costs: the only thing here that is measured on this machine's clock."""

from __future__ import annotations

import statistics
import time
from collections import deque
from dataclasses import dataclass
from random import Random
from typing import Final

from mcp.cluster.outcome import Outcome
from mcp.cluster.scheduler.interface import Request
from mcp.cluster.scheduler.load_report import LoadReport
from mcp.cluster.scheduler.strategies import STRATEGIES, SchedulerSettings, Strategies
from simulations.benchmarks.figures import percentile

NODES: Final = 50
CHOICES: Final = 5000
IN_FLIGHT: Final = 40
GAP_S: Final = 0.002
MODEL: Final = "digits"


@dataclass(frozen=True, slots=True)
class Cost:
    """Seconds of this machine's time: of a choice, and of everything that a request causes."""

    strategy: str
    choice_median_s: float
    choice_p99_s: float
    request_median_s: float


def costs() -> list[Cost]:
    """Of every strategy, with :data:`NODES` nodes, while requests come and go."""
    return [_cost(strategy) for strategy in STRATEGIES]


def _cost(strategy: str) -> Cost:
    scheduler, random = Strategies(SchedulerSettings(default=strategy)), Random(1)
    nodes = [f"node-{number}" for number in range(NODES)]
    for node in nodes:
        scheduler.observed(node, LoadReport(concurrency=4, running=1), 0.0)
    under_way: deque[tuple[str, Request]] = deque()
    choices, requests = [], []
    for number in range(CHOICES):
        now = number * GAP_S
        request = Request(f"r{number}", MODEL, random.randint(1, 64))
        begun = time.perf_counter()
        choice = scheduler.choose(nodes, request, now, random)
        choices.append(time.perf_counter() - begun)
        if choice.node is not None:
            scheduler.started(choice.node, request, now)
            under_way.append((choice.node, request))
        if len(under_way) > IN_FLIGHT:
            node, ended = under_way.popleft()
            service_s = 0.004 + 0.001 * ended.size
            scheduler.finished(node, ended, Outcome.ANSWERED, IN_FLIGHT * GAP_S, now, service_s=service_s)
        requests.append(time.perf_counter() - begun)
    return Cost(strategy, statistics.median(choices), percentile(choices, 0.99), statistics.median(requests))
