"""Who belongs to the cluster, as this node knows it, and what is done when somebody is to come or go.

The members and their addresses are in the replicated configuration (:mod:`consensus.configuration`), so nodes
find each other by it. The addresses that a node was started with go before that, because they may be the
right ones from where it stands; where they differ, both are tried, and behind them what another node said.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from consensus.configuration import (
    AddObserver,
    Change,
    Configuration,
    Member,
    Promote,
    Remove,
    change_from_plain,
    change_to_plain,
)
from consensus.errors import ConsensusError
from mcp.clock import Clock
from mcp.errors import InvalidArgument, NotFound, Unavailable
from mcp.node.config import NodeConfig
from mcp.node.order import Order
from mcp.node.translation import translated


async def _nobody_is_asked(_node: str, _journal: int, _addresses: Sequence[str]) -> None:
    """Until the node has what asks."""


def first_configuration(config: NodeConfig) -> Configuration:
    """What a cluster of these voters is begun with. Their journals are not known yet."""
    return Configuration.of(Member(node, 0, address) for node, address in config.voters.items())


class Roster:
    """One node's view of the members. All calls on the loop's thread."""

    def __init__(self, config: NodeConfig, order: Order, clock: Clock) -> None:
        self._config = config
        self._order = order
        self._clock = clock
        self._hints: dict[str, str] = {}
        self.refuse_a_namesake: Callable[[str, int, Sequence[str]], Awaitable[None]] = _nobody_is_asked
        """Raises if a member of that name, with that journal, is alive at one of the addresses."""
        self.outside = False
        """Whether this node is no member: what it holds may be old, and it is not told when."""
        self.removed = False
        """Whether it was a member before, and waits for nothing."""

    @property
    def configuration(self) -> Configuration:
        """The members."""
        return self._order.driver.configuration

    def peers(self) -> dict[str, tuple[str, ...]]:
        """The other members and where each may be reached, in order of node id."""
        said = {member.name: member.address for member in self.configuration.members}
        given, hints = self._config.voters, self._hints
        found = {
            node: (given.get(node, ""), said.get(node, ""), hints.get(node, ""))
            for node in sorted(said.keys() | hints.keys())
        }
        return {
            node: tuple(dict.fromkeys(address for address in addresses if address))
            for node, addresses in found.items()
            if node != self._config.node_id
        }

    def voters_besides(self) -> tuple[str, ...]:
        """The other voters."""
        return tuple(name for name in self.configuration.voters if name != self._config.node_id)

    def journal_of(self, node: str) -> int:
        """The number of the member's journal; 0: it is no member, or its journal is not known yet."""
        member = self.configuration.get(node)
        return 0 if member is None else member.incarnation

    def role_of(self, node: str) -> str:
        """What the node is by the members' list, as in :meth:`to_plain`; an outsider's list says nothing."""
        member = self.configuration.get(node)
        if self.outside:
            return ""
        return "none" if member is None else "voter" if member.votes else "observer"

    def address_of(self, node: str) -> str | None:
        """Where ``node`` may be reached."""
        addresses = self.peers().get(node, ())
        return addresses[0] if addresses else None

    def hint(self, members: Sequence[Mapping[str, Any]]) -> None:
        """What another node says of the members: this one's own log may not say it yet."""
        self._hints = {
            str(member["node"]): str(member["address"])
            for member in members
            if isinstance(member, Mapping) and member.get("address") and member.get("node")
        }

    # -- what others are told -----------------------------------------------------------------------

    def outsiders_refusal(self) -> Unavailable:
        """What an outsider answers to whoever wants something of the cluster.

        Its ``details`` have the ``members`` as this node heard of them last, as clients learn them.
        """
        if not self.removed:
            return Unavailable("this node is no member of the cluster; ask another one")
        known = {node: places[0] for node, places in self.peers().items() if places} | self._hints
        known.pop(self._config.node_id, None)
        members = [{"node": node, "address": known[node]} for node in sorted(known)]
        asked = ", ".join(f"{member['node']} at {member['address']}" for member in members)
        return Unavailable(
            f"node {self._config.node_id} was removed and is no member of the cluster; ask another one"
            + (f": {asked}" if asked else ""),
            details={"removed": True, "members": members},
        )

    def to_plain(self) -> list[dict[str, Any]]:
        """The members as plain values."""
        return [
            {
                "node": member.name,
                "address": member.address or self._config.voters.get(member.name, ""),
                "role": "voter" if member.votes else "observer",
                "journal": member.incarnation,
            }
            for member in self.configuration.members
        ]

    def described(self, records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """The replicated records of nodes, each with its role; and members that never said hello."""
        roles = {member["node"]: member for member in self.to_plain()}
        nothing = {"role": "none", "journal": 0}
        found = [{**nothing, **roles.pop(str(record["node"]), nothing), **record} for record in records]
        found += [{"state": "unknown", **member} for member in roles.values()]
        return sorted(found, key=lambda member: str(member["node"]))

    # -- changes ------------------------------------------------------------------------------------

    async def take_in(self, node: str, journal: int, address: str, timeout_s: float) -> int:
        """Take in the node that asks for it, as an observer; gives the configuration's log index.

        A voter of that name under another journal is removed first: whoever runs under it now has lost what
        that one had. Raises what :meth:`change` raises, and :class:`~mcp.errors.MembershipRefused` where the
        member of that name is alive.
        """
        deadline = self._clock.monotonic() + timeout_s
        known = self.configuration.get(node)
        if known is not None and known.incarnation not in (0, journal):
            await self.refuse_a_namesake(node, known.incarnation, self.peers().get(node, ()))
        if known is not None and known.votes and known.incarnation != journal:
            await self.change(Remove(node, known.incarnation), timeout_s)
        return await self.change(AddObserver(node, journal, address), deadline - self._clock.monotonic())

    async def promote(self, node: str, journal: int | None, timeout_s: float) -> int:
        """Let an observer vote; gives the configuration's log index."""
        return await self.change(Promote(node, self._journal_of(node, journal)), timeout_s)

    async def remove(self, node: str, journal: int | None, timeout_s: float) -> int:
        """Take a member out; gives the configuration's log index."""
        return await self.change(Remove(node, self._journal_of(node, journal)), timeout_s)

    async def change(self, change: Change, timeout_s: float, bound: int | None = None) -> int:
        """Have the leader make ``change``; gives the log index at which it is committed.

        With ``bound`` only this node makes it, at once, and only while it leads that term.
        Raises :class:`~mcp.errors.MembershipRefused` with the reason, and what any ordered request may.
        """
        try:
            change_from_plain(change_to_plain(change))
        except ValueError as problem:
            raise InvalidArgument(f"{problem}; give a node id and an address") from None
        try:
            return await self._order.driver.change_membership(
                change, timeout_s=max(timeout_s, 0.001), bound=bound
            )
        except ConsensusError as error:
            raise translated(error) from error

    def _journal_of(self, node: str, journal: int | None) -> int:
        if journal is not None:
            return journal
        member = self.configuration.get(node)
        if member is None:
            known = ", ".join(member.name for member in self.configuration.members)
            raise NotFound(f"{node!r} is no member of the cluster; the members are {known}")
        return member.incarnation
