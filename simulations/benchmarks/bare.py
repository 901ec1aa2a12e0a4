"""Bare requests: what a request and its answer cost when nothing has to be checked, decided or kept.

Two processes with the event loops of nodes and clients, the connection, and messages of msgpack with a length
before each; nothing else. It is the guard's yardstick: whatever makes the machine slower meanwhile (another
processor, another version of Python, other programs that push these out of caches and off cores) makes this
slower as well.

Run as a module this is one of the two, as a worker: ``{"serve": true}``, which greets with its ``port``, or
``{"port": n}``, which asks; its order ``{"callers": n, "seconds": s}`` is answered with a window.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Mapping
from typing import Any, Final, cast

import msgpack

from mcp.net.loop import loop_factory
from simulations.benchmarks.asking import closed_loop
from simulations.benchmarks.workers import obey

LENGTH_BYTES: Final = 4
DATA: Final = bytes(256)


class Messages(asyncio.Protocol):
    """One end of a connection."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember where to send."""
        self._transport = cast(asyncio.Transport, transport)

    def send(self, message: Mapping[str, Any]) -> None:
        """Send a message."""
        body = msgpack.packb(message)
        self._transport.write(len(body).to_bytes(LENGTH_BYTES, "little") + body)

    def data_received(self, data: bytes) -> None:
        """Hand every whole message on."""
        self._buffer += data
        while len(self._buffer) >= LENGTH_BYTES:
            ends = LENGTH_BYTES + int.from_bytes(self._buffer[:LENGTH_BYTES], "little")
            if len(self._buffer) < ends:
                return
            message = msgpack.unpackb(self._buffer[LENGTH_BYTES:ends])
            del self._buffer[:ends]
            self.received(message)

    def received(self, message: Mapping[str, Any]) -> None:
        """A message has come."""


class Answering(Messages):
    """The end that answers."""

    def received(self, message: Mapping[str, Any]) -> None:
        """Answer it."""
        self.send({"id": message["id"], "type": "ANSWER", "payload": {"data": message["payload"]["data"]}})


class Asking(Messages):
    """The end that asks, any number of times at once."""

    def __init__(self) -> None:
        super().__init__()
        self._waiting: dict[str, asyncio.Future[Mapping[str, Any]]] = {}

    def ask(self, number: int) -> asyncio.Future[Mapping[str, Any]]:
        """Ask; a future of the answer."""
        answer: asyncio.Future[Mapping[str, Any]] = asyncio.get_running_loop().create_future()
        self._waiting[str(number)] = answer
        self.send({"id": str(number), "type": "QUESTION", "payload": {"data": DATA}, "ttl": 8})
        return answer

    def received(self, message: Mapping[str, Any]) -> None:
        """Settle whoever waits for it."""
        self._waiting.pop(message["id"]).set_result(message)


async def work(spec: Mapping[str, Any]) -> None:
    """Be one of the two until standard input ends."""
    loop = asyncio.get_running_loop()
    if spec.get("serve"):
        server = await loop.create_server(Answering, "127.0.0.1", 0)
        await obey(_refuse, {"port": server.sockets[0].getsockname()[1]})
        return
    _, asking = await loop.create_connection(Asking, "127.0.0.1", spec["port"])

    def check(_number: int, answer: Mapping[str, Any]) -> str | None:
        return None if answer["payload"]["data"] == DATA else "a bare answer is another than its question"

    async def carry_out(order: Mapping[str, Any]) -> Mapping[str, Any]:
        return (await closed_loop(asking.ask, check, order["callers"], order["seconds"])).to_plain()

    await obey(carry_out)


async def _refuse(_order: Mapping[str, Any]) -> Mapping[str, Any]:
    raise NotImplementedError("the end that answers takes no orders")


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(work(json.loads(sys.argv[1])))
