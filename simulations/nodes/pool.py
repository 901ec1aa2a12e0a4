"""Runs of models without threads: the real model, and a drawn time for each run."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from executor.onnx import OnnxRuntime
from executor.runs import deadline_exceeded

Array = np.ndarray[Any, Any]


class SimulatedPool:
    """A :class:`executor.interface.Pool`. A run takes up to ``run_s_max`` virtual seconds."""

    def __init__(self, runtime: OnnxRuntime, generator: random.Random, run_s_max: float) -> None:
        self.inline_total = 0
        self.threaded_total = 0
        self.queued = 0
        self.running = 0
        self._runtime = runtime
        self._random = generator
        self._run_s_max = run_s_max

    async def run(
        self,
        key: str,
        inputs: Mapping[str, Array],
        *,
        outputs: Sequence[str] | None = None,
        timeout_s: float | None = None,
    ) -> dict[str, Array]:
        """Run the model after as long as the run is said to take."""
        takes_s = self._random.uniform(0, self._run_s_max)
        self.running += 1
        try:
            if timeout_s is not None and takes_s > timeout_s:
                await asyncio.sleep(timeout_s)
                raise deadline_exceeded(timeout_s)
            await asyncio.sleep(takes_s)
            self.threaded_total += 1
            return self._runtime.run(key, inputs, outputs=outputs)
        finally:
            self.running -= 1

    def try_inline(
        self, key: str, inputs: Mapping[str, Array], outputs: Sequence[str] | None = None
    ) -> dict[str, Array] | None:
        """Never: every run takes time."""
        return None

    def forget(self, key: str) -> None:
        """Nothing is remembered."""

    async def aclose(self) -> None:
        """Nothing is kept."""
