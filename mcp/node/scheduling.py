"""Who answers where a strategy is declared for a model: the shell around the scheduler.

The node that a client's request arrives at asks the scheduler (:mod:`mcp.cluster.scheduler`) which of the
nodes that may answer does, and answers itself or has that node answer. What is passed on names its version
and comes from a node, so it is never given on again. Every node chooses by its own account: of what it sent
where and how that ended, of its own queue, of what answers say of theirs, and of what gossip says.

A request has a *place*: at a node, or in this node's queue (the strategy ``priority_queue``). The place lasts
until the request is answered, cancelled or lost, whichever way that comes about, and the account is told
what became of it at each node that it was at. A stream has its place to its end, and the account learns from
its first step how quick the node is.
"""

from __future__ import annotations

import asyncio
import functools
import itertools
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from random import Random
from typing import Any, Final

from mcp.clock import Clock
from mcp.cluster.outcome import Outcome
from mcp.cluster.router.decision import Decision
from mcp.cluster.router.features import Features
from mcp.cluster.router.nodes import NodeRecord, View
from mcp.cluster.scheduler.interface import PRIORITY_MAX, Choice, Request
from mcp.cluster.scheduler.load_report import CONCURRENCY_MAX, COUNT_MAX, LoadReport
from mcp.cluster.scheduler.strategies import STRATEGIES, Strategies
from mcp.errors import (
    Busy,
    Cancelled,
    CircuitOpen,
    DeadlineExceeded,
    InvalidArgument,
    McpError,
    MessageExpired,
    ModelNotFound,
    ModelNotReady,
    OutcomeUnknown,
    PermissionDenied,
    Unavailable,
    Unsupported,
)
from mcp.net.exchange import Exchange
from mcp.node.tickets import CALLERS
from mcp.state.state import ReplicatedState
from mcp.wire.handshake import Role

GOSSIP_AGE_S: Final = 0.5
"""So old is what gossip says of a node's load taken to be when it is first seen here."""
REPORT_S: Final = 0.05
"""So long at least between two reports of a node's queue that are put down in the account."""
LOOK_S: Final = 0.05
"""While requests wait, so often it is looked for places and deadlines, beside whenever one ends."""
WAITING_BYTES_MAX: Final = 256 << 20
"""Tensors of the requests that wait in this node's queue, in bytes."""
RETRY_AFTER_S_MIN: Final = 0.01
RETRY_AFTER_S_MAX: Final = 60.0
MODELS_TOLD_MAX: Final = 5
"""So many models are named in a refusal; more are in its details."""
MODELS_LISTED_MAX: Final = 100

_MIB: Final = 1024**2
_log = logging.getLogger("mcp.node")


class Place:
    """Where a request is: at ``node``, or, as long as that is ``None``, in this node's queue."""

    __slots__ = ("_scheduling", "began", "candidates", "first_s", "node", "request", "size", "turn")

    def __init__(
        self, scheduling: Scheduling, request: Request, candidates: Sequence[str], size: int
    ) -> None:
        self.request = request
        self.candidates = list(candidates)
        """The nodes that may answer and have not failed to."""
        self.size = size
        self.node: str | None = None
        self.began: float | None = None
        """Since when it is at the node; ``None`` while it is at none."""
        self.first_s: float | None = None
        """Of a stream: how long its first step took; ``None`` while that is not there."""
        self.turn: asyncio.Future[None] | None = None
        """Done when its turn in the queue has come."""
        self._scheduling = scheduling

    @property
    def left_s(self) -> float:
        """Seconds until the request's deadline."""
        return self._scheduling.left_s(self)

    def begin(self, wait_s: float = 0.0) -> None:
        """It goes to its node now, to begin there after ``wait_s``."""
        self._scheduling.begin(self, wait_s)

    def stepped(self) -> None:
        """A step of a stream is there. The first is measured: how long all take says who reads them."""
        if self.first_s is None and self.began is not None:
            self.first_s = self._scheduling.took_s(self)

    def end(self, error: McpError | None) -> None:
        """It ended where it is, with this error if it is one. A second call changes nothing."""
        self._scheduling.end(self, error)

    def again(self, error: McpError) -> bool:
        """Look for another node after this one failed to answer; whether there is any, or a queue."""
        return self._scheduling.again(self, error)

    async def turned(self) -> None:
        """Wait until it has a node. Raises :class:`~mcp.errors.DeadlineExceeded`."""
        if self.turn is not None:
            await self.turn


class Scheduling:
    """One node's scheduler. All calls on the loop's thread.

    ``view`` gives the nodes as the router sees them; ``depth`` gives how many inferences wait here, how many
    run, and how many can run at once.
    """

    def __init__(
        self,
        node_id: str,
        state: ReplicatedState,
        clock: Clock,
        *,
        view: Callable[[], View],
        depth: Callable[[], tuple[int, int, int]],
    ) -> None:
        self.totals: dict[str, int] = {"here": 0, "passed_on": 0, "queued": 0, "too_late": 0, "busy": 0}
        """What was chosen: this node, another one, the queue; and what was refused."""
        self._node_id = node_id
        self._state = state
        self._clock = clock
        self._view = view
        self._depth = depth
        self._strategies = Strategies()
        self._selected: dict[str, str] = {}
        self._selected_of: tuple[int, int] = (0, 0)
        self._seen: View | None = None
        self._reports: dict[str, LoadReport] = {}
        self._told: dict[str, tuple[object, ...]] = {}
        self._reported: dict[str, float] = {}
        self._models: dict[str, str] = {}
        """Of each node, the model that was given to it last: what waits there is taken to be for that."""
        self._waiting: dict[str, Place] = {}
        self._waiting_bytes = 0
        self._timer: asyncio.TimerHandle | None = None
        self._ids = itertools.count(1)

    # Made when a strategy is first asked: a node without any draws nothing for it.

    @functools.cached_property
    def _random(self) -> Random:
        return self._clock.random()

    @functools.cached_property
    def _explaining(self) -> Random:
        """Seeded anew for each explanation, so it draws nothing of what choices draw."""
        return self._clock.random()

    def close(self) -> None:
        """Look for nothing any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # -- choosing -----------------------------------------------------------------------------------

    def strategy(self, exchange: Exchange, model: str) -> str | None:
        """Return the strategy by which a client's request for a model is given to a node; ``None``: none."""
        if not self._state.traffic.scheduled or exchange.connection.peer.role is Role.NODE:
            return None
        return self._current().get(model)

    def place(self, exchange: Exchange, decision: Decision, features: Features, timeout_s: float) -> Place:
        """Choose where a request goes; it has a node, or waits in the queue.

        Raises :class:`~mcp.errors.Busy` where too many wait, with ``details["retry_after_s"]``, and
        :class:`~mcp.errors.DeadlineExceeded` where no node is likely to answer in time.
        """
        now = self._clock.monotonic()
        self._current()
        self._observe(now)
        candidates = [node.node for node in decision.eligible]
        request = _request(str(next(self._ids)), decision.model, features, now + timeout_s)
        place = Place(self, request, candidates, sum(map(len, exchange.segments)))
        self._choose(place, now)
        self.totals[
            "queued" if place.node is None else "here" if place.node == self._node_id else "passed_on"
        ] += 1
        return place

    def preview(self, decision: Decision, features: Features, seed: int) -> tuple[str, Choice] | None:
        """The strategy that would choose, and what it would; ``None`` where none is declared."""
        name = self._current().get(decision.model)
        if name is None:
            return None
        now = self._clock.monotonic()
        self._observe(now)
        candidates = [node.node for node in decision.eligible]
        deadline = None if features.deadline_s is None else now + features.deadline_s
        request = _request("explained", decision.model, features, deadline)
        self._explaining.seed(seed)
        return name, self._strategies.preview(candidates, request, now, self._explaining)

    def left_s(self, place: Place) -> float:
        """See :attr:`Place.left_s`."""
        deadline = place.request.deadline
        return math.inf if deadline is None else deadline - self._clock.monotonic()

    def _choose(self, place: Place, now: float) -> None:
        request = place.request
        try:
            choice = self._strategies.choose(place.candidates, request, now, self._random)
        except Busy as error:
            raise self._busy(place, now, error.message) from None
        if choice.too_late:
            self.totals["too_late"] += 1
            raise DeadlineExceeded(
                f"the run was not started: {choice.node} would be first, and is expected to answer "
                f"in {choice.predicted_s or 0.0:.3g} s, after the deadline; allow it more time"
            )
        place.node = choice.node
        if choice.node is None:
            self._wait(place, now)

    def _wait(self, place: Place, now: float) -> None:
        if self._waiting_bytes + place.size > WAITING_BYTES_MAX:
            self._strategies.cancel(place.request)
            raise self._busy(place, now, f"waiting_bytes_max={WAITING_BYTES_MAX} of requests wait already")
        self._waiting_bytes += place.size
        self._waiting[place.request.id] = place
        place.turn = asyncio.get_running_loop().create_future()
        self._look_later()

    def _busy(self, place: Place, now: float, problem: str) -> Busy:
        """What waits has to be run first, by all of the nodes together."""
        self.totals["busy"] += 1
        account, request = self._strategies.account, place.request
        per_s = 0.0
        for node in place.candidates:
            kept = account.node(node)
            places = kept.concurrency if kept else 1
            per_s += places / account.service_s(node, request.model, request.size)
        after_s = (1 + len(self._waiting)) / per_s if per_s else RETRY_AFTER_S_MAX
        after_s = min(RETRY_AFTER_S_MAX, max(RETRY_AFTER_S_MIN, after_s))
        return Busy(
            f"{problem.partition(';')[0]}; retry after {after_s:.3g} s, or ask another node",
            details={"retry_after_s": after_s},
        )

    def _current(self) -> Mapping[str, str]:
        """The strategies that are declared now, as far as this version knows them."""
        traffic = self._state.traffic
        of = (traffic.strategies_version, traffic.strategies_index)
        if of != self._selected_of:
            self._selected_of = of
            declared = traffic.strategies
            for model in self._selected.keys() - declared.keys():
                self._strategies.select(model, None)
            unknown = {model: name for model, name in declared.items() if name not in STRATEGIES}
            for model, name in unknown.items():
                _log.error("the strategy %s of %s is not known here: upgrade this node", name, model)
            self._selected = {model: name for model, name in declared.items() if model not in unknown}
            for model, name in self._selected.items():
                self._strategies.select(model, name)
        return self._selected

    # -- what becomes of it -------------------------------------------------------------------------

    def begin(self, place: Place, wait_s: float) -> None:
        """See :meth:`Place.begin`."""
        now = self._clock.monotonic()
        assert place.node is not None
        place.began = now + wait_s
        self._models[place.node] = place.request.model
        self._strategies.started(place.node, place.request, now)

    def end(self, place: Place, error: McpError | None) -> None:
        """See :meth:`Place.end`."""
        now = self._clock.monotonic()
        if self._forget(place):
            self._strategies.cancel(place.request)
        if place.began is not None and place.node is not None:
            took_s = self.took_s(place)
            if place.first_s is not None:
                took_s = place.first_s
                if isinstance(error, Cancelled | DeadlineExceeded):
                    error = None  # the node has answered: when a stream is over is its reader's affair
            place.began = None
            deadline = place.request.deadline
            overdue = deadline is not None and now >= deadline
            self._strategies.finished(place.node, place.request, outcome(error, overdue), took_s, now)
        self._give_places(now)

    def took_s(self, place: Place) -> float:
        """For how long a request has been at its node."""
        return 0.0 if place.began is None else max(0.0, self._clock.monotonic() - place.began)

    def again(self, place: Place, error: McpError) -> bool:
        """See :meth:`Place.again`."""
        self.end(place, error)
        place.candidates = [node for node in place.candidates if node != place.node]
        if not place.candidates:
            return False
        place.node, place.turn = None, None
        try:
            self._choose(place, self._clock.monotonic())
        except McpError:
            return False
        if place.node is not None:
            self.begin(place, 0.0)
        return True

    def told(self, node: str, queue: object) -> None:
        """An answer of ``node`` says how many inferences were taken there and are not answered."""
        if type(queue) is not int or not 0 <= queue <= COUNT_MAX:
            return
        now = self._clock.monotonic()
        if now - self._reported.get(node, -REPORT_S) >= REPORT_S:
            self._report(node, queue, 0, now)

    def _forget(self, place: Place) -> bool:
        """It waits no longer; whether it did."""
        if self._waiting.pop(place.request.id, None) is None:
            return False
        self._waiting_bytes -= place.size
        return True

    # -- the queue ----------------------------------------------------------------------------------

    def _look_later(self) -> None:
        if self._timer is None and self._waiting:
            self._timer = asyncio.get_running_loop().call_later(LOOK_S, self._look)

    def _look(self) -> None:
        self._timer = None
        now = self._clock.monotonic()
        self._observe(now)
        self._give_places(now)
        self._look_later()

    def _give_places(self, now: float) -> None:
        """Give free places to those whose turn it is, and refuse those whose deadline has passed."""
        if not self._waiting:
            return
        for request in self._strategies.expired(now):
            place = self._waiting[request.id]
            self._forget(place)
            if place.turn is not None and not place.turn.done():
                place.turn.set_exception(
                    DeadlineExceeded("the run was not started: no node had a free place before the deadline")
                )
        there = None if self._seen is None else {node.node for node in self._seen.nodes}

        def eligible(request: Request) -> Sequence[str]:
            candidates = self._waiting[request.id].candidates
            return [node for node in candidates if there is None or node in there] or candidates

        while (found := self._strategies.next(eligible, now, self._random)) is not None:
            request, choice = found
            place = self._waiting[request.id]
            self._forget(place)
            place.node = choice.node
            self.begin(place, 0.0)
            if place.turn is not None and not place.turn.done():
                place.turn.set_result(None)

    # -- how the nodes do ---------------------------------------------------------------------------

    def _observe(self, now: float) -> None:
        """Put down what gossip says since it was looked at last, and this node's own queue."""
        view = self._view()
        if view is not self._seen:
            self._seen = view
            self._read(view, now)
        if now - self._reported.get(self._node_id, -REPORT_S) >= REPORT_S:
            queued, running, places = self._depth()
            own = self._reports.get(self._node_id, LoadReport())
            self._reports[self._node_id] = replace(own, concurrency=max(1, places))
            self._report(self._node_id, queued, running, now)

    def _read(self, view: View, now: float) -> None:
        there = {node.node for node in view.nodes}
        for known in (self._reports, self._told, self._reported, self._models):
            for gone in known.keys() - there - {self._node_id}:
                del known[gone]
        for node in view.nodes:
            told = (node.queue, *sorted(node.load.items()), node.memory_free_bytes)
            if "run" not in node.load or self._told.get(node.node) == told:
                continue
            self._told[node.node] = told
            report = self._reports[node.node] = _read(node, self._models.get(node.node, ""))
            if node.node != self._node_id:
                self._strategies.observed(node.node, report, now)

    def _report(self, node: str, queued: int, running: int, now: float) -> None:
        """What is known of a node, with this queue, of just now."""
        self._reported[node] = now
        known = self._reports.get(node, LoadReport())
        report = replace(known, queued={self._models.get(node, ""): queued}, running=running, age_s=0.0)
        self._strategies.observed(node, report, now)

    def held(self) -> int:
        """How many requests have a place here or, from here, at another node."""
        account = self._strategies.account
        return len(self._waiting) + sum(account.in_flight(node) for node in account.nodes)

    # -- what is seen from outside ------------------------------------------------------------------

    def figures(self) -> dict[str, Any]:
        """What was chosen and refused; empty while no strategy was ever declared."""
        if not self._state.traffic.strategies_version:
            return {}
        return {**self.totals, "waiting": len(self._waiting), "waiting_bytes": self._waiting_bytes}


def outcome(error: McpError | None, overdue: bool) -> Outcome:
    """What an error says of the node that it happened at; ``overdue``: the deadline has passed."""
    if error is None:
        return Outcome.ANSWERED
    if isinstance(error, DeadlineExceeded) or (overdue and isinstance(error, Cancelled)):
        return Outcome.TIMED_OUT
    if isinstance(error, Busy | CircuitOpen):
        return Outcome.REFUSED
    if isinstance(error, (*CALLERS, MessageExpired, PermissionDenied, Unsupported)):
        return Outcome.ABANDONED
    if isinstance(error, ModelNotReady):
        return Outcome.FAULTED
    return Outcome.FAILED if isinstance(error, Unavailable | OutcomeUnknown) else Outcome.FAULTED


def check_strategy(args: Mapping[str, Any], state: ReplicatedState) -> None:
    """Refuse a strategy that makes no sense, before it is proposed.

    Raises :class:`~mcp.errors.InvalidArgument` for a name that is none, or a model's alias, and
    :class:`~mcp.errors.ModelNotFound` for what is not deployed, with what there is.
    """
    model, name = args.get("model"), args.get("strategy")
    if name is None or type(model) is not str:
        return
    if name not in STRATEGIES:
        raise InvalidArgument(f"there is no strategy {name!r:.80}; choose one of {', '.join(STRATEGIES)}")
    if state.models.get(model) is not None:
        return
    meant = state.models.active(model)
    if meant is not None:
        raise InvalidArgument(f"{model:.80} is an alias of {meant.name}; declare the strategy for that")
    names = [each.name for each in state.models.all()]
    told = ", ".join(names[:MODELS_TOLD_MAX]) + (", ..." if len(names) > MODELS_TOLD_MAX else "")
    raise ModelNotFound(
        f"there is no model {model!r:.80}; " + (f"there are {told}" if names else "deploy it first"),
        details={"candidates": names[:MODELS_LISTED_MAX]},
    )


def _request(name: str, model: str, features: Features, deadline: float | None) -> Request:
    """Sizes are bytes: of one model they grow with its rows and with their lengths."""
    priority = max(0, min(PRIORITY_MAX, features.priority))
    return Request(name, model, float(features.size or 1), priority, deadline)


def _read(node: NodeRecord, model: str) -> LoadReport:
    """What gossip says of a node; its queue is told without models."""
    load, free = node.load, node.memory_free_bytes
    memory = load.get("memory_mib", 0.0) * _MIB
    return LoadReport(
        cpu=min(1.0, load.get("cpu", 0.0) / 100),
        memory_free=1.0 if free is None or not memory else min(1.0, free / memory),
        concurrency=int(min(CONCURRENCY_MAX, max(1.0, load.get("workers", 1.0)))),
        running=int(min(COUNT_MAX, load.get("run", 0.0))),
        queued={model: min(COUNT_MAX, node.queue)},
        age_s=GOSSIP_AGE_S,
    )
