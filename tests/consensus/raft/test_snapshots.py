"""A peer behind the log's first entry, and the log's life around snapshots."""

from __future__ import annotations

import random

import pytest
from raft_world import World, pack

from consensus.errors import InvariantViolated
from consensus.interface import Entry, EntryKind, HardState, InstalledSnapshot, Recovered, SnapshotMeta
from consensus.raft import RaftConfig, RaftEngine
from consensus.raft.messages import Append, Codec

CODEC = Codec(RaftConfig())


def lagging_cluster(seed: int, retain: int = 0) -> World:
    """A leader that has compacted its log, and a follower, down, that needs what is gone."""
    world = World(3, seed=seed)
    leader = world.elect()
    world.run(0.1)
    follower = next(node for node in world.up() if node is not leader)
    follower.crash()
    for n in range(40):
        leader.propose(b"%d" % n)
        world.run(0.005)
    leader.take_snapshot(retain)
    return world


def test_a_lagging_follower_gets_a_snapshot_and_goes_on_behind_it() -> None:
    world = lagging_cluster(1)
    leader = world.leader()
    follower = next(node for node in world.nodes.values() if not node.engine)
    leader.propose(b"behind the snapshot")
    follower.start()
    world.run_until(lambda: len(follower.commands()) == 41)
    restored = [output for output in follower.outputs if output.restore]
    assert [output.restore for output in restored] == [leader.disk.snapshot]
    assert restored[0].persist[-1] == InstalledSnapshot(leader.disk.snapshot)
    assert follower.live.status().first_index == leader.disk.snapshot.index + 1
    leader.propose(b"after")
    world.converge()
    assert dict(leader.live.status().match)[follower.name] == leader.live.status().last_index


def test_retained_entries_spare_the_snapshot() -> None:
    world = lagging_cluster(2, retain=100)
    follower = next(node for node in world.nodes.values() if not node.engine)
    follower.start()
    world.run_until(lambda: len(follower.commands()) == 40)
    assert not any(output.restore for output in follower.outputs)
    assert world.leader().live.status().first_index == 1


def test_a_snapshot_is_asked_for_at_most_once_per_heartbeat_and_the_leader_stays_known() -> None:
    world = lagging_cluster(3)
    leader = world.leader()
    follower = next(node for node in world.nodes.values() if not node.engine)
    leader.disk.snapshot, hidden = None, leader.disk.snapshot
    follower.start()
    before = len(leader.outputs)
    for n in range(1000):
        leader.propose(b"%d" % n)
        world.run(0.002)
    asked = sum(follower.name in output.snapshot_needed for output in leader.outputs[before:])
    assert 30 <= asked <= 2.0 / world.config.heartbeat_s + 1
    assert follower.live.status().leader == leader.name
    assert list(world.leaders) == [1]
    leader.disk.snapshot = hidden
    world.run_until(lambda: len(follower.commands()) == 1040)


def test_a_lost_confirmation_does_not_keep_a_follower_waiting() -> None:
    world = lagging_cluster(4)
    leader = world.leader()
    follower = next(node for node in world.nodes.values() if not node.engine)
    world.held = lambda _source, _target, message: isinstance(message, tuple) and message[0] == "delivered"
    follower.start()
    leader.propose(b"x")
    world.run_until(lambda: len(follower.commands()) == 41)
    assert sum(output.restore is not None for output in follower.outputs) == 1


def follower_with(entries: int, commit: int) -> RaftEngine:
    """A follower in term 1 whose log ends with ``entries`` and that knows ``commit``."""
    engine = RaftEngine("a", "abc", Recovered(HardState(0, None), None, []), now=0.0, random=random.Random(1))
    slots = [(b"%d" % i, i, 1, Entry(i, 1, EntryKind.COMMAND, b"%d" % i)) for i in range(2, entries + 1)]
    message = CODEC.encode_append(Append(1, 1, commit, 1, 0, ()), CODEC.encode_entries(slots))
    engine.receive("b", message, 0.0)
    engine.take_output()
    return engine


def meta(index: int, term: int = 1) -> SnapshotMeta:
    return SnapshotMeta(index, term, 1, 0, "")


def test_a_snapshot_of_entries_that_are_here_only_commits_them() -> None:
    engine = follower_with(entries=10, commit=3)
    assert engine.install_snapshot("b", 1, meta(7), 0.0) is True
    output = engine.take_output()
    assert output.restore is None
    assert output.persist == []
    assert [entry.index for entry in output.committed] == [4, 5, 6, 7]
    status = engine.status()
    assert (status.first_index, status.last_index, status.commit_index) == (1, 10, 7)


@pytest.mark.parametrize("index", [20, 7])
def test_a_snapshot_of_other_entries_replaces_the_log(index: int) -> None:
    engine = follower_with(entries=10, commit=3)
    assert engine.install_snapshot("c", 3, meta(index, term=2), 0.0) is True
    output = engine.take_output()
    assert output.restore == meta(index, term=2)
    assert output.persist == [HardState(3, None), InstalledSnapshot(meta(index, term=2))]
    assert output.committed == []
    status = engine.status()
    assert (status.first_index, status.last_index, status.commit_index) == (index + 1, index, index)
    assert (status.term, status.leader) == (3, "c")


def test_what_was_committed_just_before_a_snapshot_is_not_applied_over_it() -> None:
    engine = follower_with(entries=10, commit=3)
    engine.receive("b", CODEC.encode_append(Append(1, 2, 6, 10, 1, ()), b"\x90"), 0.0)
    assert engine.install_snapshot("b", 1, meta(20), 0.0) is True
    output = engine.take_output()
    assert (output.restore, output.committed) == (meta(20), [])


@pytest.mark.parametrize(
    ("peer", "term", "index"), [("b", 0, 20), ("b", 1, 3), ("c", 1, 20), ("a", 1, 20), ("x", 1, 20)]
)
def test_a_snapshot_that_is_old_or_from_nobody_is_refused(peer: str, term: int, index: int) -> None:
    engine = follower_with(entries=10, commit=3)
    assert engine.install_snapshot(peer, term, meta(index), 0.0) is False
    output = engine.take_output()
    assert (output.persist, output.restore) == ([], None)
    assert engine.status().last_index == 10


def test_an_append_from_before_the_snapshot_is_acknowledged_as_far_as_it_goes() -> None:
    engine = follower_with(entries=10, commit=3)
    assert engine.install_snapshot("b", 1, meta(20), 0.0)
    engine.take_output()
    slots = [(b"%d" % i, i, 1, Entry(i, 1, EntryKind.COMMAND, b"%d" % i)) for i in range(15, 24)]
    engine.receive("b", CODEC.encode_append(Append(1, 5, 23, 14, 1, ()), CODEC.encode_entries(slots)), 0.0)
    output = engine.take_output()
    assert [entry.index for entry in output.persist] == [21, 22, 23]
    assert [entry.index for entry in output.committed] == [21, 22, 23]
    assert CODEC.decode(output.send[0][1]).next_index == 24


def test_a_confirmation_counts_as_a_sign_of_life() -> None:
    world = World(3, seed=7)
    leader = world.elect()
    world.run(0.1)
    peer = next(iter(leader.live.status().match))
    leader.live.snapshot_delivered(peer, 1, 2, world.now + 0.01)
    assert leader.live.status().last_contact_s[peer] == world.now + 0.01


def test_stale_confirmations_are_ignored() -> None:
    world = World(3, seed=5)
    leader = world.elect()
    world.run(0.1)
    before = dict(leader.live.status().match)
    peer = next(iter(before))
    for who, term, index in ((peer, 0, 2), (peer, 1, 99), (leader.name, 1, 2), ("x", 1, 2), (peer, 1, 1)):
        leader.live.snapshot_delivered(who, term, index, world.now)
    assert dict(leader.live.status().match) == before
    assert leader.live.dropped["stale_ack"] == 3


def test_compaction_keeps_what_it_is_told_to_keep() -> None:
    engine = follower_with(entries=50, commit=40)
    assert engine.compact(meta(30), 10) == 20
    assert engine.status().first_index == 20
    assert engine.compact(meta(25), 10) == 20
    assert engine.compact(meta(40), 0) == 40
    assert engine.status().first_index == 40
    assert engine.compact(meta(2), 0) == 40


@pytest.mark.parametrize(("index", "term"), [(41, 1), (30, 2)])
def test_a_snapshot_of_our_own_that_contradicts_the_log_stops_the_node(index: int, term: int) -> None:
    engine = follower_with(entries=50, commit=40)
    with pytest.raises(InvariantViolated, match=f"a snapshot of {index}"):
        engine.compact(meta(index, term), 0)


@pytest.mark.parametrize("retain", [0, 5])
def test_a_node_restarts_from_its_snapshot(retain: int) -> None:
    world = World(3, seed=6)
    leader = world.elect()
    for n in range(30):
        leader.propose(b"%d" % n)
    world.converge()
    for node in world.nodes.values():
        node.take_snapshot(retain)
        node.crash()
    for node in world.nodes.values():
        node.start()
        snapshot = node.disk.snapshot
        assert node.live.status().commit_index == snapshot.index
        assert node.live.status().first_index <= snapshot.index + 1
    world.elect().propose(b"after")
    world.converge()
    assert all(node.commands() == [*(b"%d" % n for n in range(30)), b"after"] for node in world.up())


def test_a_snapshot_taken_by_the_harness_describes_what_it_holds() -> None:
    entries = [Entry(1, 0, EntryKind.NOOP, b""), Entry(2, 3, EntryKind.COMMAND, b"x")]
    described, content = pack(entries)
    assert (described.index, described.term, described.previous_term, described.size) == (
        2,
        3,
        0,
        len(content),
    )
