"""Where latency or errors break as the load is raised. Pure.

Response times hardly depend on a light load, and grow without bound near saturation; between these is the
knee (Jain, "The Art of Computer Systems Performance Analysis", 1991, chapter 3). Here it is the highest load
that was still carried: nearly all that arrived was answered in the time in which it arrived, nothing
failed, and the 99th percentile was within a factor of what it was under light load.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from simulations.benchmarks.windows import Window

P99_FACTOR_MAX: Final = 10.0
ANSWERED_SHARE_MIN: Final = 0.95
LIGHT: Final = 3
"""The lightest of so many first loads by 99th percentile is the light load: the first ones are noisy."""


@dataclass(frozen=True, slots=True)
class Step:
    """One load: ``offered`` requests arrived in a second on average, and what came of them."""

    offered: float
    window: Window


@dataclass(frozen=True, slots=True)
class Knee:
    """The last load that was carried, and why the next was not; ``None``: all were carried."""

    offered: float
    broke: str | None


def light_p99(steps: Sequence[Step]) -> float:
    """The 99th percentile under light load, in seconds; infinite where nothing was answered."""
    known = [step.window.latency.p99 for step in steps[:LIGHT] if step.window.latency is not None]
    return min(known, default=float("inf"))


def broken(step: Step, light_s: float) -> str | None:
    """Why a load was not carried; ``None``: it was."""
    window = step.window
    if window.failures:
        return f"{window.failures} of {window.failures + window.done} requests failed"
    if window.latency is None or window.rate < ANSWERED_SHARE_MIN * step.offered:
        return f"only {window.rate:.0f} of {step.offered:.0f} a second were answered"
    if window.latency.p99 > P99_FACTOR_MAX * light_s:
        slow, light = window.latency.p99 * 1e3, light_s * 1e3
        return f"the 99th percentile was {slow:.1f} ms, {light:.1f} ms under light load"
    return None


def knee(steps: Sequence[Step]) -> Knee | None:
    """The knee of ``steps``, which rise; ``None``: not even the first load was carried."""
    light_s, carried = light_p99(steps), None
    for step in steps:
        why = broken(step, light_s)
        if why is not None:
            return None if carried is None else Knee(carried, why)
        carried = step.offered
    return None if carried is None else Knee(carried, None)
