"""One connection to each peer node, kept up.

Of two nodes, the one with the smaller id dials, so that a pair never holds two connections for long.
Consensus messages are one-way notices on it: dropped while it is down or clogged, which Raft takes for
loss. Bulk requests (artefacts) share it.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence

from mcp.errors import McpError
from mcp.net.connection import Connection


class PeerLinks:
    """The links of one node. ``dial(address)`` opens an authenticated connection.

    Whom to keep a link to is said with :meth:`aim`, and may change; a link that a peer has made is taken
    whoever it is.
    ``on_up(peer)`` and ``on_down(peer)`` are called on every change.
    """

    def __init__(
        self,
        node_id: str,
        dial: Callable[[str], Awaitable[Connection]],
        *,
        backoff_s_min: float,
        backoff_s_max: float,
        generator: random.Random,
        on_up: Callable[[str], None],
        on_down: Callable[[str], None],
    ) -> None:
        self.dropped = 0
        self.last_error: dict[str, McpError] = {}
        self._node_id = node_id
        self._peers: Mapping[str, Sequence[str]] = {}
        self._started = False
        self._dial = dial
        self._backoff = (backoff_s_min, backoff_s_max)
        self._random = generator
        self._on_up = on_up
        self._on_down = on_down
        self._up: dict[str, Connection] = {}
        self._corked: list[Connection] = []
        self._dialling: dict[str, asyncio.Task[None]] = {}

    def start(self) -> None:
        """Begin to dial those peers that are ours to dial."""
        self._started = True
        self.aim(self._peers)

    def aim(self, peers: Mapping[str, Sequence[str]]) -> None:
        """From now on these are the peers, with the addresses at which each may be reached.

        Links to others stay for as long as they last, and are not made again.
        """
        self._peers = dict(peers)
        for peer in self._peers:
            dialling = self._dialling.get(peer)
            if self._started and self._node_id < peer and (dialling is None or dialling.done()):
                self._dialling[peer] = asyncio.ensure_future(self._keep_up(peer))

    async def stop(self) -> None:
        """Close every link."""
        self._started = False
        dialling = list(self._dialling.values())
        for task in dialling:
            task.cancel()
        await asyncio.gather(*dialling, return_exceptions=True)
        for connection in list(self._up.values()):
            connection.close()
        self._up.clear()

    def up(self) -> list[str]:
        """The peers to which a link is up, in order of node id."""
        return sorted(self._up)

    def connected(self, peer: str) -> bool:
        """Whether a link to ``peer`` is up."""
        return peer in self._up

    def connection(self, peer: str) -> Connection | None:
        """The link to ``peer``, if it is up."""
        return self._up.get(peer)

    def send(self, peer: str, message: bytes) -> None:
        """Queue a consensus message, or drop it (:class:`consensus.driver.Network`)."""
        connection = self._up.get(peer)
        if connection is None or not connection.notify(message, corked=True):
            self.dropped += 1
        elif connection not in self._corked:
            self._corked.append(connection)

    def flush(self) -> None:
        """Put what is queued on the wire (:class:`consensus.driver.Network`)."""
        corked, self._corked = self._corked, []
        for connection in corked:
            connection.flush()

    def adopt(self, connection: Connection) -> None:
        """A connection with a peer is up, whoever dialled. It replaces an older one."""
        peer = connection.peer.node_id
        older = self._up.get(peer)
        self._up[peer] = connection
        self.last_error.pop(peer, None)
        if older is not None and older is not connection:
            older.close()
            self._on_down(peer)
        self._on_up(peer)

    def release(self, connection: Connection) -> None:
        """A connection is gone. One that was replaced already is not missed."""
        peer = connection.peer.node_id
        if self._up.get(peer) is connection:
            del self._up[peer]
            self._on_down(peer)

    async def _keep_up(self, peer: str) -> None:
        loop = asyncio.get_running_loop()
        least, most = self._backoff
        pause, attempt = least, 0
        while addresses := self._peers.get(peer):
            made = self._up.get(peer)
            if made is not None:
                # The peer has dialled: a node that joins does, before it is known where it is.
                await made.wait_closed()
                self.release(made)
            address = addresses[attempt % len(addresses)]
            attempt += 1
            try:
                connection = await self._dial(address)
            except Exception as error:  # whatever it is: a link that is given up is never made again
                self.last_error[peer] = (
                    error if isinstance(error, McpError) else McpError(f"{type(error).__name__}: {error}")
                )
                await asyncio.sleep(pause * self._random.uniform(0.5, 1.0))
                pause = min(most, pause * 2)
                continue
            pause = least
            opened_at = loop.time()
            if connection.peer.node_id == peer:
                self.adopt(connection)
            else:
                connection.close()
                self.last_error[peer] = McpError(
                    f"{address} answers as node {connection.peer.node_id!r}, the members' list says {peer!r}"
                )
            await connection.wait_closed()
            self.release(connection)
            if loop.time() - opened_at < most:
                await asyncio.sleep(pause * self._random.uniform(0.5, 1.0))
            # One that had lasted is dialled again at once: until it is up, its peer is taken for dead.
