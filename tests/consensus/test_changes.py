"""Changes of members through drivers: on any node, by a deadline, done or refused or unknown."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from driver_cluster import Cluster, Member, run, settled, until

from consensus.channel import ChangeAnswer, ChangeAsk, Kind, encode
from consensus.configuration import AddObserver, Promote, Remove, Standing
from consensus.errors import (
    Busy,
    ConsensusError,
    MembershipRefused,
    NotCaughtUp,
    NotLeader,
    OutcomeUnknown,
)


async def joined(cluster: Cluster, name: str) -> Member:
    """A fresh node beside the others, which nobody has taken in."""
    (cluster.path / name).mkdir()
    member = Member(cluster, name)
    assert member.driver.status().standing is Standing.OUTSIDER
    return member


def number(member: Member) -> int:
    return member.journal.incarnation


@pytest.mark.parametrize("by", ["leader", "follower", "the one that joins"])
def test_a_node_is_taken_in_promoted_and_removed_whoever_asks(tmp_path: Path, by: str) -> None:
    async def scenario() -> None:
        cluster = Cluster(tmp_path, 2)
        leader = await cluster.leader()
        fresh = await joined(cluster, "n9")
        for n in range(40):
            await settled(cluster, [b"%d" % n], via=leader)
        follower = next(m for m in cluster.members.values() if m not in (leader, fresh))
        asked = {"leader": leader, "follower": follower, "the one that joins": follower}[by].driver
        await asked.change_membership(AddObserver("n9", number(fresh), "n9:1"), timeout_s=5)
        await until(lambda: len(fresh.sink.applied) >= 40)
        asked = fresh.driver if by == "the one that joins" else asked
        index = await asked.change_membership(Promote("n9", number(fresh)), timeout_s=5)
        assert leader.driver.status().commit_index >= index
        await until(lambda: fresh.driver.status().voters == ("n1", "n2", "n9"))
        assert await asked.change_membership(Promote("n9", number(fresh)), timeout_s=5) == index, "it is so"
        await settled(cluster, [b"with three"], via=fresh)
        await leader.driver.change_membership(Remove("n9", number(fresh)), timeout_s=5)
        await until(lambda: fresh.driver.status().dismissed)
        await settled(cluster, [b"with two"], via=leader)
        assert b"with two" not in fresh.sink.applied
        cluster.stop()

    run(scenario)


def test_a_leader_that_is_removed_hands_over_first(tmp_path: Path) -> None:
    async def scenario() -> None:
        cluster = Cluster(tmp_path, 3)
        leader = await cluster.leader()
        await leader.driver.change_membership(Remove(leader.name, number(leader)), timeout_s=5)
        others = [m for m in cluster.members.values() if m is not leader]
        await until(lambda: all(leader.name not in m.driver.status().voters for m in others))
        assert leader.driver.leader != leader.name
        await settled(cluster, [b"x"], via=others[0])
        cluster.stop()

    run(scenario)


def test_what_is_bound_to_a_term_is_done_by_its_leader_at_once_or_not_at_all(tmp_path: Path) -> None:
    async def scenario() -> None:
        cluster = Cluster(tmp_path, 3)
        leader = await cluster.leader()
        follower = next(m for m in cluster.members.values() if m is not leader)
        await until(lambda: follower.driver.leader == leader.name)
        term = leader.driver.status().term
        for asked, bound in ((follower, term), (leader, term - 1), (leader, term + 1)):
            with pytest.raises(NotLeader):
                await asked.driver.change_membership(AddObserver("n9", 1), timeout_s=5, bound=bound)
        assert await leader.driver.change_membership(AddObserver("n9", 1), timeout_s=5, bound=term)
        cluster.board.drop = lambda source, target, message: target == leader.name
        first = leader.driver.change_membership(AddObserver("n8", 1), timeout_s=10, bound=term)
        with pytest.raises(Busy, match="there is one at a time"):
            await leader.driver.change_membership(AddObserver("n7", 1), timeout_s=10, bound=term)
        await until(lambda: leader.driver.leader is None)
        cluster.board.drop = lambda source, target, message: False
        with pytest.raises(OutcomeUnknown, match=f"the reign of term {term} ended"):
            await first
        cluster.stop()

    run(scenario)


def test_refusals_say_why_wherever_it_was_asked(tmp_path: Path) -> None:
    async def scenario() -> None:
        cluster = Cluster(tmp_path, 3)
        leader = await cluster.leader()
        follower = next(m for m in cluster.members.values() if m is not leader)
        await until(lambda: follower.driver.leader == leader.name)
        for asked in (leader, follower):
            with pytest.raises(MembershipRefused, match="n9 is no member; add it"):
                await asked.driver.change_membership(Promote("n9", 1), timeout_s=5)
            await asked.driver.change_membership(AddObserver("n9", 1), timeout_s=5)
            with pytest.raises(NotCaughtUp, match="n9 has not answered lately"):
                await asked.driver.change_membership(Promote("n9", 1), timeout_s=5)
            await asked.driver.change_membership(Remove("n9", 1), timeout_s=5)
        cluster.stop()

    run(scenario)


def test_a_change_that_nobody_commits_is_unknown_by_its_deadline(tmp_path: Path) -> None:
    async def scenario() -> None:
        cluster = Cluster(tmp_path, 3)
        leader = await cluster.leader()
        cluster.board.drop = lambda source, target, message: target == leader.name
        first = leader.driver.change_membership(AddObserver("n9", 1), timeout_s=0.3)
        with pytest.raises(OutcomeUnknown, match="add observer n9"):
            await first
        await until(lambda: leader.driver.leader is None)
        with pytest.raises(NotLeader):
            await leader.driver.change_membership(AddObserver("n8", 1), timeout_s=0.1)
        cluster.stop()

    run(scenario)


def test_the_next_change_waits_for_the_one_before_or_is_told_that_it_had_to(tmp_path: Path) -> None:
    async def scenario() -> None:
        cluster = Cluster(tmp_path, 3)
        leader = await cluster.leader()
        both = [leader.driver.change_membership(AddObserver(name, 1), timeout_s=10) for name in ("n8", "n9")]
        first, second = await asyncio.gather(*both)
        assert first < second
        cluster.board.drop = lambda source, target, message: target == leader.name
        stuck = leader.driver.change_membership(AddObserver("n7", 1), timeout_s=0.2)
        waiting = leader.driver.change_membership(AddObserver("n6", 1), timeout_s=0.05)
        with pytest.raises(Busy, match="there is one at a time"):
            await waiting
        with pytest.raises(OutcomeUnknown):
            await stuck
        cluster.stop()

    run(scenario)


def test_an_answer_that_is_lost_is_asked_for_again(tmp_path: Path) -> None:
    async def scenario() -> None:
        cluster = Cluster(tmp_path, 3)
        leader = await cluster.leader()
        follower = next(m for m in cluster.members.values() if m is not leader)
        await until(lambda: follower.driver.leader == leader.name)
        lost = 0

        def drop(source: str, target: str, message: bytes) -> bool:
            nonlocal lost
            if message[0] != Kind.CHANGE_ANSWER or lost >= 2:
                return False
            lost += 1
            return True

        cluster.board.drop = drop
        await follower.driver.change_membership(AddObserver("n9", 1), timeout_s=5)
        assert lost == 2
        assert leader.driver.status().observers == ("n9",)
        cluster.stop()

    run(scenario)


@pytest.mark.parametrize("life", range(6))
def test_a_node_that_has_started_again_is_heard(tmp_path: Path, life: int) -> None:
    """Its questions are not taken for those of its former life, whichever numbers the two have drawn."""

    async def scenario() -> None:
        cluster = Cluster(tmp_path, 3)
        leader = await cluster.leader()
        follower = next(m for m in cluster.members.values() if m is not leader)
        await follower.driver.change_membership(AddObserver("n9", 1), timeout_s=5)
        follower.crash()
        cluster.generation += life
        again = Member(cluster, follower.name)
        await until(lambda: again.driver.leader == leader.name)
        await again.driver.change_membership(Remove("n9", 1), timeout_s=5)
        assert leader.driver.status().term == 1
        cluster.stop()

    run(scenario)


def test_a_question_of_an_earlier_term_or_overtaken_changes_nothing(tmp_path: Path) -> None:
    async def scenario() -> None:
        cluster = Cluster(tmp_path, 3)
        leader = await cluster.leader()
        other = next(name for name in cluster.members if name != leader.name)
        term = leader.driver.status().term
        for stale in (
            ChangeAsk(term - 1, 9, AddObserver("n7", 1)),
            ChangeAsk(term, 12, AddObserver("n9", 1)),
            ChangeAsk(term, 11, AddObserver("n8", 1)),
            ChangeAsk(term, 12, Remove("n9", 1)),
        ):
            leader.driver.on_message(other, encode(stale))
            await settled(cluster, [b"whatever was appended before is committed"], via=leader)
        assert leader.driver.status().observers == ("n9",)
        leader.driver.on_message(other, encode(ChangeAnswer(77, 5)))
        await settled(cluster, [b"y"], via=leader)
        cluster.stop()

    run(scenario)


def test_a_node_that_stops_knows_nothing_of_its_changes_and_one_alone_has_no_members(tmp_path: Path) -> None:
    async def scenario() -> None:
        cluster = Cluster(tmp_path, 3)
        leader = await cluster.leader()
        cluster.board.drop = lambda source, target, message: True
        pending = leader.driver.change_membership(AddObserver("n9", 1), timeout_s=10)
        await until(lambda: leader.driver.status().observers == ("n9",))
        leader.driver.stop()
        with pytest.raises(OutcomeUnknown, match="this node stopped"):
            await pending
        cluster.stop()
        solo = Cluster(tmp_path / "solo", 1).members["n1"]
        with pytest.raises(MembershipRefused, match="serves one process and has no members"):
            await solo.driver.change_membership(AddObserver("n9", 1), timeout_s=5)
        solo.crash()

    run(scenario)


def test_whoever_runs_a_node_is_told_of_every_configuration(tmp_path: Path) -> None:
    async def scenario() -> None:
        cluster = Cluster(tmp_path, 3)
        leader = await cluster.leader()
        told: list[tuple[str, ...]] = []
        leader.driver._pump._shell.reconfigured = lambda status: told.append(tuple(status.observers))
        await leader.driver.change_membership(AddObserver("n9", 1), timeout_s=5)
        await leader.driver.change_membership(Remove("n9", 1), timeout_s=5)
        assert told == [("n9",), ()]
        cluster.stop()

    run(scenario)


def test_too_many_changes_are_refused_at_once(tmp_path: Path) -> None:
    async def scenario() -> None:
        cluster = Cluster(tmp_path, 3)
        leader = await cluster.leader()
        cluster.board.drop = lambda source, target, message: True
        pending = [leader.driver.change_membership(AddObserver("n9", 1), timeout_s=10) for _ in range(64)]
        with pytest.raises(Busy, match="64 changes"):
            leader.driver.change_membership(AddObserver("n9", 1), timeout_s=10)
        cluster.stop()
        outcomes = await asyncio.gather(*pending, return_exceptions=True)
        assert all(isinstance(outcome, ConsensusError) for outcome in outcomes)

    run(scenario)
