"""Who is up, according to the log: each node says hello, and the leader reports who has gone quiet.

A node that is not reachable from the leader for ``node_dead_after_s`` is taken down in the log, which
gives its inferences to others. It may be alive and merely cut off: when it is back it sees itself down
and says hello again, and what it finished meanwhile is refused by its fencing token.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from consensus.interface import Role
from mcp.clock import Clock
from mcp.errors import McpError
from mcp.node.order import Order
from mcp.state.records import InferenceRecord
from mcp.state.state import ReplicatedState

Propose = Callable[[str, Mapping[str, Any]], Awaitable[Any]]


class Membership:
    """One node's part. :meth:`step` is called a few times a second."""

    def __init__(
        self,
        node_id: str,
        state: ReplicatedState,
        order: Order,
        clock: Clock,
        propose: Propose,
        *,
        providers: Sequence[str],
        node_dead_after_s: float,
        inference_lease_s: float,
    ) -> None:
        self.address = ""
        self.incarnation = int(clock.wall() * 1000)
        self.caught_up = False
        """Whether this process has executed its own hello, and so all that was committed before."""
        self._node_id = node_id
        self._state = state
        self._order = order
        self._propose = propose
        self._providers = list(providers)
        self._schema_max = state.schema.own_max
        self._executors = state.machines.names
        self._dead_after_s = node_dead_after_s
        self._lease_s = inference_lease_s
        self._seen: dict[str, float] = {}
        self._lease_seen: dict[tuple[str, int], float] = {}

    async def step(self) -> None:
        """Say hello if the log does not have us up as we are; as leader, report who is not."""
        status = self._order.driver.status()
        if status.leader is None:
            self._seen.clear()
            self._lease_seen.clear()
            return
        if not self._greeted():
            await self._try("member.hello", self._hello())
            self._greeted()
        if status.role is Role.LEADER:
            await self._report_the_quiet()
            await self._reassign_the_late()
            await self._raise_schema(status.voters)
        else:
            self._seen.clear()
            self._lease_seen.clear()

    def _greeted(self) -> bool:
        me = self._state.members.get(self._node_id)
        if me is not None and me.incarnation > self.incarnation:
            # The clock went back between two starts: the log decides what comes next.
            self.incarnation = me.incarnation + 1
        if me is None or not me.up or me.incarnation != self.incarnation:
            return False
        self.caught_up = True
        mine = (self.address, self._schema_max, self._executors)
        return (me.address, me.schema, me.executors) == mine

    def _hello(self) -> dict[str, Any]:
        return {
            "node": self._node_id,
            "address": self.address,
            "incarnation": self.incarnation,
            "providers": self._providers,
            "schema": self._schema_max,
            "executors": list(self._executors),
        }

    async def _report_the_quiet(self) -> None:
        now = asyncio.get_running_loop().time()
        contact = self._order.driver.status().last_contact_s
        for member in self._state.members.all():
            if not member.up or member.node == self._node_id:
                self._seen.pop(member.node, None)
                continue
            seen = max(self._seen.setdefault(member.node, now), contact.get(member.node, 0.0))
            self._seen[member.node] = seen
            if now - seen > self._dead_after_s:
                await self._try("member.down", {"node": member.node, "incarnation": member.incarnation})

    async def _raise_schema(self, voters: Sequence[str]) -> None:
        schema = self._state.schema.due(voters)
        if schema is not None:
            await self._try("schema.raise", {"schema": schema, "voters": list(voters)})

    async def _reassign_the_late(self) -> None:
        now = asyncio.get_running_loop().time()
        owed = {(r.id, r.token): r for r in self._assigned()}
        self._lease_seen = {key: self._lease_seen.get(key, now) for key in owed}
        for (inference, token), since in list(self._lease_seen.items()):
            if now - since > self._lease_s:
                reason = f"not finished within inference_lease_s={self._lease_s:g}"
                await self._try("inference.reassign", {"id": inference, "token": token, "reason": reason})

    def _assigned(self) -> list[InferenceRecord]:
        inferences = self._state.inferences
        return [r for member in self._state.members.all() for r in inferences.assigned_to(member.node)]

    async def _try(self, op: str, args: Mapping[str, Any]) -> None:
        try:
            await self._propose(op, args)
        except McpError:
            # The next step sees whether it is still needed.
            return
