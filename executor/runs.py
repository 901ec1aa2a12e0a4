"""Stopping runs: by whoever asked for them, at a deadline, or because their model is to go.

onnxruntime looks at ``RunOptions.terminate`` between two operators, so a run ends a moment after it was
told to, never in the middle of one operator. All of this is plain threading: the run itself blocks its
thread, and somebody else has to flip the flag.
"""

from __future__ import annotations

import heapq
import itertools
import threading
from collections.abc import Callable
from typing import Any

from executor.errors import DeadlineExceeded, ExecutorError


class StopSignal:
    """The way to stop one run from another thread. Make a new one for every run.

    :meth:`stop` may come before the run starts (it then never does), during it, or after it (nothing
    happens). No lock: ``stop`` writes the error before it reads the options, and ``bind`` writes the
    options before it reads the error, so one of the two always sees the other.
    """

    __slots__ = ("_options", "error")

    def __init__(self) -> None:
        self.error: ExecutorError | None = None
        """Why the run was told to stop: what it raises. The first reason stays."""
        self._options: Any = None

    def stop(self, error: ExecutorError) -> None:
        """End the run soon; it raises ``error``, unless it is just finishing."""
        if self.error is None:
            self.error = error
        options = self._options
        if options is not None:
            options.terminate = True

    def bind(self, options: Any) -> None:
        """Take over the run's ``RunOptions``."""
        self._options = options
        if self.error is not None:
            options.terminate = True


class RunsInFlight:
    """Counts the runs of one model, so that it can be taken away without pulling it from under them."""

    def __init__(self) -> None:
        self._changed = threading.Condition(threading.Lock())
        self._signals: set[StopSignal] = set()
        self._closed = False

    def __len__(self) -> int:
        return len(self._signals)

    def enter(self, signal: StopSignal) -> bool:
        """Count a run in; ``False`` if no more may start."""
        with self._changed:
            if self._closed:
                return False
            self._signals.add(signal)
            return True

    def leave(self, signal: StopSignal) -> None:
        """Count a run out."""
        with self._changed:
            self._signals.discard(signal)
            if self._closed and not self._signals:
                self._changed.notify_all()

    def close(self) -> None:
        """Let no more runs start."""
        with self._changed:
            self._closed = True

    def drain(self, timeout_s: float | None) -> bool:
        """Wait until every run has left, at most ``timeout_s``; whether all have."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._signals, timeout_s)

    def stop_all(self, error: ExecutorError) -> None:
        """Tell every run to stop with ``error``."""
        with self._changed:
            for signal in self._signals:
                signal.stop(error)


class _Timer:
    __slots__ = ("deadline", "order", "signal", "timeout_s")

    def __init__(self, deadline: float, order: int, signal: StopSignal, timeout_s: float) -> None:
        self.deadline = deadline
        self.order = order
        self.signal: StopSignal | None = signal
        self.timeout_s = timeout_s

    def __lt__(self, other: _Timer) -> bool:
        return (self.deadline, self.order) < (other.deadline, other.order)


class Watchdog:
    """Stops runs at their deadlines: one thread for all of them, started with the first.

    A timer that is no longer needed stays in the heap, empty, until the thread is awake anyway or most of the
    heap is empty. So a run that is done in time wakes nobody: with equal time limits the thread wakes about
    once per limit, not once per run, for it waits for no timer that is empty already.
    """

    TIMERS_IDLE_MAX = 1024
    """Empty timers that may stay in the heap beside as many as there are live ones."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._changed = threading.Condition(threading.Lock())
        self._timers: list[_Timer] = []
        self._idle = 0
        self._order = itertools.count()
        self._thread: threading.Thread | None = None
        self._closed = False

    def arm(self, signal: StopSignal, timeout_s: float) -> _Timer:
        """Stop ``signal``'s run with :class:`DeadlineExceeded` after ``timeout_s``."""
        timer = _Timer(self._monotonic() + timeout_s, next(self._order), signal, timeout_s)
        with self._changed:
            heapq.heappush(self._timers, timer)
            if self._timers[0] is timer:
                self._changed.notify()
            if self._thread is None and not self._closed:
                self._thread = threading.Thread(target=self._watch, name="inference-watchdog", daemon=True)
                self._thread.start()
        return timer

    def disarm(self, timer: _Timer) -> None:
        """Forget a timer: its run is over. One that has fired is forgotten already."""
        with self._changed:
            if timer.signal is None:
                return
            timer.signal = None
            self._idle += 1
            if self._idle > self.TIMERS_IDLE_MAX and self._idle > len(self._timers) // 2:
                self._timers = [each for each in self._timers if each.signal is not None]
                heapq.heapify(self._timers)
                self._idle = 0

    def close(self) -> None:
        """End the thread. Timers that are armed later never fire."""
        with self._changed:
            self._closed = True
            thread, self._thread = self._thread, None
            self._timers.clear()
            self._changed.notify()
        if thread is not None:
            thread.join()

    def _watch(self) -> None:
        with self._changed:
            while not self._closed:
                self._drop_empty()
                wait_s = self._timers[0].deadline - self._monotonic() if self._timers else None
                if wait_s is None or wait_s > 0:
                    self._changed.wait(None if wait_s is None else min(wait_s, threading.TIMEOUT_MAX))
                    continue
                timer = heapq.heappop(self._timers)
                signal, timer.signal = timer.signal, None
                if signal is not None:
                    signal.stop(deadline_exceeded(timer.timeout_s))

    def _drop_empty(self) -> None:
        """Forget the empty timers in front."""
        while self._timers and self._timers[0].signal is None:
            heapq.heappop(self._timers)
            self._idle -= 1


def deadline_exceeded(timeout_s: float, *, started: bool = True) -> DeadlineExceeded:
    """The error for a run whose time is over."""
    how = "was stopped after" if started else "was not started within"
    return DeadlineExceeded(
        f"the run {how} {max(timeout_s, 0.0):.3f} s: allow it more time, or send less work at once"
    )
