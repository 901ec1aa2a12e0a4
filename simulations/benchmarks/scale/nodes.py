"""What a command and a request cost as the cluster grows.

On a machine with fewer cores than nodes the times say how the nodes get in each other's way; the processor
time for each command and request is what carries over.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np

from mcp.cli.demo.digits import load_digits
from simulations.benchmarks.cluster import Bench, bench
from simulations.benchmarks.commit.parties import CALLERS, Party, nodes_s
from simulations.benchmarks.figures import Grid
from simulations.benchmarks.serving.contenders import CLIENT
from simulations.benchmarks.serving.subjects import ROWS, Subject
from simulations.benchmarks.windows import Window
from simulations.benchmarks.workers import Worker, worker

COMMAND_BYTES = 20


@dataclass(frozen=True, slots=True)
class Size:
    """How large the clusters are, and how hard they are asked."""

    rounds: int
    seconds: float
    nodes: tuple[int, ...] = (1, 3, 5, 7)
    commands_at_once: int = 100
    requests_at_once: int = 16


@dataclass(slots=True)
class Results:
    """Windows by size of cluster, one a round."""

    lone: dict[int, list[Window]] = field(default_factory=lambda: defaultdict(list))
    commands: dict[int, list[Window]] = field(default_factory=lambda: defaultdict(list))
    requests: dict[int, list[Window]] = field(default_factory=lambda: defaultdict(list))
    wrong: list[str] = field(default_factory=list)


async def one_cluster(nodes: int, size: Size, results: Results) -> None:
    """Everything for one size of cluster in one round."""
    async with bench(nodes) as made:
        key, folder = made.cluster.key.decode(), made.cluster.folder
        spec = {"kind": "mcp", "addresses": made.cluster.addresses, "key": key}
        async with worker("callers", CALLERS, spec, folder) as callers:
            party = Party(callers, partial(nodes_s, made.cluster))
            await party.load(size.commands_at_once, size.seconds / 2, COMMAND_BYTES)
            results.lone[nodes].append(await party.load(1, size.seconds, COMMAND_BYTES))
            results.commands[nodes].append(
                await party.load(size.commands_at_once, size.seconds, COMMAND_BYTES)
            )
            results.wrong += [f"{nodes} nodes: {what}" for what in await party.wrong()]
        target = {"addresses": made.cluster.addresses, "key": key}
        asking = {"subject": await deployed(made, folder), "protocol": "native", "target": target}
        async with worker("client", CLIENT, asking, folder) as client:
            await asked(made, client, size.requests_at_once, size.seconds / 2)
            window = await asked(made, client, size.requests_at_once, size.seconds)
            results.requests[nodes].append(window)
            results.wrong += [f"{nodes} nodes: {what}" for what in window.wrong]


async def deployed(made: Bench, folder: Path) -> dict[str, str]:
    """Deploy the digits, and wait until every node has them; the subject as a client needs it."""
    digits = load_digits()
    model = folder / "digits.onnx"
    model.write_bytes(digits.model.read_bytes())
    await made.client.deploy("digits", model)
    await made.calm()
    return Subject("digits", model, np.ascontiguousarray(digits.images[:ROWS])).save()


async def asked(made: Bench, client: Worker, callers: int, seconds: float) -> Window:
    """A closed loop of inferences, with the nodes' processor time."""
    before = nodes_s(made.cluster)
    window = Window.from_plain(await client.order(callers=callers, seconds=seconds))
    return replace(window, server_s=nodes_s(made.cluster) - before)


def grid(results: Results, size: Size) -> Grid:
    """Sizes of clusters side by side; processor time is that of all nodes together."""
    rows: list[tuple[str | float | None, ...]] = []
    for what, windows_of in (
        ("one command alone", results.lone),
        (f"{size.commands_at_once} commands at once", results.commands),
        (f"{size.requests_at_once} inferences at once", results.requests),
    ):
        for nodes, windows in windows_of.items():
            known = [w for w in windows if w.latency is not None]
            work = statistics.median(w.server_s / w.done for w in known) * 1e6
            rows.append(
                (
                    what,
                    nodes,
                    statistics.median(w.rate for w in windows),
                    statistics.median(w.latency.p50 for w in known if w.latency) * 1e3,
                    statistics.median(w.latency.p99 for w in known if w.latency) * 1e3,
                    work,
                    work / nodes,
                )
            )
    columns = ("what", "nodes#", "per s#", "p50 ms#", "p99 ms#", "all nodes us#", "per node us#")
    return Grid("As the cluster grows", columns, tuple(rows))
