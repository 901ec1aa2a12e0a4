"""What came of a soak: the verdict, and everything that it rests on."""

from __future__ import annotations

import bisect
import itertools
import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from simulations import checking
from simulations.checking.history import History
from simulations.checking.operations import Absent, CompareAndSet, Found, Put, Written
from simulations.soak.audit import Findings
from simulations.soak.inject import Happened, Injector, Kill
from simulations.soak.plan import LivePlan
from simulations.soak.pulse import Pulse
from simulations.soak.watch import Watch
from simulations.soak.workload import Record
from simulations.verdict import Verdict

AFTERMATH_S: Final = 1.0
"""What happens so long after a fault is over may still be its doing."""
TOLD_MAX: Final = 10
"""How many findings of a sort are told; all are counted."""


@dataclass(frozen=True, slots=True)
class Failover:
    """From the SIGKILL of a leader to the first acknowledgement of a write that was begun after it.

    ``alone``: nothing else was wrong until then, and this machine ran all the time. ``seconds`` ``None``:
    there was none.
    """

    at_s: float
    node: str
    alone: bool
    seconds: float | None


@dataclass(slots=True)
class Report:
    """One run. ``findings`` are what is wrong, by the verdict that it leads to."""

    seed: int
    seconds: float
    nodes: int
    command: str
    plan: LivePlan
    findings: dict[Verdict, list[str]] = field(default_factory=dict)
    fired: dict[str, int] = field(default_factory=dict)
    skipped: int = 0
    operations: dict[str, dict[str, int]] = field(default_factory=dict)
    failovers: list[Failover] = field(default_factory=list)
    kills: int = 0
    kills_starting: int = 0
    snapshots: int = 0
    stalls: int = 0
    longest_stall_s: float = 0.0
    longest_gap_s: float = 0.0
    longest_gap_well_s: float = 0.0
    """The longest that no loss of a majority to faults touches."""
    outages: int = 0
    """How often a majority of the nodes was down or cut off at once: nobody can write then."""
    outages_s: float = 0.0
    gaps: dict[str, dict[str, float | int]] = field(default_factory=dict)
    settled_s: float | None = None
    checkers: list[checking.Verdict] = field(default_factory=list)
    lost: int = 0
    doubled: int = 0
    unanswered: int = 0
    honoured: dict[str, str] = field(default_factory=dict)
    judged: bool = False
    """Whether the run came so far that something could be said about right and wrong."""
    folder: str | None = None
    story: list[dict[str, Any]] = field(default_factory=list)

    def find(self, verdict: Verdict, what: str) -> None:
        """Something is wrong."""
        self.findings.setdefault(verdict, []).append(what)

    @property
    def verdict(self) -> Verdict:
        """The worst of what was found."""
        worst = (Verdict.SAFETY, Verdict.LIVENESS, Verdict.CRASH, Verdict.VOID)
        return next((verdict for verdict in worst if self.findings.get(verdict)), Verdict.CLEAN)

    def failover_figures(self, *, alone: bool) -> dict[str, float | int | None]:
        """Over all failovers, or those where nothing else was wrong."""
        told = [f.seconds for f in self.failovers if f.alone or not alone]
        seconds = [value for value in told if value is not None]
        return {
            "count": len(told),
            "median_s": round(statistics.median(seconds), 4) if seconds else None,
            "max_s": round(max(seconds), 4) if seconds else None,
            "never": len(told) - len(seconds),
        }

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "seed": self.seed,
            "verdict": str(self.verdict),
            "findings": {str(verdict): found[:TOLD_MAX] for verdict, found in self.findings.items()},
            "findings_count": {str(verdict): len(found) for verdict, found in self.findings.items()},
            "command": self.command,
            "seconds": self.seconds,
            "nodes": self.nodes,
            "faults": dict(sorted(self.fired.items())),
            "faults_planned": counted(self.plan),
            "faults_skipped": self.skipped,
            "operations": self.operations,
            "kills": {"total": self.kills, "leaders": len(self.failovers), "starting": self.kills_starting},
            "failover": self.failover_figures(alone=False),
            "failover_alone": self.failover_figures(alone=True),
            "failovers": [asdict(failover) for failover in self.failovers],
            "snapshots": self.snapshots,
            "stalls": {"count": self.stalls, "max_s": round(self.longest_stall_s, 3)},
            "longest_gap_s": round(self.longest_gap_s, 3),
            "longest_gap_well_s": round(self.longest_gap_well_s, 3),
            "majority_lost": {"count": self.outages, "total_s": round(self.outages_s, 3)},
            "gaps": self.gaps,
            "settled_s": self.settled_s,
            "lost": self.lost,
            "doubled": self.doubled,
            "unanswered": self.unanswered,
            "checkers": [verdict_dict(verdict) for verdict in self.checkers],
            "honoured": self.honoured,
            "folder": self.folder,
        }


def told(verdict: checking.Verdict) -> str:
    """A broken rule and the first contradiction; the kept report has more of them."""
    return f"{verdict.rule} is broken in {verdict.found} places, the first:\n{verdict.violations[0]}"


def counted(plan: LivePlan) -> dict[str, int]:
    """How many faults of each kind are planned."""
    kinds = [str(fault.kind) for fault in plan.faults]
    return {kind: kinds.count(kind) for kind in sorted(set(kinds))}


def verdict_dict(verdict: checking.Verdict) -> dict[str, Any]:
    """A checker's verdict as plain values."""
    return {
        "rule": verdict.rule,
        "status": str(verdict.status),
        "checked": verdict.checked,
        "found": verdict.found,
        "note": verdict.note,
        "violations": [str(violation) for violation in verdict.violations],
    }


def failovers(
    kills: Sequence[Kill], happened: Sequence[Happened], record: Record, pulse: Pulse
) -> list[Failover]:
    """What the clients saw of every leader's death."""
    found = []
    for kill in kills:
        if kill.led:
            first = record.first_commit_after(kill.at_s)
            seconds = None if first is None else round(first - kill.at_s, 4)
            over = math.inf if first is None else first
            disturbed = any(kill.at_s < other.begun_s < over for other in happened)
            alone = kill.alone and not disturbed and not pulse.within(kill.at_s, over)
            found.append(Failover(round(kill.at_s, 3), kill.node, alone, seconds))
    return found


def gaps(happened: Sequence[Happened], record: Record) -> dict[str, dict[str, float | int]]:
    """By kind of fault, the longest times without an acknowledged write while one was on, or just over.

    A time that faults of several kinds share counts for each of them.
    """
    ends = sorted(ended for _, ended in record.acknowledged_at)
    found: dict[str, list[float]] = {}
    for fault in happened:
        first = max(0, bisect.bisect_left(ends, fault.begun_s) - 1)
        last = bisect.bisect_right(ends, fault.ended_s + AFTERMATH_S) + 1
        longest = max((b - a for a, b in itertools.pairwise(ends[first:last])), default=0.0)
        found.setdefault(fault.kind, []).append(longest)
    return {
        kind: {
            "count": len(all_),
            "median_s": round(statistics.median(all_), 3),
            "max_s": round(max(all_), 3),
        }
        for kind, all_ in sorted(found.items())
    }


def measure_gaps(report: Report, record: Record, outages: Sequence[tuple[float, float]]) -> None:
    """How long no write was acknowledged, and when that is no wonder: a majority was lost to faults."""
    report.longest_gap_s = record.longest_gap_s()
    report.longest_gap_well_s = record.longest_gap_s(outages)
    report.outages, report.outages_s = len(outages), sum(over - begun for begun, over in outages)


def fill(report: Report, injector: Injector, watch: Watch, record: Record, pulse: Pulse) -> None:
    """Take over what was counted while it ran."""
    report.fired = dict(injector.fired)
    report.skipped = injector.skipped
    report.kills = len(injector.kills)
    report.kills_starting = sum(kill.starting for kill in injector.kills)
    report.failovers = failovers(injector.kills, injector.happened, record, pulse)
    report.stalls, report.longest_stall_s = len(pulse.stalls), pulse.longest_s
    report.operations = record.outcomes()
    report.snapshots = watch.snapshots
    report.story = [{"at_s": event.at_s, "what": event.what} for event in injector.events]
    report.story += [asdict(seen) for seen in watch.story]
    report.story.sort(key=lambda line: line["at_s"])


def judge(report: Report, injector: Injector, record: Record, found: Findings, pulse: Pulse) -> None:
    """Say what is wrong."""
    report.judged = True
    report.lost, report.doubled = effects(record.history, found.final)
    too_late = record.too_late(pulse)
    report.unanswered = record.unanswered + len(too_late) + len(found.unresolved)
    for what in record.wrong + found.wrong:
        report.find(Verdict.SAFETY, what)
    for verdict in report.checkers:
        if verdict.status is checking.Status.VIOLATION:
            report.find(Verdict.SAFETY, told(verdict))
        elif verdict.status is checking.Status.INCONCLUSIVE:
            report.find(Verdict.VOID, str(verdict))
    if record.unanswered:
        report.find(Verdict.LIVENESS, f"{record.unanswered} calls never came back")
    for what in too_late + [f"not finished: {what}" for what in found.unresolved]:
        report.find(Verdict.LIVENESS, what)
    for what in injector.falls:
        report.find(Verdict.CRASH, what)
    if injector.plan.faults and not injector.fired:
        report.find(Verdict.VOID, "faults were planned, and none had an effect: the run has shown nothing")


def effects(history: History, final: Mapping[str, Found | Absent]) -> tuple[int, int]:
    """How many acknowledged writes have no effect, and how many effects nobody asked for.

    No key is ever deleted here, so a key's final version counts the writes that took effect.
    """
    acknowledged: Counter[str] = Counter()
    unknown: Counter[str] = Counter()
    for operation in history:
        if isinstance(operation.call, Put | CompareAndSet):
            acknowledged[operation.call.key] += isinstance(operation.result, Written)
            unknown[operation.call.key] += operation.pending
    lost = doubled = 0
    for key, found in final.items():
        version = found.version if isinstance(found, Found) else 0
        lost += max(0, acknowledged[key] - version)
        doubled += max(0, version - acknowledged[key] - unknown[key])
    return lost, doubled
