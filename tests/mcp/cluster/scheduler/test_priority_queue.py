"""The priority queue as a strategy: places, order, and who waits."""

from __future__ import annotations

from random import Random

import pytest

from mcp.cluster.outcome import Outcome
from mcp.cluster.scheduler.interface import Request
from mcp.cluster.scheduler.load_report import LoadReport
from mcp.cluster.scheduler.strategies import PRIORITY_QUEUE, SchedulerSettings, Strategies
from mcp.errors import Busy

NAMES = ("a", "b")


def full(**settings: float) -> Strategies:
    """Two nodes with one place each, both taken."""
    scheduler = Strategies(SchedulerSettings(default=PRIORITY_QUEUE, **settings))  # type: ignore[arg-type]
    for node in NAMES:
        choice = scheduler.choose(NAMES, Request(f"on {node}", "m"), 0.0, Random(1))
        assert choice.node is not None
        scheduler.started(choice.node, Request(f"on {node}", "m"), 0.0)
    return scheduler


def handed_out(scheduler: Strategies, now: float) -> tuple[str, str | None] | None:
    found = scheduler.next(lambda _: NAMES, now, Random(1))
    if found is None:
        return None
    request, choice = found
    assert choice.node is not None
    scheduler.started(choice.node, request, now)
    return request.id, choice.node


def end(scheduler: Strategies, node: str, now: float) -> None:
    for name in NAMES:
        if scheduler.account.in_flight(node):
            scheduler.finished(node, Request(f"on {name}", "m"), Outcome.ANSWERED, 0.1, now)


def test_a_free_place_is_given_at_once_and_then_requests_wait() -> None:
    scheduler = full()
    assert {scheduler.account.in_flight(node) for node in NAMES} == {1}
    choice = scheduler.choose(NAMES, Request("r", "m"), 0.0, Random(1))
    assert choice.node is None
    assert "waits" in choice.reason
    assert scheduler.waiting == 1
    assert handed_out(scheduler, 0.0) is None


def test_the_most_urgent_gets_the_next_place() -> None:
    scheduler = full()
    for name, priority, deadline in (("c", 0, None), ("d", 3, 5.0), ("e", 3, 2.0), ("f", 1, 0.5)):
        scheduler.choose(NAMES, Request(name, "m", priority=priority, deadline=deadline), 0.0, Random(1))
    order = []
    for step in range(4):
        now = 0.1 + step / 100
        end(scheduler, "b", now)
        while (found := handed_out(scheduler, now)) is not None:
            order.append(found[0])
            assert found[1] == "b"
            scheduler.finished("b", Request(found[0], "m"), Outcome.ANSWERED, 0.0, now)
    assert order == ["e", "d", "f", "c"]
    assert scheduler.waiting == 0


def test_newcomers_do_not_overtake_those_who_wait() -> None:
    scheduler = full()
    scheduler.choose(NAMES, Request("first", "m"), 0.0, Random(1))
    end(scheduler, "a", 0.1)
    assert scheduler.choose(NAMES, Request("second", "m"), 0.1, Random(1)).node is None
    assert handed_out(scheduler, 0.1) == ("first", "a")


def test_one_models_queue_does_not_keep_another_waiting() -> None:
    scheduler = full()
    scheduler.choose(NAMES, Request("r", "m"), 0.0, Random(1))
    assert scheduler.choose(("c",), Request("s", "n"), 0.0, Random(1)).node == "c"


def test_a_queue_that_is_full_refuses() -> None:
    scheduler = full(waiting_max=1)
    scheduler.choose(NAMES, Request("r", "m"), 0.0, Random(1))
    assert scheduler.choose(NAMES, Request("r", "m"), 0.0, Random(1)).node is None, "asked twice"
    with pytest.raises(Busy):
        scheduler.choose(NAMES, Request("s", "m"), 0.0, Random(1))
    assert scheduler.waiting == 1


def test_deadlines_pass_and_callers_go_away() -> None:
    scheduler = full()
    late, gone = Request("late", "m", deadline=1.0), Request("gone", "m")
    for request in (late, gone):
        scheduler.choose(NAMES, request, 0.0, Random(1))
    assert scheduler.expired(0.9) == []
    assert scheduler.expired(1.0) == [late]
    assert scheduler.cancel(gone)
    assert not scheduler.cancel(gone)
    assert scheduler.waiting == 0


def test_places_of_other_schedulers_requests_are_taken() -> None:
    scheduler = Strategies(SchedulerSettings(default=PRIORITY_QUEUE))
    scheduler.observed("a", LoadReport(concurrency=4, running=4), 0.0)
    scheduler.observed("b", LoadReport(concurrency=4, running=3), 0.0)
    for seed in range(10):
        assert scheduler.choose(NAMES, Request("r", "m"), 0.0, Random(seed)).node == "b"
    assert scheduler.choose(("a",), Request("r", "m"), 0.0, Random(1)).node is None


def test_nobody_eligible_leaves_it_waiting() -> None:
    scheduler = full()
    scheduler.choose(NAMES, Request("r", "m"), 0.0, Random(1))
    end(scheduler, "a", 0.1)
    assert scheduler.next(lambda _: (), 0.1, Random(1)) is None
    assert scheduler.waiting == 1
