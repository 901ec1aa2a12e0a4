"""The account of the nodes that all strategies share: what is under way, what was reported, what failed.

A report is old when it arrives and gets older. Whoever takes it for the present sends everything to the
node that looked idle, and so does everybody else, until the next report: such a herd does worse than
choosing blindly (Mitzenmacher, "How Useful Is Old Information?", IEEE TPDS 11(1), 2000). So a report is
*interpreted*, by its age and by what was sent since (Dahlin, "Interpreting Stale Load Information", IEEE
TPDS 11(10), 2000):

- the queue that it tells of is worked off while it ages;
- what this scheduler sent since is added, at once;
- other schedulers are taken to do as this one does. How many requests there are to each of its own is learned
  from the reports themselves, and what it sent since counts so many times;
- once a request that was sent after the report has been answered, what the report told of was before it
  in the queue and is done, so the report's queue is not believed any more.
"""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from mcp.cluster.outcome import Outcome
from mcp.cluster.scheduler.interface import Request
from mcp.cluster.scheduler.load_report import LoadReport
from mcp.cluster.scheduler.service_time import DEFAULT_SETTINGS, TIME_MIN_S, EstimatorSettings
from mcp.cluster.scheduler.service_times import PAIRS_MAX, ServiceTimes

NODES_MAX: Final = 1024
"""How many nodes are remembered; of more, the one that was heard of least recently is forgotten."""

IN_FLIGHT_MAX: Final = 4096
"""Requests under way at one node that are tracked; of more, the oldest is taken to be lost."""

OTHERS_MAX: Final = 32.0
"""How many requests there can be, at most, for each of this scheduler's own."""

OTHERS_PRIOR: Final = 4.0
"""So many requests, all of them its own, are taken to have been reported before the first report."""

ENDED_MAX: Final = 256
"""Answered requests of one node that are remembered, to tell how many were under way when it looked."""

SERVICE_FIRST_S: Final = 0.01
"""What a request is taken to need where nothing at all is known."""

_NEVER: Final = -math.inf


@dataclass(frozen=True, slots=True)
class AccountLimits:
    """What is believed for how long, and how long a node that failed is left alone."""

    nodes_max: int = NODES_MAX
    in_flight_max: int = IN_FLIGHT_MAX
    pairs_max: int = PAIRS_MAX
    report_age_max_s: float = 10.0
    """An older report says nothing."""
    backoff_first_s: float = 0.1
    """A node that failed is left alone for so long, twice as long after each failure in a row,"""
    backoff_max_s: float = 5.0
    """and never longer than this. The caller's own breakers may say more."""
    refusal_s: float = 0.05
    """A node that refused is left alone for so long."""
    others_max: float = OTHERS_MAX
    others_memory: float = 0.98
    """How much a report counts less with each one after it, in how many requests the others have."""
    estimator: EstimatorSettings = DEFAULT_SETTINGS


class _Sent(NamedTuple):
    at: float
    wait_s: float
    """The wait that was expected."""
    work_s: float
    """And the service time."""


@dataclass(slots=True)
class NodeAccount:
    """What is known of one node."""

    in_flight: OrderedDict[str, _Sent] = field(default_factory=OrderedDict)
    work_s: float = 0.0
    """The expected service times of what is under way, in seconds."""
    ended_at: float = _NEVER
    """When a request of this scheduler ended here last."""
    ended: deque[tuple[float, float]] = field(default_factory=lambda: deque(maxlen=ENDED_MAX))
    """When the latest answered requests were sent, and when their answers came."""
    report: LoadReport | None = None
    reported_at: float = _NEVER
    reported_count: int = 0
    reported_work_s: float = 0.0
    since_count: int = 0
    """What this scheduler sent since the report, ended or not,"""
    since_work_s: float = 0.0
    """and the service times of that."""
    gone_count: int = 0
    """How many of this scheduler's requests ended since the report, wherever in its queue they were."""
    overtaken: bool = False
    """A request that was sent after the report has ended."""
    failures: int = 0
    aside_until: float = _NEVER

    @property
    def concurrency(self) -> int:
        """How many requests run here at once, as far as is known."""
        return self.report.concurrency if self.report else 1


class Wait(NamedTuple):
    """When a request that is sent now would begin to run: at ``free_at``, if that is not too soon.

    ``behind_s``: however late the node is already, what waits has to run first, and takes this long.
    """

    free_at: float
    behind_s: float

    def seconds(self, now: float) -> float:
        """The wait of a request that is sent now."""
        return max(0.0, self.free_at - now, self.behind_s)


IDLE: Final = Wait(_NEVER, 0.0)


class Account:
    """Keeps the account of every node. Every method takes the time in seconds on one clock."""

    def __init__(self, limits: AccountLimits | None = None) -> None:
        self.limits = limits or AccountLimits()
        self.times = ServiceTimes(pairs_max=self.limits.pairs_max, settings=self.limits.estimator)
        """How long each node runs each model."""
        self._nodes: OrderedDict[str, NodeAccount] = OrderedDict()
        self._all_seen = 0.0
        self._own_seen = 0.0
        self._others = 1.0

    @property
    def others(self) -> float:
        """How many requests there are in the cluster for each of this scheduler's own, 1 or more."""
        return self._others

    @property
    def nodes(self) -> tuple[str, ...]:
        """The nodes that are remembered, the one that was heard of least recently first."""
        return tuple(self._nodes)

    def in_flight(self, node: str) -> int:
        """How many of this scheduler's requests are under way at ``node``."""
        kept = self._nodes.get(node)
        return len(kept.in_flight) if kept else 0

    def node(self, node: str) -> NodeAccount | None:
        """What is known of ``node``. To be read only."""
        return self._nodes.get(node)

    def _kept(self, node: str) -> NodeAccount:
        kept = self._nodes.get(node)
        if kept is None:
            kept = self._nodes[node] = NodeAccount()
            if len(self._nodes) > self.limits.nodes_max:
                self._nodes.popitem(last=False)
        self._nodes.move_to_end(node)
        return kept

    # -- what happens -----------------------------------------------------------------------------

    def started(self, node: str, request: Request, now: float) -> None:
        """See :class:`~mcp.cluster.scheduler.interface.Scheduler`."""
        kept = self._kept(node)
        sent = _Sent(
            now, self.wait(node, now).seconds(now), self.service_s(node, request.model, request.size)
        )
        self._take(kept, request.id)
        kept.in_flight[request.id] = sent
        kept.work_s += sent.work_s
        kept.since_count += 1
        kept.since_work_s += sent.work_s
        if len(kept.in_flight) > self.limits.in_flight_max:
            self._take(kept, next(iter(kept.in_flight)))

    def finished(
        self,
        node: str,
        request: Request,
        outcome: Outcome,
        took_s: float,
        now: float,
        service_s: float | None = None,
    ) -> None:
        """See :class:`~mcp.cluster.scheduler.interface.Scheduler`."""
        kept = self._kept(node)
        sent = self._take(kept, request.id)
        kept.gone_count += sent is not None
        if outcome is Outcome.FAULTED or outcome is Outcome.FAILED:
            self._set_aside(kept, now)
        elif outcome is Outcome.REFUSED:
            kept.aside_until = max(kept.aside_until, now + self.limits.refusal_s)
        if outcome is not Outcome.ANSWERED and outcome is not Outcome.TIMED_OUT:
            return
        kept.ended_at = now
        if outcome is Outcome.ANSWERED:
            kept.failures = 0
            kept.aside_until = _NEVER
            if sent is not None:
                kept.ended.append((sent.at, now))
                kept.overtaken = kept.overtaken or sent.at > kept.reported_at
        self._measure(node, request, outcome, _attributed(sent, took_s, service_s), now)

    def _measure(self, node: str, request: Request, outcome: Outcome, ran_s: float, now: float) -> None:
        if not 0.0 <= ran_s < math.inf:
            return
        # It takes at least as long as somebody waited in vain; a shorter wait says nothing.
        if outcome is Outcome.TIMED_OUT and ran_s <= self.service_s(node, request.model, request.size):
            return
        self.times.measured(node, request.model, request.size, ran_s, now)

    def _take(self, kept: NodeAccount, request_id: str) -> _Sent | None:
        sent = kept.in_flight.pop(request_id, None)
        if sent is not None:
            # Set anew when nothing is left, so that rounding does not add up.
            kept.work_s = max(0.0, kept.work_s - sent.work_s) if kept.in_flight else 0.0
        return sent

    def _set_aside(self, kept: NodeAccount, now: float) -> None:
        if kept.aside_until > now:
            return  # the same failure, seen by another request
        limits = self.limits
        pause_s = min(limits.backoff_max_s, limits.backoff_first_s * 2.0 ** min(kept.failures, 32))
        kept.failures += 1
        kept.aside_until = now + pause_s

    def observed(self, node: str, report: LoadReport, now: float) -> None:
        """See :class:`~mcp.cluster.scheduler.interface.Scheduler`."""
        kept = self._kept(node)
        at = now - report.age_s
        if at < kept.reported_at:
            return
        kept.report, kept.reported_at = report, at
        kept.reported_count = report.in_system
        kept.reported_work_s = self._reported_work(node, report)
        since = [sent for sent in kept.in_flight.values() if sent.at > at]
        answered = [sent_at for sent_at, answered_at in kept.ended if answered_at > at]
        kept.since_count = len(since) + sum(sent_at > at for sent_at in answered)
        kept.since_work_s = sum(sent.work_s for sent in since)
        kept.gone_count = len(answered)
        kept.overtaken = any(sent_at > at for sent_at in answered)
        own = len(kept.in_flight) - len(since) + sum(sent_at <= at for sent_at in answered)
        self._learn_others(kept.reported_count, own)

    def _reported_work(self, node: str, report: LoadReport) -> float:
        waiting_s = 0.0
        for model, count in report.queued.items():
            waiting_s += count * self._mean_s(node, model, report)
        times = [self._mean_s(node, model, report) for model in report.queued or report.service_s]
        mean_s = sum(times) / len(times) if times else SERVICE_FIRST_S
        return waiting_s + report.running * mean_s

    def _mean_s(self, node: str, model: str, report: LoadReport) -> float:
        known = self.times.get(node, model)
        return known.time.mean_s if known else report.service_s.get(model, SERVICE_FIRST_S)

    def _learn_others(self, everyone: int, own: int) -> None:
        memory = self.limits.others_memory
        self._all_seen = memory * self._all_seen + everyone
        self._own_seen = memory * self._own_seen + own
        ratio = (self._all_seen + OTHERS_PRIOR) / (self._own_seen + OTHERS_PRIOR)
        self._others = min(self.limits.others_max, max(1.0, ratio))

    # -- what follows from it ---------------------------------------------------------------------

    def service_s(self, node: str, model: str, size: float) -> float:
        """How long ``node`` is expected to run a request of ``size``, in seconds; a guess if unknown."""
        known = self.times.get(node, model)
        if known is not None:
            return known.time.at(size)
        kept = self._nodes.get(node)
        told = kept.report.service_s.get(model) if kept and kept.report else None
        if told:
            return max(TIME_MIN_S, told)
        fastest = self.times.fastest(model, size)
        return fastest.at(size) if fastest else SERVICE_FIRST_S

    def in_front(self, node: str, now: float) -> float:
        """How many requests are at ``node``, waiting or running, as far as can be known."""
        kept = self._nodes.get(node)
        if kept is None:
            return 0.0
        own = len(kept.in_flight) * self._others
        if not self._believed(kept, now):
            return own
        return max(own, kept.reported_count - kept.gone_count + kept.since_count * self._others)

    def _believed(self, kept: NodeAccount, now: float) -> bool:
        return not kept.overtaken and now - kept.reported_at <= self.limits.report_age_max_s

    def wait(self, node: str, now: float) -> Wait:
        """When a request that is sent to ``node`` now would begin to run there.

        With ``n`` requests of mean service time ``s`` at a node that runs ``c`` at once, all places are
        taken when ``n >= c``, one becomes free every ``s / c``, and it has to happen ``n - c + 1`` times.
        """
        kept = self._nodes.get(node)
        if kept is None:
            return IDLE
        places = kept.concurrency
        free_at, behind_s = kept.aside_until, 0.0
        own = len(kept.in_flight)
        if own:
            mean_s = kept.work_s / own
            running_since = max(next(iter(kept.in_flight.values())).at, kept.ended_at)
            turns = own * self._others - places + 1
            if turns > 0:
                free_at = max(free_at, running_since + turns * mean_s / places)
            behind_s = max(0, own - places) * mean_s / places
        if self._believed(kept, now):
            count = kept.reported_count + self._others * kept.since_count
            if count >= places:
                work_s = kept.reported_work_s + self._others * kept.since_work_s
                turns = (count - places + 1) / count
                free_at = max(free_at, kept.reported_at + turns * work_s / places)
        return Wait(free_at, behind_s)


def _attributed(sent: _Sent | None, took_s: float, service_s: float | None) -> float:
    """How long the node worked on it.

    Where it does not say, the time is split as it was expected to: a node that is four times as slow as
    expected has a queue that is four times as slow, too.
    """
    if service_s is not None:
        return service_s
    if sent is None:
        return took_s
    return took_s * sent.work_s / (sent.work_s + sent.wait_s)
