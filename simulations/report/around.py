"""Small pictures, one for each class of faults: what its faults did to throughput and latency.

The faults of a class are laid over each other at the moment at which they begin, so that what they have in
common stands out and what else went on at the same time does not.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Self

from simulations.report.families import MEANINGS, family_of, ordered
from simulations.report.markup import element, number, power, seconds, step_of, text, ticks, titled
from simulations.report.measures import Moment, superposed
from simulations.report.picture import Axis, line, plot, stretched
from simulations.report.record import Failover, Run

BEFORE_S: Final = 2.0
AFTER_S: Final = 6.0
WIDTH_S: Final = 0.25
HALF_PX: Final = 52
GAP_PX: Final = 10
CARD_PX: Final = 2 * HALF_PX + GAP_PX
FAILOVER_PX: Final = 64
FAILOVER_TICKS_MAX: Final = 5
"""So many have room on a phone."""


def cards(run: Run) -> str:
    """One picture for each class of faults that happened, all with the same scales."""
    kinds = ordered({fault.kind for fault in run.faults})
    every = {kind: _moments(run, kind) for kind in kinds}
    heights = Heights.of(moment for moments in every.values() for moment in moments)
    made = []
    for kind in kinds:
        lengths_s = [fault.ended_s - fault.begun_s for fault in run.faults if fault.kind == kind]
        made.append(_card(kind, lengths_s, every[kind], heights))
    return element("div", *made, class_="cards")


def _moments(run: Run, kind: str) -> tuple[Moment, ...]:
    begins = [fault.begun_s for fault in run.faults if fault.kind == kind]
    return superposed(
        run.calls, begins, before_s=BEFORE_S, after_s=AFTER_S, width_s=WIDTH_S, until_s=run.ended_s
    )


@dataclass(frozen=True, slots=True)
class Heights:
    """The scales that all cards share: the most calls a second, and powers of ten of latency."""

    most: float
    low: int
    high: int

    @classmethod
    def of(cls, every: Iterable[Moment]) -> Self:
        """Scales with room for all of these."""
        seen = list(every)
        fast = min((moment.p50_s for moment in seen if moment.p50_s), default=1e-3)
        slow = max((moment.p99_s for moment in seen if moment.p99_s), default=1.0)
        low = math.floor(math.log10(fast))
        most = max((moment.per_s for moment in seen), default=1.0) or 1.0
        return cls(most, low, max(low + 1, math.ceil(math.log10(slow))))

    def calls(self, per_s: float) -> float:
        """How tall so many calls a second are."""
        return (HALF_PX - 4) * per_s / self.most

    def latency(self, value: float) -> float:
        """How far from the top a latency is."""
        share = (math.log10(max(value, 10.0**self.low)) - self.low) / (self.high - self.low)
        return CARD_PX - 2 - (HALF_PX - 4) * share


def _card(kind: str, lengths_s: Sequence[float], moments: Sequence[Moment], heights: Heights) -> str:
    axis, family = Axis(-BEFORE_S, AFTER_S), family_of(kind)
    length_s = statistics.median(lengths_s)
    ground = titled(
        "rect",
        f"{kind}: half of them last longer than {seconds(length_s)}",
        x=axis.percent(0),
        width=axis.width(0, length_s),
        y=0,
        height=CARD_PX,
        class_=f"lasting bar family-{family}",
    )
    curves = [
        line(axis, points, kind=name)
        for name, values in (("p99", [m.p99_s for m in moments]), ("p50", [m.p50_s for m in moments]))
        for points in _unbroken(moments, values, heights.latency)
    ]
    parts = [
        ground,
        *(_calls(axis, moment, heights) for moment in moments),
        element("line", x1=0, x2="100%", y1=HALF_PX, y2=HALF_PX, class_="grid"),
        stretched(CARD_PX, *curves),
        element("line", x1=axis.percent(0), x2=axis.percent(0), y1=0, y2=CARD_PX, class_="mark begins"),
        _letter(f"{number(heights.most)}/s", "100%", 9, "end"),
        _letter(power(heights.high), "100%", HALF_PX + GAP_PX + 7, "end"),
        _letter(power(heights.low), "100%", CARD_PX - 3, "end"),
    ]
    swatch = element("i", class_=f"swatch family-{family}")
    title = element("h3", swatch, text(kind), element("small", text(f"×{len(lengths_s)}")))
    meaning = element("p", text(MEANINGS.get(kind, "")), class_="quiet", title=MEANINGS.get(kind))
    picture = plot(CARD_PX, *parts, label=f"around {kind}")
    return element("div", title, meaning, picture, plot(14, *_feet(axis)), class_="card")


def _calls(axis: Axis, moment: Moment, heights: Heights) -> str:
    tall = heights.calls(moment.per_s)
    latency = "" if moment.p50_s is None else f", p50 {seconds(moment.p50_s)}, p99 {seconds(moment.p99_s)}"
    return titled(
        "rect",
        f"{moment.offset_s:+g} s: {number(moment.per_s)} calls a second{latency}",
        x=axis.percent(moment.offset_s),
        width=axis.width(moment.offset_s, moment.offset_s + moment.width_s),
        y=f"{HALF_PX - tall:.1f}",
        height=f"{tall:.1f}",
        class_="bar calls-ok",
    )


def _feet(axis: Axis) -> list[str]:
    between = [(at, "middle") for at in (0.0, 2.0, 4.0)]
    ends = [(-BEFORE_S, "start"), *between, (AFTER_S, "end")]
    return [_letter(f"{at:+g} s" if at else "begins", axis.percent(at), 11, anchor) for at, anchor in ends]


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
        for at in ticks(0.0, axis.end_s, step_of(axis.length_s, FAILOVER_TICKS_MAX))
    ]
    label = f"how long each of {len(ended)} failovers took"
    return plot(height, *dots, centre, *feet, label=label)
