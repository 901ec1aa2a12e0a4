"""The suite: one command alone against what it cannot do without, then many at once beside others.

In each round every party starts anew, is warmed up, and takes the same load: writes of small and of larger
values, from 1 to 1,000 callers at once. Then it is asked for every key: where a version is not the number of
the writes that were acknowledged, one was lost or applied twice.
"""

from __future__ import annotations

import statistics
import tempfile
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from simulations.benchmarks.commit import lone
from simulations.benchmarks.commit.parties import (
    ETCD,
    IN_ONE_CALL,
    OURS,
    OURS_EMBEDDED,
    SYNCOBJ,
    TOGETHER,
    TOGETHER_CALLERS,
    Party,
    absent,
    parties,
)
from simulations.benchmarks.figures import Bar, Figure, Grid, Report
from simulations.benchmarks.progress import Steps
from simulations.benchmarks.windows import Window

SMALL_BYTES: Final = 20
LARGE_BYTES: Final = 1024
AGAINST_ETCD: Final = 3.0
AGAINST_SYNCOBJ: Final = 5.0
LONE_AGAINST_ETCD: Final = 1.0
WARM_UP_CALLERS: Final = 16
Cell = tuple[str, int, int]
"""Who, with how many callers, with values of how many bytes."""


@dataclass(frozen=True, slots=True)
class Size:
    """The lone command's size, and that of the load."""

    lone: lone.Size
    rounds: int
    seconds: float
    callers: tuple[int, ...] = (1, 16, 100, 1000)
    sizes: tuple[int, ...] = (SMALL_BYTES, LARGE_BYTES)
    names: tuple[str, ...] | None = None
    """Whom to measure; ``None``: everybody that is installed."""


FULL: Final = Size(lone.FULL, rounds=5, seconds=2.0)
QUICK: Final = Size(lone.QUICK, rounds=1, seconds=0.5, callers=(1, 100), sizes=(SMALL_BYTES,))


@dataclass(slots=True)
class Results:
    """A window per round for each cell."""

    windows: dict[Cell, list[Window]] = field(default_factory=lambda: defaultdict(list))
    wrong: list[str] = field(default_factory=list)

    def ratios(self, above: list[float], below: list[float]) -> list[float]:
        """Round by round."""
        return [a / b for a, b in zip(above, below, strict=True)]

    def rates(self, name: str, callers: int, size: int) -> list[float]:
        """Commands a second in each round; empty where it was not measured."""
        return [window.rate for window in self.windows.get((name, callers, size), [])]

    def medians(self, name: str, callers: int, size: int) -> list[float]:
        """The median time of a command in each round, in seconds."""
        windows = self.windows.get((name, callers, size), [])
        return [window.latency.p50 for window in windows if window.latency is not None]

    def best(self, names: tuple[str, ...], size: int) -> list[float]:
        """In each round the most commands a second of any of ``names`` with any number of callers."""
        found = [
            [window.rate for window in windows]
            for (name, _, bytes_), windows in self.windows.items()
            if name in names and bytes_ == size
        ]
        return [max(rates) for rates in zip(*found, strict=True)]


async def measure(size: Size, steps: Steps) -> Report:
    """Run the suite."""
    report = await lone.measure(size.lone, steps)
    results = Results()
    with tempfile.TemporaryDirectory(prefix="mcp-bench-") as name:
        everybody = parties(Path(name))
        names = [party for party in everybody if size.names is None or party in size.names]
        steps.begin("commit beside others", size.rounds * len(names))
        for number in range(size.rounds):
            for party in names:
                folder = Path(name) / str(number) / party.split()[0]
                folder.mkdir(parents=True, exist_ok=True)
                async with parties(folder)[party]() as running:
                    await one_party(party, running, size, results)
                steps.done()
    return extended(report, results)


async def one_party(name: str, party: Party, size: Size, results: Results) -> None:
    """Everything for one party in one round."""
    await party.load(WARM_UP_CALLERS, size.seconds / 2, SMALL_BYTES)
    for bytes_ in size.sizes:
        for callers in size.callers:
            window = await party.load(callers, size.seconds, bytes_)
            results.windows[name, callers, bytes_].append(window)
            if not window.done:
                results.wrong.append(f"{name}: nothing was acknowledged: {dict(window.failed)}")
    if name in (OURS, OURS_EMBEDDED):
        window = await party.load(TOGETHER_CALLERS, size.seconds, SMALL_BYTES, together=TOGETHER)
        results.windows[name + IN_ONE_CALL, TOGETHER_CALLERS * TOGETHER, SMALL_BYTES].append(window)
    results.wrong += [f"{name}: {what}" for what in await party.wrong()]


def extended(report: Report, results: Results) -> Report:
    """The lone command's report, and what was found beside others."""
    found = bars(results)
    report.figures += [bar.figure for bar in found]
    report.bars += found
    report.wrong += results.wrong
    report.grids.append(grid(results))
    report.details += [
        Figure.of_values(f"{name}, {callers} at once, {bytes_} B", "/s", [w.rate for w in windows])
        for (name, callers, bytes_), windows in results.windows.items()
    ]
    lack = absent()
    report.missing += [] if lack is None else [lack]
    report.remarks += [
        "etcd is driven by generic grpc.aio calls; it syncs before it acknowledges, PySyncObj never does",
    ]
    return report


def bars(results: Results) -> list[Bar]:
    """What the load is judged by, as far as it was measured."""
    found = []
    ours, theirs = (results.rates(name, 1000, SMALL_BYTES) for name in (OURS, ETCD))
    if ours and theirs:
        ratio = Figure.of_ratios("1000 at once, 20 B: mcp / etcd", results.ratios(ours, theirs))
        why = "durable commands a second from another process, against etcd"
        found.append(Bar(ratio, AGAINST_ETCD, why, at_least=True))
    found += against_syncobj(results)
    ours, theirs = (results.medians(name, 1, SMALL_BYTES) for name in (OURS, ETCD))
    if ours and theirs:
        ratio = Figure.of_ratios("one alone, 20 B: median of mcp / etcd", results.ratios(ours, theirs))
        found.append(Bar(ratio, LONE_AGAINST_ETCD, "a lone durable command's time, against etcd"))
    return found


def against_syncobj(results: Results) -> list[Bar]:
    """Callers in a node, each with a command of its own and with many in a call, and PySyncObj's commands."""
    theirs = results.best((SYNCOBJ["each on its own"],), SMALL_BYTES)
    ways = {
        "1000 in a node": (results.rates(OURS_EMBEDDED, 1000, SMALL_BYTES), "callers in a node"),
        f"{TOGETHER_CALLERS} in a node{IN_ONE_CALL}": (
            results.rates(OURS_EMBEDDED + IN_ONE_CALL, TOGETHER_CALLERS * TOGETHER, SMALL_BYTES),
            "callers in a node with many writes in a call",
        ),
    }
    found = []
    for name, (ours, who) in ways.items():
        if ours and theirs:
            ratio = Figure.of_ratios(f"{name}, 20 B: mcp / PySyncObj's best", results.ratios(ours, theirs))
            why = (
                f"durable commands a second from {who}, against PySyncObj's, an entry each, without any sync"
            )
            found.append(Bar(ratio, AGAINST_SYNCOBJ, why, at_least=True))
    return found


def grid(results: Results) -> Grid:
    """Everybody side by side."""
    rows: list[tuple[str | float | None, ...]] = [
        (
            bytes_,
            callers,
            name,
            statistics.median(window.rate for window in windows),
            *latency_ms(windows),
            *costs_us(windows),
            sum(window.failures for window in windows),
        )
        for (name, callers, bytes_), windows in results.windows.items()
    ]
    columns = ("bytes#", "at once#", "who", "commands/s#", "p50 ms#", "p99 ms#")
    rows.sort(key=lambda row: (row[0], row[1]))
    return Grid(
        "Durable commands, three members", (*columns, "members us#", "callers us#", "failed#"), tuple(rows)
    )


def latency_ms(windows: list[Window]) -> tuple[float | None, float | None]:
    """Medians over the rounds of the median and the 99th percentile."""
    known = [window.latency for window in windows if window.latency is not None]
    if not known:
        return None, None
    return (
        statistics.median(latency.p50 for latency in known) * 1e3,
        statistics.median(latency.p99 for latency in known) * 1e3,
    )


def costs_us(windows: list[Window]) -> tuple[float, float]:
    """Medians over the rounds of the processor time for each command: the members', the callers'."""
    done = [window for window in windows if window.done]
    return (
        statistics.median(window.server_s / window.done for window in done) * 1e6,
        statistics.median(window.client_s / window.done for window in done) * 1e6,
    )
