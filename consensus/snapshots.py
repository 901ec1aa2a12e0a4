"""The snapshot store: whole states, each in one file, checksummed, put in place atomically.

A snapshot is written aside, synced, renamed, and its directory synced; only then are older ones removed.
So at every moment one complete snapshot is there, and what a crash leaves aside is removed at the next
start. The latest one is verified when the store is opened and each time it is read: it may stand for log
entries that exist nowhere else on this node, so a damaged one stops the node, and an older one is never
taken in its place.

A file is a header and the content. Header, little endian: magic 8s, version u16, origin u16 (0: taken here,
1: received), configuration length u32, index u64, term u64, previous_term u64, size u64, sha256 of the
content 32s, the configuration that is committed at the index, CRC32C of all that u32. In version 1 the length
is 0. The origin is evidence for `consensus.recovery`: a snapshot that was taken here proves that this node's
journal once held every entry up to it.
"""

from __future__ import annotations

import hashlib
import struct
import threading
from contextlib import suppress
from dataclasses import dataclass

import google_crc32c

from consensus.configuration import CONFIGURATION_BYTES_MAX
from consensus.errors import DiskFull, StorageCorrupt, StorageError
from consensus.interface import SnapshotMeta
from consensus.storage import REPLACE_NODE_ADVICE, Disk, DiskFile

FORMAT_VERSION = 2
"""Of the header. Version 1 is read too; another is refused."""

READ_BYTES_MAX = 1 << 20
"""How much is read at a time to verify a file."""

_MAGIC = b"MCPSNAP\n"
_HEADER = struct.Struct("<8sHHIQQQQ32s")
_CRC = struct.Struct("<I")
_SUFFIX = ".snapshot"
_TEMPORARY = ".tmp"


class SnapshotGone(StorageError):
    """A newer snapshot has replaced this one. Begin again with the store's latest."""

    code = "SNAPSHOT_GONE"


@dataclass(frozen=True, slots=True)
class _Header:
    meta: SnapshotMeta
    received: bool

    @property
    def size(self) -> int:
        """Where the content begins, in bytes."""
        return _content_at(self.meta)


def _content_at(meta: SnapshotMeta) -> int:
    return _HEADER.size + len(meta.configuration) + _CRC.size


def _encode_header(header: _Header) -> bytes:
    meta = header.meta
    fixed = _HEADER.pack(
        _MAGIC,
        FORMAT_VERSION,
        header.received,
        len(meta.configuration),
        meta.index,
        meta.term,
        meta.previous_term,
        meta.size,
        bytes.fromhex(meta.sha256),
    )
    fixed += meta.configuration
    return fixed + _CRC.pack(google_crc32c.value(fixed))


def _read_header(file: DiskFile) -> _Header | str:
    """The header, or what is wrong with it."""
    fixed = file.read(0, _HEADER.size)
    if len(fixed) < _HEADER.size or not fixed.startswith(_MAGIC):
        return "this is not the header of a snapshot"
    _, version, origin, length, index, term, previous_term, size, digest = _HEADER.unpack_from(fixed)
    if version not in (1, FORMAT_VERSION):
        return f"format version {version} where this program reads 1 and {FORMAT_VERSION}"
    rest = file.read(_HEADER.size, min(length, CONFIGURATION_BYTES_MAX) + _CRC.size)
    configuration, checksum = rest[: -_CRC.size], rest[-_CRC.size :]
    if len(configuration) != length or checksum != _CRC.pack(google_crc32c.value(fixed + configuration)):
        return "the checksum of the header is wrong"
    meta = SnapshotMeta(index, term, previous_term, size, digest.hex(), configuration)
    return _Header(meta, bool(origin))


def _index_of(name: str) -> int | None:
    digits = name.removesuffix(_SUFFIX)
    return int(digits) if name.endswith(_SUFFIX) and digits.isdecimal() else None


class SnapshotStore:
    """The snapshots of one node, see the head of this module. Made by :meth:`open`.

    :meth:`write` may run in another thread than the rest, once at a time.
    """

    def __init__(self, disk: Disk, path: str) -> None:
        """For :meth:`open` alone."""
        self._disk = disk
        self._path = path
        self._publishing = threading.Lock()
        self._receiver: SnapshotReceiver | None = None
        disk.make_directory(path)
        indexes = self._remove_unfinished()
        self._latest = self._load(indexes[-1]) if indexes else None
        self._remove_older(indexes)

    @classmethod
    def open(cls, disk: Disk, path: str) -> SnapshotStore:
        """Open the store in directory ``path`` of ``disk``, which is created if it is missing.

        Reads the whole latest snapshot to verify it. Raises
        :class:`~consensus.errors.StorageCorrupt` when it is damaged, and
        :class:`~consensus.errors.StorageFailed`.
        """
        return cls(disk, path)

    @property
    def path(self) -> str:
        """The directory as a person finds it."""
        return self._disk.locate(self._path)

    def latest(self) -> SnapshotMeta | None:
        """The newest durable snapshot, verified when the store was opened or when it was written."""
        return None if self._latest is None else self._latest.meta

    def latest_was_received(self) -> bool:
        """Whether the latest snapshot came from a peer, and was not taken here."""
        return self._latest is not None and self._latest.received

    def write(
        self, index: int, term: int, previous_term: int, content: bytes, configuration: bytes = b""
    ) -> SnapshotMeta:
        """Store the state after entry ``index`` durably. Blocks while it writes and syncs.

        Returns what is the latest snapshot then: this one, or one as new that came first, and then
        this one was not kept. Raises :class:`~consensus.errors.DiskFull`, with nothing changed, and
        :class:`~consensus.errors.StorageFailed`.
        """
        digest = hashlib.sha256(content).hexdigest()
        meta = SnapshotMeta(index, term, previous_term, len(content), digest, configuration)
        header = _Header(meta, received=False)
        temporary = f"{self._place(index)}{_TEMPORARY}"
        try:
            file = self._disk.create_file(temporary)
            try:
                file.append(_encode_header(header))
                file.append(content)
                file.sync()
            finally:
                file.close()
            return self._publish(temporary, header)
        except StorageError:
            self._discard(temporary)
            raise

    def read(self, meta: SnapshotMeta) -> bytes:
        """The content, verified. Raises :class:`SnapshotGone`, ``StorageCorrupt``, ``StorageFailed``."""
        file = self._open(meta)
        try:
            content = file.read(_content_at(meta), meta.size)
        finally:
            file.close()
        if len(content) != meta.size or hashlib.sha256(content).hexdigest() != meta.sha256:
            raise self._corrupt(meta.index, _content_at(meta), "the content does not match its checksum")
        return content

    def read_chunk(self, meta: SnapshotMeta, offset: int, length: int) -> bytes:
        """Up to ``length`` bytes from ``offset`` of the content; fewer only at its end.

        The first chunk verifies the whole content, so that damage shows where it is and not at the
        peer that receives it. Raises :class:`SnapshotGone`, ``StorageCorrupt`` and ``StorageFailed``.
        """
        file = self._open(meta)
        try:
            if offset == 0:
                self._verify(file, meta)
            return file.read(_content_at(meta) + offset, max(0, min(length, meta.size - offset)))
        finally:
            file.close()

    def receive(self, meta: SnapshotMeta) -> SnapshotReceiver:
        """Begin to write a snapshot that comes in pieces, or go on with it if ``meta`` is the same.

        There is one at a time: another ``meta`` aborts the one before. Raises
        :class:`~consensus.errors.DiskFull` and :class:`~consensus.errors.StorageFailed`.
        """
        if self._receiver is not None and self._receiver.open:
            if self._receiver.meta == meta:
                return self._receiver
            self._receiver.abort()
        self._receiver = SnapshotReceiver(self, meta)
        return self._receiver

    def _publish(self, temporary: str, header: _Header) -> SnapshotMeta:
        """Put a durable file in place, unless one that is as new is there already."""
        with self._publishing:
            older = self._latest
            if older is not None and older.meta.index >= header.meta.index:
                self._disk.remove(temporary)
                return older.meta
            self._disk.rename(temporary, self._place(header.meta.index))
            self._disk.sync_directory(self._path)
            self._latest = header
            if older is not None:
                self._discard(self._place(older.meta.index))
        return header.meta

    def _place(self, index: int) -> str:
        return f"{self._path}/{index:020d}{_SUFFIX}"

    def _open(self, meta: SnapshotMeta) -> DiskFile:
        try:
            file = self._disk.open_file(self._place(meta.index))
        except FileNotFoundError:
            raise SnapshotGone(
                f"the snapshot of entry {meta.index} was replaced by a newer one; begin again with that"
            ) from None
        try:
            found = _read_header(file)
            if isinstance(found, str):
                raise self._corrupt(meta.index, 0, found)
            if found.meta != meta:
                raise SnapshotGone(
                    f"another snapshot of entry {meta.index} is stored here; begin again with the latest"
                )
        except StorageError:
            file.close()
            raise
        return file

    def _load(self, index: int) -> _Header:
        file = self._disk.open_file(self._place(index))
        try:
            header = _read_header(file)
            if isinstance(header, str):
                raise self._corrupt(index, 0, header)
            meta, expected = header.meta, header.size + header.meta.size
            if meta.index != index:
                raise self._corrupt(index, 0, f"its header says that it is of entry {meta.index}")
            if file.size != expected:
                raise self._corrupt(index, file.size, f"the file has {file.size} bytes, not {expected}")
            self._verify(file, meta)
        finally:
            file.close()
        return header

    def _verify(self, file: DiskFile, meta: SnapshotMeta) -> None:
        digest = hashlib.sha256()
        begin = at = _content_at(meta)
        end = begin + meta.size
        while at < end and (piece := file.read(at, min(READ_BYTES_MAX, end - at))):
            digest.update(piece)
            at += len(piece)
        if digest.hexdigest() != meta.sha256:
            raise self._corrupt(meta.index, begin, "the content does not match its checksum")

    def _remove_unfinished(self) -> list[int]:
        """The indexes of the snapshots that are there, without what a crash left aside."""
        names = self._disk.list_names(self._path)
        for name in names:
            if name.endswith(_TEMPORARY):
                self._disk.remove(f"{self._path}/{name}")
        return [index for name in names if (index := _index_of(name)) is not None]

    def _remove_older(self, indexes: list[int]) -> None:
        # The rename may have been seen by us and not by the disk: the older ones have to stay till it has.
        self._disk.sync_directory(self._path)
        for index in indexes[:-1]:
            self._disk.remove(self._place(index))

    def _discard(self, path: str) -> None:
        # What can not be removed now costs only room, and the next start tries again.
        with suppress(StorageError):
            self._disk.remove(path)

    def _corrupt(self, index: int, offset: int, problem: str) -> StorageCorrupt:
        return StorageCorrupt(self._disk.locate(self._place(index)), offset, problem, REPLACE_NODE_ADVICE)


class SnapshotReceiver:
    """Writes one snapshot that comes in pieces, in order. Made by :meth:`SnapshotStore.receive`."""

    def __init__(self, store: SnapshotStore, meta: SnapshotMeta) -> None:
        """For :meth:`SnapshotStore.receive` alone."""
        self.meta = meta
        self._header = _Header(meta, received=True)
        self.received = 0
        """Bytes so far, from the start and without gaps: the offset of the next chunk."""
        self.open = True
        """Neither finished nor aborted."""
        self._store = store
        self._digest = hashlib.sha256()
        self._temporary = f"{store._place(meta.index)}.receiving{_TEMPORARY}"
        self._file = store._disk.create_file(self._temporary)
        try:
            self._append(_encode_header(self._header))
        except StorageError:
            self.abort()
            raise

    def write(self, offset: int, chunk: bytes) -> None:
        """Append ``chunk``, which begins at ``offset`` of the content, durable only with :meth:`finish`.

        Raises ``ValueError`` when ``offset`` is not ``received`` or the chunk goes past the announced
        size; :class:`~consensus.errors.DiskFull`, after which the same chunk may be written again; and
        :class:`~consensus.errors.StorageFailed`. In all cases nothing of the chunk counts.
        """
        if not self.open:
            raise ValueError(f"the transfer of the snapshot of entry {self.meta.index} has ended")
        if offset != self.received:
            raise ValueError(f"a chunk begins at {offset}, expected {self.received}; go on from there")
        if offset + len(chunk) > self.meta.size:
            raise ValueError(
                f"a chunk ends at {offset + len(chunk)} of a snapshot of {self.meta.size} bytes; begin again"
            )
        self._append(chunk)
        self._digest.update(chunk)
        self.received += len(chunk)

    def finish(self) -> SnapshotMeta:
        """Verify and make durable; returns as :meth:`SnapshotStore.write` does. Blocks while it syncs.

        Raises :class:`~consensus.errors.StorageCorrupt` when size or checksum differ from what was
        announced: nothing was replaced, and the transfer has to begin again.
        """
        if not self.open:
            raise ValueError(f"the transfer of the snapshot of entry {self.meta.index} has ended")
        if self.received != self.meta.size or self._digest.hexdigest() != self.meta.sha256:
            self.abort()
            raise StorageCorrupt(
                self._store._disk.locate(self._temporary),
                self.received,
                f"{self.received} of {self.meta.size} bytes were received and do not match their checksum",
                "nothing was replaced; ask the sender to begin again, and check the sender's disk if it "
                "happens twice",
            )
        try:
            self._file.sync()
            self._file.close()
            meta = self._store._publish(self._temporary, self._header)
        except StorageError:
            self.abort()
            raise
        self.open = False
        return meta

    def abort(self) -> None:
        """Throw away what was written; nothing happens if it has ended already."""
        if self.open:
            self.open = False
            self._file.close()
            self._store._discard(self._temporary)

    def _append(self, data: bytes) -> None:
        size = self._file.size
        try:
            self._file.append(data)
        except DiskFull:
            self._file.truncate(size)
            raise
