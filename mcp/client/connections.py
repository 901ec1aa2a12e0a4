"""One shared connection per node.

Dialling is single-flight: however many calls want a node, one dial is under way and all of them wait for
it, each no longer than its own time. A dial outlives the caller that began it, so that the next one finds
its result. A connection that is lost is dialled again when a call wants that node.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from typing import Final

from mcp.client.kinds import CallKind
from mcp.client.routing import Routing
from mcp.clock import Clock
from mcp.errors import Busy, McpError, Unavailable
from mcp.net.connection import Connection

_log = logging.getLogger(__name__)

CLOSE_TIMEOUT_S: Final = 0.5
"""How long nodes have to take the goodbye; they are cut off after that."""

Dial = Callable[[str, float], Awaitable[Connection]]
"""Connects to an address within a number of seconds, or raises an :class:`~mcp.errors.McpError`."""


def again(error: McpError) -> McpError:
    """A copy of an error that many callers raise: a traceback belongs to one of them."""
    copy = type(error)(error.message, details=error.details)
    copy.__cause__ = error.__cause__
    return copy


class Places:
    """A number of places, given to those who wait in the order in which they came."""

    __slots__ = ("_free", "_waiting")

    def __init__(self, count: int) -> None:
        self._free = count
        self._waiting: deque[asyncio.Future[None]] = deque()

    def take(self) -> bool:
        """Take a place if one is free; :meth:`give` is owed."""
        if not self._free:
            return False
        self._free -= 1
        return True

    async def wait(self) -> None:
        """Take a place as soon as it is this caller's turn; :meth:`give` is owed."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.give()  # it was given the place in the same moment
            raise

    def give(self) -> None:
        """Give a place back."""
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1


class NodeConnection:
    """A connection to a node, and how many of our requests may be in flight on it.

    The node says how many it takes; beyond that, callers wait for their turn here instead of being
    refused there. Half of them is for what is soon over; what waits for something, and streams, which last as
    long as somebody reads them, have a quarter each, so that they do not keep others out.
    """

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        most = connection.peer.limits.streams_max
        self.streams = Places(max(1, most // 4))
        self._waits = Places(max(1, most // 4))
        self._others = Places(max(1, most // 2))

    @property
    def closed(self) -> bool:
        """Whether the connection is gone."""
        return not self.connection.is_open

    def places(self, kind: CallKind) -> Places:
        """The places for calls of one kind."""
        return self._waits if kind is CallKind.WAIT else self._others

    async def wait_for_place(self, places: Places, timeout_s: float) -> None:
        """Take one of these places when its turn comes; giving it back is owed.

        Raises :class:`~mcp.errors.Busy` when none is free in time.
        """
        try:
            async with asyncio.timeout(timeout_s):
                await places.wait()
        except TimeoutError:
            what = "streams are open" if places is self.streams else "requests are under way"
            raise Busy(
                f"as many {what} at the node as one client may have at once; finish some of them"
            ) from None


class Connections:
    """The connections of one client. Use it on one event loop."""

    def __init__(self, dial: Dial, routing: Routing, clock: Clock, *, dial_timeout_s: float) -> None:
        self._dial = dial
        self._routing = routing
        self._clock = clock
        self._dial_timeout_s = dial_timeout_s
        self._open: dict[str, NodeConnection] = {}
        self._dials: dict[str, asyncio.Task[NodeConnection]] = {}
        self._problems: dict[str, McpError] = {}
        """Why an address could not be dialled when it was tried last."""
        self._closed = False

    @property
    def any_open(self) -> str | None:
        """The address of some open connection."""
        return next((address for address, node in self._open.items() if not node.closed), None)

    def ask_last(self, address: str) -> None:
        """Have :attr:`any_open` name another one while there is one: this one knows nothing new."""
        if address in self._open:
            self._open[address] = self._open.pop(address)

    def at_hand(self, address: str) -> NodeConnection | None:
        """The connection to ``address``, if there is one."""
        node = self._open.get(address)
        return node if node is not None and node.connection.is_open else None

    async def get(self, address: str, timeout_s: float) -> NodeConnection:
        """Return the connection to ``address``, dialling it if there is none.

        Raises :class:`~mcp.errors.Unavailable` when there is none within ``timeout_s``, and what
        the handshake raised when the node refused us. Nothing was sent in either case.
        """
        node = self._open.get(address)
        if node is not None and not node.closed:
            return node
        dial = self._dials.get(address) or self._start(address)
        await asyncio.wait({dial}, timeout=timeout_s)
        if not dial.done() or dial.cancelled():
            before = self._problems.get(address)
            raise Unavailable(
                f"{address} could not be reached within {timeout_s:.3g} s; "
                + (f"before: {before.message}" if before else "check that a node is running there")
            )
        if (error := dial.exception()) is not None:
            raise again(error) if isinstance(error, McpError) else error
        return dial.result()

    def warm(self, addresses: Iterable[str]) -> None:
        """Begin to dial every one of ``addresses`` that is neither open nor being dialled."""
        for address in addresses:
            if address not in self._dials and not self._closed:
                node = self._open.get(address)
                if node is None or node.closed:
                    self._start(address)

    def _start(self, address: str) -> asyncio.Task[NodeConnection]:
        if self._closed:
            raise Unavailable("the client is closed; make a new one")
        task = asyncio.create_task(self._connect(address), name=f"mcp-dial {address}")
        task.add_done_callback(lambda done: self._dialled(address, done))
        self._dials[address] = task
        return task

    async def _connect(self, address: str) -> NodeConnection:
        try:
            node = NodeConnection(await self._dial(address, self._dial_timeout_s))
        except McpError as error:
            _log.debug("%s could not be reached: %s: %s", address, error.code, error)
            self._routing.disconnected(address, self._clock.monotonic(), failed=True)
            self._problems[address] = error.with_traceback(None)
            raise
        self._open[address] = node
        self._problems.pop(address, None)
        self._routing.connected(address, node.connection.peer.node_id)
        _log.debug("connected to %s at %s", node.connection.peer.node_id, address)
        return node

    def _dialled(self, address: str, task: asyncio.Task[NodeConnection]) -> None:
        self._dials.pop(address, None)
        if not task.cancelled():
            task.exception()  # Marks it as seen: a dial in the background may have nobody waiting.

    def lost(self, address: str, node: NodeConnection) -> None:
        """``node`` was found closed: the node is set aside until it can be dialled again."""
        if self._open.get(address) is node:
            del self._open[address]
            self._routing.disconnected(address, self._clock.monotonic(), failed=True)

    def forget(self, keep: Iterable[str]) -> None:
        """Close the connections to addresses that are not in ``keep``."""
        kept = set(keep)
        for address in self._problems.keys() - kept:
            del self._problems[address]
        for address in [a for a in self._open if a not in kept]:
            self._open.pop(address).connection.close()

    async def close(self) -> None:
        """Close everything. Requests in flight end as the connection ends them."""
        self._closed = True
        dials = list(self._dials.values())
        for dial in dials:
            dial.cancel()
        if dials:
            await asyncio.wait(dials)
        connections = [node.connection for node in self._open.values()]
        self._open = {}
        for connection in connections:
            connection.close()
        if connections:
            goodbyes = [asyncio.create_task(connection.wait_closed()) for connection in connections]
            await asyncio.wait(goodbyes, timeout=CLOSE_TIMEOUT_S)
        for connection in connections:
            connection.abort()
        if connections:
            await asyncio.gather(*goodbyes)
