"""The journal against a list: power losses at every byte and operation, flipped bits, random histories.

The law: what is recovered is what a prefix of the appended batches amounts to, and that prefix contains
every batch that a sync has covered. It is only given up for a clear refusal, and only for damage.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from consensus.errors import DiskFull, StorageCorrupt
from consensus.interface import Entry, EntryKind, HardState, InstalledSnapshot, Record, SnapshotMeta, Truncate
from consensus.journal import Journal, JournalLimits
from consensus.replay import Found
from consensus.storage import read_all
from simulations.disk import MemoryDisk

LIMITS = JournalLimits(segment_bytes_max=420, reserve_bytes=90)
"""Room is reserved several times in a segment, and runs out in the middle of a batch."""


class PowerLoss(BaseException):
    """The machine stops here."""


@dataclass
class Log:
    """What records amount to, in the simplest way that one can write it down."""

    hard_state: HardState = field(default_factory=lambda: HardState(0, None))
    installed: SnapshotMeta | None = None
    next_index: int = 1
    entries: dict[int, Entry] = field(default_factory=dict)

    def take(self, records: Sequence[Record]) -> None:
        for record in records:
            if isinstance(record, Entry):
                self.entries[record.index] = record
                self.next_index = record.index + 1
            elif isinstance(record, HardState):
                self.hard_state = record
            elif isinstance(record, Truncate):
                self.forget(record.from_index)
            else:
                self.forget(1)
                self.installed = record.meta
                self.next_index = record.meta.index + 1

    def forget(self, first: int) -> None:
        self.entries = {index: entry for index, entry in self.entries.items() if index < first}
        self.next_index = min(self.next_index, first)

    @classmethod
    def of(cls, batches: Sequence[Sequence[Record]]) -> Log:
        log = cls()
        for batch in batches:
            log.take(batch)
        return log

    def agrees_with(self, found: Found, first_index_kept: int) -> bool:
        """Entries below ``first_index_kept`` may have been dropped; all others have to be there."""
        expected = [entry for index, entry in sorted(self.entries.items()) if index >= found.first_index]
        dropped = [index for index in self.entries if index < found.first_index]
        return (
            (found.hard_state, found.installed, found.next_index)
            == (self.hard_state, self.installed, self.next_index)
            and found.entries == expected
            and all(index < first_index_kept for index in dropped)
        )


@dataclass
class History:
    """What was asked of a journal so far, how much of it a sync has covered, and how much a later write
    has sealed.
    """

    batches: list[list[Record]] = field(default_factory=list)
    synced: int = 0
    sealed: int = 0
    first_index_kept: int = 1

    def explains(self, found: Found, *, at_least: int | None = None) -> bool:
        least = self.synced if at_least is None else at_least
        return any(
            Log.of(self.batches[:count]).agrees_with(found, self.first_index_kept)
            for count in range(least, len(self.batches) + 1)
        )

    def is_whole(self, found: Found) -> bool:
        return Log.of(self.batches).agrees_with(found, self.first_index_kept)


def entries(first: int, last: int, term: int) -> list[Record]:
    return [
        Entry(index, term, EntryKind.COMMAND, b"%d/%d" % (index, term)) for index in range(first, last + 1)
    ]


def meta(index: int, term: int) -> SnapshotMeta:
    return SnapshotMeta(index, term, term, 10, "cd" * 32)


SCRIPT: list[list[Record] | str | int] = [
    [HardState(1, "a")],
    "sync",
    entries(1, 3, 1),
    entries(4, 4, 1),
    "sync",
    entries(5, 9, 1),
    [HardState(2, None), Truncate(7), *entries(7, 8, 2)],
    "sync",
    "seal",
    entries(9, 14, 2),
    "sync",
    6,
    entries(15, 20, 2),
    "sync",
    14,
    [HardState(3, None), InstalledSnapshot(meta(40, 3)), *entries(41, 43, 3)],
    entries(44, 47, 3),
    "sync",
    41,
    entries(48, 49, 3),
]
"""Batches to append, compactions as the first index that is kept, syncs and seals."""


def perform(journal: Journal, history: History, script: Sequence[list[Record] | str | int]) -> None:
    for step in script:
        if isinstance(step, list):
            history.batches.append(step)
            history.sealed = history.synced
            journal.append(step)
        elif isinstance(step, int):
            history.first_index_kept = step
            journal.compact(step)
            history.synced = len(history.batches)
        elif step == "sync":
            journal.sync()
            history.synced = len(history.batches)
        else:
            journal.seal()
            history.sealed = history.synced


def crashes(disk: MemoryDisk, *, every_byte: bool) -> Iterator[MemoryDisk]:
    """What may be found after a power loss now."""
    most = max(disk.unsynced_bytes().values(), default=0)
    for names in range(disk.unsynced_names() + 1):
        for count in range(most + 1) if every_byte else {0, most // 2, most}:
            yield disk.crash(
                keep_bytes=lambda path, unsynced, count=count: min(count, unsynced), keep_names=names
            )


def reopened(disk: MemoryDisk, limits: JournalLimits = LIMITS) -> tuple[Journal, Found]:
    journal = Journal.open(disk, "journal", limits=limits)
    return journal, journal.take_found()


@pytest.mark.parametrize("length", range(1, len(SCRIPT) + 1))
@pytest.mark.parametrize("reserve_bytes", [0, LIMITS.reserve_bytes, LIMITS.segment_bytes_max])
def test_a_power_loss_keeps_every_synced_record_whatever_byte_it_tears(
    reserve_bytes: int, length: int
) -> None:
    limits = replace(LIMITS, reserve_bytes=reserve_bytes)
    disk, history = MemoryDisk(), History()
    journal = Journal.open(disk, "journal", limits=limits)
    perform(journal, history, SCRIPT[:length])
    for found_disk in crashes(disk, every_byte=True):
        again, found = reopened(found_disk, limits)
        assert history.explains(found), again.recovered_notes
        # The repair itself is durable, and the journal goes on from it.
        again.append([Entry(found.next_index, 9, EntryKind.COMMAND, b"next")])
        again.sync()
        _, after = reopened(found_disk.crash(), limits)
        assert [*found.entries, *after.entries[-1:]] == after.entries


def operations_in(script: Sequence[list[Record] | str | int]) -> int:
    count = 0

    def before(operation: str, path: str) -> None:
        nonlocal count
        count += 1

    disk = MemoryDisk(before=before)
    perform(Journal.open(disk, "journal", limits=LIMITS), History(), script)
    return count


@pytest.mark.parametrize("stop_at", range(operations_in(SCRIPT)))
def test_a_power_loss_before_any_operation_of_the_disk(stop_at: int) -> None:
    """Also within rotation and compaction, and in the repair after the first power loss."""
    disk, history = MemoryDisk(), History()
    stop_before(disk, stop_at)
    with pytest.raises(PowerLoss):
        perform(Journal.open(disk, "journal", limits=LIMITS), history, SCRIPT)
    for found_disk in crashes(disk, every_byte=False):
        for second_stop in range(20):
            twice = found_disk.crash()
            stop_before(twice, second_stop)
            try:
                _, found = reopened(twice)
            except PowerLoss:
                for third in crashes(twice, every_byte=False):
                    assert history.explains(reopened(third)[1])
            else:
                assert history.explains(found)
                break


@pytest.mark.parametrize("stop_at", range(operations_in(SCRIPT)))
def test_a_killed_process_leaves_nothing_that_a_later_power_loss_can_take(stop_at: int) -> None:
    """What the next process finds it may promise at once, though the disk had it only in memory."""
    disk, history = MemoryDisk(), History()
    stop_before(disk, stop_at)
    with pytest.raises(PowerLoss):
        perform(Journal.open(disk, "journal", limits=LIMITS), history, SCRIPT)
    disk.before = None
    journal, found = reopened(disk)
    assert history.explains(found)
    journal.append([Entry(found.next_index, 9, EntryKind.COMMAND, b"next")])
    journal.sync()
    for later in crashes(disk, every_byte=False):
        _, after = reopened(later)
        assert after.entries[:-1] == found.entries
        assert (after.hard_state, after.installed) == (found.hard_state, found.installed)


def stop_before(disk: MemoryDisk, operation_number: int) -> None:
    left = operation_number

    def before(operation: str, path: str) -> None:
        nonlocal left
        if left == 0:
            raise PowerLoss
        left -= 1

    disk.before = before


@pytest.mark.parametrize("length", [1, 3, 5, 8, 9, 12, len(SCRIPT)])
@pytest.mark.parametrize("ending", ["running", "closed"])
def test_a_flipped_bit_is_refused_or_harmless_or_cuts_what_nothing_has_sealed(
    length: int, ending: str
) -> None:
    disk, history = MemoryDisk(), History()
    journal = Journal.open(disk, "journal", limits=LIMITS)
    perform(journal, history, SCRIPT[:length])
    journal.sync()
    if ending == "closed":
        journal.close()
        history.sealed = len(history.batches)
    refused = cut = 0
    for name in disk.list_names("journal"):
        path = f"journal/{name}"
        good = read_all(disk, path)
        for bit in range(0, len(good) * 8, 3):
            broken = disk.crash(keep_bytes=lambda path, unsynced: unsynced)
            broken.overwrite(path, bit // 8, bytes([good[bit // 8] ^ 1 << bit % 8]))
            try:
                again, found = reopened(broken)
            except StorageCorrupt:
                refused += 1
                continue
            if not history.is_whole(found):
                assert history.explains(found, at_least=history.sealed)
                assert len(again.recovered_notes) == 1
                cut += 1
    assert refused > 0
    assert (cut > 0) == (history.sealed < len(history.batches))


def test_batches_of_one_unsynced_group_may_reach_the_disk_out_of_order() -> None:
    disk, history = MemoryDisk(), History()
    journal = Journal.open(disk, "journal")
    perform(journal, history, [entries(1, 2, 1), "sync"])
    start = journal.bytes_on_disk
    perform(journal, history, [entries(3, 4, 1)])
    middle = journal.bytes_on_disk
    perform(journal, history, [entries(5, 6, 1)])
    path = "journal/0000000000000001.journal"
    lost_page = disk.crash(keep_bytes=lambda path, unsynced: unsynced)
    lost_page.overwrite(path, start, bytes(middle - start))
    again, found = reopened(lost_page)
    assert found.entries == entries(1, 2, 1)
    assert "nothing shows that a sync had covered them" in again.recovered_notes[0]
    # The same bytes are damage once a sync has covered the first of the two groups.
    disk, history = MemoryDisk(), History()
    journal = Journal.open(disk, "journal")
    perform(journal, history, [entries(1, 2, 1), "sync", entries(3, 4, 1), "sync", entries(5, 6, 1)])
    disk = disk.crash(keep_bytes=lambda path, unsynced: unsynced)
    disk.overwrite(path, start, bytes(middle - start))
    with pytest.raises(StorageCorrupt, match=r"damaged at byte \d+: .*a later batch shows") as caught:
        reopened(disk)
    assert start <= caught.value.offset < middle


class JournalMachine(RuleBasedStateMachine):
    """Random histories with power losses, full disks, restarts and compactions, against :class:`Log`."""

    def __init__(self) -> None:
        super().__init__()
        self.disk = MemoryDisk()
        self.history = History()
        self.journal = Journal.open(self.disk, "journal", limits=LIMITS)
        self.journal.take_found()

    @property
    def log(self) -> Log:
        return Log.of(self.history.batches)

    def append(self, batch: list[Record]) -> None:
        self.journal.append(batch)
        self.history.batches.append(batch)

    @rule(count=st.integers(1, 6), data=st.binary(max_size=60))
    def append_entries(self, count: int, data: bytes) -> None:
        log = self.log
        first, term = log.next_index, log.hard_state.term
        self.append([Entry(first + i, term, EntryKind(i % 2), data) for i in range(count)])

    @rule(vote=st.none() | st.text(max_size=5))
    def new_term(self, vote: str | None) -> None:
        self.append([HardState(self.log.hard_state.term + 1, vote)])

    @precondition(lambda self: self.log.next_index > self.history.first_index_kept)
    @rule(data=st.data())
    def replace_the_end(self, data: st.DataObject) -> None:
        log = self.log
        first = data.draw(st.integers(self.history.first_index_kept, log.next_index), label="first")
        self.append([Truncate(first), Entry(first, log.hard_state.term, EntryKind.COMMAND, b"new")])

    @rule(ahead=st.integers(0, 30))
    def install_snapshot(self, ahead: int) -> None:
        log = self.log
        self.append([InstalledSnapshot(meta(log.next_index + ahead, log.hard_state.term))])
        self.history.first_index_kept = self.log.next_index

    @rule()
    def sync(self) -> None:
        self.journal.sync()
        self.history.synced = len(self.history.batches)

    @rule()
    def seal(self) -> None:
        self.journal.seal()

    @rule(data=st.data())
    def compact(self, data: st.DataObject) -> None:
        low, high = self.history.first_index_kept, self.log.next_index
        kept = data.draw(st.integers(min(low, high), high), label="kept")
        self.journal.compact(kept)
        self.history.first_index_kept = kept
        self.history.synced = len(self.history.batches)

    @rule(room=st.integers(0, 200))
    def fill_the_disk(self, room: int) -> None:
        self.disk.capacity_bytes = self.disk.used_bytes + room
        batch = entries(self.log.next_index, self.log.next_index + 4, self.log.hard_state.term)
        try:
            self.append(batch)
        except DiskFull:
            self.disk.capacity_bytes = None
            self.append(batch)
        self.disk.capacity_bytes = None

    @rule(data=st.data())
    def lose_power(self, data: st.DataObject) -> None:
        unsynced = max(self.disk.unsynced_bytes().values(), default=0)
        kept = data.draw(st.integers(0, unsynced), label="bytes kept")
        names = data.draw(st.integers(0, self.disk.unsynced_names()), label="names kept")
        self.disk = self.disk.crash(keep_bytes=lambda path, count: min(kept, count), keep_names=names)
        self.restart()

    @rule()
    def close_and_open(self) -> None:
        self.journal.close()
        self.history.synced = len(self.history.batches)
        self.disk = self.disk.crash()
        self.restart()
        assert self.journal.recovered_notes == []

    @rule()
    def kill_the_process(self) -> None:
        self.restart()

    def restart(self) -> None:
        self.journal, found = reopened(self.disk)
        matching = [
            count
            for count in range(self.history.synced, len(self.history.batches) + 1)
            if Log.of(self.history.batches[:count]).agrees_with(found, self.history.first_index_kept)
        ]
        assert matching, "what was recovered is not what a prefix of the batches amounts to"
        del self.history.batches[matching[-1] :]
        self.history.synced = len(self.history.batches)

    @invariant()
    def agrees_with_what_it_was_told(self) -> None:
        assert self.journal.hard_state == self.log.hard_state
        assert self.journal.next_index == self.log.next_index
        assert self.journal.bytes_on_disk == self.disk.used_bytes


TestJournalMachine = JournalMachine.TestCase
TestJournalMachine.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
