"""One loopback round trip between two processes: what any request to another process costs at least.

Plain asyncio on both sides, without uvloop and without streams, which would add what is not the
network's. Run as a module, this is the other process: it prints its port and echoes until its standard
input ends.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, cast

MESSAGE_BYTES: Final = 64
STARTED_WITHIN_S: Final = 20.0
_REPOSITORY: Final = str(Path(__file__).resolve().parents[2])


class Echo(asyncio.Protocol):
    """Sends back whatever comes."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember where to send."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Send it back."""
        self._transport.write(data)


class RoundTrips(asyncio.Protocol):
    """The asking end: one message at a time."""

    def __init__(self) -> None:
        self._missing = 0
        self._count = 0
        self._back: asyncio.Future[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember where to send."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Count what came back."""
        self._missing -= len(data)
        if self._missing <= 0 and self._back is not None:
            self._back.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail whoever waits."""
        if self._back is not None and not self._back.done():
            self._back.set_exception(exc or ConnectionResetError("the echo process is gone"))

    async def measure(self, count: int) -> list[float]:
        """Durations of ``count`` round trips, one after the other, in seconds."""
        return [await self._once() for _ in range(count)]

    async def _once(self) -> float:
        self._missing = MESSAGE_BYTES
        self._count += 1
        self._back = asyncio.get_running_loop().create_future()
        begun = time.perf_counter()
        # Each is another one, so that nobody takes the answer to one for the answer to the next.
        self._transport.write(self._count.to_bytes(MESSAGE_BYTES, "big"))
        await self._back
        return time.perf_counter() - begun


@asynccontextmanager
async def echo_process() -> AsyncIterator[RoundTrips]:
    """Start the other process and connect to it."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "simulations.benchmarks.echo",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": _REPOSITORY},
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        async with asyncio.timeout(STARTED_WITHIN_S):
            port = int(await process.stdout.readline())
        loop = asyncio.get_running_loop()
        transport, trips = await loop.create_connection(RoundTrips, "127.0.0.1", port)
        try:
            yield trips
        finally:
            transport.close()
    finally:
        process.stdin.close()
        await process.wait()


async def serve() -> None:
    """Echo until standard input ends."""
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_reader(sys.stdin, ended.set)
    server = await loop.create_server(Echo, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await ended.wait()
    server.close()


if __name__ == "__main__":
    asyncio.run(serve())
