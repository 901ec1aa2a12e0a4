from __future__ import annotations

import io

from simulations.checking import Evidence, History, Status, check
from simulations.checking.fencing import Granted, Reported
from simulations.checking.operations import (
    Absent,
    CompareAndSet,
    Deliver,
    Done,
    Fetch,
    Found,
    Get,
    Ok,
    Put,
    Recorded,
    Send,
    Submit,
    Written,
)
from simulations.checking.verdict import VIOLATIONS_MAX, Violation, verdict


def everything() -> History:
    history = History()
    history.record("p", Put("k", 1), Ok(Written(1)), 1.0, request="r1")
    history.record("p", Get("k", "linearizable"), Ok(Found(1, 1)), 2.0)
    history.record("p", CompareAndSet("n", 1, 0), Ok(Written(1)), 2.5, request="r2")
    history.record("p", Submit("t"), Ok(Done()), 3.0)
    history.record("p", Fetch("t"), Ok(Recorded("done", 1, "n1", "r")), 4.0)
    history.record("p", Send("m"), Ok(Done()), 5.0)
    history.record("q", Deliver("m"), Ok(Done()), 6.0)
    return history


EVIDENCE = Evidence(
    applied={"n1": ["r1", "r2"], "n2": ["r1", "r2"]},
    final={"k": Found(1, 1), "n": Found(1, 1)},
    counters={"n": 1},
    steps={"n1": [Granted("t", "n1", 1), Reported("t", "n1", 1, "r", True)]},
    settled=True,
)


def test_every_rule_is_applied_and_looks_at_something() -> None:
    verdicts = check(everything(), EVIDENCE)
    assert all(v.ok for v in verdicts), list(map(str, verdicts))
    assert len({v.rule for v in verdicts}) == len(verdicts), "a table of them tells each from the others"
    assert {v.rule: v.checked > 0 for v in verdicts} == {
        "linearizability": True,
        "read your writes": True,
        "monotonic reads": False,
        "monotonic writes": False,
        "writes follow reads": False,
        "reads are of writes": True,
        "causal delivery": True,
        "one recorded result": True,
        "exactly one effect": True,
        "effects counted in the final state": True,
        "counters count every raise once": True,
        "fencing": True,
    }


def test_a_kept_history_gets_the_same_verdicts() -> None:
    history = everything()
    history.record("p", Get("k", "linearizable"), Ok(Absent()), 7.0)
    stream = io.StringIO()
    history.dump(stream)
    again = check(History.load(stream.getvalue().splitlines()), EVIDENCE)
    assert list(map(str, again)) == list(map(str, check(history, EVIDENCE)))
    assert {v.rule for v in again if not v.ok} == {"linearizability", "read your writes", "monotonic reads"}


def test_what_the_history_says_nothing_of_is_not_called_proved() -> None:
    assert check(History()) == []


def test_a_verdict_tells_the_first_violations_and_counts_all() -> None:
    many = [Violation(f"number {n}", ("first", "second")) for n in range(VIOLATIONS_MAX + 5)]
    found = verdict("rule", 99, many, "and a bound was met")
    assert (found.status, found.found, len(found.violations)) == (
        Status.VIOLATION,
        VIOLATIONS_MAX + 5,
        VIOLATIONS_MAX,
    )
    assert "... and 5 more" in str(found)
    assert "    second" in str(found)
