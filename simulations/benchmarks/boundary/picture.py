"""The picture of a boundary: latency and answers against the load that was offered, with the knee marked."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from simulations.benchmarks.boundary.knee import Step, knee
from simulations.benchmarks.needs import modules

NEEDS: Final = modules("matplotlib")
_INCHES: Final = (11.0, 7.5)
_DOTS: Final = 120
_LINES: Final = (("p50", "#1b6ca8"), ("p99", "#c8553d"), ("p999", "#8a8a8a"))
_NAMES: Final = {"p50": "median", "p99": "99th percentile", "p999": "99.9th percentile"}


def draw(found: Mapping[str, Sequence[Step]], path: Path) -> Path:
    """Draw every kind of load beside each other, and write a PNG; gives its path."""
    figures: Any = importlib.import_module("matplotlib.figure")
    figure = figures.Figure(figsize=_INCHES, dpi=_DOTS, layout="constrained")
    axes = figure.subplots(2, len(found), sharex="col", squeeze=False, height_ratios=(2, 1))
    for column, (kind, steps) in enumerate(found.items()):
        _latencies(axes[0][column], kind, steps)
        _answers(axes[1][column], steps)
        at = knee(steps)
        if at is not None and at.broke is not None:
            _mark(axes[0][column], axes[1][column], at.offered)
    axes[0][0].legend(frameon=False)
    axes[1][0].legend(frameon=False)
    figure.savefig(path)
    return path


def _latencies(axis: Any, kind: str, steps: Sequence[Step]) -> None:
    known = [step for step in steps if step.window.latency is not None]
    for name, colour in _LINES:
        values = [getattr(step.window.latency, name) * 1e3 for step in known]
        axis.plot([step.offered for step in known], values, "o-", ms=4, color=colour, label=_NAMES[name])
    axis.set(title=kind, xscale="log", yscale="log", ylabel="latency from when it was due, ms")
    _grid(axis)


def _answers(axis: Any, steps: Sequence[Step]) -> None:
    offered = [step.offered for step in steps]
    axis.plot(offered, offered, "--", color="#8a8a8a", label="offered")
    axis.plot(offered, [step.window.rate for step in steps], "o-", ms=4, color="#2a7f62", label="answered")
    axis.set(xscale="log", yscale="log", xlabel="requests offered a second", ylabel="answers a second")
    _grid(axis)


def _mark(upper: Any, lower: Any, rate: float) -> None:
    for axis in (upper, lower):
        axis.axvline(rate, color="#444444", lw=1, ls=":")
    upper.annotate(
        f"knee: {rate:,.0f}/s",
        (rate, 1.0),
        xycoords=("data", "axes fraction"),
        xytext=(-6, -12),
        textcoords="offset points",
        ha="right",
        color="#444444",
    )


def _grid(axis: Any) -> None:
    ticker: Any = importlib.import_module("matplotlib.ticker")
    for scale in (axis.xaxis, axis.yaxis):
        scale.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
        scale.set_major_formatter(ticker.FuncFormatter(lambda value, _: _short(value)))
        scale.set_minor_formatter(ticker.NullFormatter())
    axis.grid(visible=True, which="major", color="#e3e3e3")
    axis.set_axisbelow(True)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)


def _short(value: float) -> str:
    """A number that leaves room for its neighbours."""
    return f"{value / 1000:g}k" if value >= 1000 else f"{value:g}"
