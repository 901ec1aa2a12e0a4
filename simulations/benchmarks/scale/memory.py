"""What a node keeps in memory: as the log grows and is compacted, for each session, for each model."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import psutil

from mcp.cli.demo.cluster import LocalCluster
from mcp.cli.demo.digits import load_digits
from mcp.client.client import Client
from mcp.errors import DeadlineExceeded
from simulations.benchmarks.cluster import Bench, bench
from simulations.benchmarks.commit.parties import CALLERS, NODES, Party, nodes_s
from simulations.benchmarks.progress import Steps
from simulations.benchmarks.protobuf import blob
from simulations.benchmarks.workers import worker

CALLERS_AT_ONCE: Final = 500
COMMAND_BYTES: Final = 20
STEP_S: Final = 1.0
MB: Final = 1e6
CAUGHT_UP_WITHIN_S: Final = 60.0
POLL_S: Final = 0.02
DOC_STRING: Final = 6
"""The field of an ONNX file (``ModelProto.doc_string`` in onnx.proto) that changes nothing."""


@dataclass(frozen=True, slots=True)
class Size:
    """How many commands are written, how many sessions opened, how many models deployed."""

    commands: int
    sessions: int
    models: int


@dataclass(slots=True)
class Point:
    """After so many commands: the largest node's resident memory, and whether its log was compacted."""

    commands: int
    resident_mb: float
    compacted: bool


@dataclass(slots=True)
class Results:
    """What was seen."""

    points: list[Point] = field(default_factory=list)
    restart_s: float = 0.0
    session_kb: float = 0.0
    model_mb: float = 0.0
    model_file_mb: float = 0.0
    wrong: list[str] = field(default_factory=list)

    @property
    def compacted(self) -> list[float]:
        """Resident memory in MB at each point from the first compaction on."""
        return [point.resident_mb for point in self.points if point.compacted]

    @property
    def growth(self) -> float | None:
        """The most memory after the first compaction, against that at the first point after it."""
        found = self.compacted
        return max(found) / found[0] if len(found) > 1 else None


async def commands(size: Size, results: Results, steps: Steps) -> None:
    """Write as many commands as asked for, then kill and restart a node."""
    steps.begin("scale: commands", size.commands)
    async with bench(NODES) as made:
        key, folder = made.cluster.key.decode(), made.cluster.folder
        spec = {"kind": "mcp", "addresses": made.cluster.addresses, "key": key}
        async with worker("callers", CALLERS, spec, folder) as callers:
            party, done = Party(callers, partial(nodes_s, made.cluster)), 0
            while done < size.commands:
                window = await party.load(CALLERS_AT_ONCE, STEP_S, COMMAND_BYTES)
                if not window.done:
                    raise DeadlineExceeded(f"no command was acknowledged in {STEP_S:.0f} s: {window.failed}")
                done += window.done
                results.points.append(Point(done, resident_mb(made.cluster), all_compacted(made.cluster)))
                steps.done(window.done)
            results.wrong += await party.wrong()
        results.restart_s = await restart(made)


async def restart(made: Bench) -> float:
    """Kill a follower and start it again; the seconds until it has applied what the leader has."""
    status = await made.calm()
    name = next(node for node in made.cluster.nodes if node != status.leader)
    victim = made.cluster.nodes[name]
    await victim.kill()
    begun = time.monotonic()
    await victim.start()
    async with Client([victim.address], cluster_key=made.cluster.key) as client:
        while time.monotonic() - begun < CAUGHT_UP_WITHIN_S:
            nodes = {node.node: node for node in (await client.status()).reachable}
            leader = nodes.get(status.leader)
            if leader and name in nodes and nodes[name].applied_index >= leader.applied_index:
                return time.monotonic() - begun
            await asyncio.sleep(POLL_S)
    raise DeadlineExceeded(f"{name} did not catch up within {CAUGHT_UP_WITHIN_S:.0f} s")


async def sessions(size: Size, results: Results) -> None:
    """The memory of a node for each session, its connections included: each client writes one key."""
    async with bench(1) as made, AsyncExitStack() as stack:
        before = resident_mb(made.cluster)
        for number in range(size.sessions):
            client = Client(made.cluster.addresses, cluster_key=made.cluster.key)
            await stack.enter_async_context(client)
            await client.put("one", number)
        results.session_kb = (resident_mb(made.cluster) - before) * 1e3 / size.sessions


async def models(size: Size, results: Results) -> None:
    """The memory of a node for each model: copies that differ in nothing but a comment."""
    content = load_digits().model.read_bytes()
    async with bench(1) as made:
        await made.client.deploy("first", content)
        before = resident_mb(made.cluster)
        for number in range(size.models):
            await made.client.deploy(f"copy{number}", content + blob(DOC_STRING, f"copy {number}".encode()))
        results.model_mb = (resident_mb(made.cluster) - before) / size.models
        results.model_file_mb = len(content) / MB


def resident_mb(cluster: LocalCluster) -> float:
    """The resident memory of the largest node."""
    sizes: list[int] = [psutil.Process(node.pid).memory_info().rss for node in cluster.nodes.values()]
    return max(sizes) / MB


def all_compacted(cluster: LocalCluster) -> bool:
    """Whether every node has a snapshot, and so a log without what it covers."""
    folders = [cluster.folder / name for name in cluster.nodes]
    return all(any(folder.rglob("*.snapshot")) for folder in folders)
