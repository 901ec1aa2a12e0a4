"""Reads everything back from every node by itself, so that no node can answer for another."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from mcp.cli.demo.cluster import LocalCluster
from mcp.cli.demo.workload import Request, Write
from mcp.clock import Clock, new_id
from mcp.errors import Busy
from mcp.net.connection import Connection
from mcp.net.dial import connect
from mcp.wire.handshake import Identity, Role
from mcp.wire.messages import Message
from mcp.wire.tensors import unpack_inline

READS_AT_ONCE: Final = 32
READ_TIMEOUT_S: Final = 10.0
QUIET_TIMEOUT_S: Final = 20.0
QUIET_POLL_S: Final = 0.1


@dataclass(slots=True)
class Findings:
    """What the nodes hold against what was promised. The lists name keys and ids with the node."""

    lost: list[str] = field(default_factory=list)
    duplicated: list[str] = field(default_factory=list)
    differing: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class NodeState:
    """Where a node is in the log, and a digest of what it holds there."""

    node: str
    applied_index: int
    digest: str


@asynccontextmanager
async def audits(cluster: LocalCluster, clock: Clock) -> AsyncIterator[list[NodeAudit]]:
    """Open one connection to each node, and close them all afterwards."""
    opened: list[NodeAudit] = []
    try:
        for node in cluster.nodes.values():
            identity = Identity("mcp", f"audit-{new_id(clock)}", cluster.key, Role.CLIENT)
            opened.append(NodeAudit(node.node, await connect(node.address, identity), clock))
        yield opened
    finally:
        for audit in opened:
            await audit.close()


async def quiet_states(nodes: Sequence[NodeAudit], clock: Clock) -> list[NodeState]:
    """Wait until every node has applied the same log, and return what each says of itself.

    Returns what they said last when they do not agree in time; the report then says so.
    """
    deadline = clock.monotonic() + QUIET_TIMEOUT_S
    while True:
        late = clock.monotonic() > deadline
        try:
            states = [await node.state() for node in nodes]
        except Busy:
            # A node that has just told a digest rests before it computes another, and is asked again.
            if late:
                raise
        else:
            if late or common_digest(states) is not None:
                return states
        await asyncio.sleep(QUIET_POLL_S)


def common_digest(states: Sequence[NodeState]) -> str | None:
    """Return the digest of the state that all nodes have at the same position; ``None`` when they differ."""
    distinct = {(state.applied_index, state.digest) for state in states}
    return states[0].digest if len(distinct) == 1 else None


async def read_back(
    nodes: Sequence[NodeAudit], writes: Sequence[Write], requests: Sequence[Request]
) -> Findings:
    """Read every write and every submission from each node, and return what is not as promised."""
    findings = Findings()
    promised = [request for request in requests if request.acknowledged]
    for node in nodes:
        await node.run(writes, promised, findings)
    return findings


class NodeAudit:
    """The reading of one node over a connection of its own."""

    def __init__(self, node: str, connection: Connection, clock: Clock) -> None:
        self._node = node
        self._connection = connection
        self._clock = clock
        self._turns = asyncio.Semaphore(READS_AT_ONCE)

    async def close(self) -> None:
        """Say goodbye and close the connection."""
        self._connection.close()
        await self._connection.wait_closed()

    async def state(self) -> NodeState:
        """Ask the node how far it is, and what it holds there."""
        found = await self._ask("STATUS", {"digest": True})
        return NodeState(self._node, found["applied_index"], found["state_digest"])

    async def run(self, writes: Sequence[Write], promised: Sequence[Request], findings: Findings) -> None:
        """Check everything, several at the same time."""
        async with asyncio.TaskGroup() as group:
            for write in writes:
                group.create_task(self._check_write(write, findings))
            for request in promised:
                group.create_task(self._check_record(request, findings))

    async def _ask(self, kind: str, payload: dict[str, Any]) -> dict[str, Any]:
        async with self._turns:
            message = Message(kind, payload, new_id(self._clock))
            reply = await self._connection.request(message, timeout_s=READ_TIMEOUT_S)
        return reply.message.payload

    async def _read(self, kind: str, args: dict[str, Any]) -> dict[str, Any] | None:
        # Stale on purpose: what this node has itself, with nobody asked to confirm it.
        answer = await self._ask("READ", {"kind": kind, "args": args, "consistency": "stale"})
        value = answer.get("value")
        return value if isinstance(value, dict) else None

    async def _check_write(self, write: Write, findings: Findings) -> None:
        found = await self._read("key", {"key": write.key})
        if found is None:
            if write.acknowledged_at is not None:
                findings.lost.append(f"{write.key} on {self._node}")
        elif found["version"] != 1:
            # Written once under a key of its own: a second version is a second effect.
            findings.duplicated.append(f"{write.key} on {self._node}: version {found['version']}")
        elif found["value"] != write.value:
            findings.differing.append(f"{write.key} on {self._node}")

    async def _check_record(self, request: Request, findings: Findings) -> None:
        found = await self._read("inference", {"id": request.id})
        if found is None:
            findings.lost.append(f"{request.id} on {self._node}")
            return
        if found["status"] not in ("done", "failed"):
            findings.lost.append(f"{request.id} on {self._node}: still {found['status']}")
        elif recorded_label(found) != request.label:
            findings.differing.append(f"{request.id} on {self._node}")
        for replica, compared in (found.get("replicas") or {}).items():
            if not compared["equal"]:
                findings.differing.append(f"{request.id}: {replica} computed something else")


def recorded_label(record: Mapping[str, Any]) -> int | None:
    """Return the digit that a record has as its result, or ``None``."""
    outputs = record.get("outputs") or ()
    return next((int(unpack_inline(spec)[0]) for spec in outputs if spec["name"] == "label"), None)
