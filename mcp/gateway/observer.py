"""What is noted of every request, of whatever protocol: its count, its time, its trace, a line of the log."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

from mcp.client.tracing import traced
from mcp.clock import Clock, SystemClock
from mcp.errors import McpError
from mcp.gateway.exposition import Exposition
from mcp.gateway.gateway_metrics import RequestFigures
from mcp.gateway.node_metrics import tell_node
from mcp.gateway.room import Room
from mcp.gateway.spans import Span, Spans
from mcp.gateway.statistics import Statistics
from mcp.gateway.triton_metrics import tell_triton

_log = logging.getLogger("mcp.gateway")

GONE: Final = "gone"
"""The status of a request whose client did not wait for an answer."""


class NodeReport(Protocol):
    """Gives what the node says of itself, the payload of ``STATUS_RESULT``; raises ``McpError`` if it cannot.

    Without ``with_models`` it has none of them: that is enough for probes, and cheap however many there are.
    """

    def __call__(self, *, with_models: bool = True) -> Mapping[str, Any]:
        """See the class."""


@dataclass(slots=True)
class Seen:
    """A request under way. Whoever answers it sets ``status``, and ``code`` where that is an error's."""

    span: Span
    status: str = GONE
    code: str | None = None

    @property
    def headers(self) -> dict[str, str]:
        """What the answer's headers say of the trace."""
        return self.span.context.headers


class Observer:
    """Notes requests, and tells the metrics. ``node`` is asked for the node's own at each scrape."""

    def __init__(self, node: NodeReport | None = None, *, clock: Clock | None = None) -> None:
        self.figures = RequestFigures()
        self.node = node
        self._clock = clock or SystemClock()
        self._spans = Spans(self._clock.random())

    @contextlib.contextmanager
    def request(self, protocol: str, operation: str, carrier: Mapping[str, str]) -> Iterator[Seen]:
        """Note a request from its arrival until the ``with`` ends. ``carrier``: its headers of a trace."""
        began = self._clock.monotonic()
        with self._spans.request(operation, carrier) as span, traced(span.context.trace_id):
            seen = Seen(span)
            try:
                yield seen
            finally:
                elapsed_s = self._clock.monotonic() - began
                self.figures.answered(protocol, operation, seen.status, elapsed_s)
                if seen.code is not None:
                    self.figures.failed(protocol, seen.code)
                span.ended(protocol, seen.status, seen.code)
                if _log.isEnabledFor(logging.DEBUG):
                    _log.debug(
                        "%s %s: %s in %.1f ms", protocol, operation, seen.code or seen.status, elapsed_s * 1e3
                    )

    def metrics(self, statistics: Statistics, room: Room, *, triton: bool = False) -> str:
        """Everything, as text; with ``triton`` only what has names that Triton's dashboards know."""
        into = Exposition()
        status = self._status()
        if triton:
            tell_triton(into, statistics, status)
        else:
            if status is not None:
                tell_node(into, status)
            self.figures.tell(into, statistics, room)
        return into.text()

    def _status(self) -> Mapping[str, Any] | None:
        """The node's own word; ``None`` while it does not run."""
        if self.node is None:
            return None
        try:
            return self.node()
        except McpError:
            return None
