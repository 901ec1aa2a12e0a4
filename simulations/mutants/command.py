"""``python -m simulations mutants``: production broken on purpose, and what finds it out."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import click

from mcp.cli.output import print_parts, table
from simulations.interruption import INTERRUPTED, interrupted, interruptible
from simulations.mutants.catalogue import MUTANTS, NoSuchMutant, select
from simulations.mutants.hunt import CAUGHT_MIN, SEEDS, Fate, Hunt, hunt_all
from simulations.mutants.mutant import Mutant
from simulations.sentences import shown

EXIT_SURVIVED = 13
EXIT_VOID = 14

EPILOG = """\b
Exit status:
   0  at least 95 % were caught, and for each of the others there is a reason
  13  a mutant survived without a reason, or too many did
  14  the hunt shows nothing: a mutant could not be placed or fails by itself, or the seed that caught
      it is not clean without it
   2  the call was wrong
 130  it was interrupted

\b
Examples:
  python -m simulations mutants --list
  python -m simulations mutants votes-are-counted-twice sync-is-skipped
  python -m simulations mutants --jobs 2 --json | jq 'select(.fate == "survived")'"""

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


class _Names(click.ParamType[str]):
    """The name of a mutant."""

    name = "name"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """See :class:`click.ParamType`."""
        try:
            return select([value])[0].name
        except NoSuchMutant as error:
            self.fail(str(error), param, ctx)


@click.command("mutants", epilog=EPILOG, context_settings=CONTEXT)
@click.argument("names", nargs=-1, type=_Names(), metavar="[NAME]...")
@click.option("--list", "listing", is_flag=True, help="Say what there is, and run nothing.")
@click.option("--seeds", type=click.IntRange(min=1), default=SEEDS, show_default=True, help="At most, each.")
@click.option("--jobs", type=click.IntRange(1, 256), default=1, show_default=True, help="Processes.")
@click.option("--json", "as_json", is_flag=True, help="One object per mutant, and one with the totals.")
def mutants(names: Sequence[str], listing: bool, seeds: int, jobs: int, as_json: bool) -> None:
    """Break production on purpose, one mutant at a time, and say which seed and which rule finds it out.

    Every mutant is a mistake that somebody could make in the protocol. Seeds are run from 0 on until one is
    not clean; that seed has to be clean without the mutant. Nothing is made small.
    """
    chosen = select(names)
    if listing:
        _list(chosen, as_json=as_json)
        return
    begun, hunts = time.monotonic(), list[Hunt]()
    try:
        with interruptible(), contextlib.closing(hunt_all(chosen, range(seeds), jobs=jobs)) as coming:
            for hunt in coming:
                hunts.append(hunt)
                if as_json:
                    click.echo(json.dumps(hunt.to_dict()))
                else:
                    click.echo(f"[{len(hunts)}/{len(chosen)}] {_line(hunt)}", err=True)
        code = exit_code(hunts, everything=len(chosen) == len(MUTANTS))
    except KeyboardInterrupt:
        click.echo(interrupted(len(hunts), len(chosen), "mutants", _fates(hunts)), err=True)
        code = INTERRUPTED
    wall_s = time.monotonic() - begun
    if as_json:
        click.echo(json.dumps(totals(hunts, wall_s) | {"interrupted": code == INTERRUPTED}))
    elif hunts:
        _show(hunts, wall_s)
    sys.exit(code)


def exit_code(hunts: Sequence[Hunt], *, everything: bool) -> int:
    """0, or what is wrong. Of some mutants alone no share is asked for."""
    fates = Counter(hunt.fate for hunt in hunts)
    if fates[Fate.BROKEN] or fates[Fate.UNCLEAN]:
        return EXIT_VOID
    if any(hunt.fate is Fate.SURVIVED and not hunt.excused for hunt in hunts):
        return EXIT_SURVIVED
    return EXIT_SURVIVED if everything and fates[Fate.CAUGHT] < CAUGHT_MIN * len(hunts) else 0


def totals(hunts: Sequence[Hunt], wall_s: float) -> dict[str, Any]:
    """What all of them came to, as plain values."""
    caught = [hunt.seeds for hunt in hunts if hunt.fate is Fate.CAUGHT]
    return {
        "totals": True,
        "mutants": len(hunts),
        "fates": dict(sorted(Counter(str(hunt.fate) for hunt in hunts).items())),
        "caught_share": round(len(caught) / len(hunts), 4) if hunts else None,
        "seeds_median": sorted(caught)[len(caught) // 2] if caught else None,
        "seeds_max": max(caught, default=None),
        "rules": dict(sorted(Counter(hunt.rule for hunt in hunts if hunt.rule).items())),
        "wall_s": round(wall_s, 3),
    }


def _fates(hunts: Sequence[Hunt]) -> str:
    counts = Counter(str(hunt.fate) for hunt in hunts)
    return ", ".join(f"{count} {fate}" for fate, count in sorted(counts.items()))


def _list(chosen: Sequence[Mutant], *, as_json: bool) -> None:
    if as_json:
        for mutant in chosen:
            fields = {name: getattr(mutant, name) for name in ("name", "group", "level", "what", "survives")}
            click.echo(json.dumps(fields))
        return
    group = ""
    for mutant in chosen:
        if mutant.group != group:
            group = mutant.group
            click.echo(f"{click.style(group, bold=True)} (level {mutant.level})")
        click.echo(f"  {mutant.name}\n      {mutant.what}")
        if mutant.survives is not None:
            click.echo(f"      It may survive: {mutant.survives}")


def _line(hunt: Hunt) -> str:
    how = f"by seed {hunt.seed}: {hunt.verdict}: {hunt.reason}" if hunt.seed is not None else hunt.reason
    return f"{hunt.mutant}: {hunt.fate} after {hunt.seeds} seeds, {hunt.wall_s:.1f} s {how}".rstrip()


def _show(hunts: Sequence[Hunt], wall_s: float) -> None:
    made = table("mutant", "fate", "seeds#", "time#", "verdict", "what found it")
    for hunt in hunts:
        time_s = f"{hunt.wall_s:.1f} s"
        made.add_row(hunt.mutant, str(hunt.fate), f"{hunt.seeds:,}", time_s, hunt.verdict, hunt.rule)
    print_parts(made)
    click.echo("\n" + shown(summary(hunts, wall_s)))
    for hunt in hunts:
        if hunt.fate is Fate.SURVIVED:
            reason = MUTANTS[hunt.mutant].survives
            click.echo(shown(f"{hunt.mutant}: {reason or 'survived, and there is no reason for it'}"))
        elif hunt.fate is not Fate.CAUGHT:
            click.echo(shown(f"{hunt.mutant}: {hunt.fate}: {hunt.reason}"))


def summary(hunts: Sequence[Hunt], wall_s: float) -> str:
    """What all of them came to, in a sentence."""
    told = totals(hunts, wall_s)
    needed = ""
    if told["seeds_max"] is not None:
        needed = f"; of those caught the median needed {told['seeds_median']:,} seeds"
        needed += f", the most {told['seeds_max']:,}"
    return f"{len(hunts)} mutants: {_fates(hunts)}{needed}; {wall_s:,.0f} s"
