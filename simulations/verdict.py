"""What a run ends with, for people, for machines and for exit codes."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Any

from simulations.story import Story


class Verdict(enum.StrEnum):
    """How a run went."""

    CLEAN = "clean"
    SAFETY = "safety"
    """A rule was broken: see `simulations.invariants`."""
    LIVENESS = "liveness"
    """After everything was healed the cluster did not come back in time."""
    CRASH = "crash"
    """Something was raised that nobody raises on purpose."""
    VOID = "void"
    """Faults were planned and none fired: the run has shown nothing."""


EXIT_CODES = {
    Verdict.CLEAN: 0,
    Verdict.VOID: 9,
    Verdict.SAFETY: 10,
    Verdict.LIVENESS: 11,
    Verdict.CRASH: 12,
}
"""Of the command line. 2 is a wrong call."""


@dataclass(slots=True)
class Outcome:
    """One run. Times are in virtual seconds; ``faults`` counts what fired, by kind.

    ``seconds`` under fire and ``fault_numbers``, positions in the plan, are given where they are not what
    the seed stands for.
    """

    seed: int
    level: str
    verdict: Verdict
    reason: str
    trace_hash: str
    virtual_seconds: float
    failed_at_s: float | None
    nodes: int
    faults: dict[str, int]
    counts: dict[str, float]
    seconds: float | None = None
    fault_numbers: tuple[int, ...] | None = None
    story: Story = field(default_factory=Story)

    @property
    def command(self) -> str:
        """What shows this run again."""
        words = ["python -m simulations replay", str(self.seed)]
        if self.level != "engine":
            words += ["--level", self.level]
        if self.seconds is not None:
            words += ["--seconds", f"{self.seconds:g}"]
        if self.fault_numbers is not None:
            words += ["--faults", ",".join(map(str, self.fault_numbers)) or "none"]
        return " ".join(words)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON; without the story."""
        return {
            "seed": self.seed,
            "level": self.level,
            "verdict": str(self.verdict),
            "reason": self.reason,
            "trace_hash": self.trace_hash,
            "virtual_seconds": round(self.virtual_seconds, 6),
            "failed_at_s": self.failed_at_s,
            "nodes": self.nodes,
            "faults": dict(sorted(self.faults.items())),
            "counts": self.counts,
            "command": self.command,
        }
