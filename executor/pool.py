"""Inference for an event loop: short runs inline, the others batched in a bounded pool of threads.

Handing a run to a thread and its result back costs 30 to 250 microseconds, more than many small
models take. So a run that is known to be short is done on the spot; :class:`~executor.scheduling.RunTimes`
says which. A guard stops an inline run that overstays, and it is done again in a thread, so a model whose
time depends on its input cannot hold up the loop for long.

What does not run on the spot waits in a :class:`~executor.batching.batcher.Batcher`, which says what runs
together, who is next, and who is refused; a worker takes the next batch in the moment in which it is free.
Requests of a quick model that come in one turn of the loop are gathered and run on the spot as one.

A deadline counts from the call. A run that still waits then is refused without being run; one that is in
progress is told to stop if nobody else waits for it, and its caller is answered at once, whatever operator it
is in. The same happens when a request is cancelled. The worker is free again when the run has really ended.

A pool may serve several event loops, one after the other or in several threads.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import math
import os
import threading
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

from executor.batching.batcher import LANES_MAX, Batcher
from executor.batching.jobs import BatchRun, Done, Job, Outcome, Outputs
from executor.batching.lanes import LaneKey
from executor.batching.options import BatchLimits, BatchOptions
from executor.batching.rows import Joint
from executor.batching.turns import Turns
from executor.errors import DeadlineExceeded, ExecutorClosed, ExecutorError, ModelNotLoaded, RunCancelled
from executor.inputs import Array
from executor.onnx import OnnxRuntime, PreparedRun
from executor.runs import deadline_exceeded
from executor.scheduling import Company, RunTimes
from executor.workers import Crew, Workers

TIMER_EARLY_S_MAX = 0.001
"""uvloop counts whole milliseconds, so its timers come up to one too early."""


class _Sweep:
    """When a loop looks next for requests whose deadline has passed: one timer for all of them."""

    __slots__ = ("at_s", "timer")

    def __init__(self) -> None:
        self.at_s = math.inf
        self.timer: asyncio.TimerHandle | None = None


class InferencePool:
    """Runs a runtime's models for an event loop; the head of this module says how.

    ``workers`` threads, started when they are needed. At most ``queue_runs_max`` requests wait, at most
    ``runs_per_model_max`` of them for one model (half of all unless given), and likewise for the bytes of
    their inputs; models take turns. ``workers_per_model_max`` keeps one model from occupying every thread
    (no limit unless given). Runs expected to take less than ``inline_s_max`` seconds are inline, 0 turns that
    off; while a request is the only one about, runs of less than ``lone_inline_s_max`` seconds are, too.
    ``inline_stop_s`` is when an inline run is stopped. ``cores`` is how many there are to run on, those
    of this process unless given; ``crew`` is what takes batches and runs them. Close the pool before the
    runtime.
    """

    INLINE_TURN_S = 0.002
    """After so much inline work without a pause, the loop's other tasks have a turn."""

    def __init__(
        self,
        runtime: OnnxRuntime,
        *,
        workers: int = 2,
        queue_runs_max: int = 256,
        runs_per_model_max: int | None = None,
        queue_bytes_max: int = 512 * 2**20,
        bytes_per_model_max: int | None = None,
        workers_per_model_max: int | None = None,
        inline_s_max: float = 0.0003,
        lone_inline_s_max: float = 0.002,
        inline_stop_s: float = 0.02,
        cores: int | None = None,
        crew: Callable[..., Crew] = Workers,
    ) -> None:
        self._runtime = runtime
        self._inline_stop_s = inline_stop_s
        self._times = RunTimes(inline_s_max=inline_s_max)
        self._lone_inline_s_max = max(inline_s_max, lone_inline_s_max)
        self._company = Company()
        self._batcher = Batcher(
            BatchLimits(
                queue_runs_max=queue_runs_max,
                runs_per_model_max=_share(runs_per_model_max, queue_runs_max),
                queue_bytes_max=queue_bytes_max,
                bytes_per_model_max=_share(bytes_per_model_max, queue_bytes_max),
                workers=workers,
                workers_per_model_max=workers if workers_per_model_max is None else workers_per_model_max,
                cores_for_runs=max(1, ((cores or _cores()) - 1) // runtime.options.intra_op_threads),
            )
        )
        self._lock = threading.Lock()
        self._workers: Crew = crew(
            runtime,
            self._batcher,
            self._lock,
            answer=self._answer_elsewhere,
            refuse=self._refuse_elsewhere,
            learn=self._learn,
        )
        self._lanes: dict[Hashable, LaneKey] = {}
        self._turns: dict[str, Turns] = {}
        self._gathered: dict[asyncio.AbstractEventLoop, dict[LaneKey, Job]] = {}
        self._sweeps: dict[asyncio.AbstractEventLoop, _Sweep] = {}
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
        """How many requests wait for a thread."""
        return self._batcher.requests

    @property
    def running(self) -> int:
        """How many runs are in threads now, those that nobody waits for any more among them."""
        return self._batcher.running

    def figures(self, key: str) -> dict[str, Any]:
        """What waits for a model, and what became of the requests for it, as plain values."""
        with self._lock:
            waiting, running = self._batcher.depth(key)
            return {"queued": waiting, "running": running, **self._batcher.figures(key).to_plain()}

    def rows_cap(self, key: str) -> int:
        """How many rows a run of a model has at most just now, for its latency bound; 0: not known."""
        return self._batcher.rows_cap(key)

    def run_totals(self) -> dict[str, tuple[int, float]]:
        """By model how many runs there were, on the spot or in a thread, and their seconds together."""
        with self._lock:
            return self._times.totals()

    # -- running ------------------------------------------------------------------------------------

    async def run(
        self,
        key: str,
        inputs: Mapping[str, Array],
        *,
        outputs: Sequence[str] | None = None,
        timeout_s: float | None = None,
    ) -> Outputs:
        """Run a model by itself, never batched, and return its outputs by name.

        See :meth:`OnnxRuntime.run` for values and errors. Raises also :class:`QueueFull`, and
        :class:`ExecutorClosed` once the pool is closed. The inputs must not change until the run has ended,
        which after a cancellation or a deadline is a little later than the answer: their values then no
        longer matter, only that they exist.
        """
        prepared = self._prepare(key, inputs, outputs)
        now = self._runtime.monotonic()
        result = self._inline(prepared, timeout_s, now)
        if result is None:
            return await self._wait(prepared, timeout_s, now)
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

    def submit(
        self,
        key: str,
        inputs: Mapping[str, Array],
        done: Done,
        *,
        outputs: Sequence[str] | None = None,
        timeout_s: float | None = None,
        client: Hashable = "",
        options: BatchOptions = BatchOptions(),  # noqa: B008 (immutable)
        calls: int = 1,
    ) -> Outputs | Job:
        """Run a model, maybe together with other requests for it; no coroutine, no task.

        Gives the outputs at once if the run was done on the spot. Otherwise ``done(outputs, error)`` is
        called once, by the loop, unless the job that is returned is given to :meth:`cancel` before that.
        ``client`` is who is served fairly: requests of others do not wait for all of one client's.
        ``calls``: so many inferences are in this request, for the figures. Raises as :meth:`run` does, and
        :class:`DeadlineExceeded` for what cannot be done in time. Outputs may be views of a whole batch's.
        """
        prepared = self._prepare(key, inputs, outputs)
        now = self._runtime.monotonic()
        loop = asyncio.get_running_loop()
        lane, joint, rows = self._lane_of(prepared, options)
        gather = False
        alone = self._company.alone(client, now)
        if self._times.inline(key, prepared.size_bytes):
            gather = joint is not None and self._gathers(lane, loop)
            if not gather:
                result = self._inline(prepared, timeout_s, now)
                if result is not None:
                    return result
        elif alone and not self._batcher.busy:
            result = self._inline(prepared, timeout_s, now, self._lone_inline_s_max)
            if result is not None:
                self._company.turn_begins()
                loop.call_soon(self._company.turn_over)
                return result
        if joint is not None:
            prepared.model.check.check_text(inputs)
        job = Job(
            lane, prepared, joint, loop, done, client=client, rows=rows, timeout_s=timeout_s, now=now
        )  # fmt: skip
        job.calls = calls
        self._enqueue(job, now, loop, gather=gather)
        return job

    def cancel(self, job: Job) -> None:
        """Nobody waits for a job any more; from the loop's own thread. Its ``done`` is not called."""
        if not job.settled:
            job.settled = True
            self._give_up(job, RunCancelled("the caller was cancelled"))

    def forget(self, key: str) -> None:
        """Drop the run times of a model, for one that is unloaded or replaced under its key."""
        with self._lock:
            self._times.forget(key)
            for place in [place for place, lane in self._lanes.items() if lane.model == key]:
                del self._lanes[place]
            self._turns.pop(key, None)
            self._batcher.forget(key)

    def close(self) -> None:
        """Refuse what waits, stop what runs, end the threads. Blocks until they have; may be called again."""
        atexit.unregister(self.close)
        with self._lock:
            self._closed = True
            waiting = [job for job in self._batcher.clear() if isinstance(job, Job)]
            running = list(self._workers.runs.values())
            threads = self._workers.close()
        for run in running:
            run.stop(_closed())
        self._answer_elsewhere([Outcome(job, None, _closed()) for job in waiting])
        self._answer_elsewhere([Outcome(job, None, _closed()) for run in running for job in run.jobs])
        for thread in threads:
            thread.join()

    async def aclose(self) -> None:
        """:meth:`close` without blocking the loop."""
        await asyncio.get_running_loop().run_in_executor(None, self.close)

    # -- on the spot --------------------------------------------------------------------------------

    def _prepare(self, key: str, inputs: Mapping[str, Array], outputs: Sequence[str] | None) -> PreparedRun:
        if self._closed:
            raise _closed()
        try:
            return self._runtime.prepare(key, inputs, outputs)
        except ModelNotLoaded:
            self.forget(key)
            raise

    def _inline(
        self,
        prepared: PreparedRun,
        timeout_s: float | None,
        started_s: float,
        at_most_s: float | None = None,
    ) -> Outputs | None:
        key, size = prepared.model.key, prepared.size_bytes
        if not self._times.inline(key, size, at_most_s):
            return None
        guarded = timeout_s is None or timeout_s > self._inline_stop_s
        try:
            result = self._runtime.execute(prepared, timeout_s=self._inline_stop_s if guarded else timeout_s)
        except DeadlineExceeded:
            if not guarded:
                raise
            self._overstayed(key, size)
            return None
        self._inlined(key, size, self._runtime.monotonic() - started_s)
        return result

    def _overstayed(self, key: str, size_bytes: int) -> None:
        with self._lock:
            self._times.overran(key, size_bytes, self._inline_stop_s)
        self.inline_stops_total += 1

    def _inlined(self, key: str, size_bytes: int, elapsed_s: float) -> None:
        with self._lock:
            self._times.inlined(key, size_bytes, elapsed_s)
        self._inline_spent_s += elapsed_s
        self.inline_total += 1

    # -- batches ------------------------------------------------------------------------------------

    def _lane_of(self, prepared: PreparedRun, options: BatchOptions) -> tuple[LaneKey, Joint | None, int]:
        """Where a request waits, how it is joined with others there (``None``: not), and its rows."""
        model = prepared.model
        joint, _ = model.joint(options)
        if joint is not None:
            kind = joint.kind(prepared.inputs, prepared.outputs)
            if kind is not None:
                rows, alike = kind
                lane = self._lanes.get((joint, alike))
                if lane is None:
                    lane = LaneKey(model.key, options.rows_max, options.latency_bound_s)
                    self._remember((joint, alike), lane)
                return lane, joint, rows
        return self._alone(prepared), None, 1

    def _alone(self, prepared: PreparedRun) -> LaneKey:
        place = (prepared.model.key, prepared.size_bytes.bit_length())
        lane = self._lanes.get(place)
        if lane is None:
            lane = LaneKey(prepared.model.key)
            self._remember(place, lane)
        return lane

    def _remember(self, place: Hashable, lane: LaneKey) -> None:
        if len(self._lanes) >= LANES_MAX:
            self._lanes.clear()
        self._lanes[place] = lane

    def _gathers(self, lane: LaneKey, loop: asyncio.AbstractEventLoop) -> bool:
        """Whether a quick request waits for the end of the loop's turn, to be run with others."""
        gathered = self._gathered.get(loop)
        if gathered is not None and lane in gathered:
            return True
        turns = self._turns.get(lane.model)
        if turns is None:
            turns = self._turns[lane.model] = Turns()
        return turns.gather()

    def _enqueue(self, job: Job, now: float, loop: asyncio.AbstractEventLoop, *, gather: bool) -> None:
        with self._lock:
            if self._closed:
                raise _closed()
            self._batcher.add(job, now)
            if not gather:
                self._workers.wake_by(self._batcher.due_at(job.lane, now), now)
        if gather:
            self._gather(loop, job)
        if job.deadline_s < math.inf:
            self._sweep_by(loop, job.deadline_s)

    def _gather(self, loop: asyncio.AbstractEventLoop, job: Job) -> None:
        gathered = self._gathered.get(loop)
        if gathered is None:
            gathered = self._gathered[loop] = {}
            loop.call_soon(self._turn_over, loop)
        gathered[job.lane] = job

    def _turn_over(self, loop: asyncio.AbstractEventLoop) -> None:
        """Run what has gathered in a turn of the loop, or leave it to the workers."""
        self._inline_spent_s = 0.0
        for lane, job in self._gathered.pop(loop, {}).items():
            requests = self._batcher.waiting_in(lane)[1]
            self._turns.setdefault(lane.model, Turns()).note(requests)
            while self._run_here(lane, job.size_bytes // job.rows):
                if self._inline_spent_s > self.INLINE_TURN_S:
                    self._gather(loop, job)  # the rest in the next turn
                    break

    def _run_here(self, lane: LaneKey, row_bytes: int) -> bool:
        """Run a batch of a lane on the spot, if that is quick; whether it was."""
        with self._lock:
            rows, requests = self._batcher.waiting_in(lane)
            if not requests or self._closed:
                return False
            if not self._times.inline(lane.model, rows * row_bytes):
                self._workers.wake()
                return False
            batch = self._batcher.take_here(lane, self._runtime.monotonic())
            late, self._batcher.late = self._batcher.late, []
        for job in late:
            if isinstance(job, Job):
                job.settle(None, job.expired(started=False))
        return batch is not None and self._perform_here(BatchRun(self._runtime, batch))

    def _perform_here(self, run: BatchRun) -> bool:
        began_s = self._runtime.monotonic()
        outcomes = [outcome for part in run.run(self._inline_stop_s) for outcome in part]
        now = self._runtime.monotonic()
        if not run.failed and isinstance(outcomes[0].error, DeadlineExceeded):
            self._overstayed(run.model, run.size_bytes)
            with self._lock:
                self._batcher.put_back(run.batch, now)
                self._workers.wake()
            return False
        self._inlined(run.model, run.size_bytes, now - began_s)
        with self._lock:
            self._batcher.figures(run.model).batches_failed += run.failed
            self._batcher.finished(run.batch, run.elapsed_s)
        self._settle(outcomes)
        return True

    def _learn(self, run: BatchRun) -> None:
        self.threaded_total += 1
        if run.failed:
            self._batcher.figures(run.model).batches_failed += 1
        if run.elapsed_s is not None:
            self._times.threaded(run.model, run.size_bytes, run.elapsed_s)

    # -- answers ------------------------------------------------------------------------------------

    def _settle(self, outcomes: Sequence[Outcome]) -> None:
        for job, value, error in outcomes:
            job.settle(value, error)

    def _answer_elsewhere(self, outcomes: Sequence[Outcome]) -> None:
        """Answer from any thread: one call for each loop."""
        by_loop: dict[Any, list[Outcome]] = {}
        for outcome in outcomes:
            by_loop.setdefault(outcome.job.loop, []).append(outcome)
        for loop, theirs in by_loop.items():
            with contextlib.suppress(RuntimeError):  # a loop that is gone has nobody waiting
                loop.call_soon_threadsafe(self._settle, theirs)

    def _refuse_elsewhere(self, jobs: Sequence[Job]) -> None:
        self._answer_elsewhere([Outcome(job, None, job.expired(started=False)) for job in jobs])

    async def _wait(self, prepared: PreparedRun, timeout_s: float | None, now: float) -> Outputs:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Outputs] = loop.create_future()

        def done(value: Outputs | None, error: BaseException | None) -> None:
            if not future.done():
                future.set_exception(error) if value is None and error else future.set_result(value or {})

        if timeout_s is not None and not timeout_s > self._runtime.monotonic() - now:
            raise deadline_exceeded(timeout_s, started=False)
        lane = self._alone(prepared)
        job = Job(lane, prepared, None, loop, done, client="", rows=1, timeout_s=timeout_s, now=now)
        self._enqueue(job, now, loop, gather=False)
        try:
            return await future
        except asyncio.CancelledError:
            self.cancel(job)
            raise

    # -- giving up ----------------------------------------------------------------------------------

    def _give_up(self, job: Job, error: ExecutorError) -> None:
        with self._lock:
            batch = job.batch
            run = None if batch is None else self._workers.runs.get(batch)
            self._batcher.cancel(job)
        self._stop_if_unwanted(job, run, error)

    @staticmethod
    def _stop_if_unwanted(job: Job, run: BatchRun | None, error: ExecutorError) -> None:
        if job.signal is not None:
            job.signal.stop(error)
        if run is not None and not run.batch.live:
            run.stop(error)

    def _sweep_by(self, loop: asyncio.AbstractEventLoop, deadline_s: float) -> None:
        """Have a loop look for what is overdue at ``deadline_s``, if it would not look before."""
        sweep = self._sweeps.get(loop)
        if sweep is not None and deadline_s >= sweep.at_s:
            return
        if sweep is None:
            for gone in [known for known in self._sweeps if known.is_closed()]:
                del self._sweeps[gone]
            sweep = self._sweeps[loop] = _Sweep()
        if sweep.timer is not None:
            sweep.timer.cancel()
        sweep.at_s = deadline_s
        delay_s = deadline_s - self._runtime.monotonic()
        sweep.timer = loop.call_later(max(0.0, delay_s) + TIMER_EARLY_S_MAX, self._sweep, loop)

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        """Answer those whose deadline has passed."""
        del self._sweeps[loop]
        with self._lock:
            overdue = self._overdue(self._runtime.monotonic())
            next_s = self._batcher.next_deadline()
        for job, run, waited in overdue:
            error = job.expired(started=not waited)
            self._stop_if_unwanted(job, run, error)
            if job.loop is loop:
                job.settle(None, error)
            else:
                self._answer_elsewhere([Outcome(job, None, error)])
        if next_s < math.inf:
            self._sweep_by(loop, next_s)

    def _overdue(self, now: float) -> list[tuple[Job, BatchRun | None, bool]]:
        runs = self._workers.runs
        running = {job: run for run in runs.values() for job in run.jobs if job.batch is not None}
        gone = [job for job in self._batcher.expire(now) if isinstance(job, Job)]
        return [(job, running.get(job), job not in running) for job in gone]


def _cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _share(given: int | None, of: int) -> int:
    return max(1, of // 2) if given is None else given


def _closed() -> ExecutorClosed:
    return ExecutorClosed("the inference pool is closed: it takes no more runs")
