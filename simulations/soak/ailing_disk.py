"""A real disk behind the storage port that is slow, fails or has no room when the controls say so.

It stands below the journal and the snapshots. Models are files of their own, beside the port: what is
wrong here does not happen to them; a small file system (see the supervisor) fills up for both.
"""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Final

from consensus.errors import DiskFull, StorageFailed
from consensus.storage import DiskFile, RealDisk
from simulations.soak.controls import Controls, Operation

ORDERED: Final = "as the soak ordered"


class Ward:
    """Lets every operation suffer what the controls say. ``sleep`` takes seconds and blocks."""

    def __init__(
        self, root: Path, controls: Controls, generator: random.Random, sleep: Callable[[float], None]
    ) -> None:
        self._root = root
        self._controls = controls
        self._random = generator
        self._sleep = sleep

    def suffer(self, operation: Operation, path: str) -> None:
        """Raises :class:`StorageFailed` or :class:`DiskFull` instead of letting the operation happen."""
        ailments = self._controls.get()
        drawn = self._random.random
        if ailments.delay_s > 0 and operation in ailments.delayed and drawn() < ailments.delay_chance:
            self._controls.count(delays=1)
            self._sleep(ailments.delay_s)
        if ailments.errno and operation in ailments.failing and drawn() < ailments.error_chance:
            self._controls.count(errors=1)
            reason = f"cannot {operation.name} {path}: {os.strerror(ailments.errno)}, {ORDERED}"
            raise DiskFull(reason) if ailments.errno != errno.EIO else StorageFailed(reason)

    def room(self) -> int | None:
        """Bytes that may still be written; ``None``: no bound."""
        limit = self._controls.get().room_bytes
        return None if limit < 0 else max(0, int(limit) - used_bytes(self._root))

    def ran_full(self, path: str) -> DiskFull:
        """Count a refusal, and give the error to raise."""
        self._controls.count(refusals=1)
        return DiskFull(f"cannot append to {path}: {os.strerror(errno.ENOSPC)}, {ORDERED}")


class AilingFile:
    """A :class:`consensus.storage.DiskFile`. Made by :class:`AilingDisk`."""

    def __init__(self, file: DiskFile, path: str, ward: Ward) -> None:
        self._file = file
        self._path = path
        self._ward = ward
        self._failed = False

    @property
    def size(self) -> int:
        """See :class:`consensus.storage.DiskFile`."""
        return self._file.size

    def read(self, offset: int, length: int) -> bytes:
        """See :class:`consensus.storage.DiskFile`."""
        self._ward.suffer(Operation.READ, self._path)
        return self._file.read(offset, length)

    def append(self, data: bytes) -> None:
        """See :class:`consensus.storage.DiskFile`. A full disk keeps what fits, as real ones do."""
        self._change(Operation.WRITE)
        room = self._ward.room()
        if room is not None and room < len(data):
            self._file.append(data[:room])
            raise self._ward.ran_full(self._path)
        self._file.append(data)

    def reserve(self, size: int) -> bool:
        """See :class:`consensus.storage.DiskFile`. Where room is bounded, reserving would use it up."""
        return self._ward.room() is None and self._file.reserve(size)

    def truncate(self, size: int) -> None:
        """See :class:`consensus.storage.DiskFile`."""
        self._change(Operation.TRUNCATE)
        self._file.truncate(size)

    def sync(self) -> None:
        """See :class:`consensus.storage.DiskFile`."""
        try:
            self._change(Operation.FSYNC)
        except DiskFull as error:
            # With delayed allocation a full disk shows here, after the write was accepted.
            self._failed = True
            raise StorageFailed(str(error)) from error
        self._file.sync()

    def close(self) -> None:
        """See :class:`consensus.storage.DiskFile`."""
        self._file.close()

    def _change(self, operation: Operation) -> None:
        if self._failed:
            raise StorageFailed(f"{self._path} is not tried again after a failure")
        try:
            self._ward.suffer(operation, self._path)
        except StorageFailed:
            self._failed = True
            raise


class AilingDisk:
    """A :class:`consensus.storage.Disk`: the real one, behind a ward."""

    def __init__(self, root: Path, ward: Ward) -> None:
        self._disk = RealDisk(root)
        self._ward = ward

    def locate(self, path: str) -> str:
        """See :class:`consensus.storage.Disk`."""
        return self._disk.locate(path)

    def list_names(self, directory: str) -> list[str]:
        """See :class:`consensus.storage.Disk`."""
        self._ward.suffer(Operation.READDIR, directory)
        return self._disk.list_names(directory)

    def make_directory(self, directory: str) -> None:
        """See :class:`consensus.storage.Disk`."""
        self._ward.suffer(Operation.MKDIR, directory)
        self._disk.make_directory(directory)

    def create_file(self, path: str) -> AilingFile:
        """See :class:`consensus.storage.Disk`."""
        self._ward.suffer(Operation.CREATE, path)
        return AilingFile(self._disk.create_file(path), path, self._ward)

    def open_file(self, path: str) -> AilingFile:
        """See :class:`consensus.storage.Disk`."""
        self._ward.suffer(Operation.OPEN, path)
        return AilingFile(self._disk.open_file(path), path, self._ward)

    def rename(self, old: str, new: str) -> None:
        """See :class:`consensus.storage.Disk`."""
        self._ward.suffer(Operation.RENAME, old)
        self._disk.rename(old, new)

    def remove(self, path: str) -> None:
        """See :class:`consensus.storage.Disk`."""
        self._ward.suffer(Operation.UNLINK, path)
        self._disk.remove(path)

    def sync_directory(self, directory: str) -> None:
        """See :class:`consensus.storage.Disk`."""
        self._ward.suffer(Operation.FSYNCDIR, directory)
        self._disk.sync_directory(directory)

    def free_bytes(self) -> int:
        """See :class:`consensus.storage.Disk`."""
        self._ward.suffer(Operation.STATFS, "")
        room = self._ward.room()
        free = self._disk.free_bytes()
        return free if room is None else min(room, free)


def used_bytes(folder: Path) -> int:
    """Bytes in all files below ``folder``; what vanishes meanwhile does not count."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.stat(os.path.join(place, name)).st_size
            except FileNotFoundError:
                continue
    return total
