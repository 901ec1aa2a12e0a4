"""Why a decision is what it is: structured steps, put into words only when somebody asks."""

from __future__ import annotations

import enum
from typing import Any, NamedTuple


class Step(enum.Enum):
    """What a reason is about, in the order in which a decision is made."""

    HINT = "hint"
    RULE = "rule"
    ROUTE = "route"
    INPUTS = "inputs"
    NODES = "nodes"
    CHOICE = "choice"
    MIRROR = "mirror"


class Reason(NamedTuple):
    """One step. ``str()`` gives a short sentence; ``facts`` are its values, in the order of the sentence."""

    step: Step
    sentence: str
    facts: tuple[Any, ...] = ()

    def __str__(self) -> str:
        return self.sentence.format(*self.facts)

    def to_plain(self) -> dict[str, Any]:
        """Return the step's name and the sentence, for a wire or a file."""
        return {"step": self.step.value, "reason": str(self)}
