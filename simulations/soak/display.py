"""How a soak looks: while it runs, on a terminal, and its report, as tables."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, Final

from rich.console import Console
from rich.live import Live
from rich.table import Table

from mcp.cli.output import table
from simulations.soak.report import Report, counted
from simulations.soak.run import Soak

REFRESH_PER_S: Final = 4
EVENTS_SHOWN: Final = 5
FINDINGS_SHOWN: Final = 10


@contextlib.contextmanager
def showing() -> Iterator[Callable[[Soak], None]]:
    """Show the run while it goes on, on a terminal; nothing elsewhere."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda run: None
        return
    seen: list[Soak] = []
    with Live(
        get_renderable=lambda: progress(seen[0]) if seen else "starting",
        console=console,
        refresh_per_second=REFRESH_PER_S,
        transient=True,
    ):
        yield seen.append


def progress(run: Soak) -> Table:
    """How far a run is."""
    made = table("node", "process", "role", "term#", "commit#", "applied#")
    made.title = f"{run.phase}, {max(0.0, run.now):.0f} of {run.settings.seconds:.0f} s"
    fresh = run.watch.fresh()
    for name, node in run.supervisor.nodes.items():
        process = "stopped" if node.paused else "runs" if node.running else "down"
        seen = fresh.get(name)
        told = (
            ("", "", "", "")
            if seen is None
            else (seen.role, str(seen.term), str(seen.commit_index), str(seen.applied_index))
        )
        made.add_row(name, process, *told)
    acknowledged = len(run.record.acknowledged_at)
    fired = sum(run.injector.fired.values())
    made.caption = f"{acknowledged} writes acknowledged, {fired} faults had an effect\n" + "\n".join(
        f"{event.at_s:7.2f}  {event.what}" for event in run.injector.events[-EVENTS_SHOWN:]
    )
    made.caption_justify = "left"
    return made


def shown(report: Report) -> list[Any]:
    """The tables of a report."""
    return [
        _faults(report),
        "",
        _operations(report),
        "",
        _checkers(report),
        "",
        *_figures(report),
        *_told(report),
    ]


def _faults(report: Report) -> Table:
    made = table("fault", "planned#", "had an effect#", "no write for: median#", "longest#", title="faults")
    for kind, count in counted(report.plan).items():
        gap = report.gaps.get(kind)
        told = ("", "") if gap is None else (f"{gap['median_s']:.2f} s", f"{gap['max_s']:.2f} s")
        made.add_row(kind, str(count), str(report.fired.get(kind, 0)), *told)
    return made


def _operations(report: Report) -> Table:
    outcomes = sorted({outcome for counts in report.operations.values() for outcome in counts})
    made = table("operation", *(f"{outcome}#" for outcome in outcomes), title="operations")
    for sort, counts in report.operations.items():
        made.add_row(sort, *(str(counts.get(outcome, "")) for outcome in outcomes))
    return made


def _checkers(report: Report) -> Table:
    made = table("rule", "verdict", "checked#", title="checks")
    for verdict in report.checkers:
        made.add_row(verdict.rule, str(verdict.status), str(verdict.checked))
    return made


def _figures(report: Report) -> list[str]:
    lines = [
        f"lost {report.lost}, doubled {report.doubled}, unanswered {report.unanswered}",
        f"{report.kills} kills, {len(report.failovers)} of leaders, {report.kills_starting} of nodes that "
        f"were starting; {report.snapshots} snapshots; {report.skipped} faults skipped for the quorum's sake",
    ]
    for name, alone in (("failover", False), ("failover, nothing else wrong", True)):
        found = report.failover_figures(alone=alone)
        if found["count"]:
            lines.append(
                f"{name}: median {found['median_s']} s, longest {found['max_s']} s of {found['count']}"
            )
    lines += _without_writes(report)
    if report.stalls:
        lines.append(
            f"this machine stood still {report.stalls} times, for {report.longest_stall_s:.1f} s at most, "
            "which no call is blamed for"
        )
    if report.settled_s is not None:
        lines.append(f"settled {report.settled_s:.2f} s after everything was healed and every call had ended")
    return lines + [f"{what}: {how}" for what, how in report.honoured.items()]


def _without_writes(report: Report) -> list[str]:
    """How long nothing was acknowledged, and whether that was to be expected."""
    longest = "longest time without an acknowledged write"
    if not report.outages:
        return [f"{longest}: {report.longest_gap_s:.2f} s"]
    return [
        f"{longest}: {report.longest_gap_s:.2f} s",
        f"  {report.longest_gap_well_s:.2f} s while there was a majority: {report.outages} times, for",
        f"  {report.outages_s:.1f} s in all, faults had so many nodes down or cut off that there was none,",
        "  and nobody can write then, which is right; --keep-quorum always leaves a majority",
    ]


def _told(report: Report) -> list[str]:
    lines = [f"\nverdict: {report.verdict}"]
    for verdict, found in report.findings.items():
        lines += [f"{verdict}: {what}" for what in found[:FINDINGS_SHOWN]]
        lines += [f"... and {len(found) - FINDINGS_SHOWN} more"] if len(found) > FINDINGS_SHOWN else []
    lines.append(f"again: {report.command}")
    return lines
