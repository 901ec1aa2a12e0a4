"""``guard``: whether the work of an inference or a command has doubled. For continuous integration.

What is compared is mostly processor time: of the node, of the client, for each request, in units of
:mod:`simulations.benchmarks.yardstick` that are measured in the same rounds. It hardly depends on what else
the machine does. A stall costs no processor time, so the fastest tenth of lone requests is compared with the
fastest tenth of bare round trips too. The data directories are in memory where the system has such a folder,
because the disk is not what is guarded.

A bound is what was measured when it was last set, times :data:`SLACK`: twice the work is over it, noise is
not. Who makes something slower for a good reason, or much faster, sets the bounds anew (:data:`MEASURED`).
"""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

from simulations.benchmarks import yardstick
from simulations.benchmarks.cluster import bench
from simulations.benchmarks.commit.parties import CALLERS, NODES, Party, nodes_s
from simulations.benchmarks.echo import RoundTrips, echo_process
from simulations.benchmarks.figures import Bar, Figure, Report, percentile
from simulations.benchmarks.progress import Steps
from simulations.benchmarks.scale.nodes import asked, deployed
from simulations.benchmarks.serving.contenders import CLIENT
from simulations.benchmarks.windows import Window
from simulations.benchmarks.workers import worker

AT_ONCE: Final = 16
COMMAND_BYTES: Final = 20
SLACK: Final = 1.6
FASTEST: Final = 0.1
MEMORY: Final = Path("/dev/shm")  # noqa: S108 (the files are in a folder of their own)
MEASURED: Final = {
    "node's work for an inference": 33.0,
    "client's work for an inference": 27.0,
    "nodes' work for a command": 38.0,
    "client's work for a command": 16.7,
    "nodes' work for a lone command": 205.0,
    "client's work for a lone command": 41.0,
    "lone inference / round trip": 9.5,
    "lone command / round trip": 16.0,
}
"""Medians on the machine on which they were last set, in units of the yardstick, or of a round trip."""


@dataclass(frozen=True, slots=True)
class Size:
    """Rounds, and seconds of each kind of load in a round."""

    rounds: int
    seconds: float
    trips: int = 200


FULL: Final = Size(rounds=9, seconds=1.5)
QUICK: Final = Size(rounds=5, seconds=0.8)


@dataclass(slots=True)
class Results:
    """Ratios by name, one a round."""

    ratios: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    wrong: list[str] = field(default_factory=list)


Asking = Callable[[int, float], Awaitable[Window]]
"""A closed loop of inferences, of so many callers for so many seconds."""


async def measure(size: Size, steps: Steps) -> Report:
    """Run the suite."""
    results = Results()
    with in_memory() as folder:
        async with AsyncExitStack() as stack:
            one = await stack.enter_async_context(bench(1))
            three = await stack.enter_async_context(bench(NODES))
            trips = await stack.enter_async_context(echo_process())
            key = one.cluster.key.decode()
            target = {"addresses": one.cluster.addresses, "key": key}
            spec = {"subject": await deployed(one, folder), "protocol": "native", "target": target}
            client = await stack.enter_async_context(worker("client", CLIENT, spec, folder))
            spec = {"kind": "mcp", "addresses": three.cluster.addresses, "key": three.cluster.key.decode()}
            callers = await stack.enter_async_context(worker("callers", CALLERS, spec, folder))
            party = Party(callers, partial(nodes_s, three.cluster))
            steps.begin("guard", size.rounds + 1)
            for number in range(size.rounds + 1):
                # The first round is to warm up.
                kept = results if number else Results()
                await one_round(size, partial(asked, one, client), party, trips, kept)
                steps.done()
            results.wrong += await party.wrong()
    return report(results)


async def one_round(size: Size, ask: Asking, party: Party, trips: RoundTrips, results: Results) -> None:
    """Every kind of load once, between two readings of the yardstick."""
    before = yardstick.unit_s()
    trip_s = percentile(await trips.measure(size.trips), FASTEST)
    inferences = await ask(AT_ONCE, size.seconds)
    alone = await ask(1, size.seconds)
    commands = await party.load(AT_ONCE, size.seconds, COMMAND_BYTES)
    lone = await party.load(1, size.seconds, COMMAND_BYTES)
    unit_s = (before + yardstick.unit_s()) / 2
    for node, client, window in (
        ("node's work for an inference", "client's work for an inference", inferences),
        ("nodes' work for a command", "client's work for a command", commands),
        ("nodes' work for a lone command", "client's work for a lone command", lone),
    ):
        results.ratios[node].append(window.server_s / window.done / unit_s)
        results.ratios[client].append(window.client_s / window.done / unit_s)
        results.wrong += [*window.wrong, *(f"failed: {reason}" for reason in window.failed)]
    for name, window in (("lone inference / round trip", alone), ("lone command / round trip", lone)):
        assert window.latency is not None
        results.ratios[name].append(window.latency.p10 / trip_s)


def report(results: Results) -> Report:
    """Every ratio against its bound; one that is over it fails the run."""
    figures = [Figure.of_ratios(name, ratios) for name, ratios in results.ratios.items()]
    bars = [Bar(figure, SLACK * MEASURED[figure.name], figure.name) for figure in figures]
    remark = (
        f"a bound is {SLACK:g} times what was measured when it was set: twice the work fails, noise does not"
    )
    return Report("guard", figures, bars, results.wrong, remarks=[remark], guard=True)


@contextmanager
def in_memory() -> Iterator[Path]:
    """Have temporary folders in memory, where the system has a place for that; gives one of them."""
    before = tempfile.tempdir
    if MEMORY.is_dir():
        tempfile.tempdir = str(MEMORY)
    try:
        with tempfile.TemporaryDirectory(prefix="mcp-bench-") as name:
            yield Path(name)
    finally:
        tempfile.tempdir = before
