"""Makes a failing run small: the shortest time and the fewest faults under which it still fails so.

The plan is shortened with delta debugging (Zeller and Hildebrandt, "Simplifying and Isolating
Failure-Inducing Input", IEEE TSE 2002): drop halves, then quarters, down to single faults. Streams of
randomness do not depend on the plan, but what happens does, so a shorter run may fail elsewhere: it counts
if it fails with the same verdict and the same rule.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from simulations.levels import Level, run_seed
from simulations.verdict import Outcome, Verdict

RUNS_MAX = 60
"""Of the run itself, at most, to make it small."""


def shrink(level: Level, failing: Outcome, *, runs_max: int = RUNS_MAX) -> Outcome:
    """The smallest outcome found that fails as ``failing`` does; perhaps ``failing`` itself."""
    return _Shrinker(level, failing, runs_max).shrink()


class _Shrinker:
    def __init__(self, level: Level, failing: Outcome, runs_max: int) -> None:
        self._level = level
        self._best = failing
        self._runs_left = runs_max

    def shrink(self) -> Outcome:
        numbers: Sequence[int] = range(len(self._level.plan(self._best.seed).faults))
        if self._best.fault_numbers is not None:
            numbers = self._best.fault_numbers
        self._shorten(numbers)
        numbers = minimal(list(numbers), lambda some: self._attempt(some, self._best.seconds))
        # With fewer faults it may fail sooner.
        self._shorten(numbers)
        return self._best

    def _shorten(self, numbers: Sequence[int]) -> None:
        at_s, seconds = self._best.failed_at_s, self._best.seconds or self._level.seconds
        if at_s is None or self._best.verdict is Verdict.LIVENESS:
            return
        # The clock of the failing step, with room for rounding on the command line.
        shorter = float(f"{at_s + 0.05:.2f}")
        if shorter < seconds:
            self._attempt(numbers, shorter)

    def _attempt(self, numbers: Sequence[int], seconds: float | None) -> bool:
        if self._runs_left <= 0:
            return False
        self._runs_left -= 1
        outcome = run_seed(self._level, self._best.seed, seconds=seconds, fault_numbers=numbers)
        fails = signature(outcome) == signature(self._best)
        if fails:
            self._best = outcome
        return fails


def signature(outcome: Outcome) -> tuple[Verdict, str]:
    """What makes two failures the same one: the verdict, and the rule or the kind of error."""
    rule = outcome.reason.split(":")[0] if outcome.verdict in (Verdict.SAFETY, Verdict.CRASH) else ""
    return outcome.verdict, rule.split(" in ")[0]


def minimal(items: list[int], fails: Callable[[list[int]], bool]) -> list[int]:
    """A part of ``items`` that still fails, and of which no single one can be left out.

    ``fails`` may say ``False`` of anything, for want of time: the part is then merely smaller.
    """
    if items and fails([]):
        return []
    pieces = 2
    while len(items) >= 2:
        size = -(-len(items) // pieces)
        for start in range(0, len(items), size):
            rest = items[:start] + items[start + size :]
            if fails(rest):
                items, pieces = rest, max(pieces - 1, 2)
                break
        else:
            if size == 1:
                break
            pieces = min(2 * pieces, len(items))
    return items
