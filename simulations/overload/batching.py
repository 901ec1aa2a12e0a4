"""A server that runs requests together, as nodes do: production's batcher, in virtual time, under admission.

A run of ``n`` requests takes ``fixed_s + n * each_s``. So the more wait the more is done at once, up to what
the latency bound of batches allows, and a limit of requests under way that takes waiting for company for
overload keeps the batches small: then there is less that can be done, and even more waiting.
"""

from __future__ import annotations

import heapq
import math
import random
from dataclasses import dataclass
from typing import Final

from executor.batching.batcher import Batcher
from executor.batching.lanes import Batch, LaneKey
from executor.batching.lanes import Request as Waiting
from executor.batching.options import BatchLimits, BatchOptions
from executor.errors import DeadlineExceeded, QueueFull
from mcp.flow.admission import Admission, Request, Ticket
from mcp.flow.config import FlowConfig
from mcp.flow.outcome import Outcome
from simulations.overload.server import Figures

SPREAD: Final = 0.1
"""Runs take up to so much more or less of their time, by chance."""
STEP_S: Final = 1e-4
"""The batcher is asked again after so long where it holds requests until now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batched:
    """What is simulated: ``load`` times what ``workers`` can do in full batches, for ``seconds``.

    ``tells_waits``: whether admission learns how long each request waited, as the batcher says it, or only
    its latency.
    """

    load: float
    workers: int = 2
    fixed_s: float = 0.007
    each_s: float = 0.0008
    timeout_s: float = 2.0
    seconds: float = 30.0
    warm_up_s: float = 10.0
    tells_waits: bool = True
    seed: int = 1

    def run_s(self, rows: int) -> float:
        """How long so many take together."""
        return self.fixed_s + rows * self.each_s

    @property
    def rows_max(self) -> int:
        """How many make a full batch, by the options that nodes have."""
        options = BatchOptions()
        bound_s = max(options.latency_bound_s, 2 * self.run_s(1))
        return max(1, min(options.rows_max, int((bound_s - self.fixed_s) / self.each_s)))

    @property
    def capacity(self) -> float:
        """Requests a second in full batches."""
        return self.workers * self.rows_max / self.run_s(self.rows_max)


class _Job(Waiting):
    """One request, with its place."""

    __slots__ = ("came_at", "ticket")

    def __init__(self, lane: LaneKey, ticket: Ticket | None, came_at: float, deadline_s: float) -> None:
        super().__init__(lane, client="c", deadline_s=deadline_s)
        self.ticket = ticket
        self.came_at = came_at


class BatchingServer:
    """One run. ``config`` is what its admission goes by; ``None``: it lets everything in."""

    def __init__(self, scenario: Batched, config: FlowConfig | None) -> None:
        options = BatchOptions()
        workers = scenario.workers
        self._scenario = scenario
        self._random = random.Random(scenario.seed)
        self._batcher = Batcher(BatchLimits(workers=workers, workers_per_model_max=workers))
        self._lane = LaneKey("m", options.rows_max, options.latency_bound_s)
        self._admission = Admission(config, random.Random(scenario.seed), node="n1") if config else None
        self._ends: list[tuple[float, int, Batch, float]] = []
        self._count = 0
        self._due_s = math.inf
        self._figures = Figures(scenario.seconds, [0], [0])

    def run(self) -> Figures:
        """Simulate it all."""
        scenario = self._scenario
        rate, end_s = scenario.load * scenario.capacity, scenario.warm_up_s + scenario.seconds
        comes_at = self._random.expovariate(rate)
        while (now := min(comes_at, self._due_s, self._ends[0][0] if self._ends else math.inf)) < end_s:
            if self._ends and self._ends[0][0] <= now:
                _, _, batch, took_s = heapq.heappop(self._ends)
                self._batcher.finished(batch, took_s)
                for request in batch.requests:
                    self._over(request, Outcome.SUCCEEDED, now)
            elif comes_at <= now:
                comes_at += self._random.expovariate(rate)
                self._arrive(now)
            self._begin(now)
        return self._figures

    def _arrive(self, now: float) -> None:
        deadline_s = now + self._scenario.timeout_s
        counted, ticket = now >= self._scenario.warm_up_s, None
        self._figures.offered[0] += counted
        if self._admission is not None:
            verdict = self._admission.admit(Request("c", "m", deadline=deadline_s), now)
            if not isinstance(verdict, Ticket):
                self._figures.refused[0] += counted
                return
            ticket = verdict
        try:
            self._batcher.add(_Job(self._lane, ticket, now, deadline_s), now)
        except (QueueFull, DeadlineExceeded):
            self._figures.refused[0] += counted
            if ticket is not None:
                ticket.done(Outcome.ABANDONED, 0.0, now)

    def _begin(self, now: float) -> None:
        while (batch := self._batcher.take(now)) is not None:
            took_s = self._scenario.run_s(batch.rows) * self._random.uniform(1 - SPREAD, 1 + SPREAD)
            self._count += 1
            heapq.heappush(self._ends, (now + took_s, self._count, batch, took_s))
        late, self._batcher.late = self._batcher.late, []
        for request in late:
            self._over(request, Outcome.ABANDONED, now)
        self._due_s = max(self._batcher.next_due(now), now + STEP_S)

    def _over(self, job: Waiting, outcome: Outcome, now: float) -> None:
        assert isinstance(job, _Job)
        latency_s = now - job.came_at
        if now >= self._scenario.warm_up_s and outcome is Outcome.SUCCEEDED:
            in_time = latency_s <= self._scenario.timeout_s
            self._figures.good += in_time
            self._figures.late += not in_time
            self._figures.latencies_s.append(latency_s)
        if job.ticket is not None:
            waited_s = min(job.waited_s, latency_s) if self._scenario.tells_waits else None
            job.ticket.done(outcome, latency_s, now, waited_s)
