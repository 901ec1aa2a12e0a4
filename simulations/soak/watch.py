"""Asks every node what it says of itself, all the time, past all relays: who leads, how far each one is.

It decides nothing about right and wrong. It tells the injector who leads and who is well again, and keeps
what changed, for the story of a run.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from consensus.configuration import Standing
from mcp.clock import Clock, new_id
from mcp.errors import McpError
from mcp.net.connection import Connection
from mcp.net.dial import connect
from mcp.wire.handshake import Identity, Role
from mcp.wire.messages import Message
from simulations.chronicle import SILENT, Chronicle

POLL_S: Final = 0.1
ANSWER_TIMEOUT_S: Final = 1.0
FRESH_S: Final = 1.5
"""What was seen longer ago says nothing about now."""
SIGHTINGS_MAX: Final = 200_000


@dataclass(frozen=True, slots=True)
class Sighting:
    """What one node said of itself at a time."""

    at_s: float
    node: str
    role: str
    term: int
    leader: str | None
    commit_index: int
    applied_index: int
    first_index: int
    caught_up: bool
    storage: str
    standing: str

    @property
    def story(self) -> tuple[object, ...]:
        """What makes a change worth keeping."""
        return (
            self.role,
            self.term,
            self.leader,
            self.caught_up,
            self.storage,
            self.first_index,
            self.standing,
        )


@dataclass(slots=True)
class Watch:
    """``now`` is seconds since the beginning of the run. :meth:`run` until cancelled.

    ``chronicle`` is told all that is seen, for whoever wants a picture of the run.
    """

    addresses: Mapping[str, str]
    key: bytes
    clock: Clock
    now: Callable[[], float]
    latest: dict[str, Sighting] = field(default_factory=dict)
    story: list[Sighting] = field(default_factory=list)
    chronicle: Chronicle = SILENT

    async def run(self) -> None:
        """Ask for ever."""
        async with asyncio.TaskGroup() as group:
            for node, address in self.addresses.items():
                group.create_task(self._follow(node, address))

    def rebase(self, by_s: float) -> None:
        """The run begins now: what was seen so far was before it, ``by_s`` earlier than it was noted."""
        self.story = [replace(seen, at_s=round(seen.at_s - by_s, 3)) for seen in self.story]
        self.latest = {
            node: replace(seen, at_s=round(seen.at_s - by_s, 3)) for node, seen in self.latest.items()
        }

    def fresh(self) -> dict[str, Sighting]:
        """Who answered lately, and what."""
        now = self.now()
        return {node: seen for node, seen in self.latest.items() if now - seen.at_s < FRESH_S}

    def leader(self) -> str | None:
        """Who said last, in the highest term, that it leads."""
        leaders = [seen for seen in self.fresh().values() if seen.role == "leader"]
        return max(leaders, key=lambda seen: seen.term).node if leaders else None

    def well(self, node: str, since: float) -> bool:
        """Whether the node has answered since then, is caught up, votes, and knows who leads."""
        seen = self.latest.get(node)
        if seen is None or seen.at_s < since:
            return False
        return seen.caught_up and seen.standing == Standing.VOTER and seen.leader is not None

    @property
    def snapshots(self) -> int:
        """How often a node's log was seen to begin later than before."""
        last: dict[str, int] = {}
        count = 0
        for seen in self.story:
            count += seen.first_index > last.get(seen.node, seen.first_index)
            last[seen.node] = seen.first_index
        return count

    async def _follow(self, node: str, address: str) -> None:
        while True:
            with contextlib.suppress(McpError, OSError):
                identity = Identity("mcp", f"watch-{new_id(self.clock)}", self.key, Role.CLIENT)
                connection = await connect(address, identity, timeout_s=ANSWER_TIMEOUT_S)
                try:
                    await self._ask(node, connection)
                finally:
                    connection.close()
            await asyncio.sleep(POLL_S)

    async def _ask(self, node: str, connection: Connection) -> None:
        while True:
            message = Message("STATUS", {}, new_id(self.clock))
            reply = await connection.request(message, timeout_s=ANSWER_TIMEOUT_S)
            self._note(node, reply.message.payload)
            await asyncio.sleep(POLL_S)

    def _note(self, node: str, said: Mapping[str, Any]) -> None:
        seen = Sighting(
            round(self.now(), 3),
            node,
            said["role"],
            said["term"],
            said["leader"],
            said["commit_index"],
            said["applied_index"],
            said["first_index"],
            said["caught_up"],
            said["storage"],
            said["standing"],
        )
        before = self.latest.get(node)
        self.latest[node] = seen
        self.chronicle.role(seen.at_s, node, seen.role, seen.term, seen.leader)
        self.chronicle.commit(seen.at_s, node, seen.commit_index)
        if (before is None or before.story != seen.story) and len(self.story) < SIGHTINGS_MAX:
            self.story.append(seen)
