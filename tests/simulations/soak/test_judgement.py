"""The judge of a soak is shown what is wrong, and must say so."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest

from mcp.errors import DeadlineExceeded, ModelNotFound, NotFound, OutcomeUnknown, VersionConflict
from simulations import checking
from simulations.checking.operations import (
    Absent,
    CompareAndSet,
    Conflict,
    Failed,
    Found,
    Get,
    Ok,
    Put,
    Unknown,
    Written,
)
from simulations.soak.ailing_disk import ORDERED
from simulations.soak.audit import Findings
from simulations.soak.display import _figures
from simulations.soak.inject import Happened, Injector, Kill
from simulations.soak.plan import LivePlan, walk
from simulations.soak.pulse import BEAT_S, STALL_S, Pulse
from simulations.soak.recorded import checks
from simulations.soak.report import Failover, Report, effects, failovers, gaps, judge, measure_gaps
from simulations.soak.workload import LATE_S, TIMEOUT_S, Keys, Pace, Record, outcome_of
from simulations.verdict import Verdict

PLAN = walk(1, ["n1", "n2", "n3"], 10.0)


def record(now: float = 0.0) -> Record:
    return Record(lambda: now)


def judged(
    found: Findings | None = None,
    made: Record | None = None,
    *,
    pulse: Pulse | None = None,
    checkers: tuple[checking.Verdict, ...] = (),
    falls: tuple[str, ...] = (),
    fired: int = 1,
) -> Report:
    report = Report(1, 10.0, 3, "again", PLAN, checkers=list(checkers))
    injector: Any = SimpleNamespace(
        plan=PLAN, falls=list(falls), fired=Counter({"kill": fired} if fired else {})
    )
    judge(report, injector, made or record(), found or Findings(), pulse or Pulse(lambda: 0.0))
    return report


def test_nothing_wrong_is_clean() -> None:
    assert judged().verdict is Verdict.CLEAN


def test_each_sort_of_finding_has_its_verdict_and_the_worst_counts() -> None:
    broken = checking.Verdict("rule", checking.Status.VIOLATION, 1, (checking.Violation("this"),), 1)
    undecided = checking.Verdict("rule", checking.Status.INCONCLUSIVE, 1, note="too long")
    slow = record(TIMEOUT_S + LATE_S + 0.1)
    slow.check_deadline("put", 0.0)
    hanging = record()
    hanging.history.invoke("c", Put("k", 1), 0.0)
    assert judged(fired=0).verdict is Verdict.VOID
    assert judged(checkers=(undecided,)).verdict is Verdict.VOID
    assert judged(falls=("n1 ended",)).verdict is Verdict.CRASH
    assert judged(made=slow).verdict is Verdict.LIVENESS
    assert judged(made=hanging).verdict is Verdict.LIVENESS
    assert judged(Findings(unresolved=["soak-1 on n1: assigned"])).verdict is Verdict.LIVENESS
    assert judged(Findings(wrong=["n1 holds something else"])).verdict is Verdict.SAFETY
    worst = judged(made=slow, checkers=(broken, undecided), falls=("n1 ended",), fired=0)
    assert worst.verdict is Verdict.SAFETY
    assert "this" in worst.findings[Verdict.SAFETY][0]
    assert set(worst.findings) == {Verdict.SAFETY, Verdict.LIVENESS, Verdict.CRASH, Verdict.VOID}


def test_a_call_within_its_time_is_not_late() -> None:
    made = record(TIMEOUT_S + LATE_S)
    made.check_deadline("put", 0.0)
    assert made.late == []


def test_time_in_which_this_machine_stood_still_is_not_counted() -> None:
    made = record(20.0)
    made.check_deadline("put", 10.0)
    assert judged(made=made).verdict is Verdict.LIVENESS
    assert (
        judged(made=made, pulse=Pulse(lambda: 0.0, [(5.0, 10.5), (11.0, 13.0)])).verdict is Verdict.LIVENESS
    )
    assert judged(made=made, pulse=Pulse(lambda: 0.0, [(5.0, 11.5), (12.0, 13.6)])).verdict is Verdict.CLEAN


def test_a_pulse_notices_that_it_missed_beats() -> None:
    async def scenario() -> Pulse:
        pulse = Pulse(asyncio.get_running_loop().time)
        beating = asyncio.ensure_future(pulse.run())
        await asyncio.sleep(0)
        time.sleep(2 * STALL_S)  # noqa: ASYNC251  (the very thing)
        await asyncio.sleep(2 * BEAT_S)
        beating.cancel()
        return pulse

    found = asyncio.run(scenario())
    assert found.longest_s >= STALL_S
    ((since, until),) = found.stalls[:1]
    assert found.within(since, until) == pytest.approx(until - since)
    assert found.within(until, until + 1) == 0.0


@pytest.mark.parametrize(
    ("version", "lost", "doubled"), [(0, 2, 0), (1, 1, 0), (2, 0, 0), (3, 0, 0), (4, 0, 1)]
)
def test_effects_are_counted_against_what_was_told(version: int, lost: int, doubled: int) -> None:
    history = checking.History()
    history.record("a", Put("k", 1), Ok(Written(1)), 0.0)
    history.record("a", CompareAndSet("k", 2, 1), Ok(Written(2)), 0.0)
    history.record("a", CompareAndSet("k", 2, 1), Ok(Conflict(2, 2)), 0.0)
    history.record("a", Put("k", 3), Unknown("OUTCOME_UNKNOWN"), 0.0)
    history.record("a", Put("k", 4), Failed("NO_LEADER"), 0.0)
    history.record("a", Get("k"), Ok(Found(1, 1)), 0.0)
    final = {"k": Found(1, version) if version else Absent()}
    assert effects(history, final) == (lost, doubled)


def test_a_failover_lasts_until_the_first_write_that_was_begun_after_it() -> None:
    made = record()
    made.acknowledged_at = [(0.5, 1.3), (1.1, 1.6), (1.2, 1.5), (4.0, 4.1)]
    kills = [
        Kill(1.0, "n1", led=True, alone=True, starting=False),
        Kill(2.0, "n2", led=False, alone=True, starting=False),
        Kill(5.0, "n3", led=True, alone=False, starting=False),
    ]
    happened = [Happened("kill", 1.0, 1.2), Happened("kill", 2.0, 2.5), Happened("delay", 1.55, 1.6)]
    still = Pulse(lambda: 0.0)
    found = failovers(kills, happened, made, still)
    assert found == [Failover(1.0, "n1", True, 0.5), Failover(5.0, "n3", False, None)]
    report = Report(1, 10.0, 3, "again", LivePlan(), failovers=found)
    assert report.failover_figures(alone=True) == {"count": 1, "median_s": 0.5, "max_s": 0.5, "never": 0}
    assert report.failover_figures(alone=False)["never"] == 1
    assert made.longest_gap_s() == pytest.approx(2.5)
    disturbed = failovers(kills[:1], [Happened("delay", 1.4, 3.0)], made, still)
    assert disturbed == [Failover(1.0, "n1", False, 0.5)]
    stalled = failovers(kills[:1], [], made, Pulse(lambda: 0.0, [(1.2, 1.45)]))
    assert stalled == [Failover(1.0, "n1", False, 0.5)]


def test_a_kind_of_fault_is_told_how_long_nothing_was_acknowledged() -> None:
    made = record()
    made.acknowledged_at = [(at, at) for at in (0.0, 0.5, 1.0, 3.0, 3.1, 9.0, 9.1)]
    found = gaps(
        [Happened("kill", 1.5, 1.6), Happened("kill", 3.05, 3.06), Happened("delay", 9.2, 9.9)], made
    )
    assert found["kill"] == {"count": 2, "median_s": 3.95, "max_s": 5.9}
    assert found["delay"] == {"count": 1, "median_s": 0.0, "max_s": 0.0}


def test_a_time_without_writes_in_which_a_majority_was_lost_is_told_as_such() -> None:
    made = record()
    made.acknowledged_at = [(at, at) for at in (0.0, 0.5, 1.0, 3.0, 3.1, 9.0, 9.1)]
    report = Report(1, 10.0, 3, "again", LivePlan())
    measure_gaps(report, made, [(4.0, 8.5)])
    assert (report.longest_gap_s, report.longest_gap_well_s) == (pytest.approx(5.9), 2.0)
    assert report.to_dict()["majority_lost"] == {"count": 1, "total_s": 4.5}
    told = "\n".join(_figures(report))
    assert "longest time without an acknowledged write: 5.90 s\n  2.00 s while there was a majority" in told
    assert "1 times, for\n  4.5 s in all, faults had so many nodes down or cut off" in told
    measure_gaps(report, made, [])
    assert "majority" not in "\n".join(_figures(report))
    assert report.longest_gap_well_s == report.longest_gap_s


def test_a_majority_is_lost_while_more_than_a_minority_is_broken() -> None:
    supervisor = SimpleNamespace(nodes=dict.fromkeys(("n1", "n2", "n3")))
    clock = iter(range(10))
    injector = Injector(supervisor, SimpleNamespace(), LivePlan(), lambda: float(next(clock)))  # type: ignore[arg-type]
    for node, back in (("n1", 0), ("n2", 0), ("n2", 0), ("n2", 1), ("n1", 1), ("n3", 0)):
        injector._count_out([node], back=bool(back))
    assert injector.outages() == [(0.0, 1.0), (2.0, 3.0)]


def test_a_node_that_ends_of_what_was_ordered_is_excused_however_late_it_is_seen() -> None:
    injector = Injector(SimpleNamespace(nodes={}), SimpleNamespace(), LivePlan(), lambda: 99.0)  # type: ignore[arg-type]
    injector._fell(f"n1 ended by itself; its last words: DISK_FULL: no room, {ORDERED}")
    injector._fell(f"n1 ended by itself; its last words: no room, {ORDERED}; and then a defect")
    injector._fell("n2 ended by itself; it logged nothing")
    injector._fell("n2 ended by itself; it logged nothing")
    assert [fall[:2] for fall in injector.falls] == ["n1", "n2"]


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (OutcomeUnknown("?"), Unknown("OUTCOME_UNKNOWN")),
        (DeadlineExceeded("late"), Failed("DEADLINE_EXCEEDED")),
        (NotFound("none"), Ok(Absent())),
        (ModelNotFound("none"), Failed("MODEL_NOT_FOUND")),
        (VersionConflict("lost", details={"version": 3, "value": "x"}), Ok(Conflict(3, "x"))),
        (VersionConflict("lost", details={"version": 0, "value": None}), Ok(Conflict(0, None))),
    ],
)
def test_errors_become_outcomes(error: Exception, outcome: Any) -> None:
    async def fail() -> Any:
        raise error

    with pytest.raises(StopIteration) as ended:
        outcome_of(fail).send(None)
    assert ended.value.value == outcome


def test_keys_are_retired_after_so_many_calls() -> None:
    import random

    keys, generator = Keys(Pace(keys=2, calls_per_key=5)), random.Random(1)
    picked = Counter(keys.pick(generator) for _ in range(200))
    assert max(picked.values()) == 5
    assert set(keys.all) >= set(picked)
    assert len(keys.all) >= 40


def test_each_finding_breaks_the_rule_that_it_is_about() -> None:
    made = record()
    made.wrong.append("scan 3 is 4, not 9")
    broken = checking.Verdict("fencing", checking.Status.VIOLATION, 1, (checking.Violation("this"),), 1)
    report = judged(
        Findings(wrong=["n1 holds something else"], unresolved=["soak-1 on n1: assigned"]),
        made,
        checkers=(broken,),
        falls=("n1 ended",),
    )
    report.settled_s = 0.1
    nodes = dict.fromkeys(("n1", "n2", "n3"))
    run: Any = SimpleNamespace(report=report, record=made, supervisor=SimpleNamespace(nodes=nodes))
    found = {check.rule: check.violations for check in checks(run)}
    assert found == {
        "fencing": ("this",),
        "a result is the model's": ("scan 3 is 4, not 9",),
        "every node holds the same": ("n1 holds something else",),
        "every call comes back in time": ("not finished: soak-1 on n1: assigned",),
        "no node ends by itself": ("n1 ended",),
        "the healed cluster settles": (),
    }
    assert {check.status for check in checks(run)} == {"violation", "ok"}
    report.settled_s = None
    told = {check.rule: check.status for check in checks(run)}
    assert told["the healed cluster settles"] == "violation"
    assert "every node holds the same" not in told  # nobody looked
