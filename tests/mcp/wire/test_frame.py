"""Frames: what is encoded is what is read, however it is cut up, and nothing else is."""

import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcp.errors import FrameDamaged, FrameTooLarge, ProtocolError, Unavailable
from mcp.wire.frame import (
    COPY_BYTES_MAX,
    HEADER_BYTES,
    JOIN_BYTES_MAX,
    OPEN_KINDS,
    READ_BUFFER_BYTES,
    SEGMENTS_MAX,
    FrameKind,
    FrameReader,
    encode_frame,
)

SEGMENT_KINDS = (FrameKind.REQUEST, FrameKind.RESPONSE, FrameKind.PART)
STREAM_KINDS = (*SEGMENT_KINDS, FrameKind.ERROR, FrameKind.CANCEL, FrameKind.CREDIT)


def header(length=0, kind=FrameKind.PING, flags=0, segments=0, stream=0, body=0, content=b""):
    """A header whose checksums fit ``content``, which is to follow."""
    parts = struct.pack("<IBBHIII", length, kind, flags, segments, stream, body, zlib.crc32(content))
    return parts + struct.pack("<I", zlib.crc32(parts))


def forged(content, **fields):
    """A frame with checksums that fit, whatever it says otherwise."""
    return header(content=content, length=len(content), **fields) + content


def feed(reader, data, cut=1 << 30):
    """Give ``data`` to the reader in pieces of at most ``cut`` bytes; return copies of all frames."""
    frames = []
    view = memoryview(data)
    while view:
        room = reader.get_buffer()
        assert len(room) > 0
        size = min(len(room), len(view), cut)
        room[:size] = view[:size]
        view = view[size:]
        reader.received(size)
        while (frame := reader.next_frame()) is not None:
            frames.append((frame.kind, frame.stream, bytes(frame.body), frame.segments))
    return frames


def plain(frames):
    return [(kind, stream, body, [bytes(s) for s in segments]) for kind, stream, body, segments in frames]


@st.composite
def frames(draw):
    kind = draw(st.sampled_from(FrameKind))
    stream = draw(st.integers(1, 2**32 - 1)) if kind in STREAM_KINDS else 0
    carries = kind in SEGMENT_KINDS
    sizes = draw(st.lists(st.integers(0, 40) | st.integers(0, 200_000), max_size=4)) if carries else []
    body = draw(st.binary(max_size=60) | st.builds(bytes, st.integers(0, 150_000)))
    return kind, stream, body, [bytes([index + 1]) * size for index, size in enumerate(sizes)]


@settings(max_examples=80, deadline=None)
@given(st.lists(frames(), min_size=1, max_size=5), st.sampled_from([977, 65536, 1 << 30]))
def test_frames_arrive_as_they_were_sent_however_the_bytes_are_cut(sent, cut):
    data = b"".join(b"".join(encode_frame(*frame)) for frame in sent)
    assert len(data) % 8 == 0
    assert plain(feed(FrameReader(), data, cut)) == sent


def test_the_layout_is_the_documented_one():
    data = b"".join(encode_frame(FrameKind.REQUEST, 7, b"abc", [b"123456789", b""]))
    # 24 + 2*4 + 3 = 35 -> 40, then 9 -> 16, 0
    content = struct.pack("<II", 9, 0) + b"abc" + bytes(5) + b"123456789" + bytes(7)
    head = struct.pack("<IBBHIII", len(content), 16, 0, 2, 7, 3, zlib.crc32(content))
    assert data == head + struct.pack("<I", zlib.crc32(head)) + content
    assert len(data) == 56


def test_one_byte_at_a_time():
    sent = [(FrameKind.REQUEST, 1, b"body", [b"12345"]), (FrameKind.PING, 0, b"", [])]
    data = b"".join(b"".join(encode_frame(*frame)) for frame in sent)
    assert plain(feed(FrameReader(), data, 1)) == sent


def test_many_frames_of_one_read_share_one_buffer():
    data = b"".join(encode_frame(FrameKind.NOTICE, 0, b"x" * 40)[0] for _ in range(500))
    reader = FrameReader()
    before = reader.get_buffer().obj
    assert len(feed(reader, data)) == 500
    assert reader.get_buffer().obj is before


def test_segments_are_passed_through_without_a_copy():
    array = np.arange(COPY_BYTES_MAX / 8)
    buffers = encode_frame(FrameKind.REQUEST, 1, b"", [array.data])
    assert any(np.shares_memory(np.frombuffer(buffer, np.uint8), array) for buffer in buffers)


def test_a_large_body_in_pieces_is_not_joined_and_a_small_one_is():
    large = bytes(JOIN_BYTES_MAX)
    assert any(buffer is large for buffer in encode_frame(FrameKind.NOTICE, 0, [b"head", large]))
    assert len(encode_frame(FrameKind.NOTICE, 0, [b"head", b"tail"])) == 1


@pytest.mark.parametrize("size", [COPY_BYTES_MAX + 8, READ_BUFFER_BYTES // 2, READ_BUFFER_BYTES * 3 + 5])
def test_received_segments_are_views_of_the_receive_buffer(size):
    reader = FrameReader()
    data = b"".join(encode_frame(FrameKind.RESPONSE, 1, b"b", [b"\1" * size, b"\2" * 16]))
    ((_, _, _, segments),) = feed(reader, data)
    first, second = (np.frombuffer(segment, np.uint8) for segment in segments)
    received_into = np.frombuffer(segments[0].obj, np.uint8)
    assert np.shares_memory(first, received_into)
    assert np.shares_memory(second, received_into)
    assert not first.flags.writeable


def test_views_stay_valid_while_the_reader_goes_on():
    reader = FrameReader()
    kept = feed(reader, b"".join(encode_frame(FrameKind.REQUEST, 1, b"body", [b"\5" * (COPY_BYTES_MAX + 1)])))
    feed(reader, b"".join(encode_frame(FrameKind.REQUEST, 3, b"xxxx", [b"\6" * 60_000])) * 3)
    assert set(bytes(kept[0][3][0])) == {5}


def test_a_small_frame_does_not_keep_a_whole_buffer_alive():
    ((_, _, _, (segment,)),) = feed(
        FrameReader(), b"".join(encode_frame(FrameKind.REQUEST, 1, b"", [b"x" * 8]))
    )
    assert len(segment.obj) < 100


@pytest.mark.parametrize("offset_frames", [0, 1, 2])
def test_segments_are_aligned_for_every_element_type(offset_frames):
    reader = FrameReader()
    before = b"".join(encode_frame(FrameKind.NOTICE, 0, b"xyz"))
    data = before * offset_frames + b"".join(
        encode_frame(FrameKind.REQUEST, 1, b"q", [bytes(11), bytes(20_000)])
    )
    segments = feed(reader, data)[-1][3]
    for segment in segments:
        assert np.frombuffer(segment, np.uint8).ctypes.data % 8 == 0


def test_after_a_large_frame_the_reader_goes_back_to_its_small_buffer():
    reader = FrameReader()
    feed(reader, b"".join(encode_frame(FrameKind.NOTICE, 0, bytes(1_000_000))))
    assert reader.buffer_bytes > 1_000_000
    reader.get_buffer()
    assert reader.buffer_bytes == READ_BUFFER_BYTES


def test_a_large_frame_is_received_into_a_buffer_of_exactly_its_size():
    data = b"".join(encode_frame(FrameKind.NOTICE, 0, bytes(300_000)))
    reader = FrameReader()
    feed(reader, data[:5000])
    reader.get_buffer()
    assert reader.buffer_bytes == len(data)


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (header(kind=0), "kind 0"),
        (header(kind=200), "kind 200"),
        (header(flags=1), "flags 0x01"),
        (header(length=4), "multiple of 8"),
        (header(length=8, body=9), "cannot hold"),
        (forged(bytes(16), kind=FrameKind.NOTICE, body=3), "announces 40 bytes"),
        (header(kind=FrameKind.REQUEST, stream=1, segments=3, length=8), "cannot hold"),
        (header(kind=FrameKind.REQUEST, stream=0), "expected a stream above 0"),
        (header(kind=FrameKind.PING, stream=4), "expected stream 0"),
        (header(kind=FrameKind.ERROR, stream=1, segments=1, length=8), "only messages carry segments"),
        (forged(struct.pack("<Q", 9), kind=FrameKind.REQUEST, stream=1, segments=1), "announces 32"),
        (forged(b"\xff" * 8, kind=FrameKind.REQUEST, stream=1, segments=1), "announces 32"),
    ],
)
def test_what_is_no_frame_is_refused_and_says_why(bad, says):
    reader = FrameReader()
    with pytest.raises(ProtocolError, match=says):
        feed(reader, bad)
    with pytest.raises(ProtocolError, match=says):
        reader.next_frame()


FRAMES = {
    "small": encode_frame(FrameKind.NOTICE, 0, b"entries for the log"),
    "segments": encode_frame(FrameKind.REQUEST, 7, b"abc", [b"123456789", b""]),
    "empty": encode_frame(FrameKind.PING),
}


@pytest.mark.parametrize("name", FRAMES)
def test_no_flipped_bit_gets_through(name):
    """Not in a length, a kind, a body, a tensor, nor in the padding; and it is told as damage."""
    data = b"".join(FRAMES[name])
    for bit in range(8 * len(data)):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises((FrameDamaged, ProtocolError)) as told:
            # What a flipped length makes it wait for does come, in the end.
            feed(FrameReader(), bytes(damaged) + bytes(64))
        kind_was_hit = bit // 8 == 4
        assert type(told.value) is FrameDamaged or kind_was_hit


@settings(max_examples=200, deadline=None)
@given(frames(), st.integers(0), st.integers(1, 2**32 - 1))
def test_no_damaged_burst_gets_through(sent, place, burst):
    """A CRC-32 finds every change that lies within 32 bits, wherever it is (Peterson and Brown 1961)."""
    data = bytearray(b"".join(encode_frame(*sent)))
    at = place % (len(data) - 3)
    struct.pack_into("<I", data, at, struct.unpack_from("<I", data, at)[0] ^ burst)
    with pytest.raises((FrameDamaged, ProtocolError)):
        feed(FrameReader(), bytes(data) + bytes(64))


def test_a_damaged_frame_is_a_lost_connection_to_whoever_waits():
    assert issubclass(FrameDamaged, Unavailable)
    reader = FrameReader()
    with pytest.raises(FrameDamaged, match="a NOTICE frame of 32 bytes is not what was sent"):
        feed(reader, encode_frame(FrameKind.NOTICE, 0, b"12345678")[0][:-1] + b"9")
    with pytest.raises(FrameDamaged):
        reader.next_frame()


def test_kinds_that_are_not_expected_are_refused():
    with pytest.raises(ProtocolError, match="HELLO"):
        feed(FrameReader(kinds=[FrameKind.HELLO]), header(kind=FrameKind.PING))


def test_limits_can_change_between_two_frames_of_one_read():
    data = header(kind=FrameKind.HELLO) + b"".join(encode_frame(FrameKind.NOTICE, 0, bytes(9000)))
    reader = FrameReader(kinds=[FrameKind.HELLO], frame_bytes_max=4096)
    reader.get_buffer()[: len(data)] = data
    reader.received(len(data))
    assert reader.next_frame().kind is FrameKind.HELLO
    with pytest.raises(ProtocolError):
        reader.next_frame()
    reader.expect(OPEN_KINDS, 10_000)
    assert len(reader.next_frame().body) == 9000


def test_a_header_that_announces_too_much_is_refused_before_memory_is_set_aside():
    reader = FrameReader(frame_bytes_max=1 << 20)
    tracemalloc.start()
    try:
        with pytest.raises(FrameTooLarge, match="frame_bytes_max=1048576"):
            feed(reader, header(kind=FrameKind.NOTICE, length=0xFFFFFFF0, body=0xFFFFFFF0))
        with pytest.raises(FrameTooLarge, match="segments_max"):
            feed(
                FrameReader(),
                header(kind=FrameKind.REQUEST, stream=1, segments=SEGMENTS_MAX + 1, length=1 << 16),
            )
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_a_frame_over_the_limit_is_not_encoded():
    with pytest.raises(FrameTooLarge, match="frame_bytes_max=4096"):
        encode_frame(FrameKind.NOTICE, 0, bytes(4096), frame_bytes_max=4096)
    with pytest.raises(FrameTooLarge, match="segments_max"):
        encode_frame(FrameKind.REQUEST, 1, b"", [b""] * (SEGMENTS_MAX + 1))
    assert len(encode_frame(FrameKind.NOTICE, 0, bytes(4096 - HEADER_BYTES), frame_bytes_max=4096)[0]) == 4096


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.binary(max_size=80)
        | st.builds(
            header,
            length=st.integers(0, 12).map(lambda n: n * 8) | st.integers(0, 2**32 - 1),
            kind=st.sampled_from(FrameKind),
            flags=st.sampled_from([0, 0, 0, 1]),
            segments=st.integers(0, 4),
            stream=st.integers(0, 3),
            body=st.integers(0, 64),
        ),
        max_size=8,
    ),
    st.integers(1, 200),
)
def test_arbitrary_bytes_never_crash_and_never_take_more_than_the_limit(pieces, cut):
    reader = FrameReader(frame_bytes_max=1 << 17)
    try:
        feed(reader, b"".join(pieces), cut)
    except (ProtocolError, FrameDamaged) as error:
        assert error.message  # noqa: PT017
    assert reader.buffer_bytes <= 1 << 17
    assert reader.buffered_bytes <= 1 << 17
