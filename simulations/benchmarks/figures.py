"""What was measured, as numbers that can be compared. Pure.

One run on a busy machine proves little, so everything is measured in rounds: a round's figure is the
median of its samples, and a figure is the median of its rounds, with the least and the greatest beside
it to show how far the rounds disagree. Ratios are taken within a round, so that what slows the machine
down for a while slows both sides.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

ROUNDS_MIN: Final = 5
"""Fewer rounds are for trying things out: their figures mean nothing."""
OTHERS_SHARE_MAX: Final = 0.1
"""With more of the machine in others' hands than this, figures say more about them than about us."""
_SCALES: Final = {"us": 1e6, "ms": 1e3, "s": 1.0}


@dataclass(frozen=True, slots=True)
class Figure:
    """One quantity, in a unit of time, as a ratio (``x``), a rate (``/s``) or a size (``kB``, ``MB``).

    ``rounds`` has one value per round, ``p99`` is over the samples of all rounds (``None``: the rounds
    are ratios or rates and have none), ``samples`` is how many there were.
    """

    name: str
    unit: str
    rounds: tuple[float, ...]
    p99: float | None
    samples: int

    @classmethod
    def of_rounds(cls, name: str, rounds_s: Sequence[Sequence[float]], unit: str = "us") -> Figure:
        """The figure of durations in seconds, sampled in rounds."""
        scale = _SCALES[unit]
        everything = [sample for samples in rounds_s for sample in samples]
        medians = tuple(statistics.median(samples) * scale for samples in rounds_s)
        return cls(name, unit, medians, percentile(everything, 0.99) * scale, len(everything))

    @classmethod
    def of_trials(cls, name: str, trials_s: Sequence[float], unit: str = "ms") -> Figure:
        """The figure of durations in seconds that are too long to be sampled more than once a round."""
        return cls.of_rounds(name, [(trial_s,) for trial_s in trials_s], unit)

    @classmethod
    def of_ratios(cls, name: str, ratios: Sequence[float]) -> Figure:
        """The figure of one ratio per round."""
        return cls(name, "x", tuple(ratios), None, len(ratios))

    @classmethod
    def of_values(cls, name: str, unit: str, values: Sequence[float]) -> Figure:
        """The figure of one value per round, in ``unit`` already: a rate, a size."""
        return cls(name, unit, tuple(values), None, len(values))

    @property
    def median(self) -> float:
        """The median of the rounds."""
        return statistics.median(self.rounds)

    def to_plain(self) -> dict[str, Any]:
        """The figure as JSON values."""
        return {
            "unit": self.unit,
            "median": rounded(self.median),
            "min": rounded(min(self.rounds)),
            "max": rounded(max(self.rounds)),
            "p99": None if self.p99 is None else rounded(self.p99),
            "samples": self.samples,
            "rounds": [rounded(value) for value in self.rounds],
        }


@dataclass(frozen=True, slots=True)
class Bar:
    """How good a figure must be: its median under ``bound``, or with ``at_least`` not under it.

    ``bound`` is in the figure's own unit.
    Others' work on the machine makes most figures worse, so that a bar that is met is met. ``needs_quiet``
    says that it may make this one better or worse, because of what the yardstick suffers: then it decides
    nothing.
    """

    figure: Figure
    bound: float
    why: str
    needs_quiet: bool = False
    at_least: bool = False

    @property
    def met(self) -> bool:
        """Whether it is."""
        median = self.figure.median
        return median >= self.bound if self.at_least else median < self.bound

    @property
    def relation(self) -> str:
        """What the median has to be to the bound, as a sign."""
        return ">=" if self.at_least else "<"

    def verdict(self, *, quiet: bool) -> bool | None:
        """Whether it is met; ``None`` where a busy machine leaves that open."""
        return None if self.needs_quiet and not quiet else self.met

    def to_plain(self, *, quiet: bool) -> dict[str, Any]:
        """The verdict as JSON values."""
        return {
            "figure": self.figure.name,
            "unit": self.figure.unit,
            "median": rounded(self.figure.median),
            "bound": self.bound,
            "relation": self.relation,
            "met": self.verdict(quiet=quiet),
            "why": self.why,
        }


@dataclass(frozen=True, slots=True)
class Grid:
    """Medians side by side, where a figure a line would hide what is to be compared.

    ``columns`` are names, those that end in ``#`` of numbers; ``rows`` have a text, a number or ``None``
    (not measured) for each.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str | float | None, ...], ...]

    def to_plain(self) -> list[dict[str, Any]]:
        """The rows as JSON objects."""
        names = [column.removesuffix("#") for column in self.columns]
        cells = ([rounded(cell) if isinstance(cell, float) else cell for cell in row] for row in self.rows)
        return [dict(zip(names, row, strict=True)) for row in cells]


@dataclass(slots=True)
class Report:
    """What one suite found. ``wrong`` lists what was answered wrongly: then no figure counts.

    ``missing`` lists what could not be measured and why, ``remarks`` what a reader has to know, and
    ``guard`` says that a bar that is not met fails the run.
    """

    suite: str
    figures: list[Figure] = field(default_factory=list)
    bars: list[Bar] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    notes: dict[str, Any] = field(default_factory=dict)
    grids: list[Grid] = field(default_factory=list)
    details: list[Figure] = field(default_factory=list)
    """Figures that a grid shows to people already."""
    missing: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    guard: bool = False
    others_share: float = 0.0
    """How much of the machine others used meanwhile, from 0 to 1."""

    @property
    def quiet(self) -> bool:
        """Whether others left the machine to us."""
        return self.others_share <= OTHERS_SHARE_MAX

    @property
    def correct(self) -> bool:
        """Whether everything that was timed was also done rightly."""
        return not self.wrong

    @property
    def passed(self) -> bool:
        """Whether the run is a success: right, and for a guard no bar missed that this machine can judge."""
        missed = (bar.verdict(quiet=self.quiet) is False for bar in self.bars)
        return self.correct and not (self.guard and any(missed))

    def to_plain(self) -> dict[str, Any]:
        """The report as JSON values."""
        return {
            "figures": {figure.name: figure.to_plain() for figure in (*self.figures, *self.details)},
            "bars": [bar.to_plain(quiet=self.quiet) for bar in self.bars],
            "correct": self.correct,
            "wrong": self.wrong,
            "missing": self.missing,
            "remarks": self.remarks,
            "tables": {grid.title: grid.to_plain() for grid in self.grids},
            "others_share": rounded(self.others_share),
            **self.notes,
        }


def percentile(samples: Sequence[float], share: float) -> float:
    """The smallest sample that at least ``share`` of them do not exceed (nearest rank)."""
    return sorted(samples)[max(0, math.ceil(share * len(samples)) - 1)]


def rounded(value: float) -> float:
    """Four digits: more would claim a precision that no measurement here has."""
    return float(f"{value:.4g}")
