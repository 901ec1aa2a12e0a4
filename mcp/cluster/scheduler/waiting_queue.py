"""A bounded queue in the order of priority, then deadline, then arrival, in which nothing starves.

Two rules keep that promise. *Aging*: after each ``aging_s`` of waiting a request counts as one priority more
urgent, up to the most urgent one. *Patience*: within a priority the earlier due comes first, and a request
is due at its deadline, but no later than ``patience_s`` after its arrival. So a request that waited for
``(PRIORITY_MAX - priority) * aging_s``, and then for ``patience_s`` since its arrival, has nothing before it
that arrived after that. Aging is the classical cure for the starvation that priorities bring (Silberschatz,
Galvin and Gagne, "Operating System Concepts", on priority scheduling); earliest deadline first is that of Liu
and Layland, "Scheduling Algorithms for Multiprogramming in a Hard-Real-Time Environment", 1973, section 7.

Each priority has a heap. A request that ages is put into the heap of its new priority and what is left of
it in the old one is passed over later, so that every step costs the logarithm of what waits.
"""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass
from typing import Final

from mcp.cluster.scheduler.interface import PRIORITY_MAX, Request
from mcp.errors import Busy, InvalidArgument

WAITING_MAX: Final = 1024
"""How many requests wait at most, unless told otherwise."""

AGING_S: Final = 1.0
"""After how long a request counts as one priority more urgent, unless told otherwise."""

PATIENCE_S: Final = 10.0
"""How long after its arrival a request is due at the latest, unless told otherwise."""


@dataclass(slots=True, eq=False)
class _Entry:
    request: Request
    number: int
    arrived: float
    due: float
    level: int
    waits: bool = True


class WaitingQueue:
    """Requests that wait for a node. Identified by ``request.id``."""

    def __init__(
        self, *, waiting_max: int = WAITING_MAX, aging_s: float = AGING_S, patience_s: float = PATIENCE_S
    ) -> None:
        if waiting_max < 0 or not aging_s > 0.0 or not patience_s >= 0.0:
            raise InvalidArgument(
                f"waiting_max={waiting_max} and patience_s={patience_s} must not be negative, "
                f"and aging_s={aging_s} must be above 0"
            )
        self._waiting_max = waiting_max
        self._aging_s = aging_s
        self._patience_s = patience_s
        self._waiting: dict[str, _Entry] = {}
        self._levels: list[list[tuple[float, int, _Entry]]] = [[] for _ in range(PRIORITY_MAX + 1)]
        self._promotions: list[tuple[float, int, _Entry]] = []
        self._deadlines: list[tuple[float, int, _Entry]] = []
        self._number = 0
        self._gone = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._waiting

    def add(self, request: Request, now: float) -> None:
        """Let ``request`` wait.

        Raises :class:`~mcp.errors.Busy` where ``waiting_max`` wait already, and
        :class:`~mcp.errors.InvalidArgument` where one with the same id does.
        """
        if request.id in self._waiting:
            raise InvalidArgument(f"request {request.id!r:.80} waits already; give every request its own id")
        if len(self._waiting) >= self._waiting_max:
            raise Busy(
                f"waiting_max={self._waiting_max} requests wait for a node already; send it again later"
            )
        self._number += 1
        deadline = math.inf if request.deadline is None else request.deadline
        due = min(max(deadline, now), now + self._patience_s)
        entry = _Entry(request, self._number, now, due, request.priority)
        self._waiting[request.id] = entry
        self._place(entry)
        if request.deadline is not None:
            heapq.heappush(self._deadlines, (request.deadline, entry.number, entry))

    def _place(self, entry: _Entry) -> None:
        heapq.heappush(self._levels[entry.level], (entry.due, entry.number, entry))
        if entry.level < PRIORITY_MAX:
            steps = entry.level - entry.request.priority + 1
            heapq.heappush(self._promotions, (entry.arrived + steps * self._aging_s, entry.number, entry))

    def _age(self, now: float) -> None:
        promotions = self._promotions
        while promotions and promotions[0][0] <= now:
            _, _, entry = heapq.heappop(promotions)
            if entry.waits:
                entry.level += 1
                self._place(entry)

    def first(self, now: float) -> Request | None:
        """The request whose turn it is, which goes on waiting; ``None`` where none waits."""
        self._age(now)
        for heap in reversed(self._levels):
            # What a request left behind when it aged is below it, so its present place is found first.
            while heap:
                entry = heap[0][2]
                if entry.waits:
                    return entry.request
                heapq.heappop(heap)
        return None

    def remove(self, request_id: str) -> bool:
        """Let a request wait no longer: it goes to a node, or nobody wants it any more. Whether it did."""
        entry = self._waiting.pop(request_id, None)
        if entry is None:
            return False
        entry.waits = False
        self._gone += 1
        if self._gone > max(64, len(self._waiting)):
            self._sweep()
        return True

    def expired(self, now: float) -> list[Request]:
        """The requests whose deadline has passed, which wait no longer: each is owed a refusal."""
        deadlines = self._deadlines
        found = []
        while deadlines and deadlines[0][0] <= now:
            entry = heapq.heappop(deadlines)[2]
            if entry.waits:
                found.append(entry.request)
                self.remove(entry.request.id)
        return found

    def _sweep(self) -> None:
        """Drop what is left of those that are gone, so that the heaps are bounded by what waits."""
        self._gone = 0
        for level, heap in enumerate(self._levels):
            heap[:] = [item for item in heap if item[2].waits and item[2].level == level]
            heapq.heapify(heap)
        for heap in (self._promotions, self._deadlines):
            heap[:] = [item for item in heap if item[2].waits]
            heapq.heapify(heap)
