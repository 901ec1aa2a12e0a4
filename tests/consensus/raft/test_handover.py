"""Leadership handed over on purpose (Ongaro 2014, 3.10): quickly, losing nothing, or not at all."""

from __future__ import annotations

import pytest
from raft_script import PATIENT, Guarded
from raft_world import Node, World

from consensus.errors import Busy, NotLeader
from consensus.raft.messages import Codec, TimeoutNow, TransferVote

CODEC = Codec(PATIENT)


def settled(size: int = 3, seed: int = 51) -> tuple[World, Node]:
    world = World(size, seed=seed)
    leader = world.elect()
    world.run(0.3)
    return world, leader


def hand_over(world: World, leader: Node, target: str | None = None) -> str:
    successor = leader.live.transfer_leadership(target, world.now)
    leader.settle()
    return successor


def told(cluster: Guarded, target: str) -> list[TimeoutNow]:
    sent = [CODEC.decode(message) for a, b, message in cluster.wire if (a, b) == ("a", target)]
    return [message for message in sent if isinstance(message, TimeoutNow)]


@pytest.mark.parametrize("size", [2, 3, 5])
def test_the_successor_leads_within_a_few_round_trips_and_nothing_is_lost(size: int) -> None:
    world, leader = settled(size)
    for n in range(20):
        leader.propose(b"%d" % n)
    target = max(name for name in world.nodes if name != leader.name)
    assert hand_over(world, leader, target) == target
    assert leader.live.transferring() == target
    with pytest.raises(Busy, match=target):
        leader.live.propose(b"refused", world.now)
    took = world.run_until(lambda: world[target].is_leader)
    assert took < 8 * world.latency_s[1] < world.config.election_timeout_min_s
    world.run(world.latency_s[1])
    assert leader.live.transferring() is None
    world[target].propose(b"after")
    world.converge()
    assert leader.commands() == [*(b"%d" % n for n in range(20)), b"after"]
    assert list(world.leaders) == [1, 2]


def test_without_a_wish_it_goes_to_whoever_has_most_of_the_log() -> None:
    world, leader = settled(5)
    behind = [name for name in world.nodes if name != leader.name][:3]
    world.cut([leader.name, *(n for n in world.nodes if n not in behind and n != leader.name)], behind)
    furthest = next(name for name in world.nodes if name not in behind and name != leader.name)
    leader.propose(b"x")
    world.run(0.05)
    world.heal()
    assert hand_over(world, leader) == furthest


def test_the_successor_is_told_once_and_only_when_it_has_everything() -> None:
    cluster = Guarded("abc")
    cluster.elect("a")
    cluster.flush()
    cluster.propose("a", "x")
    appends = cluster.take("a", "b")
    cluster.nodes["a"].transfer_leadership("b", cluster.now)
    cluster.perform("a")
    cluster.heartbeat("a")
    assert told(cluster, "b") == []
    for message in appends:
        cluster.deliver("a", "b", message)
    for answer in cluster.take("b", "a"):
        cluster.deliver("b", "a", answer)
    assert told(cluster, "b") == [TimeoutNow(1)]
    cluster.heartbeat("a")
    assert told(cluster, "b") == [TimeoutNow(1)]
    cluster.flush()
    assert cluster.is_leader("b")
    assert cluster.applied("a") == ["x"]


def test_the_successor_is_not_told_before_everything_is_committed() -> None:
    """Whoever proposed it would propose it again to the successor."""
    cluster = Guarded("abcde")
    cluster.elect("a")
    cluster.flush()
    cluster.propose("a", "x")
    cluster.nodes["a"].transfer_leadership("b", cluster.now)
    cluster.flush("a", "b")
    assert cluster.nodes["a"].status().match["b"] == 3
    assert told(cluster, "b") == []
    assert not cluster.is_leader("b")
    cluster.flush("a", "b", "c")
    assert cluster.applied("a") == ["x"]
    assert cluster.is_leader("b")


def test_a_successor_that_does_not_take_over_in_time_is_given_up() -> None:
    world, leader = settled()
    target = next(name for name in world.nodes if name != leader.name)
    world.held = lambda source, to, message: (
        isinstance(message, bytes) and isinstance(CODEC.decode(message), TimeoutNow)
    )
    hand_over(world, leader, target)
    begun = world.now
    took = world.run_until(lambda: leader.live.transferring() is None)
    assert took == pytest.approx(world.config.election_timeout_max_s, abs=1e-3)
    assert leader.is_leader
    leader.propose(b"again")
    world.converge()
    assert list(world.leaders) == [1]
    world.held = None
    assert hand_over(world, leader, target) == target
    world.run_until(lambda: world[target].is_leader)
    assert world.now - begun < 1.0


def test_a_word_that_comes_late_costs_an_election_and_nothing_else() -> None:
    world, leader = settled()
    target = next(name for name in world.nodes if name != leader.name)
    late: list[bytes] = []

    def held(source: str, to: str, message: object) -> bool:
        if isinstance(message, bytes) and isinstance(CODEC.decode(message), TimeoutNow):
            late.append(message)
            return True
        return False

    world.held = held
    hand_over(world, leader, target)
    world.run(1.0)
    for n in range(10):
        leader.propose(b"%d" % n)
    world.run_until(lambda: len(leader.commands()) == 10)
    world[target].on_message(leader.name, late[0])
    world.held = None
    world.elect().propose(b"end")
    world.converge()
    assert leader.commands() == [*(b"%d" % n for n in range(10)), b"end"]


def test_a_successor_whose_link_breaks_is_given_up_at_once() -> None:
    world, leader = settled()
    target, other = (name for name in world.nodes if name != leader.name)
    world.held = lambda source, to, message: (
        isinstance(message, bytes) and isinstance(CODEC.decode(message), TimeoutNow)
    )
    hand_over(world, leader, target)
    world._separate(leader.name, other)
    assert leader.live.transferring() == target
    world._separate(leader.name, target)
    assert leader.live.transferring() is None
    leader.live.propose(b"taken", world.now)


def test_only_the_leader_of_the_term_is_obeyed() -> None:
    cluster = Guarded("abc")
    cluster.elect("a")
    cluster.flush()
    for sender, term in (("c", 1), ("c", 2), ("a", 0), ("a", 2)):
        cluster.deliver(sender, "b", CODEC.encode(TimeoutNow(term)))
    cluster.deliver("b", "a", CODEC.encode(TimeoutNow(1)))
    assert cluster.nodes["b"].dropped["stale_timeout_now"] == 4
    assert cluster.nodes["a"].dropped["stale_timeout_now"] == 1
    assert {cluster.nodes[name].status().term for name in "abc"} == {1}
    cluster.wire.clear()
    cluster.deliver("a", "b", CODEC.encode(TimeoutNow(1)))
    assert [CODEC.decode(message) for message in cluster.take("b", "c")] == [TransferVote(2, 2, 1)]
    assert cluster.disks["b"].hard_state.term == 2, "the vote for itself is on the disk before it asks"


def test_what_cannot_be_handed_over_is_refused() -> None:
    cluster = Guarded("abc")
    cluster.elect("a")
    cluster.flush()
    leader, now = cluster.nodes["a"], cluster.now
    with pytest.raises(NotLeader):
        cluster.nodes["b"].transfer_leadership("c", now)
    for wrong in ("a", "x", ""):
        with pytest.raises(ValueError, match="no other voter"):
            leader.transfer_leadership(wrong, now)
    leader.peer_disconnected("b", now)
    with pytest.raises(Busy, match="b can be reached"):
        leader.transfer_leadership("b", now)
    assert leader.transfer_leadership(None, now) == "c"
    with pytest.raises(Busy, match="handed over to c already"):
        leader.transfer_leadership("c", now)
    leader.peer_disconnected("c", now)
    with pytest.raises(Busy, match="nobody can be reached"):
        leader.transfer_leadership(None, now)


def test_a_deposed_leader_hands_over_no_more() -> None:
    cluster = Guarded("abc")
    cluster.elect("a")
    cluster.flush()
    cluster.nodes["a"].transfer_leadership("b", cluster.now)
    cluster.elect("c", "b", "a")
    assert cluster.nodes["a"].transferring() is None
    assert cluster.nodes["a"].next_deadline() > cluster.now
