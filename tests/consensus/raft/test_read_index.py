"""Reads without a log write: who is told a position, when, and that it is far enough (Ongaro 2014, 6.4)."""

from __future__ import annotations

import random

import pytest
from raft_script import PATIENT, Guarded
from raft_world import World

from consensus.errors import Busy, NotLeader
from consensus.interface import HardState, Recovered
from consensus.raft import RaftEngine
from consensus.raft.messages import Ack, Append, Codec
from consensus.raft.reads import READS_PENDING_MAX

CODEC = Codec(PATIENT)


def led(voters: str = "abc") -> Guarded:
    """a leads, everybody has its first entry and knows that it is committed, and the wire is empty."""
    cluster = Guarded(voters)
    cluster.elect("a")
    cluster.flush()
    cluster.heartbeat("a")
    cluster.flush()
    return cluster


def read(cluster: Guarded, *contexts: int) -> None:
    for context in contexts:
        cluster.nodes["a"].read_index(context, cluster.now)
    cluster.perform("a")


def reads(cluster: Guarded) -> list[tuple[int, int]]:
    return [confirmed for output in cluster.outputs["a"] for confirmed in output.reads]


def appends(cluster: Guarded, target: str) -> list[Append]:
    decoded = [CODEC.decode(message) for message in cluster.take("a", target)]
    return [message for message in decoded if isinstance(message, Append)]


def test_a_read_costs_one_message_to_each_peer_and_nothing_on_any_disk() -> None:
    cluster = led()
    before = {name: len(cluster.outputs[name]) for name in "abc"}
    read(cluster, 7)
    assert reads(cluster) == []
    assert len(cluster.wire) == 2
    cluster.flush()
    assert reads(cluster) == [(7, 2)]
    for name in "abc":
        assert not any(output.persist for output in cluster.outputs[name][before[name] :])


def test_reads_that_come_together_share_a_round() -> None:
    cluster = led()
    read(cluster, *range(100))
    assert len(cluster.wire) == 2
    cluster.flush("a", "b")
    assert reads(cluster) == [(context, 2) for context in range(100)]


@pytest.mark.parametrize(("voters", "needed"), [("ab", 1), ("abc", 1), ("abcd", 2), ("abcde", 2)])
def test_a_majority_has_to_answer(voters: str, needed: int) -> None:
    cluster = led(voters)
    read(cluster, 1)
    for count, peer in enumerate(voters[1 : needed + 1], 1):
        [message] = cluster.take("a", peer)
        cluster.deliver("a", peer, message)
        [answer] = cluster.take(peer, "a")
        for _ in range(3):
            cluster.deliver(peer, "a", answer)
        assert bool(reads(cluster)) is (count == needed)


def test_an_answer_to_what_was_sent_before_the_read_came_does_not_count() -> None:
    cluster = led()
    cluster.heartbeat("a")
    early = cluster.take("a", "b")
    read(cluster, 1)
    for message in early:
        cluster.deliver("a", "b", message)
    for answer in cluster.take("b", "a"):
        cluster.deliver("b", "a", answer)
    assert reads(cluster) == []
    cluster.flush("a", "b")
    assert reads(cluster) == [(1, 2)]


def test_a_later_message_serves_when_the_first_was_lost() -> None:
    cluster = led()
    read(cluster, 1)
    cluster.wire.clear()
    cluster.heartbeat("a")
    cluster.flush("a", "c")
    assert reads(cluster) == [(1, 2)]


def test_whoever_rejects_an_append_has_answered_nevertheless() -> None:
    cluster = led()
    read(cluster, 1)
    [asked] = appends(cluster, "b")
    cluster.deliver("b", "a", CODEC.encode(Ack(1, asked.number, 2, success=False, reset=True)))
    assert reads(cluster) == [(1, 2)]


@pytest.mark.parametrize("term", [0, 2])
def test_an_answer_in_another_term_does_not_count(term: int) -> None:
    cluster = led()
    read(cluster, 1)
    [asked] = appends(cluster, "b")
    cluster.deliver("b", "a", CODEC.encode(Ack(term, asked.number, 3, success=True, reset=False)))
    assert reads(cluster) == []


def test_a_new_leader_answers_once_it_has_committed_an_entry_of_its_own() -> None:
    """It cannot know before which of the entries that it found were committed."""
    cluster = Guarded("abc")
    cluster.expire("a")
    [request] = cluster.take("a", "b")
    cluster.deliver("a", "b", request)
    [vote] = cluster.take("b", "a")
    cluster.deliver("b", "a", vote)
    first = cluster.take("a", "b")
    read(cluster, 1)
    [asked] = appends(cluster, "b")
    cluster.deliver("b", "a", CODEC.encode(Ack(1, asked.number, 2, success=False, reset=False)))
    assert reads(cluster) == [], "a majority follows, but nothing of this term is committed"
    for message in first:
        cluster.deliver("a", "b", message)
    cluster.flush("a", "b")
    assert reads(cluster) == [(1, 2)]


def test_what_is_committed_while_the_answers_travel_need_not_be_waited_for() -> None:
    cluster = led()
    read(cluster, 1)
    cluster.propose("a", "x")
    cluster.flush()
    assert cluster.commit_index("a") == 3
    assert reads(cluster) == [(1, 2)]


def test_a_deposed_leader_confirms_nothing_and_says_so() -> None:
    world = World(5, seed=41)
    old = world.elect()
    world.run(0.2)
    names = [name for name in world.nodes if name != old.name]
    world.cut([old.name, names[0]], names[1:])
    context = old.read()
    world.run_until(lambda: any(n.is_leader for n in world.up() if n is not old))
    new = next(n for n in world.up() if n.is_leader and n is not old)
    new.propose(b"newer")
    world.run(2.0)
    assert new.commands() == [b"newer"]
    assert context not in world.read_at
    assert context not in world.reads, "it was refused when the leader stepped down"
    world.heal()
    world.run(1.0)
    assert context not in world.read_at


def test_only_the_leader_is_asked() -> None:
    cluster = led()
    with pytest.raises(NotLeader) as refused:
        cluster.nodes["b"].read_index(1, cluster.now)
    assert refused.value.leader == "a"


def test_too_many_reads_are_refused() -> None:
    cluster = led()
    cluster.wire.clear()
    for context in range(READS_PENDING_MAX):
        cluster.nodes["a"].read_index(context, cluster.now)
    with pytest.raises(Busy):
        cluster.nodes["a"].read_index(READS_PENDING_MAX, cluster.now)
    cluster.perform("a")
    cluster.flush()
    assert len(reads(cluster)) == READS_PENDING_MAX
    read(cluster, READS_PENDING_MAX)
    cluster.flush()
    assert len(reads(cluster)) == READS_PENDING_MAX + 1


def test_a_single_voter_answers_at_once_and_after_its_first_commit() -> None:
    fresh = Recovered(HardState(0, None), None, [])
    node = RaftEngine("a", ["a"], fresh, now=0.0, random=random.Random(1))
    node.tick(node.next_deadline())
    node.read_index(1, 1.0)
    output = node.take_output()
    assert output.reads == [(1, 2)]
    assert output.committed[-1].index == 2
    node.propose(b"x", 1.0)
    node.read_index(2, 1.0)
    assert node.take_output().reads == [(2, 2)]


def test_a_follower_that_was_cut_off_answers_a_read_when_it_is_back() -> None:
    world = World(3, seed=42)
    leader = world.elect()
    world.run(0.2)
    others = [name for name in world.nodes if name != leader.name]
    world.cut([leader.name], others)
    context = leader.read()
    world.run(0.01)
    assert context not in world.read_at
    world.heal()
    world.run_until(lambda: context in world.read_at, limit_s=0.05)
