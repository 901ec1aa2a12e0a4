"""What happened in a run is written down, and that it is written down changes nothing."""

from __future__ import annotations

import pytest

from simulations.checking.history import History
from simulations.checking.operations import (
    CompareAndSet,
    Conflict,
    Failed,
    Get,
    Ok,
    Put,
    Submit,
    Unknown,
    Written,
)
from simulations.chronicle import COMMITS_APART_S, Call, Commit, Recording, Role
from simulations.levels import LEVELS, run_seed


@pytest.mark.parametrize(
    ("level", "seed", "seconds"), [("engine", 4, 20.0), ("engine", 8, 20.0), ("node", 7, 6.0)]
)
def test_a_run_is_the_same_whether_somebody_writes_or_not(level: str, seed: int, seconds: float) -> None:
    recording = Recording()
    silent = run_seed(LEVELS[level], seed, seconds=seconds)
    told = run_seed(LEVELS[level], seed, seconds=seconds, chronicle=recording)
    assert silent.trace_hash == told.trace_hash
    assert silent.to_dict() == told.to_dict()
    assert recording.roles
    assert recording.commits
    assert recording.made
    assert recording.healed_s == pytest.approx(seconds)


def test_every_proposal_and_every_fault_of_a_run_is_written_down() -> None:
    recording = Recording()
    outcome = run_seed(LEVELS["engine"], 26, chronicle=recording)
    ended = [call.ended for call in recording.made]
    unheard = outcome.counts["submitted"] - len(ended)
    assert 0 <= unheard < len(ended) / 10, "only what was under way when its node died has no end"
    assert ended.count("ok") == outcome.counts["applied"]
    assert ended.count("unknown") == outcome.counts["OUTCOME_UNKNOWN"]
    assert ended.count("failed") == outcome.counts["NOT_LEADER"] + outcome.counts["refused DISK_FULL"]
    assert len(recording.faults) == len(LEVELS["engine"].plan(26).faults)
    assert len({role.term for role in recording.roles if role.role == "leader"}) == outcome.counts["terms"]
    assert sum(life.state == "up" for life in recording.lives) == outcome.counts["starts"]
    assert all(rule.checked for rule in recording.rules)


def test_what_is_said_again_is_no_news_until_the_node_has_died() -> None:
    made = Recording()
    for at_s in (1.0, 2.0):
        made.role(at_s, "n1", "leader", 3, "n1")
        made.commit(at_s, "n1", 7)
    assert made.roles == [Role(1.0, "n1", "leader", 3, "n1")]
    assert made.commits == [Commit(1.0, "n1", 7)]
    made.life(3.0, "n1", "down")
    made.life(4.0, "n1", "up")
    made.role(4.0, "n1", "leader", 3, "n1")
    made.commit(4.0, "n1", 7)
    assert len(made.roles) == len(made.commits) == 2


def test_steps_of_a_commit_index_that_nobody_can_tell_apart_are_one() -> None:
    made = Recording()
    made.commit(1.0, "n1", 1)
    made.commit(1.0 + COMMITS_APART_S / 2, "n1", 2)
    made.commit(1.0, "n2", 5)
    made.commit(1.0 + COMMITS_APART_S / 2, "n1", 3)
    made.commit(1.0 + 2 * COMMITS_APART_S, "n1", 4)
    assert made.commits == [
        Commit(1.0, "n1", 3),
        Commit(1.0, "n2", 5),
        Commit(1.0 + 2 * COMMITS_APART_S, "n1", 4),
    ]


def test_a_history_becomes_calls() -> None:
    history, made = History(), Recording()
    history.record("a", Put("k", 1), Ok(Written(1)), 1.0)
    history.record("a", Put("k", 2), Unknown("OUTCOME_UNKNOWN"), 2.0)
    history.record("a", Get("k", "linearizable"), Failed("NO_LEADER"), 3.0)
    history.record("a", CompareAndSet("k", 3, 7), Ok(Conflict(1, 1)), 3.5)
    history.invoke("a", Submit("t"), 4.0)
    made.calls(history)
    assert [(call.sort, call.ended, call.write) for call in made.made] == [
        ("put", "ok", True),
        ("put", "unknown", True),
        ("get (linearizable)", "failed", False),
        ("compare and set", "ok", False),
        ("submit (durable)", "unknown", False),
    ]
    assert made.made[-1] == Call(4.0, None, "submit (durable)", "unknown", False)
