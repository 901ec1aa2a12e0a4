"""The snapshot store: atomic, verified, resumable."""

from __future__ import annotations

import hashlib
import struct
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import google_crc32c
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consensus.errors import DiskFull, StorageCorrupt, StorageFailed
from consensus.interface import SnapshotMeta
from consensus.snapshots import SnapshotGone, SnapshotStore
from consensus.storage import RealDisk, read_all
from simulations.disk import MemoryDisk

CONTENT = b"the state of everything " * 20


def meta_of(index: int, content: bytes = CONTENT, term: int = 2) -> SnapshotMeta:
    return SnapshotMeta(index, term, 1, len(content), hashlib.sha256(content).hexdigest())


class PowerLoss(BaseException):
    """The machine stops here."""


def stop_before(disk: MemoryDisk, operation_number: int) -> None:
    left = operation_number

    def before(operation: str, path: str) -> None:
        nonlocal left
        if left == 0:
            raise PowerLoss
        left -= 1

    disk.before = before


def test_written_read_and_replaced_on_real_files(tmp_path: Path) -> None:
    disk = RealDisk(tmp_path)
    store = SnapshotStore.open(disk, "snapshots")
    assert store.latest() is None
    first = store.write(10, 2, 1, CONTENT)
    assert first == meta_of(10) == store.latest()
    assert store.read(first) == CONTENT
    second = store.write(20, 2, 1, b"")
    assert disk.list_names("snapshots") == ["00000000000000000020.snapshot"]
    again = SnapshotStore.open(disk, "snapshots")
    assert again.latest() == second
    assert not again.latest_was_received()
    assert again.read(second) == b""
    with pytest.raises(SnapshotGone, match="begin again"):
        again.read(first)
    with pytest.raises(SnapshotGone, match="begin again"):
        again.read_chunk(first, 0, 10)


def test_one_as_new_is_not_replaced() -> None:
    store = SnapshotStore.open(MemoryDisk(), "snapshots")
    latest = store.write(10, 2, 1, CONTENT)
    assert store.write(10, 2, 1, b"other") == latest
    assert store.write(9, 2, 1, b"older") == latest
    assert store.read(latest) == CONTENT
    with pytest.raises(SnapshotGone, match="another snapshot of entry 10"):
        store.read(meta_of(10, b"other"))


@given(chunk=st.integers(1, 600))
@settings(max_examples=30, deadline=None)
def test_chunks_make_up_the_content(chunk: int) -> None:
    store = SnapshotStore.open(MemoryDisk(), "snapshots")
    meta = store.write(10, 2, 1, CONTENT)
    pieces = [store.read_chunk(meta, at, chunk) for at in range(0, meta.size, chunk)]
    assert b"".join(pieces) == CONTENT
    assert store.read_chunk(meta, meta.size, chunk) == b""


@pytest.mark.parametrize("before", [None, 5])
def test_a_power_loss_at_any_point_of_a_write_leaves_the_old_or_the_new_one(before: int | None) -> None:
    old, new = b"old" * 50, b"new" * 50
    for stop_at in range(20):
        disk = MemoryDisk()
        store = SnapshotStore.open(disk, "snapshots")
        if before is not None:
            store.write(before, 2, 1, old)
        stop_before(disk, stop_at)
        try:
            store.write(10, 2, 1, new)
        except PowerLoss:
            done = False
        else:
            done = True
        seen = set()
        for names in range(disk.unsynced_names() + 1):
            for share in (0, 1, 30, 10**6):
                found = disk.crash(keep_bytes=lambda path, n, share=share: min(share, n), keep_names=names)
                again = SnapshotStore.open(found, "snapshots")
                latest = again.latest()
                seen.add(latest.index if latest else None)
                assert latest is None or again.read(latest) == (new if latest.index == 10 else old)
                assert len(found.list_names("snapshots")) == (latest is not None)
        assert seen <= ({10} if done else {before, 10})
        if done:
            return
    raise AssertionError("the write never finished")


def test_what_a_store_reports_after_a_killed_process_is_durable() -> None:
    reports = set()
    for stop_at in range(8):
        disk = MemoryDisk()
        store = SnapshotStore.open(disk, "snapshots")
        store.write(5, 2, 1, b"old")
        stop_before(disk, stop_at)
        with suppress(PowerLoss):
            store.write(10, 2, 1, b"new")
        disk.before = None
        latest = SnapshotStore.open(disk, "snapshots").latest()
        assert SnapshotStore.open(disk.crash(), "snapshots").latest() == latest
        reports.add(latest)
    assert reports == {meta_of(5, b"old"), meta_of(10, b"new")}


def test_a_flipped_bit_anywhere_in_the_latest_is_never_ignored() -> None:
    disk = MemoryDisk()
    store = SnapshotStore.open(disk, "snapshots")
    meta = store.write(10, 2, 1, b"short")
    path = "snapshots/00000000000000000010.snapshot"
    good = read_all(disk, path)
    for bit in range(len(good) * 8):
        broken = disk.crash()
        broken.overwrite(path, bit // 8, bytes([good[bit // 8] ^ 1 << bit % 8]))
        with pytest.raises(StorageCorrupt, match="new node id"):
            SnapshotStore.open(broken, "snapshots")
    for size in range(len(good)):
        broken = disk.crash()
        broken.open_file(path).truncate(size)
        with pytest.raises(StorageCorrupt):
            SnapshotStore.open(broken, "snapshots")
    disk.overwrite(path, len(good) - 1, b"?")
    for read in (lambda: store.read(meta), lambda: store.read_chunk(meta, 0, 2)):
        with pytest.raises(StorageCorrupt, match="does not match its checksum"):
            read()
    disk.overwrite(path, 0, b"?")
    with pytest.raises(StorageCorrupt, match="not the header"):
        store.read(meta)


def test_a_renamed_snapshot_and_a_newer_format_are_refused() -> None:
    disk = MemoryDisk()
    SnapshotStore.open(disk, "snapshots").write(10, 2, 1, CONTENT)
    path = "snapshots/00000000000000000010.snapshot"
    renamed = disk.crash()
    renamed.rename(path, "snapshots/00000000000000000011.snapshot")
    with pytest.raises(StorageCorrupt, match="it is of entry 10"):
        SnapshotStore.open(renamed, "snapshots")
    disk.overwrite(path, 8, b"\x03")
    with pytest.raises(StorageCorrupt, match="format version 3"):
        SnapshotStore.open(disk, "snapshots")


def test_a_full_disk_changes_nothing_and_leaves_nothing() -> None:
    disk = MemoryDisk()
    store = SnapshotStore.open(disk, "snapshots")
    old = store.write(5, 2, 1, CONTENT)
    used = disk.used_bytes
    for room in (0, 10, 90, 200):
        disk.capacity_bytes = used + room
        with pytest.raises(DiskFull):
            store.write(10, 2, 1, CONTENT)
        assert disk.used_bytes == used
    assert store.latest() == old
    disk.capacity_bytes = None
    assert store.write(10, 2, 1, CONTENT) == meta_of(10)


def test_a_failed_sync_publishes_nothing() -> None:
    disk = MemoryDisk()
    store = SnapshotStore.open(disk, "snapshots")

    def before(operation: str, path: str) -> None:
        if operation == "sync":
            raise StorageFailed("injected")

    disk.before = before
    with pytest.raises(StorageFailed, match="injected"):
        store.write(10, 2, 1, CONTENT)
    receiver = store.receive(meta_of(10))
    receiver.write(0, CONTENT)
    with pytest.raises(StorageFailed, match="injected"):
        receiver.finish()
    assert store.latest() is None
    assert disk.list_names("snapshots") == []


def test_a_snapshot_is_received_in_order_and_resumed() -> None:
    disk = MemoryDisk()
    store = SnapshotStore.open(disk, "snapshots")
    store.write(5, 2, 1, b"old")
    receiver = store.receive(meta_of(10))
    receiver.write(0, CONTENT[:100])
    for offset in (0, 99, 101):
        with pytest.raises(ValueError, match="expected 100"):
            receiver.write(offset, b"x")
    resumed = store.receive(meta_of(10))
    assert resumed.received == 100
    with pytest.raises(ValueError, match="480 bytes"):
        resumed.write(100, CONTENT)
    resumed.write(100, CONTENT[100:])
    assert store.latest() == meta_of(5, b"old"), "nothing counts before it is finished"
    assert resumed.finish() == meta_of(10) == store.latest()
    assert disk.list_names("snapshots") == ["00000000000000000010.snapshot"]
    again = SnapshotStore.open(disk.crash(), "snapshots")
    assert again.read(meta_of(10)) == CONTENT
    assert store.latest_was_received()
    assert again.latest_was_received()
    resumed.abort()
    assert store.read(meta_of(10)) == CONTENT
    for act in (lambda: resumed.write(480, b""), resumed.finish):
        with pytest.raises(ValueError, match="has ended"):
            act()


@pytest.mark.parametrize("content", [CONTENT[:-1], CONTENT[:-1] + b"?", b""])
def test_a_snapshot_that_does_not_verify_replaces_nothing(content: bytes) -> None:
    disk = MemoryDisk()
    store = SnapshotStore.open(disk, "snapshots")
    old = store.write(5, 2, 1, b"old")
    receiver = store.receive(meta_of(10))
    receiver.write(0, content)
    with pytest.raises(StorageCorrupt, match="ask the sender"):
        receiver.finish()
    assert store.latest() == old
    assert disk.list_names("snapshots") == ["00000000000000000005.snapshot"]
    again = store.receive(meta_of(10))
    again.write(0, CONTENT)
    assert again.finish() == meta_of(10)


def test_an_announced_size_that_is_wrong_replaces_nothing() -> None:
    store = SnapshotStore.open(MemoryDisk(), "snapshots")
    honest = meta_of(10)
    receiver = store.receive(replace(honest, size=honest.size + 1))
    receiver.write(0, CONTENT)
    with pytest.raises(StorageCorrupt, match="480 of 481 bytes"):
        receiver.finish()
    assert store.latest() is None


def test_another_transfer_aborts_the_one_before_and_leftovers_go_at_the_next_start() -> None:
    disk = MemoryDisk()
    store = SnapshotStore.open(disk, "snapshots")
    first = store.receive(meta_of(10))
    first.write(0, b"abc")
    second = store.receive(meta_of(11))
    assert not first.open
    assert len(disk.list_names("snapshots")) == 1
    second.write(0, b"abc")
    again = SnapshotStore.open(disk, "snapshots")
    assert again.latest() is None
    assert disk.list_names("snapshots") == []


def test_a_received_snapshot_that_was_overtaken_is_dropped() -> None:
    disk = MemoryDisk()
    store = SnapshotStore.open(disk, "snapshots")
    receiver = store.receive(meta_of(10))
    receiver.write(0, CONTENT)
    newer = store.write(12, 2, 1, b"newer")
    assert receiver.finish() == newer == store.latest()
    assert disk.list_names("snapshots") == ["00000000000000000012.snapshot"]


def test_a_full_disk_in_a_transfer_can_be_retried() -> None:
    disk = MemoryDisk()
    store = SnapshotStore.open(disk, "snapshots")
    disk.capacity_bytes = 50
    with pytest.raises(DiskFull):
        store.receive(meta_of(10))
    assert disk.used_bytes == 0
    disk.capacity_bytes = 200
    receiver = store.receive(meta_of(10))
    with pytest.raises(DiskFull):
        receiver.write(0, CONTENT)
    assert receiver.received == 0
    disk.capacity_bytes = None
    receiver.write(0, CONTENT)
    assert store.read(receiver.finish()) == CONTENT


def test_a_snapshot_keeps_the_members_that_it_was_given(tmp_path: Path) -> None:
    store = SnapshotStore.open(RealDisk(tmp_path), "snapshots")
    written = store.write(10, 2, 1, CONTENT, b"the members")
    assert written == replace(meta_of(10), configuration=b"the members")
    again = SnapshotStore.open(RealDisk(tmp_path), "snapshots")
    assert again.latest() == written
    assert again.read(written) == CONTENT
    assert again.read_chunk(written, 5, 7) == CONTENT[5:12]
    other = SnapshotStore.open(RealDisk(tmp_path), "others")
    receiver = other.receive(written)
    receiver.write(0, CONTENT)
    assert receiver.finish() == written == other.latest()
    with pytest.raises(SnapshotGone):
        again.read(meta_of(10))


def test_damage_to_the_members_is_noticed() -> None:
    disk = MemoryDisk()
    SnapshotStore.open(disk, "snapshots").write(10, 2, 1, CONTENT, b"the members")
    path = "snapshots/00000000000000000010.snapshot"
    at = read_all(disk, path).index(b"members")
    disk.overwrite(path, at, b"M")
    with pytest.raises(StorageCorrupt, match="the checksum of the header is wrong"):
        SnapshotStore.open(disk, "snapshots")


def test_a_snapshot_from_before_members_were_kept_in_it_is_read() -> None:
    disk = MemoryDisk()
    disk.make_directory("snapshots")
    digest = hashlib.sha256(CONTENT).digest()
    header = struct.pack("<8sHH4xQQQQ32s", b"MCPSNAP\n", 1, 1, 10, 2, 1, len(CONTENT), digest)
    header += struct.pack("<I", google_crc32c.value(header))
    disk.create_file("snapshots/00000000000000000010.snapshot").append(header + CONTENT)
    store = SnapshotStore.open(disk, "snapshots")
    latest = store.latest()
    assert latest == meta_of(10)
    assert store.latest_was_received()
    assert store.read(meta_of(10)) == CONTENT
