"""Predicted completion: the node that is expected to answer first.

The answer comes after the wait for what is in front (:mod:`mcp.cluster.scheduler.account`) and after the
service time, which depends on the node and on the input's size
(:mod:`mcp.cluster.scheduler.service_time`). This is the rule "minimum completion time" of Maheswaran et al.,
"Dynamic Matching and Scheduling of a Class of Independent Tasks onto Heterogeneous Computing Systems", HCW
1999, section 3.

What is unknown is taken to be good (optimism under uncertainty: Lai and Robbins, "Asymptotically Efficient
Adaptive Allocation Rules", 1985), within bounds: a node without a measurement is as fast as the fastest, and
one that has not been measured for a while comes nearer to that as time passes. One request at a time is
enough to find out, so as soon as one is under way the estimate counts as it is, and the unknown node has a queue.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from random import Random

from mcp.cluster.scheduler.account import SERVICE_FIRST_S, Account
from mcp.cluster.scheduler.interface import Choice, Request
from mcp.cluster.scheduler.strategy import REFRESH_S, TABLES_MAX, drawn

Row = tuple[float, float, float, float]
"""Of a node, for a model: when a request would begin at the earliest, what has to run before it however
late it is, what it takes whatever its size, and what each unit of size adds. All in seconds."""


class PredictedCompletion:
    """Compares all candidates, or ``draws`` of them.

    ``half_life_s``: an estimate that is not measured again comes half as near to the fastest node's after this time.
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
        self._tables: dict[str, dict[str, Row]] = {}
        self._refresh_at = -math.inf

    def choose(self, candidates: Sequence[str], request: Request, now: float, random: Random) -> Choice:
        """The candidate with the earliest predicted completion; any of them where several have it."""
        if now >= self._refresh_at or len(self._tables) > TABLES_MAX:
            self._tables.clear()
            self._refresh_at = now + REFRESH_S
        rows = self._tables.get(request.model)
        if rows is None:
            rows = self._tables[request.model] = {}
        size = request.size
        earliest, chosen = math.inf, candidates[0]
        for node in drawn(candidates, self._draws, random):
            row = rows.get(node)
            if row is None:
                row = rows[node] = self._row(node, request, now)
            begins, behind_s, base_s, slope_s = row
            after = now + behind_s
            completes = (begins if begins > after else after) + base_s + slope_s * size
            if completes < earliest:
                earliest, chosen = completes, node
        return self._choice(chosen, candidates, request, now, earliest - now)

    def _choice(
        self, node: str, candidates: Sequence[str], request: Request, now: float, predicted_s: float
    ) -> Choice:
        known = self._account.times.get(node, request.model)
        if known is None:
            return Choice(node, predicted_s, "never measured, so taken to be as fast as the fastest")
        deviation_s = predicted_s * known.time.relative_deviation
        late = request.deadline is not None and not any(
            self._can_meet(each, request, now) for each in (node, *candidates)
        )
        if late:
            return Choice(
                node, predicted_s, "earliest, and too late for the deadline", deviation_s, too_late=True
            )
        return Choice(node, predicted_s, "earliest predicted completion", deviation_s)

    def _can_meet(self, node: str, request: Request, now: float) -> bool:
        """Whether ``node`` could answer before the deadline, with some luck."""
        left_s = (request.deadline or 0.0) - now
        known = self._account.times.get(node, request.model)
        if known is None:
            return left_s > 0.0
        expected_s = self._account.wait(node, now).seconds(now) + known.time.at(request.size)
        return expected_s * (1.0 - self._deviations * known.time.relative_deviation) <= left_s

    def _row(self, node: str, request: Request, now: float) -> Row:
        account = self._account
        free_at, behind_s = account.wait(node, now)
        known = account.times.get(node, request.model)
        if known is None:
            return (free_at, behind_s, *self._guess(node, request))
        base_s, slope_s = known.time.base_s, known.time.slope_s
        idle_s = now - known.measured_at
        if idle_s > REFRESH_S and not account.in_flight(node):
            fastest = account.times.fastest(request.model, request.size) or known.time
            share = fastest.at(request.size) / known.time.at(request.size)
            share = max(share, 0.5 ** (idle_s / self._half_life_s))
            base_s, slope_s = base_s * share, slope_s * share
        return free_at, behind_s, base_s, slope_s

    def _guess(self, node: str, request: Request) -> tuple[float, float]:
        """What is assumed of a node without a measurement: what it says itself, or the best that is known."""
        kept = self._account.node(node)
        told = kept.report.service_s.get(request.model) if kept and kept.report else None
        if told:
            return told, 0.0
        fastest = self._account.times.fastest(request.model, request.size)
        return (fastest.base_s, fastest.slope_s) if fastest else (SERVICE_FIRST_S, 0.0)

    def touched(self, node: str) -> None:
        """See :class:`~mcp.cluster.scheduler.strategy.Strategy`."""
        for rows in self._tables.values():
            rows.pop(node, None)
