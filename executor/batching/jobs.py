"""Requests with their inputs, and running batches of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol

from executor.batching.lanes import Batch, LaneKey, Request
from executor.batching.rows import Joint, RowsChanged
from executor.errors import ExecutorError, InferenceFailed, InputInvalid
from executor.inputs import Array
from executor.onnx import OnnxRuntime, PreparedRun
from executor.runs import StopSignal, deadline_exceeded

Outputs = dict[str, Array]
Done = Callable[[Outputs | None, BaseException | None], object]
"""Takes a request's outputs, or what kept it from having any. Called once, in the loop's thread."""


class Loop(Protocol):
    """What is needed of the event loop that a request came from."""

    def call_soon_threadsafe(self, callback: Callable[..., object], *args: Any) -> object:
        """Call it in the loop's thread. Raises ``RuntimeError`` once the loop is closed."""


class Job(Request):
    """A request on its way through the pool. ``timeout_s`` is what is left from its coming on."""

    __slots__ = ("done", "joint", "loop", "prepared", "settled", "signal", "timeout_s")

    def __init__(
        self,
        lane: LaneKey,
        prepared: PreparedRun,
        joint: Joint | None,
        loop: Loop,
        done: Done,
        *,
        client: object,
        rows: int,
        timeout_s: float | None,
        now: float,
    ) -> None:
        super().__init__(
            lane,
            client=client,
            rows=rows,
            size_bytes=prepared.size_bytes,
            deadline_s=math.inf if timeout_s is None else now + timeout_s,
        )
        self.prepared = prepared
        self.joint = joint
        self.loop = loop
        self.done = done
        self.timeout_s = timeout_s
        self.signal: StopSignal | None = None
        self.settled = False

    def settle(self, value: Outputs | None, error: BaseException | None) -> None:
        """Answer, in the loop's own thread. Only the first answer counts."""
        if not self.settled:
            self.settled = True
            self.done(value, error)

    def expired(self, *, started: bool) -> ExecutorError:
        """The error for one whose time is over."""
        return deadline_exceeded(self.timeout_s or 0.0, started=started)


class Outcome(NamedTuple):
    """What became of one job."""

    job: Job
    value: Outputs | None
    error: BaseException | None


class BatchRun:
    """One batch in the thread that runs it. ``elapsed_s`` is known when the run went to its end."""

    def __init__(self, runtime: OnnxRuntime, batch: Batch) -> None:
        self.batch = batch
        self.jobs = [job for job in batch.requests if isinstance(job, Job)]
        self.signal = StopSignal()
        self.size_bytes = sum(job.size_bytes for job in self.jobs)
        self.elapsed_s: float | None = None
        self.failed = False
        """Whether the batch failed and its requests were run one by one."""
        self._runtime = runtime

    @property
    def model(self) -> str:
        """The model's key."""
        return self.batch.lane.model

    def stop(self, error: ExecutorError) -> None:
        """Tell it to stop, whatever it is at."""
        self.signal.stop(error)
        for job in self.jobs:
            if job.signal is not None:
                job.signal.stop(error)

    def run(self, limit_s: float | None = None) -> Iterator[list[Outcome]]:
        """Run it, within ``limit_s`` seconds, and give the jobs' outcomes as they come. Raises nothing.

        If requests that were joined fail together they are run again one by one, once: one that was bad
        must not take the others down. Then :attr:`failed` is true, and each outcome comes by itself.
        """
        jobs = self.jobs
        try:
            values = self._together(limit_s)
        except RowsChanged as error:
            jobs[0].prepared.model.changes_rows(f"it does not give a row for each row: {error}")
        except (InferenceFailed, InputInvalid) as error:
            if len(jobs) == 1:
                yield [Outcome(jobs[0], None, error)]
                return
        except BaseException as error:  # whoever runs this has to survive whatever it was
            yield [Outcome(job, None, error) for job in jobs]
            return
        else:
            yield [Outcome(job, value, None) for job, value in zip(jobs, values, strict=True)]
            return
        self.failed = True
        for outcome in self._one_by_one():
            yield [outcome]

    def _together(self, limit_s: float | None) -> list[Outputs]:
        began_s = self._runtime.monotonic()
        first = self.jobs[0]
        timeout_s = self._timeout_s(began_s) if limit_s is None else limit_s
        joint = first.joint
        if joint is None or len(self.jobs) == 1:
            values = [self._runtime.execute(first.prepared, timeout_s=timeout_s, stop=self.signal)]
        else:
            inputs = [job.prepared.inputs for job in self.jobs]
            prepared = PreparedRun(first.prepared.model, joint.joined(inputs), first.prepared.outputs)
            outputs = self._runtime.execute(prepared, timeout_s=timeout_s, stop=self.signal)
            values = joint.parted(outputs, inputs)
        self.elapsed_s = self._runtime.monotonic() - began_s
        return values

    def _timeout_s(self, now: float) -> float | None:
        """Until nobody waits any more. Who gives up earlier is answered by the pool."""
        last_s = max(job.deadline_s for job in self.jobs)
        return None if last_s == math.inf else last_s - now

    def _one_by_one(self) -> Iterator[Outcome]:
        for job in self.jobs:
            if self.signal.error is not None:
                yield Outcome(job, None, self.signal.error)
            elif job.batch is not None:
                yield self._alone(job)

    def _alone(self, job: Job) -> Outcome:
        now = self._runtime.monotonic()
        job.signal = StopSignal()
        left_s = None if job.deadline_s == math.inf else job.deadline_s - now
        try:
            return Outcome(job, self._runtime.execute(job.prepared, timeout_s=left_s, stop=job.signal), None)
        except BaseException as error:  # as above
            return Outcome(job, None, error)
