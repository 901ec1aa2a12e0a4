"""Priority queue: a request waits here, not at a node, until a node has a free place.

So the order can still change while requests wait, and no node has a queue that another could have worked
off. The price is that a node stands idle from its answer until the next request arrives there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from random import Random
from typing import Final

from mcp.cluster.scheduler.account import Account
from mcp.cluster.scheduler.interface import Choice, Request
from mcp.cluster.scheduler.strategy import REFRESH_S, drawn
from mcp.cluster.scheduler.waiting_queue import AGING_S, PATIENCE_S, WAITING_MAX, WaitingQueue
from mcp.errors import Busy

QUEUES_MAX: Final = 256
"""For how many models requests can wait at once."""

Eligible = Callable[[Request], Sequence[str]]
"""The nodes that can run a request now."""


class PriorityQueue:
    """One :class:`~mcp.cluster.scheduler.waiting_queue.WaitingQueue` for each model.

    A model whose nodes have no free place does not keep other models' requests waiting. Within a model the
    first one goes first: where it can run on few nodes only, the others wait with it.
    """

    def __init__(
        self,
        account: Account,
        *,
        waiting_max: int = WAITING_MAX,
        aging_s: float = AGING_S,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self._account = account
        self._waiting_max = waiting_max
        self._aging_s = aging_s
        self._patience_s = patience_s
        self._queues: dict[str, WaitingQueue] = {}
        self._taken: dict[str, float] = {}
        self._refresh_at = -math.inf

    def __len__(self) -> int:
        """How many requests wait."""
        return sum(len(queue) for queue in self._queues.values())

    def choose(self, candidates: Sequence[str], request: Request, now: float, generator: Random) -> Choice:
        """A candidate with a free place, if nobody waits for that model; otherwise the request waits.

        Raises :class:`~mcp.errors.Busy` where too many wait.
        """
        queue = self._queues.get(request.model)
        if queue is None:
            free = self._free(candidates, now, generator)
            if free is not None:
                return Choice(free, None, "has a free place, and nobody waits")
            queue = self._new_queue(request.model)
        elif request.id in queue:
            return Choice(None, None, "waits for a free place")
        queue.add(request, now)
        return Choice(None, None, f"waits for a free place, with {len(queue) - 1} others")

    def preview(self, candidates: Sequence[str], request: Request, now: float, generator: Random) -> Choice:
        """See :class:`~mcp.cluster.scheduler.strategy.Strategy`."""
        queue = self._queues.get(request.model)
        free = self._free(candidates, now, generator) if queue is None else None
        if free is not None:
            return Choice(free, None, "has a free place, and nobody waits")
        return Choice(None, None, f"waits for a free place, with {len(queue or ())} others")

    def _new_queue(self, model: str) -> WaitingQueue:
        if len(self._queues) >= QUEUES_MAX:
            raise Busy(f"requests for {QUEUES_MAX} models wait already; send it again later")
        self._queues[model] = queue = WaitingQueue(
            waiting_max=self._waiting_max, aging_s=self._aging_s, patience_s=self._patience_s
        )
        return queue

    def next(self, eligible: Eligible, now: float, generator: Random) -> tuple[Request, Choice] | None:
        """The next request that can go to a node, and where; ``None`` while none can.

        It waits no longer. Call it after everything that may have freed a place, until it gives ``None``,
        and tell :meth:`~mcp.cluster.scheduler.interface.Scheduler.started` of each request that it gives.
        """
        for model, queue in self._in_turn(generator):
            first = queue.first(now)
            candidates = eligible(first) if first is not None else ()
            free = self._free(candidates, now, generator) if candidates else None
            if first is not None and free is not None:
                queue.remove(first.id)
                self._drop_empty(model)
                return first, Choice(free, None, "has a free place, and it is the next in turn")
        return None

    def _in_turn(self, generator: Random) -> Iterator[tuple[str, WaitingQueue]]:
        models = list(self._queues)
        for model in drawn(models, None, generator) if models else models:
            yield model, self._queues[model]

    def _free(self, candidates: Sequence[str], now: float, generator: Random) -> str | None:
        """The candidate with the smallest share of its places taken, if it has a free one."""
        if now >= self._refresh_at:
            self._taken.clear()
            self._refresh_at = now + REFRESH_S
        taken = self._taken
        least, chosen = 1.0, None
        for node in drawn(candidates, None, generator):
            share = taken.get(node)
            if share is None:
                share = taken[node] = self._share(node, now)
            if share < least:
                least, chosen = share, node
        return chosen

    def _share(self, node: str, now: float) -> float:
        """The share of a node's places that are taken; a node that is left alone has none to give."""
        kept = self._account.node(node)
        if kept is None:
            return 0.0
        if kept.aside_until > now:
            return math.inf
        return self._account.in_front(node, now) / kept.concurrency

    def _drop_empty(self, model: str) -> None:
        if not self._queues[model]:
            del self._queues[model]

    def cancel(self, request: Request) -> bool:
        """Nobody wants ``request`` any more: whether it waited."""
        queue = self._queues.get(request.model)
        if queue is None or not queue.remove(request.id):
            return False
        self._drop_empty(request.model)
        return True

    def expired(self, now: float) -> list[Request]:
        """The requests whose deadline passed while they waited, which wait no longer."""
        found = []
        for model, queue in list(self._queues.items()):
            found += queue.expired(now)
            self._drop_empty(model)
        return found

    def touched(self, node: str, request: Request | None, now: float) -> None:
        """See :class:`~mcp.cluster.scheduler.strategy.Strategy`."""
        self._taken.pop(node, None)
