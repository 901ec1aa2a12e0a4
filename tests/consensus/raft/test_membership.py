"""Members that come and go: one at a time, caught up first, and whoever lost its disk is nobody."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from raft_script import PATIENT, Guarded
from raft_world import Node, World

from consensus.configuration import AddObserver, Configuration, Member, Promote, Remove, Standing
from consensus.errors import Busy, InvariantViolated, MembershipRefused, NotCaughtUp, NotLeader
from consensus.interface import Entry, EntryKind, HardState, Recovered, Role, SnapshotMeta
from consensus.raft import RaftConfig, RaftEngine
from consensus.raft.messages import Ack, Append, Codec, NotMember, PreVote, RequestVote, Vote

CODEC = Codec(PATIENT)


def settled(size: int = 3, seed: int = 61, **limits: int) -> tuple[World, Node]:
    world = World(size, seed=seed, config=RaftConfig(**limits), incarnations=True)  # type: ignore[arg-type]
    leader = world.elect()
    world.run(0.3)
    return world, leader


def done(world: World, index: int) -> Callable[[], bool]:
    return lambda: index in world.log


def change(world: World, what: AddObserver | Promote | Remove) -> Node:
    """Have the leader change the members, and wait until that is committed."""
    leader = world.elect()
    if isinstance(what, Promote):
        world.run_until(lambda: leader.live.status().match[what.name] > 0)
    world.run_until(done(world, leader.change(what)))
    return leader


def take_in(world: World, name: str) -> None:
    """Have ``name`` join, catch up and vote."""
    world.join(name)
    change(world, world.add(name))
    world.converge()
    change(world, world.promote(name))


def voters(node: Node) -> tuple[str, ...]:
    return node.live.configuration().voters


# -- the first leader ------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_the_first_leader_writes_down_who_has_elected_it(size: int) -> None:
    world, leader = settled(size)
    members = leader.live.configuration().members
    assert [(m.name, m.incarnation, m.votes) for m in members] == [
        (name, world[name].disk.incarnation, True) for name in world.initial
    ]
    assert leader.applied[2].kind is EntryKind.CONFIG
    assert {node.live.configuration() for node in world.up()} == {leader.live.configuration()}
    assert {node.live.status().standing for node in world.up()} == {Standing.VOTER}


def test_the_first_leader_needs_the_vote_of_every_voter() -> None:
    world = World(3, start=False, incarnations=True)
    world["n1"].start()
    world["n2"].start()
    world.run(20)
    assert world.leader() is None
    assert {node.live.status().term for node in world.up()} == {0}, "nobody even tries"
    world["n3"].start()
    world.elect()
    world["n3"].crash()
    world.elect().propose(b"a majority is enough from now on")
    world.converge()


def test_a_majority_of_votes_elects_no_founder_even_if_it_tries() -> None:
    engine = RaftEngine(
        "a",
        "abc",
        Recovered(HardState(0, None), None, [], 1),
        now=0.0,
        random=random.Random(1),
        config=PATIENT,
    )
    for peer in "bc":
        engine.peer_connected(peer, 0.0)
    engine._elections.call(handed_over=True)
    engine.receive("b", CODEC.encode(Vote(1, 2)), 1.0)
    assert engine.status().role is Role.CANDIDATE
    engine.receive("b", CODEC.encode(Vote(1, 2)), 1.0)
    assert engine.status().role is Role.CANDIDATE, "a second vote of the same voter is none"
    engine.receive("c", CODEC.encode(Vote(1, 3)), 1.0)
    assert engine.status().role is Role.LEADER
    assert [(m.name, m.incarnation) for m in engine.configuration().members] == [("a", 1), ("b", 2), ("c", 3)]


def test_a_data_directory_from_before_has_the_voters_that_it_was_given() -> None:
    """Its journal has the incarnation 0, and no configuration is in its log."""
    world = World(3, seed=5)
    leader = world.elect()
    leader.propose(b"x")
    world.converge()
    leader.take_snapshot()
    assert leader.disk.snapshot is not None
    assert leader.disk.snapshot.configuration == b""
    for node in world.nodes.values():
        node.crash()
    world["n1"].start()
    world["n2"].start()
    leader = world.elect()
    assert leader.live.configuration() == Configuration.of_voters(["n1", "n2", "n3"])
    leader.propose(b"y")
    world.converge()


def test_a_voter_from_before_whose_disk_was_emptied_does_not_count() -> None:
    world = World(3, seed=5)
    world.elect().propose(b"x")
    world.converge()
    world["n3"].lose_disk()
    world["n3"].disk.incarnation = 77
    world["n3"].start()
    world.run(1)
    assert world["n3"].live.status().leader is not None
    gone = world.elect()
    gone.crash()
    world.run(20)
    assert world.leader() is None, "one whole disk and an empty one are no majority"


# -- joining ---------------------------------------------------------------------------------------


def test_a_node_joins_catches_up_from_a_snapshot_and_votes() -> None:
    world, leader = settled()
    for n in range(50):
        leader.propose(b"%d" % n)
    world.converge()
    leader.take_snapshot()
    node = world.join("n4")
    world.run(2)
    assert node.live.status().standing is Standing.OUTSIDER
    assert node.live.next_deadline() == float("inf"), "it waits, and asks nobody for votes"
    change(world, world.add("n4"))
    world.converge()
    assert node.disk.snapshot == leader.disk.snapshot
    assert node.live.status().standing is Standing.OBSERVER
    assert (node.live.status().observers, node.live.status().voters) == (("n4",), world.initial)
    change(world, world.promote("n4"))
    world.converge()
    assert {voters(node) for node in world.up()} == {("n1", "n2", "n3", "n4")}
    assert node.live.configuration().get("n4") == Member("n4", node.disk.incarnation, "n4:1", votes=True)


def test_an_observer_neither_votes_nor_counts_and_has_everything() -> None:
    world, leader = settled(2)
    world.join("n3")
    change(world, world.add("n3"))
    world.converge()
    follower = next(n for n in world.members() if not n.is_leader and n.name != "n3")
    follower.crash()
    index = leader.propose(b"two of three, but one does not count")[1]
    world.run(0.2)
    assert index not in world.log
    assert world["n3"].live.status().last_index == index
    world.run(5)
    assert world.leader() is None, "and it does not keep a leader in office"
    leader.crash()
    world.run(20)
    assert world["n3"].live.status().term == 1, "it stands for no election"


def test_a_lone_voter_commits_alone_and_an_observer_follows() -> None:
    world, leader = settled(1)
    world.join("n2")
    change(world, world.add("n2"))
    world["n2"].crash()
    index = leader.propose(b"x")[1]
    assert index in world.log
    world["n2"].start()
    leader.propose(b"y")
    world.converge()
    assert world["n2"].commands() == [b"x", b"y"]
    change(world, world.promote("n2"))
    world["n2"].crash()
    index = leader.propose(b"z")[1]
    world.run(0.2)
    assert index not in world.log, "two voters need each other"


def test_an_observer_learns_of_no_commit_before_the_only_voter_has_it_on_its_disk() -> None:
    """The swarm found it: the entry and its commit left early, and the voter lost power before its sync."""
    cluster = Guarded("a")
    cluster.names.append("b")
    cluster.nodes["b"] = RaftEngine(
        "b", (), Recovered(HardState(0, None), None, [], 0), now=0.0, random=random.Random(2), config=PATIENT
    )
    cluster.disks["b"], cluster.outputs["b"] = Recovered(HardState(0, None), None, []), []
    for one, other in ("ab", "ba"):
        cluster.nodes[one].peer_connected(other, 0.0)
    cluster.perform("b")
    cluster.nodes["a"].tick(cluster.nodes["a"].next_deadline())
    cluster.perform("a")
    cluster.nodes["a"].change_membership(AddObserver("b", 0), cluster.now)
    cluster.perform("a")
    for _ in range(3):
        cluster.heartbeat("a")
        cluster.flush()
    cluster.nodes["a"].propose(b"x", cluster.now)
    output = cluster.nodes["a"].take_output()
    index = cluster.nodes["a"].status().commit_index
    sent = [CODEC.decode(message) for _, message in output.send]
    assert [(m.commit_index, len(m.entries)) for m in sent if isinstance(m, Append)] == [(index, 1)]
    assert output.send_early == []
    assert [entry.index for entry in output.persist if isinstance(entry, Entry)] == [index]


def test_an_observer_is_promoted_only_when_it_has_caught_up() -> None:
    world, leader = settled(promotion_lag_entries_max=3)
    world.join("n4")
    world.held = lambda source, target, message: target == "n4"
    leader.change(world.add("n4"))
    world.run_until(done(world, leader.live.status().last_index))
    with pytest.raises(NotCaughtUp, match="n4 has 0 of 4 entries, and at most promotion_lag_entries_max=3"):
        leader.change(world.promote("n4"))
    world.held = None
    world.run_until(lambda: leader.live.status().match["n4"] == 4)
    world.held = lambda source, target, message: source == "n4"
    for n in range(3):
        leader.propose(b"%d" % n)
    assert leader.live.status().match["n4"] == leader.live.status().last_index - 3
    assert leader.live.change_membership(world.promote("n4"), world.now) == leader.live.status().last_index


def test_an_observer_that_has_never_answered_is_not_promoted() -> None:
    """However short the log is, and however lately it was taken in: the swarm found a dead one promoted."""
    world, leader = settled(1)
    world.join("n2")
    world.held = lambda source, target, message: True
    leader.change(world.add("n2"))
    with pytest.raises(NotCaughtUp, match="n2 has not answered lately"):
        leader.change(world.promote("n2"))
    leader.propose(b"a lone voter goes on")


def test_an_observer_that_has_fallen_silent_is_not_promoted() -> None:
    world, leader = settled()
    world.join("n4")
    change(world, world.add("n4"))
    world.converge()
    world["n4"].crash()
    with pytest.raises(NotCaughtUp, match="n4 has not answered lately"):
        leader.change(world.promote("n4"))


# -- one at a time ---------------------------------------------------------------------------------


def test_a_configuration_is_in_force_when_it_is_appended_and_the_next_waits_until_it_is_committed() -> None:
    world, leader = settled()
    world.join("n4")
    world.held = lambda source, target, message: True
    index = leader.change(world.add("n4"))
    assert leader.live.configuration().observers == ("n4",)
    with pytest.raises(Busy, match=f"at entry {index} is not committed yet"):
        leader.change(world.remove(next(n for n in world.initial if n != leader.name)))
    assert leader.change(world.add("n4")) == index, "what is so already is not done again"
    world.held = None
    world.run_until(done(world, index))
    leader.change(world.remove(next(n for n in world.initial if n != leader.name)))


def test_a_leader_changes_no_members_before_it_has_committed_an_entry_of_its_own_term() -> None:
    """The mistake of 2015: two changes from one base, by two leaders, have majorities without a common node.

    Four voters: `a` removes one and only it knows; `b`, elected by the others, must not begin another.
    """
    cluster = Guarded("abcd")
    cluster.elect("a")
    cluster.flush()
    cluster.nodes["a"].change_membership(Remove("d", 0), cluster.now)
    cluster.perform("a")
    assert cluster.nodes["a"].configuration().voters == ("a", "b", "c")
    cluster.wire.clear()
    cluster.elect("b", "c", "d")
    assert cluster.nodes["b"].status().commit_index >= 2
    blocked = Guarded("abcd")
    blocked.elect("a")
    blocked.flush()
    blocked.wire.clear()
    blocked.expire("b")
    for voter in "cd":
        for message in blocked.take("b", voter):
            blocked.deliver("b", voter, message)
        for message in blocked.take(voter, "b"):
            blocked.deliver(voter, "b", message)
    assert blocked.is_leader("b")
    with pytest.raises(Busy, match="committed nothing of its own term"):
        blocked.nodes["b"].change_membership(Remove("c", 0), blocked.now)
    assert blocked.nodes["b"].configuration().voters == ("a", "b", "c", "d")


def test_a_configuration_that_is_truncated_is_not_in_force_any_more() -> None:
    cluster = Guarded("abc")
    cluster.elect("a")
    cluster.flush()
    cluster.nodes["a"].change_membership(AddObserver("d", 0), cluster.now)
    cluster.perform("a")
    assert cluster.nodes["a"].configuration().observers == ("d",)
    cluster.wire.clear()
    cluster.elect("b", "c")
    cluster.propose("b", "x")
    for _ in range(2):
        cluster.heartbeat("b")
        cluster.flush("a", "b", "c")
    assert cluster.nodes["a"].configuration() == Configuration.of_voters("abc")
    assert cluster.applied("a") == ["x"]
    assert cluster.nodes["a"].status().observers == ()


def test_a_snapshot_has_the_configuration_that_is_committed_at_its_index_and_no_later_one() -> None:
    world, leader = settled()
    leader.propose(b"x")
    world.converge()
    before = leader.live.configuration()
    world.join("n4")
    world.held = lambda source, target, message: True
    leader.change(world.add("n4"))
    assert leader.live.configuration() != before
    meta = leader.take_snapshot()
    assert Configuration.decode(meta.configuration) == before
    leader.crash()
    world.held = None
    leader.start()
    world.run(0.001)
    assert leader.live.configuration().observers == ("n4",), "it is in the log behind the snapshot"
    world.elect()
    world.converge()
    assert leader.live.configuration_at(meta.index) == meta.configuration


def test_a_node_starts_again_with_the_configuration_of_its_snapshot() -> None:
    world, _ = settled()
    take_in(world, "n4")
    change(world, world.remove(next(n for n in world.initial if n != world.elect().name)))
    world.elect().propose(b"x")
    world.converge()
    for node in world.members():
        node.take_snapshot()
        node.crash()
        node.start()
        assert len(voters(node)) == 3
    world.elect().propose(b"y")
    world.converge()


# -- leaving ---------------------------------------------------------------------------------------


def test_a_removed_voter_gets_no_more_of_the_log_is_told_and_disturbs_nobody() -> None:
    world, leader = settled()
    out = next(n for n in world.initial if n != leader.name)
    change(world, world.remove(out))
    last = world[out].live.status().last_index
    for n in range(5):
        leader.propose(b"%d" % n)
    world.run(5)
    status = world[out].live.status()
    assert (status.last_index, status.term, status.dismissed) == (last, 1, True)
    assert world[out].live.next_deadline() == float("inf")
    assert list(world.leaders) == [1]
    world[out].crash()
    world[out].start()
    world.run(5)
    assert world[out].live.status().dismissed
    assert list(world.leaders) == [1], "it asks once more after a restart, and is told again"


def test_whoever_is_taken_in_again_stands_for_elections_again() -> None:
    world, leader = settled()
    out = next(n for n in world.initial if n != leader.name)
    change(world, world.remove(out))
    world.run(2)
    assert world[out].live.status().dismissed
    change(world, world.add(out))
    world.converge()
    change(world, world.promote(out))
    world.converge()
    assert not world[out].live.status().dismissed
    leader.live.transfer_leadership(out, world.now)
    leader.settle()
    world.run_until(lambda: world[out].is_leader)


def test_a_late_dismissal_does_not_undo_a_later_return() -> None:
    cluster = Guarded("abc")
    cluster.elect("a")
    cluster.flush()
    b = cluster.nodes["b"]
    for message, dismissed in ((NotMember(0, 9), False), (NotMember(1, 0), False), (NotMember(1, 9), True)):
        b.receive("a", CODEC.encode(message), cluster.now)
        assert b.status().dismissed is dismissed
    cluster.nodes["a"].change_membership(AddObserver("d", 0), cluster.now)
    cluster.perform("a")
    cluster.flush("a", "b", "c")
    assert b.status().dismissed, "entry 3 is from before"
    assert not b._membership.may_stand


def test_a_leader_does_not_remove_itself() -> None:
    world, leader = settled()
    with pytest.raises(MembershipRefused, match="hand leadership over first"):
        leader.change(world.remove(leader.name))
    gone = leader.name
    leader.live.transfer_leadership(None, world.now)
    leader.settle()
    world.run_until(lambda: not leader.is_leader and world.leader() is not leader)
    change(world, world.remove(gone))
    world.elect().propose(b"x")
    world.converge()
    assert gone not in voters(world.elect())


def test_the_last_voter_stays() -> None:
    world, leader = settled(1)
    with pytest.raises(MembershipRefused, match="n1 is the only voter"):
        leader.change(world.remove("n1"))


def test_a_dead_voter_is_removed_and_a_live_one_is_not_while_it_is_needed() -> None:
    world, leader = settled(3)
    alive, dead = (n for n in world.initial if n != leader.name)
    world[dead].crash()
    world.run(0.6)
    assert leader.is_leader
    with pytest.raises(MembershipRefused, match=f"only {leader.name} can be reached"):
        leader.change(world.remove(alive))
    change(world, world.remove(dead))
    assert len(voters(leader)) == 2
    leader.propose(b"x")
    world.converge()


# -- emptied disks ---------------------------------------------------------------------------------


def test_a_voter_whose_disk_was_emptied_elects_nobody() -> None:
    """What docs/operations.md warned of: `x` is acknowledged by n1 and n3, n3's disk is lost, n1 dies."""
    world, leader = settled()
    behind = next(n for n in world.initial if n != leader.name)
    other = next(n for n in world.initial if n not in (leader.name, behind))
    world.cut([leader.name, other], [behind])
    index = leader.propose(b"x")[1]
    world.run_until(done(world, index))
    world[other].lose_disk()
    leader.crash()
    world.heal()
    world[other].start()
    world.run(30)
    assert world.leader() is None, f"{behind} does not have x, and must not lead"
    leader.start()
    assert world.elect() is leader
    assert b"x" in leader.commands()


def test_an_emptied_disk_elects_nobody_before_the_first_configuration_is_everywhere() -> None:
    """The same at the very beginning, when one voter knows of no incarnation at all."""
    world = World(3, seed=11, incarnations=True)
    world.held = lambda source, target, message: (
        isinstance(message, bytes)
        and isinstance(CODEC.decode(message), Append)
        and target == "n3"
        and source != "n3"
    )
    world.run_until(lambda: world.leader() is not None)
    leader = world.leader()
    assert leader is not None
    assert leader.name != "n3"
    other = next(n for n in ("n1", "n2") if n != leader.name)
    index = leader.propose(b"x")[1]
    world.run_until(done(world, index))
    assert world["n3"].live.status().last_index == 1
    world[other].lose_disk()
    leader.crash()
    world.held = None
    world[other].start()
    world.run(30)
    assert world.leader() is None
    leader.start()
    assert world.elect() is leader


def test_an_emptied_disk_acknowledges_nothing_and_is_told_that_it_is_a_stranger() -> None:
    world, leader = settled()
    lost, other = (n for n in world.initial if n != leader.name)
    world[lost].lose_disk()
    world[lost].start()
    world.run(0.5)
    status = world[lost].live.status()
    assert (status.standing, status.dismissed) == (Standing.OUTSIDER, True)
    assert leader.live.dropped["ack_of_a_stranger"] > 0
    world[other].crash()
    index = leader.propose(b"x")[1]
    world.run(0.2)
    assert index not in world.log


def test_a_voter_whose_disk_was_emptied_is_replaced_by_itself() -> None:
    world, leader = settled()
    lost = next(n for n in world.initial if n != leader.name)
    old = world.remove(lost)
    world[lost].lose_disk()
    world[lost].start()
    with pytest.raises(MembershipRefused, match="a voter under another incarnation"):
        leader.change(world.add(lost))
    with pytest.raises(MembershipRefused, match="a member in another incarnation"):
        leader.change(world.promote(lost))
    change(world, old)
    assert leader.change(old) == leader.live._membership.index, "and not the one that comes in its place"
    change(world, world.add(lost))
    world.converge()
    change(world, world.promote(lost))
    world.converge()
    other = next(n for n in world.initial if n not in (lost, leader.name))
    world[other].crash()
    index = leader.propose(b"it counts")[1]
    world.run_until(done(world, index))


def test_votes_and_acknowledgements_of_another_incarnation_do_not_count() -> None:
    members = [Member(name, number) for number, name in enumerate("abc", 1)]
    log = [
        Entry(1, 0, EntryKind.NOOP, b""),
        Entry(2, 1, EntryKind.CONFIG, Configuration.of(members).encode()),
    ]
    recovered = Recovered(HardState(1, None), None, log, 1)
    engine = RaftEngine("a", "abc", recovered, now=0.0, random=random.Random(1), config=PATIENT)
    for peer in "bc":
        engine.peer_connected(peer, 0.0)
    engine._elections.call(handed_over=True)
    for peer, number in (("b", 9), ("c", 2), ("b", 0), ("x", 2)):
        engine.receive(peer, CODEC.encode(Vote(2, number)), 1.0)
    assert engine.dropped["vote_of_a_stranger"] == 4
    assert engine.status().role is Role.CANDIDATE
    engine.receive("b", CODEC.encode(Vote(2, 2)), 1.0)
    assert engine.status().role is Role.LEADER
    engine.take_output()
    for peer, number in (("b", 9), ("c", 2), ("b", 0)):
        engine.receive(peer, CODEC.encode(Ack(2, 1, 4, True, False, number)), 1.0)
    assert engine.status().commit_index == 1
    engine.receive("b", CODEC.encode(Ack(2, 1, 4, True, False, 2)), 1.0)
    assert engine.status().commit_index == 3


def test_what_a_snapshot_delivered_counts_only_once_the_right_incarnation_has_answered() -> None:
    """The word that a snapshot has arrived does not say which incarnation it has arrived at."""
    cluster = Guarded("abc")
    cluster.elect("a")
    cluster.flush()
    cluster.propose("a", "x", "y")
    cluster.flush("a", "b")
    leader = cluster.nodes["a"]
    before = leader.status().match["c"]
    leader.snapshot_delivered("c", 1, leader.status().commit_index, cluster.now)
    assert leader.status().match["c"] == before < leader.status().commit_index


# -- the rest of the protocol follows the configuration ------------------------------------------------


def test_reads_are_confirmed_by_a_majority_of_the_voters() -> None:
    world, leader = settled(3)
    for name in ("n4", "n5"):
        world.join(name)
        change(world, world.add(name))
    world.converge()
    others = [n for n in world.initial if n != leader.name]
    for name in others:
        world._separate(leader.name, name)
    sent = leader.live._replication.number
    context = leader.read()
    # Long enough for observers to answer, too short for the others to elect another.
    world.run(0.015)
    answered = {peer.id: flow.answered for peer, flow in leader.live._replication._flows.items()}
    assert min(answered["n4"], answered["n5"]) > sent
    assert context in world.reads, "two observers and the leader are no majority of three voters"
    world.heal()
    world.run_until(lambda: context in world.read_at)


def test_leadership_goes_to_no_observer() -> None:
    world, leader = settled(1)
    world.join("n2")
    change(world, world.add("n2"))
    with pytest.raises(ValueError, match="no other voter; the voters are n1"):
        leader.live.transfer_leadership("n2", world.now)
    with pytest.raises(Busy, match="nobody can be reached"):
        leader.live.transfer_leadership(None, world.now)


def test_members_do_not_change_while_leadership_is_handed_over() -> None:
    world, leader = settled()
    world.held = lambda source, target, message: True
    successor = leader.live.transfer_leadership(None, world.now)
    with pytest.raises(Busy, match=f"handed over to {successor}"):
        leader.change(AddObserver("n4", 1))


def test_only_the_leader_changes_members() -> None:
    world, leader = settled()
    follower = next(n for n in world.up() if n is not leader)
    with pytest.raises(NotLeader) as refused:
        follower.live.change_membership(AddObserver("n4", 1), world.now)
    assert refused.value.leader == leader.name


def test_a_stranger_cannot_depose_a_leader() -> None:
    world, leader = settled()
    for message in (PreVote(9, 1, 99, 9), RequestVote(9, 99, 9)):
        leader.live.receive("stranger", CODEC.encode(message), world.now)
        leader.settle()
    assert leader.is_leader
    assert leader.live.status().term == 1
    told = [CODEC.decode(m) for a, b, m in world.sent if b == "stranger" and isinstance(m, bytes)]
    assert any(isinstance(message, NotMember) for message in told)


def test_a_configuration_too_large_for_an_entry_is_refused() -> None:
    config = RaftConfig(entry_bytes_max=60)
    world = World(3, seed=3, config=config)
    leader = world.elect()
    with pytest.raises(MembershipRefused, match="more than entry_bytes_max=60"):
        leader.change(AddObserver("n4", 1, "x" * 100))


def test_a_log_with_a_configuration_that_is_none_is_refused() -> None:
    entries = [Entry(1, 0, EntryKind.NOOP, b""), Entry(2, 1, EntryKind.CONFIG, b"\x90")]
    recovered = Recovered(HardState(1, None), None, entries, 1)
    with pytest.raises(InvariantViolated, match="contradicts itself: a configuration of a form"):
        RaftEngine("a", "abc", recovered, now=0.0, random=random.Random(1))


def test_a_snapshot_brings_its_configuration() -> None:
    engine = RaftEngine(
        "d", (), Recovered(HardState(0, None), None, [], 4), now=0.0, random=random.Random(1), config=PATIENT
    )
    members = Configuration.of([Member("a", 1), Member("d", 4, votes=False)])
    assert engine.install_snapshot("a", 3, SnapshotMeta(9, 3, 3, 0, "00" * 32, members.encode()), 1.0)
    assert engine.configuration() == members
    assert engine.status().standing is Standing.OBSERVER
    assert Configuration.decode(engine.configuration_at(9)) == members


# -- all of it at once -----------------------------------------------------------------------------


def wishes(world: World, known: Configuration, draw: random.Random) -> list[AddObserver | Promote | Remove]:
    """What an operator might ask for: sensible or not, the engine has to sort it out."""
    numbers = {name: node.disk.incarnation for name, node in world.nodes.items()}
    found: list[AddObserver | Promote | Remove] = [Promote(name, numbers[name]) for name in known.observers]
    found += [Remove(m.name, m.incarnation) for m in known.members if m.incarnation != numbers[m.name]]
    found += [world.add(name) for name in world.nodes if known.get(name) is None and draw.random() < 0.2]
    if len(known.voters) > 3 and draw.random() < 0.3:
        found.append(world.remove(draw.choice(known.voters)))
    return found


def may_lose_a_disk(world: World, known: Configuration) -> bool:
    """Whether every voter has its disk, so that one is a minority."""
    whole = all(world[m.name].disk.incarnation == m.incarnation for m in known.members)
    return whole and len(known.voters) >= 3


@pytest.mark.parametrize("seed", range(12))
def test_members_come_and_go_on_a_network_that_loses_repeats_and_reorders(seed: int) -> None:
    """The world checks Raft's promises after every step, by the configurations that are committed."""
    draw = random.Random(seed)
    world = World(draw.choice((1, 2, 3, 4, 5)), seed=seed, incarnations=True)
    world.elect()
    world.drop_rate, world.duplicate_rate, world.reorder = 0.05, 0.1, draw.random() < 0.5
    world.crash_rate = 0.002
    names = iter(f"m{i}" for i in range(100))
    changes = 0
    for step in range(120):
        world.run(draw.uniform(0.0, 0.2))
        for node in list(world.nodes.values()):
            if node.engine is None and draw.random() < 0.7:
                node.start()
        leader = world.leader()
        if leader is None:
            continue
        known = leader.live.configuration()
        if len(known.members) < 6 and draw.random() < 0.2:
            world.join(next(names))
        if leader.live._membership.is_settled and may_lose_a_disk(world, known) and draw.random() < 0.1:
            world[draw.choice(known.voters)].lose_disk()
        if leader.is_leader:
            leader.propose(b"%d" % step)
        asked = wishes(world, known, draw)
        if asked and leader.is_leader:
            try:
                leader.change(draw.choice(asked))
                changes += 1
            except (Busy, MembershipRefused):
                continue
    world.drop_rate = world.duplicate_rate = world.crash_rate = 0.0
    for node in world.nodes.values():
        if node.engine is None:
            node.start()
    world.elect(30.0).propose(b"end")
    world.converge(30.0)
    assert changes > 3
