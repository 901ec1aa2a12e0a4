"""The storage port: the few things that a journal and a snapshot store ask of a disk.

A disk keeps a promise only when it is asked for it. What :meth:`DiskFile.append` and
:meth:`DiskFile.truncate` did survives a power loss once :meth:`DiskFile.sync` has returned; that a
file was created, renamed or removed survives once :meth:`Disk.sync_directory` has. Before that, a crash
may keep all, nothing, or any part of it. The port is small so that a simulated disk, which does just
that on purpose, can stand in for the real one.

A sync that failed is never tried again: the kernel may have dropped the pages that it could not write
and marked them clean, so that a second sync would succeed without them (Rebello et al., "Can
Applications Recover from fsync Failures?", USENIX ATC 2020). The file refuses everything from then on.
"""

from __future__ import annotations

import errno
import fcntl
import os
import sys
from types import TracebackType
from typing import Protocol, Self

from consensus.errors import DiskFull, StorageError, StorageFailed

REPLACE_NODE_ADVICE = (
    "do not edit or delete it: stop, move this node's whole data directory aside, remove the node from "
    "the cluster and let it join again empty under a new node id, so that its peers catch it up. Under "
    "its old id it would have forgotten its votes and what it acknowledged, and acknowledged commands "
    "could be lost. A single node without peers has to be restored from a backup"
)
"""What to do about a damaged data directory; every ``StorageCorrupt`` of this package ends with it."""


class StorageLocked(StorageError):
    """Another process, or another part of this one, uses the data directory. Nothing was opened."""

    code = "STORAGE_LOCKED"


class DiskFile(Protocol):
    """One open file that only grows at its end, or is cut."""

    @property
    def size(self) -> int:
        """Bytes in the file when it was opened, and appended since, synced or not."""

    def reserve(self, size: int) -> bool:
        """Have the disk keep room for the first ``size`` bytes; whether it does.

        Appends up to there leave the file's length and its place on the disk as they are, so that a sync
        has less to write. :attr:`size` does not change, but whoever opens the file after that, a crash
        or not, may find zeros behind what was appended: cut them. Nothing is promised, and where there is no
        room nothing is kept. Raises :class:`~consensus.errors.StorageFailed`.
        """

    def read(self, offset: int, length: int) -> bytes:
        """Up to ``length`` bytes from ``offset``; fewer only at the end of the file.

        Raises :class:`~consensus.errors.StorageFailed` when the disk can not read them.
        """

    def append(self, data: bytes) -> None:
        """Put ``data`` at the end of the file. Blocks for as long as the disk likes.

        Raises :class:`~consensus.errors.DiskFull` when there is no room; any part of ``data`` may then
        be in the file, and ``truncate`` to the former size takes it out. Raises
        :class:`~consensus.errors.StorageFailed` for everything else, and always afterwards.
        """

    def truncate(self, size: int) -> None:
        """Cut the file to ``size`` bytes. Raises :class:`~consensus.errors.StorageFailed`."""

    def sync(self) -> None:
        """Return when content and size are durable. Blocks: this is the slow call.

        Raises :class:`~consensus.errors.StorageFailed`, whatever the reason, and always afterwards.
        """

    def close(self) -> None:
        """Let go of the file. Promises nothing about what was not synced."""


class Disk(Protocol):
    """Files in directories; paths are relative to the disk's root, with ``/`` between names.

    Every call may raise :class:`~consensus.errors.StorageFailed`; those that need room may raise
    :class:`~consensus.errors.DiskFull`, and have then changed nothing that was there before.
    """

    def locate(self, path: str) -> str:
        """The path as a person finds it, for messages."""

    def list_names(self, directory: str) -> list[str]:
        """Names in ``directory``, sorted; none when it does not exist."""

    def make_directory(self, directory: str) -> None:
        """Create it, and the missing ones above it, durably. Nothing happens if it exists."""

    def create_file(self, path: str) -> DiskFile:
        """An empty file at ``path``; what was there is gone."""

    def open_file(self, path: str) -> DiskFile:
        """The existing file, to read and to append. Raises ``FileNotFoundError``."""

    def rename(self, old: str, new: str) -> None:
        """Give the file another name in the same directory, atomically, in place of what was there."""

    def remove(self, path: str) -> None:
        """Remove the file. Nothing happens if it does not exist."""

    def sync_directory(self, directory: str) -> None:
        """Return when all that was created, renamed and removed in ``directory`` is durable."""

    def free_bytes(self) -> int:
        """Room left for this user, in bytes: a hint, not a promise."""


def read_all(disk: Disk, path: str) -> bytes:
    """The content of a file. Raises ``FileNotFoundError`` and :class:`StorageFailed`."""
    file = disk.open_file(path)
    try:
        return file.read(0, file.size)
    finally:
        file.close()


def _refusal(action: str, path: str, error: OSError) -> DiskFull | StorageFailed:
    reason = f"cannot {action} {path}: {os.strerror(error.errno or 0)}"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFull(f"{reason}; make room on that file system and retry, nothing of it was kept")
    return _failure(reason)


def _failure(reason: str) -> StorageFailed:
    return StorageFailed(
        f"{reason}; what is on the disk is not known any more: stop this node, check the disk and the "
        "system's log, then start the node again"
    )


if sys.platform == "darwin":

    def _sync_data(descriptor: int) -> None:
        # fsync on macOS stops at the drive's cache; only this reaches the platter.
        fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)

else:
    _sync_data = os.fdatasync

_allocate = getattr(os, "posix_fallocate", None)  # macOS has none
_CANNOT_RESERVE = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EINVAL,
    errno.ENODEV,
    errno.ENOSYS,
    errno.ENOTSUP,
)
"""For want of room, and from file systems that do not know how."""


class RealFile:
    """A :class:`DiskFile` on the operating system's calls. Made by :class:`RealDisk`."""

    __slots__ = ("_descriptor", "_failed", "_path", "_size")

    def __init__(self, descriptor: int, path: str) -> None:
        self._descriptor = descriptor
        self._path = path
        self._size = os.fstat(descriptor).st_size
        self._failed: StorageFailed | None = None

    @property
    def size(self) -> int:
        """See :class:`DiskFile`."""
        return self._size

    def read(self, offset: int, length: int) -> bytes:
        """See :class:`DiskFile`."""
        pieces = []
        while length > 0:
            try:
                piece = os.pread(self._descriptor, length, offset)
            except OSError as error:
                raise _refusal("read", self._path, error) from error
            if not piece:
                break
            pieces.append(piece)
            offset += len(piece)
            length -= len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def append(self, data: bytes) -> None:
        """See :class:`DiskFile`."""
        self._refuse_if_failed()
        rest = memoryview(data)
        while rest:
            try:
                written = os.pwrite(self._descriptor, rest, self._size)
            except OSError as error:
                raise self._refused("append to", error) from error
            self._size += written
            rest = rest[written:]

    def reserve(self, size: int) -> bool:
        """See :class:`DiskFile`."""
        self._refuse_if_failed()
        if _allocate is None:
            return False
        try:
            _allocate(self._descriptor, self._size, size - self._size)
        except OSError as error:
            if error.errno not in _CANNOT_RESERVE:
                self._failed = _failure(f"cannot reserve room for {self._path}: {error.strerror}")
                raise self._failed from error
            self.truncate(self._size)  # a part of it may have been there
            return False
        return True

    def truncate(self, size: int) -> None:
        """See :class:`DiskFile`."""
        self._refuse_if_failed()
        try:
            os.ftruncate(self._descriptor, size)
        except OSError as error:
            self._failed = _failure(f"cannot truncate {self._path}: {error.strerror}")
            raise self._failed from error
        self._size = size

    def sync(self) -> None:
        """See :class:`DiskFile`."""
        self._refuse_if_failed()
        try:
            _sync_data(self._descriptor)
        except OSError as error:
            # A full disk too: with delayed allocation it shows here, after the write was accepted.
            self._failed = _failure(f"cannot sync {self._path}: {error.strerror}")
            raise self._failed from error

    def close(self) -> None:
        """See :class:`DiskFile`."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _refused(self, action: str, error: OSError) -> DiskFull | StorageFailed:
        refusal = _refusal(action, self._path, error)
        if isinstance(refusal, StorageFailed):
            self._failed = refusal
        return refusal

    def _refuse_if_failed(self) -> None:
        if self._failed is not None:
            raise StorageFailed(f"not tried again after a failure: {self._failed}") from self._failed


class RealDisk:
    """A :class:`Disk` below the directory ``root``, which is created if it is missing.

    Files are readable by their owner only.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self._root = os.path.abspath(root)
        self.make_directory("")

    def locate(self, path: str) -> str:
        """See :class:`Disk`."""
        return os.path.join(self._root, path) if path else self._root

    def list_names(self, directory: str) -> list[str]:
        """See :class:`Disk`."""
        try:
            return sorted(os.listdir(self.locate(directory)))
        except FileNotFoundError:
            return []
        except OSError as error:
            raise _refusal("list", self.locate(directory), error) from error

    def make_directory(self, directory: str) -> None:
        """See :class:`Disk`."""
        target = self.locate(directory)
        missing = [target]
        while not os.path.isdir(os.path.dirname(missing[-1])):
            missing.append(os.path.dirname(missing[-1]))
        for place in reversed(missing):
            try:
                os.makedirs(place, mode=0o700, exist_ok=True)
            except OSError as error:
                raise _refusal("create directory", place, error) from error
            self._sync_directory_at(os.path.dirname(place))

    def create_file(self, path: str) -> RealFile:
        """See :class:`Disk`."""
        return self._open("create", path, os.O_RDWR | os.O_CREAT | os.O_TRUNC)

    def open_file(self, path: str) -> RealFile:
        """See :class:`Disk`."""
        return self._open("open", path, os.O_RDWR)

    def rename(self, old: str, new: str) -> None:
        """See :class:`Disk`."""
        try:
            os.replace(self.locate(old), self.locate(new))
        except OSError as error:
            raise _refusal("rename", self.locate(old), error) from error

    def remove(self, path: str) -> None:
        """See :class:`Disk`."""
        try:
            os.unlink(self.locate(path))
        except FileNotFoundError:
            pass
        except OSError as error:
            raise _refusal("remove", self.locate(path), error) from error

    def sync_directory(self, directory: str) -> None:
        """See :class:`Disk`."""
        self._sync_directory_at(self.locate(directory))

    def free_bytes(self) -> int:
        """See :class:`Disk`."""
        try:
            figures = os.statvfs(self._root)
        except OSError as error:
            raise _refusal("measure", self._root, error) from error
        return figures.f_bavail * figures.f_frsize

    def _open(self, action: str, path: str, flags: int) -> RealFile:
        place = self.locate(path)
        try:
            return RealFile(os.open(place, flags, mode=0o600), place)
        except FileNotFoundError:
            raise
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):
                # It says nothing about the disk, and nothing was begun: as where room is wanting.
                raise DiskFull(
                    f"cannot {action} {place}: {os.strerror(error.errno)}; nothing of it was kept, and it is "
                    "tried again; allow this process more files (ulimit -n)"
                ) from error
            raise _refusal(action, place, error) from error

    def _sync_directory_at(self, place: str) -> None:
        try:
            descriptor = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise _failure(f"cannot sync directory {place}: {error.strerror}") from error


class DirectoryLock:
    """Holds a data directory for one owner until :meth:`release`; also a context manager.

    The lock belongs to the process (``flock`` on a file named ``lock``), so it goes with it, however it dies.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def release(self) -> None:
        """Let others have the directory. The lock file stays: removing it would let two hold it."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release()


def lock_directory(root: str | os.PathLike[str]) -> DirectoryLock:
    """Take the data directory for this owner, without waiting.

    Two journals on the same files would destroy each other. Raises :class:`StorageLocked` when it is
    taken, :class:`~consensus.errors.StorageFailed` when the file system can not lock.
    """
    place = os.path.join(os.path.abspath(root), "lock")
    try:
        descriptor = os.open(place, os.O_RDWR | os.O_CREAT, mode=0o600)
    except OSError as error:
        raise _refusal("create lock file", place, error) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode(), 0)
    except BlockingIOError as error:
        holder = os.pread(descriptor, 32, 0).decode("ascii", "replace") or "unknown"
        os.close(descriptor)
        raise StorageLocked(
            f"data directory {os.path.dirname(place)} is in use by process {holder}; stop that process, "
            "or give this node a data directory of its own"
        ) from error
    except OSError as error:
        os.close(descriptor)
        raise _refusal("lock", place, error) from error
    return DirectoryLock(descriptor)
