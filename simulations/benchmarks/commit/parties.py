"""Who orders commands: each starts its three members, gives a worker with callers, and ends again.

Only one is there at a time, so that nobody's heartbeats are in another's figures.
"""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final

from mcp.cli.demo.cluster import LocalCluster
from mcp.client.client import Client
from mcp.clock import SystemClock
from mcp.errors import Unavailable
from simulations.benchmarks.cluster import Bench, bench
from simulations.benchmarks.etcd import ETCD_NEEDS
from simulations.benchmarks.needs import lacking
from simulations.benchmarks.processor_time import tree_s
from simulations.benchmarks.syncobj import SETTINGS
from simulations.benchmarks.syncobj_members import syncobjs
from simulations.benchmarks.windows import Window
from simulations.benchmarks.workers import Worker, worker

CALLERS: Final = "simulations.benchmarks.commit.callers"
NODES: Final = 3
EMBEDDING: Final = "n1"
LEADER_TRIES_MAX: Final = 12
OURS: Final = "mcp"
OURS_EMBEDDED: Final = "mcp, callers in a node"
TOGETHER: Final = 64
TOGETHER_CALLERS: Final = 16
IN_ONE_CALL: Final = f", {TOGETHER} writes in a call"
"""Behind the name of a party whose callers are few, and write many keys at once."""
ETCD: Final = "etcd"
SYNCOBJ: Final = {way: f"PySyncObj without any sync, {way}, callers in a member" for way in SETTINGS}


@dataclass(frozen=True, slots=True)
class Party:
    """A cluster with callers. ``spent_s`` are the processor seconds of all but the callers' process."""

    callers: Worker
    spent_s: Callable[[], float]

    async def load(self, callers: int, seconds: float, size: int, **more: float) -> Window:
        """Writes of ``size`` bytes: a closed loop, unless ``more`` says otherwise."""
        before = self.spent_s()
        plain = await self.callers.order(callers=callers, seconds=seconds, bytes=size, **more)
        return replace(Window.from_plain(plain), server_s=self.spent_s() - before)

    async def wrong(self) -> list[str]:
        """What was lost or applied twice."""
        return list((await self.callers.order(audit=True))["wrong"])


@asynccontextmanager
async def ours() -> AsyncIterator[Party]:
    """Three nodes, and callers in another process."""
    async with bench(NODES) as made:
        key, addresses = made.cluster.key.decode(), made.cluster.addresses
        spec = {"kind": "mcp", "addresses": addresses, "key": key}
        async with worker("callers", CALLERS, spec, made.cluster.folder) as callers:
            yield Party(callers, partial(nodes_s, made.cluster))


@asynccontextmanager
async def ours_embedded() -> AsyncIterator[Party]:
    """Three nodes; callers are in the process of the one that leads."""
    clock = SystemClock()
    cluster = LocalCluster(NODES, clock)
    async with AsyncExitStack() as stack:
        stack.callback(shutil.rmtree, cluster.folder, ignore_errors=True)
        others = [node for name, node in cluster.nodes.items() if name != EMBEDDING]
        for node in others:
            stack.push_async_callback(node.stop)
            await node.start()
        spec = {
            "kind": "embedded",
            "node": EMBEDDING,
            "data_dir": str(cluster.folder / EMBEDDING),
            "voters": {name: node.address for name, node in cluster.nodes.items()},
            "key": cluster.key.decode(),
        }
        callers = await stack.enter_async_context(worker("callers", CALLERS, spec, cluster.folder))
        client = await stack.enter_async_context(Client(cluster.addresses, cluster_key=cluster.key))
        await embedding_leads(Bench(cluster, client, clock))
        yield Party(callers, partial(nodes_s, cluster))


async def embedding_leads(made: Bench) -> None:
    """Restart whoever else leads (a node that stops hands over) until the embedding node does."""
    for _ in range(LEADER_TRIES_MAX):
        leader = (await made.calm()).leader
        assert leader is not None
        if leader == EMBEDDING:
            return
        await made.cluster.nodes[leader].stop()
        await made.cluster.nodes[leader].start()
    raise Unavailable(f"{EMBEDDING} did not come to lead in {LEADER_TRIES_MAX} tries")


def nodes_s(cluster: LocalCluster) -> float:
    """Processor seconds of the nodes that are processes of their own."""
    return sum(tree_s(node.pid) for node in cluster.nodes.values() if node.pid is not None)


@asynccontextmanager
async def etcd_party(folder: Path) -> AsyncIterator[Party]:
    """Three members of etcd; the callers ask the leader."""
    # Imported where it is used: gRPC is an extra.
    from simulations.benchmarks.etcd.members import etcd  # noqa: PLC0415

    async with etcd(folder) as members:
        address = (await members.leader()).address
        async with worker("callers", CALLERS, {"kind": "etcd", "address": address}, folder) as callers:
            yield Party(callers, members.spent_s)


@asynccontextmanager
async def syncobj_party(folder: Path, way: str) -> AsyncIterator[Party]:
    """Three members of PySyncObj; the callers are in the process that leads."""
    async with syncobjs(folder, way) as members:
        leader = await members.leader()
        yield Party(leader, partial(members.spent_s, leader))


def parties(folder: Path) -> dict[str, Callable[[], AbstractAsyncContextManager[Party]]]:
    """Everybody that is installed here; ``folder`` is made anew for each."""
    found: dict[str, Callable[[], AbstractAsyncContextManager[Party]]] = {
        OURS: ours,
        OURS_EMBEDDED: ours_embedded,
    }
    if absent() is None:
        found[ETCD] = partial(etcd_party, folder)
    found |= {name: partial(syncobj_party, folder, way) for way, name in SYNCOBJ.items()}
    return found


def absent() -> str | None:
    """What etcd lacks here, and what to install."""
    return lacking(ETCD, ETCD_NEEDS)
