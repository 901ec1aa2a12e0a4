"""Whether a member is alive, before another process is taken in under its name.

A voter that has lost its disk comes back under its name with another journal, and has the place of the one
that is gone. A second process that somebody starts under a living member's name looks the same, and would
shut the healthy one out. So the member's own address is asked first: whoever answers there with the journal
that the cluster knows is alive, and keeps its name.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from mcp.clock import Clock, new_id
from mcp.errors import McpError, MembershipRefused
from mcp.net.connection import Connection
from mcp.wire.messages import Message, Ttl

ASK_S: Final = 1.0
"""So long an address is given to answer; one that is silent is no reason to refuse anybody."""

Visit = Callable[[str], Awaitable[Connection]]


async def refuse_a_namesake(
    visit: Visit, clock: Clock, node: str, journal: int, addresses: Sequence[str]
) -> None:
    """Ask at each of the member's ``addresses`` whether ``node`` is there with its ``journal``.

    Raises :class:`~mcp.errors.MembershipRefused` if it is. ``visit`` opens a connection that is no link.
    """
    for address in addresses:
        if await _journal_at(visit, clock, node, address) == journal:
            raise MembershipRefused(
                f"{node} is alive at {address}, with the journal that the cluster knows: give this node "
                "another name (--node-id), or stop that one"
            )


async def _journal_at(visit: Visit, clock: Clock, node: str, address: str) -> object:
    connection = None
    try:
        async with asyncio.timeout(ASK_S):
            connection = await visit(address)
            if connection.peer.node_id != node:
                return None
            message = Message("STATUS", {}, new_id(clock), ttl=Ttl(1, int(ASK_S * 1000)))
            answer = await connection.request(message, timeout_s=ASK_S)
            return answer.message.payload.get("journal")
    except (McpError, TimeoutError):
        return None
    finally:
        if connection is not None:
            connection.close()
