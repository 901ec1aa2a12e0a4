"""Other processes that do what they are told: one JSON object a line in, one out.

Clients have processes of their own, so that neither a server nor the suite shares their core's time. A worker
starts once, connects, and then carries out one order after the other, so that every round finds it warm.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

from mcp.cli.demo.cluster import environment
from mcp.errors import Unavailable
from mcp.node.collector import collect_rarely

STARTED_WITHIN_S: Final = 60.0
ORDER_WITHIN_S: Final = 900.0
LINE_BYTES_MAX: Final = 16 * 2**20
STOPPED_WITHIN_S: Final = 5.0
LOG_BYTES_SHOWN: Final = 2000
Handler = Callable[[Mapping[str, Any]], Awaitable[Mapping[str, Any]]]


class Program:
    """A process whose messages go to a file of ``folder``; the same command starts it again."""

    def __init__(self, name: str, command: Sequence[str], folder: Path) -> None:
        self.name = name
        self.log = folder / f"{name.replace(' ', '-').replace('/', '-')}.log"
        self._command = command
        self.process: Process | None = None

    @property
    def running(self) -> bool:
        """Whether it was started and has not ended."""
        return self.process is not None and self.process.returncode is None

    @property
    def pid(self) -> int:
        """The number of the process, which was started."""
        assert self.process is not None
        return self.process.pid

    @property
    def last_words(self) -> str:
        """The end of its log, for an error."""
        return last_words(self.log)

    async def start(self, **pipes: int) -> Process:
        """Start it, without waiting until it is ready for anything."""
        with self.log.open("ab") as messages:
            self.process = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=pipes.get("stdin", asyncio.subprocess.DEVNULL),
                stdout=pipes.get("stdout", messages),
                stderr=messages,
                cwd=self.log.parent,
                env=environment(),
                limit=LINE_BYTES_MAX,
                # Ctrl-C is for the suite, which then stops them itself.
                start_new_session=True,
            )
        return self.process

    async def listening(self, port: int) -> None:
        """Wait until it accepts connections on ``port`` of loopback.

        Raises :class:`~mcp.errors.Unavailable` when it ends or takes too long.
        """
        deadline = asyncio.get_running_loop().time() + STARTED_WITHIN_S
        while asyncio.get_running_loop().time() < deadline and self.running:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.05)
            else:
                writer.close()
                return
        raise Unavailable(f"{self.name} does not listen on port {port}; {self.last_words}")

    async def kill(self) -> None:
        """Send SIGKILL, and wait until it is gone."""
        if self.process is not None and self.running:
            self.process.kill()
            await self.process.wait()

    async def stop(self) -> None:
        """Ask it to end, and kill it when it takes too long."""
        if self.process is None or not self.running:
            return
        if self.process.stdin is not None:
            self.process.stdin.close()
        else:
            self.process.terminate()
        try:
            async with asyncio.timeout(STOPPED_WITHIN_S):
                await self.process.wait()
        except TimeoutError:
            await self.kill()


class Worker:
    """A process that carries out orders; see :func:`worker`."""

    def __init__(self, name: str, command: Sequence[str], folder: Path) -> None:
        self.program = Program(name, command, folder)
        self.greeting: Mapping[str, Any] = {}

    @property
    def name(self) -> str:
        """What it is called in errors."""
        return self.program.name

    @property
    def pid(self) -> int:
        """The number of the process."""
        return self.program.pid

    async def order(self, **fields: Any) -> Mapping[str, Any]:
        """Have an order carried out, and return what the worker answers.

        Raises :class:`~mcp.errors.Unavailable` with the end of its log when it ended or takes too long.
        """
        process = self.program.process
        assert process is not None
        assert process.stdin is not None
        process.stdin.write(json.dumps(fields).encode() + b"\n")
        return await self._answer(ORDER_WITHIN_S)

    async def _answer(self, within_s: float) -> Mapping[str, Any]:
        process = self.program.process
        assert process is not None
        assert process.stdout is not None
        try:
            async with asyncio.timeout(within_s):
                line = await process.stdout.readline()
        except TimeoutError:
            raise Unavailable(
                f"{self.name} did not answer in {within_s:.0f} s; {self.program.last_words}"
            ) from None
        if not line:
            raise Unavailable(f"{self.name} ended; {self.program.last_words}")
        answer: Mapping[str, Any] = json.loads(line)
        return answer

    async def greet(self) -> None:
        """Start it and wait until it is ready; what it then says of itself is its ``greeting``."""
        await self.program.start(stdin=PIPE, stdout=PIPE)
        self.greeting = await self._answer(STARTED_WITHIN_S)


@asynccontextmanager
async def worker(name: str, module: str, spec: Mapping[str, Any], folder: Path) -> AsyncIterator[Worker]:
    """Start ``python -m module SPEC`` and wait until it is ready; its log goes to a file in ``folder``."""
    made = Worker(name, [sys.executable, "-m", module, json.dumps(spec)], folder)
    try:
        await made.greet()
        yield made
    finally:
        await made.program.stop()


def last_words(log: Path) -> str:
    """The end of a log, for an error."""
    text = log.read_bytes()[-LOG_BYTES_SHOWN:].decode(errors="replace").strip()
    return f"its last words: {text}" if text else "it logged nothing"


async def obey(handler: Handler, greeting: Mapping[str, Any] | None = None) -> None:
    """Be a worker: carry out orders from standard input until it ends.

    Everybody's worker looks for garbage as a node does. With Python's defaults, callers are held up for 30 ms
    about every second, and that would be in the figures of whomever they ask.
    """
    reader = asyncio.StreamReader(limit=LINE_BYTES_MAX)
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(0, "rb"))
    collect_rarely()
    say(greeting or {})
    while line := await reader.readline():
        say(await handler(json.loads(line)))


def say(answer: Mapping[str, Any]) -> None:
    """Answer on standard output."""
    print(json.dumps(answer), flush=True)
