"""Who calls an election, who is let, and that nobody else is disturbed (Ongaro 2014, 9.6 and 4.2.3)."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from raft_script import PATIENT, Guarded
from raft_world import Node, World

from consensus.interface import Entry, EntryKind, HardState, Recovered
from consensus.raft.messages import (
    Append,
    Codec,
    NewerTerm,
    PreVote,
    PreVoteAnswer,
    RequestVote,
    TransferVote,
)

CODEC = Codec(PATIENT)
ISOLATION_S = 60.0


def asked(cluster: Guarded, source: str, target: str) -> PreVote:
    ask = CODEC.decode(cluster.take(source, target)[-1])
    assert isinstance(ask, PreVote)
    return ask


def answered(cluster: Guarded, source: str, target: str) -> PreVoteAnswer:
    answer = CODEC.decode(cluster.take(source, target)[-1])
    assert isinstance(answer, PreVoteAnswer)
    return answer


# -- a healthy leader is left alone -------------------------------------------------------------------


def deaf(world: World, leader: Node, odd: Node) -> None:
    world.held = lambda source, target, message: target == odd.name


def mute(world: World, leader: Node, odd: Node) -> None:
    world.held = lambda source, target, message: source == odd.name


def does_not_hear_the_leader(world: World, leader: Node, odd: Node) -> None:
    world.held = lambda source, target, message: (source, target) == (leader.name, odd.name)


def has_no_link_to_the_leader(world: World, leader: Node, odd: Node) -> None:
    world._separate(leader.name, odd.name)


def is_alone(world: World, leader: Node, odd: Node) -> None:
    world.cut([odd.name], [name for name in world.nodes if name != odd.name])


def flaps(world: World, leader: Node, odd: Node) -> None:
    def held(source: str, target: str, message: object) -> bool:
        return odd.name in (source, target) and int(world.now * 1.3) % 2 == 0

    world.held = held


@pytest.mark.parametrize("size", [3, 5])
@pytest.mark.parametrize(
    "trouble", [deaf, mute, does_not_hear_the_leader, has_no_link_to_the_leader, is_alone, flaps]
)
def test_a_node_in_trouble_disturbs_nobody_and_returns_without_an_election(
    trouble: Callable[[World, Node, Node], None], size: int
) -> None:
    world = World(size, seed=20 + size)
    leader = world.elect()
    world.run(0.5)
    odd = next(node for node in world.up() if node is not leader)
    terms = dict(world.leaders)
    trouble(world, leader, odd)
    for number in range(60):
        leader.propose(b"%d" % number)
        world.run(ISOLATION_S / 60)
        assert leader.commands()[-1] == b"%d" % number
    world.held = None
    world.heal()
    for number in range(100):
        leader.propose(b"back %d" % number)
        world.run(0.05)
        assert leader.commands()[-1] == b"back %d" % number, "writes stop for less than 50 ms"
    world.converge()
    assert world.leaders == terms
    assert {node.live.status().term for node in world.up()} == set(terms)


def test_a_follower_that_hears_its_leader_again_forgets_that_it_had_asked() -> None:
    cluster = Guarded("abc")
    cluster.elect("a")
    cluster.flush()
    cluster.grow_impatient("b")
    ask = asked(cluster, "b", "c")
    assert cluster.nodes["b"].status().leader is None
    cluster.wire.clear()
    cluster.heartbeat("a")
    cluster.flush("a", "b")
    assert cluster.nodes["b"].status().leader == "a"
    cluster.deliver("c", "b", CODEC.encode(PreVoteAnswer(1, ask.round, granted=True)))
    assert cluster.nodes["b"].status().term == 1
    assert cluster.nodes["b"].dropped["stale_pre_vote"] == 1


# -- asking -------------------------------------------------------------------------------------------


def test_asking_changes_nothing_and_costs_no_sync() -> None:
    cluster = Guarded("abc")
    cluster.grow_impatient("a")
    for name in "bc":
        cluster.deliver("a", name, cluster.take("a", name)[-1])
        assert answered(cluster, name, "a").granted
    assert [cluster.outputs[name][-1].persist for name in "abc"] == [[], [], []]
    assert {cluster.disks[name].hard_state for name in "abc"} == {HardState(0, None)}


@pytest.mark.parametrize(("voters", "needed"), [("ab", 1), ("abc", 1), ("abcd", 2), ("abcde", 2)])
def test_only_a_majority_of_distinct_peers_calls_the_election(voters: str, needed: int) -> None:
    cluster = Guarded(voters)
    cluster.grow_impatient("a")
    ask = asked(cluster, "a", "b")
    yes = CODEC.encode(PreVoteAnswer(0, ask.round, granted=True))
    no = CODEC.encode(PreVoteAnswer(0, ask.round, granted=False))
    for count, peer in enumerate(voters[1 : needed + 1], 1):
        cluster.deliver("x", "a", yes)
        cluster.deliver(voters[-1], "a", no)
        assert cluster.nodes["a"].status().term == 0
        cluster.deliver(peer, "a", yes)
        cluster.deliver(peer, "a", yes)
        assert cluster.nodes["a"].status().term == (1 if count == needed else 0)


def test_an_answer_to_an_earlier_asking_does_not_count() -> None:
    cluster = Guarded("abc")
    cluster.grow_impatient("a")
    first = asked(cluster, "a", "b")
    cluster.grow_impatient("a")
    second = asked(cluster, "a", "b")
    assert second.round == first.round + 1
    cluster.deliver("b", "a", CODEC.encode(PreVoteAnswer(0, first.round, granted=True)))
    assert cluster.nodes["a"].status().term == 0
    assert cluster.nodes["a"].dropped["stale_pre_vote"] == 1
    cluster.deliver("b", "a", CODEC.encode(PreVoteAnswer(0, second.round, granted=True)))
    assert cluster.nodes["a"].status().term == 1
    cluster.deliver("c", "a", CODEC.encode(PreVoteAnswer(0, second.round, granted=True)))
    assert cluster.nodes["a"].status().term == 1


def test_yeses_of_two_askings_are_no_majority() -> None:
    cluster = Guarded("abcde")
    for peer in "bcde":
        cluster.grow_impatient("a")
        yes = PreVoteAnswer(0, asked(cluster, "a", peer).round, granted=True)
        cluster.deliver(peer, "a", CODEC.encode(yes))
        cluster.wire.clear()
        assert cluster.nodes["a"].status().term == 0


# -- answering ----------------------------------------------------------------------------------------

LOG = [
    Entry(1, 0, EntryKind.NOOP, b""),
    Entry(2, 1, EntryKind.COMMAND, b"x"),
    Entry(3, 3, EntryKind.COMMAND, b"y"),
]


def answer_of(ask: PreVote, *, hard_state: HardState = HardState(3, "c")) -> PreVoteAnswer:  # noqa: B008 (frozen)
    cluster = Guarded("abc")
    cluster.disks["b"] = Recovered(hard_state, None, list(LOG))
    cluster.start("b")
    cluster.wire.clear()
    cluster.deliver("a", "b", CODEC.encode(ask))
    return answered(cluster, "b", "a")


@pytest.mark.parametrize(
    ("last_index", "last_term", "granted"),
    [(3, 3, True), (4, 3, True), (2, 4, True), (2, 3, False), (9, 2, False), (3, 2, False)],
)
def test_only_a_log_that_is_as_far_is_told_yes(last_index: int, last_term: int, granted: bool) -> None:
    assert answer_of(PreVote(4, 7, last_index, last_term)) == PreVoteAnswer(3, 7, granted)


@pytest.mark.parametrize(
    ("term", "vote", "granted"),
    [(5, None, True), (4, None, True), (3, None, True), (3, "c", False), (2, None, False)],
)
def test_only_a_term_in_which_there_is_a_vote_left_is_told_yes(
    term: int, vote: str | None, granted: bool
) -> None:
    assert answer_of(PreVote(term, 7, 3, 3), hard_state=HardState(3, vote)).granted is granted


def test_whoever_hears_a_leader_says_no_until_it_has_been_silent_for_the_shortest_timeout() -> None:
    cluster = Guarded("abc")
    cluster.elect("a")
    cluster.flush()
    for silence, granted in ((0.0, False), (PATIENT.election_timeout_min_s - 1, False), (1.5, True)):
        cluster.now += silence
        cluster.deliver("c", "b", CODEC.encode(PreVote(2, 1, 9, 9)))
        assert answered(cluster, "b", "c").granted is granted
    cluster.deliver("c", "a", CODEC.encode(PreVote(2, 1, 9, 9)))
    assert not answered(cluster, "a", "c").granted, "a leader knows that it is alive"


def test_a_leader_whose_link_is_down_is_not_vouched_for() -> None:
    cluster = Guarded("abc")
    cluster.elect("a")
    cluster.flush()
    cluster.nodes["b"].peer_disconnected("a", cluster.now)
    cluster.deliver("c", "b", CODEC.encode(PreVote(2, 1, 9, 9)))
    assert answered(cluster, "b", "c").granted


# -- requests for votes under a leader that is alive --------------------------------------------------


@pytest.mark.parametrize("name", ["a", "b"])
def test_a_request_for_a_vote_is_ignored_while_a_leader_is_alive(name: str) -> None:
    cluster = Guarded("abc")
    cluster.elect("a")
    cluster.flush()
    cluster.deliver("c", name, CODEC.encode(RequestVote(9, 9, 9)))
    assert cluster.nodes[name].status().term == 1
    assert cluster.nodes[name].status().leader == "a"
    assert cluster.nodes[name].dropped["leader_alive"] == 1
    assert cluster.take(name, "c") == []


@pytest.mark.parametrize("name", ["a", "b"])
def test_unless_the_leader_itself_wants_the_election(name: str) -> None:
    cluster = Guarded("abc")
    cluster.elect("a")
    cluster.flush()
    cluster.deliver("c", name, CODEC.encode(TransferVote(9, 9, 9)))
    assert cluster.disks[name].hard_state == HardState(9, "c")


# -- terms still get around ---------------------------------------------------------------------------


def test_a_log_that_could_win_learns_of_the_term_that_it_needs() -> None:
    """a has the longer log, b the newer term, and nobody else is there: neither could win by itself."""
    cluster = Guarded("abc")
    cluster.disks["a"] = Recovered(HardState(3, None), None, list(LOG))
    cluster.disks["b"] = Recovered(HardState(7, "b"), None, LOG[:2])
    for name in "ab":
        cluster.start(name)
    for _ in range(3):
        for name in "ab":
            cluster.grow_impatient(name)
            cluster.flush("a", "b")
    assert cluster.is_leader("a")
    assert cluster.nodes["b"].status().term == 8


def test_a_refusal_of_an_earlier_asking_changes_no_term() -> None:
    cluster = Guarded("abc")
    cluster.elect("a")
    cluster.flush()
    cluster.grow_impatient("b")
    ask = asked(cluster, "b", "c")
    cluster.heartbeat("a")
    cluster.flush("a", "b")
    cluster.deliver("c", "b", CODEC.encode(PreVoteAnswer(9, ask.round, granted=False)))
    assert cluster.nodes["b"].status().term == 1


def test_a_leader_that_a_peer_cannot_follow_any_more_makes_room() -> None:
    world = World(3, seed=31)
    leader = world.elect()
    odd = next(node for node in world.up() if node is not leader)
    odd.crash()
    odd.disk.hard_state = HardState(9, None)
    odd.start()
    world.run_until(lambda: max(world.leaders) > 9, limit_s=3.0)
    world.elect().propose(b"x")
    world.converge()
    assert {node.live.status().term for node in world.up()} == {max(world.leaders)}
    assert len(world.leaders) == 2, "one election is enough"


def test_only_a_leader_of_an_older_term_listens_to_that() -> None:
    cluster = Guarded("abc")
    cluster.elect("a")
    cluster.flush()
    for name, term in (("b", 9), ("a", 1), ("a", 0)):
        cluster.deliver("c", name, CODEC.encode(NewerTerm(term)))
        assert cluster.nodes[name].status().term == 1
        assert cluster.nodes[name].dropped["stale_term"] == (2 if term == 0 else 1)
    cluster.deliver("c", "a", CODEC.encode(NewerTerm(5)))
    assert not cluster.is_leader("a")
    assert cluster.disks["a"].hard_state == HardState(5, None)
    cluster.deliver("b", "a", CODEC.encode_append(Append(4, 1, 1, 1, 0, ()), b"\x90"))
    assert CODEC.decode(cluster.take("a", "b")[-1]) == NewerTerm(5)


# -- a link that breaks -------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [3, 5])
def test_a_leader_that_dies_is_succeeded_long_before_anybody_would_have_missed_it(size: int) -> None:
    took = []
    for seed in range(40):
        world = World(size, seed=seed)
        leader = world.elect()
        world.run(0.2)
        leader.crash()
        took.append(world.run_until(lambda world=world: world.leader() is not None))
    config = world.config
    assert min(took) >= config.lost_leader_min_s
    assert sorted(took)[len(took) // 2] < config.lost_leader_max_s
    assert max(took) < config.election_timeout_min_s


def test_votes_are_hardly_ever_split() -> None:
    elections = split = 0
    for seed in range(60):
        world = World(5, seed=seed)
        world.elect().crash()
        before = max(world.leaders)
        world.elect()
        elections += 1
        split += max(world.leaders) > before + 1
    assert elections == 60
    assert split <= 3


@pytest.mark.parametrize("others", [1, 2])
def test_links_that_break_and_come_back_at_once_cost_no_election(others: int) -> None:
    world = World(3, seed=61)
    leader = world.elect()
    for _ in range(50):
        world.run(0.11)
        for name in [name for name in world.nodes if name != leader.name][:others]:
            world._separate(leader.name, name)
        world.run(0.015)
        world.heal()
    assert list(world.leaders) == [1]
    assert leader.is_leader


def test_a_link_that_comes_back_gives_the_leader_the_time_that_it_had_and_no_more() -> None:
    cluster = Guarded("abcd")
    cluster.elect("a")
    cluster.flush()
    follower = cluster.nodes["b"]
    before = follower.next_deadline()
    for _ in range(5):
        cluster.now += 0.01
        follower.peer_disconnected("a", cluster.now)
        assert cluster.now < follower.next_deadline() <= cluster.now + cluster.config.lost_leader_max_s + 1e-5
        follower.peer_connected("a", cluster.now)
        assert follower.next_deadline() == before
    follower.peer_disconnected("c", cluster.now)
    assert follower.next_deadline() == before, "only the leader is missed"
    follower.peer_connected("c", cluster.now)
    follower.peer_disconnected("a", cluster.now)
    soon = follower.next_deadline()
    follower.peer_disconnected("c", cluster.now)
    follower.peer_connected("d", cluster.now)
    follower.peer_connected("c", cluster.now)
    assert follower.next_deadline() == soon, "another's return does not bring the leader back"


def test_whoever_lets_another_ask_waits_and_of_two_that_ask_at_once_the_first_by_name_goes_on() -> None:
    cluster = Guarded("abc")
    for name in "bc":
        cluster.grow_impatient(name)
    from_b, from_c = cluster.take("b", "c"), cluster.take("c", "b")
    cluster.deliver("b", "c", from_b[0])
    cluster.deliver("c", "b", from_c[0])
    cluster.wire = [flight for flight in cluster.wire if "a" not in flight[:2]]
    cluster.deliver("b", "c", cluster.take("b", "c")[0])
    assert cluster.nodes["c"].status().term == 0, "c has made way"
    cluster.flush("b", "c")
    assert cluster.is_leader("b")
    cluster = Guarded("abc")
    cluster.nodes["b"]._core.election_deadline = cluster.now + 0.001
    cluster.grow_impatient("c")
    cluster.deliver("c", "b", cluster.take("c", "b")[0])
    assert cluster.nodes["b"].next_deadline() >= cluster.now + cluster.config.lost_leader_min_s
