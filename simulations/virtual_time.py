"""An asyncio event loop in virtual time: whole nodes run on it, and a seed decides everything.

Nothing waits. When every task waits for a timer, time jumps to the next one; every turn of the loop takes
a moment, so that a busy loop does not stop time. Work that production hands to a thread is done at once,
on the loop. Callbacks run in the order in which they were scheduled, as on any asyncio loop, so the same
program with the same random source does the same, down to the byte, in any process: provided that it
never iterates over a set of strings, which is what comparing traces under two hash seeds finds.
"""

from __future__ import annotations

import asyncio
import random
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

TURN_S = 1e-6
"""What one turn of the loop takes."""
EPOCH_S = 1_700_000_000.0
"""The wall clock at virtual time 0."""
TIME_S_MAX = 24 * 3600.0
"""A run that lasts longer in virtual time waits for something that never comes."""


class NothingWillHappen(RuntimeError):
    """Every task waits, no timer is set, and no socket can wake anybody: a deadlock."""


class _VirtualSelector(selectors.DefaultSelector):
    """Jumps to the next timer instead of waiting for it."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise NothingWillHappen("every task waits, and no timer is set")
        self.now += TURN_S + max(0.0, timeout)
        if self.now > TIME_S_MAX:
            raise NothingWillHappen(
                f"{TIME_S_MAX:.0f} virtual seconds have passed, and something still waits"
            )
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop in virtual time, for programs without sockets, threads and processes."""

    def __init__(self) -> None:
        self._virtual = _VirtualSelector()
        super().__init__(self._virtual)

    def time(self) -> float:
        """Virtual seconds since the loop was made."""
        return self._virtual.now

    def run_in_executor(  # type: ignore[override]
        self, executor: Any, func: Callable[..., T], *args: Any
    ) -> asyncio.Future[T]:
        """Do the work now, and give its outcome on the loop's next turn."""
        future: asyncio.Future[T] = self.create_future()
        try:
            result = func(*args)
        except Exception as error:
            self.call_soon(_fail, future, error)
        else:
            self.call_soon(_settle, future, result)
        return future


def _settle(future: asyncio.Future[T], result: T) -> None:
    if not future.done():
        future.set_result(result)


def _fail(future: asyncio.Future[T], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)


class VirtualClock:
    """An :class:`mcp.clock.Clock` in virtual time, with randomness from a seed.

    ``skew_s`` is added to the wall clock and may be changed while the node runs: a clock that jumps.
    """

    def __init__(self, generator: random.Random, skew_s: float = 0.0) -> None:
        self.skew_s = skew_s
        self._random = generator

    def monotonic(self) -> float:
        """Virtual seconds."""
        return asyncio.get_running_loop().time()

    def wall(self) -> float:
        """Seconds since the epoch, skewed."""
        return EPOCH_S + self.monotonic() + self.skew_s

    def entropy(self, size: int) -> bytes:
        """Bytes from the seed."""
        return self._random.randbytes(size)

    def random(self) -> random.Random:
        """A generator of its own, from the seed."""
        return random.Random(self._random.getrandbits(64))


def run_virtual(main: Coroutine[Any, Any, T]) -> T:
    """Run ``main`` on a fresh loop in virtual time."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)
