"""One connection to each peer node, kept up.

Of two nodes, the one with the smaller id dials, so that a pair never holds two connections for long.
Consensus messages are one-way notices on it: dropped while it is down or clogged, which Raft takes for
loss. Bulk requests (artefacts) share it.

A name is one process: while a link to it lives, nobody else has one under that name. Two processes of one
name are told apart by the numbers of their journals. The one that the members' list knows has the name; where
it knows neither, whoever came first. A link to a process that has died is given up within
:data:`mcp.node.node.PEER_LIMITS`, and then whoever comes next is taken.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final

from mcp.errors import McpError, NameTaken
from mcp.net.connection import Connection

REFUSED_AGAIN_S: Final = 5.0
"""Whoever is refused dials again sooner; after a longer time without a refusal the next is another matter."""

_log = logging.getLogger("mcp.node")


class PeerLinks:
    """The links of one node. ``dial(address)`` opens an authenticated connection.

    Whom to keep a link to is said with :meth:`aim`, and may change; a link that a peer has made is taken
    whoever it is, unless another process of its name is linked to. ``journal_of(peer)`` is the journal that
    the members' list has for it, 0 where it has none.
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
        journal_of: Callable[[str], int] = lambda _peer: 0,
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
        self._journal_of = journal_of
        self._second: dict[str, int] = {}
        """The journal of whoever was refused last under a name that is linked to."""
        self._shut_out: tuple[float, float] | None = None
        """Since when this node is refused as a second one of its name, and when it was last."""
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
        """A connection with a peer is up, whoever dialled. It replaces an older one of the same process."""
        peer = connection.peer.node_id
        older = self._up.get(peer)
        try:
            self.refuse_a_second(peer, connection.peer.journal, connection.address)
        except NameTaken as error:
            connection.close(error)
            return
        self._up[peer] = connection
        self._shut_out = None
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
            self._second.pop(peer, None)
            self._on_down(peer)

    # -- one name, one process ----------------------------------------------------------------------

    def linked_journal(self, peer: str) -> int:
        """The journal of the process to which there is a link; 0: there is none, or it does not say."""
        connection = self._up.get(peer)
        return 0 if connection is None else connection.peer.journal

    def refuse_a_second(self, peer: str, journal: int, address: str) -> None:
        """Raise :class:`~mcp.errors.NameTaken` where another process of that name is linked to, and stays."""
        first = self._up.get(peer)
        if first is None or not first.is_open or 0 in (first.peer.journal, journal):
            return
        if journal in (first.peer.journal, self._journal_of(peer)):
            return
        if self._second.get(peer) != journal:
            self._second[peer] = journal
            _log.warning(
                "two processes call themselves node %s: the one at %s (journal %d) is linked to, and that at "
                "%s (journal %d) is refused; stop one of the two, or give it a name of its own (--node-id)",
                peer,
                first.address,
                first.peer.journal,
                address,
                journal,
            )
        raise NameTaken(
            f"node {self._node_id} has a link to another process that calls itself {peer}, at "
            f"{first.address}, and takes no second one: stop one of the two, or give this one a name of its "
            "own (--node-id)"
        )

    def shut_out(self, error: NameTaken) -> None:
        """A node that was dialled has refused this one, because it is linked to another of its name."""
        now = asyncio.get_running_loop().time()
        since, last = self._shut_out or (now, -math.inf)
        if now - last > REFUSED_AGAIN_S:
            _log.warning("node %s is refused: %s", self._node_id, error)
            since = now
        self._shut_out = since, now

    def shut_out_s(self) -> float:
        """For how long this node has been refused so, again and again, and had no link at all."""
        if self._shut_out is None or self._up:
            return 0.0
        since, last = self._shut_out
        return last - since

    # -- dialling -----------------------------------------------------------------------------------

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
