"""``python -m simulations soak``: real processes under a plan of faults, and what came of it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shlex
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import click
from click.core import ParameterSource

from mcp.cli.output import print_parts
from mcp.errors import McpError
from mcp.net.loop import loop_factory
from simulations.chaos_mesh import plan_from_yaml
from simulations.chronicle import SILENT, Recording
from simulations.interruption import INTERRUPTED, stoppable
from simulations.options import REPORT, Seconds, writable
from simulations.report.write import write
from simulations.soak.display import showing, shown
from simulations.soak.kinds import Kind, kind_named
from simulations.soak.plan import (
    HONOURED,
    PORT_FAULTS,
    SIMULATED_ONLY,
    WEIGHTS,
    LivePlan,
    PlanInvalid,
    impossible,
    walk,
)
from simulations.soak.recorded import soak_run
from simulations.soak.report import Report
from simulations.soak.run import LOG_ENTRIES, Settings, Soak
from simulations.soak.run import soak as run_soak
from simulations.soak.volume import claimed, sweep
from simulations.verdict import EXIT_CODES, Verdict

SECONDS: Final = 60.0
PLAN_BYTES_MAX: Final = 1024 * 1024
EXITS: Final = """\b
Exit status:
   0  clean
   9  void: faults were planned and none had an effect, or a rule could not be decided
  10  a safety rule was broken: something acknowledged was lost, doubled, or read wrongly
  11  something did not come back in time: a call, a submission, the healed cluster
  12  a node ended by itself, or did not start
   2  the call or the plan was wrong
 130  it was interrupted"""
EPILOG: Final = (
    EXITS
    + """

\b
Examples:
  python -m simulations soak --seed 1 --seconds 60 --keep-quorum
  python -m simulations soak --plan examples/network_chaos.yaml --seconds 30
  python -m simulations soak --seed 7 --only kill,pause --json | jq .failover
  python -m simulations soak --seed 3 --seconds 120 --report pages"""
)

CONTEXT: Final = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


def kinds(_ctx: click.Context, _parameter: click.Parameter, value: str | None) -> tuple[Kind, ...] | None:
    """Read names of kinds of faults, separated by commas."""
    if value is None:
        return None
    try:
        found = tuple(kind_named(name.strip()) for name in value.split(",") if name.strip())
    except ValueError as error:
        raise click.BadParameter(str(error)) from None
    for kind in found:
        if kind not in HONOURED:
            raise click.BadParameter(f"{kind}: not on real processes: {SIMULATED_ONLY[kind]}")
    return found


@click.command(epilog=EPILOG, context_settings=CONTEXT)
@click.option(
    "--plan",
    "plan_file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="What goes wrong: YAML in Chaos Mesh's format, or the plan.json of an earlier run. "
    "Without it, faults are drawn from the seed.",
)
@click.option("--seed", type=click.IntRange(min=0), default=1, show_default=True, help="Decides every draw.")
@click.option(
    "--seconds",
    type=Seconds(1),
    default=SECONDS,
    show_default=True,
    help="How long there is load.",
)
@click.option("--nodes", type=click.IntRange(1, 7), default=3, show_default=True, help="How many voters.")
@click.option(
    "--keep-quorum",
    is_flag=True,
    help="Never break more than a minority at a time; what a plan has beyond that is skipped.",
)
@click.option("--only", callback=kinds, metavar="KIND,...", help="Draw only from these kinds of faults.")
@click.option("--plain", is_flag=True, help="Plain 'mcpctl serve': disks and clocks stay well.")
@click.option(
    "--log-entries",
    type=click.IntRange(min=0),
    default=LOG_ENTRIES,
    show_default=True,
    help="Entries of the log between snapshots; 0: as in production.",
)
@click.option(
    "--keep",
    type=click.Path(file_okay=False, path_type=Path),
    help="Keep logs, history, plan and report in this folder, also of a clean run.",
)
@REPORT
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of tables.")
@click.pass_context
def soak(
    ctx: click.Context,
    plan_file: Path | None,
    seed: int,
    seconds: float,
    nodes: int,
    keep_quorum: bool,
    only: Sequence[Kind] | None,
    plain: bool,
    log_entries: int,
    keep: Path | None,
    page_folder: Path | None,
    as_json: bool,
) -> None:
    """Put a cluster of real node processes under load and faults, and check every promise.

    Nodes are killed, stopped, cut off, delayed and short of disk, while clients write, read and infer; then
    everything heals, every node is read by itself, and the whole history is checked. What a failed run
    left behind is kept in a folder that is named.
    """
    if plan_file is not None and only is not None:
        raise click.UsageError("--only is for faults from the seed: --plan says by itself what goes wrong")
    if plain and ctx.get_parameter_source("log_entries") is ParameterSource.COMMANDLINE:
        raise click.UsageError("--log-entries: a plain node has its log as in production: leave out --plain")
    try:
        plan = (
            read_plan(plan_file, seed=seed, seconds=seconds, nodes=nodes)
            if plan_file
            else drawn_plan(seed, seconds, nodes, only, keep_quorum=keep_quorum, plain=plain)
        )
        settings = Settings(
            plan, seconds, nodes, seed, keep_quorum, plain, log_entries, command=command_line(sys.argv[1:])
        )
        report = run_kept(settings, keep, page_folder)
    except PlanInvalid as error:
        raise click.UsageError(str(error)) from error
    except OSError as error:
        click.echo(f"this machine does not let the soak run: {error}", err=True)
        ctx.exit(EXIT_CODES[Verdict.CRASH])
    except McpError as error:
        click.echo(f"the cluster did not even start: {error.code}: {error.message}", err=True)
        ctx.exit(EXIT_CODES[Verdict.CRASH])
    except (KeyboardInterrupt, asyncio.CancelledError):
        click.echo("interrupted; every node is stopped", err=True)
        ctx.exit(INTERRUPTED)
    if as_json:
        click.echo(json.dumps(report.to_dict(), indent=2, allow_nan=False))
    else:
        print_parts(*shown(report))
    ctx.exit(EXIT_CODES[report.verdict])


def command_line(arguments: Sequence[str]) -> str:
    """What to type for the same run again."""
    words = [*arguments] if arguments[:1] == ["soak"] else ["soak", *arguments]
    return shlex.join(["python", "-m", "simulations", *words])


def drawn_plan(
    seed: int, seconds: float, nodes: int, only: Sequence[Kind] | None, *, keep_quorum: bool, plain: bool
) -> LivePlan:
    """Faults from the seed, of the kinds that are allowed and possible.

    Raises :class:`PlanInvalid` where others were asked for.
    """
    allowed = set(only if only is not None else WEIGHTS)
    if plain and only is None:
        allowed -= PORT_FAULTS
    names = [f"n{number}" for number in range(1, nodes + 1)]
    for kind, why in impossible(names, keep_quorum=keep_quorum).items():
        if only is not None and kind in only:
            raise PlanInvalid(f"--only {kind}: {why}: take it out")
    return walk(seed, names, seconds, kinds=allowed, keep_quorum=keep_quorum)


def read_plan(path: Path, *, seed: int, seconds: float, nodes: int) -> LivePlan:
    """The plan in a file. Raises :class:`PlanInvalid` naming what is wrong in it."""
    try:
        with path.open("rb") as file:
            text = file.read(PLAN_BYTES_MAX + 1)
    except OSError as error:
        raise PlanInvalid(f"{path}: {error.strerror or error}") from error
    if len(text) > PLAN_BYTES_MAX:
        raise PlanInvalid(f"{path} is longer than {PLAN_BYTES_MAX} bytes")
    # What is no JSON, or too deep for it, may be YAML, and is refused as that if it is neither.
    found = None
    with contextlib.suppress(ValueError, RecursionError):
        found = json.loads(text)
    if isinstance(found, dict) and set(found) == {"faults"}:
        return LivePlan.from_plain(found["faults"])
    names = [f"n{number}" for number in range(1, nodes + 1)]
    return plan_from_yaml(text.decode("utf-8", "replace"), names, seconds=seconds, seed=seed)


def run_kept(settings: Settings, keep: Path | None, page_folder: Path | None = None) -> Report:
    """Run, and keep what it left behind if somebody will want to look at it.

    ``page_folder``: where a page of the run is to be written.
    """
    writable("--report", page_folder)
    writable("--keep", keep)
    if keep is not None and any(keep.iterdir()):
        raise click.BadParameter(
            f"{keep} is not empty: name a new folder to keep the run in", param_hint="'--keep'"
        )
    for place in sweep():
        click.echo(f"took away the file system that a killed run had left at {place}", err=True)
    folder = keep or Path(tempfile.mkdtemp(prefix="mcp-soak-"))
    report = None
    recording = Recording() if page_folder else None
    seen: list[Soak] = []
    try:
        with claimed(folder), showing() as show, asyncio.Runner(loop_factory=loop_factory()) as runner:

            def begun(run: Soak) -> None:
                seen.append(run)
                show(run)

            report = runner.run(stoppable(run_soak(settings, folder, begun, recording or SILENT)))
        return report
    finally:
        # Also of a run that was interrupted, if there is anything of it to be seen.
        if page_folder and recording and seen and seen[0].ended_s:
            page = write(soak_run(seen[0], recording), page_folder, f"soak-{settings.seed}.html")
            click.echo(f"a page of the run is in {page}", err=True)
        clean = report is not None and report.verdict is Verdict.CLEAN
        if keep is not None or not clean:
            if report is not None:
                report.folder = str(folder)
            click.echo(f"logs, history and plan are in {folder}", err=True)
        else:
            shutil.rmtree(folder, ignore_errors=True)
