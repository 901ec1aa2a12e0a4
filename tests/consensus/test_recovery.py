"""Journal and snapshot store together, after a stop at every point."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator

import pytest

from consensus.errors import StorageCorrupt
from consensus.interface import (
    Entry,
    EntryKind,
    HardState,
    InstalledSnapshot,
    Recovered,
    SnapshotMeta,
    Truncate,
)
from consensus.journal import Journal, JournalLimits
from consensus.recovery import recover
from consensus.snapshots import SnapshotStore
from simulations.disk import MemoryDisk

SMALL = JournalLimits(segment_bytes_max=420)


class PowerLoss(BaseException):
    """The machine stops here."""


def entries(first: int, last: int, term: int = 1) -> list[Entry]:
    return [
        Entry(index, term, EntryKind.COMMAND, b"%d/%d" % (index, term)) for index in range(first, last + 1)
    ]


def state_at(index: int) -> bytes:
    """What a state machine that adds up indexes has after entry ``index``."""
    return str(sum(range(index + 1))).encode()


class Node:
    """A journal and a store on one disk."""

    def __init__(self, disk: MemoryDisk) -> None:
        self.disk = disk
        self.journal = Journal.open(disk, "journal", limits=SMALL)
        self.store = SnapshotStore.open(disk, "snapshots")

    def recover(self) -> Recovered:
        return recover(self.journal, self.store)

    def restarted(self) -> Node:
        return Node(self.disk.crash())

    def receive(self, index: int, term: int) -> SnapshotMeta:
        content = state_at(index)
        meta = SnapshotMeta(index, term, term, len(content), hashlib.sha256(content).hexdigest())
        receiver = self.store.receive(meta)
        receiver.write(0, content)
        return receiver.finish()


def node_with(*records: Entry | HardState | InstalledSnapshot) -> Node:
    node = Node(MemoryDisk())
    node.journal.append(records)
    node.journal.sync()
    return node


def test_a_fresh_disk() -> None:
    assert Node(MemoryDisk()).recover() == Recovered(HardState(0, None), None, [])


def test_a_journal_alone() -> None:
    node = node_with(HardState(1, "a"), *entries(1, 5)).restarted()
    assert node.recover() == Recovered(HardState(1, "a"), None, entries(1, 5))


def test_a_snapshot_of_ours_before_and_after_compaction() -> None:
    node = Node(MemoryDisk())
    for entry in entries(1, 40):
        node.journal.append([HardState(1, None), entry])
    node.journal.sync()
    meta = node.store.write(30, 1, 1, state_at(30))
    recovered = node.restarted().recover()
    assert (recovered.snapshot, recovered.entries) == (meta, entries(1, 40))
    node.journal.compact(28)
    recovered = node.restarted().recover()
    first = recovered.entries[0].index
    assert 1 < first <= 28
    assert (recovered.snapshot, recovered.entries) == (meta, entries(first, 40))


def test_a_leaders_snapshot_beyond_the_log_that_was_not_recorded_yet() -> None:
    node = node_with(HardState(2, "b"), *entries(1, 5))
    meta = node.receive(20, 3)
    again = node.restarted()
    assert again.recover() == Recovered(HardState(3, None), meta, [])
    assert "goes on from entry 21" in again.journal.recovered_notes[0]
    again.journal.append(entries(21, 22, 3))
    again.journal.sync()
    assert again.restarted().recover() == Recovered(HardState(3, None), meta, entries(21, 22, 3))


def test_a_vote_in_the_snapshots_term_is_not_forgotten() -> None:
    node = node_with(HardState(3, "b"), *entries(1, 5))
    meta = node.receive(20, 3)
    assert node.restarted().recover() == Recovered(HardState(3, "b"), meta, [])


def test_a_leaders_snapshot_inside_the_log_keeps_what_agrees_with_it() -> None:
    node = node_with(HardState(2, "b"), *entries(1, 9))
    meta = node.receive(6, 1)
    again = node.restarted()
    assert again.recover() == Recovered(HardState(2, "b"), meta, entries(1, 9))
    assert again.journal.recovered_notes == []


def test_a_leaders_snapshot_inside_the_log_drops_what_disagrees_with_it() -> None:
    node = node_with(HardState(2, "b"), *entries(1, 9, 1))
    meta = node.receive(6, 2)
    again = node.restarted()
    assert again.recover() == Recovered(HardState(2, "b"), meta, [])
    assert again.journal.next_index == 7


def test_entries_behind_a_newer_snapshot_with_an_older_term_are_dropped() -> None:
    node = node_with(HardState(3, "b"))
    meta = node.receive(6, 3)
    node.journal.append([InstalledSnapshot(meta), *entries(7, 8, 2)])
    node.journal.sync()
    assert node.restarted().recover() == Recovered(HardState(3, "b"), meta, [])


def test_a_recorded_reset() -> None:
    node = node_with(HardState(3, "b"), *entries(1, 9))
    meta = node.receive(20, 3)
    node.journal.append([InstalledSnapshot(meta), *entries(21, 23, 3)])
    node.journal.sync()
    assert node.restarted().recover() == Recovered(HardState(3, "b"), meta, entries(21, 23, 3))


def dropped_begin(node: Node) -> None:
    for entry in entries(1, 40):
        node.journal.append([entry])
    node.journal.compact(30)


def older_than_installed(node: Node) -> None:
    node.store.write(5, 1, 1, state_at(5))
    node.journal.append([InstalledSnapshot(SnapshotMeta(9, 1, 1, 0, "00" * 32)), Truncate(6)])


def installed_with_another_term(node: Node) -> None:
    node.store.write(5, 1, 1, state_at(5))
    node.journal.append([InstalledSnapshot(SnapshotMeta(5, 2, 1, 0, "00" * 32))])


def journal_lost_its_end(node: Node) -> None:
    node.journal.append(entries(1, 9))
    node.store.write(12, 1, 1, state_at(12))


def journal_disagrees(node: Node) -> None:
    node.journal.append(entries(1, 9))
    node.store.write(5, 2, 1, state_at(5))


def snapshot_before_the_log(node: Node) -> None:
    node.store.write(5, 1, 1, state_at(5))
    dropped_begin(node)


def journal_is_gone(node: Node) -> None:
    node.store.write(5, 1, 1, state_at(5))
    node.journal.close()
    for name in node.disk.list_names("journal"):
        node.disk.remove(f"journal/{name}")


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (dropped_begin, "the snapshot before it is missing"),
        (snapshot_before_the_log, "the entries between them are missing"),
        (older_than_installed, "continues a snapshot of entry 9"),
        (installed_with_another_term, "entry 5, term 2"),
        (journal_is_gone, "no journal beside it"),
        (journal_lost_its_end, "its log ends at entry 9"),
        (journal_disagrees, "has another term there"),
    ],
)
def test_what_no_crash_can_leave_is_refused(make: Callable[[Node], None], says: str) -> None:
    node = Node(MemoryDisk())
    make(node)
    with pytest.raises(StorageCorrupt, match=says) as caught:
        Node(node.disk).recover()
    assert caught.value.path == "memory:/journal"
    assert "new node id" in str(caught.value)


def life(node: Node, promised: dict[str, int]) -> None:
    """Write entries, take snapshots, compact, take a leader's snapshot, go on. ``promised`` is what was
    synced: the last entry's index, its term, the node's term.
    """

    def persist(*records: Entry | HardState | InstalledSnapshot) -> None:
        node.journal.append(records)
        node.journal.sync()
        for record in records:
            if isinstance(record, HardState):
                promised["term"] = record.term
            elif isinstance(record, Entry):
                promised["last"] = record.index

    persist(HardState(1, "a"))
    persist(*entries(1, 8))
    persist(*entries(9, 14))
    node.store.write(10, 1, 1, state_at(10))
    node.journal.compact(8)
    persist(*entries(15, 22))
    node.store.write(20, 1, 1, state_at(20))
    node.journal.compact(19)
    persist(HardState(4, None))
    meta = node.receive(50, 4)
    promised["last"] = 50
    persist(InstalledSnapshot(meta), *entries(51, 52, 4))
    node.journal.compact(51)
    persist(*entries(53, 60, 4))


def stop_before(disk: MemoryDisk, operation_number: int) -> None:
    left = operation_number

    def before(operation: str, path: str) -> None:
        nonlocal left
        if left == 0:
            raise PowerLoss
        left -= 1

    disk.before = before


def crashes(disk: MemoryDisk) -> Iterator[MemoryDisk]:
    most = max(disk.unsynced_bytes().values(), default=0)
    for names in range(disk.unsynced_names() + 1):
        for count in {0, most // 2, most}:
            yield disk.crash(
                keep_bytes=lambda path, unsynced, count=count: min(count, unsynced), keep_names=names
            )


def operations_in_a_life() -> int:
    seen: list[str] = []
    life(Node(MemoryDisk(before=lambda operation, path: seen.append(operation))), {})
    return len(seen)


@pytest.mark.parametrize("stop_at", range(operations_in_a_life()))
def test_a_power_loss_before_any_operation_of_a_life(stop_at: int) -> None:
    disk = MemoryDisk()
    promised = {"last": 0, "term": 0}
    stop_before(disk, stop_at)
    with pytest.raises(PowerLoss):
        life(Node(disk), promised)
    for found in crashes(disk):
        node = Node(found)
        recovered = node.recover()
        assert not node.journal.dirty
        check(recovered, promised)
        assert Node(found.crash()).recover() == recovered, "recovery is durable and changes nothing twice"


def check(recovered: Recovered, promised: dict[str, int]) -> None:
    start = recovered.snapshot.index if recovered.snapshot else 0
    indexes = [entry.index for entry in recovered.entries]
    assert indexes == list(range(indexes[0], indexes[-1] + 1)) if indexes else True
    assert not indexes or indexes[0] <= start + 1
    assert max([start, *indexes]) >= promised["last"]
    assert recovered.hard_state.term >= promised["term"]
    for entry in recovered.entries:
        assert entry.data == b"%d/%d" % (entry.index, entry.term)
        assert entry.term == (1 if entry.index <= 50 else 4)
