"""What a request says beside its inputs: what routes, rules and strategies may look at.

A route may match on any header. A client's own are told by their name, ``x-`` and something: those are
handed on, so that stock clients can ask for a version by a header, as Istio's VirtualService has it. What
proxies put on every request is left out, for requests that say nothing of their own are joined with others
on their way. One session (the header ``mcp-session``) gets one version of a weighted route.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from mcp.cluster.router.requests import (
    HEADER_CHARS_MAX,
    HEADER_NAME_CHARS_MAX,
    HEADERS_MAX,
    SESSION_CHARS_MAX,
)
from mcp.cluster.scheduler.interface import PRIORITY_MAX
from mcp.errors import InvalidArgument

PREFIX: Final = "x-"
SESSION: Final = "mcp-session"
PROXIES: Final = (
    *("x-forwarded-", "x-real-ip", "x-request-id", "x-envoy-", "x-b3-"),
    *("x-amzn-", "x-cloud-trace-"),
)
"""What names that proxies and tracing put on requests begin with."""


@dataclass(frozen=True, slots=True)
class Context:
    """See :meth:`mcp.client.client.Client.infer`, which takes the same."""

    session: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    priority: int = 0


NOTHING: Final = Context()


def read_context(headers: Iterable[tuple[str, str | bytes]], priority: int = 0) -> Context:
    """The context of a request with these headers and the parameter ``priority``.

    Of more than :data:`HEADERS_MAX` headers the first count; one that is too long for any match is not there.
    Raises :class:`~mcp.errors.InvalidArgument` for the name of a session that is too long.
    """
    session: str | None = None
    found: dict[str, str] = {}
    for name, value in headers:
        name = name.lower()  # noqa: PLW2901
        if not isinstance(value, str):
            continue
        if name == SESSION:
            session = value
        elif name.startswith(PREFIX) and not name.startswith(PROXIES) and _fits(name, value):
            found[name] = value
    if session is not None and len(session) > SESSION_CHARS_MAX:
        raise InvalidArgument(
            f"the header {SESSION} must be a text of at most {SESSION_CHARS_MAX} characters"
        )
    kept = dict(itertools.islice(found.items(), HEADERS_MAX))
    return Context(session or None, kept, urgency(priority))


def _fits(name: str, value: str) -> bool:
    return len(name) <= HEADER_NAME_CHARS_MAX and len(value) <= HEADER_CHARS_MAX


def urgency(priority: int) -> int:
    """What the parameter ``priority`` is inside, where a larger one is more urgent and 0 is the default.

    In the protocol's extension 1 is the most urgent, larger ones are less so, and 0 is the default (Triton
    Inference Server, "Schedule Policy Extension").
    """
    return max(0, PRIORITY_MAX + 1 - priority) if priority else 0
