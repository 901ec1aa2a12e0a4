"""The bytes of one journal segment: a head, then batches of records.

A crash may leave any part of what was written since the last sync, so bytes that do not verify are one
of two things. A *torn tail* was never promised and has to be cut off, or the node could not start after
a power loss. *Damage* was promised (votes, acknowledged entries), and cutting it would break Raft. What
tells them apart is evidence that a sync had covered the place, and the format leaves it early:

1. A segment gets its name only when its head is synced: a head that does not verify is damage.
2. The next segment is made only when the one before is synced, and records its size: in all segments
   but the last one, everything that does not verify is damage.
3. Every batch states up to where the file was durable when it was written (``durable``), under a
   checksum of its own, which also covers sequence and offset. Where a later batch claims more than the
   bad place, it is damage. This holds when batches of one unsynced group reach the disk out of order.
4. A clean shutdown ends with an empty batch, a *seal*, whose claim covers all records before it.

What is left is the last batches that no later one has sealed: there a flipped bit can not be told from
a torn write. That is the limit of one disk: the proof that a sync returned can only be written after
it, and would need a sync itself. A batch is kept or cut as a whole. (Alagappan et al., "Protocol-Aware
Recovery for Consensus-Based Storage", FAST 2018, section 3.3, on crashes against corruption.)

Behind the last batch of the last segment there may be zeros, for room that was asked for ahead of what is
written (:meth:`consensus.storage.DiskFile.reserve`). Nothing but zeros up to the end of the file is the end
of what was written, as if the file ended there: no batch begins with a zero. Where a write was torn, zeros
with something behind them do not verify, and are judged like everything else.

All integers are little endian; checksums are CRC32C (Castagnoli; RFC 3720, section 12.1)::

    head    magic 8s, version u16, reserved u16, state_length u32, sequence u64, first_index u64,
            previous_bytes u64, state, crc u32
    state   term u64, vote_length i32 (-1: none), vote utf-8, incarnation u64, installed u8, [snapshot]
    batch   magic 4s, length u32, durable u64, crc u32, records (length bytes)
    record  crc u32, length u32, type u8, kind u8, reserved u16, term u64, index u64, payload (length bytes)
    snapshot  index u64, term u64, previous_term u64, size u64, sha256 32s, configuration (the rest)

Version 1 had neither incarnations nor configurations: its state goes without the one, and its snapshots end
before the other.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import assert_never

import google_crc32c

from consensus.interface import Entry, EntryKind, HardState, InstalledSnapshot, Record, SnapshotMeta, Truncate

FORMAT_VERSION = 2
"""Of the head and of everything behind it. Version 1 is read too; another is refused."""

SEGMENT_MAGIC = b"MCPJRNL\n"
BATCH_MAGIC = b"\xb7BAT"
BATCH_HEADER_BYTES = 20
RECORD_HEADER_BYTES = 28

_HEAD = struct.Struct("<8sHHIQQQ")
_BATCH = struct.Struct("<4sIQ")
_PLACE = struct.Struct("<QQ")
_RECORD = struct.Struct("<IBBHQQ")
_CHECKED_RECORD = struct.Struct("<IIBBHQQ")
_CRC = struct.Struct("<I")
_VOTE = struct.Struct("<Qi")
_INCARNATION = struct.Struct("<Q")
_META = struct.Struct("<QQQQ32s")

_ENTRY, _HARD_STATE, _TRUNCATE, _INSTALLED = 1, 2, 3, 4

_checksum = google_crc32c.value
_extend = google_crc32c.extend


class UnreadableBytes(Exception):
    """Bytes at ``offset`` do not say what a segment must say there.

    ``intact`` means that their checksum is right: they were written like this, so they are no torn tail.
    """

    def __init__(self, offset: int, problem: str, *, intact: bool = False) -> None:
        super().__init__(problem)
        self.offset = offset
        self.problem = problem
        self.intact = intact


@dataclass(frozen=True, slots=True)
class SegmentHead:
    """What a segment has to know of those before it, so that they can be dropped.

    ``first_index`` is the index of the next entry when the segment was begun, ``previous_bytes`` the
    final size of the segment before it (0: none), ``installed`` the last snapshot that reset the log,
    ``incarnation`` the number that this journal drew when it was made (0: none).
    """

    sequence: int
    first_index: int
    previous_bytes: int
    hard_state: HardState
    installed: SnapshotMeta | None
    incarnation: int = 0


@dataclass(slots=True)
class Scan:
    """What the batches of one segment hold, up to the first that does not verify.

    ``end`` is where the good bytes end, ``records_end`` where the last record ends (seals may follow),
    ``claimed`` the highest durable offset that a good batch states.
    """

    end: int
    records_end: int
    claimed: int
    batches: list[tuple[int, list[Record]]] = field(default_factory=list)
    problem: UnreadableBytes | None = None


def encode_head(head: SegmentHead) -> bytes:
    """The first bytes of a segment."""
    vote = head.hard_state.voted_for
    name = b"" if vote is None else vote.encode()
    state = _VOTE.pack(head.hard_state.term, -1 if vote is None else len(name)) + name
    state += _INCARNATION.pack(head.incarnation)
    state += b"\x00" if head.installed is None else b"\x01" + _encode_meta(head.installed)
    fixed = _HEAD.pack(
        SEGMENT_MAGIC, FORMAT_VERSION, 0, len(state), head.sequence, head.first_index, head.previous_bytes
    )
    return fixed + state + _CRC.pack(_checksum(fixed + state))


def decode_head(buffer: bytes) -> tuple[SegmentHead, int]:
    """The head at the start of ``buffer`` and where it ends. Raises :class:`UnreadableBytes`."""
    if len(buffer) < _HEAD.size or not buffer.startswith(SEGMENT_MAGIC):
        raise UnreadableBytes(0, "this is not the head of a journal segment")
    _, version, _, length, sequence, first_index, previous_bytes = _HEAD.unpack_from(buffer)
    if version not in (1, FORMAT_VERSION):
        raise UnreadableBytes(8, f"format version {version} where this program reads 1 and {FORMAT_VERSION}")
    end = _HEAD.size + length
    if end + _CRC.size > len(buffer) or _CRC.unpack_from(buffer, end)[0] != _checksum(buffer[:end]):
        raise UnreadableBytes(0, "the checksum of the segment's head is wrong")
    hard_state, incarnation, installed = _decode_state(buffer[_HEAD.size : end], version)
    head = SegmentHead(sequence, first_index, previous_bytes, hard_state, installed, incarnation)
    return head, end + _CRC.size


def _decode_state(state: bytes, version: int) -> tuple[HardState, int, SnapshotMeta | None]:
    term, length = _VOTE.unpack_from(state)
    at = _VOTE.size + max(length, 0)
    vote = None if length < 0 else state[_VOTE.size : at].decode()
    incarnation = 0
    if version > 1:
        (incarnation,) = _INCARNATION.unpack_from(state, at)
        at += _INCARNATION.size
    return HardState(term, vote), incarnation, _decode_meta(state, at + 1) if state[at] else None


def _encode_meta(meta: SnapshotMeta) -> bytes:
    fixed = _META.pack(meta.index, meta.term, meta.previous_term, meta.size, bytes.fromhex(meta.sha256))
    return fixed + meta.configuration


def _decode_meta(buffer: bytes, offset: int) -> SnapshotMeta:
    index, term, previous_term, size, digest = _META.unpack_from(buffer, offset)
    return SnapshotMeta(index, term, previous_term, size, digest.hex(), buffer[offset + _META.size :])


def encode_batch(records: Sequence[Record], *, sequence: int, offset: int, durable: int) -> bytes:
    """One batch for ``offset`` of segment ``sequence``, of whose bytes the first ``durable`` are synced.

    Without records it is a seal. This is the hot path: about 1 µs for a small entry.
    """
    parts: list[bytes] = [b""]
    pack, checksum, extend, pack_checksum = _RECORD.pack, _checksum, _extend, _CRC.pack
    for record in records:
        if type(record) is Entry:
            payload = record.data
            header = pack(len(payload), _ENTRY, record.kind, 0, record.term, record.index)
        else:
            header, payload = _encode_other(record)
        parts += (pack_checksum(extend(checksum(header), payload)), header, payload)
    length = sum(map(len, parts))
    parts[0] = _batch_header(length, sequence, offset, durable)
    return b"".join(parts)


def _batch_header(length: int, sequence: int, offset: int, durable: int) -> bytes:
    fixed = _BATCH.pack(BATCH_MAGIC, length, durable)
    return fixed + _CRC.pack(_checksum(_PLACE.pack(sequence, offset) + fixed))


def _encode_other(record: Record) -> tuple[bytes, bytes]:
    match record:
        case HardState(term, voted_for):
            payload = b"" if voted_for is None else voted_for.encode()
            return _RECORD.pack(len(payload), _HARD_STATE, voted_for is not None, 0, term, 0), payload
        case Truncate(from_index):
            return _RECORD.pack(0, _TRUNCATE, 0, 0, 0, from_index), b""
        case InstalledSnapshot(meta):
            payload = _encode_meta(meta)
            return _RECORD.pack(len(payload), _INSTALLED, 0, 0, meta.term, meta.index), payload
        case Entry(index, term, kind, data):
            return _RECORD.pack(len(data), _ENTRY, kind, 0, term, index), data
        case _:
            assert_never(record)


def scan(buffer: bytes, start: int, sequence: int) -> Scan:
    """Read the batches of segment ``sequence`` from ``start`` to the end, or to what does not verify."""
    found = Scan(end=start, records_end=start, claimed=start)
    while found.end < len(buffer) and not _is_empty(buffer, found.end):
        try:
            length, durable = _decode_batch_header(buffer, found.end, sequence)
            records = _decode_records(buffer, found.end + BATCH_HEADER_BYTES, length)
        except UnreadableBytes as problem:
            found.problem = problem
            break
        if records:
            found.batches.append((found.end, records))
        found.end += BATCH_HEADER_BYTES + length
        found.claimed = max(found.claimed, durable)
        if records:
            found.records_end = found.end
    return found


def _is_empty(buffer: bytes, start: int) -> bool:
    """Whether nothing was written from ``start`` on: there are zeros alone."""
    return buffer[start] == 0 and buffer.count(0, start) == len(buffer) - start


def durable_claim(buffer: bytes, bad: int, sequence: int) -> int:
    """The highest offset that a batch behind the bad one at ``bad`` claims to have been durable, or 0."""
    claim = 0
    try:
        # Where its header is good the bad batch's extent is known, and what looks like a batch inside
        # of it is somebody's data.
        at = bad + BATCH_HEADER_BYTES + _decode_batch_header(buffer, bad, sequence)[0]
    except UnreadableBytes:
        at = bad + 1
    while (at := buffer.find(BATCH_MAGIC, at)) >= 0:
        with suppress(UnreadableBytes):
            claim = max(claim, _decode_batch_header(buffer, at, sequence)[1])
        at += 1
    return claim


def _decode_batch_header(buffer: bytes, offset: int, sequence: int) -> tuple[int, int]:
    header = buffer[offset : offset + BATCH_HEADER_BYTES]
    if len(header) < BATCH_HEADER_BYTES:
        raise UnreadableBytes(offset, f"{len(header)} bytes where a batch's header has {BATCH_HEADER_BYTES}")
    fixed = header[: _BATCH.size]
    if _CRC.unpack_from(header, _BATCH.size)[0] != _checksum(_PLACE.pack(sequence, offset) + fixed):
        raise UnreadableBytes(offset, "the checksum of a batch's header is wrong")
    magic, length, durable = _BATCH.unpack(fixed)
    if magic != BATCH_MAGIC or durable > offset:
        raise UnreadableBytes(offset, "a batch's header makes no sense", intact=True)
    return length, durable


def _decode_records(buffer: bytes, at: int, length: int) -> list[Record]:
    end = at + length
    if end > len(buffer):
        raise UnreadableBytes(at, f"a batch of {length} bytes has only {len(buffer) - at}")
    records: list[Record] = []
    while at < end:
        body = at + RECORD_HEADER_BYTES
        if body > end:
            raise UnreadableBytes(at, "a record's header does not fit into its batch")
        crc, size, code, kind, _, term, index = _CHECKED_RECORD.unpack_from(buffer, at)
        if body + size > end or _checksum(buffer[at + 4 : body + size]) != crc:
            raise UnreadableBytes(at, "the checksum of a record is wrong")
        try:
            records.append(_decode_record(code, kind, term, index, buffer[body : body + size]))
        except (ValueError, struct.error) as error:
            raise UnreadableBytes(at, f"a record makes no sense: {error}", intact=True) from error
        at = body + size
    return records


def _decode_record(code: int, kind: int, term: int, index: int, payload: bytes) -> Record:
    if code == _ENTRY:
        return Entry(index, term, EntryKind(kind), payload)
    if code == _HARD_STATE:
        return HardState(term, payload.decode() if kind else None)
    if code == _TRUNCATE:
        return Truncate(index)
    if code == _INSTALLED:
        return InstalledSnapshot(_decode_meta(payload, 0))
    raise ValueError(f"type {code} is not known to this version of the program")
