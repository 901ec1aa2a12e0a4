"""Elections, replication, crashes, partitions: clusters in virtual time."""

from __future__ import annotations

import math
import random

import pytest
from raft_script import call_election, decoded
from raft_world import World

from consensus.errors import InvariantViolated, NotLeader
from consensus.interface import Entry, EntryKind, HardState, Recovered, Role
from consensus.raft import RaftConfig, RaftEngine
from consensus.raft.messages import Append, Codec, NewerTerm, RequestVote, Vote

FRESH = Recovered(HardState(0, None), None, [])
CONFIG = RaftConfig()


def engine(voters: str = "a", *, now: float = 0.0, recovered: Recovered = FRESH) -> RaftEngine:
    return RaftEngine("a", list(voters), recovered, now=now, random=random.Random(1))


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7])
def test_a_cluster_elects_one_leader_and_keeps_it(size: int) -> None:
    world = World(size, seed=size)
    leader = world.elect(limit_s=2.0)
    terms = dict(world.leaders)
    world.run(5.0)
    assert world.leaders == terms
    assert leader.is_leader
    assert {node.live.status().leader for node in world.up()} == {leader.name}


@pytest.mark.parametrize("size", [1, 3, 5])
def test_every_node_applies_the_same_commands_in_the_same_order(size: int) -> None:
    world = World(size, seed=size)
    leader = world.elect()
    commands = [b"%d" % n for n in range(50)]
    for command in commands:
        leader.propose(command)
        world.run(0.0005)
    world.converge()
    assert all(node.commands() == commands for node in world.up())
    assert [entry.index for entry in leader.applied] == list(range(1, 53))


def test_commits_travel_at_the_speed_of_the_network_not_of_the_heartbeat() -> None:
    world = World(3, seed=3)
    leader = world.elect()
    world.run(0.2)
    leader.propose(b"x")
    took = world.run_until(lambda: all(node.commands() == [b"x"] for node in world.up()))
    assert took <= 3 * world.latency_s[1] < world.config.heartbeat_s


def test_a_new_leader_follows_a_crashed_one_and_nothing_acknowledged_is_lost() -> None:
    world = World(3, seed=4)
    old = world.elect()
    for n in range(10):
        old.propose(b"%d" % n)
        world.run(0.01)
    acknowledged = old.commands()
    old.crash()
    new = world.elect(limit_s=3.0)
    assert new is not old
    assert new.commands()[: len(acknowledged)] == acknowledged == [b"%d" % n for n in range(10)]
    new.propose(b"after")
    old.start()
    world.converge()
    assert old.commands() == [*acknowledged, b"after"]


def test_a_cluster_that_lost_all_power_goes_on_where_it_was() -> None:
    world = World(3, seed=5)
    leader = world.elect()
    for n in range(10):
        leader.propose(b"%d" % n)
    world.converge()
    term = leader.live.status().term
    for node in world.nodes.values():
        node.crash()
    world.run(10.0)
    for node in world.nodes.values():
        node.start()
    new = world.elect()
    world.converge()
    assert new.live.status().term > term
    assert all(node.commands() == [b"%d" % n for n in range(10)] for node in world.up())


def test_a_minority_commits_nothing_and_gives_up_what_it_appended() -> None:
    world = World(5, seed=6)
    old = world.elect()
    old.propose(b"before")
    world.converge()
    others = [name for name in world.nodes if name != old.name]
    world.cut([old.name, others[0]], others[1:])
    old.propose(b"lost")
    world.run(0.05)
    assert old.commands() == [b"before"]
    world.run(2.0)
    new = world.elect()
    assert new.name in others[1:]
    new.propose(b"kept")
    world.run(0.1)
    assert not old.is_leader
    with pytest.raises(NotLeader):
        old.live.propose(b"refused", world.now)
    world.heal()
    world.elect()
    world.converge()
    assert all(node.commands() == [b"before", b"kept"] for node in world.up())


def test_a_follower_that_was_down_catches_up() -> None:
    world = World(3, seed=7)
    leader = world.elect()
    follower = next(node for node in world.up() if node is not leader)
    follower.crash()
    for n in range(300):
        leader.propose(b"%d" % n)
        world.run(0.001)
    follower.start()
    assert world.run_until(lambda: len(follower.commands()) == 300) < 3 * world.config.heartbeat_s


@pytest.mark.parametrize("seed", range(5))
def test_reordered_and_duplicated_messages_change_nothing(seed: int) -> None:
    world = World(3, seed=seed)
    world.reorder, world.duplicate_rate, world.latency_s = True, 0.5, (0.001, 0.02)
    leader = world.elect()
    for n in range(100):
        leader.propose(b"%d" % n)
        world.run(0.001)
    world.converge()
    assert all(node.commands() == [b"%d" % n for n in range(100)] for node in world.up())
    assert list(world.leaders.values()) == [leader.name]


def test_a_single_voter_commits_in_the_output_that_persists() -> None:
    node = engine()
    first = node.take_output()
    assert first.persist == first.committed == [Entry(1, 0, EntryKind.NOOP, b"")]
    node.tick(node.next_deadline())
    output = node.take_output()
    assert output.persist == [HardState(1, "a"), Entry(2, 1, EntryKind.NOOP, b"")]
    assert output.committed == output.persist[1:]
    assert node.next_deadline() == math.inf
    assert [node.propose(data, 1.0) for data in (b"x", b"y")] == [(1, 3), (1, 4)]
    output = node.take_output()
    assert output.persist == output.committed
    assert [entry.data for entry in output.committed] == [b"x", b"y"]
    assert not node.take_output()


def test_a_vote_leaves_after_the_sync_and_with_its_record() -> None:
    node = engine("abc")
    node.take_output()
    node.receive("b", Codec(CONFIG).encode(RequestVote(4, 1, 0)), 0.0)
    output = node.take_output()
    assert output.persist == [HardState(4, "b")]
    assert [peer for peer, _ in output.send] == ["b"]
    assert output.send_early == []


def test_a_candidate_asks_after_the_sync_and_a_leader_appends_before_it() -> None:
    world = World(3, seed=9)
    leader = world.elect()
    for output in leader.outputs:
        terms = any(isinstance(record, HardState) for record in output.persist)
        assert not (terms and output.send_early)
    leader.live.propose(b"x", world.now)
    output = leader.live.take_output()
    assert len(output.send_early) == 2
    assert output.send == []
    assert [record.data for record in output.persist] == [b"x"]
    assert output.committed == []


def test_a_leader_whose_own_election_is_not_on_its_disk_yet_appends_after_the_sync() -> None:
    """Nobody can know of it before, but the contract does not rest on that."""
    node = engine("abc")
    node.peer_connected("b", 0.0)
    node.take_output()
    call_election(node, "b", codec=Codec(CONFIG))
    node.receive("b", Codec(CONFIG).encode(Vote(1)), 0.6)
    assert node.status().role is Role.LEADER
    output = node.take_output()
    assert output.send_early == []
    assert isinstance(Codec(CONFIG).decode(output.send[-1][1]), Append)


def test_proposals_before_an_output_share_one_append_per_peer() -> None:
    world = World(3, seed=10)
    leader = world.elect()
    world.run(0.1)
    for n in range(100):
        leader.live.propose(b"%d" % n, world.now)
    output = leader.live.take_output()
    assert sorted(peer for peer, _ in output.send_early) == sorted(set(world.nodes) - {leader.name})
    decoded = Codec(CONFIG).decode(output.send_early[0][1])
    assert isinstance(decoded, Append)
    assert [entry.data for entry in decoded.entries] == [b"%d" % n for n in range(100)]


def test_nobody_calls_an_election_without_a_connection() -> None:
    node = engine("abc")
    assert node.next_deadline() == math.inf
    node.tick(100.0)
    assert node.status().term == 0
    node.peer_connected("b", 100.0)
    node.peer_connected("b", 100.0)
    node.tick(100.0)
    assert node.status().term == 0
    assert (
        100.0 + CONFIG.election_timeout_min_s <= node.next_deadline() < 100.1 + CONFIG.election_timeout_max_s
    )
    node.peer_disconnected("b", 100.1)
    node.peer_disconnected("b", 100.1)
    assert node.next_deadline() == math.inf


@pytest.mark.parametrize("now", [0.0, 1.0, 1e5, 1.7e9])
def test_a_tick_at_the_deadline_always_moves_on(now: float) -> None:
    node = engine("abc", now=now)
    node.peer_connected("b", now)
    for _ in range(50):
        deadline = node.next_deadline()
        node.tick(deadline)
        node.take_output()
        assert node.next_deadline() > deadline
    assert node.status().term == 0


def test_a_leader_ticks_on_until_it_steps_down() -> None:
    world = World(3, seed=11)
    leader = world.elect()
    world.held = lambda *_: True
    begun, deadlines = world.now, 0
    while leader.is_leader:
        deadline = leader.live.next_deadline()
        world.now = deadline
        leader.live.tick(deadline)
        leader.live.take_output()
        assert leader.live.next_deadline() > deadline
        deadlines += 1
    assert deadlines < 20
    assert world.now - begun < world.config.leader_fallback_s + 0.1


def test_status_says_what_peers_have_and_when_they_answered() -> None:
    world = World(3, seed=12)
    leader = world.elect()
    leader.propose(b"x")
    world.run(1.0)
    status = leader.live.status()
    assert status.node_id == leader.name
    assert status.role is Role.LEADER
    assert status.voters == ("n1", "n2", "n3")
    assert (status.first_index, status.last_index, status.commit_index) == (1, 3, 3)
    assert dict(status.match) == {name: 3 for name in world.nodes if name != leader.name}
    assert all(world.now - at <= 2 * world.config.heartbeat_s for at in status.last_contact_s.values())
    follower = next(node for node in world.up() if node is not leader).live.status()
    assert (follower.role, follower.leader, dict(follower.match)) == (Role.FOLLOWER, leader.name, {})


def test_a_node_that_was_cut_off_alone_returns_without_an_election() -> None:
    world = World(3, seed=13)
    leader = world.elect()
    lonely = next(node for node in world.up() if node is not leader)
    world.cut([lonely.name], [name for name in world.nodes if name != lonely.name])
    world.run(20.0)
    world.heal()
    world.run(2.0)
    assert lonely.live.status().term == leader.live.status().term == 1
    assert leader.is_leader


def test_an_engine_that_met_a_contradiction_is_closed() -> None:
    world = World(3, seed=14)
    leader = world.elect()
    world.run(0.1)
    follower = next(node for node in world.up() if node is not leader).live
    liar = Append(1, 1, 2, 1, 0, ())
    data = Codec(CONFIG).encode_append(liar, Codec(CONFIG).encode_entries([(b"!", 2, 0, leader.applied[0])]))
    with pytest.raises(InvariantViolated, match="entry 2 of term 1 is committed here"):
        follower.receive(leader.name, data, world.now)
    for call in (follower.take_output, lambda: follower.tick(9.0), lambda: follower.propose(b"x", 9.0)):
        with pytest.raises(InvariantViolated, match="has stopped"):
            call()
    assert follower.status().commit_index == 2


def test_a_leader_of_an_older_term_is_not_even_contradicted() -> None:
    """Its appends may disagree with what is committed since: that is stale, not a violation."""
    codec = Codec(CONFIG)
    committed = [Entry(1, 0, EntryKind.NOOP, b""), Entry(2, 3, EntryKind.COMMAND, b"x")]
    node = engine("abc", recovered=Recovered(HardState(5, "c"), None, committed))
    node.receive("c", codec.encode_append(Append(5, 1, 2, 2, 3, ()), b"\x90"), 0.0)
    assert node.status().commit_index == 2
    restarted = engine("abc", recovered=Recovered(HardState(5, "c"), None, committed))
    for stale in (node, restarted):
        stale.take_output()
        slots = [(b"y", 2, 2, Entry(2, 2, EntryKind.COMMAND, b"y"))]
        stale.receive("b", codec.encode_append(Append(4, 9, 2, 1, 0, ()), codec.encode_entries(slots)), 0.0)
        output = stale.take_output()
        assert decoded(output, codec) == [("b", NewerTerm(5))]
        assert output.persist == output.committed == []
        assert stale.status().leader != "b"
        assert stale.dropped["stale_term"] == 1


@pytest.mark.parametrize(
    ("node", "voters"),
    [("a", "bc"), ("a", "aab"), ("a", "abcdefgh")],
    ids=["absent", "twice", "many"],
)
def test_voters_that_make_no_sense_are_refused(node: str, voters: str) -> None:
    with pytest.raises(ValueError, match="voters"):
        RaftEngine(node, list(voters), FRESH, now=0.0, random=random.Random(1))


@pytest.mark.parametrize(
    "wrong",
    [
        {"heartbeat_s": 0.0},
        {"heartbeat_s": 0.1},
        {"election_timeout_max_s": 0.25},
        {"leader_fallback_s": 0.1},
        {"lost_leader_min_s": 0.0},
        {"lost_leader_min_s": 0.1},
        {"entry_bytes_max": 1024 * 1024},
        {"entry_bytes_max": 0},
        {"append_entries_max": 0},
        {"appends_in_flight_max": 0},
    ],
)
def test_settings_that_do_not_fit_together_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        RaftConfig(**wrong)  # type: ignore[arg-type]
