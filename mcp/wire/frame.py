"""Frames: the unit that travels on a connection. Pure: bytes in, frames out.

A frame is a 24-byte header, a table of segment lengths, a body, and raw segments (tensors, blobs)::

    offset  size  field (little endian)
    0       4     length          bytes of the frame after this header
    4       1     kind            see FrameKind
    5       1     flags           0: none is defined in version 1
    6       2     segment_count   N
    8       4     stream          0 for the connection itself, else the request's stream
    12      4     body_length
    16      4     CRC-32 of everything after the header
    20      4     CRC-32 of the header up to here
    24      4*N   segment lengths
    ...           body, padding to a multiple of 8, then each segment padded to a multiple of 8

Why segments are views and not copies: every frame is a multiple of 8 bytes long, so frames that are
received one behind another into an 8-aligned buffer start 8-aligned, and so do their segments. A reader
can then hand out views of its receive buffer that numpy reads as arrays of any element type. The price
is that a buffer which was handed out can never be written again: the reader *retires* it, continues in a
fresh one and leaves the old one to the views that keep it alive. Small frames are copied out instead,
because a view of 100 bytes would keep a whole buffer alive; so what a frame keeps alive is at most four
times its own size. Frames that are larger than the buffer are received into one of exactly their size.

Why checksums, where TCP has one: TCP's is 16 bits of a sum, made again by whatever forwards the packet, and
it has let changed bytes through often enough to be known for it (Stone and Partridge, "When the CRC and TCP
Checksum Disagree", SIGCOMM 2000). A changed bit in what the log carries would be stored by some nodes and not
by others, and no election, quorum or sync could find that later. The header has one of its own, so that a
length is believed only when it is known to be the sender's. The CRC is zlib's: it reads views without a copy.

A header is checked before memory is set aside for what it announces. That memory is not cleared, so the
operating system provides it only as bytes arrive.
"""

from __future__ import annotations

import enum
import struct
import zlib
from collections.abc import Collection, Sequence
from typing import Final, NamedTuple, TypeAlias

import numpy as np

from mcp.errors import FrameDamaged, FrameTooLarge, ProtocolError

HEADER_BYTES: Final = 24
ALIGNMENT_BYTES: Final = 8
FRAME_OVERHEAD_BYTES_MAX: Final = HEADER_BYTES + ALIGNMENT_BYTES - 1
"""What a frame without segments has besides its body, at most."""
FRAME_BYTES_MAX: Final = 64 * 1024 * 1024
"""The largest frame, header included, unless a connection agrees on less."""
HANDSHAKE_FRAME_BYTES_MAX: Final = 4096
"""The largest frame before the peer has proved who it is."""
SEGMENTS_MAX: Final = 1024
"""The most segments in one frame."""
READ_BUFFER_BYTES: Final = 64 * 1024
"""The size of a reader's buffer; frames above it get a buffer of their own."""
COPY_BYTES_MAX: Final = READ_BUFFER_BYTES // 4
"""Frames with segments up to this size are copied out of the buffer instead of retiring it."""
JOIN_BYTES_MAX: Final = 64 * 1024
"""Bodies up to this size are joined with their header into one buffer."""

Buffer: TypeAlias = bytes | bytearray | memoryview
"""What may stand for bytes in an argument. Results say exactly what they are."""

_HEADER: Final = struct.Struct("<IBBHIII")
_HEADER_CHECKSUM: Final = struct.Struct("<I")
_CHECKED_HEADER: Final = struct.Struct("<IBBHIIII")
_LENGTH: Final = struct.Struct("<I")
_PADDING: Final = tuple(bytes(size) for size in range(ALIGNMENT_BYTES))
_ROOM_BYTES_MIN: Final = 4096  # a read into less room than this costs more than moving what is left


class FrameKind(enum.IntEnum):
    """What a frame is. Numbers that are not listed are refused; 26 to 31 are kept for flow control."""

    HELLO = 1
    CHALLENGE = 2
    PROOF = 3
    WELCOME = 4
    REJECT = 5
    REQUEST = 16
    RESPONSE = 17
    ERROR = 18
    CANCEL = 19
    NOTICE = 20
    PING = 21
    PONG = 22
    GOODBYE = 23
    PART = 24
    CREDIT = 25


HANDSHAKE_KINDS: Final = frozenset(
    {FrameKind.HELLO, FrameKind.CHALLENGE, FrameKind.PROOF, FrameKind.WELCOME, FrameKind.REJECT}
)
"""The kinds that are read before a peer has proved who it is."""
_KINDS: Final = frozenset(map(int, FrameKind))
OPEN_KINDS: Final = frozenset(FrameKind) - HANDSHAKE_KINDS
"""The kinds that are read after the handshake."""
_STREAM_KINDS: Final = frozenset(
    {
        FrameKind.REQUEST,
        FrameKind.RESPONSE,
        FrameKind.ERROR,
        FrameKind.CANCEL,
        FrameKind.PART,
        FrameKind.CREDIT,
    }
)
_SEGMENT_KINDS: Final = frozenset({FrameKind.REQUEST, FrameKind.RESPONSE, FrameKind.PART})


class Frame(NamedTuple):
    """One received frame.

    ``segments`` are read-only views that stay valid as long as they are referenced. ``body`` does too if
    there are segments; without segments it is valid only until the reader is given its next bytes, so
    decode or copy it at once.
    """

    kind: FrameKind
    stream: int
    body: memoryview
    segments: tuple[memoryview, ...]


def padding_bytes(size: int) -> int:
    """How many bytes pad ``size`` to a multiple of 8."""
    return -size % ALIGNMENT_BYTES


def as_bytes(buffer: Buffer) -> memoryview:
    """View ``buffer`` as a flat sequence of bytes. No copy; the buffer must be contiguous."""
    view = buffer if type(buffer) is memoryview else memoryview(buffer)
    return view if view.ndim == 1 and view.format == "B" else view.cast("B")


def encode_frame(
    kind: FrameKind,
    stream: int = 0,
    body: Buffer | Sequence[Buffer] = b"",
    segments: Sequence[Buffer] = (),
    *,
    frame_bytes_max: int = FRAME_BYTES_MAX,
) -> list[Buffer]:
    """Return the buffers of one frame, in order, for ``writelines``.

    Segments are passed through as views and not copied, unless the frame is small
    (:data:`COPY_BYTES_MAX`): leave them unchanged until they are sent. A ``body`` in pieces is joined where
    it is small. Raises :class:`~mcp.errors.FrameTooLarge` when the
    frame would be over ``frame_bytes_max`` or have more than :data:`SEGMENTS_MAX` segments.
    """
    if not segments and type(body) is bytes and len(body) <= JOIN_BYTES_MAX:
        return [encode_plain(kind, stream, body, frame_bytes_max=frame_bytes_max)]
    if len(segments) == 1 and type(body) is bytes:
        frame = _encode_small(kind, stream, body, segments[0], frame_bytes_max)
        if frame is not None:
            return [frame]
    pieces = (body,) if isinstance(body, bytes | bytearray | memoryview) else body
    body_length = sum([piece.nbytes if isinstance(piece, memoryview) else len(piece) for piece in pieces])
    views = [as_bytes(segment) for segment in segments] if segments else []
    table = [len(view) for view in views]
    front = HEADER_BYTES + 4 * len(table) + body_length
    padding = _PADDING[padding_bytes(front)]
    total = front + len(padding) + sum([size + padding_bytes(size) for size in table])
    _check_announced(total, len(table), frame_bytes_max)
    buffers: list[Buffer] = [struct.pack(f"<{len(table)}I", *table), *pieces, padding]
    if total > COPY_BYTES_MAX and body_length <= JOIN_BYTES_MAX:
        buffers = [b"".join(buffers)]
    for view in views:
        buffers.append(view)
        if padding := _PADDING[-len(view) % ALIGNMENT_BYTES]:
            buffers.append(padding)
    if total <= COPY_BYTES_MAX:
        # Copying so little costs less than handing over so many buffers.
        content = b"".join(buffers)
        header = _header(total - HEADER_BYTES, kind, len(table), stream, body_length, zlib.crc32(content))
        return [header + content]
    checksum = 0
    for buffer in buffers:
        checksum = zlib.crc32(buffer, checksum)
    header = _header(total - HEADER_BYTES, kind, len(table), stream, body_length, checksum)
    if body_length > JOIN_BYTES_MAX:
        return [header, *buffers]
    buffers[0] = header + buffers[0]
    return buffers


def encode_plain(kind: FrameKind, stream: int, body: bytes, *, frame_bytes_max: int) -> bytes:
    """Encode what most frames are: a body of at most :data:`JOIN_BYTES_MAX` and no segments, as one buffer.

    Raises :class:`~mcp.errors.FrameTooLarge`.
    """
    size = len(body)
    content = body + _PADDING[-size % ALIGNMENT_BYTES]  # the header is a multiple of the alignment
    length = len(content)
    if length > frame_bytes_max - HEADER_BYTES:
        _check_announced(HEADER_BYTES + length, 0, frame_bytes_max)
    header = _HEADER.pack(length, kind, 0, 0, stream, size, zlib.crc32(content))
    return header + _HEADER_CHECKSUM.pack(zlib.crc32(header)) + content


def _encode_small(
    kind: FrameKind, stream: int, body: bytes, segment: Buffer, frame_bytes_max: int
) -> bytes | None:
    """What most frames with a tensor are: one small segment. ``None`` if it is not small."""
    view = as_bytes(segment)
    size, body_length = len(view), len(body)
    front = _LENGTH.size + body_length  # the header is a multiple of the alignment
    length = front + -front % ALIGNMENT_BYTES + size + -size % ALIGNMENT_BYTES
    if HEADER_BYTES + length > min(COPY_BYTES_MAX, frame_bytes_max):
        return None
    content = b"".join(
        (
            _LENGTH.pack(size),
            body,
            _PADDING[-front % ALIGNMENT_BYTES],
            view,
            _PADDING[-size % ALIGNMENT_BYTES],
        )
    )
    header = _HEADER.pack(length, kind, 0, 1, stream, body_length, zlib.crc32(content))
    return header + _HEADER_CHECKSUM.pack(zlib.crc32(header)) + content


def _header(
    length: int, kind: FrameKind, segment_count: int, stream: int, body_length: int, checksum: int
) -> bytes:
    header = _HEADER.pack(length, kind, 0, segment_count, stream, body_length, checksum)
    return header + _HEADER_CHECKSUM.pack(zlib.crc32(header))


class FrameReader:
    """Cuts a stream of bytes into frames, for a protocol that lends its buffer to the transport.

    The cycle is: ``get_buffer()``, write ``n`` bytes at its front, ``received(n)``, then
    ``next_frame()`` until it returns ``None``. After an error the reader stays at the bad frame: close
    the connection.
    """

    def __init__(
        self, *, kinds: Collection[FrameKind] = tuple(FrameKind), frame_bytes_max: int = FRAME_BYTES_MAX
    ) -> None:
        self.expect(kinds, frame_bytes_max)
        self._start = 0  # of the first byte that is not handed out yet
        self._end = 0  # of what was received
        self._needed = HEADER_BYTES  # size of the frame at start, as far as it is known
        self._allocate(READ_BUFFER_BYTES)

    def expect(self, kinds: Collection[FrameKind], frame_bytes_max: int) -> None:
        """From the next frame on, accept these kinds, up to this size."""
        self._kinds = {int(kind): kind for kind in kinds}
        self._frame_bytes_max = frame_bytes_max

    @property
    def is_empty(self) -> bool:
        """Whether nothing was received that was not handed out."""
        return self._start == self._end

    @property
    def buffered_bytes(self) -> int:
        """Bytes that were received and belong to no complete frame yet, or were not asked for yet."""
        return self._end - self._start

    @property
    def buffer_bytes(self) -> int:
        """The size of the buffer that is held now."""
        return len(self._buffer)

    def peek(self, size: int) -> bytes:
        """A copy of the first bytes that were received and not handed out, ``size`` at most."""
        return bytes(self._buffer[self._start : min(self._end, self._start + size)])

    def get_buffer(self) -> memoryview:
        """Room for the next bytes, never empty. Makes the bodies of frames without segments invalid."""
        held = self._end - self._start
        if self._retired or self._needed > len(self._buffer) or (not held and self._oversized()):
            self._move_to_fresh_buffer(held)
        elif not held:
            self._start = self._end = 0
        elif self._start and len(self._buffer) - self._end < max(self._needed - held, _ROOM_BYTES_MIN):
            self._buffer[:held] = self._buffer[self._start : self._end]
            self._start, self._end = 0, held
        return self._buffer[self._end :]

    def received(self, size: int) -> None:
        """Count ``size`` bytes that were written at the front of ``get_buffer()``."""
        self._end += size

    def skip(self) -> None:
        """Forget what was received and not handed out. No frame can be read any more."""
        self._start = self._end
        self._needed = HEADER_BYTES

    def next_frame(self) -> Frame | None:
        """The next complete frame, or ``None`` when more bytes are needed.

        Raises :class:`~mcp.errors.FrameTooLarge` for a header that announces more than the limits,
        :class:`~mcp.errors.ProtocolError` for anything that is no frame, and
        :class:`~mcp.errors.FrameDamaged` for a frame that is not what was sent.
        """
        start = self._start
        if self._end - start < HEADER_BYTES:
            self._needed = HEADER_BYTES
            return None
        length, number, flags, segment_count, stream, body_length, checksum, own = (
            _CHECKED_HEADER.unpack_from(self._buffer, start)
        )
        kind = self._kinds.get(number)
        # A number that no frame has is no damage but another protocol, and told as such.
        if number in _KINDS and own != zlib.crc32(self._buffer[start : start + _HEADER.size]):
            raise _damaged("the header of a frame")
        if kind is None:
            raise self._unexpected(number)
        total = HEADER_BYTES + length
        if total > self._frame_bytes_max or segment_count > SEGMENTS_MAX:
            _check_announced(total, segment_count, self._frame_bytes_max)
        if flags or segment_count or (stream != 0) != (kind in _STREAM_KINDS):
            _check_header(kind, flags, stream, segment_count)
        front = HEADER_BYTES + 4 * segment_count + body_length
        if total % ALIGNMENT_BYTES or front > total:
            raise ProtocolError(
                f"a {kind.name} frame of {total} bytes cannot hold {segment_count} segments and a body of "
                f"{body_length} bytes; a frame is a multiple of 8 bytes that its parts fill exactly"
            )
        if self._end - start < total:
            self._needed = total
            return None
        self._needed = HEADER_BYTES
        if checksum != zlib.crc32(self._buffer[start + HEADER_BYTES : start + total]):
            raise _damaged(f"a {kind.name} frame of {total} bytes")
        if segment_count:
            frame = self._with_segments(kind, stream, start, total, segment_count, front)
        elif front + -front % ALIGNMENT_BYTES == total:
            frame = Frame(kind, stream, self._view[start + HEADER_BYTES : start + front], ())
        else:
            raise _misfit(kind, total, front + padding_bytes(front))
        self._start = start + total
        return frame

    def _with_segments(
        self, kind: FrameKind, stream: int, start: int, total: int, segment_count: int, front: int
    ) -> Frame:
        offset = front + -front % ALIGNMENT_BYTES
        if segment_count == 1:
            sizes = _LENGTH.unpack_from(self._buffer, start + HEADER_BYTES)
            fitting = offset + sizes[0] + -sizes[0] % ALIGNMENT_BYTES
        else:
            sizes = struct.unpack_from(f"<{segment_count}I", self._buffer, start + HEADER_BYTES)
            fitting = offset + sum([size + padding_bytes(size) for size in sizes])
        if fitting != total:
            raise _misfit(kind, total, fitting)
        view = self._view[start : start + total]
        if total <= COPY_BYTES_MAX:
            view = memoryview(bytes(view))
        else:
            self._retired = True
        body = view[HEADER_BYTES + 4 * segment_count : front]
        if segment_count == 1:
            return Frame(kind, stream, body, (view[offset : offset + sizes[0]],))
        segments = []
        for size in sizes:
            segments.append(view[offset : offset + size])
            offset += size + padding_bytes(size)
        return Frame(kind, stream, body, tuple(segments))

    def _oversized(self) -> bool:
        return len(self._buffer) > READ_BUFFER_BYTES

    def _move_to_fresh_buffer(self, held: int) -> None:
        rest = self._buffer[self._start : self._end]
        self._allocate(self._needed if self._needed > READ_BUFFER_BYTES else READ_BUFFER_BYTES)
        self._buffer[:held] = rest
        self._start, self._end = 0, held

    def _allocate(self, size: int) -> None:
        # numpy's empty arrays are aligned and, unlike a bytearray, not cleared: a header that announces
        # 64 MiB costs no memory until the bytes come.
        self._buffer = np.empty(size, np.uint8).data
        self._view = self._buffer.toreadonly()
        self._retired = False

    def _unexpected(self, number: int) -> ProtocolError:
        wanted = ", ".join(kind.name for kind in sorted(self._kinds.values()))
        return ProtocolError(
            f"a frame of kind {number} came where one of {wanted} was expected; "
            "check that the peer speaks this protocol, and that it has finished the handshake"
        )


def _check_announced(total: int, segment_count: int, frame_bytes_max: int) -> None:
    if total > frame_bytes_max:
        raise FrameTooLarge(
            f"a frame of {total} bytes is over frame_bytes_max={frame_bytes_max}; "
            "send less at once, in chunks or as a blob",
            details={"bytes": total, "frame_bytes_max": frame_bytes_max},
        )
    if segment_count > SEGMENTS_MAX:
        raise FrameTooLarge(
            f"a frame with {segment_count} segments is over segments_max={SEGMENTS_MAX}; "
            "put fewer tensors into one message",
            details={"segments": segment_count, "segments_max": SEGMENTS_MAX},
        )


def _check_header(kind: FrameKind, flags: int, stream: int, segment_count: int) -> None:
    if flags:
        raise ProtocolError(f"a {kind.name} frame has the flags 0x{flags:02x}; this version defines none")
    if segment_count and kind not in _SEGMENT_KINDS:
        raise ProtocolError(f"a {kind.name} frame has {segment_count} segments; only messages carry segments")
    if (stream != 0) != (kind in _STREAM_KINDS):
        expected = "a stream above 0" if kind in _STREAM_KINDS else "stream 0"
        raise ProtocolError(f"a {kind.name} frame is on stream {stream}; expected {expected}")


def _damaged(what: str) -> FrameDamaged:
    return FrameDamaged(
        f"{what} is not what was sent: its checksum does not fit, so something on the way changes bytes; "
        "the connection is given up, and what was sent on it is sent again where that is safe"
    )


def _misfit(kind: FrameKind, total: int, fitting: int) -> ProtocolError:
    return ProtocolError(
        f"a {kind.name} frame announces {total} bytes, but its parts with their padding take {fitting}; "
        "the lengths of a frame must agree"
    )
