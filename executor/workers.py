"""The threads that take batches and run them, as many as are needed, up to a limit.

A worker takes its next batch in the moment in which it is free, so that nothing goes through the event loop
in between and a batch holds all that has come until then. One that finds nothing sleeps until it is
woken, or until a batch is due that is held now. At most one is being woken at a time; it wakes the next
when it leaves something to be taken.
"""

from __future__ import annotations

import math
import queue
import threading
from collections.abc import Callable, Sequence
from typing import Protocol

from executor.batching.batcher import Batcher
from executor.batching.jobs import BatchRun, Job, Outcome
from executor.onnx import OnnxRuntime


class Crew(Protocol):
    """What takes batches and runs them: :class:`Workers`, or what a simulation has in the place of threads.

    Made with a runtime, a batcher, and the arguments of :class:`Workers`, which says what they are.
    """

    runs: dict[object, BatchRun]
    """The runs under way, by their batch."""

    def wake_by(self, due_s: float, now: float) -> None:
        """Something is due at that time: look then. Called with the lock held."""

    def wake(self) -> None:
        """Something is due. Called with the lock held."""

    def close(self) -> list[threading.Thread]:
        """Let no more batches be taken; the threads that will end. Called with the lock held."""


class Workers:
    """Up to ``batcher.limits.workers`` threads. ``lock`` guards the batcher, and all of this.

    ``answer`` gets the outcomes of a batch, and ``refuse`` the jobs that were too late to be taken; both are
    called in a worker's thread, without the lock. ``learn`` is called with the lock for a batch that ran.
    """

    def __init__(
        self,
        runtime: OnnxRuntime,
        batcher: Batcher,
        lock: threading.Lock,
        *,
        answer: Callable[[Sequence[Outcome]], None],
        refuse: Callable[[Sequence[Job]], None],
        learn: Callable[[BatchRun], None],
    ) -> None:
        self.runs: dict[object, BatchRun] = {}
        """The runs under way, by their batch."""
        self._runtime = runtime
        self._batcher = batcher
        self._lock = lock
        self._answer = answer
        self._refuse = refuse
        self._learn = learn
        self._threads: list[threading.Thread] = []
        self._tokens: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._asleep = 0
        self._waking = 0
        self._alarm_s = math.inf  # when a worker that sleeps wakes by itself
        self._closed = False

    def wake_by(self, due_s: float, now: float) -> None:
        """Something is due at that time: have a worker look then. Call it with the lock held."""
        if due_s <= now or due_s < self._alarm_s:
            self.wake()

    def wake(self) -> None:
        """Something is due. Call it with the lock held."""
        if self._waking or self._closed:
            return
        if self._asleep:
            self._asleep -= 1
            self._tokens.put(None)
        elif len(self._threads) < self._batcher.limits.workers:
            name = f"inference-{len(self._threads)}"
            thread = threading.Thread(target=self._work, name=name, daemon=True)
            self._threads.append(thread)
            thread.start()
        else:
            return
        self._waking += 1

    def close(self) -> list[threading.Thread]:
        """Let no more batches be taken; the threads that will end. Call it with the lock held."""
        self._closed = True
        threads, self._threads = self._threads, []
        for _ in threads:
            self._tokens.put(None)
        return threads

    def _work(self) -> None:
        woken = True
        while True:
            run, wait_s = self._take(woken)
            if run is None and wait_s is None:
                return
            woken = run is None and self._sleep(wait_s)
            if run is not None:
                self._perform(run)

    def _take(self, woken: bool) -> tuple[BatchRun | None, float | None]:
        """The next run; or for how long to sleep; or, at the end, neither."""
        with self._lock:
            self._waking -= woken
            self._alarm_s = math.inf
            if self._closed:
                return None, None
            now = self._runtime.monotonic()
            batch = self._batcher.take(now)
            late, self._batcher.late = self._batcher.late, []
            run, wait_s = None, None
            if batch is not None:
                run = self.runs[batch] = BatchRun(self._runtime, batch)
                if self._batcher.requests:
                    self.wake()
            else:
                self._asleep += 1
                self._alarm_s = self._batcher.next_due(now)
                wait_s = self._alarm_s - now
        if late:
            self._refuse([job for job in late if isinstance(job, Job)])
        return run, wait_s

    def _sleep(self, wait_s: float | None) -> bool:
        """Sleep until woken (true) or for so long."""
        if wait_s is None or wait_s > threading.TIMEOUT_MAX:
            self._tokens.get()
            return True
        try:
            self._tokens.get(timeout=max(0.0, wait_s))
        except queue.Empty:
            with self._lock:
                try:
                    self._tokens.get_nowait()  # it came in this very moment
                except queue.Empty:
                    self._asleep -= 1
                    return False
        return True

    def _perform(self, run: BatchRun) -> None:
        last: list[Outcome] = []
        for outcomes in run.run():
            if run.failed:  # one of them, and the others may take long
                with self._lock:
                    self._batcher.answered(outcomes[0].job)
                self._answer(outcomes)
            else:
                last = outcomes
        with self._lock:
            del self.runs[run.batch]
            self._learn(run)
            self._batcher.finished(run.batch, run.elapsed_s)
        self._answer(last)
