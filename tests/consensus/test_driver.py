"""The driver: what a cluster of them promises, with real files under it."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest
from driver_cluster import SMALL, Cluster, Member, run, settled, until

from consensus.channel import Kind
from consensus.driver import DriverLimits
from consensus.errors import (
    Busy,
    DiskFull,
    EntryTooLarge,
    NotLeader,
    OutcomeUnknown,
    ReadUnconfirmed,
    StorageFailed,
)
from consensus.journal import Journal


def test_solo_executes_in_order_and_recovers(tmp_path: Path) -> None:
    commands = [b"%d" % i for i in range(60)]

    async def scenario() -> None:
        cluster = Cluster(tmp_path, 1)
        results = await settled(cluster, commands)
        assert [r.result for r in results] == list(range(1, 61))
        cluster.members["n1"].crash()
        again = Member(cluster, "n1")
        await until(lambda: again.sink.applied == commands)
        assert again.sink.restored <= 1
        cluster.stop()

    run(scenario)


def test_every_node_executes_the_same_whoever_proposes(tmp_path: Path) -> None:
    async def scenario() -> None:
        cluster = Cluster(tmp_path, 3)
        leader = await cluster.leader()
        for member in (leader, *(m for m in cluster.members.values() if m is not leader)):
            await settled(cluster, [b"%s-%d" % (member.name.encode(), i) for i in range(5)], via=member)
        await cluster.equal(15)
        cluster.stop()

    run(scenario)


def test_an_acknowledged_command_survives_the_leader(tmp_path: Path) -> None:
    async def scenario() -> None:
        cluster = Cluster(tmp_path, 3)
        first = await cluster.leader()
        await settled(cluster, [b"before"], via=first)
        first.crash()
        await settled(cluster, [b"after"])
        Member(cluster, first.name)
        await cluster.equal(2)
        assert cluster.members["n1"].sink.applied == [b"before", b"after"]
        cluster.stop()

    run(scenario)


def test_a_proposal_that_was_forwarded_to_a_dead_leader_goes_to_the_next(tmp_path: Path) -> None:
    async def scenario() -> None:
        cluster = Cluster(tmp_path, 3)
        leader = await cluster.leader()
        follower = next(m for m in cluster.members.values() if m is not leader)
        await until(lambda: follower.driver.status().leader == leader.name)
        cluster.board.drop = lambda source, target, message: message[0] == 2
        pending = follower.driver.propose(b"moved", timeout_s=10.0)
        await asyncio.sleep(0.01)
        leader.crash()
        cluster.board.drop = lambda source, target, message: False
        await pending
        await cluster.equal(1)
        cluster.stop()

    run(scenario)


def test_without_a_quorum_a_proposal_is_unknown_or_refused_by_its_deadline(tmp_path: Path) -> None:
    async def scenario() -> None:
        cluster = Cluster(tmp_path, 3)
        leader = await cluster.leader()
        for other in [m for m in cluster.members.values() if m is not leader]:
            other.crash()
        pending = leader.driver.propose(b"sent", timeout_s=0.3)
        with pytest.raises(OutcomeUnknown):
            await pending
        await until(lambda: leader.driver.status().leader is None)
        never_sent = leader.driver.propose(b"never", timeout_s=0.1)
        with pytest.raises(NotLeader):
            await never_sent
        cluster.stop()

    run(scenario)


def test_a_lagging_node_is_caught_up_by_a_snapshot(tmp_path: Path) -> None:
    async def scenario() -> None:
        cluster = Cluster(tmp_path, 3)
        leader = await cluster.leader()
        behind = next(m for m in cluster.members.values() if m is not leader)
        behind.crash()
        for i in range(80):
            await settled(cluster, [b"command-%d" % i], via=leader)
        await until(lambda: leader.driver.status().first_index > 30)
        back = Member(cluster, behind.name)
        await until(lambda: len(back.sink.applied) == 80)
        assert back.sink.restored == 1
        await settled(cluster, [b"more"])
        await cluster.equal(81)
        cluster.stop()

    run(scenario)


def test_the_log_stays_bounded(tmp_path: Path) -> None:
    async def scenario() -> None:
        cluster = Cluster(tmp_path, 3)
        for i in range(200):
            await settled(cluster, [b"%d" % i])
        await cluster.equal(200)
        await until(
            lambda: all(
                (s := m.driver.status()).last_index - s.first_index < 60 for m in cluster.members.values()
            )
        )
        cluster.stop()

    run(scenario)


def has_room(cluster: Cluster) -> bool:
    """Whether nobody's log is so long that more is refused: a snapshot may be on its way to the disk."""
    views = [member.driver.status() for member in cluster.members.values()]
    return all(view.last_index - view.first_index < 2 * SMALL.log_entries_max for view in views)


@pytest.mark.parametrize("size", [1, 3])
def test_what_a_snapshot_covers_does_not_count_against_the_log_after_a_restart(
    tmp_path: Path, size: int
) -> None:
    async def scenario() -> None:
        cluster = Cluster(tmp_path, size)
        for i in range(5 * SMALL.log_entries_max):
            await until(lambda: has_room(cluster))
            await settled(cluster, [b"%d" % i])
        await cluster.equal(5 * SMALL.log_entries_max)
        for member in list(cluster.members.values()):
            member.crash()
        for name in cluster.names:
            Member(cluster, name)
        leader = await cluster.leader()
        await settled(cluster, [b"more"], via=leader)
        cluster.stop()

    run(scenario)


def test_limits_refuse_at_once(tmp_path: Path) -> None:
    async def scenario() -> None:
        cluster = Cluster(tmp_path, 1, DriverLimits(proposals_pending_max=2, command_bytes_max=10))
        driver = cluster.members["n1"].driver
        with pytest.raises(EntryTooLarge):
            driver.propose(b"x" * 11, timeout_s=1.0)
        first, second = driver.propose(b"a", timeout_s=5.0), driver.propose(b"b", timeout_s=5.0)
        with pytest.raises(Busy):
            driver.propose(b"c", timeout_s=1.0)
        await asyncio.gather(first, second)
        cluster.stop()

    run(scenario)


def test_a_full_sink_holds_back_what_is_committed_and_loses_nothing(tmp_path: Path) -> None:
    async def scenario() -> None:
        cluster = Cluster(tmp_path, 1)
        member = cluster.members["n1"]
        member.sink.hold, member.sink.room = True, 3
        pending = [member.driver.propose(b"%d" % i, timeout_s=10.0) for i in range(2)]
        await until(lambda: len(member.sink.held) >= 1)
        pending += [member.driver.propose(b"%d" % i, timeout_s=10.0) for i in range(2, 6)]
        await asyncio.sleep(0.02)
        assert sum(len(b.commands) for _, b in member.sink.held) <= 3
        member.sink.hold, member.sink.room = False, 1000
        member.sink.run()
        await asyncio.gather(*pending)
        assert member.sink.applied == [b"%d" % i for i in range(6)]
        cluster.stop()

    run(scenario)


def test_a_full_disk_acknowledges_nothing_and_goes_on_when_there_is_room(tmp_path: Path) -> None:
    async def scenario() -> None:
        cluster = Cluster(tmp_path, 1, DriverLimits(disk_full_retry_s=0.01))
        member = cluster.members["n1"]
        disk = member.disk
        await settled(cluster, [b"before"])
        disk.full = True
        with pytest.raises(OutcomeUnknown):
            await member.driver.propose(b"during", timeout_s=5.0)
        with pytest.raises(DiskFull):
            member.driver.propose(b"refused", timeout_s=5.0)
        assert member.sink.applied == [b"before"]
        disk.full = False
        await until(lambda: not member.driver.disk_full)
        await settled(cluster, [b"after"])
        assert member.sink.applied == [b"before", b"during", b"after"]
        cluster.stop()

    run(scenario)


def test_a_failed_sync_stops_the_node(tmp_path: Path) -> None:
    async def scenario() -> None:
        cluster = Cluster(tmp_path, 1)
        member = cluster.members["n1"]
        await settled(cluster, [b"before"])
        disk = member.disk
        disk.broken = True
        with pytest.raises(OutcomeUnknown):
            await member.driver.propose(b"lost", timeout_s=5.0)
        assert [type(f) for f in member.failures] == [StorageFailed]
        with pytest.raises(StorageFailed):
            member.driver.propose(b"no more", timeout_s=5.0)
        assert member.sink.applied == [b"before"]
        cluster.stop()

    run(scenario)


@pytest.mark.parametrize("size", [1, 3])
def test_a_read_on_any_node_is_told_what_was_acknowledged_to_anybody(tmp_path: Path, size: int) -> None:
    async def scenario() -> None:
        cluster = Cluster(tmp_path, size)
        leader = await cluster.leader()
        for i in range(20):
            [applied] = await settled(cluster, [b"%d" % i], via=leader)
            for member in cluster.members.values():
                index = await member.driver.read_index(timeout_s=10.0)
                assert index >= applied.index
                await until(lambda index=index, member=member: member.driver.applied_index >= index)
                assert member.sink.applied[-1] == b"%d" % i
        assert leader.driver.status().last_index == applied.index, "reads write nothing"
        cluster.stop()

    run(scenario)


def test_a_flood_of_reads_shares_a_few_questions(tmp_path: Path) -> None:
    async def scenario() -> None:
        cluster = Cluster(tmp_path, 3)
        leader = await cluster.leader()
        follower = next(m for m in cluster.members.values() if m is not leader)
        await until(lambda: follower.driver.leader == leader.name)
        asks: list[bytes] = []

        def drop(source: str, target: str, message: bytes) -> bool:
            if message[0] == Kind.READ_ASK:
                asks.append(message)
            return False

        cluster.board.drop = drop
        await asyncio.gather(*(follower.driver.read_index(timeout_s=10.0) for _ in range(1000)))
        assert len(asks) <= 10, "as many as there are retries and elections, not as there are reads"
        cluster.stop()

    run(scenario)


def test_a_question_or_an_answer_that_is_lost_is_asked_again(tmp_path: Path) -> None:
    async def scenario() -> None:
        cluster = Cluster(tmp_path, 3, DriverLimits(read_retry_s=0.01))
        leader = await cluster.leader()
        follower = next(m for m in cluster.members.values() if m is not leader)
        await until(lambda: follower.driver.leader == leader.name)
        for kind in (Kind.READ_ASK, Kind.READ_ANSWER):
            lost: list[bytes] = []

            def drop(source: str, target: str, message: bytes, kind=kind, lost=lost) -> bool:
                if message[0] == kind and len(lost) < 3:
                    lost.append(message)
                    return True
                return False

            cluster.board.drop = drop
            await follower.driver.read_index(timeout_s=10.0)
            assert len(lost) == 3
        cluster.stop()

    run(scenario)


def test_a_read_that_was_asked_of_a_dead_leader_goes_to_the_next(tmp_path: Path) -> None:
    async def scenario() -> None:
        cluster = Cluster(tmp_path, 3)
        leader = await cluster.leader()
        [applied] = await settled(cluster, [b"before"], via=leader)
        others = [m for m in cluster.members.values() if m is not leader]
        await until(lambda: all(m.driver.leader == leader.name for m in others))
        cluster.board.drop = lambda source, target, message: message[0] == Kind.READ_ASK
        pending = [m.driver.read_index(timeout_s=10.0) for m in others]
        await asyncio.sleep(0.01)
        leader.crash()
        cluster.board.drop = lambda source, target, message: False
        assert min(await asyncio.gather(*pending)) >= applied.index
        cluster.stop()

    run(scenario)


def test_without_a_quorum_a_read_fails_by_its_deadline_and_is_answered_when_there_is_one(
    tmp_path: Path,
) -> None:
    async def scenario() -> None:
        cluster = Cluster(tmp_path, 3)
        leader = await cluster.leader()
        others = [m.name for m in cluster.members.values() if m is not leader]
        for name in others:
            cluster.members[name].crash()
        with pytest.raises(ReadUnconfirmed):
            await leader.driver.read_index(timeout_s=0.3)
        pending = leader.driver.read_index(timeout_s=10.0)
        for name in others:
            Member(cluster, name)
        await pending
        cluster.stop()

    run(scenario)


def test_a_node_that_stops_or_has_no_room_answers_no_read(tmp_path: Path) -> None:
    async def scenario() -> None:
        cluster = Cluster(tmp_path, 3)
        leader = await cluster.leader()
        for other in [m for m in cluster.members.values() if m is not leader]:
            other.crash()
        pending = leader.driver.read_index(timeout_s=10.0)
        await asyncio.sleep(0)
        leader.driver.stop()
        with pytest.raises(NotLeader):
            await pending
        with pytest.raises(NotLeader):
            leader.driver.read_index(timeout_s=10.0)
        cluster.stop()
        full = Cluster(tmp_path / "full", 1, DriverLimits(disk_full_retry_s=0.01)).members["n1"]
        full.disk.full = True
        with pytest.raises(OutcomeUnknown):
            await full.driver.propose(b"x", timeout_s=5.0)
        with pytest.raises(DiskFull):
            full.driver.read_index(timeout_s=5.0)
        full.disk.full = False
        await until(lambda: not full.driver.disk_full)
        await full.driver.read_index(timeout_s=5.0)
        full.crash()

    run(scenario)


def test_leadership_is_handed_over_and_commands_on_the_way_are_executed_once(tmp_path: Path) -> None:
    async def scenario() -> None:
        cluster = Cluster(tmp_path, 3)
        leader = await cluster.leader()
        await until(lambda: all(m.driver.leader == leader.name for m in cluster.members.values()))
        target = next(m for m in cluster.members.values() if m is not leader)
        pending = [
            member.driver.propose(b"%s %d" % (member.name.encode(), i), timeout_s=10.0)
            for i in range(20)
            for member in cluster.members.values()
        ]
        assert await leader.driver.transfer_leadership(target.name) == target.name
        pending += [
            member.driver.propose(b"%s %d" % (member.name.encode(), i), timeout_s=10.0)
            for i in range(20, 30)
            for member in cluster.members.values()
        ]
        await asyncio.gather(*pending)
        await cluster.equal(90)
        assert len(set(leader.sink.applied)) == 90
        cluster.stop()

    run(scenario)


def test_commands_wait_while_leadership_is_handed_over_and_go_on_when_nobody_takes_it(tmp_path: Path) -> None:
    async def scenario() -> None:
        cluster = Cluster(tmp_path, 3)
        leader = await cluster.leader()
        others = [m for m in cluster.members.values() if m is not leader]
        await until(lambda: all(m.driver.leader == leader.name for m in others))
        timeout_now = 10
        cluster.board.drop = lambda source, target, message: message[:3] == bytes((1, 0x92, timeout_now))
        handing_over = leader.driver.transfer_leadership(others[0].name)
        again = leader.driver.transfer_leadership()
        other = leader.driver.transfer_leadership(others[1].name)
        pending = [m.driver.propose(b"x", timeout_s=10.0) for m in cluster.members.values()]
        with pytest.raises(Busy, match=others[0].name):
            await other
        for refused in (handing_over, again):
            with pytest.raises(Busy, match="leads on"):
                await refused
        assert {applied.index for applied in await asyncio.gather(*pending)} != set()
        cluster.stop()

    run(scenario)


def test_what_cannot_be_handed_over_is_refused(tmp_path: Path) -> None:
    async def scenario() -> None:
        solo = Cluster(tmp_path / "solo", 1).members["n1"]
        with pytest.raises(Busy):
            await solo.driver.transfer_leadership()
        assert await solo.driver.transfer_leadership("n1") == "n1"
        solo.crash()
        cluster = Cluster(tmp_path, 3)
        leader = await cluster.leader()
        follower = next(m for m in cluster.members.values() if m is not leader)
        await until(lambda: follower.driver.leader == leader.name)
        with pytest.raises(NotLeader) as refused:
            await follower.driver.transfer_leadership()
        assert refused.value.leader == leader.name
        with pytest.raises(ValueError, match="n9"):
            leader.driver.transfer_leadership("n9")
        for other in [m for m in cluster.members.values() if m is not leader]:
            other.crash()
        with pytest.raises(Busy, match="nobody can be reached"):
            await leader.driver.transfer_leadership()
        leader.driver.stop()
        with pytest.raises(NotLeader):
            leader.driver.transfer_leadership()
        cluster.stop()

    run(scenario)


def test_what_is_large_is_synced_in_a_thread_and_what_is_small_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[tuple[int, int]] = []
    sync = Journal.sync

    def watched(journal: Journal) -> None:
        synced.append((journal.unsynced_bytes, threading.get_ident()))
        sync(journal)

    monkeypatch.setattr(Journal, "sync", watched)

    async def scenario() -> None:
        limits = DriverLimits(sync_inline_s_max=60.0)
        cluster = Cluster(tmp_path, 3, limits)
        await settled(cluster, [b"small"])
        await settled(cluster, [bytes(limits.sync_inline_bytes_max)])
        await cluster.equal(2)
        here = threading.get_ident()
        large = {thread == here for size, thread in synced if size > limits.sync_inline_bytes_max}
        small = {thread == here for size, thread in synced if size <= limits.sync_inline_bytes_max}
        assert (large, small) == ({False}, {True})
        cluster.stop()

    run(scenario)


def test_a_slow_disk_is_synced_in_a_thread(tmp_path: Path) -> None:
    async def scenario() -> None:
        cluster = Cluster(tmp_path, 3, DriverLimits(sync_inline_s_max=0.0))
        await settled(cluster, [b"%d" % i for i in range(50)])
        await cluster.equal(50)
        for member in cluster.members.values():
            syncs, seconds = member.driver.syncs
            assert syncs > 0
            assert 0 < seconds < 60
        cluster.stop()

    run(scenario)
