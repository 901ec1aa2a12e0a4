"""Many seeds, one verdict each, in as many processes as are asked for; failing ones are made small."""

from __future__ import annotations

import functools
import time
from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from simulations.faults import FaultKind
from simulations.interruption import INTERRUPTED
from simulations.levels import LEVELS, run_seed
from simulations.processes import spread
from simulations.shrink import shrink
from simulations.verdict import EXIT_CODES, Outcome, Verdict

CHUNK_SEEDS = 8
"""How many seeds a process takes at a time."""

SHRUNK_MAX = 3
"""How many failing runs are made small; the others are shown as they are."""


@dataclass(slots=True)
class Totals:
    """What a whole swarm came to."""

    runs: int = 0
    virtual_seconds: float = 0.0
    verdicts: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    runs_with: Counter[str] = field(default_factory=Counter)
    counts: Counter[str] = field(default_factory=Counter)
    failed: list[int] = field(default_factory=list)
    wall_s: float = 0.0
    interrupted: bool = False
    """Somebody did not want to wait for the rest."""

    def add(self, outcome: Outcome) -> None:
        """One more run."""
        self.runs += 1
        self.virtual_seconds += outcome.virtual_seconds
        self.verdicts[str(outcome.verdict)] += 1
        self.faults.update(outcome.faults)
        self.runs_with.update(outcome.faults.keys())
        self.counts.update({k: int(v) for k, v in outcome.counts.items() if k != "recovery_s"})
        if outcome.verdict is not Verdict.CLEAN:
            self.failed.append(outcome.seed)

    @property
    def exit_code(self) -> int:
        """0 when all were clean; otherwise the code of the worst verdict, or that it did not come so far."""
        if self.interrupted:
            return INTERRUPTED
        worst = (Verdict.SAFETY, Verdict.CRASH, Verdict.LIVENESS, Verdict.VOID)
        return next((EXIT_CODES[verdict] for verdict in worst if self.verdicts[str(verdict)]), 0)

    @property
    def found(self) -> str:
        """What the runs came to, in a few words."""
        if not self.failed:
            return "clean"
        return ", ".join(f"{count} {verdict}" for verdict, count in sorted(self.verdicts.items()))

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "totals": True,
            "runs": self.runs,
            "interrupted": self.interrupted,
            "verdicts": dict(sorted(self.verdicts.items())),
            "virtual_seconds": round(self.virtual_seconds, 3),
            "wall_s": round(self.wall_s, 3),
            "faults": dict(sorted(self.faults.items())),
            "runs_with_fault": dict(sorted(self.runs_with.items())),
            "never_fired": sorted(set(map(str, FaultKind)) - set(self.faults)),
            "counts": dict(sorted(self.counts.items())),
            "failed_seeds": self.failed,
        }


def swarm(
    level: str, seeds: Sequence[int], *, jobs: int = 1, seconds: float | None = None, shrinking: bool = True
) -> Generator[Outcome, None, None]:
    """The outcome of every seed, in order. Failing ones come as small as they could be made."""
    shrunk = 0
    for outcome in _outcomes(level, seeds, jobs, seconds):
        if outcome.verdict in (Verdict.CLEAN, Verdict.VOID) or not shrinking or shrunk >= SHRUNK_MAX:
            yield outcome
        else:
            shrunk += 1
            yield shrink(LEVELS[level], outcome)


def timed(outcomes: Iterable[Outcome], totals: Totals) -> Generator[Outcome, None, None]:
    """The same outcomes, each of them added to ``totals``."""
    begun = time.monotonic()
    for outcome in outcomes:
        totals.add(outcome)
        totals.wall_s = time.monotonic() - begun
        yield outcome


def _outcomes(level: str, seeds: Sequence[int], jobs: int, seconds: float | None) -> Iterator[Outcome]:
    if jobs == 1:
        for seed in seeds:
            yield run_seed(LEVELS[level], seed, seconds=seconds)
        return
    chunks = (seeds[at : at + CHUNK_SEEDS] for at in range(0, len(seeds), CHUNK_SEEDS))
    for outcomes in spread(functools.partial(_run_chunk, level, seconds=seconds), chunks, jobs):
        yield from outcomes


def _run_chunk(level: str, seeds: Sequence[int], seconds: float | None) -> list[Outcome]:
    outcomes = [run_seed(LEVELS[level], seed, seconds=seconds) for seed in seeds]
    for outcome in outcomes:
        if outcome.verdict in (Verdict.CLEAN, Verdict.VOID):
            outcome.story.lines.clear()  # nobody reads it, and it would have to travel
    return outcomes
