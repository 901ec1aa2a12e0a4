"""Requests as admission sees them: what each asks for, and what its end says about the model."""

from __future__ import annotations

import asyncio
from typing import Final

from mcp.errors import (
    Busy,
    Cancelled,
    DeadlineExceeded,
    InputInvalid,
    InvalidArgument,
    McpError,
    MessageExpired,
    NotFound,
    TooLarge,
    Unsupported,
)
from mcp.flow.admission import Request, Ticket
from mcp.flow.outcome import Outcome
from mcp.flow.refusal import is_refusal
from mcp.net.exchange import Exchange
from mcp.state.models import ModelVersion

PRIORITY_LOWEST: Final = 3
"""Of the four that are told apart: a request's own priority, larger is more urgent, is mapped to them."""

CALLERS: Final = (
    *(InvalidArgument, InputInvalid, TooLarge, NotFound, Unsupported),
    *(Busy, Cancelled, MessageExpired),
)
"""They say nothing about the model: the caller's own, or refused later on."""


class StreamPlace:
    """What a stream holds from where it was let in to its end."""

    __slots__ = ("_began_s", "_exchange", "_first_s", "_ticket")

    def __init__(self, ticket: Ticket, exchange: Exchange, began_s: float) -> None:
        self._ticket = ticket
        self._exchange = exchange
        self._began_s = began_s
        self._first_s: float | None = None

    def stepped(self) -> None:
        """A step is there; of the first it is noted how long it took."""
        if self._first_s is None:
            self._first_s = max(0.0, asyncio.get_running_loop().time() - self._began_s)

    def ended(self, error: McpError | None) -> None:
        """The stream has ended, in whatever way."""
        now = asyncio.get_running_loop().time()
        first_s = self._first_s
        if first_s is None:
            first_s = max(0.0, now - self._began_s)
        elif isinstance(error, DeadlineExceeded):
            error = Cancelled("the stream's time was over, which is no fault of a step")
        self._ticket.done(outcome_of(error), first_s, now, _waited(self._exchange, first_s))


def ended(ticket: Ticket, exchange: Exchange, began_s: float, error: McpError | None) -> None:
    """A request that was let in, and began at ``began_s``, has ended."""
    now = asyncio.get_running_loop().time()
    latency_s = max(0.0, now - began_s)
    ticket.done(outcome_of(error), latency_s, now, _waited(exchange, latency_s))


def _waited(exchange: Exchange, latency_s: float) -> float | None:
    return None if exchange.waited_s is None else min(exchange.waited_s, latency_s)


def request_of(exchange: Exchange, model: ModelVersion, deadline_s: float, node: str | None) -> Request:
    """What admission is asked; ``node`` is who is to answer, if it is not this one."""
    payload = exchange.message.payload
    stacked = payload.get("stacked")
    return Request(
        exchange.connection.peer.node_id,
        model.name,
        _priority(payload.get("priority")),
        len(stacked) if type(stacked) is list and stacked else 1,
        deadline=deadline_s,
        node=node,
    )


def _priority(value: object) -> int:
    """The class of a request's own priority: 0 is the most urgent."""
    own = value if type(value) is int else 0
    return max(0, min(PRIORITY_LOWEST, 1 - own))


def outcome_of(error: McpError | None) -> Outcome:
    """What an answer says about the model that was asked."""
    if error is None:
        return Outcome.SUCCEEDED
    if isinstance(error, CALLERS) or is_refusal(error):
        return Outcome.ABANDONED
    return Outcome.TIMED_OUT if isinstance(error, DeadlineExceeded) else Outcome.FAILED
