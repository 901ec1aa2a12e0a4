"""Which node is asked next."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from mcp.client.kinds import CallKind
from mcp.client.routing import Routing, RoutingLimits
from mcp.cluster.outcome import Outcome

SEEDS = ["a:1", "b:1", "c:1"]


def routing(seeds: list[str] = SEEDS, **limits: Any) -> Routing:
    return Routing(seeds, random.Random(7), RoutingLimits(**limits))


def fail(found: Routing, address: str, now: float) -> None:
    found.started(CallKind.READ, address, now)
    found.finished(CallKind.READ, address, Outcome.FAILED, now, 0.0)


def answer(found: Routing, address: str, now: float, elapsed_s: float = 0.01) -> None:
    found.started(CallKind.INFER, address, now)
    found.finished(CallKind.INFER, address, Outcome.ANSWERED, now, elapsed_s)


class NeverToANodeInBackoff(RuleBasedStateMachine):
    """Whatever was learned and whatever failed: who is set aside is not asked while another is not."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.routing = routing()

    addresses = st.sampled_from([*SEEDS, "d:1", "e:1"])
    kinds = st.sampled_from(CallKind)

    @rule(seconds=st.floats(0, 5))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(address=addresses, kind=kinds, outcome=st.sampled_from(Outcome), elapsed_s=st.floats(0, 30))
    def a_call_ends(self, address: str, kind: CallKind, outcome: Outcome, elapsed_s: float) -> None:
        self.routing.started(kind, address, self.now)
        self.routing.finished(kind, address, outcome, self.now, elapsed_s)

    @rule(address=addresses, node=st.sampled_from("xyz"))
    def connected(self, address: str, node: str) -> None:
        self.routing.connected(address, node)

    @rule(address=addresses, failed=st.booleans())
    def disconnected(self, address: str, failed: bool) -> None:
        self.routing.disconnected(address, self.now, failed=failed)

    @rule(node=st.one_of(st.none(), st.sampled_from("xyz")))
    def somebody_names_the_leader(self, node: str | None) -> None:
        self.routing.leader_is(node)

    @rule(members=st.dictionaries(st.sampled_from("xyz"), addresses))
    def members_are_learned(self, members: dict[str, str]) -> None:
        self.routing.learn(members.items())

    @invariant()
    def seeds_are_never_forgotten(self) -> None:
        assert self.routing.addresses[: len(SEEDS)] == SEEDS

    @rule(kind=kinds, to_leader=st.booleans(), avoid=st.sets(addresses))
    def a_pick_is_never_set_aside_without_need(
        self, kind: CallKind, to_leader: bool, avoid: set[str]
    ) -> None:
        found, now = self.routing, self.now
        picked = found.pick(kind, now, avoid=avoid, to_leader=to_leader)
        ready = [address for address in found.addresses if not found.in_backoff(address, now)]
        assert picked in (ready or found.addresses)
        if found.untried(now, avoid):
            assert picked not in avoid


TestNeverToANodeInBackoff = NeverToANodeInBackoff.TestCase


def test_commands_go_to_the_leader_and_direct_inference_does_not() -> None:
    found = routing()
    for address, node in zip(SEEDS, "xyz", strict=True):
        found.connected(address, node)
    found.leader_is("y")
    assert {found.pick(CallKind.COMMAND, 0.0) for _ in range(20)} == {"b:1"}
    assert {found.pick(CallKind.READ, 0.0, to_leader=True) for _ in range(20)} == {"b:1"}
    assert len({found.pick(CallKind.INFER, 0.0) for _ in range(60)}) == 3


def test_a_leader_that_fails_is_not_the_leader_any_more() -> None:
    found = routing()
    found.connected("b:1", "y")
    found.leader_is("y")
    found.finished(CallKind.INFER, "b:1", Outcome.TIMED_OUT, 1.0, 5.0)
    assert found.leader == "y"  # a slow inference says nothing about leading
    found.finished(CallKind.COMMAND, "b:1", Outcome.TIMED_OUT, 1.0, 5.0)
    assert found.leader is None
    found.leader_is("y")
    found.not_leader("b:1")
    assert found.leader is None
    found.leader_is("y")
    fail(found, "b:1", 1.0)
    assert found.leader is None


def test_backoff_doubles_with_failures_in_a_row_and_ends_with_an_answer() -> None:
    found = routing(["a:1"])
    now, waits = 0.0, []
    for _ in range(12):
        fail(found, "a:1", now)
        began = now
        while found.in_backoff("a:1", now):
            now += 0.001
        waits.append(now - began)
    assert 0.02 < waits[0] <= 0.052
    for index, wait in enumerate(waits):
        ceiling = min(2.0, 0.05 * 2**index)
        assert ceiling * 0.5 - 0.001 <= wait <= ceiling + 0.002
    answer(found, "a:1", now)
    fail(found, "a:1", now)
    assert not found.in_backoff("a:1", now + 0.051)


def test_one_failure_that_many_callers_see_counts_once() -> None:
    found = routing(["a:1"])
    for _ in range(1000):
        found.started(CallKind.READ, "a:1", 5.0)
    for _ in range(1000):
        found.finished(CallKind.READ, "a:1", Outcome.FAILED, 5.0, 0.0)
    assert not found.in_backoff("a:1", 5.051)


def test_many_clients_do_not_come_back_together() -> None:
    returns = set()
    for seed in range(50):
        found = Routing(["a:1"], random.Random(seed))
        fail(found, "a:1", 0.0)
        now = 0.0
        while found.in_backoff("a:1", now):
            now += 0.001
        returns.add(round(now, 3))
    assert len(returns) > 10


def test_load_goes_where_there_is_less_of_it() -> None:
    found = routing()
    for address in SEEDS:
        found.connected(address, address[0])
        answer(found, address, 0.0, elapsed_s=0.03 if address == "c:1" else 0.01)
    shares: Counter[str] = Counter()
    for _ in range(3000):
        address = found.pick(CallKind.INFER, 0.0)
        shares[address] += 1
        found.started(CallKind.INFER, address, 0.0)  # and never finished: queues grow
    assert 2.7 < shares["a:1"] / shares["c:1"] < 3.3
    assert 0.9 < shares["a:1"] / shares["b:1"] < 1.1


def test_a_busy_node_is_spared_and_tried_again_later() -> None:
    found = routing(["a:1", "b:1"])
    for address in ("a:1", "b:1"):
        found.connected(address, address[0])
        answer(found, address, 0.0)
    found.started(CallKind.INFER, "a:1", 0.0)
    found.finished(CallKind.INFER, "a:1", Outcome.REFUSED, 0.0, 0.0001)
    assert {found.pick(CallKind.INFER, 0.1) for _ in range(50)} == {"b:1"}
    answer(found, "b:1", 60.0)
    assert "a:1" in {found.pick(CallKind.INFER, 60.0) for _ in range(50)}


def test_a_node_without_a_connection_is_asked_only_if_no_other_is_left() -> None:
    found = routing()
    found.connected("a:1", "x")
    assert {found.pick(CallKind.INFER, 0.0) for _ in range(20)} == {"a:1"}
    assert found.pick(CallKind.INFER, 0.0, avoid={"a:1"}) in {"b:1", "c:1"}
    assert found.to_connect(0.0) == ["b:1", "c:1"]


def test_members_are_learned_once_and_forgotten_when_they_leave() -> None:
    found = routing(["localhost:1"])
    found.connected("localhost:1", "x")
    found.learn([("x", "10.0.0.1:1"), ("y", "10.0.0.2:1"), ("z", "10.0.0.3:1")])
    assert found.addresses == ["localhost:1", "10.0.0.2:1", "10.0.0.3:1"]
    found.learn([("x", "10.0.0.1:1"), ("z", "10.0.0.3:1")])
    assert found.addresses == ["localhost:1", "10.0.0.3:1"]
    found.disconnected("localhost:1", 0.0, failed=True)
    found.learn([("x", "10.0.0.1:1"), ("z", "10.0.0.3:1")])
    assert found.addresses == ["localhost:1", "10.0.0.3:1", "10.0.0.1:1"]
    assert found.address_of("z") == "10.0.0.3:1"
    assert found.node_id("10.0.0.3:1") == "z"


def test_a_connected_member_is_not_forgotten_while_it_is_connected() -> None:
    found = routing(["a:1"])
    found.learn([("y", "b:1")])
    found.connected("b:1", "y")
    found.learn([])
    assert "b:1" in found.addresses
    found.disconnected("b:1", 0.0, failed=False)
    found.learn([])
    assert found.addresses == ["a:1"]


def test_no_more_members_are_learned_than_the_limit() -> None:
    found = routing(["a:1"], nodes_max=10)
    found.learn((f"n{number}", f"h{number}:1") for number in range(1000))
    assert len(found.addresses) == 10


def test_members_are_asked_for_when_something_changed_and_not_too_often() -> None:
    found = routing()
    assert found.refresh_due(0.0)
    found.refreshing(0.0)
    assert not found.refresh_due(10.0)
    assert found.refresh_due(30.0)
    fail(found, "a:1", 10.0)
    assert found.refresh_due(10.0)
    found.refreshing(10.0)
    found.leader_is("nobody has told where that is")
    assert not found.refresh_due(10.4)
    assert found.refresh_due(10.5)
    found.refreshing(10.5)
    found.refresh_failed()
    assert found.refresh_due(11.0)


@given(st.lists(st.tuples(st.sampled_from(CallKind), st.sampled_from(Outcome)), max_size=50))
def test_every_call_that_ends_gives_its_place_back(calls: list[tuple[CallKind, Outcome]]) -> None:
    found = routing(["a:1"])
    for kind, _ in calls:
        found.started(kind, "a:1", 0.0)
    for kind, outcome in calls:
        found.finished(kind, "a:1", outcome, 0.0, 0.0)
    assert all(load.in_flight == 0 for load in found._nodes["a:1"].loads.values())
