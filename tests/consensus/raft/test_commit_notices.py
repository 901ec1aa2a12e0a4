"""A commit index travels with the next message, waits only so long, and hurries where somebody waits."""

from __future__ import annotations

import pytest
from raft_world import Node, World

from consensus.raft import RaftConfig
from consensus.raft.messages import Append, Codec

PATIENT = RaftConfig(commit_notice_s=0.02)
CODEC = Codec(PATIENT)


def quiet_cluster(config: RaftConfig = PATIENT) -> tuple[World, Node, list[Node]]:
    """Three nodes that agree on everything, right after a heartbeat."""
    world = World(3, seed=1, config=config)
    leader = world.elect()
    world.converge()
    world.run(0.2)
    heartbeat_s = world.run_until(lambda: bool(world.sent) and world.sent[-1][0] == leader.name)
    assert heartbeat_s <= config.heartbeat_s
    world.run(0.005)
    world.sent.clear()
    return world, leader, [node for node in world.up() if node is not leader]


def notices(world: World, target: Node) -> list[int]:
    """The commit indexes that ``target`` was told of by messages without entries."""
    decoded = [CODEC.decode(m) for _, to, m in world.sent if to == target.name and isinstance(m, bytes)]
    return [m.commit_index for m in decoded if isinstance(m, Append) and not m.entries]


def commit(world: World, leader: Node, data: bytes) -> int:
    _, index = leader.propose(data)
    world.run_until(lambda: leader.live.status().commit_index == index)
    return index


def test_a_lone_commit_is_told_after_the_notice_time() -> None:
    world, leader, followers = quiet_cluster()
    index = commit(world, leader, b"x")
    assert [notices(world, node) for node in followers] == [[], []]
    took_s = world.run_until(lambda: all(node.commands() == [b"x"] for node in followers))
    assert 0.01 < took_s <= PATIENT.commit_notice_s + 2 * world.latency_s[1]
    assert [notices(world, node) for node in followers] == [[index], [index]]


def test_a_commit_travels_with_the_next_entry() -> None:
    world, leader, followers = quiet_cluster()
    commit(world, leader, b"x")
    leader.propose(b"y")
    world.run_until(lambda: all(node.commands() == [b"x"] for node in followers))
    assert [notices(world, node) for node in followers] == [[], []]


def test_each_commit_has_the_whole_notice_time() -> None:
    """One that was told on the way must not leave its alarm behind for the next."""
    world, leader, followers = quiet_cluster()
    for number in range(10):
        commit(world, leader, b"%d" % number)
        world.run(PATIENT.commit_notice_s / 4)
    assert [notices(world, node) for node in followers] == [[], []]


def test_who_waits_is_told_at_once_and_the_others_are_not() -> None:
    world, leader, (waiting, patient) = quiet_cluster()
    index = commit(world, leader, b"x")
    leader.live.hurry(waiting.name, index, world.now)
    leader.settle()
    took_s = world.run_until(lambda: waiting.commands() == [b"x"])
    assert took_s <= 2 * world.latency_s[1]
    assert notices(world, patient) == []


def test_who_waits_for_what_is_not_committed_yet_is_told_with_the_commit() -> None:
    world, leader, (waiting, patient) = quiet_cluster()
    _, index = leader.propose(b"x")
    leader.live.hurry(waiting.name, index, world.now)
    leader.settle()
    assert notices(world, waiting) == []
    took_s = world.run_until(lambda: waiting.commands() == [b"x"])
    assert took_s <= 4 * world.latency_s[1]
    assert patient.commands() == []
    assert notices(world, waiting) == [index]


def test_who_waited_for_an_earlier_entry_does_not_hurry_a_later_one() -> None:
    world, leader, (waiting, _) = quiet_cluster()
    first = commit(world, leader, b"x")
    leader.live.hurry(waiting.name, first, world.now)
    leader.settle()
    world.run_until(lambda: waiting.commands() == [b"x"])
    commit(world, leader, b"y")
    assert notices(world, waiting) == [first]


def test_without_a_notice_time_everybody_is_told_at_once() -> None:
    world, leader, followers = quiet_cluster(RaftConfig(commit_notice_s=0.0))
    index = commit(world, leader, b"x")
    assert [notices(world, node) for node in followers] == [[index], [index]]


def test_a_peer_that_takes_nothing_does_not_keep_the_leader_awake() -> None:
    config = RaftConfig(commit_notice_s=0.001, appends_in_flight_max=1)
    world, leader, (clogged, _) = quiet_cluster(config)
    world.held = lambda source, _target, _message: source == clogged.name
    commit(world, leader, b"x")
    world.run(0.01)
    assert leader.live.next_deadline() > world.now + config.commit_notice_s


def test_hurrying_nobody_or_a_stranger_changes_nothing() -> None:
    world, leader, (follower, _) = quiet_cluster()
    follower.live.hurry(leader.name, 99, world.now)
    leader.live.hurry("stranger", 99, world.now)
    leader.live.hurry(leader.name, 99, world.now)
    assert not leader.live.take_output()
    assert not follower.live.take_output()


@pytest.mark.parametrize("notice_s", [-0.001, 0.06])
def test_a_notice_time_beyond_a_heartbeat_is_refused(notice_s: float) -> None:
    with pytest.raises(ValueError, match="commit_notice_s"):
        RaftConfig(commit_notice_s=notice_s)
