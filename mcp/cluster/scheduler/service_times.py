"""The service times of many models at many nodes, the least recently used forgotten first."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final, NamedTuple

from mcp.cluster.scheduler.service_time import DEFAULT_SETTINGS, EstimatorSettings, ServiceTime

PAIRS_MAX: Final = 4096
"""How many pairs of a node and a model are remembered."""


class Known(NamedTuple):
    """What was learned of a model at a node, and when it was measured last."""

    time: ServiceTime
    measured_at: float


class ServiceTimes:
    """:class:`~mcp.cluster.scheduler.service_time.ServiceTime` by node and model."""

    def __init__(self, *, pairs_max: int = PAIRS_MAX, settings: EstimatorSettings = DEFAULT_SETTINGS) -> None:
        self._pairs_max = max(1, pairs_max)
        self._settings = settings
        self._order: OrderedDict[tuple[str, str], None] = OrderedDict()
        self._by_model: dict[str, dict[str, Known]] = {}

    def __len__(self) -> int:
        return len(self._order)

    def get(self, node: str, model: str) -> Known | None:
        """What is known of ``model`` at ``node``."""
        known = self._by_model.get(model)
        return known.get(node) if known else None

    def measured(self, node: str, model: str, size: float, took_s: float, now: float) -> None:
        """``node`` ran a request of ``size`` for ``took_s``, which is a number of 0 or more."""
        known = self._by_model.setdefault(model, {})
        before = known.get(node)
        if before is None:
            service = ServiceTime(size, took_s, self._settings)
        else:
            service = before.time
            service.measured(size, took_s)
        known[node] = Known(service, now)
        self._order[node, model] = None
        self._order.move_to_end((node, model))
        if len(self._order) > self._pairs_max:
            self._forget(*self._order.popitem(last=False)[0])

    def _forget(self, node: str, model: str) -> None:
        known = self._by_model[model]
        del known[node]
        if not known:
            del self._by_model[model]

    def fastest(self, model: str, size: float) -> ServiceTime | None:
        """The node's that runs a request of ``size`` in the least time, of those that are known."""
        known = self._by_model.get(model)
        return (
            min((each.time for each in known.values()), key=lambda service: service.at(size))
            if known
            else None
        )
