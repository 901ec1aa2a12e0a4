"""Opening a node's files: the lock, the journal, the snapshots, and what they add up to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from consensus.interface import Recovered
from consensus.journal import Journal
from consensus.recovery import recover
from consensus.snapshots import SnapshotStore
from consensus.storage import Disk, RealDisk, lock_directory


class Lock(Protocol):
    """What keeps others from the same files."""

    def release(self) -> None:
        """Let others have them."""


@dataclass(slots=True)
class NodeFiles:
    """A node's durable side, opened and recovered."""

    lock: Lock
    journal: Journal
    snapshots: SnapshotStore
    recovered: Recovered

    def close(self) -> None:
        """Close in good order, so that the next start need not repair anything."""
        self.journal.close()
        self.lock.release()


def open_files(data_dir: Path, incarnation: int, *, disk_at: Callable[[Path], Disk] = RealDisk) -> NodeFiles:
    """Open everything below ``data_dir``, making it where it is not there. Blocks on the disk.

    ``incarnation`` is for a journal that is made: see :meth:`consensus.journal.Journal.open`.
    ``disk_at`` gives the disk whose root is a directory: another than the real one is for simulations.
    Raises what :mod:`consensus.storage` raises: the directory is in use, damaged, or the disk refuses.
    """
    data_dir.mkdir(parents=True, exist_ok=True)
    lock = lock_directory(data_dir)
    try:
        disk = disk_at(data_dir)
        snapshots = SnapshotStore.open(disk, "snapshots")
        journal = Journal.open(disk, "journal", incarnation=incarnation)
        return NodeFiles(lock, journal, snapshots, recover(journal, snapshots))
    except BaseException:
        lock.release()
        raise
