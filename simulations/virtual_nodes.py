"""Whole nodes in virtual time: production's classes on simulated hosts, links, disks and clocks."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from consensus.journal import Journal
from consensus.recovery import recover
from consensus.snapshots import SnapshotStore
from executor.interface import Pool
from executor.onnx import OnnxRuntime
from mcp.client.client import Client
from mcp.node.config import NodeConfig, NodeLimits
from mcp.node.node import Node
from mcp.node.storage import NodeFiles
from mcp.node.surroundings import Surroundings
from simulations.disk import MemoryDisk
from simulations.streams import Weather
from simulations.virtual_time import VirtualClock

Array = np.ndarray[Any, Any]


class SimulatedPool:
    """A :class:`executor.interface.Pool` without threads: the real model, and a drawn time for each run."""

    def __init__(self, runtime: OnnxRuntime, generator: random.Random, run_s_max: float) -> None:
        self.inline_total = 0
        self.threaded_total = 0
        self.queued = 0
        self.running = 0
        self._runtime = runtime
        self._random = generator
        self._run_s_max = run_s_max

    async def run(
        self,
        key: str,
        inputs: Mapping[str, Array],
        *,
        outputs: Sequence[str] | None = None,
        timeout_s: float | None = None,
    ) -> dict[str, Array]:
        """Run the model after as long as the run is said to take."""
        self.running += 1
        try:
            await asyncio.sleep(self._random.uniform(0, self._run_s_max))
            self.threaded_total += 1
            return self._runtime.run(key, inputs, outputs=outputs)
        finally:
            self.running -= 1

    def try_inline(
        self, key: str, inputs: Mapping[str, Array], outputs: Sequence[str] | None = None
    ) -> dict[str, Array] | None:
        """Never: every run takes time."""
        return None

    def forget(self, key: str) -> None:
        """Nothing is remembered."""

    async def aclose(self) -> None:
        """Nothing is kept."""


class Unlocked:
    """The lock of files that nobody else can reach."""

    def release(self) -> None:
        """Nothing was taken."""


class Host:
    """One simulated machine: its disk and its clock outlive the node that runs on it."""

    def __init__(self, cluster: VirtualCluster, name: str) -> None:
        self.name = name
        self.cluster = cluster
        self.disk = MemoryDisk()
        self.clock = VirtualClock(random.Random(cluster.random.getrandbits(64)))
        self.node: Node | None = None
        self.starts = 0

    async def start(self) -> None:
        """Start the node, for the first time or on what its disk holds."""
        cluster = self.cluster
        self.starts += 1
        self.node = Node(
            cluster.config_of(self.name),
            surroundings=Surroundings(
                clock=self.clock,
                network=cluster.weather.host(self.name),
                open_files=self._open_files,
                make_pool=self._make_pool,
            ),
        )
        await self.node.start()

    async def crash(self, keep_bytes: Callable[[str, int], int] | None = None) -> None:
        """Lose power: what was not synced is lost, but for what ``keep_bytes`` says survives."""
        node, self.node = self.node, None
        if node is None:
            return
        survivor = self.disk.crash(keep_bytes=keep_bytes)
        self.cluster.weather.crash(self.name)
        # The process is dead: whatever it still does reaches neither network nor disk.
        self.disk = survivor
        await node.stop()

    def _open_files(self, data_dir: Path) -> NodeFiles:
        snapshots = SnapshotStore.open(self.disk, "snapshots")
        journal = Journal.open(self.disk, "journal")
        return NodeFiles(Unlocked(), journal, snapshots, recover(journal, snapshots))

    def _make_pool(self, runtime: OnnxRuntime, config: NodeConfig) -> Pool:
        return SimulatedPool(runtime, random.Random(self.cluster.random.getrandbits(64)), run_s_max=0.05)


class VirtualCluster:
    """``size`` hosts and their clients, decided by one seed. ``path`` is where blobs lie."""

    def __init__(self, seed: int, size: int, path: Path) -> None:
        self.random = random.Random(seed)
        self.names = [f"n{i}" for i in range(1, size + 1)]
        self.path = path
        self.trace = hashlib.sha256()
        self.weather = Weather(random.Random(self.random.getrandbits(64)), self._note)
        self.hosts = {name: Host(self, name) for name in self.names}
        self._clients = 0

    @property
    def trace_hash(self) -> str:
        """A hash of every byte that was sent, with its time and connection."""
        return self.trace.hexdigest()

    def config_of(self, name: str) -> NodeConfig:
        """The settings of one node."""
        return NodeConfig(
            name,
            self.path / name,
            listen=(),
            voters={n: f"memory://{n}" for n in self.names},
            limits=NodeLimits(),
        )

    async def start(self) -> None:
        """Start every node."""
        for host in self.hosts.values():
            await host.start()

    async def stop(self) -> None:
        """Stop every node."""
        for host in self.hosts.values():
            if host.node is not None:
                await host.node.stop()
                host.node = None

    def client(self, *names: str, **settings: Any) -> Client:
        """A client on a host of its own."""
        self._clients += 1
        generator = random.Random(self.random.getrandbits(64))
        return Client(
            [f"memory://{name}" for name in (names or self.names)],
            clock=VirtualClock(generator),
            network=self.weather.host(f"client-{self._clients}"),
            **settings,
        )

    async def until(self, condition: Callable[[], bool], timeout_s: float = 60.0) -> None:
        """Let virtual time pass until something is so. Raises :class:`TimeoutError`."""
        async with asyncio.timeout(timeout_s):
            while not condition():  # noqa: ASYNC110 - nothing signals what a run waits for
                await asyncio.sleep(0.01)

    def leader(self) -> str | None:
        """Who leads, if all that run agree on one that runs."""
        nodes = {name: host.node for name, host in self.hosts.items() if host.node is not None}
        said = {node.status()["leader"] for node in nodes.values()}
        return said.pop() if len(said) == 1 and said <= set(nodes) else None

    def _note(self, number: int, data: bytes) -> None:
        now = asyncio.get_running_loop().time()
        self.trace.update(b"%d %r " % (number, now) + data)
