"""The nodes of a comparison: what a request takes at each, and which of them is slowed."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random
from typing import Final

from mcp.cluster.scheduler.interface import Request
from mcp.cluster.scheduler.load_report import LoadReport
from simulations.world import World

NOISE: Final = 0.1
"""The standard deviation of the logarithm of a service time."""

SLOWDOWN: Final = 4.0
"""How many times as long the slowed node takes."""

Answer = Callable[[float], None]
"""Called when a request has been run, with its service time in seconds."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A node's hardware: seconds for each call and for each row, and how many calls run at once."""

    call_s: float
    row_s: float
    concurrency: int = 2
    slowed: bool = False

    def rate(self, mean_rows: float) -> float:
        """Requests a second that it can run, while it is not slowed."""
        return self.concurrency / (self.call_s + self.row_s * mean_rows)


CPU: Final = Kind(0.004, 0.001)
OLD_CPU: Final = Kind(0.006, 0.002, concurrency=1)
GPU: Final = Kind(0.012, 0.00005)

FLEETS: Final[dict[str, tuple[Kind, ...]]] = {
    "mixed": (GPU, GPU, replace(CPU, slowed=True), CPU, CPU, CPU, OLD_CPU, OLD_CPU),
    "one-slow": (replace(CPU, slowed=True), CPU, CPU, CPU, CPU, CPU),
    "equal": (CPU, CPU, CPU, CPU, CPU, CPU),
}
"""Different hardware and one of it slowed; the same hardware and one of it slowed; the same hardware."""


class Node:
    """Runs requests in the order of their arrival, a few at once. Slowed between two times."""

    def __init__(self, world: World, name: str, kind: Kind, slow: tuple[float, float]) -> None:
        self.name = name
        self.kind = kind
        self._world = world
        self._slow = slow if kind.slowed else (0.0, 0.0)
        self._random: Random = world.stream(f"node {name}")
        self._queue: deque[tuple[Request, Answer]] = deque()
        self._running = 0
        self._mean_s = 0.0

    def arrive(self, request: Request, answer: Answer) -> None:
        """A request is here; ``answer`` is called when it has been run."""
        self._queue.append((request, answer))
        self._begin()

    def _begin(self) -> None:
        while self._queue and self._running < self.kind.concurrency:
            request, answer = self._queue.popleft()
            self._running += 1
            service_s = self._service_s(request)
            self._world.after(service_s, self._end, answer, service_s)

    def _service_s(self, request: Request) -> float:
        begins, ends = self._slow
        factor = SLOWDOWN if begins <= self._world.now < ends else 1.0
        noise = self._random.lognormvariate(0.0, NOISE)
        return (self.kind.call_s + self.kind.row_s * request.size) * factor * noise

    def _end(self, answer: Answer, service_s: float) -> None:
        self._running -= 1
        self._mean_s += 0.1 * (service_s - self._mean_s) if self._mean_s else service_s
        answer(service_s)
        self._begin()

    def report(self, model: str) -> LoadReport:
        """What the node says of itself now."""
        return LoadReport(
            cpu=self._running / self.kind.concurrency,
            concurrency=self.kind.concurrency,
            running=self._running,
            queued={model: len(self._queue)} if self._queue else {},
            service_s={model: self._mean_s} if self._mean_s else {},
        )
