"""The least that Python at both ends can do: a length, the tensor's bytes, the run, and back. No product.

No names, no deadlines, no checks, no identities, no batching; answers come in the order of the questions.
What a lone request costs here is the floor under everything that is written in Python and talks over a
socket, and so it tells apart what a protocol costs and what no protocol could save.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Final, cast

import numpy as np

from mcp.net.loop import loop_factory
from simulations.benchmarks.in_process import InProcess

LENGTH_BYTES: Final = 4


class Framed(asyncio.Protocol):
    """One end of a connection: ``received`` is called with the bytes of each message."""

    def __init__(self, received: Callable[[Framed, bytes], None]) -> None:
        self._buffer = b""
        self._received = received

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember where to send."""
        self._transport = cast(asyncio.Transport, transport)

    def send(self, body: bytes) -> None:
        """Send a message."""
        self._transport.write(len(body).to_bytes(LENGTH_BYTES, "little") + body)

    def data_received(self, data: bytes) -> None:
        """Hand every whole message on."""
        data = self._buffer + data if self._buffer else data
        start = 0
        while len(data) - start >= LENGTH_BYTES:
            ends = start + LENGTH_BYTES + int.from_bytes(data[start : start + LENGTH_BYTES], "little")
            if len(data) < ends:
                break
            self._received(self, data[start + LENGTH_BYTES : ends])
            start = ends
        self._buffer = data[start:]

    def close(self) -> None:
        """Close it."""
        self._transport.close()


class Answering:
    """What is done with a question. A long run is made in a thread: one, so that answers stay in order."""

    def __init__(self, model: InProcess) -> None:
        self._model = model
        self._thread = None if model.is_short() else ThreadPoolExecutor(max_workers=1)

    def received(self, connection: Framed, question: bytes) -> None:
        """Answer it."""
        if self._thread is None:
            connection.send(self._run(question))
        else:
            run = asyncio.get_running_loop().run_in_executor(self._thread, self._run, question)
            run.add_done_callback(lambda done: connection.send(done.result()))

    def _run(self, question: bytes) -> bytes:
        rows = np.frombuffer(question, np.float32).reshape(-1, self._model.width)
        return b"".join(output.tobytes() for output in self._model.run(rows))


async def serve(model: InProcess, port: int) -> None:
    """Serve on ``port`` of loopback until the process ends."""
    made = partial(Framed, Answering(model).received)
    server = await asyncio.get_running_loop().create_server(made, "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(serve(InProcess(Path(sys.argv[1])), int(sys.argv[2])))
