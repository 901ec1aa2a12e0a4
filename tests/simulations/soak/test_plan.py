"""Plans for real processes: the same from the same seed, whole through JSON, honest about what cannot be."""

from __future__ import annotations

import itertools
import json
import math
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulations.faults import Fault, FaultKind, FaultPlan
from simulations.soak.kinds import LiveKind, kind_named
from simulations.soak.mesh import CLIENTS
from simulations.soak.path import PATH_KINDS
from simulations.soak.plan import (
    HONOURED,
    LEADER,
    PATH_FAULTS,
    PORT_FAULTS,
    SIMULATED_ONLY,
    LiveFault,
    LivePlan,
    PlanInvalid,
    WalkLimits,
    walk,
)

NODES = ["n1", "n2", "n3", "n4", "n5"]
KILL = {"kind": "kill", "nodes": ["n1"], "at_s": 0, "duration_s": 0}


def fault(kind: FaultKind | LiveKind = FaultKind.KILL, **fields: object) -> LiveFault:
    return LiveFault(**{"kind": kind, "at_s": 1.0, "duration_s": 2.0, "nodes": ("n1",)} | fields)  # type: ignore[arg-type]


def test_the_same_seed_is_the_same_plan_and_another_is_another() -> None:
    assert walk(3, NODES, 60.0) == walk(3, NODES, 60.0)
    assert len({walk(seed, NODES, 60.0) for seed in range(20)}) == 20


def test_a_walk_stays_within_its_limits() -> None:
    limits = WalkLimits()
    for seed in range(30):
        plan = walk(seed, NODES, 60.0, limits=limits)
        begins = [fault.at_s for fault in plan.faults]
        assert begins == sorted(begins)
        assert begins[0] == pytest.approx(limits.calm_s)
        assert plan.seconds <= 60.0 + 1e-9
        gaps = [later - earlier for earlier, later in itertools.pairwise(begins)]
        assert all(limits.gap_s[0] - 1e-3 <= gap <= limits.gap_s[1] + 1e-3 for gap in gaps)
        plan.check(NODES)


def test_walks_draw_every_kind_that_is_drawn_at_all() -> None:
    drawn = {kind for seed in range(60) for kind in walk(seed, NODES, 60.0).kinds}
    assert drawn == HONOURED
    assert len(drawn) >= 16


def test_a_walk_that_keeps_the_quorum_never_takes_more_than_a_minority_at_once() -> None:
    for seed in range(60):
        for found in walk(seed, NODES, 60.0, keep_quorum=True).faults:
            assert found.kind is not FaultKind.BLACKOUT
            assert len(found.nodes) <= 2, found
    several = [f for seed in range(60) for f in walk(seed, NODES, 60.0).faults if len(f.nodes) > 2]
    assert several, "without that, a walk goes further"


def test_a_walk_draws_only_what_it_may() -> None:
    kinds = {FaultKind.KILL, LiveKind.CORRUPT}
    assert walk(1, NODES, 120.0, kinds=kinds).kinds == kinds
    with pytest.raises(PlanInvalid, match="no kind of fault left"):
        walk(1, ["n1"], 60.0, kinds=[FaultKind.PARTITION])


@given(st.integers(0, 10_000), st.integers(1, 7))
def test_plans_survive_json(seed: int, size: int) -> None:
    plan = walk(seed, [f"n{number}" for number in range(size)], 20.0)
    kept = json.loads(json.dumps([found.to_dict() for found in plan.faults]))
    assert LivePlan.of(map(LiveFault.from_dict, kept)) == plan


def test_a_plan_of_the_simulated_world_is_taken_over_or_refused_by_name() -> None:
    taken, refused = set(), set()
    for kind in FaultKind:
        plan = FaultPlan((Fault(kind, 1.0, 2.0, ("n1",), ("n2",) if kind in PATH_FAULTS else (), 0.5),))
        try:
            (found,) = LivePlan.of(plan).faults
        except PlanInvalid as error:
            refused.add(str(error).partition(": not on real processes: ")[0])
        else:
            assert (found.kind, found.nodes, found.amount) == (kind, ("n1",), 0.5)
            taken.add(kind)
    assert refused == set(SIMULATED_ONLY)
    assert taken == HONOURED & set(FaultKind)


def test_a_one_way_cut_keeps_its_way() -> None:
    plan = FaultPlan((Fault(FaultKind.ONE_WAY, 0.0, 1.0, ("n1",), ("n2",)),))
    assert LivePlan.of(plan).faults[0].direction == "to"


def test_plans_of_any_draw_of_what_is_honoured_are_taken_over() -> None:
    kinds = sorted(HONOURED & set(FaultKind))
    drawn = FaultPlan.draw(random.Random(1), NODES, seconds=60.0, patience_s=0.5, kinds=kinds, count=300)
    assert {found.kind for found in LivePlan.of(drawn).faults} == set(kinds)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"nodes": ()}, "nodes is empty"),
        ({"at_s": -1.0}, "must not be negative"),
        ({"duration_s": -1.0}, "must not be negative"),
        ({"peers": ("n2",)}, "peers must be empty"),
        ({"kind": FaultKind.PARTITION, "peers": ("n1",)}, "n1 is on both sides"),
        ({"kind": FaultKind.PARTITION, "direction": "up"}, "direction is to, from or both"),
        ({"kind": FaultKind.DUPLICATE}, "duplicate: not on real processes: TCP never delivers a byte twice"),
        ({"kind": FaultKind.POWER_LOSS}, "power_loss: not on real processes"),
    ],
)
def test_contradictions_are_refused(fields: dict[str, object], told: str) -> None:
    with pytest.raises(PlanInvalid, match=told):
        fault(**fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"kind": "kill"}, "needs|required|missing"),
        ({"kind": "explode", "nodes": ["n1"]}, "there is no fault 'explode'; there are bit_flip"),
        ({"kind": "kill", "nodes": "n1", "at_s": 0, "duration_s": 0}, "nodes is a list of names"),
        ({"kind": "kill", "nodes": [], "at_s": 0, "duration_s": 0}, "nodes is empty"),
        ({"kind": "kill", "nodes": ["n1"], "at_s": 0, "duration_s": 0, "x": 1}, "no field 'x'"),
        ({"nodes": ["n1"]}, "needs the field 'kind'"),
        (5, "a mapping of fields is expected, not 5"),
        (KILL | {"at_s": math.nan}, "kill: at_s is a number, not nan"),
        (KILL | {"duration_s": math.inf}, "kill: duration_s is a number, not inf"),
        (KILL | {"amount": 10**400}, "kill: amount is a number, not 1000"),
        (KILL | {"at_s": "soon"}, "kill: at_s is a number, not 'soon'"),
        (KILL | {"errno": None}, "kill: errno is a number, not None"),
        (KILL | {"operations": math.inf}, "infinity"),
        (KILL | {"operations": []}, "int"),
    ],
)
def test_fields_that_are_wrong_are_named(values: Any, told: str) -> None:
    with pytest.raises(PlanInvalid, match=told):
        LiveFault.from_dict(values)


@pytest.mark.parametrize(
    ("faults", "told"),
    [
        (5, "^faults: a list is expected, not 5"),
        (None, "^faults: a list is expected, not None"),
        ([KILL, 5], "^fault 2: a mapping of fields is expected, not 5"),
        ([KILL | {"kind": "explode"}], "^fault 1: there is no fault 'explode'"),
    ],
)
def test_a_plan_says_which_of_its_faults_is_wrong(faults: object, told: str) -> None:
    with pytest.raises(PlanInvalid, match=told):
        LivePlan.from_plain(faults)


def test_a_plan_names_places_that_there_are() -> None:
    LivePlan((fault(nodes=(LEADER,)), fault(FaultKind.DELAY, peers=(CLIENTS,)))).check(["n1"])
    with pytest.raises(PlanInvalid, match="there is no 'n1'; there are @follower, @leader, clients, n7"):
        LivePlan((fault(),)).check(["n7"])
    with pytest.raises(PlanInvalid, match="kill: it cannot happen to the clients"):
        LivePlan((fault(nodes=(CLIENTS,)),)).check(["n1"])


def test_every_honoured_kind_is_made_to_happen_somewhere() -> None:
    processes = {
        FaultKind.KILL,
        FaultKind.BLACKOUT,
        FaultKind.PAUSE,
        LiveKind.CPU_STRESS,
        LiveKind.DISK_LOSS,
        FaultKind.DISK_FULL,
    }
    connections = {FaultKind.RESET, FaultKind.HALF_OPEN}
    assert processes | connections | PORT_FAULTS | PATH_KINDS == HONOURED
    assert all(kind_named(str(kind)) is kind for kind in HONOURED)
