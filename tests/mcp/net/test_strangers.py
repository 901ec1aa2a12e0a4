"""Addresses at which something answers that is no node."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from mcp.client.client import Client
from mcp.errors import ProtocolError, Unavailable
from mcp.net.dial import connect
from mcp.net.strangers import stranger
from mcp.wire.frame import FrameKind, encode_frame
from mcp.wire.handshake import Identity, Role

HTTP = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"
SETTINGS = bytes.fromhex("000012040000000000")
ALERT = bytes.fromhex("15030300020246")


@pytest.mark.parametrize(
    ("first", "who"),
    [
        (HTTP, "an HTTP server (it sent 'HTTP/1.1 400 Bad Request')"),
        (SETTINGS, "an HTTP/2 server"),
        (b"SSH-2.0-OpenSSH_9.2p1\r\n", "an SSH server"),
        (b"-ERR unknown command\r\n", "another program (it sent b'-ERR"),
        (b"\xff\xff\n\xff\xff\xff", "another program"),
    ],
)
def test_what_is_no_frame_is_told_by_its_first_bytes(first: bytes, who: str) -> None:
    told = stranger(first)
    assert told is not None
    assert f"is no node but {who}" in told.message


def test_a_frame_whole_or_begun_is_no_stranger() -> None:
    for kind in FrameKind:
        frame = b"".join(encode_frame(kind, 1 if 16 <= kind < 20 or kind > 23 else 0))
        assert not any(stranger(frame[:size]) for size in range(len(frame) + 1))
    assert stranger(b"", over=True) is None
    assert stranger(b"no") is None
    assert "another program" in str(stranger(b"no", over=True))
    assert "speaks TLS" in str(stranger(ALERT, over=True))


@asynccontextmanager
async def answering(sent: bytes, *, close: bool = False) -> AsyncIterator[str]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if close:
            await reader.read(4096)
        writer.write(sent)
        if not close:
            await reader.read()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"


@pytest.mark.parametrize(
    ("sent", "close", "why"),
    [(HTTP, False, "an HTTP server"), (ALERT, True, "speaks TLS"), (b"bye", True, "another program")],
)
def test_whoever_dials_one_hears_it_at_once(sent: bytes, close: bool, why: str) -> None:
    async def scenario() -> None:
        async with answering(sent, close=close) as address:
            with pytest.raises(ProtocolError, match=f"{address}: what answers here .*{why}"):
                await connect(address, Identity("mcp", "c", b"", Role.CLIENT), timeout_s=60)

    asyncio.run(scenario())


def test_one_that_says_nothing_is_told_from_nobody() -> None:
    async def scenario() -> None:
        async with answering(b"") as address:
            with pytest.raises(
                Unavailable, match=f"{address} did not answer within .* though somebody accepts"
            ):
                await connect(address, Identity("mcp", "c", b"", Role.CLIENT), timeout_s=0.05)

    asyncio.run(scenario())


def test_a_call_ends_at_once_a_command_too() -> None:
    async def scenario() -> None:
        async with answering(HTTP) as address, Client([address]) as client:
            began = time.monotonic()
            for call in (client.get("key", timeout_s=60), client.put("key", 1, timeout_s=60)):
                with pytest.raises(ProtocolError, match="is no node but an HTTP server"):
                    await call
            assert time.monotonic() - began < 30

    asyncio.run(scenario())
