"""The engine for one embedded process, with its journal and snapshots on one disk."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consensus.errors import EntryTooLarge, InvariantViolated
from consensus.interface import Entry, EntryKind, HardState, Output, Recovered, Role, SnapshotMeta
from consensus.journal import Journal, JournalLimits
from consensus.recovery import recover
from consensus.snapshots import SnapshotStore
from consensus.solo import SoloEngine
from simulations.disk import MemoryDisk

SMALL = JournalLimits(segment_bytes_max=500)
META = SnapshotMeta(2, 1, 1, 0, "00" * 32)


def fresh(**limits: int) -> SoloEngine:
    return SoloEngine("me", Recovered(HardState(0, None), None, []), **limits)


def command(index: int, term: int, data: bytes) -> Entry:
    return Entry(index, term, EntryKind.COMMAND, data)


def test_it_leads_at_once_in_a_new_term_that_is_persisted() -> None:
    engine = SoloEngine("me", Recovered(HardState(6, "other"), None, []))
    assert engine.status().role is Role.LEADER
    assert (engine.status().leader, engine.status().voters) == ("me", ("me",))
    assert engine.take_output() == Output(persist=[HardState(7, "me")])
    assert not engine.take_output()


def test_a_proposal_is_persisted_and_committed_in_one_output() -> None:
    engine = fresh()
    engine.take_output()
    assert [engine.propose(data, 0.0) for data in (b"a", b"b")] == [(1, 1), (1, 2)]
    assert (engine.status().last_index, engine.status().commit_index) == (2, 0)
    both = [command(1, 1, b"a"), command(2, 1, b"b")]
    assert engine.take_output() == Output(persist=list(both), committed=list(both))
    assert engine.status().commit_index == 2


def test_a_proposal_that_is_too_large_leaves_no_trace() -> None:
    engine = fresh(entry_bytes_max=3)
    engine.take_output()
    with pytest.raises(EntryTooLarge, match="entry_bytes_max = 3"):
        engine.propose(b"1234", 0.0)
    assert not engine.take_output()
    assert engine.propose(b"123", 0.0) == (1, 1)


def test_on_start_the_snapshot_is_restored_and_what_follows_it_is_committed_again() -> None:
    log = [command(index, 1, b"%d" % index) for index in range(1, 5)]
    engine = SoloEngine("me", Recovered(HardState(1, "me"), META, log))
    output = engine.take_output()
    assert output.restore == META
    assert output.committed == log[2:]
    assert output.persist == [HardState(2, "me")]
    status = engine.status()
    assert (status.first_index, status.last_index, status.commit_index) == (1, 4, 4)
    assert engine.propose(b"next", 0.0) == (2, 5)


def test_it_has_no_peers_and_no_deadlines() -> None:
    engine = fresh()
    engine.take_output()
    engine.peer_connected("x", 0.0)
    engine.receive("x", b"hello", 1.0)
    engine.tick(2.0)
    engine.snapshot_delivered("x", 1, 1, 3.0)
    engine.peer_disconnected("x", 4.0)
    assert not engine.install_snapshot("x", 9, META, 5.0)
    assert engine.next_deadline() == math.inf
    assert engine.messages_dropped == 1
    assert not engine.take_output()
    assert not engine.status().match


def test_compaction_keeps_what_it_is_asked_to_retain() -> None:
    engine = fresh()
    for _ in range(10):
        engine.propose(b"", 0.0)
    with pytest.raises(InvariantViolated, match="only 0 is committed"):
        engine.compact(META, 0)
    engine.take_output()
    at_eight = SnapshotMeta(8, 1, 1, 0, "00" * 32)
    assert engine.compact(at_eight, 20) == 1
    assert engine.compact(at_eight, 3) == 5
    assert engine.compact(META, 0) == 5
    assert engine.status().first_index == 5


class Embedded:
    """A process with a state (the list of its commands), driven as `consensus.interface` says."""

    def __init__(self, disk: MemoryDisk) -> None:
        self.disk = disk
        self.journal = Journal.open(disk, "journal", limits=SMALL)
        self.store = SnapshotStore.open(disk, "snapshots")
        self.engine = SoloEngine("me", recover(self.journal, self.store))
        self.state: list[bytes] = []
        self.applied = 0
        self.applied_term = 0
        self.perform()

    def perform(self) -> None:
        output = self.engine.take_output()
        self.journal.append(output.persist)
        self.journal.sync()
        if output.restore is not None:
            content = self.store.read(output.restore)
            self.state = content.split(b",") if content else []
            self.applied, self.applied_term = output.restore.index, output.restore.term
        for entry in output.committed:
            assert entry.index == self.applied + 1
            self.state.append(entry.data)
            self.applied, self.applied_term = entry.index, entry.term

    def snapshot(self, retain: int) -> None:
        term = self.applied_term
        meta = self.store.write(self.applied, term, term, b",".join(self.state))
        self.journal.compact(self.engine.compact(meta, retain))


steps = st.one_of(
    st.tuples(st.just("propose"), st.integers(1, 6)),
    st.tuples(st.just("snapshot"), st.integers(0, 3)),
    st.tuples(st.just("restart"), st.integers(0, 400)),
)


@given(script=st.lists(steps, max_size=30))
@settings(max_examples=40, deadline=None)
def test_nothing_acknowledged_is_lost_or_applied_twice_across_restarts(script: list[tuple[str, int]]) -> None:
    process = Embedded(MemoryDisk())
    acknowledged: list[bytes] = []
    terms = [process.engine.status().term]
    for step, number in script:
        if step == "propose":
            batch = [b"%d" % (len(acknowledged) + offset) for offset in range(number)]
            for data in batch:
                process.engine.propose(data, 0.0)
            process.perform()
            acknowledged += batch
        elif step == "snapshot" and process.applied:
            process.snapshot(number)
        elif step == "restart":
            process.engine.propose(b"lost", 0.0)
            process.journal.append(process.engine.take_output().persist)
            lost_at = process.disk.unsynced_bytes()
            kept = min(number, max(lost_at.values()) - 1)
            process = Embedded(process.disk.crash(keep_bytes=lambda path, n, kept=kept: min(kept, n)))
            terms.append(process.engine.status().term)
        assert process.state == acknowledged
    assert terms == sorted(set(terms))
    assert process.engine.status().commit_index == len(acknowledged)


def test_the_disk_stays_bounded() -> None:
    process = Embedded(MemoryDisk())
    sizes = []
    for round_number in range(30):
        for _ in range(20):
            process.engine.propose(b"%d" % (round_number % 10), 0.0)
            process.perform()
        process.snapshot(5)
        sizes.append(process.journal.bytes_on_disk)
    assert max(sizes) < 1500
    assert Embedded(process.disk.crash()).state == process.state
