"""What drivers say to one another: round trips, and bytes that no peer should send."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consensus import channel
from consensus.batch import Batch, decode_batch, encode_batch
from consensus.channel import (
    Awaited,
    Chunk,
    ChunkAck,
    Forward,
    Malformed,
    ReadAnswer,
    ReadAsk,
    Refused,
)
from consensus.errors import InvariantViolated
from consensus.interface import SnapshotMeta

IDS = st.lists(st.binary(min_size=16, max_size=16), max_size=4)
NUMBERS = st.integers(0, 2**40)
META = st.builds(SnapshotMeta, NUMBERS, NUMBERS, NUMBERS, st.just(100), st.just("ab" * 32))
MESSAGES = st.one_of(
    IDS.flatmap(lambda ids: st.builds(Forward, NUMBERS, st.just(ids), st.just([b"c"] * len(ids)))),
    st.builds(Refused, st.sampled_from(["BUSY", "NOT_LEADER"]), NUMBERS, IDS),
    st.builds(Chunk, NUMBERS, META, st.integers(0, 90), st.binary(max_size=10)),
    st.builds(ChunkAck, NUMBERS, NUMBERS, NUMBERS, st.booleans()),
    st.builds(Awaited, st.integers(1, 2**40)),
    st.builds(ReadAsk, st.integers(0, 2**62)),
    st.builds(ReadAnswer, st.integers(0, 2**62), st.integers(1, 2**40)),
)


@given(MESSAGES)
def test_a_message_comes_back_as_it_was_sent(message: channel.Message) -> None:
    assert channel.decode(channel.encode(message)) == message


@given(st.binary(max_size=200))
def test_an_engine_message_is_passed_through(body: bytes) -> None:
    assert channel.decode(channel.engine_message(body)) == body


@given(st.binary(max_size=300))
def test_arbitrary_bytes_are_a_message_or_malformed(data: bytes) -> None:
    try:
        message = channel.decode(data)
    except Malformed:
        return
    assert data[0] == 1 or channel.decode(channel.encode(message)) == message  # type: ignore[arg-type]


@pytest.mark.parametrize("offset", [95, 101])
def test_a_chunk_outside_its_snapshot_is_malformed(offset: int) -> None:
    chunk = Chunk(1, SnapshotMeta(5, 1, 1, 100, "ab" * 32), offset, b"0123456789")
    with pytest.raises(Malformed, match="outside"):
        channel.decode(channel.encode(chunk))


def test_a_batch_comes_back_as_it_was_written() -> None:
    batch = Batch(1700000000.25, 2**64 - 1, [b"i" * 16, b"j" * 16], [b"one", b""])
    assert decode_batch(encode_batch(batch)) == batch


@pytest.mark.parametrize("data", [b"\x00", b"\xc1", b"\x95\x02\xcb" + b"\x00" * 8 + b"\x00\x90\x90"])
def test_a_committed_entry_that_cannot_be_read_stops_the_node(data: bytes) -> None:
    with pytest.raises(InvariantViolated):
        decode_batch(data)
