"""A batching queue as a good engineer would add it: what gathers during a run is the next run."""

from __future__ import annotations

import asyncio
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from simulations.benchmarks.in_process import InProcess, split

ROWS_MAX: Final = 64

Answer = list[NDArray[Any]]


class Batches:
    """One queue in front of a model."""

    def __init__(self, model: InProcess) -> None:
        self._model = model
        self._inline = model.is_short()
        self._waiting: list[tuple[NDArray[np.float32], asyncio.Future[Answer]]] = []
        self._running = False

    def infer(self, rows: NDArray[np.float32]) -> asyncio.Future[Answer]:
        """The outputs for ``rows`` [1, width]."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Answer] = loop.create_future()
        self._waiting.append((rows, answer))
        if not self._running:
            self._running = True
            # At the end of this turn of the loop: the requests that came with this one are in it.
            loop.call_soon(self._next)
        return answer

    def _next(self) -> None:
        batch, self._waiting = self._waiting[:ROWS_MAX], self._waiting[ROWS_MAX:]
        self._running = bool(batch)
        if not batch:
            return
        rows = np.concatenate([rows for rows, _ in batch])
        answers = [answer for _, answer in batch]
        loop = asyncio.get_running_loop()
        if self._inline:
            self._settle(answers, self._model.run(rows))
            loop.call_soon(self._next)
        else:
            running = loop.run_in_executor(None, self._model.run, rows)
            running.add_done_callback(lambda done: self._finished(answers, done))

    def _finished(self, answers: list[asyncio.Future[Answer]], done: asyncio.Future[Answer]) -> None:
        self._settle(answers, done.result())
        self._next()

    def _settle(self, answers: list[asyncio.Future[Answer]], outputs: Answer) -> None:
        for row, answer in enumerate(answers):
            if not answer.done():
                answer.set_result(split(outputs, row))
