"""Whole runs of the engine level: clean, equal and void ones. What must not be clean is in `../mutants`."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from simulations.engine.cluster import Cluster
from simulations.engine.scenario import Scenario
from simulations.faults import LINK_KINDS, Fault, FaultKind, FaultPlan
from simulations.levels import LEVELS, run_seed
from simulations.verdict import Outcome, Verdict

REPOSITORY = Path(__file__).resolve().parents[3]
FAILED_SEEDS = Path(__file__).parents[1] / "failed_seeds.txt"


def failed_seeds() -> Iterator[int]:
    for line in FAILED_SEEDS.read_text().splitlines():
        if line and not line.startswith("#"):
            yield int(line.split()[0])


def run(seed: int, *, seconds: float = 60.0, plan: FaultPlan | None = None) -> Outcome:
    scenario = replace(Scenario.draw(seed), seconds=seconds)
    return Cluster(scenario if plan is None else replace(scenario, plan=plan)).run()


@pytest.mark.parametrize("seed", list(failed_seeds()))
def test_a_seed_that_once_failed_does_not_fail_again(seed: int) -> None:
    outcome = run_seed(LEVELS["engine"], seed)
    assert outcome.verdict is Verdict.CLEAN, f"{outcome.reason}; {outcome.command}"


def test_seeds_are_clean_and_their_faults_fire() -> None:
    fired: Counter[str] = Counter()
    sizes = set()
    for seed in range(2000, 2010):
        outcome = run(seed)
        assert outcome.verdict is Verdict.CLEAN, f"{outcome.reason}; {outcome.command}"
        assert outcome.virtual_seconds >= 60
        assert outcome.counts["applied"] > 0
        fired.update(outcome.faults)
        sizes.add(outcome.nodes)
    assert len(fired) >= 16
    assert len(sizes) >= 4


def test_the_same_seed_is_the_same_run_in_another_process_and_under_another_hash_seed() -> None:
    def elsewhere(hash_seed: str) -> str:
        code = (
            "from simulations.levels import LEVELS, run_seed; "
            "print(run_seed(LEVELS['engine'], 5, seconds=20).trace_hash)"
        )
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(REPOSITORY)}
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    here = run_seed(LEVELS["engine"], 5, seconds=20).trace_hash
    assert elsewhere("1") == elsewhere("2") == here
    assert run_seed(LEVELS["engine"], 6, seconds=20).trace_hash != here


def test_a_plan_whose_faults_have_no_effect_makes_a_run_void() -> None:
    nothing = FaultPlan((Fault(FaultKind.LOSS, 5.0, 1.0, ("n1",), ("n2",), 0.0),))
    # A seed whose links lose no requests for votes, which would be an effect.
    assert run(5, seconds=10, plan=nothing).verdict is Verdict.VOID
    assert run(5, seconds=10, plan=FaultPlan()).verdict is Verdict.CLEAN


def three_nodes() -> int:
    return next(seed for seed in range(100) if len(Scenario.draw(seed).nodes) == 3)


@pytest.mark.parametrize("kind", FaultKind)
def test_every_kind_of_fault_fires(kind: FaultKind) -> None:
    amount = {
        FaultKind.CLOCK_DRIFT: 1.2,
        FaultKind.LOSS: 0.5,
        FaultKind.DUPLICATE: 0.5,
        FaultKind.THROTTLE: 1000.0,
        FaultKind.DISK_FULL: 1.0,
        FaultKind.IO_ERROR: 0.0,
        FaultKind.TORN_WRITE: 1.0,
    }.get(kind, 0.3)
    every = ("n1", "n2", "n3")
    sides = (("n1",), ("n2", "n3"))
    nodes, peers = (every[:1], ()) if kind not in LINK_KINDS else sides
    faults = [Fault(kind, at, 2.0, nodes, peers, amount) for at in (8.0, 19.0)]
    if kind is FaultKind.BIT_FLIP:
        # It is noticed when the disk is read.
        faults.append(Fault(FaultKind.KILL, 19.1, 1.0, nodes))
    outcome = run(three_nodes(), seconds=25, plan=FaultPlan(tuple(faults)))
    assert outcome.verdict is Verdict.CLEAN, outcome.reason
    assert outcome.faults.get(str(kind), 0) > 0


def test_a_leader_is_cut_off_in_the_middle_of_a_burst_and_the_cluster_comes_back() -> None:
    cluster = Cluster(replace(Scenario.draw(three_nodes()), seconds=20.0, plan=FaultPlan()))
    cluster._ambush._per_burst = 1.0
    outcome = cluster.run()
    assert outcome.verdict is Verdict.CLEAN, outcome.reason
    assert outcome.faults["one_way"] > 0
    assert outcome.counts["terms"] > 1
    assert outcome.counts["applied"] > 0
