"""A simulated run as the page wants it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final

from simulations.chronicle import Recording
from simulations.faults import FaultPlan
from simulations.report.markup import number, seconds
from simulations.report.measures import Calls
from simulations.report.record import Check, Figure, Line, Run, Status
from simulations.report.theories import THEORIES
from simulations.report.timeline import elections, spans, stills, within
from simulations.verdict import Outcome, Verdict

_LEVELS: Final = {"engine": "consensus engines", "node": "whole nodes and their clients"}
COMES_BACK: Final = "a healed cluster comes back"
REST_S: Final = 1.0
"""So much of the time after the cluster was back is shown."""
_NOTES: Final = (
    "Times are virtual: they pass as fast as the simulation computes, and are the same in every run of the "
    "seed. Effects count each time at which a fault did something: a message that was lost, a sync that was "
    "slow.",
)


def virtual_run(outcome: Outcome, recording: Recording, nodes: Sequence[str], plan: FaultPlan) -> Run:
    """What is known of a simulated run. ``plan``: its faults, as they were planned."""
    until_s = _end_s(outcome, recording)
    found = spans(nodes, recording.roles, recording.lives, until_s)
    failed = outcome.verdict not in (Verdict.CLEAN, Verdict.VOID)
    return Run(
        f"{outcome.nodes} simulated {'node' if outcome.nodes == 1 else 'nodes'}, seed {outcome.seed}: "
        f"{_LEVELS.get(outcome.level, outcome.level)}",
        False,
        outcome.seed,
        str(outcome.verdict),
        outcome.command,
        tuple(nodes),
        until_s,
        reasons=((str(outcome.verdict), outcome.reason),) if outcome.reason else (),
        healed_s=recording.healed_s,
        failed_s=outcome.failed_at_s,
        spans=found,
        stills=stills(nodes, recording.lives, until_s),
        faults=within(recording.faults, recording.healed_s, until_s),
        commits=tuple(commit for commit in recording.commits if commit.at_s <= until_s),
        calls=tuple(call for call in recording.made if call.begun_s <= until_s),
        checks=checks(outcome, recording),
        planned=Counter(str(fault.kind) for fault in plan.faults),
        effects=dict(outcome.faults),
        effects_are="effects",
        figures=_figures(outcome, recording, len(elections(found)), failed=failed),
        notes=_NOTES,
        story=tuple(Line(line.at_s, line.who, line.what) for line in outcome.story.lines),
    )


def _end_s(outcome: Outcome, recording: Recording) -> float:
    """Where the picture ends: reading everything back, when the cluster is back, is not part of it."""
    recovery_s = float(outcome.counts.get("recovery_s", 0.0))
    if outcome.failed_at_s is not None or recording.healed_s is None or not recovery_s:
        return outcome.virtual_seconds
    return min(outcome.virtual_seconds, recording.healed_s + recovery_s + REST_S)


def checks(outcome: Outcome, recording: Recording) -> tuple[Check, ...]:
    """What came of every rule. A run that breaks off at one has shown nothing about those after it."""
    broken, _, what = outcome.reason.partition(": ")
    made = []
    counted: dict[str, int] = {}
    notes: dict[str, str] = {}
    for told in recording.rules:
        counted[told.rule] = counted.get(told.rule, 0) + told.checked
        notes[told.rule] = told.note or notes.get(told.rule, "")
    if outcome.verdict is Verdict.SAFETY:
        counted.setdefault(broken, 1)
    for rule, checked in counted.items():
        status: Status = "inconclusive" if notes.get(rule) else "ok"
        violations: tuple[str, ...] = ()
        if outcome.verdict is Verdict.SAFETY and rule == broken:
            status, violations = "violation", (what,)
        elif rule == COMES_BACK and not checked:
            failed = outcome.verdict is Verdict.LIVENESS
            status, violations = ("violation", (outcome.reason,)) if failed else ("not reached", ())
        theory = THEORIES.get(rule, "")
        made.append(Check(rule, theory, status, checked, notes.get(rule, ""), violations))
    return tuple(made)


def _figures(outcome: Outcome, recording: Recording, leaders: int, *, failed: bool) -> tuple[Figure, ...]:
    calls = Calls(recording.made)
    ended = Counter(call.ended for call in recording.made)
    told = ", ".join(f"{number(ended[how])} {how}" for how in ("ok", "failed", "unknown") if ended[how])
    recovery_s = float(outcome.counts.get("recovery_s", 0.0))
    back = "not reached" if not recovery_s else seconds(recovery_s)
    effects = f"{number(sum(outcome.faults.values()))} effects, {len(outcome.faults)} kinds"
    events = f"{number(outcome.counts.get('events', 0))} events"
    return (
        Figure("virtual time", seconds(outcome.virtual_seconds), events),
        Figure("faults", number(len(recording.faults)), effects),
        Figure("calls", number(len(recording.made)), told),
        Figure("no write for at most", seconds(calls.longest_gap_s)),
        Figure("terms with a leader", number(outcome.counts.get("terms", leaders))),
        Figure("back after healing", back, bad=failed and not recovery_s),
        Figure("trace", outcome.trace_hash, "the same in every process"),
    )
