"""Pieces of pictures that all have one time axis.

Positions in time are percentages of the width, so a picture may be as wide as the reader's screen and its
letters stay as they are. Lines are drawn in a picture of their own inside, which is stretched.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from simulations.report.markup import element, moment, step_of, text, ticks, titled

INNER: Final = 10_000
"""The width of stretched pictures, in their own units."""
INSTANT_SHARE: Final = 0.002
INSTANT_PX: Final = 2
"""What lasts for less than that share of the axis is so wide."""
TICKS_MAX: Final = 12
MINOR: Final = 5
"""Pieces between two ticks, told when a reader has zoomed in."""


@dataclass(frozen=True, slots=True)
class Axis:
    """From ``begin_s`` on the left to ``end_s`` on the right."""

    begin_s: float
    end_s: float

    @property
    def length_s(self) -> float:
        """How long all of it is."""
        return max(self.end_s - self.begin_s, 1e-9)

    def share(self, at_s: float) -> float:
        """Where a moment is, 0 on the left and 1 on the right."""
        return min(1.0, max(0.0, (at_s - self.begin_s) / self.length_s))

    def percent(self, at_s: float) -> str:
        """The same, as a position."""
        return f"{100 * self.share(at_s):.3f}%"

    def width(self, begun_s: float, ended_s: float) -> str:
        """How wide some time is."""
        return f"{100 * (self.share(ended_s) - self.share(begun_s)):.3f}%"

    @property
    def step_s(self) -> float:
        """Between two ticks."""
        return step_of(self.length_s, TICKS_MAX, clock=True)

    @property
    def ticks(self) -> list[float]:
        """Round moments."""
        return ticks(self.begin_s, self.end_s, self.step_s)


def bar(axis: Axis, begun_s: float, ended_s: float, *, y: float, height: float, kind: str, title: str) -> str:
    """Some time, as a bar; however short it is, it can be seen."""
    short = axis.share(ended_s) - axis.share(begun_s) < INSTANT_SHARE
    return titled(
        "rect",
        title,
        x=axis.percent(begun_s),
        width=INSTANT_PX if short else axis.width(begun_s, ended_s),
        y=f"{y:g}",
        height=f"{height:g}",
        class_=f"bar {kind}" + (" instant" if short else ""),
    )


def grid(axis: Axis, height: float) -> str:
    """Thin lines at the ticks."""
    return "".join(
        element("line", x1=axis.percent(at), x2=axis.percent(at), y1=0, y2=f"{height:g}", class_="grid")
        for at in axis.ticks
    )


def scale(axis: Axis) -> str:
    """The moments at the ticks, and between them for whoever zooms in."""
    made = []
    fine = axis.step_s / MINOR
    for at in ticks(axis.begin_s, axis.end_s, fine):
        share = axis.share(at)
        is_major = abs(at / axis.step_s - round(at / axis.step_s)) < 1e-6
        anchor = "start" if share < 0.02 else "end" if share > 0.98 else "middle"
        made.append(
            element(
                "text",
                text(moment(at, axis.step_s if is_major else fine)),
                x=axis.percent(at),
                y=12,
                text_anchor=anchor,
                class_="tick" if is_major else "tick minor",
            )
        )
    return plot(16, *made)


def mark(axis: Axis, at_s: float, height: float, *, kind: str, title: str) -> str:
    """A line across a lane at one moment."""
    at = axis.percent(at_s)
    return titled("line", title, x1=at, x2=at, y1=0, y2=f"{height:g}", class_=f"mark {kind}")


def plot(height: float, *children: str, label: str = "") -> str:
    """A picture as wide as there is room."""
    named = {"role": "img", "aria_label": label} if label else {}
    return element("svg", *children, class_="plot", width="100%", height=f"{height:g}", **named)


def stretched(height: float, *children: str) -> str:
    """A picture inside another, stretched to its width."""
    return element(
        "svg",
        *children,
        x=0,
        y=0,
        width="100%",
        height=f"{height:g}",
        viewBox=f"0 0 {INNER} {height:g}",
        preserveAspectRatio="none",
    )


def line(axis: Axis, points: Iterable[tuple[float, float]], *, kind: str) -> str:
    """A line through moments and heights."""
    told = " ".join(f"{INNER * axis.share(at):.0f},{y:.1f}" for at, y in points)
    return element("polyline", points=told, class_=f"line {kind}") if told else ""


def stairs(points: Sequence[tuple[float, float]], until_s: float) -> list[tuple[float, float]]:
    """Values that stay until they change, as points of a line."""
    made: list[tuple[float, float]] = []
    for at, value in points:
        if made:
            made.append((at, made[-1][1]))
        made.append((at, value))
    if made:
        made.append((until_s, made[-1][1]))
    return made


def thinned(points: Sequence[tuple[float, float]], width_s: float) -> list[tuple[float, float]]:
    """Of a line of rising values, no more points than can be told apart: the first of each ``width_s``."""
    made: list[tuple[float, float]] = []
    for at, value in points:
        if not made or at - made[-1][0] >= width_s:
            made.append((at, value))
    if points and made[-1] != points[-1]:
        made.append(points[-1])
    return made
