"""Predicted completion: the node that is expected to answer first.

The answer comes after the wait for what is in front (:mod:`mcp.cluster.scheduler.account`) and after the
service time, which depends on the node and on the input's size
(:mod:`mcp.cluster.scheduler.service_time`). This is the rule "minimum completion time" of Maheswaran et al.,
"Dynamic Matching and Scheduling of a Class of Independent Tasks onto Heterogeneous Computing Systems", HCW
1999, section 3.

What is unknown is taken to be good (optimism under uncertainty: Lai and Robbins, "Asymptotically Efficient
Adaptive Allocation Rules", 1985), within bounds: a node without a measurement is as fast as the fastest, and
one that has not been measured for a while comes nearer to that as time passes. One request at a time is
enough to find out: as soon as one is under way the estimate counts as it is, and the unknown node is busy.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random

from mcp.cluster.scheduler.account import SERVICE_FIRST_S, Account
from mcp.cluster.scheduler.interface import Choice, Request
from mcp.cluster.scheduler.service_time import ServiceTime
from mcp.cluster.scheduler.strategy import REFRESH_S, TABLES_MAX, drawn

Row = tuple[float, float, float, str]
"""Of a node, for a model: when a request of size 0 would be answered at the earliest; how long that takes at
least, however late the node is; what each unit of size adds (all in seconds); and the node."""


@dataclass(slots=True)
class _Table:
    """What was worked out for a model, and the nodes about which something is not as it was then."""

    rows: dict[str, Row] = field(default_factory=dict)
    stale: set[str] = field(default_factory=set)
    fastest: ServiceTime | None = None
    """Of the node that ran such a request fastest, when that was last looked at."""


class PredictedCompletion:
    """Compares all candidates, or ``draws`` of them.

    ``half_life_s``: an estimate that is not measured again is halved after this time, though never below
    the fastest node's.
    ``deviations``: a deadline is given up when it is missed even by a node that takes so many standard
    deviations less than is expected of it.
    """

    def __init__(
        self,
        account: Account,
        *,
        draws: int | None = None,
        half_life_s: float = 5.0,
        deviations: float = 2.0,
    ) -> None:
        self._account = account
        self._draws = draws
        self._half_life_s = half_life_s
        self._deviations = deviations
        self._tables: dict[str, _Table] = {}
        self._refresh_at = -math.inf

    def choose(self, candidates: Sequence[str], request: Request, now: float, generator: Random) -> Choice:
        """The candidate with the earliest predicted completion; any of them where several have it."""
        if now >= self._refresh_at or len(self._tables) > TABLES_MAX:
            self._tables.clear()
            self._refresh_at = now + REFRESH_S
        table = self._tables.get(request.model)
        if table is None:
            table = self._tables[request.model] = _Table()
            table.fastest = self._account.times.fastest(request.model, request.size)
        rows = table.rows
        for node in table.stale:
            rows[node] = self._row(table, node, request, now)
        table.stale.clear()
        compared = drawn(candidates, self._draws, generator)
        try:
            chosen, earliest = _earliest(compared, rows, request.size, now)
        except KeyError:
            for node in compared:
                if node not in rows:
                    rows[node] = self._row(table, node, request, now)
            chosen, earliest = _earliest(compared, rows, request.size, now)
        predicted_s = earliest - now
        known = self._account.times.get(chosen, request.model)
        if known is None:
            return Choice(chosen, predicted_s, "never measured, so taken to be as fast as the fastest")
        deviation_s = predicted_s * known.time.relative_deviation
        deadline = request.deadline
        if deadline is not None and earliest > deadline:
            late = not any(self._can_meet(node, request, deadline, now) for node in candidates)
            reason = "earliest, and too late for the deadline" if late else "earliest, and it may be in time"
            return Choice(chosen, predicted_s, reason, deviation_s, late)
        return Choice(chosen, predicted_s, "earliest predicted completion", deviation_s)

    def preview(self, candidates: Sequence[str], request: Request, now: float, generator: Random) -> Choice:
        """See :class:`~mcp.cluster.scheduler.strategy.Strategy`."""
        return self.choose(candidates, request, now, generator)

    def _can_meet(self, node: str, request: Request, deadline: float, now: float) -> bool:
        """Whether ``node`` could answer before the deadline, with some luck."""
        left_s = deadline - now
        known = self._account.times.get(node, request.model)
        if known is None:
            return left_s > 0.0
        expected_s = self._account.wait(node, now).seconds(now) + known.time.at(request.size)
        return expected_s * (1.0 - self._deviations * known.time.relative_deviation) <= left_s

    def _row(self, table: _Table, node: str, request: Request, now: float) -> Row:
        account = self._account
        free_at, behind_s = account.wait(node, now)
        known = account.times.get(node, request.model)
        if known is None:
            base_s, slope_s = self._guess(table, node, request)
            return free_at + base_s, behind_s + base_s, slope_s, node
        service = known.time
        base_s, slope_s = service.base_s, service.slope_s
        idle_s = now - known.measured_at
        if idle_s > REFRESH_S and not account.in_flight(node):
            fastest = table.fastest or service
            share = fastest.at(request.size) / service.at(request.size)
            share = max(share, 0.5 ** (idle_s / self._half_life_s))
            base_s, slope_s = base_s * share, slope_s * share
        return free_at + base_s, behind_s + base_s, slope_s, node

    def _guess(self, table: _Table, node: str, request: Request) -> tuple[float, float]:
        """What is assumed of a node without a measurement: what it says itself, or the best that is known."""
        kept = self._account.node(node)
        told = kept.report.service_s.get(request.model) if kept and kept.report else None
        if told:
            return told, 0.0
        fastest = table.fastest or self._account.times.fastest(request.model, request.size)
        return (fastest.base_s, fastest.slope_s) if fastest else (SERVICE_FIRST_S, 0.0)

    def touched(self, node: str, request: Request | None, now: float) -> None:
        """See :class:`~mcp.cluster.scheduler.strategy.Strategy`.

        What the next choice is likely to need is worked out here, where nobody waits for it.
        """
        for model, table in self._tables.items():
            if node in table.rows:
                if request is not None and request.model == model:
                    table.rows[node] = self._row(table, node, request, now)
                else:
                    table.stale.add(node)


def _earliest(nodes: Sequence[str], rows: dict[str, Row], size: float, now: float) -> tuple[str, float]:
    """The first of the nodes with the earliest completion, and that time: what every choice pays for.

    Raises ``KeyError`` where a node has no row.
    """
    earliest, chosen = math.inf, nodes[0]
    for soonest, least_s, slope_s, node in map(rows.__getitem__, nodes):
        completes = now + least_s
        if soonest > completes:  # noqa: PLR1730 (max costs more than this)
            completes = soonest
        completes += slope_s * size
        if completes < earliest:
            earliest, chosen = completes, node
    return chosen, earliest
