"""A server with workers and one queue, in virtual time, and the requests that are sent to it.

Requests come as a Poisson process and wait in order of arrival for one of ``workers``. An answer counts as
*good* if it came within ``timeout_s``; nobody waits any longer, but a server without admission works on what
nobody waits for, which is how goodput collapses. The same seed gives the same run.
"""

from __future__ import annotations

import heapq
import math
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Literal

from mcp.flow.admission import Admission, Request, Ticket
from mcp.flow.config import FlowConfig
from mcp.flow.outcome import Outcome

Service = Literal["exponential", "constant", "bimodal"]

_DRAWS: Final[dict[str, Callable[[random.Random], float]]] = {
    "exponential": lambda chance: chance.expovariate(1.0),
    "constant": lambda _: 1.0,
    # One in ten is ten times as long as the others: short and long inputs of one model.
    "bimodal": lambda chance: 10 / 1.9 if chance.random() < 0.1 else 1 / 1.9,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """What is simulated: ``load`` times what ``workers`` can do, for ``seconds``, after a warm-up.

    ``work_s`` is the mean time of one request. ``priorities``: the shares of the requests that have priority
    0, 1 and so on. ``tells_waits``: whether admission learns how long each request waited, or only its
    latency. ``deadlines``: whether requests say how long they are waited for.
    """

    load: float
    workers: int = 4
    service: Service = "exponential"
    work_s: float = 0.02
    timeout_s: float = 0.5
    seconds: float = 60.0
    warm_up_s: float = 10.0
    priorities: tuple[float, ...] = (1.0,)
    tells_waits: bool = True
    deadlines: bool = True
    seed: int = 1


@dataclass(slots=True)
class Figures:
    """What was measured after the warm-up."""

    seconds: float
    offered: list[int]
    refused: list[int]
    good: int = 0
    late: int = 0
    latencies_s: list[float] = field(default_factory=list)
    """Of those that were let in and answered, in time or not."""

    @property
    def goodput(self) -> float:
        """Good answers per second."""
        return self.good / self.seconds

    def quantile_s(self, share: float) -> float:
        """The latency that this share of the answers had at most; not a number without answers."""
        ordered = sorted(self.latencies_s)
        return ordered[min(len(ordered) - 1, math.ceil(share * len(ordered)) - 1)] if ordered else math.nan

    def refused_share(self, priority: int) -> float:
        """The share of the requests of that priority that was refused."""
        return self.refused[priority] / self.offered[priority] if self.offered[priority] else 0.0


@dataclass(slots=True)
class _Job:
    came_at: float
    priority: int
    ticket: Ticket | None
    begun_at: float = math.nan


class Server:
    """One run. ``config`` is what its admission goes by; ``None``: it lets everything in."""

    def __init__(self, scenario: Scenario, config: FlowConfig | None) -> None:
        self._scenario = scenario
        self._random = random.Random(scenario.seed)
        self.admission = Admission(config, random.Random(scenario.seed), node="n1") if config else None
        self._queue: deque[_Job] = deque()
        self._working: list[tuple[float, int, _Job]] = []
        self._count = 0
        classes = len(scenario.priorities)
        self._figures = Figures(scenario.seconds, [0] * classes, [0] * classes)

    def run(self) -> Figures:
        """Simulate it all."""
        scenario = self._scenario
        rate = scenario.load * scenario.workers / scenario.work_s
        end_s = scenario.warm_up_s + scenario.seconds
        comes_at = self._random.expovariate(rate)
        while min(comes_at, self._working[0][0] if self._working else math.inf) < end_s:
            if self._working and self._working[0][0] <= comes_at:
                ends_at, _, job = heapq.heappop(self._working)
                self._end(job, ends_at)
            else:
                self._arrive(comes_at)
                comes_at += self._random.expovariate(rate)
        return self._figures

    def _arrive(self, now: float) -> None:
        scenario, counted = self._scenario, now >= self._scenario.warm_up_s
        (priority,) = self._random.choices(range(len(scenario.priorities)), scenario.priorities)
        self._figures.offered[priority] += counted
        ticket = None
        if self.admission is not None:
            deadline = now + scenario.timeout_s if scenario.deadlines else None
            verdict = self.admission.admit(Request("c", "m", priority, deadline=deadline), now)
            if not isinstance(verdict, Ticket):
                self._figures.refused[priority] += counted
                return
            ticket = verdict
        self._queue.append(_Job(now, priority, ticket))
        self._begin(now)

    def _begin(self, now: float) -> None:
        scenario = self._scenario
        while self._queue and len(self._working) < scenario.workers:
            job = self._queue.popleft()
            job.begun_at = now
            self._count += 1
            work_s = scenario.work_s * _DRAWS[scenario.service](self._random)
            heapq.heappush(self._working, (now + work_s, self._count, job))

    def _end(self, job: _Job, now: float) -> None:
        scenario, latency_s = self._scenario, now - job.came_at
        in_time = latency_s <= scenario.timeout_s
        if now >= scenario.warm_up_s:
            self._figures.good += in_time
            self._figures.late += not in_time
            self._figures.latencies_s.append(latency_s)
        if job.ticket is not None:
            waited_s = job.begun_at - job.came_at if scenario.tells_waits else None
            job.ticket.done(
                Outcome.SUCCEEDED if in_time else Outcome.TIMED_OUT, latency_s, now, waited_s=waited_s
            )
        self._begin(now)
