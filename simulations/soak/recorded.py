"""A soak as the page of a run wants it: see `simulations.report`."""

from __future__ import annotations

from typing import Final

from simulations import checking
from simulations.chronicle import Life, Recording
from simulations.report.markup import number, seconds
from simulations.report.record import Check, Failover, Figure, Line, Run, Status
from simulations.report.theories import THEORIES
from simulations.report.timeline import elections, spans, stills, within
from simulations.soak.report import Report, counted
from simulations.soak.run import Soak
from simulations.soak.watch import POLL_S, Sighting
from simulations.verdict import Verdict

RESULTS_ARE_RIGHT: Final = "a result is the model's"
CALLS_COME_BACK: Final = "every call comes back in time"
NONE_ENDS_BY_ITSELF: Final = "no node ends by itself"
SETTLES: Final = "the healed cluster settles"
ALL_HOLD_THE_SAME: Final = "every node holds the same"
REASONS_MAX: Final = 5
"""How many findings of a sort the page begins with."""


def soak_run(run: Soak, recording: Recording) -> Run:
    """What is known of a soak that is over."""
    report, nodes = run.report, tuple(run.supervisor.nodes)
    recording.calls(operation for operation in run.record.history if operation.invoked_at <= run.ended_s)
    found = spans(nodes, recording.roles, recording.lives, run.ended_s)
    return Run(
        f"{report.nodes} real {'node' if report.nodes == 1 else 'nodes'}, {report.seconds:g} s under fire, "
        f"seed {report.seed}",
        True,
        report.seed,
        str(report.verdict),
        report.command,
        nodes,
        run.ended_s,
        reasons=_reasons(report),
        healed_s=recording.healed_s,
        spans=found,
        stills=stills(nodes, recording.lives, run.ended_s),
        faults=within(recording.faults, recording.healed_s, run.ended_s),
        commits=tuple(commit for commit in recording.commits if commit.at_s <= run.ended_s),
        calls=tuple(recording.made),
        checks=checks(run),
        failovers=tuple(Failover(f.at_s, f.node, f.seconds, f.alone) for f in report.failovers),
        stalls=tuple(run.pulse.stalls),
        planned=counted(report.plan),
        effects=dict(report.fired),
        figures=_figures(report, len(elections(found))),
        notes=_notes(report),
        story=_story(run, recording.lives),
    )


def _reasons(report: Report) -> tuple[tuple[str, str], ...]:
    told = []
    for verdict, found in report.findings.items():
        told += [(str(verdict), what) for what in found[:REASONS_MAX]]
        if len(found) > REASONS_MAX:
            told.append((str(verdict), f"and {len(found) - REASONS_MAX} more"))
    return tuple(told)


def checks(run: Soak) -> tuple[Check, ...]:
    """The rules over the history, and those that the audit adds."""
    report = run.report
    status: dict[checking.Status, Status] = {
        checking.Status.OK: "ok",
        checking.Status.VIOLATION: "violation",
        checking.Status.INCONCLUSIVE: "inconclusive",
    }
    made = [
        Check(
            verdict.rule,
            THEORIES.get(verdict.rule, ""),
            status[verdict.status],
            verdict.checked,
            verdict.note,
            tuple(map(str, verdict.violations)),
        )
        for verdict in report.checkers
    ]
    return tuple(made + (_audit(run) if report.judged else _not_judged()))


def _audit(run: Soak) -> list[Check]:
    report, made = run.report, []
    calls = sum(sum(counts.values()) for counts in report.operations.values())
    late = report.findings.get(Verdict.LIVENESS, []) if report.unanswered else []
    made.append(_audited(CALLS_COME_BACK, calls, late))
    fallen = report.findings.get(Verdict.CRASH, [])
    made.append(_audited(NONE_ENDS_BY_ITSELF, len(run.supervisor.nodes), fallen))
    settled = [] if report.settled_s is not None else report.findings.get(Verdict.LIVENESS, [])
    made.append(_audited(SETTLES, 1, settled))
    answers = sum(
        counts.get("ok", 0) for sort, counts in report.operations.items() if sort in ("infer", "result")
    )
    made.append(_audited(RESULTS_ARE_RIGHT, answers, run.record.wrong))
    if report.settled_s is not None:
        told = {*run.record.wrong}
        told |= {str(verdict.violations[0]) for verdict in report.checkers if verdict.violations}
        wrong = [
            what
            for what in report.findings.get(Verdict.SAFETY, [])
            if not any(violation in what for violation in told)
        ]
        made.append(_audited(ALL_HOLD_THE_SAME, len(run.supervisor.nodes), wrong))
    return made


def _not_judged() -> list[Check]:
    """Of a run that was interrupted."""
    rules = (CALLS_COME_BACK, NONE_ENDS_BY_ITSELF, SETTLES, RESULTS_ARE_RIGHT, ALL_HOLD_THE_SAME)
    return [Check(rule, THEORIES[rule], "not reached", 0) for rule in rules]


def _audited(rule: str, checked: int, wrong: list[str]) -> Check:
    return Check(rule, THEORIES[rule], "violation" if wrong else "ok", checked, violations=tuple(wrong))


def _figures(report: Report, leaders: int) -> tuple[Figure, ...]:
    ended = {
        how: sum(counts.get(how, 0) for counts in report.operations.values())
        for how in ("ok", "failed", "unknown")
    }
    calls = sum(sum(counts.values()) for counts in report.operations.values())
    failover = report.failover_figures(alone=False)
    found = [
        Figure(name, number(value), note, bad=value > 0)
        for name, value, note in (
            ("lost", report.lost, "acknowledged, without effect"),
            ("doubled", report.doubled, "effects nobody asked for"),
            ("unanswered", report.unanswered, "late, or never"),
        )
    ]
    if failover["count"]:
        median, longest = failover["median_s"], failover["max_s"]
        note = f"median of {failover['count']}, longest {seconds(longest)}"
        found.append(Figure("failover", seconds(median), note, bad=bool(failover["never"])))
    never = "never" if report.judged else "not reached"
    settled = never if report.settled_s is None else seconds(report.settled_s)
    fired = sum(report.fired.values())
    note = f"of {sum(counted(report.plan).values())} planned; {report.skipped} skipped"
    return (
        *found,
        Figure("calls", number(calls), ", ".join(f"{number(n)} {how}" for how, n in ended.items() if n)),
        Figure("faults with an effect", number(fired), note),
        Figure("kills", number(report.kills), f"{report.kills_starting} of nodes that were starting"),
        Figure("terms with a leader", number(leaders), f"{number(report.snapshots)} snapshots"),
        Figure("no write for at most", seconds(report.longest_gap_s), _when_well(report)),
        Figure("settled after healing", settled, bad=report.judged and report.settled_s is None),
    )


def _when_well(report: Report) -> str:
    return f"{seconds(report.longest_gap_well_s)} while there was a majority" if report.outages else ""


def _notes(report: Report) -> tuple[str, ...]:
    found = [
        f"Nodes are asked every {seconds(POLL_S)} for their roles and commit indexes: what is shorter may be "
        "missing, and what is shown may be so much late. Calls are timed by the clients, behind the relays.",
    ]
    found += [f"{what}: {how}." for what, how in report.honoured.items()]
    if report.outages:
        found.append(
            f"Faults had a majority of the nodes down or cut off {report.outages} times, for "
            f"{seconds(report.outages_s)} in all: nobody can write then (--keep-quorum leaves a majority)."
        )
    if report.stalls:
        found.append(
            f"This machine stood still {report.stalls} times, for {seconds(report.longest_stall_s)} at most "
            "(shaded): no call is blamed for that."
        )
    return tuple(found)


def _story(run: Soak, lives: list[Life]) -> tuple[Line, ...]:
    lines = [Line(event.at_s, "faults", event.what) for event in run.injector.events]
    lines += [Line(seen.at_s, seen.node, _said(seen)) for seen in run.watch.story]
    lines += [Line(life.at_s, life.node, f"{life.state} {life.why}".rstrip()) for life in lives]
    return tuple(sorted(lines, key=lambda line: line.at_s))


def _said(seen: Sighting) -> str:
    leader = f"leader {seen.leader}" if seen.leader else "no leader"
    behind = "" if seen.caught_up else ", behind"
    return f"{seen.role} in term {seen.term}, {leader}, commit {seen.commit_index}{behind}"
