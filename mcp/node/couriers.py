"""What carries the stream messages of gossip: over the link to a peer, or a connection made for them.

Messages to one address go one after the other, each as a request; whatever goes wrong, they are lost, and
gossip makes up for it. A connection that was made for them is closed behind the last.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final

from mcp.clock import Clock, new_id
from mcp.errors import McpError
from mcp.net.connection import Connection
from mcp.wire.messages import Message, Ttl

COURIERS_MAX: Final = 32
"""The addresses to which something is on its way at one time; what is for more is dropped."""

WAITING_MAX: Final = 64
"""The messages that wait for one address; more are dropped."""

CARRY_TIMEOUT_S: Final = 5.0
"""So long one message may take."""

GOSSIP: Final = "GOSSIP"
"""The type of the request that carries a stream message."""


class Couriers:
    """Carries messages. ``link(address)`` is a connection that is there already; ``dial`` makes one."""

    def __init__(
        self,
        link: Callable[[str], Connection | None],
        dial: Callable[[str], Awaitable[Connection]],
        clock: Clock,
    ) -> None:
        self.dropped = 0
        """Messages that were over a limit."""
        self.lost = 0
        """Messages that did not arrive, as far as is known here."""
        self.sent = 0
        """Messages that were given to a connection, and their bytes."""
        self.sent_bytes = 0
        self._link = link
        self._dial = dial
        self._clock = clock
        self._waiting: dict[str, deque[bytes]] = {}
        self._tasks: dict[asyncio.Task[None], None] = {}

    def send(self, address: str, sealed: bytes) -> None:
        """Carry this to ``address`` when what is before it has gone."""
        waiting = self._waiting.get(address)
        if waiting is not None:
            if len(waiting) < WAITING_MAX:
                waiting.append(sealed)
            else:
                self.dropped += 1
        elif len(self._tasks) >= COURIERS_MAX:
            self.dropped += 1
        else:
            self._waiting[address] = deque((sealed,))
            task = asyncio.ensure_future(self._run(address))
            self._tasks[task] = None
            task.add_done_callback(lambda done: self._tasks.pop(done, None))

    async def close(self) -> None:
        """Drop everything."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._waiting.clear()

    async def _run(self, address: str) -> None:
        waiting, made = self._waiting[address], None
        try:
            while waiting:
                sealed = waiting.popleft()
                connection = self._link(address) or made
                if connection is None:
                    connection = made = await self._dial(address)
                message = Message(
                    GOSSIP,
                    {"sealed": sealed},
                    new_id(self._clock),
                    ttl=Ttl(1, int(CARRY_TIMEOUT_S * 1000)),
                )
                self.sent += 1
                self.sent_bytes += len(sealed)
                await connection.request(message, timeout_s=CARRY_TIMEOUT_S)
        except McpError:
            self.lost += 1 + len(waiting)
        finally:
            self._waiting.pop(address, None)
            if made is not None:
                made.close()
