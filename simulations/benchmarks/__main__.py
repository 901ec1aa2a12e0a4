"""``python -m simulations.benchmarks``: run suites, and say whether each bar is met."""

from __future__ import annotations

import asyncio
import sys
import tempfile
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import click
from rich.table import Table

from mcp.cli.output import print_json, print_parts, table
from mcp.errors import McpError
from simulations.benchmarks import direct, disturbance, failover, guard, overload
from simulations.benchmarks.boundary import suite as boundary
from simulations.benchmarks.commit import suite as commit
from simulations.benchmarks.device import suite as device
from simulations.benchmarks.figures import ROUNDS_MIN, Figure, Grid, Report, rounded
from simulations.benchmarks.machine import Others, describe
from simulations.benchmarks.progress import Steps
from simulations.benchmarks.scale import suite as scale
from simulations.benchmarks.scheduling import suite as scheduling
from simulations.benchmarks.serving import suite as serving
from simulations.interruption import stoppable

Measure = Callable[[Steps, Path], Coroutine[Any, Any, Report]]
"""Runs a suite; pictures go to the folder."""


class Suite(NamedTuple):
    """A suite: what it measures, in full and quickly, and about how many minutes the full run takes."""

    summary: str
    minutes: int
    full: Measure
    quick: Measure


SUITES: Final[dict[str, Suite]] = {
    "serving": Suite(
        "three models against FastAPI, Starlette, grpc.aio, MLServer and onnxruntime itself",
        20,
        lambda steps, _: serving.measure(serving.FULL, steps),
        lambda steps, _: serving.measure(serving.QUICK, steps),
    ),
    "commit": Suite(
        "durable commands: one alone against disk and network, many beside etcd and PySyncObj",
        10,
        lambda steps, _: commit.measure(commit.FULL, steps),
        lambda steps, _: commit.measure(commit.QUICK, steps),
    ),
    "failover": Suite(
        "from the SIGKILL of the leader to the first new commit, beside etcd and PySyncObj",
        4,
        lambda steps, _: failover.measure(failover.FULL, steps),
        lambda steps, _: failover.measure(failover.QUICK, steps),
    ),
    "disturbance": Suite(
        "how long clients wait when one of three nodes is killed under them",
        3,
        lambda steps, _: disturbance.measure(disturbance.FULL, steps),
        lambda steps, _: disturbance.measure(disturbance.QUICK, steps),
    ),
    "scale": Suite(
        "costs at 1, 3, 5 and 7 nodes; memory and restarts as log, sessions and models grow",
        12,
        lambda steps, _: scale.measure(scale.FULL, steps),
        lambda steps, _: scale.measure(scale.QUICK, steps),
    ),
    "boundary": Suite(
        "inferences and commands under rising load: where latency breaks, with a picture",
        5,
        lambda steps, pictures: boundary.measure(boundary.FULL, steps, pictures),
        lambda steps, pictures: boundary.measure(boundary.QUICK, steps, pictures),
    ),
    "direct": Suite(
        "direct inference of one digit against the same call in process",
        1,
        lambda steps, _: direct.measure(direct.FULL, steps),
        lambda steps, _: direct.measure(direct.QUICK, steps),
    ),
    "scheduling": Suite(
        "three nodes, one of them four times as slow: round robin against predicted completion",
        6,
        lambda steps, _: scheduling.measure(scheduling.FULL, steps),
        lambda steps, _: scheduling.measure(scheduling.QUICK, steps),
    ),
    "overload": Suite(
        "a node that is asked for five times what it can do: what is still answered, and how soon",
        3,
        lambda steps, _: overload.measure(overload.FULL, steps),
        lambda steps, _: overload.measure(overload.QUICK, steps),
    ),
    "device": Suite(
        "models on a CUDA device against the processor of the same machine",
        4,
        lambda steps, _: device.measure(device.FULL, steps),
        lambda steps, _: device.measure(device.QUICK, steps),
    ),
    "guard": Suite(
        "the work of an inference and of a command against bare requests; fails when it has doubled",
        2,
        lambda steps, _: guard.measure(guard.FULL, steps),
        lambda steps, _: guard.measure(guard.QUICK, steps),
    ),
}
_VERDICTS: Final = {True: "met", False: "NOT MET", None: "UNDECIDED"}
EPILOG: Final = "\b\nSuites, and minutes of a full run:\n" + "\n".join(
    f"  {name:12}{suite.minutes:3}  {suite.summary}" for name, suite in SUITES.items()
)


@click.command(
    epilog=EPILOG
    + """

\b
Examples:
  python -m simulations.benchmarks serving
  python -m simulations.benchmarks commit failover direct
  python -m simulations.benchmarks boundary --pictures figures
  python -m simulations.benchmarks guard --quick
  python -m simulations.benchmarks --quick --json | jq '.suites.commit.bars'""",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.argument("suites", nargs=-1, type=click.Choice(sorted(SUITES)), metavar="[SUITE]...")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of tables.")
@click.option("--quick", is_flag=True, help="Few samples: to see that it works, not how fast it is.")
@click.option(
    "--pictures",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(),
    metavar="DIR",
    help="Where pictures go; by default the current folder.",
)
@click.pass_context
def benchmarks(ctx: click.Context, suites: Sequence[str], as_json: bool, quick: bool, pictures: Path) -> None:
    """Measure the product on this machine; every suite unless some are named.

    Starts real node processes with default settings and data directories in the system's temporary
    folder (TMPDIR moves it; put it on the disk that you want to know about), and removes them. Whatever
    is compared is measured in alternating rounds of the same run, and what was timed is checked: the
    exit status is 1 if anything was lost or answered wrongly. A bar that is not met does not fail the
    run, for the machine may be busy; only guard's bars do, which allow for that.

    What is compared with comes with pip install 'message-coordination-protocol[bench]' and Debian's wrk,
    nghttp2-client and etcd-server. Whatever is not installed is named, and the rest measured.
    """
    pictures.mkdir(parents=True, exist_ok=True)
    machine = describe(Path(tempfile.gettempdir()))
    try:
        with Steps() as steps:
            reports = [run_one(SUITES[name], steps, pictures, quick=quick) for name in suites or SUITES]
    except McpError as error:
        raise click.ClickException(f"{error.code}: {error.message}") from error
    if as_json:
        found = {report.suite: report.to_plain() for report in reports}
        print_json({"machine": machine, "quick": quick, "suites": found})
    else:
        parts: list[Any] = [f"{name.replace('_', ' ')}: {value}" for name, value in machine.items()]
        for report in reports:
            parts += ["", *tables(report), *verdicts(report)]
        print_parts(*parts)
    ctx.exit(0 if all(report.passed for report in reports) else 1)


def run_one(suite: Suite, steps: Steps, pictures: Path, *, quick: bool) -> Report:
    """Run one suite on an event loop of its own, as a user's program would."""
    with Others() as others:
        try:
            report = asyncio.run(stoppable((suite.quick if quick else suite.full)(steps, pictures)))
        except asyncio.CancelledError:
            raise KeyboardInterrupt from None
    report.others_share = others.share
    return report


def tables(report: Report) -> list[Any]:
    """What a person reads: tables that compare, then the figures."""
    shown = [grid for grid in report.grids if grid.rows]
    parts = [part for grid in shown for part in (grid_table(grid), "")]
    return [*parts, figures_table(report)] if report.figures else parts


def grid_table(grid: Grid) -> Table:
    """A grid as a table."""
    made = table(*grid.columns, title=grid.title)
    for row in grid.rows:
        made.add_row(*map(cell, row))
    return made


def cell(value: str | float | None) -> str:
    """A cell of a grid: numbers with as many digits as they deserve."""
    if value is None:
        return ""
    return value if isinstance(value, str) else f"{rounded(value):g}"


def figures_table(report: Report) -> Table:
    """The figures of a report, one a line."""
    made = table("figure", "median#", "least round#", "worst round#", "p99#", "samples#", title=report.suite)
    for figure in report.figures:
        made.add_row(figure.name, *(amount(figure, v) for v in numbers(figure)), str(figure.samples))
    return made


def numbers(figure: Figure) -> tuple[float | None, ...]:
    """What a line tells of a figure."""
    return figure.median, min(figure.rounds), max(figure.rounds), figure.p99


def amount(figure: Figure, value: float | None) -> str:
    """A number with its unit."""
    return "" if value is None else f"{rounded(value):g} {figure.unit}"


def verdicts(report: Report) -> list[str]:
    """Whether each bar is met, and what was wrong."""
    lines = []
    for bar in report.bars:
        met = bar.verdict(quiet=report.quiet)
        few = "" if len(bar.figure.rounds) >= ROUNDS_MIN else " (too few rounds to mean anything)"
        open_ = " (only a quiet machine says)" if met is None else ""
        bound = f"bound {bar.relation} {amount(bar.figure, bar.bound)}"
        lines.append(
            f"bar {_VERDICTS[met]}: {bar.why}: {amount(bar.figure, bar.figure.median)}, {bound}{few}{open_}"
        )
    if not report.quiet and not report.guard:
        lines.append(
            f"others used {report.others_share:.0%} of this machine meanwhile, "
            "so the figures mean little: repeat it when the machine is quiet"
        )
    lines += [*report.remarks, *report.missing]
    lines.append("everything that was timed was done rightly" if report.correct else "WRONG:")
    return lines + [f"  {what}" for what in report.wrong[:10]]


if __name__ == "__main__":
    sys.exit(benchmarks())
