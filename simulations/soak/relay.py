"""A TCP relay between two real places, each direction through a :class:`~simulations.soak.path.Path`.

A :class:`Relay` listens for one source in place of one target. Every connection that it accepts has two
pipes, one a direction. A pipe reads a piece, decides at once what becomes of it, and holds it until it is
due; so a delay does not slow a stream down, and pieces never overtake each other. The end of a stream
is a piece like any other: a partition hides it as well. What a pipe holds is bounded, and when that is
reached it stops reading, which the sender notices as it would notice a full window.

While a direction is blocked no connection is made either, for its handshake would not come through: the
dialler is left waiting. After a partition a relay goes on at once, where TCP may take as long again as
the partition lasted; whoever gives up earlier finds that out himself.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import socket
import struct
from collections import deque
from collections.abc import Callable
from typing import Final, NamedTuple

from simulations.soak.path import Broken, Path

PIECE_BYTES_MAX: Final = 64 * 1024
CONNECTIONS_MAX: Final = 256
"""How many connections one relay carries; further ones are reset."""
CONNECT_TIMEOUT_S: Final = 5.0
LOOPBACK: Final = "127.0.0.1"


class End(enum.Enum):
    """How a stream ends: in order, or with a reset."""

    CLOSED = enum.auto()
    RESET = enum.auto()


class Held(NamedTuple):
    """A piece that waits: when it is due, on the loop's clock."""

    due: float
    data: bytes | End


class Pipe:
    """One direction of one connection, along ``path``; ``back`` is the other direction."""

    def __init__(
        self, path: Path, back: Path, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._path = path
        self._back = back
        self._reader = reader
        self._writer = writer
        self._held: deque[Held] = deque()
        self._held_bytes = 0
        self._last_due = 0.0
        self._moved = asyncio.Event()

    async def run(self) -> None:
        """Carry until the stream has ended in order. Raises :class:`Broken` when it did not."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._take())
            group.create_task(self._give())

    async def _take(self) -> None:
        while True:
            piece = await self._read()
            if isinstance(piece, bytes) and self._path.clear and not self._held:
                await self._send(piece)
                continue
            self._hold(piece)
            if isinstance(piece, End):
                return
            while self._held_bytes >= self._path.buffer_bytes:
                await self._wait_moved()

    async def _read(self) -> bytes | End:
        try:
            return await self._reader.read(PIECE_BYTES_MAX) or End.CLOSED
        except OSError:
            return End.RESET

    def _hold(self, piece: bytes | End) -> None:
        self._last_due = max(self._last_due, self._path.now() + self._path.lateness())
        if isinstance(piece, bytes):
            piece = self._path.altered(piece)
            self._held_bytes += len(piece)
        self._held.append(Held(self._last_due, piece))
        self._moved.set()

    async def _wait_moved(self) -> None:
        self._moved.clear()
        await self._moved.wait()

    async def _give(self) -> None:
        while True:
            while not self._held:
                await self._wait_moved()
            due, data = self._held[0]
            await self._until_due(due)
            if data is End.RESET:
                raise Broken("its source has reset it")
            if data is End.CLOSED:
                if self._writer.can_write_eof() and not self._writer.is_closing():
                    self._writer.write_eof()
                return
            await self._give_piece(data)
            self._held.popleft()
            self._held_bytes -= len(data)
            self._moved.set()

    async def _until_due(self, due: float) -> None:
        """Wait until nothing blocks the path and the time is there; a path that is well carries at once."""
        if self._path.blocked:
            self._path.note_blocked()
        while True:
            left_s = due - self._path.now()
            if self._path.blocked:
                await self._path.wait_changed()
            elif left_s <= 0 or self._path.clear:
                return
            else:
                await self._path.wait_changed(left_s)

    async def _give_piece(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            count, wait_s = self._path.allowance(len(view))
            if wait_s > 0:
                await self._path.wait_changed(wait_s)
            await self._path.wait_open()
            await self._send(bytes(view[:count]))
            view = view[count:]

    async def _send(self, data: bytes) -> None:
        try:
            self._writer.write(data)
            await self._writer.drain()
        except OSError as error:
            # That the target is gone is news from there, and travels like any other.
            await self._back.wait_open()
            raise Broken("its target is gone") from error


class Connection:
    """Two sockets and what runs between them."""

    def __init__(self, there: Path, back: Path, dialler: Streams, target: Streams) -> None:
        self._ends = (dialler, target)
        self._pipes = (Pipe(there, back, dialler[0], target[1]), Pipe(back, there, target[0], dialler[1]))
        self._carrying = asyncio.ensure_future(self._carry())
        self._swallowing: asyncio.Task[None] | None = None

    @property
    def half_open(self) -> bool:
        """Whether only one end believes in it."""
        return self._swallowing is not None

    async def run(self) -> None:
        """Return when both directions have ended, or it is broken for both ends."""
        try:
            await asyncio.wait([self._carrying])
            if self._swallowing is not None:
                await asyncio.wait([self._swallowing])
        finally:
            self.abort()

    async def _carry(self) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                for pipe in self._pipes:
                    group.create_task(pipe.run())
        except* Broken:
            pass

    def abort(self) -> None:
        """Break it for both ends, with what is on the way."""
        self._carrying.cancel()
        if self._swallowing is not None:
            self._swallowing.cancel()
        for end in self._ends:
            reset(end[1])

    def lose_end(self, *, dialler: bool) -> None:
        """Break it for one end only: the other goes on to believe in it, and is never answered."""
        gone, left = self._ends if dialler else reversed(self._ends)
        if self._swallowing is None:
            self._swallowing = asyncio.ensure_future(_swallow(left[0], self._carrying))
        self._carrying.cancel()
        reset(gone[1])


Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Relay:
    """Listens for ``there.source`` in place of ``there.target``, which serves at ``address``.

    ``back`` is the other direction of the same connections.
    """

    def __init__(self, there: Path, back: Path, address: str, port: int) -> None:
        self.there = there
        self.back = back
        self.port = port
        self._host, _, target_port = address.rpartition(":")
        self._target_port = int(target_port)
        self._server: asyncio.Server | None = None
        self._connections: set[Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def address(self) -> str:
        """What the source is to dial."""
        return f"{LOOPBACK}:{self.port}"

    @property
    def connections(self) -> int:
        """How many connections there are."""
        return len(self._connections)

    async def start(self) -> None:
        """Listen. Port 0 takes a free one. Raises ``OSError`` when the port is taken."""
        self._server = await asyncio.start_server(self._accept, LOOPBACK, self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """Stop listening, and break every connection."""
        if self._server is not None:
            self._server.close()
        for task in list(self._tasks):
            task.cancel()
        self.reset()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def reset(self) -> int:
        """Break every connection that there is; how many there were."""
        return self._each(lambda connection: connection.abort())

    def lose_end(self, place: str) -> int:
        """Break every connection for ``place`` only; how many there were."""
        dialler = place == self.there.source
        return self._each(lambda connection: connection.lose_end(dialler=dialler))

    def end_half_open(self) -> None:
        """Break what only one end believes in for that end too."""
        for connection in [found for found in self._connections if found.half_open]:
            connection.abort()

    def _each(self, act: Callable[[Connection], None]) -> int:
        found = list(self._connections)
        for connection in found:
            act(connection)
        return len(found)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._tasks) >= CONNECTIONS_MAX:
            reset(writer)
            return
        task = asyncio.ensure_future(self._serve((reader, writer)))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, dialler: Streams) -> None:
        try:
            target = await self._connect()
        except (OSError, TimeoutError):
            reset(dialler[1])
            return
        except asyncio.CancelledError:
            reset(dialler[1])
            raise
        connection = Connection(self.there, self.back, prompt(dialler), prompt(target))
        self._connections.add(connection)
        try:
            await connection.run()
        finally:
            self._connections.discard(connection)
            connection.abort()

    async def _connect(self) -> Streams:
        for path in (self.there, self.back):
            if path.blocked:
                path.note_blocked()
        while self.there.blocked or self.back.blocked:
            await self.there.wait_open()
            await self.back.wait_open()
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            return await asyncio.open_connection(self._host, self._target_port)


def prompt(streams: Streams) -> Streams:
    """Let small pieces leave at once, as the nodes' own sockets do, and bound what the writer holds."""
    writer = streams[1]
    found = writer.get_extra_info("socket")
    if found is not None:
        found.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    writer.transport.set_write_buffer_limits(high=PIECE_BYTES_MAX)
    return streams


def reset(writer: asyncio.StreamWriter) -> None:
    """Close the socket at once, so that the other end is told by a reset."""
    found = writer.get_extra_info("socket")
    if found is not None and found.fileno() >= 0:
        with contextlib.suppress(OSError):
            # Linger for 0 seconds: a reset instead of an orderly end.
            found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def _swallow(reader: asyncio.StreamReader, before: asyncio.Task[None]) -> None:
    await asyncio.wait([before])
    with contextlib.suppress(OSError):
        while await reader.read(PIECE_BYTES_MAX):
            pass
