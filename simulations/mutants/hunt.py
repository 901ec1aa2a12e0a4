"""Hunting a mutant: seed after seed until a run is not clean.

That it is found out means something only if the same seed is clean without it. So each catch is run once
more as production is; and a run that ends in an error of the mutant's own code has not caught anything.
"""

from __future__ import annotations

import enum
import functools
import re
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any

from simulations.levels import LEVELS, run_seed
from simulations.mutants.catalogue import MUTANTS
from simulations.mutants.mutant import Mutant, SeamGone
from simulations.processes import spread
from simulations.verdict import Outcome, Verdict

SEEDS = 2000
"""A mutant has to be caught within so many seeds."""

CAUGHT_MIN = 0.95
"""Of all mutants, at least. The others have to have a reason."""

_OWN_ERRORS = re.compile(r"\b(AttributeError|NameError|TypeError|UnboundLocalError)\b")
_OWN_PLACE = "simulations/mutants/"


class Fate(enum.StrEnum):
    """What became of a mutant."""

    CAUGHT = "caught"
    SURVIVED = "survived"
    BROKEN = "broken"
    """It could not be placed, or fails by itself: it shows nothing, and has to be placed anew."""
    UNCLEAN = "unclean"
    """The seed that caught it is not clean without it either: look at that seed first."""


@dataclass(frozen=True, slots=True)
class Hunt:
    """One mutant's. ``seeds`` were run, the last of which caught it; ``wall_s`` is real time.

    ``rule`` is what was broken: a rule's name, or how a crash or the lack of recovery shows.
    """

    mutant: str
    fate: Fate
    seeds: int
    wall_s: float
    seed: int | None = None
    verdict: str = ""
    rule: str = ""
    reason: str = ""

    @property
    def excused(self) -> bool:
        """Whether it survived and there is a reason why it may."""
        return self.fate is Fate.SURVIVED and MUTANTS[self.mutant].survives is not None

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        mutant = MUTANTS[self.mutant]
        return {
            "mutant": self.mutant,
            "group": mutant.group,
            "level": mutant.level,
            "fate": str(self.fate),
            "seeds": self.seeds,
            "seed": self.seed,
            "verdict": self.verdict,
            "rule": self.rule,
            "reason": self.reason,
            "wall_s": round(self.wall_s, 3),
            "may_survive": mutant.survives,
        }


def hunt(mutant: Mutant, seeds: Sequence[int]) -> Hunt:
    """Run ``seeds`` with ``mutant`` placed, up to the one that catches it."""
    begun, count = time.monotonic(), 0
    level, caught = LEVELS[mutant.level], None
    try:
        with mutant.applied():
            for seed in seeds:
                count += 1
                outcome = run_seed(level, seed)
                if outcome.verdict not in (Verdict.CLEAN, Verdict.VOID):
                    caught = outcome
                    break
    except SeamGone as gone:
        return Hunt(mutant.name, Fate.BROKEN, count, time.monotonic() - begun, reason=str(gone))
    if caught is None:
        return Hunt(mutant.name, Fate.SURVIVED, count, time.monotonic() - begun)
    fate = Fate.CAUGHT
    if _OWN_ERRORS.search(caught.reason) or _OWN_PLACE in caught.reason:
        fate = Fate.BROKEN
    elif run_seed(level, caught.seed).verdict is not Verdict.CLEAN:
        fate = Fate.UNCLEAN
    wall_s, rule = time.monotonic() - begun, rule_of(caught)
    return Hunt(mutant.name, fate, count, wall_s, caught.seed, str(caught.verdict), rule, caught.reason)


def rule_of(outcome: Outcome) -> str:
    """What makes failures the same: a rule, an error's name, or what was missing."""
    if outcome.verdict is Verdict.LIVENESS:
        return re.split(r"[:,]", outcome.reason)[0]
    return outcome.reason.split(":")[0].split(" in ")[0]


def hunt_all(
    mutants: Sequence[Mutant], seeds: Sequence[int], *, jobs: int = 1
) -> Generator[Hunt, None, None]:
    """The hunts of all of them, in order, in so many processes."""
    if jobs == 1:
        for mutant in mutants:
            yield hunt(mutant, seeds)
        return
    yield from spread(functools.partial(_hunt_named, seeds=seeds), [m.name for m in mutants], jobs)


def _hunt_named(name: str, seeds: Sequence[int]) -> Hunt:
    return hunt(MUTANTS[name], seeds)
