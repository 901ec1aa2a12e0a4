"""How far a swarm is, for whoever waits for it: on standard error, so that it is in nobody's way."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Final

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from simulations.swarm import Totals
from simulations.verdict import Outcome

APART_S: Final = 15.0
"""Between two lines, at least; a swarm that is over sooner has none."""


def followed(outcomes: Iterable[Outcome], totals: Totals, seeds: int) -> Generator[Outcome, None, None]:
    """The same outcomes; as they come, a bar moves on a terminal, and elsewhere a line comes now and then."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield from in_lines(outcomes, totals, seeds, lambda line: click.echo(line, err=True))
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("seeds", total=seeds)
        for outcome in outcomes:
            progress.advance(task)
            yield outcome


def in_lines(
    outcomes: Iterable[Outcome],
    totals: Totals,
    seeds: int,
    say: Callable[[str], object],
    now: Callable[[], float] = time.monotonic,
) -> Iterator[Outcome]:
    """The same outcomes; as they come, ``say`` is given a line every :data:`APART_S` seconds."""
    begun = said = now()
    for outcome in outcomes:
        if (at := now()) - said >= APART_S:
            said = at
            say(f"[{totals.runs}/{seeds}] {totals.found} so far, {at - begun:.0f} s")
        yield outcome
