"""A disk in memory that knows what was synced, and what a power loss may leave of the rest.

:class:`MemoryDisk` is a :class:`consensus.storage.Disk`. It remembers, for every file and every directory,
the durable state and the operations since. :meth:`MemoryDisk.crash` gives the disk that is found after
the power came back: the durable state, and as much of what followed as the caller decides.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from consensus.errors import DiskFull, StorageFailed

SECTOR_BYTES = 512
"""What a disk writes as a whole or not at all."""


@dataclass(frozen=True, slots=True)
class _Write:
    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class _Cut:
    size: int


@dataclass(frozen=True, slots=True)
class _Growth:
    """Room was reserved: zeros up to ``size``."""

    size: int


@dataclass(frozen=True, slots=True)
class _NameChange:
    """Something done to names in one directory: created, renamed (both paths) or removed (no ``new``)."""

    old: str | None
    new: str | None


@dataclass(slots=True)
class _Content:
    """One file's bytes: as they read now, as they are durable, and the steps between the two.

    ``dropped`` are places, from and to, that read as they were written and that no sync writes any more.
    Behind ``written`` there is reserved room alone.
    """

    live: bytearray = field(default_factory=bytearray)
    durable: bytes = b""
    pending: list[_Write | _Cut | _Growth] = field(default_factory=list)
    dropped: list[tuple[int, int]] = field(default_factory=list)
    failed: bool = False
    sync_failed: bool = False
    written: int = 0

    @classmethod
    def found(cls, survivor: bytearray) -> _Content:
        """A file of which that survived a crash."""
        return cls(survivor, bytes(survivor), written=len(survivor))

    def write(self, offset: int, data: bytes) -> None:
        """Change what is read now."""
        self.pending.append(_Write(offset, data))
        self.written = offset + len(data)
        self.live[offset : self.written] = data

    def drop_pending(self) -> None:
        """A sync failed, and the system has marked what it could not write as clean."""
        self.dropped += [
            (step.offset, step.offset + len(step.data)) for step in self.pending if isinstance(step, _Write)
        ]
        self.pending.clear()

    def truncate(self, size: int) -> None:
        """Cut what is read now."""
        del self.live[size:]
        self.written = min(self.written, size)
        self.dropped = [(start, min(end, size)) for start, end in self.dropped if start < size]
        self.pending.append(_Cut(size))

    def grow(self, size: int) -> None:
        """Have zeros up to ``size``."""
        _fill_up(self.live, size)
        self.pending.append(_Growth(size))

    def sync(self) -> None:
        """Everything is durable, except for what the system takes for clean."""
        before, self.durable = self.durable, bytes(self.live)
        if self.dropped:
            holes = bytearray(self.live)
            for start, end in self.dropped:
                holes[start:end] = before[start:end].ljust(end - start, b"\0")
            self.durable = bytes(holes)
        self.pending.clear()

    def unsynced_bytes(self) -> int:
        return sum(len(step.data) for step in self.pending if isinstance(step, _Write))

    def after_crash(self, keep: int) -> _Content:
        """The first ``keep`` bytes that were written since the last sync survive, in order."""
        survivor = bytearray(self.durable)
        for step in self.pending:
            if isinstance(step, _Cut):
                del survivor[step.size :]
            elif isinstance(step, _Growth):
                _fill_up(survivor, step.size)
            else:
                kept = step.data[:keep]
                survivor[step.offset : step.offset + len(kept)] = kept
                keep -= len(kept)
                if len(kept) < len(step.data):
                    break
        return _Content.found(survivor)

    def after_scatter(self, survives: Callable[[], bool]) -> _Content:
        """Sectors reach the disk in any order: of what is not synced, any survive; holes read as zeros."""
        survivor = bytearray(self.durable)
        for step in self.pending:
            if isinstance(step, _Cut):
                if survives():
                    del survivor[step.size :]
                continue
            if isinstance(step, _Growth):
                if survives():
                    _fill_up(survivor, step.size)
                continue
            at, end = step.offset, step.offset + len(step.data)
            while at < end:
                until = min(end, (at // SECTOR_BYTES + 1) * SECTOR_BYTES)
                if survives():
                    _fill_up(survivor, until)
                    survivor[at:until] = step.data[at - step.offset : until - step.offset]
                at = until
        return _Content.found(survivor)


class MemoryFile:
    """A :class:`consensus.storage.DiskFile`. Made by :class:`MemoryDisk`."""

    def __init__(self, disk: MemoryDisk, path: str, content: _Content) -> None:
        self._disk = disk
        self._path = path
        self._content = content
        self._size = len(content.live)

    @property
    def size(self) -> int:
        """See :class:`consensus.storage.DiskFile`."""
        return self._size

    def read(self, offset: int, length: int) -> bytes:
        """See :class:`consensus.storage.DiskFile`."""
        return bytes(self._content.live[offset : offset + length])

    def append(self, data: bytes) -> None:
        """See :class:`consensus.storage.DiskFile`. A full disk keeps what fits, as real ones do.

        Also where room was reserved: a file system that copies on write does not keep that promise.
        """
        self._begin("append")
        fitting = data[: self._disk.free_bytes()]
        if fitting:
            self._content.write(self._size, bytes(fitting))
            self._size += len(fitting)
        if len(fitting) < len(data):
            self._disk.ran_full()
            raise DiskFull(f"no room for {len(data)} bytes in {self._path}; make room and retry")

    def reserve(self, size: int) -> bool:
        """See :class:`consensus.storage.DiskFile`."""
        self._begin("reserve")
        more = size - len(self._content.live)
        if more > self._disk.free_bytes():
            return False
        if more > 0:
            self._content.grow(size)
        return True

    def truncate(self, size: int) -> None:
        """See :class:`consensus.storage.DiskFile`."""
        self._begin("truncate")
        self._content.truncate(size)
        self._size = min(self._size, size)

    def sync(self) -> None:
        """See :class:`consensus.storage.DiskFile`."""
        self._begin("sync")
        self._content.sync()

    def close(self) -> None:
        """See :class:`consensus.storage.DiskFile`."""

    def _begin(self, operation: str) -> None:
        if self._content.failed:
            raise StorageFailed(f"{self._path} is not tried again after a failure; stop the node")
        try:
            self._disk.begin(operation, self._path)
        except StorageFailed:
            self._content.failed = True
            self._content.sync_failed = operation == "sync"
            raise


class MemoryDisk:
    """See the head of this module.

    ``capacity_bytes`` bounds the sum of all that was written (``None``: no bound) and may be changed at any
    time. ``before`` is called with the name and the path of every operation that changes something,
    just before it happens: what it raises (``StorageFailed``, a crash of the test's own) is the outcome.
    """

    def __init__(
        self, *, capacity_bytes: int | None = None, before: Callable[[str, str], None] | None = None
    ) -> None:
        self.capacity_bytes = capacity_bytes
        self.before = before
        self._directories = {""}
        self._live: dict[str, _Content] = {}
        self._durable: dict[str, _Content] = {}
        self._changes: list[tuple[_NameChange, _Content | None]] = []

    def locate(self, path: str) -> str:
        """See :class:`consensus.storage.Disk`."""
        return f"memory:/{path}"

    def list_names(self, directory: str) -> list[str]:
        """See :class:`consensus.storage.Disk`."""
        return sorted(path.rpartition("/")[2] for path in self._live if _parent(path) == directory)

    def make_directory(self, directory: str) -> None:
        """See :class:`consensus.storage.Disk`."""
        if directory not in self._directories:
            self.begin("make_directory", directory)
        while directory:
            self._directories.add(directory)
            directory = _parent(directory)

    def create_file(self, path: str) -> MemoryFile:
        """See :class:`consensus.storage.Disk`."""
        if _parent(path) not in self._directories:
            raise StorageFailed(f"cannot create {path}: no such directory; make it first")
        self.begin("create_file", path)
        existing = self._live.get(path)
        if existing is not None:
            existing.truncate(0)
            return MemoryFile(self, path, existing)
        content = self._live[path] = _Content()
        self._changes.append((_NameChange(None, path), content))
        return MemoryFile(self, path, content)

    def open_file(self, path: str) -> MemoryFile:
        """See :class:`consensus.storage.Disk`."""
        if path not in self._live:
            raise FileNotFoundError(path)
        return MemoryFile(self, path, self._live[path])

    def rename(self, old: str, new: str) -> None:
        """See :class:`consensus.storage.Disk`."""
        if old not in self._live:
            raise StorageFailed(f"cannot rename {old}: no such file")
        self.begin("rename", old)
        self._live[new] = self._live.pop(old)
        self._changes.append((_NameChange(old, new), self._live[new]))

    def remove(self, path: str) -> None:
        """See :class:`consensus.storage.Disk`."""
        if path in self._live:
            self.begin("remove", path)
            del self._live[path]
            self._changes.append((_NameChange(path, None), None))

    def sync_directory(self, directory: str) -> None:
        """See :class:`consensus.storage.Disk`."""
        self.begin("sync_directory", directory)
        rest = []
        for change, content in self._changes:
            if _parent(change.new or change.old or "") == directory:
                _apply(self._durable, change, content)
            else:
                rest.append((change, content))
        self._changes = rest

    def free_bytes(self) -> int:
        """See :class:`consensus.storage.Disk`."""
        if self.capacity_bytes is None:
            return 1 << 62
        return max(0, self.capacity_bytes - self.used_bytes)

    @property
    def used_bytes(self) -> int:
        """The sum of all file sizes, without room that is reserved."""
        return sum(content.written for content in self._live.values())

    def begin(self, operation: str, path: str) -> None:
        """For this disk's own files: an operation is about to change something."""
        if self.before is not None:
            self.before(operation, path)

    def ran_full(self) -> None:
        """For this disk's own files: there was no room for something."""

    def unsynced_bytes(self) -> dict[str, int]:
        """For every file, how many bytes were written to it since its last sync."""
        return {path: content.unsynced_bytes() for path, content in self._live.items()}

    def unsynced_names(self) -> int:
        """How many changes to names no ``sync_directory`` has covered yet."""
        return len(self._changes)

    def crash(
        self,
        *,
        keep_bytes: Callable[[str, int], int] | None = None,
        keep_names: int = 0,
        scatter: Callable[[], bool] | None = None,
    ) -> MemoryDisk:
        """The disk as it is found after a power loss now; this one stays as it is.

        ``keep_bytes`` gets a path and the number of unsynced bytes, and says how many of them, from the
        first on, survive (by default none). ``scatter`` is asked instead, if it is given, for every
        sector. The first ``keep_names`` unsynced changes to names survive.
        """
        names = dict(self._durable)
        for change, content in self._changes[:keep_names]:
            _apply(names, change, content)
        found = MemoryDisk(capacity_bytes=self.capacity_bytes)
        found._directories = set(self._directories)
        for path, content in names.items():
            if scatter is not None:
                found._live[path] = content.after_scatter(scatter)
                continue
            keep = keep_bytes(path, content.unsynced_bytes()) if keep_bytes else 0
            found._live[path] = content.after_crash(keep)
        found._durable = dict(found._live)
        return found

    def overwrite(self, path: str, offset: int, data: bytes) -> None:
        """Change durable bytes behind everybody's back: rot, a lost page, a flipped bit."""
        content = self._live[path]
        content.live[offset : offset + len(data)] = data
        content.durable = bytes(content.live)
        content.pending.clear()


def _fill_up(content: bytearray, size: int) -> None:
    """Put zeros behind ``content`` up to ``size``, if it is shorter."""
    content.extend(bytes(max(0, size - len(content))))


def _parent(path: str) -> str:
    return path.rpartition("/")[0]


def _apply(names: dict[str, _Content], change: _NameChange, content: _Content | None) -> None:
    if change.old is not None:
        names.pop(change.old, None)
    if change.new is not None and content is not None:
        names[change.new] = content
