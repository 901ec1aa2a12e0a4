"""What happened, when, to whom: a run as a person reads it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

LINES_MAX = 20_000


@dataclass(frozen=True, slots=True)
class Line:
    """``at_s`` is in virtual seconds; ``who`` is a node, a pair of nodes, or what acts on them."""

    at_s: float
    who: str
    what: str


@dataclass(slots=True)
class Story:
    """The lines of one run, in order; from ``LINES_MAX`` on they are only counted."""

    lines: list[Line] = field(default_factory=list)
    left_out: int = 0

    def add(self, at_s: float, who: str, what: str) -> None:
        """Something happened."""
        if len(self.lines) < LINES_MAX:
            self.lines.append(Line(at_s, who, what))
        else:
            self.left_out += 1

    def render(self) -> Iterable[str]:
        """One line of text each, with aligned columns."""
        width = max((len(line.who) for line in self.lines), default=0)
        for line in self.lines:
            yield f"{line.at_s:10.4f} s  {line.who:<{width}}  {line.what}"
        if self.left_out:
            yield f"(and {self.left_out} more lines)"
