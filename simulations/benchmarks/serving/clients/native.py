"""The product's own client: one for all callers, as a program would have it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from mcp.client.client import Client
from mcp.client.results import Inference
from mcp.client.retry import RetryLimits
from mcp.net.polling import POLL_S
from simulations.benchmarks.in_process import Outputs
from simulations.benchmarks.serving.subjects import Subject


class NativeAsker:
    """A client of a node or a cluster. ``target`` has ``addresses``, and ``key`` where a cluster has one.

    ``poll_s`` is the client's, its default where it has none. With ``once`` it takes the first answer, also
    if that is a refusal that it would heed otherwise.
    """

    def __init__(self, subject: Subject, target: Mapping[str, Any]) -> None:
        self._client = Client(
            target["addresses"],
            cluster_key=target.get("key", "").encode() or None,
            poll_s=target.get("poll_s", POLL_S),
        )
        if target.get("once"):
            self._client._exchange._retries = RetryLimits(attempts_max=1)
        self._model = subject.name
        self._rows = [row[np.newaxis] for row in subject.rows]

    async def connect(self) -> None:
        """Open the connection."""
        await self.ask(0)

    async def ask(self, row: int) -> Inference:
        """One inference."""
        return await self._client.infer(self._model, self._rows[row])

    def read(self, answer: Inference, like: Outputs) -> Outputs:
        """They are arrays already."""
        return dict(answer.outputs)

    async def close(self) -> None:
        """Close the connection."""
        await self._client.close()
