"""Defects 5, 6 and 17 of PySyncObj, which are its journal's: on the bare library, and gone with ours.

The others, with the same two kinds of tests, are in `raft/test_defects.py`.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest
from pysyncobj.journal import FileJournal, ResizableFile

from consensus import storage
from consensus.errors import DiskFull
from consensus.interface import Entry, EntryKind, HardState
from consensus.journal import Journal, JournalLimits
from consensus.segment import BATCH_HEADER_BYTES, encode_batch
from consensus.storage import RealDisk
from simulations.disk import MemoryDisk

COMMAND = b"x" * 200


class Killed(Exception):
    """The process ends here."""


def entries(first: int, last: int) -> list[Entry]:
    return [Entry(index, 1, EntryKind.COMMAND, COMMAND) for index in range(first, last + 1)]


def bare_journal(path: Path) -> FileJournal:
    journal = FileJournal(str(path / "journal"))
    for index in range(1, 7):
        journal.add(COMMAND, index, 1)
    return journal


# -- 5: compaction clears the file and writes it again ------------------------------------------------


def test_5_bare_loses_entries_to_a_kill_while_it_compacts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = bare_journal(tmp_path)
    add, added = FileJournal.add, []

    def dying(self: FileJournal, command: bytes, index: int, term: int) -> None:
        if len(added) == 2:
            raise Killed
        added.append(index)
        add(self, command, index, term)

    monkeypatch.setattr(FileJournal, "add", dying)
    with pytest.raises(Killed):
        journal.deleteEntriesTo(1)
    monkeypatch.undo()
    journal._destroy()
    left = [entry[1] for entry in FileJournal(str(tmp_path / "journal"))[:]]
    assert left == [2, 3]  # of 2 to 6, all of which were acknowledged


class Stopping(MemoryDisk):
    """Ends the process before the operation that comes after ``left`` more."""

    left: int | None = None

    def begin(self, operation: str, path: str) -> None:
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                raise Killed
        super().begin(operation, path)


def segments(disk: MemoryDisk) -> Journal:
    journal = Journal.open(disk, "journal", limits=JournalLimits(segment_bytes_max=600))
    journal.append([HardState(1, None)])
    for entry in entries(1, 6):
        journal.append([entry])
        journal.sync()
    return journal


def test_5_guarded_keeps_all_that_counts_wherever_a_compaction_ends() -> None:
    shortest = 6
    for operations in range(20):
        disk = Stopping()
        journal = segments(disk)
        disk.left = operations
        try:
            journal.compact(5)
        except Killed:
            pass
        else:
            break
        found = Journal.open(disk.crash(), "journal").take_found()
        assert found.entries == entries(found.first_index, 6)
        assert found.first_index <= 5
        shortest = min(shortest, len(found.entries))
    assert operations > 2  # it was ended in the middle, in several places
    assert shortest < 6  # and had dropped something by then


# -- 6: nothing is synced -----------------------------------------------------------------------------


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was called of all that makes a file durable."""
    calls: list[str] = []

    def count(owner: object, name: str) -> None:
        call = getattr(owner, name)

        def counting(*arguments: object) -> object:
            calls.append(name)
            return call(*arguments)

        monkeypatch.setattr(owner, name, counting)

    count(os, "fsync")
    count(os, "fdatasync")
    count(storage, "_sync_data")
    count(ResizableFile, "flush")
    return calls


def test_6_bare_syncs_neither_entries_nor_votes(tmp_path: Path, synced: list[str]) -> None:
    journal = bare_journal(tmp_path)
    journal.setCurrentTerm(2, "a")
    journal.onOneSecondTimer()
    journal.deleteEntriesTo(2)
    assert synced == []


def test_6_guarded_syncs_once_for_all_that_was_appended(tmp_path: Path, synced: list[str]) -> None:
    journal = Journal.open(RealDisk(tmp_path), "journal")
    synced.clear()
    journal.append([HardState(2, "a"), *entries(1, 6)])
    assert synced == []
    journal.sync()
    assert synced == ["_sync_data"]
    journal.close()


# -- 17: an offset of 32 bits, and a file that never shrinks ------------------------------------------


def test_17_bare_cannot_address_more_than_four_gigabytes(tmp_path: Path) -> None:
    journal = bare_journal(tmp_path)
    with pytest.raises(struct.error):
        journal._FileJournal__setLastRecordOffset(2**32)


def test_17_bare_file_does_not_shrink(tmp_path: Path) -> None:
    journal = bare_journal(tmp_path)
    before = (tmp_path / "journal").stat().st_size
    journal.deleteEntriesTo(6)
    assert len(journal) == 0
    assert (tmp_path / "journal").stat().st_size == before


def test_17_guarded_offsets_have_64_bits_and_files_go() -> None:
    far = 2**40
    batch = encode_batch(entries(1, 1), sequence=1, offset=far, durable=far)
    assert far.to_bytes(8, "little") in batch[:BATCH_HEADER_BYTES]
    journal = segments(MemoryDisk())
    before = journal.bytes_on_disk
    journal.compact(6)
    assert journal.bytes_on_disk < before / 2


def test_17_guarded_goes_on_when_there_is_room_again() -> None:
    disk = MemoryDisk()
    journal = segments(disk)
    disk.capacity_bytes = disk.used_bytes + 100
    with pytest.raises(DiskFull):
        journal.append(entries(7, 7))
    disk.capacity_bytes = None
    journal.append(entries(7, 7))
    journal.sync()
    assert Journal.open(disk.crash(), "journal").take_found().entries == entries(1, 7)
