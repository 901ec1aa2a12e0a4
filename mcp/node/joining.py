"""How a node comes into a running cluster: it asks to be taken in, catches up, and is promoted.

Where it is reached may change between two starts: a member that has moved tells the others, through the log.

Whoever began with an empty data directory and is no member asks for it: a node that was told to join, and a
voter that has lost its disk, which learns from the leader, or from its log, that the cluster knows another in
its place. Once it has been a member nothing is asked for any more: a node that somebody has removed stays
out, until its data directory is emptied.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Sequence

from consensus.configuration import AddObserver, Promote, Standing
from mcp.clock import Clock, new_id
from mcp.errors import McpError, ProtocolError
from mcp.net.connection import Connection
from mcp.node.config import NodeConfig
from mcp.node.links import PeerLinks
from mcp.node.order import Order
from mcp.node.ownership import no_newcomer, note_address
from mcp.node.roster import Roster
from mcp.wire.messages import Message, Ttl

LOOK_S = 0.5
"""So often a node looks at what it is in the cluster."""
LEADERLESS_LOOKS_MIN = 2
"""An election takes less; then the one who leads may be one that this node does not know."""
LEADING_LOOKS = 4
"""So many looks apart whoever leads dials a member that should have dialled it, and did not."""
UNBEGUN_LOOKS_MIN = 10
"""Machines that are started one after the other are given so long before somebody is told to be missing."""
ASK_TIMEOUT_S = 5.0
"""So long it waits to be taken in or promoted, before it asks again."""

_log = logging.getLogger("mcp.node")


class Joining:
    """One node's own place. ``journal`` is its number; ``newcomer``: it has never been a member with that.

    ``dial(address)`` opens an authenticated connection.
    """

    def __init__(
        self,
        config: NodeConfig,
        order: Order,
        roster: Roster,
        links: PeerLinks,
        dial: Callable[[str], Awaitable[Connection]],
        clock: Clock,
        *,
        journal: int,
        newcomer: bool,
    ) -> None:
        self.address = ""
        self.moved = False
        """Whether the cluster knows another address of this node, and has to be told of ``address``."""
        self.contacts: Callable[[], Sequence[str]] = tuple
        """Gives the addresses of living nodes: whoever was named to be joined may be gone, or no member."""
        self.problem: McpError | None = None
        """Why it was not taken in or promoted when it last asked."""
        self.standing = Standing.VOTER
        self._config = config
        self._order = order
        self._roster = roster
        self._links = links
        self._dial = dial
        self._clock = clock
        self.journal = journal
        self._newcomer = self._noted_newcomer = newcomer
        self._leaderless = 0
        """How many looks in a row found nobody who leads and is linked to."""
        self._leading = 0
        """And how many, that this node does."""
        self._refused = 0
        """How often in a row whoever was asked did not take this node in."""
        self._missing: list[str] = []
        """The voters without whom the cluster does not begin, as they were last told of."""

    async def run(self) -> None:
        """Look every ``LOOK_S``, for ever."""
        self.members_changed()
        while True:
            try:
                await self._step()
            except McpError as error:
                self._note(error)
            except Exception as defect:  # or this node would never join, and say nothing
                self._note(McpError(f"{type(defect).__name__}: {defect}"))
                _log.exception("a defect of this library")
            await asyncio.sleep(LOOK_S)

    def members_changed(self) -> None:
        """Other members are in force here: perhaps this node is one of them, and then it never asks again."""
        known = self._roster.configuration.get(self._config.node_id)
        if known is not None and known.incarnation == self.journal:
            self._newcomer = False

    async def _step(self) -> None:
        if self._noted_newcomer and not self._newcomer:
            self._noted_newcomer = False
            await asyncio.to_thread(no_newcomer, self._config.data_dir)
        status = self._order.driver.status()
        before, self.standing = self.standing, status.standing
        self._roster.outside = status.standing is Standing.OUTSIDER
        self._roster.removed = self._roster.outside and not self._newcomer
        if before is not self.standing:
            self._tell_standing()
        # One that is known and not linked to may be another by now, and would not find a node that has moved.
        led = status.leader == self._config.node_id or self._links.connected(status.leader or "")
        self._leaderless = 0 if led else self._leaderless + 1
        self._leading = self._leading + 1 if status.leader == self._config.node_id else 0
        if status.term == 0 and self._leaderless >= UNBEGUN_LOOKS_MIN:
            self._tell_missing(status.voters)
        if not led and not self._links.up():
            await self._reach_out(0)
        elif self._leading and self._leading % LEADING_LOOKS == 0:
            await self._reach_out(self._leading // LEADING_LOOKS)
        elif self._leaderless >= LEADERLESS_LOOKS_MIN:
            await self._look_around()
            await self._reach_out(self._leaderless)
        if self.standing is Standing.OUTSIDER:
            if self._newcomer and (self._config.joins or status.dismissed or self._is_replaced()):
                await self._ask_in()
            return
        if self.standing is Standing.OBSERVER and not self._config.observer:
            await self._roster.change(Promote(self._config.node_id, self.journal), ASK_TIMEOUT_S)
            self.problem = None
        if self.moved and led:
            await self._tell_where()

    def _tell_standing(self) -> None:
        node = self._config.node_id
        if self._roster.removed:
            _log.warning(
                "node %s was removed and is no member of the cluster: stop it; to take it in again, empty "
                "its data directory and start it with --join",
                node,
            )
        elif self._roster.outside:
            _log.info("node %s is no member of the cluster yet, and asks to be taken in", node)
        else:
            article = "an" if self.standing is Standing.OBSERVER else "a"
            _log.info("node %s is %s %s of the cluster", node, article, self.standing)

    def _tell_missing(self, voters: Sequence[str]) -> None:
        """Say for whom a cluster waits that never had a leader; nothing else would show why nobody leads."""
        up = self._links.up()
        missing = [voter for voter in voters if voter != self._config.node_id and voter not in up]
        if missing and missing != self._missing:
            _log.warning(
                "node %s waits for %s: a new cluster elects its first leader once all its voters run at the "
                "same time; start them, and check that each is reached at its address in --peers",
                self._config.node_id,
                ", ".join(missing),
            )
        self._missing = missing

    def _is_replaced(self) -> bool:
        """Whether by this node's own log another server is the member of its name.

        A leader that goes on sending to the one that is gone says no more that this one is no member.
        """
        known = self._roster.configuration.get(self._config.node_id)
        return known is not None and known.incarnation not in (0, self.journal)

    async def _tell_where(self) -> None:
        """Have the log say where this member is now. The others go on trying where it was until then."""
        known = self._roster.configuration.get(self._config.node_id)
        if known is None or known.incarnation != self.journal:
            return
        await self._roster.change(
            AddObserver(self._config.node_id, self.journal, self.address), ASK_TIMEOUT_S
        )
        self.moved, self.problem = False, None
        _log.info("node %s was at %s, and is at %s", self._config.node_id, known.address, self.address)
        with contextlib.suppress(OSError):  # or it is told again after the next start, which changes nothing
            await asyncio.to_thread(note_address, self._config.data_dir, self.address)

    async def _reach_out(self, turn: int) -> None:
        """Dial somebody who should dial this node, at each ``turn`` another: perhaps nobody can.

        Whoever is no member any more is dialled by nobody, and has to hear it from somebody. Whoever has
        moved is looked for where it was, and one that was away meanwhile finds nobody.
        """
        own = self._config.node_id
        alone = not self._links.up() and not self._leading
        unlinked = [
            addresses
            for peer, addresses in self._roster.peers().items()
            if not self._links.connected(peer) and (alone or peer < own)
        ]
        first = turn % max(1, len(unlinked))
        for address in (address for places in unlinked[first:] + unlinked[:first] for address in places):
            with contextlib.suppress(McpError):
                self._links.adopt(await self._dial(address))
                return

    async def _look_around(self) -> None:
        """Ask a peer who the members are now, and make links to those.

        Whoever was away, or has lost its disk, knows the members of before. A leader that came later may be
        one that waits to be dialled by this node, and only the leader tells what has changed. At each look
        another peer: one that has been removed is up, too, and knows nothing new.
        """
        up = self._links.up()
        connection = self._links.connection(up[self._leaderless % len(up)])
        if connection is None:
            return
        message = Message("STATUS", {}, new_id(self._clock), ttl=Ttl(1, int(ASK_TIMEOUT_S * 1000)))
        reply = await connection.request(message, timeout_s=ASK_TIMEOUT_S)
        members = reply.message.payload.get("members")
        if isinstance(members, list) and members:
            self._roster.hint(members)
            self._links.aim(self._roster.peers())

    async def _ask_in(self) -> None:
        payload = {
            "change": "join",
            "node": self._config.node_id,
            "journal": self.journal,
            "address": self.address,
        }
        attempt = self._refused
        self._refused += 1
        connection = await self._somebody(attempt)
        message = Message(
            "MEMBER_CHANGE", payload, new_id(self._clock), ttl=Ttl(1, int(ASK_TIMEOUT_S * 1000))
        )
        reply = await connection.request(message, timeout_s=ASK_TIMEOUT_S)
        self._refused = 0
        members = reply.message.payload.get("members")
        if not isinstance(members, list):
            raise ProtocolError("the answer to MEMBER_CHANGE names no members")
        self._roster.hint(members)
        self._links.aim(self._roster.peers())
        self.problem = None

    async def _somebody(self, attempt: int) -> Connection:
        """A connection to somebody: one that is up, or a new one to an address that was given.

        The leader first, then members, and at each ``attempt`` the next: a node that has been removed may be
        up and linked to, and cannot take anybody in.
        """
        leader, members = self._order.leader, self._roster.configuration
        up = sorted(self._links.up(), key=lambda peer: (peer != leader, members.get(peer) is None, peer))
        places: list[tuple[str | None, str]] = [(peer, "") for peer in up]
        places += [(None, address) for address in dict.fromkeys((*self._config.join, *self.contacts()))]
        error: McpError | None = None
        for number in range(len(places)):
            peer, address = places[(attempt + number) % len(places)]
            connection = None if peer is None else self._links.connection(peer)
            if connection is not None:
                return connection
            if not address:
                continue
            try:
                connection = await self._dial(address)
            except McpError as problem:
                error = problem
                continue
            self._links.adopt(connection)
            return connection
        raise error or McpError("there is nobody to ask; give --join the address of a living node")

    def _note(self, error: McpError) -> None:
        if self.problem is None or self.problem.message != error.message:
            _log.warning("node %s waits to join: %s: %s", self._config.node_id, error.code, error)
        self.problem = error
