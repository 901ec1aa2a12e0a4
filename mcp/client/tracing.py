"""Which trace the requests of a task belong to, where somebody has said so.

A context variable and no argument: it follows the tasks that a call spawns, and no call between the edge and
the wire has to hand it on. Source: W3C Trace Context, section 3.2.2.3 (trace-id).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Final

_trace_id: Final[ContextVar[str]] = ContextVar("mcp_trace_id", default="")

current_trace: Final = _trace_id.get
"""The ``trace_id`` of the requests that this task sends; "": each gets one of its own."""


@contextlib.contextmanager
def traced(trace_id: str) -> Iterator[None]:
    """Let what this task, and those that it begins, send meanwhile carry ``trace_id``."""
    token = _trace_id.set(trace_id)
    try:
        yield
    finally:
        _trace_id.reset(token)
