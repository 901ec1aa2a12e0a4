"""Whole nodes in one process, joined by an in-memory network: real engines, real files, no ports."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from executor.interface import Executor
from mcp.client.client import Client
from mcp.net.memory import MemoryNetwork
from mcp.node.config import NodeConfig, NodeLimits
from mcp.node.node import Node
from mcp.node.storage import NodeFiles, open_files
from mcp.node.surroundings import Surroundings

UNTIL_S = 30.0
QUICK = NodeLimits(node_dead_after_s=0.3, peer_backoff_s_max=0.05)


class InProcessCluster:
    """``size`` voters below ``path``; ``settings`` are further fields of their configuration.

    A node that was stopped can be started again on its files.
    """

    def __init__(
        self,
        path: Path,
        size: int = 3,
        *,
        executors: Callable[[], Mapping[str, Executor]] | None = None,
        **settings: Any,
    ) -> None:
        self.network = MemoryNetwork()
        self.path = path
        self.names = [f"n{i}" for i in range(1, size + 1)]
        self.executors = executors or dict
        self.open_files: Callable[[Path, int], NodeFiles] = open_files
        self.settings = {"limits": QUICK, "workers": 1, **settings}
        self.running: dict[str, Node] = {}

    async def start(self, name: str) -> Node:
        """Start a node, for the first time or on its files."""
        return await self._start(name, voters={n: f"memory://{n}" for n in self.names})

    async def join(self, name: str, *via: str, observer: bool = False) -> Node:
        """Start a node that joins the running ones, by asking those of ``via``; or start it again."""
        asked = tuple(f"memory://{each}" for each in via)
        member = {"join": asked, "observer": observer, "advertise": f"memory://{name}"}
        return await self._start(name, **member)

    async def _start(self, name: str, **place: Any) -> Node:
        config = NodeConfig(
            name,
            self.path / name,
            listen=place.pop("listen", ()),
            election_timeout_min_s=0.1,
            election_timeout_max_s=0.2,
            heartbeat_s=0.02,
            **place,
            **self.settings,
        )
        around = Surroundings(network=self.network, open_files=self.open_files)
        node = Node(config, executors=self.executors(), surroundings=around)
        await node.start()
        self.running[name] = node
        return node

    async def stop(self, name: str) -> None:
        """Stop a node in good order."""
        await self.running.pop(name).stop()

    def leader(self) -> str | None:
        """Who leads, if all that run agree on one of them."""
        said = {node.status()["leader"] for node in self.running.values()}
        return said.pop() if len(said) == 1 and said <= set(self.running) else None

    async def elected(self) -> str:
        """Wait until all agree on a leader; gives its name."""
        await until(lambda: self.leader() is not None)
        leader = self.leader()
        assert leader is not None
        return leader

    async def members_up(self) -> None:
        """Wait until the log has every running node as up, and no other."""

        def up(node: Node) -> set[str]:
            return {m["node"] for m in node.status()["members"] if m["state"] == "up"}

        await until(lambda: all(up(node) == set(self.running) for node in self.running.values()))

    async def equal(self) -> None:
        """Wait until every running node is at the same position with the same state."""

        def positions() -> set[tuple[int, str]]:
            told = [node.status() for node in self.running.values()]
            return {(status["applied_index"], status["state_digest"]) for status in told}

        await until(lambda: len(positions()) == 1)

    def client(self, *names: str, **settings: Any) -> Client:
        """A client that knows these nodes, or all of them."""
        addresses = [f"memory://{name}" for name in (names or self.names)]
        return Client(addresses, network=self.network, **settings)


@asynccontextmanager
async def in_process_cluster(path: Path, size: int = 3, **settings: Any) -> AsyncIterator[InProcessCluster]:
    """A cluster that has a leader and knows its members; stopped at the end."""
    cluster = InProcessCluster(path, size, **settings)
    try:
        for name in cluster.names:
            await cluster.start(name)
        await cluster.elected()
        await cluster.members_up()
        yield cluster
    finally:
        for name in list(cluster.running):
            await cluster.stop(name)


async def until(condition: Callable[[], bool]) -> None:
    """Give the loop turns until ``condition()`` holds; after ``UNTIL_S`` seconds give up.

    Raises :class:`TimeoutError`: the bound is there to fail rather than to hang.
    """
    async with asyncio.timeout(UNTIL_S):
        while not condition():  # noqa: ASYNC110 - nothing signals what a test waits for
            await asyncio.sleep(0.005)
