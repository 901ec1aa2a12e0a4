"""The bar of scheduling, in virtual time: the same seeds give the same figures everywhere."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from click.testing import CliRunner

from mcp.cluster.scheduler.account import AccountLimits
from mcp.cluster.scheduler.strategies import (
    LEAST_LOADED,
    PREDICTED_COMPLETION,
    PRIORITY_QUEUE,
    ROUND_ROBIN,
    STRATEGIES,
    SchedulerSettings,
)
from simulations.scheduling.__main__ import scheduling
from simulations.scheduling.compare import RATIO, capacity
from simulations.scheduling.cost import costs
from simulations.scheduling.fleet import FLEETS
from simulations.scheduling.trial import Trial, run

SECONDS = 10.0


def trial(fleet: str, strategy: str, rate: float, seed: int, schedulers: int) -> Trial:
    return Trial(fleet, SchedulerSettings(default=strategy), rate, seed, schedulers, seconds=SECONDS)


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("schedulers", [1, 6])
@pytest.mark.parametrize(("fleet", "load"), [("mixed", 180.0), ("one-slow", 220.0)])
def test_predicted_completion_meets_the_bar(fleet: str, load: float, schedulers: int, seed: int) -> None:
    """More than 1.5 times round robin's throughput at its percentile, and half its percentile at its load."""
    yardstick = run(trial(fleet, ROUND_ROBIN, load, seed, schedulers))
    same_load = run(trial(fleet, PREDICTED_COMPLETION, load, seed, schedulers))
    more_load = run(trial(fleet, PREDICTED_COMPLETION, load * RATIO, seed, schedulers))
    assert yardstick.at(0.99) < SECONDS, "round robin is not overloaded from the start"
    assert same_load.at(0.99) <= yardstick.at(0.99) / 2
    assert more_load.at(0.99) <= yardstick.at(0.99)
    assert more_load.throughput(SECONDS) >= 1.4 * yardstick.throughput(SECONDS)
    assert more_load.refused == 0


@pytest.mark.parametrize("seed", [1, 2])
def test_knowing_the_sizes_beats_knowing_the_queues(seed: int) -> None:
    found = {name: run(trial("mixed", name, 500.0, seed, 6)).at(0.99) for name in STRATEGIES}
    assert found[PREDICTED_COMPLETION] < found[LEAST_LOADED] / 2
    assert found[PREDICTED_COMPLETION] < found[PRIORITY_QUEUE] / 2
    assert found[LEAST_LOADED] < found[ROUND_ROBIN] / 2


@pytest.mark.parametrize("seed", [1, 2])
def test_counting_what_others_send_dampens_the_herd(seed: int) -> None:
    """Six schedulers with old reports: where each takes itself for the only one, all crowd one node."""
    together = trial("one-slow", PREDICTED_COMPLETION, 500.0, seed, 6)
    alone = replace(together.settings, account=AccountLimits(others_max=1.0))
    assert run(together).at(0.5) < 0.85 * run(replace(together, settings=alone)).at(0.5)


def test_the_same_trial_gives_the_same_latencies() -> None:
    for name in STRATEGIES:
        one, again = (run(replace(trial("mixed", name, 100.0, 3, 3), seconds=4.0)) for _ in range(2))
        assert one == again


def test_everything_is_answered_and_counted() -> None:
    for name in STRATEGIES:
        latencies = run(replace(trial("equal", name, 200.0, 1, 2), seconds=4.0))
        assert latencies.at(1.0) < 5.0
        assert latencies.refused == 0
        assert sum(latencies.by_node.values()) >= len(latencies.taken_s) > 400


def test_fleets_have_a_slowed_node_or_none() -> None:
    assert {name: sum(kind.slowed for kind in kinds) for name, kinds in FLEETS.items()} == {
        "mixed": 1,
        "one-slow": 1,
        "equal": 0,
    }
    assert capacity("one-slow") == capacity("equal") > 500


def test_the_costs_are_measured_for_every_strategy() -> None:
    measured = costs()
    assert [cost.strategy for cost in measured] == list(STRATEGIES)
    assert all(0 < cost.choice_median_s <= cost.choice_p99_s for cost in measured)


def test_the_command_prints_a_table_or_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("simulations.scheduling.compare.STEPS", 1)
    call = ["--fleet", "equal", "--schedulers", "1", "--seconds", "4", "--no-cost"]
    answer = CliRunner().invoke(scheduling, [*call, "--json"])
    assert answer.exit_code == 0, answer.output
    found = json.loads(answer.stdout)
    assert [standing["strategy"] for standing in found["standings"]] == list(STRATEGIES)
    assert found["bar_met"] is True
    shown = CliRunner().invoke(scheduling, call)
    assert shown.exit_code == 0
    assert all(name in shown.stdout for name in STRATEGIES)
