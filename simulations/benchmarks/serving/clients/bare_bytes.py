"""A client for bare bytes: one connection for all callers, messages ready before."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping
from functools import partial
from typing import Any

from simulations.benchmarks.in_process import Outputs
from simulations.benchmarks.serving.clients.interface import one_behind_the_other
from simulations.benchmarks.serving.servers.bare_bytes import Framed
from simulations.benchmarks.serving.subjects import Subject


class BareAsker:
    """``target`` has ``host`` and ``port``."""

    def __init__(self, subject: Subject, target: Mapping[str, Any]) -> None:
        self._target = target
        self._rows = [row.tobytes() for row in subject.rows]
        self._waiting: deque[asyncio.Future[bytes]] = deque()

    async def connect(self) -> None:
        """Open the connection."""
        self._loop = asyncio.get_running_loop()
        made = partial(Framed, self._answered)
        _, self._connection = await self._loop.create_connection(
            made, self._target["host"], self._target["port"]
        )

    async def ask(self, row: int) -> bytes:
        """One inference."""
        answer: asyncio.Future[bytes] = self._loop.create_future()
        self._waiting.append(answer)
        self._connection.send(self._rows[row])
        return await answer

    def read(self, answer: bytes, like: Outputs) -> Outputs:
        """The outputs lie one behind the other."""
        return one_behind_the_other(answer, like)

    async def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def _answered(self, _connection: Framed, answer: bytes) -> None:
        waiting = self._waiting.popleft()
        if not waiting.done():
            waiting.set_result(answer)
