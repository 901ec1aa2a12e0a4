"""Requests that may run together, queued fairly between those who sent them."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Hashable
from typing import Final

from executor.batching.estimates import Arrivals, ServiceTimes

COMPANY_SHARE: Final = 0.25
"""This part of a full run's time is what it costs to run in company, and no waiting.

With none of it the first few that wait behind a run would be too many, and batches never grow: a lone run
takes at least a sixth of a full one's time, or the batches grow anyway. With all of it batches are full, and
everybody waits for two of them.
"""


class LaneKey:
    """What requests have in common that may run together: one object for all of them.

    ``rows_max`` and ``latency_bound_s`` are the model's :class:`~executor.batching.options.BatchOptions`;
    with ``rows_max`` 0 every request runs alone.
    """

    __slots__ = ("latency_bound_s", "model", "rows_max")

    def __init__(self, model: str, rows_max: int = 0, latency_bound_s: float = 0.0) -> None:
        self.model = model
        self.rows_max = rows_max
        self.latency_bound_s = latency_bound_s


class Request:
    """One request on its way. ``deadline_s`` is on the clock of ``now``; infinity is none.

    ``calls`` is how many inferences it has. ``waited_s`` is known once it is in a batch: how long it waited
    beyond what it costs to run in company. Subclass it to carry what the caller needs.
    """

    __slots__ = (
        "arrived_s",
        "batch",
        "calls",
        "client",
        "deadline_s",
        "lane",
        "rows",
        "size_bytes",
        "waited_s",
        "waiting",
    )

    def __init__(
        self,
        lane: LaneKey,
        *,
        client: Hashable,
        rows: int = 1,
        size_bytes: int = 0,
        deadline_s: float = math.inf,
    ) -> None:
        self.lane = lane
        self.client = client
        self.rows = rows
        self.size_bytes = size_bytes
        self.deadline_s = deadline_s
        self.calls = 1
        self.arrived_s = 0.0
        self.waited_s = 0.0
        self.waiting = False
        self.batch: Batch | None = None


class Batch:
    """Requests that run as one. ``live`` counts those whose answer is still wanted."""

    __slots__ = ("began_s", "expected_s", "inline", "live", "requests", "rows")

    def __init__(self, requests: list[Request], rows: int, began_s: float, expected_s: float) -> None:
        self.requests = requests
        self.rows = rows
        self.began_s = began_s
        self.expected_s = expected_s
        self.live = len(requests)
        self.inline = False
        for request in requests:
            request.batch = self

    @property
    def lane(self) -> LaneKey:
        """What the requests have in common."""
        return self.requests[0].lane


class Lane:
    """The queue of one :class:`LaneKey`, and what is known about its runs and its arrivals.

    Between clients it is served by deficit round robin (Shreedhar and Varghese 1995, "Efficient fair
    queuing using deficit round robin", section 3), with rows for bytes: in each round a client may take
    ``quantum`` rows more than it has taken, so that neither many requests nor large ones give anybody more
    than a share. Each client's own requests stay in order.
    """

    __slots__ = (
        "_clients",
        "_deficits",
        "arrivals",
        "cap_s",
        "key",
        "refused_in_row",
        "requests",
        "rows",
        "rows_cap",
        "times",
    )

    def __init__(self, key: LaneKey) -> None:
        self.key = key
        self.rows_cap = key.rows_max
        """How many rows the next batch may have; 0: every request runs alone."""
        self.cap_s = 0.0
        """How long a run of so many rows takes, as far as is known."""
        self.rows = 0
        self.requests = 0
        self.refused_in_row = 0
        self.times = ServiceTimes()
        self.arrivals = Arrivals(2 * key.latency_bound_s)
        self._clients: OrderedDict[Hashable, OrderedDict[Request, None]] = OrderedDict()
        self._deficits: dict[Hashable, int] = {}

    def put(self, request: Request, now: float) -> None:
        """Append a request to its client's queue."""
        queue = self._clients.get(request.client)
        if queue is None:
            queue = self._clients[request.client] = OrderedDict()
            self._deficits[request.client] = 0
        queue[request] = None
        self.requests += 1
        self.rows += request.rows
        self.arrivals.note(now)

    def remove(self, request: Request) -> None:
        """Take out one that waits."""
        queue = self._clients[request.client]
        del queue[request]
        self._drop(request, queue)

    def rows_before(self, client: Hashable, rows: int) -> int:
        """About how many rows run before a new request of that client and size, which gets its turn."""
        own = self._clients.get(client, ())
        clients = len(self._clients) + (not own)
        return min(self.rows, (sum(request.rows for request in own) + rows) * clients - rows)

    def oldest_s(self) -> float:
        """When the request that has waited longest came; infinity if none waits."""
        return min((next(iter(queue)).arrived_s for queue in self._clients.values()), default=math.inf)

    def waiting(self) -> list[Request]:
        """Everything that waits."""
        return [request for queue in self._clients.values() for request in queue]

    def ran(self, rows: int, elapsed_s: float) -> None:
        """A batch of so many rows took so long: bound the next ones by what keeps the latency bound."""
        self.times.note(rows, elapsed_s)
        most = self.key.rows_max
        if most > 1 and self.times.known:
            bound_s = max(self.key.latency_bound_s, 2 * self.times.expected_s(1))
            within = self.times.rows_within(bound_s)
            self.rows_cap = most if within >= most else max(1, int(within))
        self.cap_s = self.times.expected_s(max(1, self.rows_cap))

    def waited_s(self, request: Request, now: float) -> float:
        """How long a request that is taken now has waited, beyond :data:`COMPANY_SHARE` of a full run.

        Whoever comes during a run and is in the next one has stood behind nobody, and the more of them there
        are the more are run at once: that says nothing of there being too many.
        """
        company_s = COMPANY_SHARE * self.cap_s if self.rows_cap > 1 else 0.0
        return max(0.0, now - request.arrived_s - company_s)

    def take(self, now: float) -> tuple[list[Request], list[Request]]:
        """Take the requests of the next batch, of at most ``rows_cap`` rows, and those that are too late.

        Too late is who cannot be answered by its deadline even if it runs alone now. The first request is
        taken whatever its rows. The batch ends before a request that would make it too slow for the
        deadline of one that is in it.
        """
        taken: list[Request] = []
        late: list[Request] = []
        rows, tightest_s = 0, math.inf
        cap = max(1, self.rows_cap)
        quantum = -(-cap // max(1, len(self._clients)))
        while self._clients and not (taken and rows >= self.rows_cap):
            client, queue = next(iter(self._clients.items()))
            credit = self._deficits[client] + quantum
            while queue:
                request = next(iter(queue))
                if self._too_late(request, now):
                    late.append(request)
                elif min(request.rows, cap) > credit:
                    break
                elif taken and self._ends_before(request, rows, tightest_s, now):
                    # It stays first, and has the rest of its turn in the next batch.
                    self._deficits[client] = credit - quantum
                    return taken, late
                else:
                    taken.append(request)
                    credit -= min(request.rows, cap)
                    rows += request.rows
                    tightest_s = min(tightest_s, request.deadline_s)
                self.remove(request)
            if client in self._clients:
                self._deficits[client] = credit
                self._clients.move_to_end(client)
        return taken, late

    def _too_late(self, request: Request, now: float) -> bool:
        return now + self.times.expected_s(request.rows) > request.deadline_s

    def _ends_before(self, request: Request, rows: int, tightest_s: float, now: float) -> bool:
        together = rows + request.rows
        tightest_s = min(tightest_s, request.deadline_s)
        return together > self.rows_cap or now + self.times.expected_s(together) > tightest_s

    def _drop(self, request: Request, queue: OrderedDict[Request, None]) -> None:
        self.requests -= 1
        self.rows -= request.rows
        if not queue:
            del self._clients[request.client], self._deficits[request.client]
