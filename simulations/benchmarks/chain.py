"""The bare chain: what a lone durable command costs when nothing has to be decided, checked or kept.

The same processes as a cluster's, on the same disk and over the same kind of connections: a client sends 64
bytes to a leader, which passes them to two followers and makes a record durable meanwhile; they make theirs
durable and answer; the first answer lets the leader answer the client. No consensus, no frames, no state, no
limits: whatever a cluster takes beyond this is its own work, and nothing in Python that has these hops can
take less.

Run as a module, this is one of the other processes: ``follower FOLDER`` or ``leader FOLDER PORT PORT``. It
prints its port and goes on until its standard input ends.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Final, cast

from mcp.net.loop import loop_factory
from simulations.benchmarks.disk import RECORD_BYTES
from simulations.benchmarks.echo import STARTED_WITHIN_S, RoundTrips

FOLLOWERS: Final = 2
_REPOSITORY: Final = str(Path(__file__).resolve().parents[2])


class Record:
    """A file that grows by one durable record after the other."""

    def __init__(self, folder: str) -> None:
        self._file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115 (it ends with the process)

    def add(self) -> None:
        """Append a record and wait until it is durable."""
        descriptor = self._file.fileno()
        os.write(descriptor, bytes(RECORD_BYTES))
        os.fdatasync(descriptor)


class Follower(asyncio.Protocol):
    """Makes a record durable for every message, and sends the message back."""

    def __init__(self, record: Record) -> None:
        self._record = record

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember where to answer."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """One message at a time comes, so one piece of data is one message."""
        self._record.add()
        self._transport.write(data)


class Leader(asyncio.Protocol):
    """The client's end of the leader."""

    def __init__(self, record: Record, followers: list[asyncio.Transport]) -> None:
        self._record, self._followers = record, followers
        self.waiting: bytes | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember where to answer."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Pass it on, and write meanwhile."""
        self.waiting = data
        for follower in self._followers:
            follower.write(data)
        self._record.add()

    def acknowledged(self, data: bytes) -> None:
        """A follower has it: the first one counts."""
        if data == self.waiting:
            self.waiting = None
            self._transport.write(data)


class Acknowledgements(asyncio.Protocol):
    """A follower's end of the leader."""

    def __init__(self, leader: list[Leader]) -> None:
        self._leader = leader

    def data_received(self, data: bytes) -> None:
        """A message comes back."""
        self._leader[0].acknowledged(data)


@asynccontextmanager
async def chain(folder: Path) -> AsyncIterator[RoundTrips]:
    """Start the processes, with their records in ``folder``, and connect to the leader."""
    async with AsyncExitStack() as stack:
        ports = [await stack.enter_async_context(_process("follower", str(folder))) for _ in range(FOLLOWERS)]
        port = await stack.enter_async_context(_process("leader", str(folder), *map(str, ports)))
        loop = asyncio.get_running_loop()
        transport, commands = await loop.create_connection(RoundTrips, "127.0.0.1", port)
        stack.callback(transport.close)
        yield commands


@asynccontextmanager
async def _process(*arguments: str) -> AsyncIterator[int]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "simulations.benchmarks.chain",
        *arguments,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": _REPOSITORY},
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        async with asyncio.timeout(STARTED_WITHIN_S):
            port = int(await process.stdout.readline())
        yield port
    finally:
        process.stdin.close()
        await process.wait()


async def serve(role: str, folder: str, *ports: str) -> None:
    """Be one of the processes until standard input ends."""
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_reader(sys.stdin, ended.set)
    record = Record(folder)
    leaders: list[Leader] = []
    followers: list[asyncio.Transport] = []
    for port in ports:
        transport, _ = await loop.create_connection(lambda: Acknowledgements(leaders), "127.0.0.1", int(port))
        followers.append(transport)

    def accept() -> asyncio.Protocol:
        if role == "follower":
            return Follower(record)
        leaders[:] = [Leader(record, followers)]
        return leaders[0]

    server = await loop.create_server(accept, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await ended.wait()
    server.close()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(serve(*sys.argv[1:]))
