"""Plans are data: drawn, written down, read back, shortened."""

from __future__ import annotations

import json
import random

import pytest

from simulations.faults import LINK_KINDS, SURE, Fault, FaultKind, FaultPlan

NODES = ("n1", "n2", "n3")


def drawn(seed: int = 1, nodes: tuple[str, ...] = NODES, fragile: tuple[str, ...] = ("n2",)) -> FaultPlan:
    return FaultPlan.draw(
        random.Random(seed),
        nodes,
        seconds=60.0,
        patience_s=1.0,
        kinds=list(FaultKind),
        count=300,
        fragile=fragile,
    )


def test_a_plan_is_drawn_in_order_within_its_time_and_from_its_seed() -> None:
    plan = drawn()
    times = [fault.at_s for fault in plan.faults]
    assert times == sorted(times)
    assert all(fault.at_s >= 0 and fault.at_s + fault.duration_s <= 60.0 for fault in plan.faults)
    assert {fault.kind for fault in plan.faults} == set(FaultKind)
    assert plan == drawn()
    assert plan != drawn(2)


def test_links_have_two_sides_and_bits_flip_on_fragile_nodes_alone() -> None:
    for fault in drawn().faults:
        assert set(fault.nodes).isdisjoint(fault.peers)
        assert bool(fault.peers) == (fault.kind in LINK_KINDS) or fault.nodes == NODES
        if fault.kind is FaultKind.BIT_FLIP:
            assert fault.nodes == ("n2",)
        if fault.kind is FaultKind.BLACKOUT:
            assert fault.nodes == NODES


def test_what_is_not_possible_is_not_drawn() -> None:
    kinds = {fault.kind for fault in drawn(nodes=("n1",), fragile=()).faults}
    assert kinds == set(FaultKind) - LINK_KINDS - {FaultKind.BIT_FLIP}


def test_a_fault_survives_json() -> None:
    for fault in drawn().faults:
        assert Fault.from_dict(json.loads(json.dumps(fault.to_dict()))) == fault


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"knd": "loss"}, "no field 'knd'"),
        ({"kind": "meteor"}, "meteor"),
        ({"at_s": -1}, "must not be negative"),
    ],
)
def test_a_fault_that_makes_no_sense_is_refused_by_name(change: dict[str, object], complaint: str) -> None:
    fields = Fault(FaultKind.LOSS, 1.0, 1.0, ("n1",), ("n2",), 0.5).to_dict()
    with pytest.raises(ValueError, match=complaint):
        Fault.from_dict(fields | change)
    del fields["at_s"]
    with pytest.raises(ValueError, match="needs the field 'at_s'"):
        Fault.from_dict(fields)


def test_some_faults_are_kept_by_their_numbers() -> None:
    plan = drawn()
    assert plan.keep((7, 2, 2, 10_000)).faults == (plan.faults[2], plan.faults[7])
    assert plan.keep(()).faults == ()


def test_a_plan_is_made_sure_to_have_an_effect() -> None:
    sure = drawn().made_sure(random.Random(1), NODES, 60.0)
    assert any(fault.kind in SURE for fault in sure.faults)
    unsure = FaultPlan((Fault(FaultKind.DISK_FULL, 1.0, 1.0, ("n1",)),))
    killed = unsure.made_sure(random.Random(1), NODES, 60.0)
    assert [fault.kind for fault in killed.faults if fault not in unsure.faults] == [FaultKind.KILL]
    assert killed.made_sure(random.Random(2), NODES, 60.0) == killed
