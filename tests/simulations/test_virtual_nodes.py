"""Whole nodes in virtual time: a seed decides everything, and nothing acknowledged is lost."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from simulations.virtual_nodes import VirtualCluster
from simulations.virtual_time import run_virtual

ROOT = Path(__file__).parents[2]
DIGITS = ROOT / "examples" / "digits" / "digits.onnx"


async def disaster(seed: int, path: Path) -> str:
    """Clients write while the leader loses power and the next one is cut off; gives the trace's hash."""
    cluster = VirtualCluster(seed, 3, path)
    await cluster.start()
    await cluster.until(lambda: cluster.leader() is not None)
    acknowledged: dict[str, int] = {}
    async with cluster.client() as client:
        await client.deploy("digits", DIGITS, timeout_s=30)

        async def write(worker: int) -> None:
            for i in range(60):
                await client.put(f"w{worker}-{i}", i, timeout_s=60)
                acknowledged[f"w{worker}-{i}"] = i
                await asyncio.sleep(0.05)

        writing = [asyncio.ensure_future(write(worker)) for worker in range(3)]
        await asyncio.sleep(0.5)
        first = cluster.leader()
        assert first is not None
        await cluster.hosts[first].crash()
        await cluster.until(lambda: cluster.leader() is not None)
        await cluster.hosts[first].start()
        await cluster.until(lambda: cluster.leader() is not None)
        second = cluster.leader()
        assert second is not None
        others = [name for name in cluster.names if name != second]
        for other in others:
            cluster.weather.cut(second, other)
            cluster.weather.cut(other, second)
        await asyncio.sleep(3)
        for other in others:
            cluster.weather.heal(second, other)
            cluster.weather.heal(other, second)
        await asyncio.gather(*writing)
    await cluster.until(lambda: len({state(cluster, name) for name in cluster.names}) == 1)
    for name in cluster.names:
        async with cluster.client(name) as reader:
            assert set(await reader.keys("w", limit=1000)) == set(acknowledged)
    await cluster.stop()
    return cluster.trace_hash


def state(cluster: VirtualCluster, name: str) -> tuple[int, str]:
    node = cluster.hosts[name].node
    assert node is not None
    status = node.status()
    return status["applied_index"], status["state_digest"]


def trace_of(seed: int) -> str:
    with tempfile.TemporaryDirectory() as folder:
        return run_virtual(disaster(seed, Path(folder)))


def test_nothing_acknowledged_is_lost_and_seeds_differ() -> None:
    traces = {trace_of(seed) for seed in range(5)}
    assert len(traces) == 5


def test_the_same_seed_gives_the_same_bytes_in_another_process() -> None:
    here = trace_of(7)
    for hash_seed in ("1", "2"):
        there = subprocess.run(
            [sys.executable, __file__, "7"],
            env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        assert there.stdout.strip() == here


if __name__ == "__main__":
    print(trace_of(int(sys.argv[1])))
