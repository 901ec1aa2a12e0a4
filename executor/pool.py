"""Inference for an event loop: short runs inline, the others in a bounded pool of threads.

Handing a run to a thread and its result back costs 30 to 250 microseconds, more than many small
models take. So a run that is known to be short is done on the spot; :class:`~executor.scheduling.RunTimes`
says which. A guard stops an inline run that overstays, and it is done again in a thread, so a model whose
time depends on its input cannot hold up the loop for long.

A deadline counts from the call. A run that still waits then is refused without being run; one that is in
progress is told to stop, and its caller is answered at once, whatever operator it is in. The same
happens when the awaiting task is cancelled. The worker is free again when the run has really ended.

A pool may serve several event loops, one after the other or in several threads.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import queue
import threading
from collections import Counter
from collections.abc import Mapping, Sequence

from executor.errors import DeadlineExceeded, ExecutorClosed, ExecutorError, ModelNotLoaded, RunCancelled
from executor.inputs import Array
from executor.onnx import OnnxRuntime, PreparedRun
from executor.runs import StopSignal, deadline_exceeded
from executor.scheduling import FairQueue, RunTimes

Outputs = dict[str, Array]


class _Job:
    """A run on its way through the pool. ``timeout_s`` is what is left from ``started_s`` on."""

    __slots__ = ("future", "loop", "prepared", "signal", "started_s", "timeout_s")

    def __init__(self, prepared: PreparedRun, timeout_s: float | None, started_s: float) -> None:
        self.prepared = prepared
        self.timeout_s = timeout_s
        self.started_s = started_s
        self.signal = StopSignal()
        self.loop = asyncio.get_running_loop()
        self.future: asyncio.Future[Outputs] = self.loop.create_future()

    @property
    def key(self) -> str:
        return self.prepared.model.key

    def settle(self, value: Outputs | None, error: BaseException | None) -> None:
        """Answer the caller from any thread; a loop that is gone has nobody waiting."""
        with contextlib.suppress(RuntimeError):
            self.loop.call_soon_threadsafe(self.settle_here, value, error)

    def settle_here(self, value: Outputs | None, error: BaseException | None) -> None:
        """Answer the caller, in the loop's own thread. Only the first answer counts."""
        if self.future.done():
            return
        if error is not None:
            self.future.set_exception(error)
        elif value is not None:
            self.future.set_result(value)


class InferencePool:
    """Runs a runtime's models for coroutines; the head of this module says how.

    ``workers`` threads, started when they are needed. At most ``queue_runs_max`` runs wait, at most
    ``runs_per_model_max`` of them for one model (half of all unless given); models take turns.
    ``workers_per_model_max`` keeps one model from occupying every thread (no limit unless given).
    Runs expected to take less than ``inline_s_max`` seconds are inline, 0 turns that off;
    ``inline_stop_s`` is when an inline run is stopped. Close the pool before the runtime.
    """

    INLINE_TURN_S = 0.002
    """After so much inline work without a pause, :meth:`run` lets the loop's other tasks have a turn."""

    def __init__(
        self,
        runtime: OnnxRuntime,
        *,
        workers: int = 2,
        queue_runs_max: int = 256,
        runs_per_model_max: int | None = None,
        workers_per_model_max: int | None = None,
        inline_s_max: float = 0.0003,
        inline_stop_s: float = 0.02,
    ) -> None:
        per_model = max(1, queue_runs_max // 2) if runs_per_model_max is None else runs_per_model_max
        if min(workers, queue_runs_max, per_model, workers_per_model_max or 1) < 1:
            raise ValueError("workers, queue_runs_max, runs_per_model_max, workers_per_model_max: at least 1")
        self._runtime = runtime
        self._workers = workers
        self._workers_per_model = workers if workers_per_model_max is None else workers_per_model_max
        self._inline_stop_s = inline_stop_s
        self._times = RunTimes(inline_s_max=inline_s_max)
        self._waiting: FairQueue[_Job] = FairQueue(
            queue_runs_max=queue_runs_max, runs_per_model_max=per_model
        )
        self._running: set[_Job] = set()
        self._running_per_model: Counter[str] = Counter()
        self._tokens: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        self._closed = False
        self._inline_spent_s = 0.0
        self.inline_total = 0
        """Runs done inline."""
        self.threaded_total = 0
        """Runs done, or tried, in a worker thread."""
        self.inline_stops_total = 0
        """Inline runs that overstayed and were done again in a thread."""
        # A worker in the middle of a run when the interpreter goes away would take the process down.
        atexit.register(self.close)

    async def __aenter__(self) -> InferencePool:
        return self

    async def __aexit__(self, *_exception: object) -> None:
        await self.aclose()

    @property
    def queued(self) -> int:
        """How many runs wait for a thread."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        """How many runs are in threads now, those that nobody waits for any more among them."""
        return len(self._running)

    async def run(
        self,
        key: str,
        inputs: Mapping[str, Array],
        *,
        outputs: Sequence[str] | None = None,
        timeout_s: float | None = None,
    ) -> Outputs:
        """Run a model and return its outputs by name. See :meth:`OnnxRuntime.run` for values and errors.

        Raises also :class:`QueueFull`, and :class:`ExecutorClosed` once the pool is closed. The
        inputs must not change until the run has ended, which after a cancellation or a deadline is
        a little later than the answer: their values then no longer matter, only that they exist.
        """
        prepared = self._prepare(key, inputs, outputs)
        started_s = self._runtime.monotonic()
        result = self._inline(prepared, timeout_s, started_s)
        if result is None:
            return await self._submit(_Job(prepared, timeout_s, started_s))
        if self._inline_spent_s > self.INLINE_TURN_S:
            self._inline_spent_s = 0.0
            await asyncio.sleep(0)
        return result

    def try_inline(
        self,
        key: str,
        inputs: Mapping[str, Array],
        outputs: Sequence[str] | None = None,
        *,
        timeout_s: float | None = None,
    ) -> Outputs | None:
        """Run a model here and now if it is known to be short; ``None`` says: use :meth:`run`.

        Saves the caller a coroutine. Raises as :meth:`OnnxRuntime.run` does.
        """
        return self._inline(self._prepare(key, inputs, outputs), timeout_s, self._runtime.monotonic())

    def forget(self, key: str) -> None:
        """Drop the run times of a model, for one that is unloaded or replaced under its key."""
        with self._lock:
            self._times.forget(key)

    def close(self) -> None:
        """Refuse what waits, stop what runs, end the threads. Blocks until they have; may be called again."""
        atexit.unregister(self.close)
        with self._lock:
            self._closed = True
            waiting, running, threads = self._waiting.clear(), list(self._running), self._threads
            self._threads = []
        for job in running:
            job.signal.stop(_closed())
        for job in [*waiting, *running]:
            job.settle(None, _closed())
        for _thread in threads:
            self._tokens.put(None)
        for thread in threads:
            thread.join()

    async def aclose(self) -> None:
        """:meth:`close` without blocking the loop."""
        await asyncio.get_running_loop().run_in_executor(None, self.close)

    def _prepare(self, key: str, inputs: Mapping[str, Array], outputs: Sequence[str] | None) -> PreparedRun:
        if self._closed:
            raise _closed()
        try:
            return self._runtime.prepare(key, inputs, outputs)
        except ModelNotLoaded:
            self.forget(key)
            raise

    def _inline(self, prepared: PreparedRun, timeout_s: float | None, started_s: float) -> Outputs | None:
        key, size = prepared.model.key, prepared.size_bytes
        if not self._times.inline(key, size):
            return None
        guarded = timeout_s is None or timeout_s > self._inline_stop_s
        try:
            result = self._runtime.execute(prepared, timeout_s=self._inline_stop_s if guarded else timeout_s)
        except DeadlineExceeded:
            if not guarded:
                raise
            with self._lock:
                self._times.overran(key, size, self._inline_stop_s)
            self.inline_stops_total += 1
            return None
        elapsed_s = self._runtime.monotonic() - started_s
        with self._lock:
            self._times.inlined(key, size, elapsed_s)
        self._inline_spent_s += elapsed_s
        self.inline_total += 1
        return result

    async def _submit(self, job: _Job) -> Outputs:
        timer: asyncio.TimerHandle | None = None
        if job.timeout_s is not None:
            left_s = job.timeout_s - (self._runtime.monotonic() - job.started_s)
            if not left_s > 0:
                raise deadline_exceeded(job.timeout_s, started=False)
            timer = job.loop.call_later(left_s, self._expire, job)
        try:
            self._enqueue(job)
            return await job.future
        except asyncio.CancelledError:
            self._abandon(job, RunCancelled("the caller was cancelled"))
            raise
        finally:
            if timer is not None:
                timer.cancel()

    def _enqueue(self, job: _Job) -> None:
        with self._lock:
            if self._closed:
                raise _closed()
            self._waiting.put(job.key, job)
            busy = len(self._running) + len(self._waiting)
            if len(self._threads) < min(self._workers, busy):
                self._start_worker()
        self._tokens.put(None)

    def _start_worker(self) -> None:
        name = f"inference-{len(self._threads)}"
        thread = threading.Thread(target=self._work, name=name, daemon=True)
        thread.start()
        self._threads.append(thread)

    def _expire(self, job: _Job) -> None:
        timeout_s = job.timeout_s or 0.0
        waited = self._abandon(job, deadline_exceeded(timeout_s))
        job.settle_here(None, deadline_exceeded(timeout_s, started=not waited))

    def _abandon(self, job: _Job, error: ExecutorError) -> bool:
        """Take a job out of the queue (true) or tell its run to stop (false)."""
        with self._lock:
            waited = self._waiting.remove(job.key, job)
        if not waited:
            job.signal.stop(error)
        return waited

    def _work(self) -> None:
        while True:
            self._tokens.get()
            # There is a token per job, and a job that had to wait for its model's share is taken up by
            # the worker that ends a run of that model, in this inner loop: none is forgotten.
            while self._work_one():
                pass
            if self._closed:
                return

    def _work_one(self) -> bool:
        with self._lock:
            job = self._waiting.take(self._may_run)
            if job is None:
                return False
            self._running.add(job)
            self._running_per_model[job.key] += 1
        value: Outputs | None = None
        error: BaseException | None = None
        try:
            value = self._execute(job)
        except BaseException as failure:  # the worker has to survive whatever it was
            error = failure
        with self._lock:
            self.threaded_total += 1
            self._running.discard(job)
            self._running_per_model[job.key] -= 1
            if not self._running_per_model[job.key]:
                del self._running_per_model[job.key]
        job.settle(value, error)
        return True

    def _execute(self, job: _Job) -> Outputs:
        began_s = self._runtime.monotonic()
        left_s = None if job.timeout_s is None else job.timeout_s - (began_s - job.started_s)
        if left_s is not None and not left_s > 0:
            raise deadline_exceeded(job.timeout_s or 0.0, started=False)
        value = self._runtime.execute(job.prepared, timeout_s=left_s, stop=job.signal)
        elapsed_s = self._runtime.monotonic() - began_s
        with self._lock:
            self._times.threaded(job.key, job.prepared.size_bytes, elapsed_s)
        return value

    def _may_run(self, key: str) -> bool:
        return self._running_per_model[key] < self._workers_per_model


def _closed() -> ExecutorClosed:
    return ExecutorClosed("the inference pool is closed: it takes no more runs")
