"""A failed run as pytest shows it: the rule, the last of the story, and the shortest way to see it again."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from typing import Final

from simulations.verdict import Outcome

STORY_LINES: Final = 25
LINE_CHARACTERS_MAX: Final = 160


def report(outcome: Outcome, test: str, *, planned: int, seconds: float, same: bool) -> str:
    """The whole text. ``test`` names the test; ``planned`` and ``seconds`` are what the seed stands for."""
    return "\n".join(
        [
            f"cluster, seed {outcome.seed}: {outcome.reason}",
            "",
            *_lines(outcome, test, planned, seconds, same),
        ]
    )


def command(outcome: Outcome, test: str) -> str:
    """What shows this run again."""
    words = ["pytest", test, "--cluster-seed", str(outcome.seed)]
    if outcome.seconds is not None:
        words += ["--cluster-seconds", f"{outcome.seconds:g}"]
    if outcome.fault_numbers is not None:
        words += ["--cluster-faults", ",".join(map(str, outcome.fault_numbers)) or "none"]
    return shlex.join(words)


def _end(outcome: Outcome) -> int:
    """Where the story has come to the point: what follows the failure explains nothing."""
    lines = outcome.story.lines
    told = (i for i, line in enumerate(lines) if line.who == "verdict" and outcome.reason in line.what)
    return next(told, len(lines)) + 2


def _lines(outcome: Outcome, test: str, planned: int, seconds: float, same: bool) -> Iterator[str]:
    shrunk = outcome.fault_numbers is not None or outcome.seconds is not None
    kept = planned if outcome.fault_numbers is None else len(outcome.fault_numbers)
    under_fire = seconds if outcome.seconds is None else outcome.seconds
    happened = ", ".join(f"{kind} {count}" for kind, count in sorted(outcome.faults.items())) or "none"
    if outcome.failed_at_s is not None:
        yield f"  when     after {outcome.failed_at_s:.3f} virtual seconds, with {outcome.nodes} nodes"
    small = f"; {kept} of {planned} planned, {under_fire:g} of {seconds:g} s" if shrunk else ""
    yield f"  faults   {happened}{small}"
    lines = list(outcome.story.render())[: _end(outcome)][-STORY_LINES:]
    if lines:
        yield "  story    its last lines:"
        yield from (f"    {line.splitlines()[0][:LINE_CHARACTERS_MAX]}" for line in lines)
    if not same:
        yield (
            "  note     run again under the same seed it did not fail so: something in the test depends on "
            "more than the seed. Draw from the random that a client is given, and keep time with asyncio."
        )
    yield f"  again    {command(outcome, test)}"
