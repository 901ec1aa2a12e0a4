"""The journal step by step: what it keeps, what it refuses, when it stops."""

from __future__ import annotations

import random
import struct
from dataclasses import replace
from pathlib import Path

import google_crc32c
import pytest

from consensus.errors import DiskFull, EntryTooLarge, InvariantViolated, StorageCorrupt, StorageFailed
from consensus.interface import Entry, EntryKind, HardState, InstalledSnapshot, SnapshotMeta, Truncate
from consensus.journal import Journal, JournalLimits
from consensus.segment import BATCH_HEADER_BYTES, SegmentHead, decode_head, encode_batch, encode_head, scan
from consensus.storage import RealDisk, read_all
from simulations.disk import MemoryDisk
from simulations.faulty_disk import FaultyDisk

SMALL = JournalLimits(segment_bytes_max=600)
EXACT = JournalLimits(segment_bytes_max=600, reserve_bytes=0)


def entry(index: int, term: int = 1, data: bytes = b"data") -> Entry:
    return Entry(index, term, EntryKind.COMMAND, data)


def entries(first: int, last: int, term: int = 1) -> list[Entry]:
    return [entry(index, term, b"%d" % index) for index in range(first, last + 1)]


def meta(index: int, term: int = 1) -> SnapshotMeta:
    return SnapshotMeta(index, term, term, 10, "ab" * 32)


def fill(disk: MemoryDisk, last: int, limits: JournalLimits = SMALL) -> Journal:
    journal = Journal.open(disk, "journal", limits=limits)
    for item in entries(1, last):
        journal.append([item])
        journal.sync()
    return journal


def append_until_full(journal: Journal, first: int) -> int:
    """Append entries one by one till the disk is full; the index of the last that was taken."""
    for item in entries(first, first + 100):
        try:
            journal.append([item])
        except DiskFull:
            return item.index - 1
    raise AssertionError("the disk never filled up")


def test_a_new_journal_is_empty_and_says_that_it_is_new() -> None:
    disk = MemoryDisk()
    journal = Journal.open(disk, "journal")
    found = journal.take_found()
    assert journal.created
    assert (found.hard_state, found.installed, found.first_index, found.entries) == (
        HardState(0, None),
        None,
        1,
        [],
    )
    assert not Journal.open(disk, "journal").created


def test_every_kind_of_record_comes_back_from_real_files(tmp_path: Path) -> None:
    disk = RealDisk(tmp_path)
    with_noop = Entry(4, 7, EntryKind.NOOP, b"")
    journal = Journal.open(disk, "journal")
    journal.append([HardState(3, None), HardState(3, ""), *entries(1, 5)])
    journal.append([HardState(4, "nœud-1"), Truncate(4), with_noop])
    journal.sync()
    journal.close()
    journal.close()
    again = Journal.open(disk, "journal")
    found = again.take_found()
    assert found.hard_state == HardState(4, "nœud-1")
    assert found.entries == [*entries(1, 3), with_noop]
    assert again.recovered_notes == []
    again.append([InstalledSnapshot(meta(90, 8)), entry(91, 8)])
    again.close()
    found = Journal.open(disk, "journal").take_found()
    assert (found.installed, found.first_index, found.entries) == (meta(90, 8), 91, [entry(91, 8)])
    assert found.hard_state == HardState(4, "nœud-1")


def test_what_was_found_is_handed_over_once() -> None:
    journal = Journal.open(MemoryDisk(), "journal")
    journal.take_found()
    with pytest.raises(ValueError, match="already taken"):
        journal.take_found()


def test_dirty_until_synced_and_one_sync_covers_all() -> None:
    syncs: list[str] = []
    disk = MemoryDisk(before=lambda operation, path: syncs.append(path) if operation == "sync" else None)
    journal = Journal.open(disk, "journal")
    assert not journal.dirty
    syncs.clear()
    journal.append(entries(1, 2))
    journal.append(entries(3, 4))
    assert journal.dirty
    journal.sync()
    assert not journal.dirty
    journal.sync()
    journal.append([])
    journal.sync()
    assert len(syncs) == 1


def test_a_batch_is_one_write() -> None:
    writes: list[str] = []
    disk = MemoryDisk(before=lambda operation, path: writes.append(path) if operation == "append" else None)
    journal = Journal.open(disk, "journal")
    writes.clear()
    journal.append(entries(1, 50))
    assert len(writes) == 1


@pytest.mark.parametrize(
    "records",
    [
        [entry(4)],
        [entry(6)],
        [entry(5), entry(5)],
        [Truncate(7)],
        [Truncate(0)],
        [HardState(1, "a")],
        [HardState(2, "b")],
        [HardState(2, None)],
        [Truncate(3), entry(4)],
        [InstalledSnapshot(meta(9)), entry(9)],
    ],
    ids=str,
)
def test_records_that_no_correct_engine_writes_are_refused(records: list[Entry]) -> None:
    disk = MemoryDisk()
    journal = Journal.open(disk, "journal")
    journal.append([*entries(1, 4), HardState(2, "a")])
    size = journal.bytes_on_disk
    with pytest.raises(InvariantViolated):
        journal.append(records)
    assert journal.bytes_on_disk == size
    journal.append([entry(5)])
    journal.close()
    assert Journal.open(disk, "journal").take_found().entries == [*entries(1, 4), entry(5)]


def test_too_much_is_refused_before_anything_is_written() -> None:
    limits = JournalLimits(entry_bytes_max=10, batch_bytes_max=200)
    journal = Journal.open(MemoryDisk(), "journal", limits=limits)
    size = journal.bytes_on_disk
    with pytest.raises(EntryTooLarge, match="entry_bytes_max = 10"):
        journal.append([entry(1), entry(2, data=b"x" * 11)])
    with pytest.raises(EntryTooLarge, match="batch_bytes_max = 200"):
        journal.append(entries(1, 8))
    assert journal.bytes_on_disk == size
    journal.append([entry(1, data=b"x" * 10)])


def test_a_full_disk_keeps_nothing_of_the_append_and_the_same_append_works_later() -> None:
    disk = MemoryDisk()
    journal = Journal.open(disk, "journal")
    journal.append(entries(1, 3))
    used = disk.used_bytes
    for room in range(0, 150, 7):
        disk.capacity_bytes = used + room
        with pytest.raises(DiskFull):
            journal.append([HardState(5, "a"), *entries(4, 9)])
        assert disk.used_bytes == used
        assert journal.hard_state == HardState(0, None)
    disk.capacity_bytes = None
    journal.append([HardState(5, "a"), *entries(4, 9)])
    journal.close()
    found = Journal.open(disk, "journal").take_found()
    assert (found.hard_state, found.entries) == (HardState(5, "a"), entries(1, 9))


def test_what_a_full_disk_took_of_a_write_does_not_come_back_in_a_full_segment() -> None:
    disk = MemoryDisk()
    journal = fill(disk, 6)
    journal.sync()
    disk.capacity_bytes = disk.used_bytes + 1
    with pytest.raises(DiskFull):
        journal.append(entries(7, 7))
    disk.capacity_bytes = None
    # Too much for what is left of the segment.
    journal.append([entry(7, data=bytes(SMALL.segment_bytes_max))])
    journal.sync()
    assert len(disk.list_names("journal")) == 2
    # The byte that was written survives, and that it was cut off does not.
    survivors = iter([True, False])
    found = Journal.open(disk.crash(scatter=lambda: next(survivors, True)), "journal").take_found()
    assert [each.index for each in found.entries] == list(range(1, 8))


def test_a_disk_that_fills_up_at_any_byte_of_a_rotation() -> None:
    for room in range(0, 400, 3):
        disk = MemoryDisk()
        journal = fill(disk, 6)
        disk.capacity_bytes = disk.used_bytes + room
        last = append_until_full(journal, 7)
        assert not [name for name in disk.list_names("journal") if name.endswith(".tmp")]
        disk.capacity_bytes = None
        for item in entries(last + 1, 12):
            journal.append([item])
        journal.close()
        assert Journal.open(disk, "journal").take_found().entries == entries(1, max(last, 12))


def test_closing_and_sealing_need_no_room() -> None:
    disk = MemoryDisk()
    journal = Journal.open(disk, "journal")
    journal.append(entries(1, 3))
    journal.sync()
    disk.capacity_bytes = disk.used_bytes
    journal.seal()
    journal.close()
    # Nothing shows that the records were synced, so they are written anew, and that needs room.
    with pytest.raises(DiskFull):
        Journal.open(disk, "journal")
    assert disk.list_names("journal") == ["0000000000000001.journal"]
    disk.capacity_bytes = None
    assert Journal.open(disk, "journal").take_found().entries == entries(1, 3)


def test_what_a_failed_sync_left_in_the_cache_is_durable_after_the_next_start() -> None:
    """The system holds it for clean, so syncing the same file again would write nothing."""
    disk = FaultyDisk(random.Random(1), lambda _kind: None)
    journal = Journal.open(disk, "journal")
    journal.append(entries(1, 2))
    journal.sync()
    journal.append(entries(3, 4))
    disk.fail_in(0)
    with pytest.raises(StorageFailed):
        journal.sync()
    disk.reopened(drops=True)
    again = Journal.open(disk, "journal")
    assert again.take_found().entries == entries(1, 4)
    again.append(entries(5, 5))
    again.sync()
    disk.lose_power()
    assert Journal.open(disk, "journal").take_found().entries == entries(1, 5)


def test_a_seal_that_a_failed_sync_left_in_the_cache_is_durable_after_the_next_start() -> None:
    disk = FaultyDisk(random.Random(1), lambda _kind: None)
    journal = Journal.open(disk, "journal", limits=SMALL)
    journal.append(entries(1, 2))
    journal.sync()
    journal.seal()
    disk.fail_in(0)
    with pytest.raises(StorageFailed):
        journal.append([entry(3, data=bytes(SMALL.segment_bytes_max))])  # which begins a segment
    disk.reopened(drops=True)
    again = Journal.open(disk, "journal", limits=SMALL)
    again.append([entry(3, data=bytes(SMALL.segment_bytes_max))])
    again.sync()
    disk.lose_power()
    found = Journal.open(disk, "journal").take_found()
    assert [each.index for each in found.entries] == [1, 2, 3]


def test_a_seal_that_finds_no_room_at_the_start_is_left_for_later() -> None:
    disk = MemoryDisk()
    journal = Journal.open(disk, "journal")
    journal.append(entries(1, 3))
    journal.close()
    sealed = disk.used_bytes
    # What the seal had is taken by somebody else as soon as it is cut off.
    disk.before = lambda name, _path: setattr(
        disk, "capacity_bytes", disk.used_bytes if name == "append" else None
    )
    again = Journal.open(disk, "journal")
    assert disk.used_bytes == sealed - BATCH_HEADER_BYTES
    disk.before = disk.capacity_bytes = None
    again.close()
    assert disk.used_bytes == sealed
    assert Journal.open(disk, "journal").take_found().entries == entries(1, 3)


def test_what_is_shown_to_be_synced_is_not_written_anew() -> None:
    operations: list[str] = []
    disk = MemoryDisk()
    journal = Journal.open(disk, "journal")
    journal.append(entries(1, 3))
    journal.close()
    disk.before = lambda name, _path: operations.append(name)
    Journal.open(disk, "journal")
    assert "create_file" not in operations


@pytest.mark.parametrize("operation", ["append", "sync", "truncate"])
def test_after_a_failure_the_journal_is_never_used_again(operation: str) -> None:
    broken: list[str] = []

    def before(name: str, path: str) -> None:
        if name in broken:
            raise StorageFailed(f"injected at {name}")

    disk = MemoryDisk(before=before)
    journal = Journal.open(disk, "journal")
    journal.append(entries(1, 1))
    broken.append(operation)
    disk.capacity_bytes = disk.used_bytes if operation == "truncate" else None

    def append_and_sync() -> None:
        journal.append(entries(2, 2))
        journal.sync()

    with pytest.raises(StorageFailed, match="injected"):
        append_and_sync()
    broken.clear()
    disk.capacity_bytes = None
    for act in (
        lambda: journal.append(entries(2, 2)),
        journal.sync,
        journal.seal,
        lambda: journal.compact(1),
    ):
        with pytest.raises(StorageFailed, match="stopped after a failure"):
            act()
    journal.close()


def test_a_closed_journal_says_so() -> None:
    journal = Journal.open(MemoryDisk(), "journal")
    journal.close()
    with pytest.raises(ValueError, match="closed"):
        journal.append(entries(1, 1))


def test_segments_rotate_and_everything_comes_back() -> None:
    disk = MemoryDisk()
    journal = fill(disk, 60, EXACT)
    names = disk.list_names("journal")
    assert len(names) > 5
    sizes = [len(read_all(disk, f"journal/{name}")) for name in names]
    assert max(sizes) <= 600
    assert journal.bytes_on_disk == sum(sizes)
    again = Journal.open(disk, "journal", limits=SMALL)
    assert again.take_found().entries == entries(1, 60)
    assert again.bytes_on_disk == sum(sizes)


def test_a_batch_larger_than_a_segment_gets_one_of_its_own() -> None:
    disk = MemoryDisk()
    journal = Journal.open(disk, "journal", limits=SMALL)
    for first in range(1, 100, 33):
        journal.append(entries(first, first + 32))
    journal.close()
    assert len(disk.list_names("journal")) == 4 - 1
    assert Journal.open(disk, "journal").take_found().entries == entries(1, 99)


def test_compaction_keeps_what_is_needed_and_the_hard_state() -> None:
    disk = MemoryDisk()
    journal = Journal.open(disk, "journal", limits=SMALL)
    journal.append([HardState(9, "me")])
    for item in entries(1, 60):
        journal.append([item])
    before = journal.bytes_on_disk
    journal.compact(1)
    assert journal.bytes_on_disk == before
    journal.compact(40)
    assert journal.bytes_on_disk < before / 2
    journal.close()
    found = Journal.open(disk, "journal").take_found()
    assert found.hard_state == HardState(9, "me")
    assert 30 < found.first_index <= 40
    assert found.entries == entries(found.first_index, 60)


def test_a_reset_or_a_truncation_makes_old_segments_droppable() -> None:
    disk = MemoryDisk()
    journal = fill(disk, 60)
    journal.append([Truncate(21), entry(21, 2)])
    journal.compact(22)
    assert len(disk.list_names("journal")) == 1
    found = Journal.open(disk, "journal").take_found()
    assert (found.first_index, found.entries) == (21, [entry(21, 2)])
    journal = fill(MemoryDisk(), 60)
    size = journal.bytes_on_disk
    journal.append([InstalledSnapshot(meta(40))])
    journal.compact(41)
    assert journal.bytes_on_disk < size / 4
    assert journal.next_index == 41


def test_compaction_of_a_reopened_journal_drops_the_same() -> None:
    disk = MemoryDisk()
    journal = fill(disk, 60)
    journal.append([Truncate(21), entry(21, 2)])
    journal.close()
    again = Journal.open(disk, "journal", limits=SMALL)
    again.compact(22)
    assert len(disk.list_names("journal")) == 1


def test_seals_do_not_pile_up() -> None:
    disk = MemoryDisk()
    fill(disk, 3).close()
    size = disk.used_bytes
    for _ in range(3):
        journal = Journal.open(disk, "journal", limits=SMALL)
        journal.seal()
        journal.close()
    assert disk.used_bytes == size


def test_a_sealed_journal_knows_damage_in_its_last_batch() -> None:
    disk = MemoryDisk()
    journal = fill(disk, 3)
    size = journal.bytes_on_disk
    journal.seal()
    assert not journal.dirty
    path = "journal/0000000000000001.journal"
    sealed = read_all(disk, path)
    disk.overwrite(path, 0, sealed[: size - 1] + b"?" + sealed[size:])
    with pytest.raises(StorageCorrupt, match="later batch shows") as caught:
        Journal.open(disk, "journal")
    assert caught.value.path == "memory:/journal/0000000000000001.journal"
    assert size - 100 < caught.value.offset < size
    assert "new node id" in str(caught.value)


def test_a_missing_segment_is_damage_unless_it_is_the_oldest() -> None:
    disk = MemoryDisk()
    fill(disk, 60).close()
    names = disk.list_names("journal")
    for name in names[1:-1]:
        broken = disk.crash()
        broken.remove(f"journal/{name}")
        with pytest.raises(StorageCorrupt, match="should be between"):
            Journal.open(broken, "journal")
    disk.remove(f"journal/{names[0]}")
    assert Journal.open(disk, "journal").take_found().first_index > 1


def test_a_segment_that_lost_its_end_is_damage_when_another_follows() -> None:
    disk = MemoryDisk()
    fill(disk, 20).close()
    names = disk.list_names("journal")
    assert len(names) == 2
    file = disk.open_file(f"journal/{names[0]}")
    whole, batch_bytes = file.size, 20 + 28 + 2
    file.truncate(whole - batch_bytes)
    with pytest.raises(StorageCorrupt, match=f"had {whole} bytes and now has"):
        Journal.open(disk, "journal")


def test_swapped_or_foreign_segments_are_refused() -> None:
    disk = MemoryDisk()
    fill(disk, 20).close()
    names = disk.list_names("journal")
    disk.rename(f"journal/{names[0]}", f"journal/{names[1]}")
    with pytest.raises(StorageCorrupt, match="its head says that it is segment 1"):
        Journal.open(disk, "journal")
    mine, other = MemoryDisk(), MemoryDisk()
    for disk, vote in ((mine, "a"), (other, "b")):
        journal = Journal.open(disk, "journal", limits=SMALL)
        journal.append([HardState(1, vote)])
        for item in entries(1, 20):
            journal.append([item])
        journal.close()
    mine.overwrite(f"journal/{names[1]}", 0, read_all(other, f"journal/{names[1]}"))
    with pytest.raises(StorageCorrupt, match="does not continue the segment before it"):
        Journal.open(mine, "journal")


def test_damage_in_a_full_segment_is_told_where_it_is() -> None:
    disk = MemoryDisk()
    fill(disk, 20).close()
    path = f"journal/{disk.list_names('journal')[0]}"
    disk.overwrite(path, disk.open_file(path).size - 1, b"?")
    with pytest.raises(StorageCorrupt, match="a later segment exists") as caught:
        Journal.open(disk, "journal")
    assert caught.value.path == f"memory:/{path}"


def test_a_newer_format_is_named_as_such() -> None:
    head = SegmentHead(1, 1, 0, HardState(0, None), None)
    newer = bytearray(encode_head(head))
    newer[8] = 3
    disk = MemoryDisk()
    disk.make_directory("journal")
    file = disk.create_file("journal/0000000000000001.journal")
    file.append(bytes(newer))
    with pytest.raises(StorageCorrupt, match="format version 3 where this program reads 1 and 2"):
        Journal.open(disk, "journal")


def test_a_record_type_of_a_newer_program_is_never_cut_off_as_torn() -> None:
    disk = MemoryDisk()
    journal = fill(disk, 1, EXACT)
    path = "journal/0000000000000001.journal"
    file = disk.open_file(path)
    strange = Entry(2, 1, 77, b"from the future")  # type: ignore[arg-type]
    file.append(encode_batch([strange], sequence=1, offset=journal.bytes_on_disk, durable=0))
    with pytest.raises(StorageCorrupt, match="makes no sense"):
        Journal.open(disk, "journal")


def test_a_command_that_looks_like_a_batch_does_not_turn_a_torn_write_into_damage() -> None:
    disk = MemoryDisk()
    journal = fill(disk, 1)
    at = journal.bytes_on_disk
    body = at + 20 + 28
    forged = encode_batch((), sequence=1, offset=body, durable=body)
    journal.append([entry(2, data=forged + b"x" * 20)])
    torn = disk.crash(keep_bytes=lambda path, unsynced: unsynced - 1)
    again = Journal.open(torn, "journal")
    assert again.take_found().entries == entries(1, 1)
    assert "cut" in again.recovered_notes[0]


def test_heads_and_batches_round_trip() -> None:
    for installed in (None, meta(5, 2)):
        for vote in (None, "", "nœud"):
            head = SegmentHead(7, 9, 1234, HardState(3, vote), installed)
            assert decode_head(encode_head(head) + b"rest") == (head, len(encode_head(head)))
    records = [HardState(1, "a"), *entries(1, 3), Truncate(2), InstalledSnapshot(meta(8))]
    batch = encode_batch(records, sequence=3, offset=0, durable=0)
    seal = encode_batch((), sequence=3, offset=len(batch), durable=len(batch))
    found = scan(batch + seal, 0, 3)
    assert found.batches == [(0, records)]
    assert (found.records_end, found.end, found.claimed) == (len(batch), len(batch + seal), len(batch))
    assert scan(batch, 0, 4).problem is not None, "a batch of another segment does not count"


def version_1_head(term: int, vote: bytes, installed: SnapshotMeta | None) -> bytes:
    """The head of a segment as it was before there were incarnations."""
    state = struct.pack("<Qi", term, len(vote)) + vote
    if installed is None:
        state += b"\x00"
    else:
        m = installed
        digest = bytes.fromhex(m.sha256)
        state += b"\x01" + struct.pack("<QQQQ32s", m.index, m.term, m.previous_term, m.size, digest)
    fixed = struct.pack("<8sHHIQQQ", b"MCPJRNL\n", 1, 0, len(state), 1, 1 if installed is None else 8, 0)
    return fixed + state + struct.pack("<I", google_crc32c.value(fixed + state))


@pytest.mark.parametrize("installed", [None, meta(7)], ids=["from the beginning", "behind a snapshot"])
def test_a_journal_from_before_there_were_incarnations_is_read_and_goes_on(
    installed: SnapshotMeta | None,
) -> None:
    disk = MemoryDisk()
    disk.make_directory("journal")
    head = version_1_head(3, b"n2", installed)
    first = 1 if installed is None else 8
    disk.create_file("journal/0000000000000001.journal").append(
        head + encode_batch([entry(first)], sequence=1, offset=len(head), durable=len(head))
    )
    journal = Journal.open(disk, "journal", limits=SMALL, incarnation=99)
    found = journal.take_found()
    assert (found.hard_state, found.installed, found.entries) == (
        HardState(3, "n2"),
        installed,
        [entry(first)],
    )
    assert (journal.incarnation, journal.created) == (0, False), "it is no new one, so it gets no number"
    for item in entries(first + 1, first + 40):
        journal.append([item])
        journal.sync()
    assert len(disk.list_names("journal")) > 2
    again = Journal.open(disk, "journal", limits=SMALL, incarnation=98)
    assert again.incarnation == 0
    assert len(again.take_found().entries) == 41


def test_a_journal_keeps_its_incarnation_and_another_in_its_place_has_its_own() -> None:
    disk = MemoryDisk()
    journal = Journal.open(disk, "journal", limits=SMALL, incarnation=5)
    for item in entries(1, 40):
        journal.append([item])
    journal.sync()
    journal.compact(30)
    assert Journal.open(disk.crash(), "journal", limits=SMALL, incarnation=6).incarnation == 5
    assert Journal.open(MemoryDisk(), "journal", incarnation=6).incarnation == 6


def test_a_segment_of_another_journal_is_refused() -> None:
    disk = MemoryDisk()
    fill(disk, 40).close()
    last = disk.list_names("journal")[-1]
    file = disk.open_file(f"journal/{last}")
    head, end = decode_head(read_all(disk, f"journal/{last}"))
    disk.remove(f"journal/{last}")
    disk.create_file(f"journal/{last}").append(
        encode_head(replace(head, incarnation=9)) + file.read(end, file.size)
    )
    with pytest.raises(StorageCorrupt, match="does not continue the segment before"):
        Journal.open(disk, "journal", limits=SMALL)


def test_the_members_in_a_snapshot_are_recorded_with_it() -> None:
    disk = MemoryDisk()
    journal = Journal.open(disk, "journal", limits=SMALL)
    installed = replace(meta(7), configuration=b"the members" * 20)
    journal.append([InstalledSnapshot(installed), *entries(8, 9)])
    journal.close()
    assert Journal.open(disk, "journal", limits=SMALL).take_found().installed == installed
    journal = Journal.open(disk, "journal", limits=SMALL)
    for item in entries(10, 60):
        journal.append([item])
        journal.sync()
    journal.compact(40)
    assert Journal.open(disk, "journal", limits=SMALL).take_found().installed == installed
