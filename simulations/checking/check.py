"""Everything that a history can be asked, in one call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from simulations.checking.causal import check_causal
from simulations.checking.exactly_once import check_applied, check_counters, check_counts
from simulations.checking.fencing import Step, check_fencing, check_records
from simulations.checking.history import History
from simulations.checking.linearizability import check_linearizability
from simulations.checking.operations import Absent, Deliver, Fetch, Found, KeyCall, Send, Submit
from simulations.checking.search import CONFIGURATIONS_MAX
from simulations.checking.sessions import check_sessions
from simulations.checking.verdict import Verdict


@dataclass(frozen=True, slots=True)
class Evidence:
    """What was found inside the cluster after a run; what is left out is not checked."""

    applied: Mapping[str, Sequence[str]] | None = None
    """By replica, the request ids that it applied, in order (:func:`check_applied`)."""
    final: Mapping[str, Found | Absent] | None = None
    """What a read found of each key once nothing was in flight (:func:`check_counts`)."""
    counters: Mapping[str, int] | None = None
    """The values of keys that compare-and-set alone raises by one (:func:`check_counters`)."""
    steps: Mapping[str, Sequence[Step]] | None = None
    """By replica, what it applied about tasks, in order (:func:`check_fencing`)."""
    settled: bool = False
    """Whether the run had come to rest, so that nothing may be missing."""


def check(
    history: History,
    evidence: Evidence | None = None,
    *,
    configurations_max: int = CONFIGURATIONS_MAX,
) -> list[Verdict]:
    """Apply every rule that the history and the evidence have something to say about.

    A run is proved only if every verdict is ``ok``: an inconclusive one is no pass, and a rule that is not
    in the list was not checked.
    """
    evidence = evidence or Evidence()
    calls = {type(operation.call) for operation in history}
    verdicts = []
    if calls & set(KeyCall.__args__):
        verdicts.append(check_linearizability(history, configurations_max=configurations_max))
        verdicts += check_sessions(history)
    if calls & {Send, Deliver}:
        verdicts.append(check_causal(history, settled=evidence.settled))
    if calls & {Submit, Fetch}:
        verdicts.append(check_records(history, settled=evidence.settled))
    return verdicts + _inside(history, evidence)


def _inside(history: History, evidence: Evidence) -> list[Verdict]:
    verdicts = []
    if evidence.applied is not None:
        verdicts.append(check_applied(history, evidence.applied))
    if evidence.final is not None:
        verdicts.append(check_counts(history, evidence.final))
    if evidence.counters is not None:
        verdicts.append(check_counters(history, evidence.counters))
    verdicts += [check_fencing(steps) for steps in (evidence.steps or {}).values()]
    return verdicts
