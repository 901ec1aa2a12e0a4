"""Predicted completion: sizes, queues, what is unknown, and deadlines."""

from __future__ import annotations

import itertools
from random import Random

import pytest

from mcp.cluster.outcome import Outcome
from mcp.cluster.scheduler.interface import Request
from mcp.cluster.scheduler.load_report import LoadReport
from mcp.cluster.scheduler.strategies import Strategies

NAMES = ("fast", "slow")


def teach(scheduler: Strategies, node: str, base_s: float, slope_s: float, now: float = 0.0) -> None:
    random = Random(node)
    for number in range(60):
        request = Request(f"{node}{number}", "m", 2.0 ** random.uniform(0, 7))
        took_s = base_s + slope_s * request.size
        scheduler.started(node, request, now)
        scheduler.finished(node, request, Outcome.ANSWERED, took_s, now, service_s=took_s)


def test_small_inputs_go_to_one_node_and_large_ones_to_another() -> None:
    scheduler, random = Strategies(), Random(1)
    teach(scheduler, "cpu", 0.001, 0.001)
    teach(scheduler, "gpu", 0.020, 0.00001)
    for size, node in ((1, "cpu"), (8, "cpu"), (40, "gpu"), (120, "gpu")):
        choice = scheduler.choose(("cpu", "gpu"), Request("r", "m", size), 0.01, random)
        assert choice.node == node
    assert choice.predicted_s == pytest.approx(0.0212, rel=0.1)


def test_a_queue_counts_for_what_it_takes() -> None:
    """The node that is three times as fast gets three of four, and is never the only one."""
    scheduler, random, chosen = Strategies(), Random(1), []
    teach(scheduler, "fast", 0.01, 0.0)
    teach(scheduler, "slow", 0.03, 0.0)
    for number in range(40):
        request = Request(f"r{number}", "m", 8.0)
        choice = scheduler.choose(NAMES, request, 0.01, random)
        assert choice.node is not None
        scheduler.started(choice.node, request, 0.01)
        chosen.append(choice.node)
    assert chosen[:2] == ["fast", "fast"]
    assert chosen.count("slow") == pytest.approx(10, abs=1)
    assert choice.predicted_s == pytest.approx(0.3, rel=0.1)


def test_places_share_a_queue() -> None:
    scheduler = Strategies()
    teach(scheduler, "slow", 0.1, 0.0)
    scheduler.observed("slow", LoadReport(concurrency=4, running=4, queued={"m": 4}), 1.0)
    assert scheduler.account.wait("slow", 1.0).seconds(1.0) == pytest.approx(0.125, rel=0.05)
    assert scheduler.account.wait("slow", 1.1).seconds(1.1) == pytest.approx(0.025, rel=0.2)


def test_a_node_that_is_late_still_has_its_queue_before_it() -> None:
    scheduler = Strategies()
    teach(scheduler, "slow", 0.1, 0.0)
    for number in range(5):
        scheduler.started("slow", Request(f"r{number}", "m"), 1.0)
    assert scheduler.account.wait("slow", 1.2).seconds(1.2) == pytest.approx(0.4, rel=0.05)
    assert scheduler.account.wait("slow", 9.0).seconds(9.0) == pytest.approx(0.4, rel=0.05)


def test_without_the_nodes_own_word_the_wait_is_taken_off() -> None:
    """Ten requests in a queue of one node take 0.1 s to 1.0 s, and each of them ran for 0.1 s."""
    scheduler = Strategies()
    for round_ in range(5):
        sent = [Request(f"{round_}/{number}", "m") for number in range(10)]
        began = round_ * 10.0
        for request in sent:
            scheduler.started("slow", request, began)
        for place, request in enumerate(sent, 1):
            scheduler.finished("slow", request, Outcome.ANSWERED, 0.1 * place, began + 0.1 * place)
    assert scheduler.account.service_s("slow", "m", 1.0) == pytest.approx(0.1, rel=0.25)


def test_an_unknown_node_is_tried_and_does_not_get_everything() -> None:
    scheduler, random = Strategies(), Random(1)
    teach(scheduler, "fast", 0.01, 0.0)
    chosen = []
    for number in range(10):
        request = Request(f"r{number}", "m", 8.0)
        node = scheduler.choose(("fast", "new"), request, 0.01, random).node
        assert node is not None
        scheduler.started(node, request, 0.01)
        chosen.append(node)
    assert chosen.count("new") == 5


def test_a_node_that_was_slow_is_tried_again_with_one_request_at_a_time() -> None:
    scheduler, random = Strategies(), Random(1)
    for now in range(30):
        teach(scheduler, "fast", 0.01, 0.0, float(now))
        if now == 0:
            teach(scheduler, "slow", 0.04, 0.0, 0.0)
            assert {scheduler.choose(NAMES, Request("r", "m"), 0.01, random).node for _ in range(20)} == {
                "fast"
            }
    later = 29.05
    tried = [scheduler.choose(NAMES, Request("r", "m"), later, random).node for _ in range(40)]
    assert "slow" in tried
    scheduler.started("slow", Request("trial", "m"), later)
    assert {scheduler.choose(NAMES, Request("r", "m"), later, random).node for _ in range(20)} == {"fast"}


def test_free_places_do_not_draw_more_than_one_trial() -> None:
    scheduler, random = Strategies(), Random(1)
    for node in NAMES:
        scheduler.observed(node, LoadReport(concurrency=8), 0.0)
    teach(scheduler, "slow", 0.04, 0.0, 0.0)
    teach(scheduler, "fast", 0.01, 0.0, 60.0)
    tried = {scheduler.choose(NAMES, Request("r", "m"), 60.01, random).node for _ in range(40)}
    assert "slow" in tried
    scheduler.started("slow", Request("trial", "m"), 60.01)
    assert {scheduler.choose(NAMES, Request("r", "m"), 60.01, random).node for _ in range(20)} == {"fast"}


def test_a_report_counts_from_the_next_choice_on() -> None:
    scheduler, random = Strategies(), Random(1)
    teach(scheduler, "fast", 0.01, 0.0)
    teach(scheduler, "slow", 0.02, 0.0)
    assert scheduler.choose(NAMES, Request("r", "m"), 0.01, random).node == "fast"
    scheduler.observed("fast", LoadReport(running=1, queued={"m": 5}), 0.02)
    assert scheduler.choose(NAMES, Request("r", "m"), 0.02, random).node == "slow"


def test_a_slowed_node_loses_its_requests_after_few_answers() -> None:
    scheduler, random, now = Strategies(), Random(1), 0.0
    teach(scheduler, "fast", 0.01, 0.0)
    teach(scheduler, "slow", 0.01, 0.0)
    to_the_slow = 0
    for number in range(60):
        request = Request(f"r{number}", "m", 8.0)
        node = scheduler.choose(NAMES, request, now, random).node
        assert node is not None
        took_s = 0.04 if node == "slow" else 0.01
        scheduler.started(node, request, now)
        now += took_s
        scheduler.finished(node, request, Outcome.ANSWERED, took_s, now)
        to_the_slow += node == "slow"
    assert 1 <= to_the_slow <= 6


def test_what_the_node_says_is_used_until_it_is_measured() -> None:
    scheduler = Strategies()
    scheduler.observed("fast", LoadReport(service_s={"m": 0.01}), 0.0)
    scheduler.observed("slow", LoadReport(service_s={"m": 0.5}), 0.0)
    for seed in range(10):
        assert scheduler.choose(NAMES, Request("r", "m"), 0.0, Random(seed)).node == "fast"


def test_a_deadline_that_nobody_can_meet_is_told() -> None:
    scheduler, random = Strategies(), Random(1)
    teach(scheduler, "fast", 0.5, 0.0)
    teach(scheduler, "slow", 1.0, 0.0)
    hopeless = scheduler.choose(NAMES, Request("r", "m", deadline=0.1), 0.01, random)
    assert hopeless.too_late
    assert hopeless.node == "fast"
    assert not scheduler.choose(NAMES, Request("r", "m", deadline=0.6), 0.01, random).too_late
    assert not scheduler.choose(NAMES, Request("r", "m"), 0.01, random).too_late
    # It may be that the third is quick enough, and nobody can know.
    assert not scheduler.choose((*NAMES, "new"), Request("r", "m", deadline=0.1), 0.01, random).too_late


def test_times_that_vary_leave_more_hope() -> None:
    scheduler, random = Strategies(), Random(1)
    for number in range(200):
        request, took_s = Request(f"r{number}", "m"), 0.5 * random.lognormvariate(0, 0.5)
        scheduler.started("fast", request, 0.0)
        scheduler.finished("fast", request, Outcome.ANSWERED, took_s, 0.0, service_s=took_s)
    choice = scheduler.choose(("fast",), Request("r", "m", deadline=0.3), 0.01, random)
    assert choice.deviation_s is not None
    assert choice.deviation_s > 0.15
    assert not choice.too_late


def test_ties_are_spread_over_the_nodes() -> None:
    names = [f"n{number}" for number in range(5)]
    chosen = {Strategies().choose(names, Request("r", "m"), 0.0, Random(seed)).node for seed in range(60)}
    assert chosen == set(names)


def test_many_models_do_not_fill_the_memory() -> None:
    scheduler, random = Strategies(), Random(1)
    for number in itertools.islice(itertools.count(), 300):
        scheduler.choose(NAMES, Request("r", f"m{number}"), 0.0, random)
    strategy = scheduler._default
    assert len(strategy._tables) <= 66  # type: ignore[attr-defined]
