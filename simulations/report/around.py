"""Small pictures, one for each class of faults: what its faults did to throughput and latency.

The faults of a class are laid over each other at the moment at which they begin, so that what they have in
common stands out and what else went on at the same time does not.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from typing import Final

from simulations.report.families import MEANINGS, family_of, ordered
from simulations.report.markup import element, number, seconds, text, titled
from simulations.report.measures import Moment, superposed
from simulations.report.picture import Axis, line, plot, stretched
from simulations.report.record import Failover, Run

BEFORE_S: Final = 2.0
AFTER_S: Final = 6.0
WIDTH_S: Final = 0.25
HALF_PX: Final = 52
GAP_PX: Final = 10
FAILOVER_PX: Final = 64


def cards(run: Run) -> str:
    """One picture for each class of faults that happened."""
    made = []
    every = [_moments(run, kind) for kind in ordered({fault.kind for fault in run.faults})]
    # One scale for all, so that they can be compared.
    most = max((moment.per_s for moments in every for moment in moments), default=1.0) or 1.0
    slow = [moment.p99_s for moments in every for moment in moments if moment.p99_s]
    fast = [moment.p50_s for moments in every for moment in moments if moment.p50_s]
    low = math.floor(math.log10(min(fast, default=1e-3)))
    high = max(low + 1, math.ceil(math.log10(max(slow, default=1.0))))
    for kind, moments in zip(ordered({fault.kind for fault in run.faults}), every, strict=True):
        made.append(_card(run, kind, moments, most, low, high))
    return element("div", *made, class_="cards")


def _moments(run: Run, kind: str) -> tuple[Moment, ...]:
    begins = [fault.begun_s for fault in run.faults if fault.kind == kind]
    return superposed(
        run.calls, begins, before_s=BEFORE_S, after_s=AFTER_S, width_s=WIDTH_S, until_s=run.ended_s
    )


def _card(run: Run, kind: str, moments: Sequence[Moment], most: float, low: int, high: int) -> str:
    axis = Axis(-BEFORE_S, AFTER_S)
    mine = [fault for fault in run.faults if fault.kind == kind]
    length_s = statistics.median(fault.ended_s - fault.begun_s for fault in mine)
    height = 2 * HALF_PX + GAP_PX

    def log(value: float) -> float:
        share = (math.log10(max(value, 10.0**low)) - low) / (high - low)
        return height - 2 - (HALF_PX - 4) * share

    ground = titled(
        "rect",
        f"{kind}: half of them last longer than {seconds(length_s)}",
        x=axis.percent(0),
        width=axis.width(0, length_s),
        y=0,
        height=height,
        class_=f"lasting bar family-{family_of(kind)}",
    )
    bars = [
        titled(
            "rect",
            f"{m.offset_s:+g} s: {number(m.per_s)} calls a second"
            + ("" if m.p50_s is None else f", p50 {seconds(m.p50_s)}, p99 {seconds(m.p99_s)}"),
            x=axis.percent(m.offset_s),
            width=axis.width(m.offset_s, m.offset_s + m.width_s),
            y=f"{HALF_PX - (HALF_PX - 4) * m.per_s / most:.1f}",
            height=f"{(HALF_PX - 4) * m.per_s / most:.1f}",
            class_="bar calls-ok",
        )
        for m in moments
    ]
    curves = [
        line(axis, points, kind=name)
        for name, values in (("p99", [m.p99_s for m in moments]), ("p50", [m.p50_s for m in moments]))
        for points in _unbroken(moments, values, log)
    ]
    zero = element("line", x1=axis.percent(0), x2=axis.percent(0), y1=0, y2=height, class_="mark begins")
    floor = element("line", x1=0, x2="100%", y1=HALF_PX, y2=HALF_PX, class_="grid")
    words = [
        _letter(f"{number(most)}/s", "100%", 9, "end"),
        _letter(f"{seconds(10.0**high)}", "100%", HALF_PX + GAP_PX + 7, "end"),
        _letter(f"{seconds(10.0**low)}", "100%", height - 3, "end"),
    ]
    feet = [
        _letter(f"{at:+g} s" if at else "begins", axis.percent(at), 11, anchor)
        for at, anchor in (
            (-BEFORE_S, "start"),
            (0.0, "middle"),
            (2.0, "middle"),
            (4.0, "middle"),
            (AFTER_S, "end"),
        )
    ]
    title = element(
        "h3",
        element("i", class_=f"swatch family-{family_of(kind)}"),
        text(kind),
        element("small", text(f"×{len(mine)}")),
    )
    meaning = element("p", text(MEANINGS.get(kind, "")), class_="quiet", title=MEANINGS.get(kind))
    picture = plot(
        height, ground, *bars, floor, stretched(height, *curves), zero, *words, label=f"around {kind}"
    )
    return element("div", title, meaning, picture, plot(14, *feet), class_="card")


def _letter(what: str, x: str, y: float, anchor: str) -> str:
    return element("text", text(what), x=x, y=y, text_anchor=anchor, class_="tick")


def _unbroken(
    moments: Sequence[Moment], values: Sequence[float | None], height: Callable[[float], float]
) -> list[list[tuple[float, float]]]:
    pieces: list[list[tuple[float, float]]] = [[]]
    for moment, value in zip(moments, values, strict=True):
        if value is None:
            pieces.append([])
        else:
            pieces[-1] += [
                (moment.offset_s, height(value)),
                (moment.offset_s + moment.width_s, height(value)),
            ]
    return [piece for piece in pieces if piece]


def failovers(found: Sequence[Failover]) -> str:
    """Every death of a leader as a dot: how long until the next fresh write was acknowledged."""
    ended = sorted(f.seconds for f in found if f.seconds is not None)
    if not ended:
        return ""
    axis = Axis(0.0, max(1.0, ended[-1] * 1.05))
    middle = statistics.median(ended)
    height, lanes = FAILOVER_PX, 5
    dots = [
        titled(
            "circle",
            f"{f.node}, killed at {f.at_s:.2f} s: {seconds(f.seconds)}"
            + ("" if f.alone else "; something else was wrong as well"),
            cx=axis.percent(f.seconds),
            cy=14 + 7 * (place % lanes),
            r=4,
            class_="dot" + ("" if f.alone else " company"),
        )
        for place, f in enumerate(f for f in found if f.seconds is not None)
        if f.seconds is not None
    ]
    centre = element(
        "line", x1=axis.percent(middle), x2=axis.percent(middle), y1=2, y2=height - 14, class_="mark begins"
    )
    feet = [
        element(
            "text",
            text(seconds(at)),
            x=axis.percent(at),
            y=height - 2,
            text_anchor="start" if at == 0 else "end" if axis.share(at) > 0.97 else "middle",
            class_="tick",
        )
        for at in axis.ticks
    ]
    label = f"how long each of {len(ended)} failovers took"
    return plot(height, *dots, centre, *feet, label=label)
