"""The suite: raise the load, step by step, until it breaks; name the knee, and draw it.

Open loops with Poisson arrivals, each step a fixed factor above the last: inferences of a digit on one node,
and durable commands on three. A load that was not carried, though every request was answered, is offered once
more, and the second time counts: one stall of a machine is no knee. The search goes on for two steps beyond
the first that was not carried, so that the picture shows the cliff.
"""

from __future__ import annotations

import tempfile
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Final

from simulations.benchmarks.boundary.knee import Knee, Step, broken, knee, light_p99
from simulations.benchmarks.boundary.picture import NEEDS, draw
from simulations.benchmarks.cluster import bench
from simulations.benchmarks.commit.parties import CALLERS, NODES, Party, nodes_s
from simulations.benchmarks.figures import Figure, Grid, Report
from simulations.benchmarks.needs import lacking
from simulations.benchmarks.progress import Steps
from simulations.benchmarks.scale.nodes import deployed
from simulations.benchmarks.serving.contenders import CLIENT
from simulations.benchmarks.windows import Window
from simulations.benchmarks.workers import worker

KEYS: Final = 1000
COMMAND_BYTES: Final = 20
SEED: Final = 4
INFERENCES: Final = "inferences of a digit, one node"
COMMANDS: Final = f"durable commands of {COMMAND_BYTES} B, {NODES} nodes"
PICTURE: Final = "boundary.png"
Offer = Callable[[float], Awaitable[Window]]
"""Offers so many requests a second, for as long as the suite's size says."""


@dataclass(frozen=True, slots=True)
class Size:
    """From which rate on, by which factor, how often, for how long."""

    first: float
    factor: float
    steps_max: int
    seconds: float
    beyond: int = 2
    """Steps after the first that was not carried."""


FULL: Final = Size(first=200.0, factor=1.25, steps_max=30, seconds=4.0)
QUICK: Final = Size(first=200.0, factor=3.0, steps_max=5, seconds=0.5, beyond=1)


@dataclass(slots=True)
class Results:
    """The steps of each kind of load."""

    steps: dict[str, list[Step]] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)


async def measure(size: Size, steps: Steps, folder: Path) -> Report:
    """Run the suite; the picture goes to ``folder``."""
    results = Results()
    steps.begin(f"boundary: {INFERENCES}", size.steps_max)
    await inferences(size, results, steps)
    steps.begin(f"boundary: {COMMANDS}", size.steps_max)
    await commands(size, results, steps)
    lack = lacking("the picture", NEEDS)
    drawn = [] if lack is not None else [draw(results.steps, folder / PICTURE)]
    return report(results, drawn, [] if lack is None else [lack])


async def inferences(size: Size, results: Results, steps: Steps) -> None:
    """Raise the rate of inferences."""
    with tempfile.TemporaryDirectory(prefix="mcp-bench-") as name:
        async with bench(1) as made:
            target = {"addresses": made.cluster.addresses, "key": made.cluster.key.decode()}
            saved = await deployed(made, Path(name))
            spec = {"subject": saved, "protocol": "native", "target": target}
            async with worker("client", CLIENT, spec, Path(name)) as client:
                await client.order(callers=16, seconds=size.seconds / 2)

                async def offer(rate: float) -> Window:
                    before = nodes_s(made.cluster)
                    plain = await client.order(rate=rate, seconds=size.seconds, seed=SEED)
                    return replace(Window.from_plain(plain), server_s=nodes_s(made.cluster) - before)

                results.steps[INFERENCES] = await raised(offer, size, steps)
    for step in results.steps[INFERENCES]:
        results.wrong += step.window.wrong


async def commands(size: Size, results: Results, steps: Steps) -> None:
    """Raise the rate of durable commands."""
    async with bench(NODES) as made:
        spec = {"kind": "mcp", "addresses": made.cluster.addresses, "key": made.cluster.key.decode()}
        async with worker("callers", CALLERS, spec, made.cluster.folder) as callers:
            party = Party(callers, partial(nodes_s, made.cluster))
            await party.load(16, size.seconds / 2, COMMAND_BYTES)

            async def offer(rate: float) -> Window:
                return await party.load(KEYS, size.seconds, COMMAND_BYTES, rate=rate, seed=SEED)

            results.steps[COMMANDS] = await raised(offer, size, steps)
            results.wrong += await party.wrong()


async def raised(offer: Offer, size: Size, steps: Steps) -> list[Step]:
    """Offer more and more, until ``beyond`` steps after the first that was not carried."""
    found: list[Step] = []
    rate, left = size.first, size.beyond
    for _ in range(size.steps_max):
        found.append(await _offered(offer, rate, size.seconds, found))
        steps.done()
        if broken(found[-1], light_p99(found)) is not None:
            left -= 1
        if left < 0:
            break
        rate *= size.factor
    return found


async def _offered(offer: Offer, rate: float, seconds: float, before: Sequence[Step]) -> Step:
    step = _step(await offer(rate), seconds)
    if step.window.failures or broken(step, light_p99([*before, step])) is None:
        return step
    return _step(await offer(rate), seconds)


def _step(window: Window, seconds: float) -> Step:
    """Arrivals are random: what came counts, not what was meant."""
    return Step((window.done + window.failures) / seconds, window)


def report(results: Results, drawn: list[Path], missing: list[str]) -> Report:
    """The knees, the steps, and where the picture is."""
    knees = {kind: knee(found) for kind, found in results.steps.items()}
    figures = [Figure.of_values(f"knee: {kind}", "/s", [at.offered]) for kind, at in knees.items() if at]
    return Report(
        "boundary",
        figures,
        [],
        results.wrong,
        {"pictures": [str(path) for path in drawn]},
        grids=[grid(kind, found) for kind, found in results.steps.items()],
        missing=missing,
        remarks=[told(kind, at) for kind, at in knees.items()] + [f"drawn: {path}" for path in drawn],
    )


def told(kind: str, at: Knee | None) -> str:
    """The knee in words."""
    if at is None:
        return f"{kind}: not even the first load was carried"
    if at.broke is None:
        return f"{kind}: {at.offered:.0f} a second were carried, and nothing broke"
    return f"{kind}: the knee is at {at.offered:.0f} a second; beyond it {at.broke}"


def grid(kind: str, found: list[Step]) -> Grid:
    """Every step."""
    light_s = light_p99(found)
    rows: list[tuple[str | float | None, ...]] = []
    for step in found:
        window, latency = step.window, step.window.latency
        times = (latency.p50, latency.p99, latency.p999) if latency else ()
        rows.append(
            (
                step.offered,
                window.rate,
                *(time * 1e3 for time in times),
                *[None] * (3 - len(times)),
                window.per_request_us(window.server_s),
                window.per_request_us(window.client_s),
                broken(step, light_s) or "carried",
            )
        )
    columns = ("offered/s#", "answered/s#", "p50 ms#", "p99 ms#", "p99.9 ms#", "nodes us#", "client us#")
    return Grid(kind, (*columns, "verdict"), tuple(rows))
