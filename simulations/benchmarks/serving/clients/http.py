"""A client for JSON over HTTP/1.1 that costs as little as one in Python can.

Requests are encoded once, before anything is timed; a connection carries one request at a time, as HTTP/1.1
servers have it; an answer's body is kept as it came. It stands in for wrk where that is not installed, and
drives open loops, which wrk cannot.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any, Final, cast

import numpy as np

from simulations.benchmarks.in_process import Outputs
from simulations.benchmarks.serving.subjects import Subject

CONNECTIONS_MAX: Final = 256
"""Further requests wait for a connection; that wait is part of their time."""


class ServerError(Exception):
    """An answer with another status than 200, or none."""


class Connection(asyncio.Protocol):
    """One connection: a request, its answer, the next request."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._answer: asyncio.Future[bytes] | None = None
        self.lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember where to send."""
        self._transport = cast(asyncio.Transport, transport)

    def send(self, request: bytes) -> asyncio.Future[bytes]:
        """Send a request; a future of the answer's body."""
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return self._answer

    def data_received(self, data: bytes) -> None:
        """Collect an answer."""
        self._buffer += data
        head = self._buffer.find(b"\r\n\r\n")
        if head < 0:
            return
        body = head + 4
        ends = body + content_length(bytes(self._buffer[:head]))
        if len(self._buffer) < ends or self._answer is None or self._answer.done():
            return
        if self._buffer.startswith(b"HTTP/1.1 200"):
            self._answer.set_result(bytes(self._buffer[body:ends]))
        else:
            self._answer.set_exception(ServerError(bytes(self._buffer[:80]).decode(errors="replace")))
        del self._buffer[:ends]

    def connection_lost(self, exc: Exception | None) -> None:
        """Whoever waits will wait no longer."""
        self.lost = True
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(ServerError("the server closed the connection"))

    def close(self) -> None:
        """Close it."""
        self._transport.close()


def content_length(head: bytes) -> int:
    """The length that an answer's head declares. Raises :class:`ServerError` where it declares none."""
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    raise ServerError("an answer without a content-length")


class JsonAsker:
    """A client of one server.

    ``target`` has ``host``, ``port``, ``path`` and ``dialect``, which is ``plain``, or ``v2`` for the Open
    Inference Protocol with an input of the name ``input``.
    """

    def __init__(self, subject: Subject, target: Mapping[str, Any]) -> None:
        self._host, self._port = target["host"], target["port"]
        self._dialect = target["dialect"]
        self._requests = requests(subject, target)
        self._free: list[Connection] = []
        self._slots = asyncio.Semaphore(CONNECTIONS_MAX)

    async def connect(self) -> None:
        """Connections are made when they are needed."""

    async def ask(self, row: int) -> bytes:
        """Post a row on a connection that nobody uses."""
        async with self._slots:
            connection = await self._connection()
            try:
                return await connection.send(self._requests[row])
            finally:
                if not connection.lost:
                    self._free.append(connection)

    async def _connection(self) -> Connection:
        while self._free:
            connection = self._free.pop()
            if not connection.lost:  # servers close connections that are idle for long
                return connection
        loop = asyncio.get_running_loop()
        return (await loop.create_connection(Connection, self._host, self._port))[1]

    def read(self, answer: bytes, like: Outputs) -> Outputs:
        """Decode a body."""
        outputs = json.loads(answer)["outputs"]
        if self._dialect == "v2":
            outputs = {output["name"]: output["data"] for output in outputs}
        return {
            name: np.array(outputs[name], value.dtype).reshape(value.shape) for name, value in like.items()
        }

    async def close(self) -> None:
        """Close every connection."""
        for connection in self._free:
            connection.close()


def bodies(subject: Subject, target: Mapping[str, Any]) -> list[bytes]:
    """The JSON of a request for each row."""
    if target["dialect"] == "v2":
        shape = [1, subject.rows.shape[1]]
        head = {"name": target["input"], "shape": shape, "datatype": "FP32"}
        return [
            json.dumps({"inputs": [head | {"data": row.tolist()}]}, separators=(",", ":")).encode()
            for row in subject.rows
        ]
    return [json.dumps({"inputs": [row.tolist()]}, separators=(",", ":")).encode() for row in subject.rows]


def requests(subject: Subject, target: Mapping[str, Any]) -> list[bytes]:
    """The whole request for each row."""
    head = f"POST {target['path']} HTTP/1.1\r\nHost: {target['host']}\r\nContent-Type: application/json\r\n"
    return [f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body for body in bodies(subject, target)]
