"""Reads: from this node's own state, at a log position that is fresh enough.

*session* (the default): at least as far as the reader's session has seen, so that clients read their own
writes on any node and never go back. *linearizable*: at least as far as anything acknowledged before the
read began. *stale*: whatever is here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from mcp.causality.vector import VersionVector
from mcp.errors import DeadlineExceeded, InvalidArgument
from mcp.node.order import Order
from mcp.state.state import ReplicatedState

CONSISTENCIES = ("session", "linearizable", "stale")


class Reads:
    """Answers reads from one node's state."""

    def __init__(self, state: ReplicatedState, order: Order) -> None:
        self._state = state
        self._order = order
        self._inference_waiters: dict[str, dict[asyncio.Future[None], None]] = {}

    async def read(
        self,
        kind: str,
        args: Mapping[str, Any],
        consistency: str,
        vector: VersionVector,
        timeout_s: float,
    ) -> tuple[int, Any]:
        """The log position of the answer, and the answer."""
        if consistency not in CONSISTENCIES:
            raise InvalidArgument(
                f"consistency {consistency!r} is unknown: choose one of {', '.join(CONSISTENCIES)}"
            )
        if consistency == "linearizable":
            await self._order.barrier(timeout_s)
        elif consistency == "session":
            await self._order.wait_applied(vector.get("log"), timeout_s)
        return self._order.applied_index, self._state.read(kind, args)

    async def finished_inference(
        self, inference: str, vector: VersionVector, timeout_s: float
    ) -> tuple[int, Any]:
        """As reading an inference, once it is finished. Raises :class:`DeadlineExceeded`."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._order.wait_applied(vector.get("log"), timeout_s)
                while True:
                    record = self._state.read("inference", {"id": inference})
                    if record is None or record["status"] in ("done", "failed"):
                        return self._order.applied_index, record
                    await self._wait_for(inference)
        except TimeoutError:
            raise DeadlineExceeded(
                f"inference {inference} was not finished within {timeout_s:.1f} s; it goes on, ask again"
            ) from None

    async def _wait_for(self, inference: str) -> None:
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiters = self._inference_waiters.setdefault(inference, {})
        waiters[waiter] = None  # woken in the order in which they came
        try:
            await waiter
        finally:
            del waiters[waiter]
            if not waiters:
                self._inference_waiters.pop(inference, None)

    def inference_changed(self, inference: str) -> None:
        """Wake those who wait for ``inference``."""
        for waiter in list(self._inference_waiters.get(inference, ())):
            if not waiter.done():
                waiter.set_result(None)

    def everything_changed(self) -> None:
        """Wake everybody: the state was replaced by a snapshot."""
        for inference in list(self._inference_waiters):
            self.inference_changed(inference)
