"""The span of a request: OpenTelemetry's where its API is installed, otherwise a trace context and no more.

Without OpenTelemetry's SDK, which an embedding program sets up, its API records nothing and hands the
caller's context on. Source: OpenTelemetry, "Trace API"; semantic conventions for HTTP and RPC servers.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from mcp.gateway.trace import TRACEPARENT, TRACESTATE, TraceContext, continued, read_trace
from mcp.version import VERSION

_TRACER: Final = "mcp.gateway"
_SAMPLED: Final = 1
_BROKEN: Final = ("500", "503", "504", "INTERNAL", "UNAVAILABLE", "DEADLINE_EXCEEDED")


@dataclass(frozen=True, slots=True)
class Span:
    """One request's part of a trace."""

    context: TraceContext
    recorded: Any = None

    def ended(self, protocol: str, status: str, code: str | None) -> None:
        """Say how it was answered: with a status of the protocol, and our code where that is an error's."""
        if self.recorded is None or not self.recorded.is_recording():
            return
        if protocol == "http":
            with contextlib.suppress(ValueError):
                self.recorded.set_attribute("http.response.status_code", int(status))
        else:
            self.recorded.set_attribute("rpc.system", protocol)
            self.recorded.set_attribute("rpc.response.status_code", status)
        if code is not None:
            self.recorded.set_attribute("error.type", code)
        if status in _BROKEN:
            self.recorded.set_status(_error_status())


class Spans:
    """Begins spans. ``generator`` draws the ids where OpenTelemetry does not."""

    def __init__(self, generator: random.Random) -> None:
        self._random = generator
        self._start = _opentelemetry()

    @contextlib.contextmanager
    def request(self, name: str, carrier: Mapping[str, str]) -> Iterator[Span]:
        """The span of a request that came with these headers."""
        parent = read_trace(carrier.get(TRACEPARENT), carrier.get(TRACESTATE))
        if self._start is None:
            yield Span(continued(parent, self._random))
            return
        with self._start(name, {} if parent is None else parent.headers) as recorded:
            found = recorded.get_span_context()
            if found.is_valid:
                flags = f"{int(found.trace_flags) & _SAMPLED:02x}"
                state = found.trace_state.to_header()
                context = TraceContext(f"{found.trace_id:032x}", f"{found.span_id:016x}", flags, state)
            else:
                context = continued(None, self._random)
            yield Span(context, recorded)


def _error_status() -> Any:
    from opentelemetry.trace import StatusCode  # noqa: PLC0415  (it is installed where this is asked)

    return StatusCode.ERROR


def _opentelemetry() -> Callable[[str, Mapping[str, str]], Any] | None:
    """What begins a span as the current one; ``None`` without the package."""
    try:
        from opentelemetry import trace  # noqa: PLC0415  (an extra)
        from opentelemetry.trace.propagation import tracecontext  # noqa: PLC0415
    except ImportError:
        return None
    tracer = trace.get_tracer(_TRACER, VERSION)
    propagator = tracecontext.TraceContextTextMapPropagator()

    def start(name: str, carrier: Mapping[str, str]) -> Any:
        return tracer.start_as_current_span(
            name,
            context=propagator.extract(carrier),
            kind=trace.SpanKind.SERVER,
            record_exception=False,
            set_status_on_exception=False,
        )

    return start
