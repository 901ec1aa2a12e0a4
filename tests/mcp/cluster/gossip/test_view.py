"""What becomes of updates: the order among them decides, not the order in which they come."""

from __future__ import annotations

import random
from dataclasses import replace

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcp.cluster.gossip.events import Event, EventKind
from mcp.cluster.gossip.limits import CONFLICTS_MAX, GossipLimits
from mcp.cluster.gossip.membership import Membership
from mcp.cluster.gossip.probing import ProbeOrder
from mcp.cluster.gossip.updates import Alive, Dead, FullRecord, Left, LoadUpdate, State, Suspect, Update
from mcp.cluster.gossip.view import View, mark_of


def card(number: int) -> bytes:
    packed: bytes = msgpack.packb({"n": number})
    return packed


class Node:
    """A membership, its events and nothing else."""

    def __init__(self, name: str = "me", limits: GossipLimits | None = None) -> None:
        self.events: list[Event] = []
        self.membership = Membership(name, f"{name}:1", limits or GossipLimits(), self.events.append, 0.0)
        self.view = self.membership.view

    def apply(self, *updates: Update, now: float = 1.0) -> None:
        for update in updates:
            self.membership.apply(update, now)

    def state(self, name: str) -> tuple[int, State] | None:
        record = self.view.get(name)
        return None if record is None else (record.incarnation, record.state)

    def kinds(self) -> list[str]:
        kinds = [str(event.kind) for event in self.events]
        self.events.clear()
        return kinds


def alive(name: str, incarnation: int, version: int = 1, address: str = "") -> Alive:
    return Alive(name, incarnation, address or f"{name}:1", version, card(version))


numbers = st.integers(1, 4)
told = st.lists(
    st.one_of(
        st.builds(lambda i, v: alive("x", i, v), numbers, numbers),
        st.builds(lambda i: Suspect("x", i, "a"), numbers),
        st.builds(lambda i: Dead("x", i, "a"), numbers),
        st.builds(lambda i: Left("x", i), numbers),
    ),
    max_size=12,
)
RANK = {Alive: State.ALIVE, Suspect: State.SUSPECT, Dead: State.DEAD, Left: State.LEFT}


@given(told)
def test_the_largest_update_holds_in_whatever_order_they_come(updates: list[Update]) -> None:
    node, largest = Node(), (1, State.ALIVE)
    node.apply(alive("x", 1), *updates)
    for update in updates:
        if not (isinstance(update, Suspect) and not largest[1].present):
            largest = max(largest, (update.incarnation, RANK[type(update)]))
    assert node.state("x") == largest


def test_who_is_gone_is_not_suspected() -> None:
    node = Node()
    node.apply(alive("x", 1), Dead("x", 1, "a"), Suspect("x", 2, "a"))
    assert node.state("x") == (1, State.DEAD)


@given(told)
def test_an_incarnation_never_goes_back_and_every_event_is_a_change(updates: list[Update]) -> None:
    node, before = Node(), (1, State.ALIVE)
    node.apply(alive("x", 1))
    for update in updates:
        node.kinds()
        node.apply(update)
        after = node.state("x")
        assert after is not None
        assert after >= before
        state_events = set(node.kinds()) - {"updated"}
        assert len(state_events) == (before[1] is not after[1])
        before = after


@given(st.lists(st.tuples(st.sampled_from("uvxyz"), told), max_size=4), st.randoms(use_true_random=False))
@settings(max_examples=50)
def test_views_that_heard_the_same_have_the_same_digest(
    stories: list[tuple[str, list[Update]]], random_: random.Random
) -> None:
    """Everybody is refuted in the end, so that cards are the same too; duplicates come as well."""
    updates = [replace(update, name=name) for name, story in stories for update in story]
    updates += [alive(name, 9, 9) for name, _ in stories]
    nodes = [Node("me"), Node("me")]
    nodes[0].apply(*[alive(name, 1) for name in "uvxyz"], *updates)
    shuffled = updates + random_.sample(updates, len(updates) // 2)
    random_.shuffle(shuffled)
    nodes[1].apply(*[alive(name, 1) for name in "uvxyz"], *shuffled)
    assert nodes[0].view.digest == nodes[1].view.digest
    assert nodes[0].view.names_present() == nodes[1].view.names_present()


@given(told)
def test_the_digest_covers_exactly_who_is_present(updates: list[Update]) -> None:
    node = Node()
    node.apply(alive("x", 1), alive("y", 1), *updates)
    expected = 0
    present = [record for record in node.view if record.state.present]
    for record in present:
        expected ^= mark_of(record)
    assert node.view.digest == expected
    assert sorted(node.view.names_present()) == sorted(record.name for record in present)


def test_nobody_is_in_the_view_whom_nobody_announced() -> None:
    node = Node()
    node.apply(Suspect("x", 1, "a"), Dead("x", 1, "a"), Left("x", 1))
    assert [record.name for record in node.view] == ["me"]
    assert node.events == []


def test_a_life_is_told_as_it_is_lived() -> None:
    node = Node()
    node.apply(alive("x", 1), alive("x", 1), alive("x", 1, 2), Suspect("x", 1, "a"), alive("x", 2, 2))
    node.apply(Suspect("x", 2, "a"), Dead("x", 2, "a"), alive("x", 2, 3), alive("x", 3, 2), Left("x", 3))
    expected = ["joined", "updated", "suspected", "refuted", "suspected", "died", "joined", "left"]
    assert node.kinds() == expected


def test_only_news_is_passed_on() -> None:
    node = Node()
    update = alive("x", 1)
    assert node.view.learn(update, 1.0) == update
    assert node.view.learn(update, 1.0) is None
    assert node.view.learn(Alive("x", 2, "x:1", 1), 1.0) == Alive("x", 2, "x:1", 1)
    assert node.view.learn(alive("x", 1, 2), 1.0) == alive("x", 2, 2)
    assert node.view.learn(Alive("x", 2, "x:1", 5), 1.0) == Alive("x", 2, "x:1", 5)
    assert node.view.learn(Alive("x", 2, "x:1", 5), 1.0) is None


def test_a_card_that_was_only_named_is_missing_until_it_comes() -> None:
    node = Node()
    node.apply(alive("x", 1), Alive("x", 1, "x:1", 3))
    record = node.view.get("x")
    assert record is not None
    assert record.card_is_missing
    assert (record.card_version, record.decoded) == (1, {"n": 1})
    node.apply(alive("x", 1, 3))
    assert not record.card_is_missing
    assert (record.card_version, record.decoded) == (3, {"n": 3})


def test_of_two_addresses_the_same_one_holds_everywhere_and_everybody_reports_it() -> None:
    claims = alive("x", 2, address="b:1"), alive("x", 2, address="a:1"), alive("x", 1, address="0:1")
    for order in ((0, 1, 2), (1, 0, 2), (2, 1, 0), (2, 0, 1)):
        node = Node()
        node.apply(*(claims[at] for at in order))
        record = node.view.get("x")
        assert record is not None
        assert record.address == "a:1"
        conflicts = [event for event in node.events if event.kind is EventKind.CONFLICT]
        assert conflicts[-1].address == "a:1"
        assert {"b:1"} <= {event.other_address for event in conflicts} <= {"0:1", "b:1"}


def test_a_conflict_is_reported_again_only_after_a_while() -> None:
    node = Node()
    claim = alive("x", 1, address="z:1")
    node.apply(alive("x", 1, address="a:1"))
    for now in (1.0, 30.0, 60.9, 61.0, 62.0):
        node.apply(claim, now=now)
    assert node.kinds() == ["joined", "conflict", "conflict"]
    for number in range(2 * CONFLICTS_MAX):
        node.apply(alive("x", 1, address=f"z{number}:1"))
    assert len(node.view._conflicts) == CONFLICTS_MAX


def test_a_dead_member_comes_back_elsewhere_without_a_conflict() -> None:
    node = Node()
    node.apply(alive("x", 1, address="a:1"), Dead("x", 1, "y"), alive("x", 2, address="z:1"))
    assert node.kinds() == ["joined", "died", "joined"]


def test_the_dead_are_remembered_and_then_forgotten() -> None:
    node = Node()
    node.apply(alive("x", 4))
    node.apply(Dead("x", 4, "y"), now=10.0)
    node.view.expire(3610.0)
    node.apply(alive("x", 4), now=3610.0)
    assert node.state("x") == (4, State.DEAD)
    node.view.expire(3610.1)
    assert node.state("x") is None


def test_a_full_view_takes_in_nobody_unless_somebody_is_gone() -> None:
    node = Node(limits=GossipLimits(members_max=3))
    node.apply(alive("x", 1), alive("y", 1), alive("z", 1))
    assert (len(node.view), node.view.not_taken_in, node.state("z")) == (3, 1, None)
    node.apply(Dead("y", 1, "x"), alive("z", 1))
    assert (len(node.view), node.state("y"), node.state("z")) == (3, None, (1, State.ALIVE))


def test_of_loads_the_latest_holds() -> None:
    node = Node()
    node.apply(alive("x", 1))
    for incarnation, sequence in ((1, 2), (1, 1), (2, 1), (1, 9)):
        load = LoadUpdate("x", incarnation, sequence, card(10 * incarnation + sequence))
        node.membership.apply_load(load)
    assert [dict(m.load) for m in node.view.members() if m.name == "x"] == [{"n": 21}]
    node.membership.apply_load(LoadUpdate("stranger", 1, 1, card(1)))
    assert len(node.view) == 2


# -- the node itself ------------------------------------------------------------------------------------


@given(told)
def test_no_node_ever_holds_itself_for_dead(updates: list[Update]) -> None:
    node = Node("x")
    node.membership.announce(0.0)
    for update in updates:
        before = node.membership.own.incarnation
        node.apply(update)
        own = node.membership.own
        assert own.state is State.ALIVE
        # What others hold it for is overridden, or was so already.
        assert own.incarnation >= before
        assert (own.incarnation, State.ALIVE) >= (update.incarnation, RANK[type(update)])


def test_a_refutation_is_told_and_counts_against_the_own_health() -> None:
    node = Node("x")
    node.membership.announce(0.0)
    node.membership.news.take(10_000, 1)
    node.apply(Suspect("x", 1, "a"))
    assert node.membership.own.incarnation == 2
    assert node.membership.health.score == 1
    node.apply(Suspect("x", 1, "b"))
    assert node.membership.own.incarnation == 2
    assert len(node.membership.news) == 1


def test_a_node_that_is_back_overrides_its_former_life_and_its_card() -> None:
    node = Node("x")
    node.membership.set_card({"new": True}, 0.0)
    node.membership.set_load({"queue": 1})
    node.membership.announce(0.0)
    node.apply(alive("x", 7, 9))
    own = node.membership.own
    assert (own.incarnation, own.card_version, own.decoded) == (8, 10, {"new": True})
    assert own.load is not None
    assert own.load.incarnation == 8


def test_a_name_that_another_address_holds_is_not_announced_until_that_is_gone() -> None:
    node = Node("x")
    node.apply(alive("x", 3, address="0:1"))
    node.membership.announce(0.0)
    assert node.kinds() == ["conflict"]
    assert (node.membership.announced, node.membership.withheld, len(node.membership.news)) == (False, "x", 0)
    node.apply(Suspect("x", 3, "a"), Dead("x", 2, "a"))
    assert node.membership.rival is not None
    node.apply(Dead("x", 3, "a"))
    assert node.membership.rival is None
    assert (node.membership.announced, node.membership.own.incarnation) == (True, 4)


def test_a_rival_that_nobody_speaks_of_is_forgotten_as_the_dead_are() -> None:
    node = Node("x")
    node.apply(alive("x", 3, address="0:1"), now=1.0)
    node.membership.look_after_rival(3600.0)
    assert node.membership.rival is not None
    node.membership.look_after_rival(3602.0)
    assert (node.membership.rival, node.membership.own.incarnation) == (None, 4)


def test_an_announced_node_yields_only_to_the_claim_that_holds_everywhere() -> None:
    node = Node("x")
    node.membership.announce(0.0)
    node.apply(alive("x", 1, address="y:1"))
    assert (node.kinds(), node.membership.rival) == (["conflict"], None)
    node.apply(alive("x", 1, address="a:1"))
    assert (node.kinds(), node.membership.rival is None) == (["conflict"], False)


def test_after_a_farewell_a_node_does_not_come_back_by_itself() -> None:
    node = Node("x")
    node.membership.announce(0.0)
    node.membership.leave(1.0)
    node.apply(Suspect("x", 1, "a"), alive("x", 5))
    assert node.membership.own.state is State.LEFT
    assert len(node.membership.news) == 1


# -- what comes by comparison ---------------------------------------------------------------------------


def record(name: str, incarnation: int, state: State, age_ms: int = 0) -> FullRecord:
    return FullRecord(name, incarnation, state, f"{name}:1", 1, card(1), age_ms)


def test_a_death_that_comes_by_comparison_is_a_suspicion() -> None:
    node = Node()
    node.apply(alive("x", 2))
    assert not node.membership.apply_record(record("x", 2, State.DEAD), "y", 5.0)
    assert node.state("x") == (2, State.SUSPECT)
    found = node.view.get("x")
    assert found is not None
    assert found.suspicion is not None
    node.membership.apply_record(record("x", 2, State.DEAD), "z", 5.0)
    assert found.suspicion.accusers == {"y"}


def test_an_old_death_is_answered_with_what_is_known() -> None:
    node = Node()
    node.apply(alive("x", 3))
    assert node.membership.apply_record(record("x", 2, State.DEAD), "y", 5.0)
    assert node.state("x") == (3, State.ALIVE)
    node.apply(Dead("x", 3, "y"))
    assert node.membership.apply_record(record("x", 3, State.ALIVE), "y", 5.0)
    assert node.state("x") == (3, State.DEAD)


def test_who_is_gone_for_too_long_is_not_remembered_anew() -> None:
    node = Node()
    node.membership.apply_record(record("x", 1, State.DEAD, age_ms=3_600_000), "y", 9000.0)
    node.membership.apply_record(record("z", 1, State.LEFT, age_ms=1_000_000), "y", 9000.0)
    assert (node.state("x"), node.state("z")) == (None, (1, State.LEFT))
    node.view.expire(9000.0 + 2600.1)
    assert node.state("z") is None
    assert node.events == []


# -- whom to probe --------------------------------------------------------------------------------------


@pytest.mark.parametrize("members", [1, 2, 3, 10])
def test_the_ring_is_one_circle_through_everybody(members: int) -> None:
    view = View(GossipLimits(), lambda _event: None)
    names = [f"n{number}" for number in range(members)]
    for name in names:
        view.learn(alive(name, 1), 0.0)
    walked, at = [], names[0]
    for _ in range(members):
        walked.append(at)
        at = view.successor(at) or at
    assert sorted(walked) == sorted(names)
    assert at == names[0]


@given(st.integers(2, 12), st.integers(0, 99))
def test_everybody_is_probed_by_everybody_within_a_bounded_time(members: int, seed: int) -> None:
    node = Node("me")
    names = {f"n{number}" for number in range(members)}
    for name in names:
        node.apply(alive(name, 1))
    order = ProbeOrder("me", node.view, random.Random(seed))
    # Every second one is from the list, and two passes of it end at most this far apart.
    probed = [order.next() for _ in range(2 * (2 * members + 1))]
    assert set(probed) == names
    assert set(probed[::2]) == {node.view.successor("me")}


def test_the_dead_are_not_probed() -> None:
    node = Node("me")
    node.apply(alive("x", 1), alive("y", 1), Dead("x", 1, "y"))
    order = ProbeOrder("me", node.view, random.Random(1))
    assert {order.next() for _ in range(10)} == {"y"}
    node.apply(Left("y", 1))
    assert order.next() is None
