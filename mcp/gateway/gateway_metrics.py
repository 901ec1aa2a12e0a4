"""What a gateway counts of its own requests, and how it is told: by protocol, operation and status. Pure.

Every label has a bounded set of values: operations are those of the description, statuses and codes those of
our errors, models as :mod:`mcp.gateway.statistics` bounds them.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from mcp.gateway.exposition import Exposition, Family, Histogram, Kind
from mcp.gateway.limits import MODELS_TOLD_MAX, REQUEST_SERIES_MAX
from mcp.gateway.room import Room
from mcp.gateway.statistics import DURATION_BOUNDS_S, Statistics

_OTHER: Final = "other"

REQUESTS: Final = Family(
    "mcp_gateway_requests_total",
    Kind.COUNTER,
    "requests",
    "Requests that were answered; status is HTTP's, or gRPC's by name.",
    ("protocol", "operation", "status"),
)
ERRORS: Final = Family(
    "mcp_gateway_errors_total",
    Kind.COUNTER,
    "requests",
    "Requests that were answered with an error, by our code.",
    ("protocol", "code"),
)
DURATION: Final = Family(
    "mcp_gateway_request_duration_seconds",
    Kind.HISTOGRAM,
    "seconds",
    "From a request's arrival to the end of its answer.",
    ("protocol", "operation"),
)
ACTIVE: Final = Family(
    "mcp_gateway_requests_active", Kind.GAUGE, "requests", "Requests with a body that are under way."
)
HELD: Final = Family(
    "mcp_gateway_bodies_bytes", Kind.GAUGE, "bytes", "Bodies of requests and answers that are held."
)
CONNECTIONS: Final = Family(
    "mcp_gateway_connections", Kind.GAUGE, "connections", "Open connections.", ("protocol",)
)
INFERENCE: Final = Family(
    "mcp_inference_duration_seconds",
    Kind.HISTOGRAM,
    "seconds",
    "Inferences that this gateway asked the cluster for and got, from arrival to the cluster's answer.",
    ("model", "version"),
)
INFERENCE_FAILED: Final = Family(
    "mcp_inference_failures_total",
    Kind.COUNTER,
    "requests",
    'Inferences that failed; version is "" where none was asked for.',
    ("model", "version"),
)
FAMILIES: Final = (REQUESTS, ERRORS, DURATION, ACTIVE, HELD, CONNECTIONS, INFERENCE, INFERENCE_FAILED)
"""All of them, in the order in which they are told."""


@dataclass(slots=True)
class RequestFigures:
    """Counts of requests. ``connections`` has, by protocol, what tells how many are open."""

    connections: dict[str, Callable[[], int]] = field(default_factory=dict)
    _requests: dict[tuple[str, str, str], int] = field(default_factory=dict)
    _errors: dict[tuple[str, str], int] = field(default_factory=dict)
    _durations: dict[tuple[str, str], Histogram] = field(default_factory=dict)

    def answered(self, protocol: str, operation: str, status: str, elapsed_s: float) -> None:
        """A request was answered, ``elapsed_s`` seconds after it had come."""
        key = (protocol, operation, status)
        if key not in self._requests and len(self._requests) >= REQUEST_SERIES_MAX:
            key = (protocol, _OTHER, _OTHER)
        self._requests[key] = self._requests.get(key, 0) + 1
        found = self._durations.get(key[:2])
        if found is None:
            found = self._durations[key[:2]] = Histogram([0] * (len(DURATION_BOUNDS_S) + 1))
        found.counts[bisect.bisect_left(DURATION_BOUNDS_S, elapsed_s)] += 1
        found.total += elapsed_s

    def failed(self, protocol: str, code: str) -> None:
        """It was answered with an error; ``code`` is one of our tree's."""
        self._errors[protocol, code] = self._errors.get((protocol, code), 0) + 1

    def tell(self, into: Exposition, statistics: Statistics, room: Room) -> None:
        """Tell all of it, and the inferences that ``statistics`` counted."""
        for key, count in self._requests.items():
            into.sample(REQUESTS, count, *key)
        for error, count in self._errors.items():
            into.sample(ERRORS, count, *error)
        for place, found in self._durations.items():
            into.histogram(DURATION, DURATION_BOUNDS_S, found, *place)
        into.sample(ACTIVE, room.requests)
        into.sample(HELD, room.bytes)
        for protocol, connections in self.connections.items():
            into.sample(CONNECTIONS, connections(), protocol)
        for (model, version), counts in statistics.counts(MODELS_TOLD_MAX):
            if counts.succeeded:
                into.histogram(INFERENCE, DURATION_BOUNDS_S, counts.durations, model, version)
            if counts.failed:
                into.sample(INFERENCE_FAILED, counts.failed, model, version)
