"""Artefacts by content hash: reading them, uploading them in chunks, fetching them.

An upload asks first what the node has, and sends only what is missing; a few chunks are under way at a
time. A node takes chunks in order and says with every answer how far it is, so a chunk that overtook
another is not taken and is sent again. :class:`UploadPlan` is that bookkeeping, without the sending.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path
from typing import Any, Final

from mcp.client.answers import required
from mcp.client.exchange import Exchange, Request
from mcp.client.kinds import CallKind
from mcp.errors import (
    DeadlineExceeded,
    InvalidArgument,
    McpError,
    NotFound,
    OutcomeUnknown,
    ProtocolError,
    StorageCorrupt,
    TooLarge,
    Unavailable,
)

CHUNK_BYTES_MAX: Final = 1024 * 1024
"""How much of an artefact travels in one message."""
CHUNKS_IN_FLIGHT_MAX: Final = 4
CHUNK_TIMEOUT_S: Final = 5.0
"""A node that does not answer for one chunk within this time is given up for now."""
FETCHED_BYTES_MAX: Final = 1024**3
"""The largest artefact that is fetched into memory."""
STALLS_MAX: Final = 3
"""Rounds of chunks without any progress until the node is given up."""

Progress = Callable[[int, int], None]
"""Told how many bytes of how many the node has. Falls back when another node takes over."""


class Artefact:
    """The bytes of a model, in memory or in a file, with their SHA-256."""

    def __init__(self, content: bytes | memoryview | int, size: int, digest: str) -> None:
        """Prefer :meth:`open`. ``content`` is the bytes or a file descriptor, which is owned."""
        self._content = content
        self.size = size
        self.digest = digest

    @classmethod
    def open(cls, model: bytes | bytearray | memoryview | str | os.PathLike[str]) -> Artefact:
        """Hash ``model``: its bytes, or the path of its file. Blocks on the disk.

        Raises :class:`~mcp.errors.InvalidArgument` for a file that cannot be read, and for no bytes.
        """
        if isinstance(model, bytes | bytearray | memoryview):
            content = bytes(model)
            artefact = cls(content, len(content), hashlib.sha256(content).hexdigest())
        elif isinstance(model, str | os.PathLike):
            artefact = cls._of_file(Path(model))
        else:
            raise InvalidArgument(f"a model is given as bytes or as a path, not as {type(model).__name__}")
        if artefact.size == 0:
            artefact.close()
            raise InvalidArgument("the model has no bytes; give the content of an ONNX file, or its path")
        return artefact

    @classmethod
    def _of_file(cls, path: Path) -> Artefact:
        try:
            # Looked at first: opening a pipe waits for whoever writes to it, and a device has no end.
            if path.exists() and not path.is_file():
                raise InvalidArgument(f"the model file {path} is no file; give the path of an ONNX file")
            descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
        except OSError as error:
            raise InvalidArgument(f"the model file {path} cannot be opened: {error.strerror}") from error
        except ValueError as error:  # a NUL, or a surrogate: no path of any file
            raise InvalidArgument(f"{str(path)!r:.80} is no path of a file: {error}; give another") from error
        try:
            hasher, size = hashlib.sha256(), 0
            while chunk := os.pread(descriptor, CHUNK_BYTES_MAX, size):
                hasher.update(chunk)
                size += len(chunk)
        except OSError as error:
            os.close(descriptor)
            raise InvalidArgument(f"the model file {path} cannot be read: {error.strerror}") from error
        return cls(descriptor, size, hasher.hexdigest())

    def read(self, offset: int, length: int) -> bytes | memoryview:
        """``length`` bytes from ``offset``, all of them there. Blocks on the disk when it is a file."""
        if not isinstance(self._content, int):
            return memoryview(self._content)[offset : offset + length]
        try:
            chunk = os.pread(self._content, length, offset)
        except OSError as error:
            raise InvalidArgument(f"the model file cannot be read any more: {error.strerror}") from error
        if len(chunk) != length:
            raise InvalidArgument("the model file became shorter while it was uploaded; deploy it again")
        return chunk

    def close(self) -> None:
        """Close the file, if there is one. The bytes cannot be read afterwards."""
        if isinstance(self._content, int):
            os.close(self._content)
        self._content = b""


class UploadPlan:
    """Which chunk to send next, given what the node says it has. Pure."""

    def __init__(
        self,
        size: int,
        received: int = 0,
        *,
        chunk_bytes: int = CHUNK_BYTES_MAX,
        in_flight_max: int = CHUNKS_IN_FLIGHT_MAX,
        stalls_max: int = STALLS_MAX,
    ) -> None:
        self.size = size
        self.received = received
        self.in_flight = 0
        self._chunk_bytes = chunk_bytes
        self._in_flight_max = in_flight_max
        self._stalls_max = stalls_max
        self._next = received
        self._round_start = received
        self._stalls = 0
        self._rewind = False
        self.complete = False

    def next_chunk(self) -> tuple[int, int] | None:
        """``(offset, length)`` of a chunk to send now, or ``None``: wait for an answer first."""
        if self.complete or self._rewind or self.in_flight >= self._in_flight_max or self._next >= self.size:
            return None
        offset, length = self._next, min(self._chunk_bytes, self.size - self._next)
        self._next += length
        self.in_flight += 1
        return offset, length

    def answered(self, offset: int, length: int, *, received: int, complete: bool) -> None:
        """The node answered the chunk at ``offset``: it has ``received`` bytes from the start.

        Raises :class:`~mcp.errors.Unavailable` when the node makes no progress any more.
        """
        self.in_flight -= 1
        self.complete = self.complete or complete
        taken = received >= offset + length
        self.received = max(self.received, received) if taken else received
        self._rewind = self._rewind or not taken
        at_end = self._next >= self.size and not self.complete
        if self.in_flight == 0 and not self.complete and (self._rewind or at_end):
            self._start_round(received)

    def _start_round(self, received: int) -> None:
        """Go on from where the node is: carefully, one chunk at a time, if the last round brought nothing."""
        if received <= self._round_start:
            self._in_flight_max = 1
            self._stalls += 1
        if self._stalls > self._stalls_max:
            raise Unavailable(
                f"the node has {received} of {self.size} bytes and takes no more; another node may"
            )
        self.received = self._next = self._round_start = received
        self._rewind = False


async def upload(
    exchange: Exchange, address: str, artefact: Artefact, deadline: float, progress: Progress | None
) -> None:
    """Bring ``artefact`` to the node at ``address``, sending only what it lacks.

    Raises :class:`~mcp.errors.Unavailable` for whatever another node may do better: the command that
    needs the bytes was not sent yet, so nothing is in doubt.
    """
    try:
        await _upload(exchange, address, artefact, deadline, progress)
    except (OutcomeUnknown, DeadlineExceeded) as error:
        raise Unavailable(f"the upload to {address} broke off: {error.code}: {error.message}") from error


async def _upload(
    exchange: Exchange, address: str, artefact: Artefact, deadline: float, progress: Progress | None
) -> None:
    stat = Request(CallKind.READ, "BLOB_STAT", {"digest": artefact.digest})
    answer = await exchange.attempt(stat, address, _chunk_timeout(exchange, deadline))
    received, complete = _blob_status(answer.payload)
    if complete:
        _tell(progress, artefact.size, artefact.size)
        return
    send = partial(_send_chunks, exchange, address, artefact, deadline=deadline, progress=progress)
    try:
        await send(UploadPlan(artefact.size, received))
    except StorageCorrupt:
        if received == 0:
            raise
        # What an earlier upload had left there was damaged; the node dropped it, so all of it goes.
        await send(UploadPlan(artefact.size))


async def _send_chunks(
    exchange: Exchange,
    address: str,
    artefact: Artefact,
    plan: UploadPlan,
    *,
    deadline: float,
    progress: Progress | None,
) -> None:
    async def send(offset: int, chunk: bytes | memoryview) -> None:
        fields = {"digest": artefact.digest, "size": artefact.size, "offset": offset}
        request = Request(CallKind.TRANSFER, "BLOB_PUT", fields, (chunk,))
        answer = await exchange.attempt(request, address, _chunk_timeout(exchange, deadline))
        received, complete = _blob_status(answer.payload)
        plan.answered(offset, len(chunk), received=received, complete=complete)
        _tell(progress, artefact.size if complete else plan.received, artefact.size)

    sending: set[asyncio.Task[None]] = set()
    try:
        while not plan.complete:
            # Read one after the other and sent in that order: nodes take chunks in order.
            while piece := plan.next_chunk():
                chunk = await asyncio.to_thread(artefact.read, *piece)
                sending.add(asyncio.create_task(send(piece[0], chunk)))
            if not sending:
                raise ProtocolError(f"{address} has all {artefact.size} bytes and does not say so")
            done, _ = await asyncio.wait(sending, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
            sending -= done
    finally:
        await _end(sending)


async def _end(tasks: Collection[asyncio.Task[Any]]) -> None:
    """Cancel what is under way, and look at what has failed besides."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def fetch(exchange: Exchange, digest: str, size: int, holder: str | None, deadline: float) -> bytes:
    """The bytes of an artefact, verified: from ``holder`` if it answers, else from any node that has it."""
    if size > FETCHED_BYTES_MAX:
        raise TooLarge(f"an artefact of {size} bytes is over fetched_bytes_max={FETCHED_BYTES_MAX}")
    first = exchange.routing.address_of(holder) if holder else None
    others = [address for address in exchange.routing.addresses if address != first]
    problem: McpError = NotFound(f"no node holds {digest[:12]}…")
    for address in [first, *others] if first else others:
        try:
            content = await _fetch_from(exchange, address, digest, size, deadline)
        except McpError as error:
            problem = error
            continue
        if hashlib.sha256(content).hexdigest() == digest:
            return content
        problem = StorageCorrupt(f"{address} sent other bytes than {digest[:12]}… promises")
    raise problem


async def _fetch_from(exchange: Exchange, address: str, digest: str, size: int, deadline: float) -> bytes:
    room = asyncio.Semaphore(CHUNKS_IN_FLIGHT_MAX)

    async def chunk(offset: int) -> bytes:
        fields = {"digest": digest, "offset": offset, "length": min(CHUNK_BYTES_MAX, size - offset)}
        async with room:
            request = Request(CallKind.TRANSFER, "BLOB_GET", fields)
            answer = await exchange.attempt(request, address, _chunk_timeout(exchange, deadline))
        if len(answer.segments) != 1:
            raise ProtocolError(f"{address} answered BLOB_GET with {len(answer.segments)} segments, not one")
        return bytes(answer.segments[0])

    tasks = [asyncio.create_task(chunk(offset)) for offset in range(0, size, CHUNK_BYTES_MAX)]
    try:
        return b"".join(await asyncio.gather(*tasks))
    finally:
        await _end(tasks)


def _chunk_timeout(exchange: Exchange, deadline: float) -> float:
    left_s = deadline - exchange.clock.monotonic()
    if left_s <= 0:
        raise DeadlineExceeded(
            "the time was up before all of the artefact was moved; allow more with timeout_s"
        )
    return min(left_s, CHUNK_TIMEOUT_S)


def _blob_status(payload: dict[str, object]) -> tuple[int, bool]:
    what = "the answer to a blob's request"
    return required(payload, "received", int, what), required(payload, "complete", bool, what)


def _tell(progress: Progress | None, done: int, total: int) -> None:
    if progress is not None:
        progress(done, total)
