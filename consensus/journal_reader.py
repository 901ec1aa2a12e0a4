"""Reading a journal's segments: what they hold, and whether what does not verify is torn or damaged.

Reading changes nothing on the disk. The theory is at the head of `consensus.segment`.
"""

from __future__ import annotations

from dataclasses import dataclass

from consensus.errors import InvariantViolated, StorageCorrupt
from consensus.replay import Found, LogPosition, Replay
from consensus.segment import Scan, SegmentHead, UnreadableBytes, decode_head, durable_claim, scan
from consensus.storage import REPLACE_NODE_ADVICE, Disk, read_all

SEGMENT_SUFFIX = ".journal"
TEMPORARY_SUFFIX = ".tmp"


@dataclass(slots=True)
class FullSegment:
    """A file that is not written any more; ``size`` in bytes.

    ``last_index`` is at least the index of the last entry in it that still counts.
    """

    sequence: int
    size: int
    last_index: int


@dataclass(slots=True)
class Tail:
    """The last segment: where its head, its records and its good bytes end, and what a batch claims.

    ``note`` is a sentence about bytes behind ``end``, which were never promised and have to be cut off.
    """

    sequence: int
    head_end: int
    records_end: int
    end: int
    claimed: int
    note: str | None = None


@dataclass(slots=True)
class Contents:
    """Everything that the segments of one journal hold."""

    full: list[FullSegment]
    tail: Tail
    position: LogPosition
    found: Found
    incarnation: int


def segment_path(directory: str, sequence: int) -> str:
    """The file of a segment. Sixteen digits, so that names sort as numbers do."""
    return f"{directory}/{sequence:016d}{SEGMENT_SUFFIX}"


def read_journal(disk: Disk, directory: str, paths: list[str]) -> Contents:
    """Read the segments in ``paths``, which are all that there are, oldest first; at least one.

    Raises :class:`~consensus.errors.StorageCorrupt` and :class:`~consensus.errors.StorageFailed`.
    """
    reader = _Reader(disk, directory)
    for path in paths:
        reader.read_segment(path, is_last=path == paths[-1])
    assert reader.replay is not None
    assert reader.tail is not None
    found = reader.replay.found()
    return Contents(reader.full, reader.tail, reader.replay.position, found, reader.incarnation)


class _Reader:
    """One pass over the segments. ``tail`` is the segment that was read last."""

    def __init__(self, disk: Disk, directory: str) -> None:
        self.disk = disk
        self.directory = directory
        self.replay: Replay | None = None
        self.full: list[FullSegment] = []
        self.tail: Tail | None = None
        self.incarnation = 0

    def read_segment(self, path: str, *, is_last: bool) -> None:
        buffer = read_all(self.disk, path)
        try:
            head, head_end = decode_head(buffer)
        except UnreadableBytes as error:
            raise self.corrupt(path, error.offset, error.problem) from error
        if path != segment_path(self.directory, head.sequence):
            raise self.corrupt(path, 0, f"its head says that it is segment {head.sequence}")
        self._continue_at(path, head)
        contents = scan(buffer, head_end, head.sequence)
        self._take(path, contents)
        tail = Tail(head.sequence, head_end, contents.records_end, contents.end, contents.claimed)
        if contents.problem is not None:
            tail.note = self._torn(path, buffer, head, contents, contents.problem, is_last=is_last)
        self.tail = tail

    def _continue_at(self, path: str, head: SegmentHead) -> None:
        """Hold the head against everything before it, or start from it if it is the oldest."""
        if self.replay is None or self.tail is None:
            position = LogPosition(head.hard_state, head.installed, head.first_index)
            self.replay = Replay(position, head.first_index)
            self.incarnation = head.incarnation
            return
        position = self.replay.position
        if head.sequence != self.tail.sequence + 1:
            raise self.corrupt(path, 0, f"segment {self.tail.sequence + 1} should be between it and the last")
        if head.previous_bytes != self.tail.end:
            raise self.corrupt(
                path, 0, f"the segment before had {head.previous_bytes} bytes and now has {self.tail.end}"
            )
        before = (position.hard_state, position.installed, position.next_index, self.incarnation)
        if before != (head.hard_state, head.installed, head.first_index, head.incarnation):
            raise self.corrupt(path, 0, "its head does not continue the segment before it")
        self.full.append(FullSegment(self.tail.sequence, self.tail.end, head.first_index - 1))

    def _take(self, path: str, contents: Scan) -> None:
        assert self.replay is not None
        for offset, records in contents.batches:
            try:
                self.replay.take(records)
            except InvariantViolated as error:
                raise self.corrupt(path, offset, str(error)) from error
            lowest_cut = self.replay.position.lowest_cut
            if lowest_cut is not None:
                forget_from(self.full, lowest_cut)

    def _torn(
        self,
        path: str,
        buffer: bytes,
        head: SegmentHead,
        contents: Scan,
        problem: UnreadableBytes,
        *,
        is_last: bool,
    ) -> str:
        if problem.intact:
            raise self.corrupt(path, problem.offset, problem.problem)
        if not is_last:
            raise self.corrupt(path, problem.offset, f"{problem.problem}, and a later segment exists")
        claim = durable_claim(buffer, contents.end, head.sequence)
        if claim > contents.end:
            raise self.corrupt(
                path,
                problem.offset,
                f"{problem.problem}, and a later batch shows that {claim} bytes were synced",
            )
        return (
            f"cut {len(buffer) - contents.end} bytes off the end of {self.disk.locate(path)} at byte "
            f"{contents.end}: {problem.problem}; nothing shows that a sync had covered them"
        )

    def corrupt(self, path: str, offset: int, problem: str) -> StorageCorrupt:
        return StorageCorrupt(self.disk.locate(path), offset, problem, REPLACE_NODE_ADVICE)


def forget_from(segments: list[FullSegment], index: int) -> None:
    """Entries from ``index`` on count no more in ``segments`` (0: none do)."""
    for segment in segments:
        segment.last_index = min(segment.last_index, max(index - 1, 0))
