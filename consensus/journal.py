"""The journal: every record that an engine asked to persist, in order, in append-only segments.

What is behind the last :meth:`Journal.sync` is durable, what is not may be lost or kept in part, and the
head of `consensus.segment` says how a torn tail is told from damage. Files are named by their sequence
number, ``0000000000000001.journal``. A journal has one owner and is not for several threads at once.

Compaction drops whole segments from the oldest on, each durably before the next, so that a crash
leaves a contiguous rest. Every segment's head repeats the hard state, so the rest needs nothing of
what is gone; where it begins has to be covered by a snapshot, and `consensus.recovery` checks that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from consensus.errors import DiskFull, EntryTooLarge, StorageFailed
from consensus.interface import Entry, HardState, Record
from consensus.journal_reader import (
    SEGMENT_SUFFIX,
    TEMPORARY_SUFFIX,
    FullSegment,
    Tail,
    forget_from,
    read_journal,
    segment_path,
)
from consensus.replay import Found, LogPosition
from consensus.segment import BATCH_HEADER_BYTES, RECORD_HEADER_BYTES, SegmentHead, encode_batch, encode_head
from consensus.storage import Disk, DiskFile


@dataclass(frozen=True, slots=True)
class JournalLimits:
    """Sizes in bytes. A segment may pass its limit by its head and one batch."""

    segment_bytes_max: int = 64 << 20
    entry_bytes_max: int = 64 << 20
    """An entry's data; more raises :class:`~consensus.errors.EntryTooLarge`."""
    batch_bytes_max: int = 1 << 30
    """Everything in one ``append``; more raises :class:`~consensus.errors.EntryTooLarge`."""
    reserve_bytes: int = 1 << 20
    """Room that is asked for ahead of what is written, within a segment: a sync of a file that does not grow
    is cheaper. 0: none."""


@dataclass(slots=True)
class _Active:
    """The segment that grows, with offsets in bytes.

    ``head_end``, ``records_end`` and ``end`` are where its head, its last record and its content end. The
    first ``durable`` bytes are synced, and a batch in it says so of the first ``claimed``. Behind ``end`` the
    file has room up to ``reserved``; where the disk gave none it is not asked again.
    """

    sequence: int
    file: DiskFile
    head_end: int
    records_end: int
    end: int
    durable: int
    claimed: int
    reserved: int = 0
    may_reserve: bool = True


class Journal:
    """The records of one node, see the head of this module. Made by :meth:`open`."""

    recovered_notes: list[str]
    """What opening had to repair, in plain sentences; empty after a clean shutdown."""
    created: bool
    """Opening found no journal and began one."""
    incarnation: int
    """Of this journal and no other: what it was given when it was made, 0 if that was before there were
    any."""

    def __init__(self, disk: Disk, path: str, limits: JournalLimits, incarnation: int) -> None:
        """For :meth:`open` alone."""
        self._disk = disk
        self._path = path
        self._limits = limits
        self._failed: StorageFailed | None = None
        self._closed = False
        self.recovered_notes = []
        disk.make_directory(path)
        names = self._remove_unfinished(disk.list_names(path))
        self.created = not names
        if self.created:
            head = SegmentHead(1, 1, 0, HardState(0, None), None, incarnation)
            self._create(head).file.close()
            names = [segment_path(path, 1)]
        contents = read_journal(disk, path, names)
        self.incarnation = contents.incarnation
        self._full: list[FullSegment] = contents.full
        self._position: LogPosition = contents.position
        self._found: Found | None = contents.found
        self._active = self._resume(contents.tail)

    @classmethod
    def open(
        cls, disk: Disk, path: str, *, limits: JournalLimits | None = None, incarnation: int = 0
    ) -> Self:
        """Read the journal in directory ``path`` of ``disk``, or begin one. Blocks while it reads.

        ``incarnation`` is for a journal that is begun: a random number from 1 to 2^63 - 1 that no other has.
        Everything that it reports is durable when it returns. Raises
        :class:`~consensus.errors.StorageCorrupt` for damage, :class:`~consensus.errors.DiskFull` and
        :class:`~consensus.errors.StorageFailed` when the disk refuses.
        """
        return cls(disk, path, limits or JournalLimits(), incarnation)

    @property
    def path(self) -> str:
        """The directory as a person finds it."""
        return self._disk.locate(self._path)

    @property
    def hard_state(self) -> HardState:
        """Of the last record that was appended, synced or not."""
        return self._position.hard_state

    @property
    def next_index(self) -> int:
        """The index that the next entry has to have."""
        return self._position.next_index

    @property
    def dirty(self) -> bool:
        """Whether a record waits for :meth:`sync`."""
        return self._active.records_end > self._active.durable

    @property
    def unsynced_bytes(self) -> int:
        """How much waits for :meth:`sync`."""
        return self._active.end - self._active.durable

    @property
    def bytes_on_disk(self) -> int:
        """The size of all segments, without the room behind the last."""
        return self._active.end + sum(segment.size for segment in self._full)

    def take_found(self) -> Found:
        """What opening found; the journal does not keep it. Raises ``ValueError`` the second time."""
        if self._found is None:
            raise ValueError("what this journal held was already taken; open it again to read it again")
        found, self._found = self._found, None
        return found

    def append(self, records: Sequence[Record]) -> None:
        """Write ``records`` in order, with one write for all of them. :meth:`sync` makes them durable.

        Raises :class:`~consensus.errors.DiskFull`, :class:`~consensus.errors.EntryTooLarge` and
        :class:`~consensus.errors.InvariantViolated` (records that can not follow what is there); in all
        three cases nothing of ``records`` was kept, and after ``DiskFull`` the same call may be made
        again. Raises :class:`~consensus.errors.StorageFailed`, and then for ever.
        """
        self._refuse_if_unusable()
        if not records:
            return
        position = self._position.after(records)
        size = self._measure(records)
        try:
            if self._active.end + size > self._limits.segment_bytes_max:
                self._rotate()
            self._write(records)
        except StorageFailed as failure:
            self._failed = failure
            raise
        self._active.records_end = self._active.end
        self._position = position
        if position.lowest_cut is not None:
            forget_from(self._full, position.lowest_cut)

    def sync(self) -> None:
        """Make everything that was appended durable; nothing happens if it is already. Blocks.

        Raises :class:`~consensus.errors.StorageFailed`, and then for ever: a failed sync is not retried.
        """
        self._refuse_if_unusable()
        if self.dirty:
            self._sync_file()

    def seal(self) -> None:
        """Leave proof in the file that all records are durable, when they are. Cheap: it does not sync.

        For a pause: the next batch or :meth:`close` does the same. Without it, damage in the last
        batches looks like a torn write after a crash. A full disk is not reported: nothing is lost.
        """
        self._refuse_if_unusable()
        if self.dirty or self._active.claimed >= self._active.records_end:
            return
        try:
            self._write(())
        except DiskFull:
            return
        except StorageFailed as failure:
            self._failed = failure
            raise

    def compact(self, first_index_kept: int) -> None:
        """Drop the segments in which no entry from ``first_index_kept`` on counts any more. Blocks.

        A durable snapshot has to stand for every entry below. The hard state stays. What a full disk
        does not let go (some need room to remove a file) stays for the next time. Raises
        :class:`~consensus.errors.StorageFailed`.
        """
        self.sync()
        while self._full and self._full[0].last_index < first_index_kept:
            try:
                self._disk.remove(segment_path(self._path, self._full[0].sequence))
                self._disk.sync_directory(self._path)
            except DiskFull:
                return
            except StorageFailed as failure:
                self._failed = failure
                raise
            del self._full[0]

    def close(self) -> None:
        """Sync, seal and let go of the files; once closed, nothing happens. Blocks.

        After a failure it only lets go. Raises :class:`~consensus.errors.StorageFailed`.
        """
        if self._closed:
            return
        try:
            if self._failed is None:
                self.sync()
                self.seal()
                self._cut_reserve()
                if self._active.end > self._active.durable:
                    self._sync_file()
        finally:
            self._closed = True
            self._active.file.close()

    def _refuse_if_unusable(self) -> None:
        if self._failed is not None:
            raise StorageFailed(f"the journal stopped after a failure: {self._failed}") from self._failed
        if self._closed:
            raise ValueError(f"the journal in {self.path} is closed; open it again")

    def _measure(self, records: Sequence[Record]) -> int:
        limits = self._limits
        size = BATCH_HEADER_BYTES
        for record in records:
            size += RECORD_HEADER_BYTES
            if type(record) is Entry:
                size += len(record.data)
                if len(record.data) > limits.entry_bytes_max:
                    raise EntryTooLarge(
                        f"entry {record.index} has {len(record.data)} bytes, more than entry_bytes_max = "
                        f"{limits.entry_bytes_max}; send large data beside the log"
                    )
        if size > limits.batch_bytes_max:
            raise EntryTooLarge(
                f"{len(records)} records have {size} bytes together, more than batch_bytes_max = "
                f"{limits.batch_bytes_max}; append fewer at a time"
            )
        return size

    def _write(self, records: Sequence[Record]) -> None:
        active = self._active
        batch = encode_batch(records, sequence=active.sequence, offset=active.end, durable=active.durable)
        end = active.end + len(batch)
        if end > active.reserved and active.may_reserve:
            self._reserve(end)
        try:
            active.file.append(batch)
        except DiskFull:
            active.file.truncate(active.end)
            active.reserved = 0
            raise
        active.end = end
        active.claimed = active.durable

    def _reserve(self, end: int) -> None:
        """Have room up to ``end`` and beyond, if the disk can give it."""
        active, limits = self._active, self._limits
        wanted = min(end + limits.reserve_bytes, max(end, limits.segment_bytes_max))
        active.may_reserve = limits.reserve_bytes > 0 and active.file.reserve(wanted)
        active.reserved = wanted if active.may_reserve else 0

    def _cut_reserve(self) -> None:
        """Nothing more is written to this segment."""
        if self._active.reserved > self._active.end:
            self._active.file.truncate(self._active.end)
            self._active.reserved = 0

    def _sync_file(self) -> None:
        end = self._active.end
        try:
            self._active.file.sync()
        except StorageFailed as failure:
            self._failed = failure
            raise
        self._active.durable = end

    def _rotate(self) -> None:
        """Go on in a new segment, unless this one has no record yet. The old one is durable before."""
        active = self._active
        if active.records_end == active.head_end:
            return
        # Also where all records are durable: what a full disk took of the last write was cut off, and a power
        # loss must not bring it back behind the size that the next segment states.
        self._cut_reserve()
        self._sync_file()
        head = SegmentHead(
            sequence=active.sequence + 1,
            first_index=self._position.next_index,
            previous_bytes=active.end,
            hard_state=self._position.hard_state,
            installed=self._position.installed,
            incarnation=self.incarnation,
        )
        self._active = self._create(head)
        self._full.append(FullSegment(active.sequence, active.end, head.first_index - 1))
        active.file.close()

    def _create(self, head: SegmentHead) -> _Active:
        """A new segment, complete and durable before it has its name."""
        name = segment_path(self._path, head.sequence)
        content = encode_head(head)
        try:
            self._write_aside(name + TEMPORARY_SUFFIX, content)
            self._disk.rename(name + TEMPORARY_SUFFIX, name)
        except DiskFull:
            self._disk.remove(name + TEMPORARY_SUFFIX)
            raise
        self._disk.sync_directory(self._path)
        end = len(content)
        return _Active(head.sequence, self._disk.open_file(name), end, end, end, end, end)

    def _write_anew(self, path: str, size: int) -> None:
        """Put a durable copy of the first ``size`` bytes of a segment in its place."""
        old = self._disk.open_file(path)
        content = old.read(0, size)
        old.close()
        try:
            self._write_aside(path + TEMPORARY_SUFFIX, content)
            self._disk.rename(path + TEMPORARY_SUFFIX, path)
        except DiskFull:
            self._disk.remove(path + TEMPORARY_SUFFIX)
            raise

    def _write_aside(self, path: str, content: bytes) -> None:
        file = self._disk.create_file(path)
        try:
            file.append(content)
            file.sync()
        finally:
            file.close()

    def _remove_unfinished(self, names: list[str]) -> list[str]:
        """Paths of the segments, without files that a crash left before they were anything."""
        for name in names:
            if name.endswith(SEGMENT_SUFFIX + TEMPORARY_SUFFIX):
                self._disk.remove(f"{self._path}/{name}")
                self.recovered_notes.append(f"removed {name}, which was not finished when the node stopped")
        return [f"{self._path}/{name}" for name in names if name.endswith(SEGMENT_SUFFIX)]

    def _resume(self, tail: Tail) -> _Active:
        """Go on behind ``tail``, with all of it durable: the last process may have died before its sync.

        Or of a sync that failed: then the system may hold for clean what never reached the disk, and no
        sync of this file would write it. So what nothing shows to be synced is written anew: records with a
        copy of the file; a seal, of which nothing shows it, by itself.
        """
        path, end, claimed = segment_path(self._path, tail.sequence), tail.end, tail.claimed
        if tail.records_end > claimed:
            self._write_anew(path, end)
        file = self._disk.open_file(path)
        if file.size > end:
            file.truncate(end)
        if tail.note is not None:
            self.recovered_notes.append(tail.note)
        if tail.records_end <= claimed and tail.records_end < end:
            end = self._seal_anew(file, tail)
            claimed = claimed if end > tail.records_end else tail.head_end
        file.sync()
        self._disk.sync_directory(self._path)
        return _Active(tail.sequence, file, tail.head_end, tail.records_end, end, end, claimed)

    def _seal_anew(self, file: DiskFile, tail: Tail) -> int:
        """Write the seal behind the last record once more; gives where the file ends then."""
        end = tail.records_end
        file.truncate(end)
        seal = encode_batch((), sequence=tail.sequence, offset=end, durable=end)
        try:
            file.append(seal)
        except DiskFull:
            file.truncate(end)
            return end
        return end + len(seal)
