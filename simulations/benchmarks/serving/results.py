"""From windows to a report: figures, bars and tables. Pure."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from simulations.benchmarks.figures import Bar, Figure, Grid, Report
from simulations.benchmarks.serving.contenders import BATCHED, FASTAPI, GRPC, OURS, OURS_WATCHFUL, STARLETTE
from simulations.benchmarks.windows import Window

AGAINST_BETTER: Final = {
    ("tiny", 1): 1.5,
    ("tiny", 16): 8.0,
    ("tiny", 100): 12.0,
    ("medium", 1): 1.1,
    ("medium", 16): 3.0,
    ("medium", 100): 6.0,
}
AGAINST_STARLETTE: Final = 6.0
AGAINST_BATCHED: Final = 4.0
CEILING_SHARE: Final = 0.7
P99_AT_80: Final = 0.37


@dataclass(slots=True)
class Results:
    """Every window, by model, callers or arrivals, and contender; one per round."""

    callers: tuple[int, ...]
    shares: tuple[float, ...]
    closed: dict[tuple[str, int, str], list[Window]] = field(default_factory=lambda: defaultdict(list))
    opened: dict[tuple[str, str, float, str], list[Window]] = field(default_factory=lambda: defaultdict(list))
    ceilings: dict[tuple[str, int], list[float]] = field(default_factory=lambda: defaultdict(list))
    drivers: dict[str, str] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)

    def judge(self, subject: str, name: str, window: Window, *, strict: bool = False) -> None:
        """Note wrong answers; and with ``strict`` every request that failed."""
        self.wrong += [f"{name}: {what}" for what in window.wrong]
        if not window.done:
            self.wrong.append(f"{name}: {subject}: nothing was answered: {dict(window.failed)}")
        if strict and window.failures:
            self.wrong.append(f"{name}: {subject}: not answered: {dict(window.failed)}")

    def capacity(self, subject: str, name: str) -> float:
        """The most answers a second that a contender gave in the median round of any number of callers."""
        return max(
            statistics.median(window.rate for window in windows)
            for (model, _, who), windows in self.closed.items()
            if (model, who) == (subject, name)
        )

    def rates(self, subject: str, callers: int, names: Sequence[str]) -> list[float] | None:
        """In each round the best rate of those of ``names`` that were measured; ``None``: nobody was."""
        found = [self.closed[subject, callers, n] for n in names if (subject, callers, n) in self.closed]
        if not found:
            return None
        return [max(window.rate for window in windows) for windows in zip(*found, strict=True)]


def report(results: Results, missing: list[str]) -> Report:
    """The whole report."""
    figures = [
        Figure.of_values(f"{subject}, {plural(callers)}, {name}", "/s", [window.rate for window in windows])
        for (subject, callers, name), windows in results.closed.items()
    ]
    bars = [*rate_bars(results), *latency_bars(results), *ceiling_bars(results)]
    for (subject, rows), rates in results.ceilings.items():
        figures.append(Figure.of_values(f"{subject}, in process, batches of {rows}", "/s", rates))
    remarks = [f"{name} was driven by {driver}" for name, driver in results.drivers.items()]
    remarks.append("open loops are driven by Python clients, and times count from when a request was due")
    return Report(
        "serving",
        [bar.figure for bar in bars],
        bars,
        results.wrong,
        grids=[closed_grid(results), open_grid(results)],
        details=figures,
        missing=missing,
        remarks=remarks,
    )


def ratio_bar(
    results: Results,
    subject: str,
    callers: int,
    peers: tuple[str, ...],
    least: float,
    who: str,
    way: str = OURS,
) -> list[Bar]:
    """The bar on the product's rate against the best of ``peers``; none where that was not measured."""
    ours, theirs = results.rates(subject, callers, (way,)), results.rates(subject, callers, peers)
    if ours is None or theirs is None:
        return []
    asked = f"{subject}, {plural(callers)}"
    name = f"{asked}: {'mcp' if way == OURS else way} / {who}"
    figure = Figure.of_ratios(name, [own / their for own, their in zip(ours, theirs, strict=True)])
    return [Bar(figure, least, f"{asked}: answers a second against {who}", at_least=True)]


def rate_bars(results: Results) -> list[Bar]:
    """The bars on rates."""
    found = []
    for (subject, callers), least in AGAINST_BETTER.items():
        who = f"the better of {FASTAPI} and {GRPC}"
        found += ratio_bar(results, subject, callers, (FASTAPI, GRPC), least, who)
        if callers == 1:
            found += ratio_bar(results, subject, 1, (FASTAPI, GRPC), least, who, OURS_WATCHFUL)
    found += ratio_bar(results, "tiny", 100, (STARLETTE,), AGAINST_STARLETTE, STARLETTE)
    found += ratio_bar(results, "tiny", 100, (BATCHED,), AGAINST_BATCHED, BATCHED)
    return found


def latency_bars(results: Results) -> list[Bar]:
    """The bars on 99th percentiles at 80 % of the rivals' capacity: the worst ratio of each round counts."""
    found = []
    for subject in dict.fromkeys(model for model, *_ in results.opened):
        ratios = [p99_ratios(results, subject, rival) for rival in (FASTAPI, GRPC)]
        measured = [each for each in ratios if each]
        if measured:
            name = f"{subject}, arrivals at 80 % of theirs: p99 of mcp / theirs"
            figure = Figure.of_ratios(name, [max(each) for each in zip(*measured, strict=True)])
            found.append(Bar(figure, P99_AT_80, f"{subject}: 99th percentile against {FASTAPI} and {GRPC}"))
    return found


def p99_ratios(results: Results, subject: str, rival: str) -> list[float]:
    """In each round the product's 99th percentile over the rival's, at 80 % of its capacity."""
    pair = [results.opened.get((subject, rival, 0.8, name), []) for name in (OURS, rival)]
    latencies = [[window.latency for window in windows] for windows in pair]
    return [a.p99 / b.p99 for a, b in zip(*latencies, strict=True) if a is not None and b is not None]


def ceiling_bars(results: Results) -> list[Bar]:
    """The bar on what is left of the model's own batched rate."""
    batched = {subject: rates for (subject, rows), rates in results.ceilings.items() if rows > 1}
    ours = results.rates("medium", 100, (OURS,))
    if ours is None or "medium" not in batched:
        return []
    shares = [own / most for own, most in zip(ours, batched["medium"], strict=True)]
    figure = Figure.of_ratios("medium, 100 callers: mcp / in process, best batches", shares)
    return [
        Bar(figure, CEILING_SHARE, "medium: share of what one thread of onnxruntime can do", at_least=True)
    ]


def plural(callers: int) -> str:
    """So many callers, in words."""
    return f"{callers} caller{'s' if callers > 1 else ''}"


def median_of(windows: Sequence[Window], value: Callable[[Window], float | None]) -> float | None:
    """The median of those windows that have the value."""
    found = [each for window in windows if (each := value(window)) is not None]
    return statistics.median(found) if found else None


def closed_grid(results: Results) -> Grid:
    """Rates, latencies and costs side by side."""
    rows: list[tuple[str | float | None, ...]] = []
    for (subject, callers, name), windows in results.closed.items():
        best = results.rates(subject, callers, (OURS,))
        rate = statistics.median(window.rate for window in windows)
        rows.append(
            (
                subject,
                callers,
                name,
                rate,
                statistics.median(best) / rate if best and rate else None,
                *times_and_costs(windows),
                sum(window.failures for window in windows),
            )
        )
    for (subject, number), rates in results.ceilings.items():
        name = f"in process, {'one row' if number == 1 else f'batches of {number}'}"
        rows.append((subject, None, name, statistics.median(rates), *[None] * 7))
    columns = ("model", "callers#", "server", "answers/s#", "mcp is x#", *COSTS, "failed#")
    return Grid("Closed loops: each caller asks again when it has its answer", columns, tuple(rows))


def open_grid(results: Results) -> Grid:
    """Latencies at the same arrivals side by side."""
    rows = []
    for (subject, rival, share, name), windows in results.opened.items():
        rows.append(
            (
                subject,
                f"{share:.0%} of {rival}",
                name,
                statistics.median(window.rate for window in windows),
                *times_and_costs(windows),
                sum(window.failures for window in windows),
            )
        )
    columns = ("model", "arrivals", "server", "answers/s#", *COSTS, "failed#")
    return Grid("Open loops: times from when a request was due", columns, tuple(rows))


COSTS: Final = ("p50 ms#", "p99 ms#", "p99.9 ms#", "server us#", "client us#")


def times_and_costs(windows: Sequence[Window]) -> tuple[float | None, ...]:
    """What :data:`COSTS` names: medians over the rounds."""
    return (
        median_of(windows, lambda w: w.latency.p50 * 1e3 if w.latency else None),
        median_of(windows, lambda w: w.latency.p99 * 1e3 if w.latency else None),
        median_of(windows, lambda w: w.latency.p999 * 1e3 if w.latency else None),
        median_of(windows, lambda w: w.per_request_us(w.server_s)),
        median_of(windows, lambda w: w.per_request_us(w.client_s)),
    )
