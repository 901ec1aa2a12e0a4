"""Real nodes to measure: ``mcpctl serve`` processes with default settings, and a client of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from mcp.cli.demo.audit import audits, common_digest, quiet_states, read_back
from mcp.cli.demo.cluster import LocalCluster
from mcp.cli.demo.workload import Write
from mcp.client.client import Client
from mcp.client.results import ClusterStatus
from mcp.clock import SystemClock
from mcp.errors import DeadlineExceeded, McpError

CALM_WITHIN_S: Final = 30.0
POLL_S: Final = 0.05
CALL_TIMEOUT_S: Final = 20.0


@dataclass(frozen=True, slots=True)
class Bench:
    """Nodes that run, and a client in this process that has a connection to each."""

    cluster: LocalCluster
    client: Client
    clock: SystemClock

    async def calm(self) -> ClusterStatus:
        """Wait until every node is up, follows one leader and has caught up with it.

        Raises :class:`~mcp.errors.DeadlineExceeded` when that takes too long.
        """
        deadline = self.clock.monotonic() + CALM_WITHIN_S
        while True:
            status = await self.client.status()
            if is_calm(status, len(self.cluster.nodes)):
                return status
            if self.clock.monotonic() > deadline:
                raise DeadlineExceeded(f"the nodes did not settle within {CALM_WITHIN_S:.0f} s")
            await asyncio.sleep(POLL_S)

    async def wrong(self, writes: Sequence[Write]) -> list[str]:
        """Read every write back from every node: what was lost, applied twice, or differs."""
        found: list[str] = []
        async with audits(self.cluster, self.clock) as nodes:
            if common_digest(await quiet_states(nodes, self.clock)) is None:
                found.append("the nodes' states are not equal")
            findings = await read_back(nodes, writes, ())
        found += [f"lost: {what}" for what in findings.lost]
        found += [f"applied twice: {what}" for what in findings.duplicated]
        found += [f"another value: {what}" for what in findings.differing]
        return found


def is_calm(status: ClusterStatus, node_count: int) -> bool:
    """Whether all nodes say the same of the leader, of each other and of the log."""
    nodes = status.reachable
    if len(nodes) != node_count or status.leader is None:
        return False
    up = {member.node for member in nodes[0].members if member.state == "up"}
    return (
        len(up) == node_count
        and {node.leader for node in nodes} == {status.leader}
        and len({node.applied_index for node in nodes}) == 1
        and nodes[0].applied_index == max(node.last_index for node in nodes)
    )


@asynccontextmanager
async def bench(
    node_count: int, options: Sequence[str] = (), programs: Mapping[str, tuple[str, ...]] | None = None
) -> AsyncIterator[Bench]:
    """Start nodes in a temporary folder; they are stopped and the folder removed at the end.

    ``options`` are further ones of ``mcpctl serve``; ``programs`` what some nodes run in its place.
    """
    clock = SystemClock()
    local = LocalCluster(node_count, clock, options)
    for node, program in (programs or {}).items():
        local.nodes[node].program = program
    async with (
        local as cluster,
        Client(cluster.addresses, cluster_key=cluster.key, timeout_s=CALL_TIMEOUT_S) as client,
    ):
        made = Bench(cluster, client, clock)
        await made.calm()
        yield made


async def timed_write(made: Bench, writes: list[Write], key: str, value: str) -> Write:
    """Write one key of its own, and note when that began and when it was acknowledged."""
    write = Write(key, value, made.clock.monotonic())
    writes.append(write)
    try:
        await made.client.put(key, value)
        write.acknowledged_at = made.clock.monotonic()
    except McpError as error:
        write.error = error
    return write
