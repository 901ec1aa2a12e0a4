"""Production's pool without threads: runs of the real model take virtual time, on workers of the loop.

Batching, fairness, deadlines, cancellation and what runs on the spot are production's. What stands in for
threads is `VirtualCrew`, and `TimedRuntime` says how long a run takes: one in a worker lets the loop go on
meanwhile, one on the spot blocks it.
"""

from __future__ import annotations

import asyncio
import atexit
import functools
import math
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import numpy as np

from executor.batching.batcher import Batcher
from executor.batching.jobs import BatchRun, Job, Outcome
from executor.errors import InferenceFailed
from executor.onnx import OnnxRuntime, PreparedRun
from executor.pool import InferencePool
from executor.runs import StopSignal, deadline_exceeded
from mcp.node.config import NodeConfig
from simulations.virtual_time import VirtualLoop

Array = np.ndarray[Any, Any]

LONE_INLINE_S_MAX = 0.001
"""Less than production's, so that of the quickest runs some are on loops and some in workers."""
CORES = 4
"""However many this machine has: a seed is the same run everywhere."""


class TimedRuntime:
    """A runtime whose runs take up to ``run_s_max`` virtual seconds; what they give is the real model's.

    Of the runs of a model in ``failing``, by key, so large a share fails.
    """

    def __init__(
        self,
        runtime: OnnxRuntime,
        generator: random.Random,
        run_s_max: float,
        done: Counter[str],
        failing: Mapping[str, float],
    ) -> None:
        self.options = runtime.options
        self._runtime = runtime
        self._random = generator
        self._run_s_max = run_s_max
        self._done = done
        self._failing = failing
        self._behind_s: float | None = None

    def draw_s(self) -> float:
        """How long the next run takes."""
        return self._random.uniform(0, self._run_s_max)

    def monotonic(self) -> float:
        """See :class:`executor.onnx.OnnxRuntime`; to a run that is performed at its end, its beginning."""
        return self._runtime.monotonic() - (self._behind_s or 0.0)

    @contextmanager
    def began_before(self, takes_s: float) -> Iterator[None]:
        """What is run within this is a run of a worker, which began so long ago and ends now."""
        self._behind_s = takes_s
        try:
            yield
        finally:
            self._behind_s = None

    def prepare(
        self, key: str, inputs: Mapping[str, Array], outputs: Sequence[str] | None = None
    ) -> PreparedRun:
        """See :class:`executor.onnx.OnnxRuntime`."""
        return self._runtime.prepare(key, inputs, outputs)

    def execute(
        self, prepared: PreparedRun, *, timeout_s: float | None = None, stop: StopSignal | None = None
    ) -> dict[str, Array]:
        """See :class:`executor.onnx.OnnxRuntime`."""
        takes_s, self._behind_s = self._behind_s, None
        if takes_s is None:
            takes_s = self.draw_s()
            self._done["runs on loops"] += 1
            loop = cast(VirtualLoop, asyncio.get_running_loop())
            loop.stall(takes_s if timeout_s is None else max(0.0, min(takes_s, timeout_s)))
        if timeout_s is not None and takes_s > timeout_s:
            raise deadline_exceeded(timeout_s, started=timeout_s > 0)
        failing = self._failing.get(prepared.model.key)
        if failing is not None and self._random.random() < failing:
            self._done["runs that failed"] += 1
            raise InferenceFailed("this version of the model fails now and then")
        return self._runtime.execute(prepared, stop=stop)


class VirtualCrew:
    """See :class:`executor.workers.Crew`: as many runs at once as there are workers, without threads."""

    def __init__(
        self,
        runtime: OnnxRuntime,
        batcher: Batcher,
        lock: threading.Lock,
        *,
        answer: Callable[[Sequence[Outcome]], None],
        refuse: Callable[[Sequence[Job]], None],
        learn: Callable[[BatchRun], None],
        done: Counter[str],
    ) -> None:
        self.runs: dict[object, BatchRun] = {}
        self._done = done
        self._runtime = cast(TimedRuntime, runtime)
        self._batcher = batcher
        self._lock = lock
        self._answer = answer
        self._refuse = refuse
        self._learn = learn
        self._woken = False
        self._closed = False

    def wake_by(self, due_s: float, now: float) -> None:
        """See :class:`executor.workers.Crew`."""
        if due_s <= now:
            self.wake()
        else:
            asyncio.get_running_loop().call_later(due_s - now, self._look)

    def wake(self) -> None:
        """See :class:`executor.workers.Crew`."""
        if not self._woken and not self._closed:
            self._woken = True
            asyncio.get_running_loop().call_soon(self._look)

    def close(self) -> list[threading.Thread]:
        """See :class:`executor.workers.Crew`."""
        self._closed = True
        return []

    def _look(self) -> None:
        """Take what is due, as long as a worker is free."""
        self._woken = False
        loop = asyncio.get_running_loop()
        with self._lock:
            now = self._runtime.monotonic()
            while not self._closed and (batch := self._batcher.take(now)) is not None:
                run = self.runs[batch] = BatchRun(cast(OnnxRuntime, self._runtime), batch)
                takes_s = self._runtime.draw_s()
                loop.call_later(takes_s, self._finish, run, takes_s)
            late, self._batcher.late = self._batcher.late, []
            due_s = self._batcher.next_due(now)
        if now < due_s < math.inf and not self._closed:
            loop.call_later(due_s - now, self._look)
        if late:
            self._refuse([job for job in late if isinstance(job, Job)])

    def _finish(self, run: BatchRun, takes_s: float) -> None:
        if self._closed:
            return
        with self._runtime.began_before(takes_s):
            outcomes = [outcome for part in run.run() for outcome in part]
        with self._lock:
            del self.runs[run.batch]
            self._learn(run)
            self._batcher.finished(run.batch, run.elapsed_s)
        self._done["runs in workers"] += 1
        self._done["runs shared"] += len(run.jobs) > 1
        self._answer(outcomes)
        self._look()


def simulated_pool(
    runtime: OnnxRuntime,
    config: NodeConfig,
    generator: random.Random,
    run_s_max: float,
    done: Counter[str],
    failing: Mapping[str, float],
) -> InferencePool:
    """The pool of a simulated node; ``done`` counts what ran where, ``failing`` says what fails how often."""
    timed = TimedRuntime(runtime, generator, run_s_max, done, failing)
    pool = InferencePool(
        cast(OnnxRuntime, timed),
        workers=config.workers,
        workers_per_model_max=max(1, config.workers - 1),
        queue_runs_max=config.limits.inference_runs_max,
        queue_bytes_max=config.limits.inference_bytes_max,
        lone_inline_s_max=LONE_INLINE_S_MAX,
        cores=CORES,
        crew=functools.partial(VirtualCrew, done=done),
    )
    atexit.unregister(pool.close)  # there are no threads to end
    return pool
