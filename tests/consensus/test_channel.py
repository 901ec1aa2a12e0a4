"""What drivers say to one another: round trips, and bytes that no peer should send."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consensus import channel
from consensus.batch import Batch, decode_batch, encode_batch
from consensus.channel import (
    Awaited,
    ChangeAnswer,
    ChangeAsk,
    Chunk,
    ChunkAck,
    Forward,
    Malformed,
    ReadAnswer,
    ReadAsk,
    Refused,
)
from consensus.configuration import AddObserver, Configuration, Promote, Remove
from consensus.errors import InvariantViolated
from consensus.interface import SnapshotMeta

IDS = st.lists(st.binary(min_size=16, max_size=16), max_size=4)
NUMBERS = st.integers(0, 2**40)
MEMBERS = st.sampled_from([b"", Configuration.of_voters("abc").encode()])
META = st.builds(SnapshotMeta, NUMBERS, NUMBERS, NUMBERS, st.just(100), st.just("ab" * 32), MEMBERS)
CHANGES = st.sampled_from([AddObserver("n4", 7, "n4:1"), Promote("n4", 7), Remove("n4", 7)])
MESSAGES = st.one_of(
    IDS.flatmap(lambda ids: st.builds(Forward, NUMBERS, st.just(ids), st.just([b"c"] * len(ids)))),
    st.builds(Refused, st.sampled_from(["BUSY", "NOT_LEADER"]), NUMBERS, IDS),
    st.builds(Chunk, NUMBERS, META, st.integers(0, 90), st.binary(max_size=10)),
    st.builds(ChunkAck, NUMBERS, NUMBERS, NUMBERS, st.booleans()),
    st.builds(Awaited, st.integers(1, 2**40)),
    st.builds(ReadAsk, st.integers(0, 2**62)),
    st.builds(ReadAnswer, st.integers(0, 2**62), st.integers(1, 2**40)),
    st.builds(ChangeAsk, NUMBERS, NUMBERS, CHANGES),
    st.builds(ChangeAnswer, NUMBERS, NUMBERS, st.sampled_from(["", "BUSY"]), st.text(max_size=20)),
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


@pytest.mark.parametrize(
    "change",
    [
        {"index": -1},
        {"size": -1},
        {"sha256": "ab"},
        {"configuration": b"x"},
        {"configuration": Configuration().encode()},
    ],
)
def test_a_chunk_of_a_snapshot_that_cannot_be_is_malformed(change: dict[str, Any]) -> None:
    meta = replace(SnapshotMeta(5, 1, 1, 100, "ab" * 32), **change)
    with pytest.raises(Malformed):
        channel.decode(channel.encode(Chunk(1, meta, 0, b"0")))


def test_a_batch_comes_back_as_it_was_written() -> None:
    batch = Batch(1700000000.25, 2**64 - 1, [b"i" * 16, b"j" * 16], [b"one", b""])
    assert decode_batch(encode_batch(batch)) == batch


@pytest.mark.parametrize("data", [b"\x00", b"\xc1", b"\x95\x02\xcb" + b"\x00" * 8 + b"\x00\x90\x90"])
def test_a_committed_entry_that_cannot_be_read_stops_the_node(data: bytes) -> None:
    with pytest.raises(InvariantViolated):
        decode_batch(data)
