"""Whether a member is alive, before another process takes part, or is taken in, under its name.

A voter that has lost its disk comes back under its name with another journal, and has the place of the one
that is gone. A second process that somebody starts under a living member's name looks the same, and would
shut the healthy one out. So whoever is alive keeps its name, which is looked after in three places:

- A process that starts asks, before it listens, whether somebody of its name answers where it is to be
  reached; and with a fresh data directory also the other nodes, whether they have a link to its name
  (:func:`refuse_to_be_a_second`).
- Nodes take no second link to a name while the first one lives (:mod:`mcp.node.links`).
- Before another process becomes a member under the name, the member's own address is asked
  (:func:`refuse_a_namesake`).

Whoever is silent is no reason to refuse anybody: it may be gone, or be cut off.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from mcp.clock import Clock, new_id
from mcp.errors import McpError, MembershipRefused, NameTaken
from mcp.net.connection import Connection
from mcp.wire.messages import Message, Ttl

ASK_S: Final = 1.0
"""So long an address is given to answer; one that is silent is no reason to refuse anybody."""
GONE_S: Final = 5.0
"""After so long a link to a process that has died is given up, with what clocks may differ: a link that is
there still is one to a process that lives."""
ASK_AGAIN_S: Final = 0.5
ASKED_MAX: Final = 16
"""So many addresses of others are asked at most."""

Visit = Callable[[str], Awaitable[Connection]]

_log = logging.getLogger("mcp.node")


async def refuse_a_namesake(
    visit: Visit, clock: Clock, node: str, journal: int, addresses: Sequence[str]
) -> None:
    """Ask at each of the member's ``addresses`` whether ``node`` is there with its ``journal``.

    Raises :class:`~mcp.errors.MembershipRefused` if it is. ``visit`` opens a connection that is no link.
    """
    for address in addresses:
        if await answers_there(visit, clock, address, node, journal):
            raise MembershipRefused(
                f"{node} is alive at {address}, with the journal that the cluster knows: give this node "
                "another name (--node-id), or stop that one"
            )


@dataclass(frozen=True, slots=True)
class Starter:
    """A process that is to be ``node``, with its ``journal``, and does not listen yet.

    ``reached``: where others are told to reach it, without what it is about to listen at itself: that is
    taken, or not. ``others``: where other nodes are. ``fresh``: it has never been a member with this
    journal, so that nobody misses it.
    """

    node: str
    journal: int
    reached: Sequence[str]
    others: Sequence[str]
    fresh: bool


async def refuse_to_be_a_second(visit: Visit, clock: Clock, starter: Starter) -> None:
    """Raise :class:`~mcp.errors.NameTaken` if somebody else has the starter's name, and is alive.

    ``visit`` opens a connection as somebody else than the starter, whose name nobody would take.
    """
    await _look_at(visit, clock, starter, starter.reached)
    if not starter.fresh:
        return
    others = [each for each in dict.fromkeys(starter.others) if each not in starter.reached][:ASKED_MAX]
    deadline = clock.monotonic() + GONE_S
    while True:
        answers = await asyncio.gather(*(_ask(visit, clock, address) for address in others))
        told = [answer for answer in answers if answer is not None and answer.node != starter.node]
        elsewhere = {place for answer in told if (place := answer.place_of(starter.node)) is not None}
        await _look_at(visit, clock, starter, sorted(elsewhere.difference(starter.reached)))
        linked = [answer for answer in told if answer.linked(starter.node) not in (0, starter.journal)]
        if not linked:
            return
        if clock.monotonic() >= deadline:
            raise _taken(starter, f"{linked[0].node} has a link to it")
        await asyncio.sleep(ASK_AGAIN_S)


async def _look_at(visit: Visit, clock: Clock, starter: Starter, places: Sequence[str]) -> None:
    answers = await asyncio.gather(*(_ask(visit, clock, place) for place in places))
    for place, answer in zip(places, answers, strict=True):
        if answer is None or answer.node != starter.node:
            continue
        if starter.fresh or answer.journal == starter.journal:
            raise _taken(starter, f"it answers at {place}")
        # This one's journal is the older: the other has come meanwhile, and will not be taken in.
        _log.warning(
            "another process answers as node %s at %s, with another data directory: stop that one",
            starter.node,
            place,
        )


def _taken(starter: Starter, where: str) -> NameTaken:
    return NameTaken(
        f"node {starter.node} is alive: {where}, and this process would be a second one of its name. Every "
        "node has a name, an address and a data directory of its own. To replace the node, stop it first; to "
        "add one, give this process another --node-id, its own --listen and --data-dir, and --join with the "
        "address of a member instead of --peers"
    )


async def answers_there(visit: Visit, clock: Clock, address: str, node: str, journal: int) -> bool:
    """Whether at ``address`` ``node`` answers with its ``journal``."""
    told = await _ask(visit, clock, address)
    return told is not None and (told.node, told.journal) == (node, journal)


@dataclass(frozen=True, slots=True)
class _Told:
    """What somebody says of itself and of others (``STATUS``)."""

    node: str
    journal: int
    payload: Mapping[str, Any]

    def linked(self, node: str) -> int:
        """The journal of ``node`` to which there is a link there; 0: there is none, or it does not say."""
        peers = self.payload.get("peers")
        peer = peers.get(node) if isinstance(peers, Mapping) else None
        journal = peer.get("journal") if isinstance(peer, Mapping) else None
        return journal if type(journal) is int else 0

    def place_of(self, node: str) -> str | None:
        """Where ``node`` is by the log, if it is up."""
        members = self.payload.get("members")
        for member in members if isinstance(members, list) else ():
            if isinstance(member, Mapping) and (member.get("node"), member.get("state")) == (node, "up"):
                address = member.get("address")
                return address if isinstance(address, str) and address else None
        return None


async def _ask(visit: Visit, clock: Clock, address: str) -> _Told | None:
    """What the node at ``address`` says; ``None``: nobody answers."""
    connection = None
    try:
        async with asyncio.timeout(ASK_S):
            connection = await visit(address)
            message = Message("STATUS", {}, new_id(clock), ttl=Ttl(1, int(ASK_S * 1000)))
            answer = await connection.request(message, timeout_s=ASK_S)
            payload = answer.message.payload
            journal = payload.get("journal")
            return _Told(connection.peer.node_id, journal if type(journal) is int else 0, payload)
    except (McpError, TimeoutError):
        return None
    finally:
        if connection is not None:
            connection.close()
