"""Metrics as text, in the form that Prometheus reads. Pure.

A family has a name, a kind, a unit and a meaning; its samples differ in their labels. Families come in the
order in which they were first told, each with its ``HELP`` and ``TYPE`` before its samples.

Source: Prometheus, "Exposition formats", text format 0.0.4, and "Metric and label naming" (base units).
"""

from __future__ import annotations

import enum
import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

MEDIA_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

_LABELS_CACHED_MAX: Final = 16_384
"""Sets of labels that are remembered as they are written."""


class Kind(enum.StrEnum):
    """What a family's numbers are."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"
    SUMMARY = "summary"


@dataclass(frozen=True, slots=True)
class Family:
    """One metric. ``unit`` is for people: the name ends with it where Prometheus wants that."""

    name: str
    kind: Kind
    unit: str
    meaning: str
    labels: tuple[str, ...] = ()


def gauge(name: str, unit: str, meaning: str, *labels: str) -> Family:
    """A gauge of ours."""
    return Family(f"mcp_{name}", Kind.GAUGE, unit, meaning, labels)


def counter(name: str, unit: str, meaning: str, *labels: str) -> Family:
    """A counter of ours."""
    return Family(f"mcp_{name}_total", Kind.COUNTER, unit, meaning, labels)


@dataclass(slots=True)
class Histogram:
    """Observations by size: ``counts`` of each bucket and of what is above the last; their ``total``."""

    counts: list[int]
    total: float = 0.0


class Exposition:
    """Collects samples, and writes them down."""

    def __init__(self) -> None:
        self._families: list[Family] = []
        self._lines: dict[int, list[str]] = {}

    def sample(self, family: Family, value: float, *labels: str) -> None:
        """Tell a counter's or a gauge's value."""
        self._add(family, "", family.labels, labels, value)

    def summary(self, family: Family, count: int, total: float, *labels: str) -> None:
        """Tell how many observations there were, and their total."""
        self._add(family, "_count", family.labels, labels, count)
        self._add(family, "_sum", family.labels, labels, total)

    def histogram(self, family: Family, bounds: Sequence[float], found: Histogram, *labels: str) -> None:
        """Tell observations by their upper bounds, which rise; ``found`` has one count more."""
        below = 0
        names = (*family.labels, "le")
        for bound, count in zip(_bounds(tuple(bounds)), found.counts, strict=True):
            below += count
            self._add(family, "_bucket", names, (*labels, bound), below)
        self._add(family, "_count", family.labels, labels, below)
        self._add(family, "_sum", family.labels, labels, found.total)

    def text(self) -> str:
        """All of it."""
        lines: list[str] = []
        for family in self._families:
            meaning = family.meaning.replace("\\", r"\\").replace("\n", r"\n")
            lines += (f"# HELP {family.name} {meaning}", f"# TYPE {family.name} {family.kind}")
            lines += self._lines[id(family)]
        return "".join(f"{line}\n" for line in lines)

    def _add(
        self, family: Family, suffix: str, names: tuple[str, ...], labels: tuple[str, ...], value: float
    ) -> None:
        told = str(value) if type(value) is int else _number(value)
        line = f"{family.name}{suffix}{_shown(names, labels)} {told}"
        lines = self._lines.get(id(family))
        if lines is None:
            self._families.append(family)
            self._lines[id(family)] = [line]
        else:
            lines.append(line)


@functools.lru_cache(_LABELS_CACHED_MAX)
def _shown(names: tuple[str, ...], labels: tuple[str, ...]) -> str:
    """The labels of a sample as they are written: the same ones come at every scrape, in many families."""
    pairs = ",".join(f'{name}="{_escaped(label)}"' for name, label in zip(names, labels, strict=True))
    return f"{{{pairs}}}" if pairs else ""


@functools.lru_cache(8)
def _bounds(bounds: tuple[float, ...]) -> tuple[str, ...]:
    return tuple(_number(bound) for bound in (*bounds, math.inf))


def _escaped(label: str) -> str:
    return label.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


def _number(value: float) -> str:
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return str(int(value)) if float(value).is_integer() and abs(value) < 2**53 else repr(float(value))
