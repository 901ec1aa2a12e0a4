"""What is under way at once is bounded, and given back whatever happens."""

from __future__ import annotations

import asyncio
import gzip
import zlib
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp.errors import Busy, InvalidArgument, McpError, TooLarge, Unavailable
from mcp.gateway.body import Receive, read_body
from mcp.gateway.room import Room


def test_a_request_more_than_fits_is_too_much() -> None:
    room = Room(requests_max=2)
    with room.request() as first, room.request() as second, room.request() as third:
        first.enter()
        first.enter()
        second.enter()
        with pytest.raises(Busy, match="requests_max=2"):
            third.enter()
    assert room.requests == 0


def test_bytes_more_than_fit_are_too_much_and_nothing_is_taken() -> None:
    room = Room(bytes_max=10)
    with room.request() as held:
        held.grow(9)
        with pytest.raises(Busy, match="bodies_bytes_max=10"):
            held.grow(2)
        assert room.bytes == 9
        held.grow(1)
    assert room.bytes == 0


def test_what_is_held_is_given_back_after_an_error() -> None:
    room = Room(requests_max=1, bytes_max=5)

    def fails() -> None:
        with room.request() as held:
            held.enter()
            held.grow(5)
            raise KeyError

    with pytest.raises(KeyError):
        fails()
    assert (room.requests, room.bytes) == (0, 0)


def arriving(*pieces: bytes, gone: bool = False) -> Receive:
    messages: list[dict[str, Any]] = [{"type": "http.request", "body": p, "more_body": True} for p in pieces]
    if gone:
        messages.append({"type": "http.disconnect"})
    else:
        messages[-1]["more_body"] = False
    left = iter(messages)

    async def receive() -> dict[str, Any]:
        return next(left)

    return receive


def read(
    *pieces: bytes,
    headers: Mapping[str, str] | None = None,
    room: Room | None = None,
    bytes_max: int = 1000,
    gone: bool = False,
) -> bytes:
    async def reading() -> bytes:
        with (room or Room()).request() as held:
            body = await read_body(arriving(*pieces, gone=gone), headers or {}, held, bytes_max)
            if room is not None:
                assert room.bytes >= len(body)
            return bytes(body)

    return asyncio.run(reading())


@given(st.lists(st.binary(max_size=20), min_size=1, max_size=6), st.none() | st.integers(0, 60))
def test_a_body_is_its_pieces_and_is_held_whatever_length_was_told(
    pieces: list[bytes], told: int | None
) -> None:
    headers = {} if told is None else {"content-length": str(told)}
    assert read(*pieces, headers=headers, room=Room()) == b"".join(pieces)


def test_a_body_of_unknown_length_is_read_no_further_than_fits() -> None:
    with pytest.raises(TooLarge, match="body_bytes_max=10"):
        read(b"x" * 6, b"x" * 5, b"never read", bytes_max=10)
    with pytest.raises(TooLarge):
        read(b"x" * 11, bytes_max=10)
    room = Room(bytes_max=8)
    with pytest.raises(Busy):
        read(b"x" * 6, b"x" * 5, room=room)
    assert room.bytes == 0


@pytest.mark.parametrize("length", ["11", "9" * 100])
def test_a_length_that_is_too_large_is_refused_before_the_first_byte(length: str) -> None:
    with pytest.raises(TooLarge):
        read(gone=True, headers={"content-length": length}, bytes_max=10)


def test_a_length_that_is_no_number_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="Content-Length"):
        read(b"", headers={"content-length": "-1"})


def test_who_goes_away_has_sent_nothing() -> None:
    with pytest.raises(Unavailable):
        read(b"half", gone=True)


@pytest.mark.parametrize(("encoding", "pack"), [("gzip", gzip.compress), ("DEFLATE", zlib.compress)])
def test_packed_bodies_are_unpacked_within_bounds(encoding: str, pack: Any) -> None:
    headers = {"content-encoding": encoding}
    assert read(pack(b"x" * 900), headers=headers, room=Room()) == b"x" * 900
    with pytest.raises(TooLarge):
        read(pack(b"x" * 1001), headers=headers)
    with pytest.raises(Busy):
        read(pack(b"x" * 900), headers=headers, room=Room(bytes_max=800))
    for broken in (pack(b"x")[:-2], pack(b"x") + b"more", b"plain", b""):
        with pytest.raises(InvalidArgument, match="Content-Encoding"):
            read(broken, headers=headers)


@given(st.binary(max_size=60), st.sampled_from(["gzip", "deflate"]))
def test_random_bytes_are_no_packed_body(data: bytes, encoding: str) -> None:
    try:
        read(data, headers={"content-encoding": encoding})
    except McpError as refusal:
        assert isinstance(refusal, InvalidArgument | TooLarge)  # noqa: PT017


def test_an_unknown_packing_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="gzip or deflate"):
        read(b"x", headers={"content-encoding": "br"})
    assert read(b"x", headers={"content-encoding": "identity"}) == b"x"
