"""Reads everything back from every node by itself, so that no node can answer for another."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

from mcp.cli.demo.cluster import LocalCluster
from mcp.cli.demo.workload import Request, Write
from mcp.client import Client, NodeStatus
from mcp.clock import Clock, new_id
from mcp.errors import NotFound, Unavailable
from mcp.net.connection import Connection
from mcp.net.dial import connect
from mcp.wire.handshake import Identity, Role

READS_AT_ONCE: Final = 32
QUIET_TIMEOUT_S: Final = 20.0
QUIET_POLL_S: Final = 0.1


@dataclass(slots=True)
class Findings:
    """What the nodes hold against what was promised. The lists name keys and ids with the node."""

    lost: list[str] = field(default_factory=list)
    duplicated: list[str] = field(default_factory=list)
    differing: list[str] = field(default_factory=list)


@asynccontextmanager
async def only_through(cluster: LocalCluster, address: str, clock: Clock) -> AsyncIterator[Client]:
    """Open a client that reaches this one node and no other, whatever it learns of them."""
    identity = Identity("mcp", f"audit-{new_id(clock)}", cluster.key, Role.CLIENT)

    async def dial(wanted: str, timeout_s: float) -> Connection:
        if wanted != address:
            raise Unavailable(f"the audit of {address} must not be answered by {wanted}")
        return await connect(wanted, identity, timeout_s=timeout_s)

    async with Client([address], cluster_key=cluster.key, dial=dial) as client:
        yield client


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
        async with only_through(cluster, node.address, clock) as client:
            audit = NodeAudit(node.node, client, findings)
            await audit.run(writes, promised)
    return findings


class NodeAudit:
    """The reading of one node, which adds what it misses to the findings."""

    def __init__(self, node: str, client: Client, findings: Findings) -> None:
        self._node = node
        self._client = client
        self._findings = findings
        self._turns = asyncio.Semaphore(READS_AT_ONCE)

    async def run(self, writes: Sequence[Write], promised: Sequence[Request]) -> None:
        """Check everything, some of it at the same time."""
        async with asyncio.TaskGroup() as group:
            for write in writes:
                group.create_task(self._check_write(write))
            for request in promised:
                group.create_task(self._check_record(request))

    async def _check_write(self, write: Write) -> None:
        async with self._turns:
            found = await self._client.get(write.key, consistency="stale")
        if found is None:
            if write.acknowledged_at is not None:
                self._findings.lost.append(f"{write.key} on {self._node}")
        elif found.version != 1:
            # Written once under a key of its own: a second version is a second effect.
            self._findings.duplicated.append(f"{write.key} on {self._node}: version {found.version}")
        elif found.value != write.value:
            self._findings.differing.append(f"{write.key} on {self._node}")

    async def _check_record(self, request: Request) -> None:
        try:
            async with self._turns:
                record = await self._client.result(request.id, wait=False)
        except NotFound:
            self._findings.lost.append(f"{request.id} on {self._node}")
            return
        if not record.finished:
            self._findings.lost.append(f"{request.id} on {self._node}: still {record.status}")
        elif record.outputs is not None and int(record.outputs["label"][0]) != request.label:
            self._findings.differing.append(f"{request.id} on {self._node}")
        for replica, compared in record.replicas.items():
            if not compared.equal:
                self._findings.differing.append(f"{request.id}: replica {replica} computed something else")
