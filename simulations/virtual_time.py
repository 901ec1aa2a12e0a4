"""An asyncio event loop for each process of a simulated world: virtual time, and one heap for all.

Every process has a loop of its own, and the world's heap decides which of them turns next. So a process
can be treated as an operating system treats one: it can stand still while the others go on (its timers are
late when it wakes), its clock can run fast or leap, and when it is killed nothing of it ever runs again,
no ``finally``, no goodbye. What it calls and waits for is production's code on asyncio's own tasks.

A turn takes a moment, so a busy loop does not stop time. What blocks (:meth:`VirtualLoop.stall`) delays
what the process does next by as long. Work for a thread is done at the end of the time that it takes, on
the loop; a process that is killed meanwhile has not done it. Callbacks of one loop run in the order in
which they were scheduled, as on any asyncio loop: the same program with the same seed does the same in any
process, provided that it never iterates over a set of strings or of objects that are hashed by address,
which is what comparing traces finds.
"""

from __future__ import annotations

import asyncio
import contextvars
import heapq
import math
import random
from collections import deque
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

from simulations.world import TIMER_STEP_S, Clock, World

T = TypeVar("T")

TURN_S = 2e-6
"""What one turn of a loop takes."""
CANCELLED_TIMERS_MAX = 256
"""So many cancelled timers may stay in the heap; with more than half of all, they are swept out."""
BURIAL_TURNS_MAX = 1000
"""A task that is still there after so many turns does not heed its cancellation."""
BURIAL_LOOK_TURNS = 16
"""After so many turns it is looked for tasks that others have begun meanwhile."""

Report = Callable[[dict[str, Any]], None]
"""Takes what asyncio tells an exception handler."""


class Callback:
    """As :class:`asyncio.Handle`, and lighter."""

    __slots__ = ("_arguments", "_call", "_cancelled", "_context", "_loop", "_when")

    def __init__(
        self,
        loop: VirtualLoop,
        when: float,
        call: Callable[..., object],
        arguments: tuple[Any, ...],
        context: contextvars.Context | None,
    ) -> None:
        self._loop = loop
        self._when = when
        self._call = call
        self._arguments = arguments
        self._context = contextvars.copy_context() if context is None else context
        self._cancelled = False

    def when(self) -> float:
        """When it is due, on the loop's clock."""
        return self._when

    def cancel(self) -> None:
        """Do not call."""
        if not self._cancelled:
            self._cancelled = True
            self._loop.one_cancelled(self._when)

    def cancelled(self) -> bool:
        """Whether it was cancelled."""
        return self._cancelled

    def run(self) -> None:
        """Call. What is raised goes to the loop's report."""
        try:
            self._context.run(self._call, *self._arguments)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            name = getattr(self._call, "__qualname__", repr(self._call))
            self._loop.call_exception_handler({"message": f"in {name}", "exception": error})


if TYPE_CHECKING:
    # Sockets, signals and child processes are not there, and raise NotImplementedError.
    _Loop = asyncio.SelectorEventLoop
else:
    _Loop = asyncio.AbstractEventLoop


class VirtualLoop(_Loop):
    """One process's loop. ``job_s`` says how long the next piece of work for a thread takes."""

    def __init__(
        self,
        world: World,
        clock: Clock,
        *,
        job_s: Callable[[], float] = lambda: 0.0,
        report: Report | None = None,
    ) -> None:
        self.clock = clock
        self.ended = False
        """Nothing runs here any more."""
        self.turns = 0
        self._world = world
        self._job_s = job_s
        self._report = report
        self._ready: deque[Callback] = deque()
        self._timers: list[tuple[float, int, Callback]] = []
        self._order = 0
        self._cancelled = 0
        self._still = False
        self._running = False
        self._in_job = False
        self._turn_due = False
        self._spent = 0.0
        self._free_at = 0.0
        self._alarm_at = math.inf
        self._alarm = 0

    # -- what a world does with it ------------------------------------------------------------------

    def stall(self, seconds: float) -> None:
        """Whatever runs now blocks for so long. Work in a thread has been given its time already."""
        if not self._in_job:
            self._spent += seconds

    def stand_still(self) -> None:
        """Run nothing until :meth:`go_on`."""
        self._still = True

    def go_on(self) -> None:
        """Run again, what is overdue first."""
        self._still = False
        self._wake()

    def end(self) -> None:
        """The process is dead: nothing runs any more, and nobody is told."""
        self.ended = True

    def rearm(self) -> None:
        """The clock was changed: timers are due at other times."""
        self._alarm_at = math.inf
        self._arm()

    def world_now(self) -> float:
        """The world's time at this point of the turn."""
        return self._world.now + self._spent

    def bury(self) -> list[asyncio.Task[Any]]:
        """After the end: cancel the tasks of a dead process, and let them notice. Gives those that do not.

        Nothing of the simulation may look at the world any more: this is for memory's sake.
        """
        cancelled: set[asyncio.Task[Any]] = set()
        self._report, self._still = None, False
        for turn in range(BURIAL_TURNS_MAX):
            # Some begin others as they end. To look goes through every task that there is, so it is rare.
            if turn % BURIAL_LOOK_TURNS == 0 or not (self._ready or self._timers):
                for task in asyncio.all_tasks(self) - cancelled:
                    cancelled.add(task)
                    task.cancel()
            if not self._ready and not self._timers:
                break
            if not self._ready:
                self._ready.append(heapq.heappop(self._timers)[2])
            self._run(len(self._ready))
        left = [task for task in asyncio.all_tasks(self) if not task.done()]
        for task in left:
            task._log_destroy_pending = False  # type: ignore[attr-defined]
        self._ready.clear()
        self._timers.clear()
        return left

    # -- turns --------------------------------------------------------------------------------------

    def _wake(self) -> None:
        if not (self._turn_due or self._running or self._still or self.ended):
            self._turn_due = True
            self._world.at(max(self._world.now + TURN_S, self._free_at), self._due)

    def _due(self) -> None:
        if self._turn_due:
            self._turn()

    def _turn(self) -> None:
        self._turn_due = False
        if self.ended or self._still:
            return
        now, timers, ready = self.time() + TIMER_STEP_S, self._timers, self._ready
        while timers and timers[0][0] <= now:
            callback = heapq.heappop(timers)[2]
            if callback.cancelled():
                self._cancelled -= 1
            else:
                ready.append(callback)
        self.turns += 1
        self._run(len(ready))
        self._free_at = self._world.now + self._spent
        self._spent = 0.0
        if self.ended:
            return
        if ready:
            self._wake()
        else:
            self._arm()

    def _run(self, count: int) -> None:
        ready = self._ready
        self._running = True
        before = asyncio._get_running_loop()
        asyncio._set_running_loop(self)
        ended = self.ended
        try:
            for _ in range(count):
                callback = ready.popleft()
                if not callback._cancelled:
                    callback.run()
                    if self.ended is not ended:
                        break
        finally:
            asyncio._set_running_loop(before)
            self._running = False

    def _arm(self) -> None:
        """Have the world turn this loop when its first timer is due."""
        if self._running or self._turn_due or self._still or self.ended or not self._timers:
            return
        at = max(self.clock.when(self._timers[0][0]), self._free_at, self._world.now + TIMER_STEP_S)
        if at < self._alarm_at:
            self._alarm_at = at
            self._alarm += 1
            self._world.at(at, self._rings, self._alarm)

    def _rings(self, alarm: int) -> None:
        if alarm == self._alarm:
            self._alarm_at = math.inf
            self._turn()

    # -- asyncio.AbstractEventLoop ------------------------------------------------------------------

    def time(self) -> float:
        """Seconds on this process's monotonic clock."""
        return self.clock.now() + self._spent

    def call_soon(  # type: ignore[override]
        self,
        callback: Callable[..., object],
        *args: Any,
        context: contextvars.Context | None = None,
    ) -> Callback:
        """See :class:`asyncio.AbstractEventLoop`."""
        handle = Callback(self, -1.0, callback, args, context)
        self._ready.append(handle)
        if not self._turn_due:
            self._wake()
        return handle

    call_soon_threadsafe = call_soon  # type: ignore[assignment]

    def call_later(  # type: ignore[override]
        self,
        delay: float,
        callback: Callable[..., object],
        *args: Any,
        context: contextvars.Context | None = None,
    ) -> Callback:
        """See :class:`asyncio.AbstractEventLoop`."""
        return self.call_at(self.time() + delay, callback, *args, context=context)

    def call_at(  # type: ignore[override]
        self,
        when: float,
        callback: Callable[..., object],
        *args: Any,
        context: contextvars.Context | None = None,
    ) -> Callback:
        """See :class:`asyncio.AbstractEventLoop`."""
        handle = Callback(self, when, callback, args, context)
        self._order += 1
        heapq.heappush(self._timers, (when, self._order, handle))
        if self._timers[0][2] is handle:
            self._arm()
        return handle

    def one_cancelled(self, when: float) -> None:
        """For this loop's own callbacks: one of them was cancelled."""
        if when < 0.0:
            return
        self._cancelled += 1
        if self._cancelled > CANCELLED_TIMERS_MAX and 2 * self._cancelled > len(self._timers):
            self._timers = [entry for entry in self._timers if not entry[2].cancelled()]
            heapq.heapify(self._timers)
            self._cancelled = 0

    def create_future(self) -> asyncio.Future[Any]:
        """See :class:`asyncio.AbstractEventLoop`."""
        return asyncio.Future(loop=self)

    def create_task(  # type: ignore[override]
        self,
        coro: Coroutine[Any, Any, T],
        *,
        name: str | None = None,
        context: contextvars.Context | None = None,
    ) -> asyncio.Task[T]:
        """See :class:`asyncio.AbstractEventLoop`."""
        return asyncio.Task(coro, loop=self, name=name, context=context)

    def run_in_executor(  # type: ignore[override]
        self, executor: Any, func: Callable[..., T], *args: Any
    ) -> asyncio.Future[T]:
        """Do the work at the end of the time that it takes, whether or not anybody still waits."""
        future: asyncio.Future[T] = self.create_future()
        self.call_later(self._job_s(), self._do_job, future, func, args)
        return future

    def _do_job(self, future: asyncio.Future[T], func: Callable[..., T], args: tuple[Any, ...]) -> None:
        self._in_job = True
        try:
            result = func(*args)
        except Exception as error:
            if not future.done():
                future.set_exception(error)
        else:
            if not future.done():
                future.set_result(result)
        finally:
            self._in_job = False

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Tell whoever reports for this process; the dead are not heard."""
        if self._report is not None and not self.ended:
            self._report(context)

    def get_debug(self) -> bool:
        """See :class:`asyncio.AbstractEventLoop`."""
        return False

    def is_running(self) -> bool:
        """See :class:`asyncio.AbstractEventLoop`."""
        return True

    def is_closed(self) -> bool:
        """See :class:`asyncio.AbstractEventLoop`."""
        return False


class VirtualClock:
    """An :class:`mcp.clock.Clock` on a machine's clocks, with randomness from a stream of the seed."""

    def __init__(self, clock: Clock, generator: random.Random) -> None:
        self._clock = clock
        self._random = generator

    def monotonic(self) -> float:
        """Seconds on the machine's monotonic clock, at this point of a process's turn."""
        return asyncio.get_running_loop().time()

    def wall(self) -> float:
        """Seconds since the epoch, as the machine believes."""
        return self._clock.wall() + self.monotonic() - self._clock.now()

    def entropy(self, size: int) -> bytes:
        """Bytes from the seed."""
        return self._random.randbytes(size)

    def random(self) -> random.Random:
        """A generator of its own, from the seed."""
        return random.Random(self._random.getrandbits(64))
