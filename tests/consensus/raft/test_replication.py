"""How the leader brings its peers up to date: promptly, once, and within its window."""

from __future__ import annotations

import itertools

import pytest
from raft_world import Node, World

from consensus.interface import Role
from consensus.raft import RaftConfig
from consensus.raft.messages import Ack, Append, Codec

CONFIG = RaftConfig()
CODEC = Codec(CONFIG)


def quiet_cluster(size: int = 3, config: RaftConfig = CONFIG, seed: int = 1) -> tuple[World, Node, Node]:
    world = World(size, seed=seed, config=config)
    leader = world.elect()
    world.converge()
    world.run(0.2)
    world.sent.clear()
    return world, leader, next(node for node in world.up() if node is not leader)


def appends(world: World, target: str) -> list[Append]:
    decoded = [CODEC.decode(m) for _, to, m in world.sent if to == target and isinstance(m, bytes)]
    return [message for message in decoded if isinstance(message, Append)]


def test_a_lone_command_costs_two_messages_and_one_answer_per_peer() -> None:
    world, leader, follower = quiet_cluster()
    world.held = lambda *_: False
    leader.propose(b"x")
    world.run(0.02)
    kinds = [(len(a.entries), bool(a.number), a.commit_index) for a in appends(world, follower.name)]
    assert kinds == [(1, True, 2), (0, False, 3)]
    assert len([1 for source, _, _ in world.sent if source == follower.name]) == 1


@pytest.mark.parametrize("later", [0, 3])
def test_a_lost_append_is_recovered_within_a_heartbeat(later: int) -> None:
    """With and without appends behind it."""
    world, leader, follower = quiet_cluster()
    world.held = lambda _source, target, _message: target == follower.name
    leader.propose(b"lost")
    world.held = None
    for n in range(later):
        leader.propose(b"%d" % n)
    took = world.run_until(lambda: len(follower.commands()) == 1 + later)
    assert took <= CONFIG.heartbeat_s + 6 * world.latency_s[1]


def test_a_lost_acknowledgement_is_recovered_within_a_heartbeat() -> None:
    world, leader, follower = quiet_cluster(2)
    world.held = lambda source, _target, _message: source == follower.name
    leader.propose(b"x")
    world.run(0.02)
    world.held = None
    took = world.run_until(lambda: leader.commands() == [b"x"])
    assert took <= CONFIG.heartbeat_s + 2 * world.latency_s[1]


def test_a_lost_commit_notice_is_made_up_by_the_next_heartbeat() -> None:
    world, leader, follower = quiet_cluster()
    leader.propose(b"x")
    world.run_until(lambda: leader.commands() == [b"x"])
    world.held = lambda source, _target, _message: source == leader.name
    world.run(0.01)
    world.held = None
    assert world.run_until(lambda: follower.commands() == [b"x"]) <= 2 * CONFIG.heartbeat_s


def test_catching_up_sends_every_byte_about_once() -> None:
    """Forty megabytes, one of the first messages lost, and the window never exceeded."""
    world, leader, follower = quiet_cluster()
    follower.crash()
    data = bytes(500_000)
    for _ in range(80):
        leader.propose(data)
        world.run(0.01)
    world.sent.clear()
    world.bytes_sent = 0
    lost: list[object] = []

    def lose_the_third(_source: str, target: str, message: object) -> bool:
        if target == follower.name and isinstance(message, bytes) and len(message) > 400_000:
            lost.append(message)
            return len(lost) == 3
        return False

    world.held = lose_the_third
    in_flight: list[int] = []
    follower.start()
    while len(follower.commands()) < 80:
        assert world.step(world.now + 10.0)
        in_flight.append(
            sum(len(m) for _, _, _, to, m in world._events if to == follower.name and isinstance(m, bytes))
        )
    assert max(in_flight) <= CONFIG.append_bytes_in_flight_max + CONFIG.append_bytes_max
    assert max(in_flight) >= CONFIG.append_bytes_in_flight_max // 2
    assert world.bytes_sent <= 40_000_000 + 2 * CONFIG.append_bytes_in_flight_max


def test_a_peer_that_answers_nothing_gets_its_window_and_then_heartbeats() -> None:
    config = RaftConfig(appends_in_flight_max=5)
    world, leader, follower = quiet_cluster(config=config)
    world.held = lambda source, _target, _message: source == follower.name
    for n in range(200):
        leader.propose(b"%d" % n)
        world.run(0.005)
    sent = appends(world, follower.name)
    assert sum(len(append.entries) for append in sent) == 5
    assert 15 <= sum(not append.entries for append in sent) <= 40
    assert follower.live.status().role is Role.FOLLOWER
    assert follower.live.status().leader == leader.name
    world.held = None
    world.run_until(lambda: len(follower.commands()) == 200)
    answers = [CODEC.decode(data) for source, _, data in world.sent if source == follower.name]
    assert not any(answer.reset for answer in answers if isinstance(answer, Ack))


def test_a_busy_leader_keeps_an_idle_peer_company() -> None:
    """Heartbeats are due per peer: appends to one must not postpone those to another."""
    world, leader, follower = quiet_cluster(config=RaftConfig(appends_in_flight_max=1))
    world.held = lambda source, _target, _message: source == follower.name
    for n in range(1000):
        leader.propose(b"%d" % n)
        world.run(0.001)
    assert list(world.leaders) == [1]
    assert follower.live.status().leader == leader.name


@pytest.mark.parametrize("in_flight", [False, True])
def test_a_peer_that_reconnects_has_what_it_missed_one_message_later(in_flight: bool) -> None:
    world, leader, follower = quiet_cluster(config=RaftConfig(appends_in_flight_max=1))
    others = [name for name in world.nodes if name != follower.name]
    for act in [lambda: leader.propose(b"x"), lambda: world.cut([follower.name], others)][
        :: 1 if in_flight else -1
    ]:
        act()
    world.run(0.01)
    world.heal()
    assert world.run_until(lambda: follower.commands() == [b"x"]) <= world.latency_s[1]


def test_no_connected_peer_waits_longer_than_a_heartbeat() -> None:
    """Appends to one peer, now and then, do not postpone the heartbeats of another."""
    world, leader, follower = quiet_cluster(config=RaftConfig(appends_in_flight_max=1))
    times: list[float] = []

    def note(source: str, target: str, _message: object) -> bool:
        if (source, target) == (leader.name, follower.name):
            times.append(world.now)
        return source == follower.name

    world.held = note
    for n in range(20):
        leader.propose(b"%d" % n)
        world.run(0.03)
    gaps = [after - before for before, after in itertools.pairwise(times)]
    assert max(gaps) <= CONFIG.heartbeat_s + 0.0001


def test_a_peer_that_reconnects_hears_from_the_leader_even_if_there_is_no_news() -> None:
    world, _, follower = quiet_cluster()
    world.run_until(lambda: bool(appends(world, follower.name)))
    world.run(CONFIG.heartbeat_s / 5)
    world.cut([follower.name], [name for name in world.nodes if name != follower.name])
    world.sent.clear()
    world.heal()
    [greeting] = appends(world, follower.name)
    assert greeting.entries == ()
    assert greeting.number > 0


def test_a_leader_writes_before_it_hears_of_its_own_append() -> None:
    """Two of three acknowledge, the leader dies before its own sync: the entry survives."""
    world, leader, follower = quiet_cluster()
    world.crash_rate = 1.0
    leader.live.propose(b"early", world.now)
    leader.settle()
    assert leader.engine is None
    world.crash_rate = 0.0
    world.elect()
    world.converge()
    assert follower.commands() == [b"early"]
    leader.start()
    world.converge()
    assert leader.commands() == [b"early"]


def test_a_rejection_that_an_acknowledgement_overtook_sends_nothing_again() -> None:
    world, leader, follower = quiet_cluster()
    for n in range(3):
        leader.propose(b"%d" % n)
    numbers = [append.number for append in appends(world, follower.name)]
    term, last = leader.live.status().term, leader.live.status().last_index
    for answer in (
        Ack(term, numbers[1], last, success=True, reset=False),
        Ack(term, numbers[2], last - 1, success=False, reset=True),
    ):
        leader.live.receive(follower.name, CODEC.encode(answer), world.now)
    sent = [
        CODEC.decode(data) for peer, data in leader.live.take_output().send_early if peer == follower.name
    ]
    assert [[entry.index for entry in append.entries] for append in sent] == [[last]]


def test_an_acknowledgement_of_what_was_never_sent_counts_for_nothing() -> None:
    world, leader, follower = quiet_cluster()
    status = leader.live.status()
    beyond = Ack(status.term, 1, status.last_index + 2, success=True, reset=False)
    unnumbered = Ack(status.term, 10**6, status.last_index + 1, success=True, reset=False)
    for answer in (beyond, unnumbered):
        leader.live.receive(follower.name, CODEC.encode(answer), world.now + 1.0)
    assert leader.live.dropped["ack_of_nothing"] == 2
    assert leader.live.status().last_contact_s == status.last_contact_s
