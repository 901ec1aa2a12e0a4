"""The disk port: the real disk and the one in memory keep the same contract."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from consensus import storage
from consensus.errors import DiskFull, StorageFailed
from consensus.storage import Disk, RealDisk, StorageLocked, lock_directory, read_all
from simulations.disk import MemoryDisk


@pytest.fixture(params=["real", "memory"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Disk:
    return RealDisk(tmp_path / "data") if request.param == "real" else MemoryDisk()


def test_a_file_grows_is_read_and_is_cut(disk: Disk) -> None:
    disk.make_directory("a/b")
    file = disk.create_file("a/b/f")
    file.append(b"hello ")
    file.append(b"world")
    file.sync()
    assert file.size == 11
    assert file.read(6, 100) == b"world"
    assert file.read(11, 1) == b""
    file.truncate(5)
    file.append(b"!")
    file.close()
    assert read_all(disk, "a/b/f") == b"hello!"


def test_names_are_sorted_renamed_removed(disk: Disk) -> None:
    disk.make_directory("d")
    for name in ("b", "a", "c"):
        disk.create_file(f"d/{name}").close()
    disk.rename("d/c", "d/a")
    disk.remove("d/b")
    disk.remove("d/never was there")
    disk.sync_directory("d")
    assert disk.list_names("d") == ["a"]
    assert disk.list_names("no such directory") == []


def test_an_opened_file_continues_and_a_created_one_begins_empty(disk: Disk) -> None:
    disk.make_directory("d")
    first = disk.create_file("d/f")
    first.append(b"12")
    first.close()
    again = disk.open_file("d/f")
    again.append(b"3")
    again.close()
    assert read_all(disk, "d/f") == b"123"
    disk.create_file("d/f").close()
    assert read_all(disk, "d/f") == b""
    with pytest.raises(FileNotFoundError):
        disk.open_file("d/g")


def test_making_a_directory_again_changes_nothing(disk: Disk) -> None:
    disk.make_directory("x/y")
    disk.create_file("x/y/f").close()
    disk.make_directory("x/y")
    disk.make_directory("x")
    assert disk.list_names("x/y") == ["f"]
    assert disk.free_bytes() > 0


def test_a_file_where_a_directory_is_needed_is_a_storage_failure(tmp_path: Path) -> None:
    disk = RealDisk(tmp_path)
    disk.create_file("f").close()
    with pytest.raises(StorageFailed, match="cannot create"):
        disk.create_file("f/g")
    with pytest.raises(StorageFailed, match="cannot list"):
        disk.list_names("f")
    with pytest.raises(StorageFailed, match="cannot rename"):
        disk.rename("nothing", "something")
    with pytest.raises(StorageFailed, match="cannot sync directory"):
        disk.sync_directory("f")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_device_is_disk_full_and_a_failed_sync_is_never_tried_again() -> None:
    file = RealDisk("/dev").open_file("full")
    with pytest.raises(DiskFull, match="make room"):
        file.append(b"x")
    with pytest.raises(DiskFull, match="make room"):
        file.append(b"x")
    with pytest.raises(StorageFailed, match="cannot sync"):
        file.sync()  # the device has no sync: a real error of a real call
    with pytest.raises(StorageFailed, match="not tried again"):
        file.sync()
    with pytest.raises(StorageFailed, match="not tried again"):
        file.append(b"x")
    with pytest.raises(StorageFailed, match="not tried again"):
        file.truncate(0)
    file.close()


@pytest.mark.parametrize(
    ("number", "kind"),
    [(errno.ENOSPC, DiskFull), (errno.EDQUOT, DiskFull), (errno.EIO, StorageFailed)],
)
def test_what_the_operating_system_refuses_to_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, kind: type[Exception]
) -> None:
    real_write = os.pwrite

    def one_byte_then_refuse(descriptor: int, data: bytes, offset: int) -> int:
        if offset == 0:
            return real_write(descriptor, data[:1], offset)
        raise OSError(number, os.strerror(number))

    file = RealDisk(tmp_path).create_file("f")
    monkeypatch.setattr(storage.os, "pwrite", one_byte_then_refuse)
    with pytest.raises(kind):
        file.append(b"abc")
    assert file.size == 1, "what went in before the refusal is told, so that it can be cut off"
    file.close()


def test_no_room_at_a_sync_is_a_failure_and_not_just_a_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    file = RealDisk(tmp_path).create_file("f")
    monkeypatch.setattr(storage, "_sync_data", refuse)
    with pytest.raises(StorageFailed, match="No space"):
        file.sync()
    monkeypatch.undo()
    with pytest.raises(StorageFailed, match="not tried again"):
        file.sync()
    file.close()


def test_one_owner_at_a_time(tmp_path: Path) -> None:
    with lock_directory(tmp_path), pytest.raises(StorageLocked, match=f"in use by process {os.getpid()}"):
        lock_directory(tmp_path)
    lock_directory(tmp_path).release()


def test_the_lock_goes_with_the_process_that_held_it(tmp_path: Path) -> None:
    program = (
        "import sys; from consensus.storage import lock_directory; "
        "lock = lock_directory(sys.argv[1]); print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(StorageLocked, match=str(holder.pid)):
            lock_directory(tmp_path)
        holder.kill()
        holder.wait()
        lock_directory(tmp_path).release()


def keep(count: int) -> Callable[[str, int], int]:
    return lambda path, unsynced: count


def test_a_crash_keeps_a_prefix_of_the_unsynced_bytes() -> None:
    disk = MemoryDisk()
    disk.make_directory("d")
    file = disk.create_file("d/f")
    file.append(b"safe")
    file.sync()
    disk.sync_directory("d")
    file.append(b"may")
    file.append(b"be")
    assert disk.unsynced_bytes() == {"d/f": 5}
    assert [read_all(disk.crash(keep_bytes=keep(n)), "d/f") for n in range(6)] == [
        b"safe",
        b"safem",
        b"safema",
        b"safemay",
        b"safemayb",
        b"safemaybe",
    ]
    file.truncate(6)
    assert read_all(disk.crash(keep_bytes=keep(5)), "d/f") == b"safema"


def test_a_crash_forgets_names_that_no_directory_sync_covered() -> None:
    disk = MemoryDisk()
    disk.make_directory("d")
    file = disk.create_file("d/f.tmp")
    file.append(b"x")
    file.sync()
    disk.rename("d/f.tmp", "d/f")
    assert disk.unsynced_names() == 2
    assert [disk.crash(keep_names=n).list_names("d") for n in range(3)] == [[], ["f.tmp"], ["f"]]
    disk.sync_directory("d")
    disk.remove("d/f")
    assert [disk.crash(keep_names=n).list_names("d") for n in range(2)] == [["f"], []]


def test_a_full_memory_disk_keeps_what_fits() -> None:
    disk = MemoryDisk(capacity_bytes=4)
    file = disk.create_file("f")
    with pytest.raises(DiskFull):
        file.append(b"12345")
    assert file.size == 4
    file.truncate(0)
    disk.capacity_bytes = 5
    file.append(b"12345")
    assert disk.free_bytes() == 0


def test_a_fault_can_be_put_before_any_operation() -> None:
    seen: list[tuple[str, str]] = []

    def before(operation: str, path: str) -> None:
        seen.append((operation, path))
        if operation == "sync":
            raise StorageFailed("injected")

    disk = MemoryDisk(before=before)
    file = disk.create_file("f")
    file.append(b"x")
    with pytest.raises(StorageFailed, match="injected"):
        file.sync()
    with pytest.raises(StorageFailed, match="not tried again"):
        file.append(b"y")
    assert seen == [("create_file", "f"), ("append", "f"), ("sync", "f")]


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE])
def test_too_many_open_files_say_nothing_about_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    disk = RealDisk(tmp_path)
    disk.create_file("a").close()
    real = os.open

    def refuse(*_arguments: object, **_more: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "open", refuse)
    for attempt in (lambda: disk.create_file("b"), lambda: disk.open_file("a")):
        with pytest.raises(DiskFull, match="ulimit -n"):
            attempt()
    monkeypatch.setattr(os, "open", real)
    disk.create_file("b").close()
