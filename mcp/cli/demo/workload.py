"""What the demo asks of the cluster, and what it remembers of every answer and acknowledgement.

Two kinds of work run side by side: inferences of the scans, each scan once, by one of the three ways;
and durable writes of keys, each key once, so that one that is lost or applied twice shows.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from mcp.cli.demo.digits import Digits
from mcp.client.client import Client
from mcp.client.results import InferenceRecord, Mode
from mcp.clock import Clock
from mcp.errors import McpError

DURABLE_COUNT: Final = 60
REPLICATED_COUNT: Final = 30
REQUEST_TIMEOUT_S: Final = 20.0
REQUESTS_PER_S: Final = 120.0
WRITERS: Final = 3
WRITE_PAUSE_S: Final = 0.03


class Way(StrEnum):
    """The three ways to run an inference."""

    DIRECT = "direct"
    DURABLE = "durable"
    REPLICATED = "replicated"


@dataclass(slots=True)
class Request:
    """One scan to be read, and what came of it. ``label`` is the model's answer."""

    scan: int
    way: Way
    id: str
    label: int | None = None
    latency_s: float = 0.0
    acknowledged: bool = False
    record: InferenceRecord | None = None
    error: McpError | None = None

    @property
    def answered(self) -> bool:
        """Whether the model's answer came back."""
        return self.label is not None


@dataclass(slots=True)
class Write:
    """One durable write of a key of its own. ``acknowledged_at`` is set once the cluster promised it."""

    key: str
    value: str
    begun_at: float
    acknowledged_at: float | None = None
    error: McpError | None = None


def planned(scan_count: int, generator: random.Random) -> list[Request]:
    """Return one request per scan, in a mixed order: most direct, some durable, some replicated."""
    ways = [Way.DURABLE] * DURABLE_COUNT + [Way.REPLICATED] * REPLICATED_COUNT
    ways += [Way.DIRECT] * (scan_count - len(ways))
    generator.shuffle(ways)
    return [Request(scan, way, f"demo-{way}-{scan}") for scan, way in enumerate(ways)]


@dataclass(slots=True)
class Inferences:
    """The stream of requests: begun at a steady rate, whatever the cluster is going through."""

    client: Client
    clock: Clock
    model: str
    digits: Digits
    requests: list[Request]
    _progress: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def run(self) -> None:
        """Ask everything, and return when everything is answered or has failed."""
        async with asyncio.TaskGroup() as group:
            started = self.clock.monotonic()
            for position, request in enumerate(self.requests):
                wait_s = started + position / REQUESTS_PER_S - self.clock.monotonic()
                if wait_s > 0:
                    await asyncio.sleep(wait_s)
                group.create_task(self._ask(request))

    @property
    def finished(self) -> int:
        """How many requests are answered or have failed."""
        return sum(request.answered or request.error is not None for request in self.requests)

    async def reached(self, fraction: float) -> None:
        """Wait until this part of the requests is finished."""
        async with self._progress:
            await self._progress.wait_for(lambda: self.finished >= fraction * len(self.requests))

    async def _ask(self, request: Request) -> None:
        started = self.clock.monotonic()
        try:
            await (self._direct(request) if request.way is Way.DIRECT else self._recorded(request))
        except McpError as error:
            request.error = error
        request.latency_s = self.clock.monotonic() - started
        async with self._progress:
            self._progress.notify_all()

    async def _direct(self, request: Request) -> None:
        scan = self.digits.images[request.scan : request.scan + 1]
        answer = await self.client.infer(self.model, scan, timeout_s=REQUEST_TIMEOUT_S)
        request.label = int(answer.outputs["label"][0])

    async def _recorded(self, request: Request) -> None:
        scan = self.digits.images[request.scan : request.scan + 1]
        mode: Mode = "durable" if request.way is Way.DURABLE else "replicated"
        await self.client.submit(self.model, scan, mode=mode, id=request.id, timeout_s=REQUEST_TIMEOUT_S)
        request.acknowledged = True
        record = await self.client.result(request.id, timeout_s=REQUEST_TIMEOUT_S)
        request.record = record
        if record.outputs is not None:
            request.label = int(record.outputs["label"][0])
        request.error = record.error


@dataclass(slots=True)
class Ledger:
    """Durable writes, one after the other in each of several writers, until it is closed."""

    client: Client
    clock: Clock
    writes: list[Write] = field(default_factory=list)
    closed: bool = False
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    async def run(self) -> None:
        """Write until :meth:`close`, and return when the last write is acknowledged or has failed."""
        async with asyncio.TaskGroup() as group:
            for _ in range(WRITERS):
                group.create_task(self._write_on())

    def close(self) -> None:
        """Begin no further write."""
        self.closed = True

    async def _write_on(self) -> None:
        while not self.closed:
            await self.write()
            await asyncio.sleep(WRITE_PAUSE_S)

    async def write(self) -> Write:
        """Write one key, and remember when it was begun and acknowledged."""
        number = next(self._numbers)
        write = Write(f"demo/{number:06d}", f"value {number}", self.clock.monotonic())
        self.writes.append(write)
        try:
            await self.client.put(write.key, write.value, timeout_s=REQUEST_TIMEOUT_S)
            write.acknowledged_at = self.clock.monotonic()
        except McpError as error:
            write.error = error
        return write

    @property
    def acknowledged(self) -> list[Write]:
        """The writes that the cluster promised."""
        return [write for write in self.writes if write.acknowledged_at is not None]

    def first_commit_after(self, moment: float) -> float | None:
        """Return when the first write was acknowledged that was begun after ``moment``."""
        times = [w.acknowledged_at for w in self.acknowledged if w.begun_at >= moment]
        return min((time for time in times if time is not None), default=None)
