"""``python -m simulations``: clusters under seeded faults, and the story of one of them."""

from __future__ import annotations

import contextlib
import importlib
import json
import sys
from collections.abc import Generator, Iterable
from pathlib import Path

import click

from mcp.cli.output import print_parts, table
from simulations.chronicle import Recording
from simulations.interruption import INTERRUPTED, interrupted, interruptible
from simulations.levels import LEVELS, run_seed
from simulations.options import REPORT, Seconds, writable
from simulations.processes import ProcessGone
from simulations.progress import followed
from simulations.report.virtual import virtual_run
from simulations.report.write import write
from simulations.sentences import shown
from simulations.shrink import shrink
from simulations.swarm import Totals, swarm, timed
from simulations.verdict import EXIT_CODES, Outcome, Verdict

EXITS = """\b
Exit status:
   0  every run was clean
   9  a run was void: faults were planned and none had an effect, or a rule could not be decided
  10  a safety rule was broken
  11  a healed cluster did not come back in time
  12  something crashed
   2  the call was wrong
 130  it was interrupted"""

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


class SeedRange(click.ParamType[range]):
    """``A:B``, from A up to but not B; or one seed."""

    name = "A:B"

    def convert(self, value: str | range, param: click.Parameter | None, ctx: click.Context | None) -> range:
        """See :class:`click.ParamType`."""
        if isinstance(value, range):
            return value
        first, colon, end = value.partition(":")
        try:
            seeds = range(int(first), int(end) if colon else int(first) + 1)
        except ValueError:
            self.fail(f"{value!r:.40} is not a range of seeds; write 0:1000, or one seed as 17", param, ctx)
        if not seeds or seeds.start < 0:
            self.fail(
                f"{value!r:.40} has no seeds: the first must be at least 0 and below the second", param, ctx
            )
        if seeds.stop - seeds.start > SEEDS_MAX:
            self.fail(f"{value!r:.40} has more than {SEEDS_MAX:,} seeds", param, ctx)
        return seeds


class FaultNumbers(click.ParamType[tuple[int, ...]]):
    """Positions in a plan, ``0,4,7``, or ``none``."""

    name = "N,N,..."

    def convert(
        self, value: str | tuple[int, ...], param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        """See :class:`click.ParamType`."""
        if isinstance(value, tuple):
            return value
        if value == "none":
            return ()
        try:
            return tuple(int(number) for number in value.split(","))
        except ValueError:
            self.fail(f"{value!r:.40} are no fault numbers; write 0,4,7 or none", param, ctx)


LEVEL = click.option(
    "--level",
    type=click.Choice(sorted(LEVELS)),
    default="engine",
    show_default=True,
    help="; ".join(f"{level.name}: {level.summary}" for level in LEVELS.values()) + ".",
)
SECONDS = click.option(
    "--seconds",
    type=Seconds(0.01),
    help="Virtual seconds under fire, instead of the level's own.",
)

PAGES_MAX = 20
"""How many runs of a swarm have a page written."""

SEEDS_MAX = 1_000_000_000
"""How many seeds a swarm may have: more than any machine gets through."""

LATER = {"mutants": "simulations.mutants.command", "soak": "simulations.soak.command"}
"""Commands whose modules, and with them more of the product, are imported only when they are asked for."""


class Commands(click.Group):
    """Imports those of :data:`LATER` when they are asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """See :class:`click.Group`."""
        return sorted([*super().list_commands(ctx), *LATER])

    def invoke(self, ctx: click.Context) -> object:
        """See :class:`click.Group`."""
        try:
            return super().invoke(ctx)
        except ProcessGone as error:
            raise click.ClickException(str(error)) from None

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """See :class:`click.Group`."""
        if cmd_name not in LATER:
            return super().get_command(ctx, cmd_name)
        found: click.Command = getattr(importlib.import_module(LATER[cmd_name]), cmd_name)
        return found


@click.group(
    cls=Commands,
    context_settings=CONTEXT,
    epilog="""\b
Examples:
  python -m simulations swarm --seeds 0:1000 --jobs 2
  python -m simulations swarm --seeds 0:100 --level node --report pages
  python -m simulations replay 17 --level upgrade
  python -m simulations soak --seed 1 --seconds 60 --keep-quorum
  python -m simulations mutants --list

\b
Each command's --help has more. How fast the product is:
  python -m simulations.benchmarks""",
)
def simulations() -> None:
    """Put whole clusters under faults that a seed decides: in virtual time, or real processes (soak).

    In virtual time the same seed gives the same run, in every process.
    """


@simulations.command(
    "swarm",
    context_settings=CONTEXT,
    epilog=EXITS
    + """

\b
Examples:
  python -m simulations swarm --seeds 0:1000 --jobs 2
  python -m simulations swarm --seeds 0:100 --level node --report pages
  python -m simulations swarm --seeds 17 --json | jq .faults""",
)
@click.option("--seeds", type=SeedRange(), required=True, help="From A up to, but not, B.")
@LEVEL
@SECONDS
@click.option("--jobs", type=click.IntRange(1, 256), default=1, show_default=True, help="Processes.")
@click.option(
    "--shrink/--no-shrink", "shrinking", default=True, help="Make failing runs small. [default: on]"
)
@click.option("--json", "as_json", is_flag=True, help="One object per run, and one with the totals.")
@REPORT
def swarm_command(
    seeds: range,
    level: str,
    seconds: float | None,
    jobs: int,
    shrinking: bool,
    as_json: bool,
    page_folder: Path | None,
) -> None:
    """Run many seeds and say what became of each.

    A seed draws the cluster, its limits, its load and its faults. Safety is checked after every step.
    Then everything heals, and within five times the longest election timeout there must be one leader,
    a fresh write must succeed, and all states must be equal. With --report, the runs that were not clean
    have a page each.
    """
    writable("--report", page_folder)
    totals = Totals()
    outcomes = timed(swarm(level, seeds, jobs=jobs, seconds=seconds, shrinking=shrinking), totals)
    if page_folder is not None:
        outcomes = _with_pages(outcomes, page_folder)
    if not as_json:
        outcomes = followed(outcomes, totals, len(seeds))
    try:
        with interruptible(), contextlib.closing(outcomes):
            for outcome in outcomes:
                if as_json:
                    click.echo(json.dumps(outcome.to_dict()))
                elif outcome.verdict is not Verdict.CLEAN:
                    click.echo(_failure(outcome))
    except KeyboardInterrupt:
        totals.interrupted = True
        click.echo(interrupted(totals.runs, len(seeds), "seeds", totals.found), err=True)
    if as_json:
        click.echo(json.dumps(totals.to_dict()))
    elif totals.runs:
        _show_totals(totals)
    sys.exit(totals.exit_code)


@simulations.command(
    "replay",
    context_settings=CONTEXT,
    epilog=EXITS
    + """

\b
Examples:
  python -m simulations replay 17
  python -m simulations replay 17 --seconds 12.5 --faults 3,7
  python -m simulations replay 17 --shrink
  python -m simulations replay 17 --level node --report pages""",
)
@click.argument("seed", type=click.IntRange(min=0))
@LEVEL
@SECONDS
@click.option("--faults", "numbers", type=FaultNumbers(), help="Only these faults of the seed's plan.")
@click.option("--shrink", "shrinking", is_flag=True, help="Make it small first, if it fails.")
@click.option("--json", "as_json", is_flag=True, help="The outcome as JSON, without the story.")
@REPORT
def replay_command(
    seed: int,
    level: str,
    seconds: float | None,
    numbers: tuple[int, ...] | None,
    shrinking: bool,
    as_json: bool,
    page_folder: Path | None,
) -> None:
    """Run one seed and tell its story: what happened, when, to whom."""
    writable("--report", page_folder)
    try:
        with interruptible():
            outcome = _replayed(seed, level, seconds, numbers, shrinking=shrinking)
            if page_folder is not None:
                _write_page(outcome, page_folder)
    except KeyboardInterrupt:
        click.echo("interrupted", err=True)
        sys.exit(INTERRUPTED)
    if as_json:
        click.echo(json.dumps(outcome.to_dict()))
    else:
        for line in outcome.story.render():
            click.echo(line)
        click.echo(f"\n{_summary(outcome)}")
    sys.exit(EXIT_CODES[outcome.verdict])


def _replayed(
    seed: int, level: str, seconds: float | None, numbers: tuple[int, ...] | None, *, shrinking: bool
) -> Outcome:
    """The run of a seed, or of some of its faults; made small where that is wanted."""
    planned = len(LEVELS[level].plan(seed).faults)
    if beyond := [number for number in numbers or () if not 0 <= number < planned]:
        raise click.UsageError(
            f"--faults: seed {seed} has no fault {beyond[0]} at level {level}; they are 0 to {planned - 1}"
        )
    outcome = run_seed(LEVELS[level], seed, seconds=seconds, fault_numbers=numbers)
    if shrinking and outcome.verdict not in (Verdict.CLEAN, Verdict.VOID):
        outcome = shrink(LEVELS[level], outcome)
    return outcome


def _with_pages(outcomes: Iterable[Outcome], folder: Path) -> Generator[Outcome, None, None]:
    """The same outcomes; of those that are not clean, the first few have a page each."""
    left = PAGES_MAX
    for outcome in outcomes:
        if outcome.verdict is not Verdict.CLEAN and left:
            left -= 1
            _write_page(outcome, folder)
        yield outcome


def _write_page(outcome: Outcome, folder: Path) -> None:
    """Run it again, with somebody who writes down what happens: it is the same run."""
    level, recording = LEVELS[outcome.level], Recording()
    again = run_seed(
        level,
        outcome.seed,
        seconds=outcome.seconds,
        fault_numbers=outcome.fault_numbers,
        chronicle=recording,
    )
    plan = level.plan(outcome.seed)
    if outcome.fault_numbers is not None:
        plan = plan.keep(outcome.fault_numbers)
    run = virtual_run(again, recording, level.nodes(outcome.seed), plan)
    try:
        page = write(run, folder, f"{level.name}-{outcome.seed}.html")
    except OSError as error:
        raise click.ClickException(f"--report {folder}: {error.strerror or error}") from error
    click.echo(f"a page of the run is in {page}", err=True)


def _summary(outcome: Outcome) -> str:
    faults = ", ".join(f"{kind} {count}" for kind, count in sorted(outcome.faults.items())) or "none"
    return (
        f"seed {outcome.seed}: {outcome.verdict} · {outcome.nodes} nodes · "
        f"{outcome.virtual_seconds:.1f} virtual seconds · trace {outcome.trace_hash}\n"
        f"faults that fired: {faults}"
    )


def _failure(outcome: Outcome) -> str:
    lines = [f"seed {outcome.seed}: {outcome.verdict}: {outcome.reason}"]
    if outcome.failed_at_s is not None:
        lines.append(f"  at {outcome.failed_at_s:.4f} virtual seconds, with {outcome.nodes} nodes")
    lines.append(f"  again: {outcome.command}")
    return "\n".join(lines)


def _show_totals(totals: Totals) -> None:
    fired = table("fault", "fired#", "in runs#")
    for kind, count in sorted(totals.faults.items()):
        fired.add_row(kind, f"{count:,}", f"{totals.runs_with[kind]:,}")
    print_parts(fired if totals.faults else "No fault had an effect.")
    verdicts = ", ".join(f"{count:,} {verdict}" for verdict, count in sorted(totals.verdicts.items()))
    click.echo(
        "\n"
        + shown(
            f"{totals.runs:,} runs: {verdicts}; {totals.virtual_seconds:,.0f} virtual seconds in "
            f"{totals.wall_s:.1f} s"
        )
    )


if __name__ == "__main__":
    simulations(prog_name="python -m simulations")
