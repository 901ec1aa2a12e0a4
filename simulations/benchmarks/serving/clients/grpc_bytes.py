"""A client for tensors as bytes over grpc.aio: one channel for all callers, messages ready before."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import grpc

from simulations.benchmarks.in_process import Outputs
from simulations.benchmarks.serving.clients.interface import one_behind_the_other
from simulations.benchmarks.serving.subjects import Subject


class GrpcAsker:
    """``target`` has ``host``, ``port`` and ``path``."""

    def __init__(self, subject: Subject, target: Mapping[str, Any]) -> None:
        self._address, self._path = f"{target['host']}:{target['port']}", target["path"]
        self._rows = [row.tobytes() for row in subject.rows]

    async def connect(self) -> None:
        """Open the channel."""
        self._channel = grpc.aio.insecure_channel(self._address)
        self._call = self._channel.unary_unary(self._path)
        await self._channel.channel_ready()

    async def ask(self, row: int) -> bytes:
        """One call."""
        answer: bytes = await self._call(self._rows[row])
        return answer

    def read(self, answer: bytes, like: Outputs) -> Outputs:
        """The outputs lie one behind the other."""
        return one_behind_the_other(answer, like)

    async def close(self) -> None:
        """Close the channel."""
        await self._channel.close()
