"""A stream that another node answers: its parts passed on as they come, and its reader's credit passed back.

The other node is allowed no more than the reader allows, so it is ahead of the reader by no more steps than
if that had asked it itself; and no more than :data:`RELAYED_PARTS_MAX` at a time, for a reader may allow
many and then leave them in the connection. A part is taken when there is room for it, so a reader that is
slow stops its own stream and no other. A stream that its reader leaves is closed at the other node too, which
stops within a step. Until the first step is here, another node may be tried. After that none is: the state
is lost with the stream, and its error tells how far it came.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from mcp.errors import Busy, DeadlineExceeded, McpError, OutcomeUnknown, ProtocolError, Unavailable
from mcp.net.exchange import Exchange
from mcp.net.parts import Parts
from mcp.node.links import PeerLinks
from mcp.node.routed import unreachable
from mcp.wire.messages import Message

RELAYED_PARTS_MAX: Final = 16
"""Parts of one stream that are here, or on their way here, and not passed on yet."""


class Relaying:
    """The streams that one node passes on; at most ``streams_max`` at a time."""

    def __init__(self, links: PeerLinks, *, streams_max: int) -> None:
        self.streams: set[Exchange] = set()
        """Those that are passed on, or wait for a node that may be another one."""
        self.total = 0
        """Streams of which another node's steps were passed on."""
        self._links = links
        self._streams_max = streams_max

    def take(self, exchange: Exchange) -> None:
        """Count a stream until it has ended. Raises :class:`~mcp.errors.Busy`."""
        if len(self.streams) >= self._streams_max:
            raise Busy(
                f"relayed_streams_max={self._streams_max} streams are passed on by this node to others; "
                "ask another one"
            )
        self.streams.add(exchange)
        exchange.on_end(lambda _: self.streams.discard(exchange))

    async def ask(
        self,
        exchange: Exchange,
        asked: Message,
        node: str,
        first_s: float,
        deadline: float,
        stepped: Callable[[], None],
    ) -> None:
        """Have ``node`` answer a stream by the loop's time ``deadline``, its first step within ``first_s``.

        Raises what kept it from beginning; what ends it later is the exchange's answer.
        """
        connection, loop = self._links.connection(node), asyncio.get_running_loop()
        if connection is None:
            raise unreachable(node)
        credit = min(exchange.parts_allowed, RELAYED_PARTS_MAX)
        message = replace(asked, credit=credit)
        parts = connection.stream(message, exchange.segments, timeout_s=deadline - loop.time())
        relay = _Relay(exchange, parts, node, credit, deadline, stepped)
        try:
            if not await _first(parts, node, first_s):
                return await relay.pass_end()
            self.total += 1
            await relay.pass_on()
        finally:
            parts.close()


async def _first(parts: Parts, node: str, within_s: float) -> bool:
    """Wait for the first step; ``False``: something else came."""
    try:
        async with asyncio.timeout(within_s):
            return await parts.arrived()
    except TimeoutError:
        raise DeadlineExceeded(f"no step came from {node} within {within_s:.3g} s") from None


def _wake(waiting: asyncio.Future[None]) -> None:
    if not waiting.done():
        waiting.set_result(None)


class _Relay:
    """One stream that is passed on."""

    def __init__(
        self,
        exchange: Exchange,
        parts: Parts,
        node: str,
        credit: int,
        deadline: float,
        stepped: Callable[[], None],
    ) -> None:
        self._exchange = exchange
        self._parts = parts
        self._node = node
        self._owed = credit  # parts that the other node may send or has sent, and are not passed on
        self._deadline = deadline
        self._stepped = stepped
        self._steps = 0

    async def pass_on(self) -> None:
        """Pass on all that comes, to the end, whatever that is."""
        exchange, parts = self._exchange, self._parts
        try:
            while await parts.arrived():
                if not exchange.has_room:
                    await self._room()
                part = parts.take()
                self._steps += 1
                self._owed -= 1
                self._stepped()
                exchange.part(part.payload, part.segments)
                if exchange.answered:  # it could not be sent
                    return
                self._allow()
            await self.pass_end()
        except McpError as error:
            exchange.fail(self._told(error))

    async def pass_end(self) -> None:
        """Pass on what ended the answer. Raises it where that is an error."""
        exchange = self._exchange
        await anext(self._parts, None)
        reply = self._parts.reply
        assert reply is not None
        if not self._steps:
            raise ProtocolError(f"{self._node} ended a stream before its first step")
        message = reply.message
        exchange.reply(exchange.message.reply(message.type, message.payload), reply.segments)

    def _allow(self) -> None:
        """Allow the other node what the reader allows beyond what is owed; half a window at a time."""
        window = min(self._exchange.parts_allowed, RELAYED_PARTS_MAX)
        more = window - self._owed
        if not window:
            self._exchange.on_room(self._allow)
        elif more and (not self._owed or 2 * more >= window):
            self._owed += more
            self._parts.allow(more)

    async def _room(self) -> None:
        """Wait until the reader takes more. Raises :class:`~mcp.errors.DeadlineExceeded`."""
        ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._exchange.on_room(functools.partial(_wake, ready))
        try:
            async with asyncio.timeout_at(self._deadline):
                await ready
        except TimeoutError:
            raise DeadlineExceeded(
                f"the stream's time was over after {self._steps} steps; allow it more"
            ) from None

    def _told(self, error: McpError) -> McpError:
        """The error with how far the stream came."""
        if isinstance(error, OutcomeUnknown):
            error = Unavailable(
                f"node {self._node} was lost after {self._steps} steps of the stream, and what it kept of "
                f"it is lost: begin a new one ({error.code}: {error.message})"
            )
        return type(error)(error.message, details={"steps": self._steps, **error.details})
