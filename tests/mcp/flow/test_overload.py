"""The limit of requests under way, in simulation: what overload does to goodput and latency."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from mcp.errors import ConfigInvalid
from mcp.flow.concurrency import BELIEVED_S, PRIORITIES, AdaptiveLimit, ConcurrencyConfig
from mcp.flow.config import FlowConfig
from mcp.flow.outcome import Outcome
from simulations.overload.__main__ import admission_cost_us, compared, measured, overload
from simulations.overload.batching import Batched
from simulations.overload.server import Scenario, Server, Service

LOADS = (0.8, 1.0, 2.0, 5.0)


def rows(config: FlowConfig | None, **scenario: Any) -> list[dict[str, Any]]:
    return [measured(Scenario(load=load, seconds=12.0, warm_up_s=4.0, **scenario), config) for load in LOADS]


@pytest.mark.parametrize(
    ("workers", "service"), [(1, "exponential"), (4, "exponential"), (4, "bimodal"), (16, "constant")]
)
def test_at_five_times_the_capacity_goodput_holds_and_latency_stays(workers: int, service: Service) -> None:
    found = rows(FlowConfig(), workers=workers, service=service, work_s=0.04)
    said = compared(found)
    assert said["goodput_to_peak"] >= 0.9
    assert said["p99_to_usual"] <= 2.0
    assert found[-1]["goodput_share"] >= 0.9, "of what the workers can do"
    assert found[0]["refused_share"][0] <= 0.12, "hardly anybody at a load that can be served"


def test_it_holds_too_where_nobody_says_how_long_requests_waited() -> None:
    said = compared(rows(FlowConfig(), workers=4, work_s=0.04, tells_waits=False))
    assert said["goodput_to_peak"] >= 0.9
    assert said["p99_to_usual"] <= 2.0


def batched(**scenario: Any) -> list[dict[str, Any]]:
    return [measured(Batched(load=load, **scenario), FlowConfig()) for load in (0.8, 2.0, 5.0)]


MODELS = {
    "its weights take long to read": {"fixed_s": 0.007, "each_s": 0.0008, "seconds": 6.0, "warm_up_s": 3.0},
    "every row costs": {"fixed_s": 0.0005, "each_s": 0.0075, "seconds": 20.0, "warm_up_s": 4.0},
    "quick": {"fixed_s": 0.002, "each_s": 0.0003, "seconds": 1.5, "warm_up_s": 2.0},
    "slow": {"fixed_s": 0.05, "each_s": 0.02, "seconds": 60.0, "warm_up_s": 10.0},
}


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("workers", [2, 4])
def test_it_holds_too_where_requests_run_together(model: str, workers: int) -> None:
    """To wait for company is no overload: the more come at once, the more are done at once."""
    found = batched(workers=workers, **MODELS[model])
    said = compared(found)
    assert said["goodput_to_peak"] >= 0.9
    assert said["p99_to_usual"] <= 2.0
    assert found[-1]["goodput_share"] >= 0.9, "of what full batches can do"
    assert found[0]["refused_share"][0] <= 0.05


def test_one_that_knows_latencies_alone_keeps_batches_small() -> None:
    """What nodes did before they told how long requests waited: this is what the others are held against."""
    found = batched(tells_waits=False, **MODELS["its weights take long to read"])
    assert found[-1]["goodput_share"] < 0.5
    assert found[0]["refused_share"][0] > 0.5, "below what can be done"


def test_without_admission_goodput_collapses() -> None:
    """That is what the others are compared with: a simulation that cannot show it shows nothing."""
    found = rows(None, workers=4, work_s=0.04)
    assert found[-1]["goodput_share"] < 0.05
    assert compared(found)["p99_to_usual"] > 20


def test_low_priority_is_refused_first() -> None:
    scenario = Scenario(load=5.0, priorities=(0.1, 0.9), work_s=0.04, seconds=30.0)
    figures = Server(scenario, FlowConfig()).run()
    assert figures.refused_share(0) <= 0.06, "half of what there is would do for them"
    assert figures.refused_share(1) >= 0.8
    assert figures.goodput >= 0.9 * scenario.workers / scenario.work_s


def test_high_priority_alone_takes_all_of_it_and_low_priority_comes_back_when_it_goes() -> None:
    scenario = Scenario(load=5.0, priorities=(0.5, 0.5), work_s=0.04, seconds=20.0)
    figures = Server(scenario, FlowConfig()).run()
    assert figures.refused_share(1) >= 0.99
    alone = Server(Scenario(load=0.5, priorities=(0.0, 1.0), seconds=10.0), FlowConfig()).run()
    assert alone.refused_share(1) == 0.0


def test_what_is_let_in_is_answered_in_time_where_deadlines_are_told() -> None:
    scenario = Scenario(load=5.0, timeout_s=0.08, work_s=0.04, service="constant", seconds=10.0)
    told = Server(scenario, FlowConfig()).run()
    untold = Server(
        Scenario(load=5.0, timeout_s=0.08, work_s=0.04, service="constant", seconds=10.0, deadlines=False),
        FlowConfig(),
    ).run()
    assert told.good > untold.good
    assert told.late / (told.good + told.late) < untold.late / (untold.good + untold.late)


def test_the_same_seed_gives_the_same_run() -> None:
    runs = [measured(Scenario(load=2.0, seconds=2.0, seed=seed), FlowConfig()) for seed in (3, 3, 4)]
    assert runs[0] == runs[1] != runs[2]


def test_the_script_prints_its_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("simulations.overload.__main__.LOADS", (0.8, 1.5))
    result = CliRunner().invoke(overload, ["--seconds", "1", "--workers", "2", "--json"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.output)["results"]
    assert set(found["with admission"]) == {"rows", "goodput_to_peak", "p99_to_usual"}
    assert len(found) == 5
    assert "of the peak's goodput" in CliRunner().invoke(overload, ["--seconds", "1"]).output
    cost = CliRunner().invoke(overload, ["--cost"])
    assert "admit" in cost.output


def test_the_micro_benchmark_runs() -> None:
    assert set(admission_cost_us(10)) == {"breaker and load", "and two rates"}


# -- the limit itself -----------------------------------------------------------------------------

CONFIG = ConcurrencyConfig(initial=8, most=64, window_s=0.1, window_calls=5)


def feed(limit: AdaptiveLimit, windows: int, waited_s: float, work_s: float = 0.01, at: float = 0.0) -> float:
    """So many windows in which the limit is used and requests wait that long."""
    now = at
    for _ in range(windows):
        taken = []
        while (ahead := limit.admit(now)) >= 0 and len(taken) < 100:
            taken.append(ahead)
        now += 0.1
        for ahead in taken:
            limit.done(ahead, Outcome.SUCCEEDED, waited_s + work_s, now, waited_s)
    return now


def test_it_grows_while_it_is_used_and_nobody_waits_and_no_further_than_it_may() -> None:
    limit = AdaptiveLimit(CONFIG)
    feed(limit, 3, 0.0)
    assert 8 < limit.limit < 20
    feed(limit, 60, 0.0, at=10.0)
    assert limit.limit == 64


def test_it_shrinks_while_requests_wait_and_no_further_than_it_may() -> None:
    limit = AdaptiveLimit(CONFIG)
    feed(limit, 1, 1.0)
    assert limit.limit == 4, "no more than half at once"
    now = 1.0
    for _ in range(200):
        ahead = limit.admit(now)
        now += 0.05
        limit.done(ahead, Outcome.SUCCEEDED, 1.0, now, 0.99)
    assert limit.limit == 1


def test_it_does_not_grow_while_it_is_not_used() -> None:
    limit, now = AdaptiveLimit(CONFIG), 0.0
    for _ in range(100):
        ahead = limit.admit(now)
        now += 0.1
        limit.done(ahead, Outcome.SUCCEEDED, 0.01, now, 0.0)
    assert limit.limit == 8


@given(
    st.lists(
        st.tuples(st.booleans(), st.integers(0, PRIORITIES - 1), st.sampled_from(Outcome), st.floats(0, 0.2)),
        max_size=120,
    ),
    st.booleans(),
)
def test_never_more_than_the_limit_are_under_way_and_places_are_not_lost(
    events: list[tuple[bool, int, Outcome, float]], told: bool
) -> None:
    limit, now = AdaptiveLimit(ConcurrencyConfig(initial=3, most=8, window_calls=2)), 0.0
    under_way: list[int] = []
    for admit, priority, outcome, time_s in events:
        now += time_s
        if admit:
            allowed = limit.limit
            ahead = limit.admit(now, priority)
            if ahead >= 0:
                assert ahead == len(under_way)
                assert ahead < max(1, allowed) or limit.limit > ahead
                under_way.append(ahead)
        elif under_way:
            limit.done(under_way.pop(0), outcome, time_s, now, time_s / 2 if told else None)
        assert limit.in_flight == len(under_way)
        assert 1 <= limit.limit <= 8


def test_the_limit_that_is_told_is_the_one_that_holds() -> None:
    """It shrinks by parts of a place."""
    limit, now = AdaptiveLimit(ConcurrencyConfig(initial=3, most=8, window_calls=2)), 0.0
    told: set[int] = set()
    for _ in range(60):
        let_in = [ahead for ahead in (limit.admit(now) for _ in range(10)) if ahead >= 0]
        assert len(let_in) == limit.limit
        told.add(limit.limit)
        now += 0.125
        for ahead in let_in:
            limit.done(ahead, Outcome.SUCCEEDED, 0.125, now, 0.0625 * (limit.limit > 1))
    assert len(told) > 3, "it went up and down"


def test_faults_and_those_who_leave_say_nothing_about_the_load() -> None:
    limit = AdaptiveLimit(CONFIG)
    for number in range(100):
        limit.done(limit.admit(number), Outcome.FAILED, 60.0, number, 59.0)
        limit.done(limit.admit(number), Outcome.ABANDONED, 60.0, number, 59.0)
    assert (limit.limit, limit.in_flight, limit.work_s) == (8, 0, None)


def test_the_latency_without_waiting_is_measured_one_by_one_for_a_limited_time() -> None:
    limit, now = AdaptiveLimit(ConcurrencyConfig(initial=8, baseline_s=10.0, baseline_calls=3)), 0.0
    limit.done(limit.admit(now), Outcome.SUCCEEDED, 0.01, now)
    taken = [limit.admit(11.0) for _ in range(4)]
    limit.done(taken[3], Outcome.SUCCEEDED, 0.01, 11.0)
    assert limit.limit == 1
    assert limit.admit(11.5) == -1
    assert limit.admit(12.0) >= 0, "one that takes for ever must not hold up the others"
    assert limit.limit == 8


def test_what_is_expected_is_work_and_wait_and_only_believed_for_a_while() -> None:
    limit = AdaptiveLimit(CONFIG)
    assert limit.expected_s(0.0) is None
    now = feed(limit, 2, 0.02)
    assert limit.in_flight == 0
    assert limit.expected_s(now) == (pytest.approx(0.01), 0.0), "nobody is under way"
    for _ in range(4):
        limit.admit(now)
    work_s, wait_s = limit.expected_s(now) or (0.0, 0.0)
    assert (work_s, wait_s) == (pytest.approx(0.01), pytest.approx(0.02, rel=0.3))
    assert limit.expected_s(now + BELIEVED_S + 0.1) is None
    assert limit.retry_after_s() >= 0.01


def test_another_configuration_keeps_what_was_learned_within_its_bounds() -> None:
    limit = AdaptiveLimit(CONFIG)
    feed(limit, 60, 0.0)
    limit.configure(ConcurrencyConfig(initial=2, most=10))
    assert limit.limit == 10


@pytest.mark.parametrize(
    "make",
    [
        lambda: ConcurrencyConfig(least=0),
        lambda: ConcurrencyConfig(initial=5, least=6),
        lambda: ConcurrencyConfig(initial=5, most=4),
        lambda: ConcurrencyConfig(wait_share=0.0),
        lambda: ConcurrencyConfig(window_s=float("nan")),
        lambda: ConcurrencyConfig(window_calls=0),
        lambda: ConcurrencyConfig(baseline_calls=0),
    ],
)
def test_a_configuration_that_makes_no_sense_is_refused(make: Callable[[], object]) -> None:
    with pytest.raises(ConfigInvalid):
        make()


def test_chance_is_the_scenario_s_own() -> None:
    state = random.getstate()
    Server(Scenario(load=1.0, seconds=0.5), FlowConfig()).run()
    assert random.getstate() == state
