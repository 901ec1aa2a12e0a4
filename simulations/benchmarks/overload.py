"""``overload``: a node that is asked for more than it can do, where limits are declared.

One node, one client in another process, a model that costs the node far more than a request costs either of
them: so what is measured is what the node does about the load, and not who takes the processor from whom.
Open loops: requests come when they come, at 0.8, 1.2 and 5 times what the node can do, whatever became of
those before, and whoever is refused does not come again. *Goodput* is what is answered, rightly, in a
second. Every refusal has to say that it is too much, and when to come back.
"""

from __future__ import annotations

import tempfile
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from mcp.errors import ResourceExhausted
from simulations.benchmarks.cluster import bench
from simulations.benchmarks.figures import Bar, Figure, Grid, Report
from simulations.benchmarks.progress import Steps
from simulations.benchmarks.serving.contenders import CLIENT
from simulations.benchmarks.serving.subjects import CONVOLUTIONS, subjects
from simulations.benchmarks.windows import Window
from simulations.benchmarks.workers import Worker, worker

USUAL, MOST = 0.8, 5.0
LOADS: Final = (USUAL, 1.2, MOST)
"""Times what the node can do."""
CALLERS: Final = 16
SEED: Final = 4
LIMITS: Final[dict[str, Any]] = {"default_model": {}}
"""What is declared: the limit of requests under way that learns, with its defaults."""
REFUSED: Final = ResourceExhausted.__name__


@dataclass(frozen=True, slots=True)
class Size:
    """Rounds, and seconds of each load in a round."""

    rounds: int
    seconds: float


FULL: Final = Size(rounds=5, seconds=5.0)
QUICK: Final = Size(rounds=1, seconds=1.0)


@dataclass(slots=True)
class Results:
    """Windows by load, one a round; and what the node could do in each round."""

    windows: dict[float, list[Window]] = field(default_factory=lambda: defaultdict(list))
    capacity: list[float] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)


async def measure(size: Size, steps: Steps) -> Report:
    """Run the suite."""
    results = Results()
    with tempfile.TemporaryDirectory(prefix="mcp-bench-") as name:
        made, missing = subjects((CONVOLUTIONS,), Path(name))
        if not made:
            return Report("overload", missing=missing)
        steps.begin("overload", size.rounds * len(LOADS))
        async with bench(1) as cluster:
            await cluster.client.deploy(CONVOLUTIONS, made[0].model)
            await cluster.client.set_limits(LIMITS)
            target = {
                "addresses": cluster.cluster.addresses,
                "key": cluster.cluster.key.decode(),
                "once": True,
            }
            spec = {"subject": made[0].save(), "protocol": "native", "target": target}
            async with worker("client", CLIENT, spec, Path(name)) as client:
                await client.order(callers=CALLERS, seconds=size.seconds)
                for number in range(size.rounds):
                    await one_round(client, size, results, SEED + number, steps)
    return report(results)


async def one_round(client: Worker, size: Size, results: Results, seed: int, steps: Steps) -> None:
    """What the node can do now, and what it does at each load."""
    closed = Window.from_plain(await client.order(callers=CALLERS, seconds=size.seconds))
    # Callers who wait for their answers do not always find it work; too many who do not wait always do.
    plain = await client.order(rate=MOST * closed.rate, seconds=size.seconds, seed=seed)
    capacity = max(closed.rate, Window.from_plain(plain).rate)
    results.capacity.append(capacity)
    for load in LOADS:
        plain = await client.order(rate=load * capacity, seconds=size.seconds, seed=seed)
        window = Window.from_plain(plain)
        results.windows[load].append(window)
        results.wrong += [*window.wrong, *unfit(window)]
        steps.done()


def unfit(window: Window) -> list[str]:
    """The failures that are no refusal of too much, or do not say when to come back."""
    return [why for why in window.failed if not (why.startswith(f"{REFUSED}:") and "retry after" in why)]


def report(results: Results) -> Report:
    """Goodput and latency of the highest load, against the best and the usual one of the same round."""
    windows = results.windows
    peaks = [
        max(capacity, *(windows[load][number].rate for load in LOADS))
        for number, capacity in enumerate(results.capacity)
    ]
    goodput = [window.rate / peak for window, peak in zip(windows[MOST], peaks, strict=True)]
    pairs = zip(windows[MOST], windows[USUAL], strict=True)
    slower = [most.latency.p99 / usual.latency.p99 for most, usual in pairs if most.latency and usual.latency]
    kept = Figure.of_ratios(f"goodput at {MOST:g} x, of its peak", goodput)
    tail = Figure.of_ratios(f"99th percentile at {MOST:g} x, to that at {USUAL:g} x", slower)
    bars = [
        Bar(kept, 0.9, f"goodput at {MOST:g} times what a node can do, of its peak", at_least=True),
        Bar(tail, 2.0, "the 99th percentile of those who are let in, to that at 80 % of the load"),
    ]
    rows: list[tuple[str | float | None, ...]] = []
    for load in LOADS:
        for window in windows[load]:
            latency, asked = window.latency, window.done + window.failures
            times = (latency.p50 * 1e3, latency.p99 * 1e3) if latency else (None, None)
            rows.append((f"{load:g} x", window.rate, *times, window.failures / max(1, asked)))
    columns = ("load", "answered/s#", "p50 ms#", "p99 ms#", "refused share#")
    capacity = Figure.of_values("what the node can do", "/s", results.capacity)
    return Report(
        "overload",
        [capacity, kept, tail],
        bars,
        results.wrong,
        grids=[Grid(f"{CONVOLUTIONS}, one node", columns, tuple(rows))],
    )
