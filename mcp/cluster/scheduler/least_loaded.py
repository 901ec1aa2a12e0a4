"""Least loaded: the node with the smallest weighted sum of what it lacks and of what waits there."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Final

from mcp.cluster.scheduler.account import Account
from mcp.cluster.scheduler.interface import Choice, Request
from mcp.cluster.scheduler.strategy import REFRESH_S, drawn
from mcp.errors import InvalidArgument

WEIGHT_MAX: Final = 1e6
"""The largest weight."""

_ASIDE: Final = 1e12
"""What is added for a node that is left alone: more than any load."""


@dataclass(frozen=True, slots=True)
class LoadWeights:
    """What counts how much. Each is 0 to :data:`WEIGHT_MAX`, and 0 leaves that out.

    Raises :class:`~mcp.errors.InvalidArgument` for any other weight.
    """

    cpu: float = 0.5
    """For processors that are all busy,"""
    memory: float = 0.25
    """for no free memory,"""
    device_memory: float = 0.25
    """for no free memory on the accelerator,"""
    queue: float = 1.0
    """and for each request that is there for each that it runs at once."""

    def __post_init__(self) -> None:
        for name in ("cpu", "memory", "device_memory", "queue"):
            weight = getattr(self, name)
            if not 0.0 <= weight <= WEIGHT_MAX:
                raise InvalidArgument(
                    f"the weight of {name} is {weight!r:.40}, not a number from 0 to {WEIGHT_MAX:g}"
                )


class LeastLoaded:
    """Compares all candidates, or ``draws`` of them.

    What a report says of processors and memory counts half as much after ``half_life_s``; of the queue see
    :mod:`mcp.cluster.scheduler.account`. A node that has not reported is taken to lack nothing.
    """

    def __init__(
        self,
        account: Account,
        weights: LoadWeights | None = None,
        *,
        draws: int | None = None,
        half_life_s: float = 2.0,
    ) -> None:
        self._account = account
        self._weights = weights or LoadWeights()
        self._draws = draws
        self._half_life_s = half_life_s
        self._loads: dict[str, float] = {}
        self._refresh_at = -math.inf

    def choose(self, candidates: Sequence[str], request: Request, now: float, generator: Random) -> Choice:
        """The candidate with the least load; any of them where several have it."""
        if now >= self._refresh_at:
            self._loads.clear()
            self._refresh_at = now + REFRESH_S
        loads = self._loads
        least, chosen = math.inf, candidates[0]
        for node in drawn(candidates, self._draws, generator):
            load = loads.get(node)
            if load is None:
                load = loads[node] = self.load(node, now)
            if load < least:
                least, chosen = load, node
        if least >= _ASIDE:
            return Choice(chosen, None, "all failed lately; this one is tried first")
        return Choice(chosen, None, f"least loaded, at {least:.2f}")

    def preview(self, candidates: Sequence[str], request: Request, now: float, generator: Random) -> Choice:
        """See :class:`~mcp.cluster.scheduler.strategy.Strategy`."""
        return self.choose(candidates, request, now, generator)

    def load(self, node: str, now: float) -> float:
        """The load of ``node``: 0 is idle, and there is no upper end."""
        kept = self._account.node(node)
        if kept is None:
            return 0.0
        weights = self._weights
        load = weights.queue * self._account.in_front(node, now) / kept.concurrency
        if kept.aside_until > now:
            load += _ASIDE * (1.0 + kept.aside_until - now)
        report = kept.report
        if report is not None:
            lack = weights.cpu * report.cpu + weights.memory * (1.0 - report.memory_free)
            if report.device_memory_free is not None:
                lack += weights.device_memory * (1.0 - report.device_memory_free)
            load += lack * 0.5 ** (max(0.0, now - kept.reported_at) / self._half_life_s)
        return load

    def touched(self, node: str, request: Request | None, now: float) -> None:
        """See :class:`~mcp.cluster.scheduler.strategy.Strategy`."""
        self._loads.pop(node, None)
