"""Reads everything back from every node by itself, so that no node can answer for another."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from mcp.cli.demo.cluster import LocalCluster
from mcp.cli.demo.workload import Request, Write
from mcp.client.client import Client
from mcp.client.results import NodeStatus
from mcp.clock import Clock, new_id
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


async def quiet_states(client: Client, node_count: int, clock: Clock) -> list[NodeStatus]:
    """Wait until every node has applied the same log, and return what each says of itself.

    Returns what they said last when they do not agree in time; the report then says so.
    """
    deadline = clock.monotonic() + QUIET_TIMEOUT_S
    while True:
        nodes = (await client.status()).reachable
        if len(nodes) == node_count and agree(nodes):
            return nodes
        if clock.monotonic() > deadline:
            return nodes
        await asyncio.sleep(QUIET_POLL_S)


def agree(nodes: Sequence[NodeStatus]) -> bool:
    """Return whether all have applied the same position, and have the same state there."""
    return len({node.applied_index for node in nodes}) == 1 and digest(nodes) is not None


def digest(nodes: Sequence[NodeStatus]) -> str | None:
    """Return the digest of the state that all nodes have; ``None`` when they differ or tell none."""
    digests = {str(node.details.get("state_digest") or "") for node in nodes}
    return digests.pop() if len(digests) == 1 and "" not in digests else None


async def read_back(
    cluster: LocalCluster, writes: Sequence[Write], requests: Sequence[Request], clock: Clock
) -> Findings:
    """Read every write and every submission from each node, and return what is not as promised."""
    findings = Findings()
    promised = [request for request in requests if request.acknowledged]
    for node in cluster.nodes.values():
        identity = Identity("mcp", f"audit-{new_id(clock)}", cluster.key, Role.CLIENT)
        connection = await connect(node.address, identity)
        try:
            await NodeAudit(node.node, connection, findings, clock).run(writes, promised)
        finally:
            connection.close()
            await connection.wait_closed()
    return findings


class NodeAudit:
    """The reading of one node over a connection of its own; what it misses goes into the findings."""

    def __init__(self, node: str, connection: Connection, findings: Findings, clock: Clock) -> None:
        self._node = node
        self._connection = connection
        self._findings = findings
        self._clock = clock
        self._turns = asyncio.Semaphore(READS_AT_ONCE)

    async def run(self, writes: Sequence[Write], promised: Sequence[Request]) -> None:
        """Check everything, several at the same time."""
        async with asyncio.TaskGroup() as group:
            for write in writes:
                group.create_task(self._check_write(write))
            for request in promised:
                group.create_task(self._check_record(request))

    async def _read(self, kind: str, args: dict[str, Any]) -> dict[str, Any] | None:
        # Stale on purpose: what this node has itself, with nobody asked to confirm it.
        payload = {"kind": kind, "args": args, "consistency": "stale"}
        async with self._turns:
            reply = await self._connection.request(
                Message("READ", payload, new_id(self._clock)), timeout_s=READ_TIMEOUT_S
            )
        value = reply.message.payload.get("value")
        return value if isinstance(value, dict) else None

    async def _check_write(self, write: Write) -> None:
        found = await self._read("key", {"key": write.key})
        if found is None:
            if write.acknowledged_at is not None:
                self._findings.lost.append(f"{write.key} on {self._node}")
        elif found["version"] != 1:
            # Written once under a key of its own: a second version is a second effect.
            self._findings.duplicated.append(f"{write.key} on {self._node}: version {found['version']}")
        elif found["value"] != write.value:
            self._findings.differing.append(f"{write.key} on {self._node}")

    async def _check_record(self, request: Request) -> None:
        found = await self._read("inference", {"id": request.id})
        if found is None:
            self._findings.lost.append(f"{request.id} on {self._node}")
            return
        if found["status"] not in ("done", "failed"):
            self._findings.lost.append(f"{request.id} on {self._node}: still {found['status']}")
        elif recorded_label(found) != request.label:
            self._findings.differing.append(f"{request.id} on {self._node}")
        for replica, compared in (found.get("replicas") or {}).items():
            if not compared["equal"]:
                self._findings.differing.append(f"{request.id}: {replica} computed something else")


def recorded_label(record: Mapping[str, Any]) -> int | None:
    """Return the digit that a record has as its result, or ``None``."""
    outputs = (record.get("outcome") or {}).get("outputs") or ()
    return next((int(unpack_inline(spec)[0]) for spec in outputs if spec["name"] == "label"), None)
