"""How long a node takes to come back, against how much was written before it was killed."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from simulations.benchmarks.cluster import bench
from simulations.benchmarks.commit.parties import CALLERS, Party, nodes_s
from simulations.benchmarks.figures import Grid
from simulations.benchmarks.progress import Steps
from simulations.benchmarks.workers import worker

CALLERS_AT_ONCE: Final = 500
COMMAND_BYTES: Final = 20
WITHIN_S: Final = 300.0


@dataclass(slots=True)
class Results:
    """By commands written: entries in the log, seconds until ready, seconds until a write is acknowledged."""

    rows: list[tuple[int, int, float, float]] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)


async def measure(lengths: tuple[int, ...], results: Results, steps: Steps) -> None:
    """One node, to which more and more is written, and which is killed after each of ``lengths`` commands."""
    steps.begin("scale: recovery", len(lengths))
    async with bench(1) as made:
        (node,) = made.cluster.nodes.values()
        spec = {
            "kind": "mcp",
            "addresses": made.cluster.addresses,
            "key": made.cluster.key.decode(),
        }
        async with worker("callers", CALLERS, spec, made.cluster.folder) as callers:
            party, done = Party(callers, partial(nodes_s, made.cluster)), 0
            for length in lengths:
                while done < length:
                    window = await party.load(
                        CALLERS_AT_ONCE, WITHIN_S, COMMAND_BYTES, requests_max=length - done
                    )
                    done += window.done
                (status,) = (await made.client.status()).reachable
                entries = status.last_index - status.first_index + 1
                await node.kill()
                begun = time.monotonic()
                await node.start()
                ready_s = time.monotonic() - begun
                await made.client.put("after", done)
                results.rows.append((done, entries, ready_s, time.monotonic() - begun))
                steps.done()
            results.wrong += await party.wrong()


def grid(results: Results) -> Grid:
    """How long it took each time."""
    columns = ("commands written#", "entries in the log#", "ready s#", "first write acknowledged s#")
    return Grid("Killed and started again, one node", columns, tuple(results.rows))
