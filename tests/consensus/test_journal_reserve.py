"""Room that a journal asks for ahead of what it writes: it changes what a sync costs, and nothing else."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from consensus import storage
from consensus.errors import StorageCorrupt, StorageFailed
from consensus.interface import Entry, EntryKind, Record
from consensus.journal import Journal, JournalLimits
from consensus.storage import RealDisk, read_all
from simulations.disk import MemoryDisk

FIRST = "journal/0000000000000001.journal"
needs_room = pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="this system reserves nothing")


def entries(first: int, last: int, data: bytes = b"data\0\0") -> list[Record]:
    return [Entry(index, 1, EntryKind.COMMAND, data) for index in range(first, last + 1)]


def filled(disk: storage.Disk, last: int, limits: JournalLimits | None = None) -> Journal:
    journal = Journal.open(disk, "journal", limits=limits)
    for record in entries(1, last):
        journal.append([record])
        journal.sync()
    return journal


@needs_room
def test_a_file_keeps_its_length_while_there_is_room_and_gives_it_back_at_the_end(tmp_path: Path) -> None:
    limits = JournalLimits(reserve_bytes=4096)
    journal = filled(RealDisk(tmp_path), 1, limits)
    file = tmp_path / FIRST
    length = file.stat().st_size
    assert length > journal.bytes_on_disk
    for record in entries(2, 30):
        journal.append([record])
        journal.sync()
        assert file.stat().st_size == length
    journal.append(entries(31, 200))
    assert file.stat().st_size > length
    journal.close()
    assert file.stat().st_size == journal.bytes_on_disk
    assert Journal.open(RealDisk(tmp_path), "journal").take_found().entries == entries(1, 200)


@pytest.mark.parametrize("reserve_bytes", [1, 100, 1 << 20])
def test_after_a_kill_the_room_behind_the_records_is_no_repair(tmp_path: Path, reserve_bytes: int) -> None:
    disk, limits = RealDisk(tmp_path), JournalLimits(reserve_bytes=reserve_bytes)
    filled(disk, 5, limits)
    again = Journal.open(disk, "journal", limits=limits)
    assert again.take_found().entries == entries(1, 5)
    assert again.recovered_notes == []
    assert (tmp_path / FIRST).stat().st_size == again.bytes_on_disk
    again.append(entries(6, 7))
    again.close()
    assert Journal.open(disk, "journal").take_found().entries == entries(1, 7)


def test_a_full_segment_has_no_room_behind_it() -> None:
    disk = MemoryDisk()
    journal = filled(disk, 40, JournalLimits(segment_bytes_max=600))
    *full, last = [len(read_all(disk, f"journal/{name}")) for name in disk.list_names("journal")]
    assert sum(full) <= journal.bytes_on_disk < sum(full) + last
    assert max(*full, last) <= 600


def test_zeros_in_the_place_of_a_batch_that_was_synced_are_damage() -> None:
    disk = MemoryDisk()
    journal = filled(disk, 1)
    start = journal.bytes_on_disk
    journal.append(entries(2, 2))
    journal.sync()
    end = journal.bytes_on_disk
    journal.append(entries(3, 3))
    journal.sync()
    disk.overwrite(FIRST, start, bytes(end - start))
    with pytest.raises(StorageCorrupt, match="a later batch shows"):
        Journal.open(disk, "journal")


def test_what_is_not_zero_in_the_room_behind_the_records_is_cut_off_and_told() -> None:
    disk = MemoryDisk()
    journal = filled(disk, 3)
    disk.overwrite(FIRST, journal.bytes_on_disk + 500, b"\x01")
    again = Journal.open(disk, "journal")
    assert again.take_found().entries == entries(1, 3)
    assert "nothing shows that a sync had covered them" in again.recovered_notes[0]


def test_a_disk_that_cannot_reserve_is_asked_once_for_each_segment() -> None:
    asked: list[str] = []
    disk = MemoryDisk(before=lambda operation, path: asked.append(path) if operation == "reserve" else None)
    disk.capacity_bytes = 1 << 16
    limits = JournalLimits(segment_bytes_max=1 << 17, reserve_bytes=1 << 17)
    journal = filled(disk, 20, limits)
    assert asked == [FIRST]
    assert len(read_all(disk, FIRST)) == journal.bytes_on_disk


@needs_room
def test_a_disk_without_room_keeps_nothing_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def half(descriptor: int, offset: int, length: int) -> None:
        os.ftruncate(descriptor, offset + length // 2)
        raise OSError(errno.ENOSPC, "no room")

    file = RealDisk(tmp_path).create_file("file")
    file.append(b"content")
    monkeypatch.setattr(storage, "_allocate", half)
    assert not file.reserve(4096)
    assert (tmp_path / "file").stat().st_size == 7
    file.append(b"!")
    assert (tmp_path / "file").read_bytes() == b"content!"


@needs_room
def test_a_disk_that_fails_to_reserve_has_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(descriptor: int, offset: int, length: int) -> None:
        raise OSError(errno.EIO, "broken")

    file = RealDisk(tmp_path).create_file("file")
    monkeypatch.setattr(storage, "_allocate", broken)
    with pytest.raises(StorageFailed, match="cannot reserve room"):
        file.reserve(4096)
    with pytest.raises(StorageFailed):
        file.append(b"x")


def test_a_system_that_cannot_reserve_goes_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "_allocate", None)
    journal = filled(RealDisk(tmp_path), 3)
    assert (tmp_path / FIRST).stat().st_size == journal.bytes_on_disk
