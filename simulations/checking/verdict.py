"""What a checker says: the rule holds, it is broken, or that could not be decided within the bound."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

VIOLATIONS_MAX: Final = 10
"""How many violations of one rule a verdict tells; it counts all."""


class Status(enum.StrEnum):
    """``inconclusive`` is no pass: whoever runs the checks has to treat it as not proved."""

    OK = "ok"
    VIOLATION = "violation"
    INCONCLUSIVE = "inconclusive"


@dataclass(frozen=True, slots=True)
class Violation:
    """One contradiction. ``story``: the few events that show it, in order of time, one a line."""

    what: str
    story: tuple[str, ...] = ()

    def __str__(self) -> str:
        return "\n".join([self.what, *(f"    {line}" for line in self.story)])


@dataclass(frozen=True, slots=True)
class Verdict:
    """One rule over one history. ``checked`` counts what was looked at: 0 proves nothing."""

    rule: str
    status: Status
    checked: int
    violations: tuple[Violation, ...] = ()
    found: int = 0
    """How many violations there are, of which the first :data:`VIOLATIONS_MAX` are told."""
    note: str = ""
    """Why the rule could not be decided."""

    @property
    def ok(self) -> bool:
        """Whether the rule was shown to hold."""
        return self.status is Status.OK

    def __str__(self) -> str:
        head = f"{self.rule}: {self.status} ({self.checked} checked)"
        more = [f"... and {self.found - len(self.violations)} more"] if self.found > VIOLATIONS_MAX else []
        note = [self.note] if self.note else []
        return "\n".join([head, *note, *map(str, self.violations), *more])


def verdict(rule: str, checked: int, violations: Sequence[Violation], undecided: str = "") -> Verdict:
    """Sum up: broken if anything is, else undecided if anything is, else the rule holds."""
    status = Status.VIOLATION if violations else Status.INCONCLUSIVE if undecided else Status.OK
    told = tuple(violations[:VIOLATIONS_MAX])
    return Verdict(rule, status, checked, told, len(violations), undecided)
