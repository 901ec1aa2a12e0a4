"""Commands that are told to stop say how far they came, and leave nothing running."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass
from types import FrameType
from typing import Any, Final, TypeVar

T = TypeVar("T")

INTERRUPTED: Final = 130
"""The exit status of a command that Ctrl-C or SIGTERM has ended."""

AGAIN_S: Final = 0.5
"""So long after it was not heard, an interruption is told again."""


async def stoppable(work: Coroutine[Any, Any, T]) -> T:
    """What ``work`` gives. SIGTERM cancels it as Ctrl-C does, with everything stopped that it has started."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await work


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """SIGTERM and Ctrl-C end the body with :class:`KeyboardInterrupt`, and the process is to end then.

    A run in this process may lose an exception that comes at any moment: in a callback of the garbage
    collector, or where production survives whatever it was. So it comes again until the body has ended.
    """
    numbers = [signal.SIGTERM, signal.SIGALRM]
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        numbers.append(signal.SIGINT)
    before = {number: signal.signal(number, _interrupt) for number in numbers}
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        for number, handler in before.items():
            signal.signal(number, handler)


@dataclass(slots=True)
class _Wish:
    """What is known of interruptions while they must not come."""

    undisturbed: int = 0
    wanted: bool = False


_WISH = _Wish()


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """An interruption does not come in the body but at its end; the body may ask whether one is wanted."""
    _WISH.undisturbed += 1
    try:
        yield
    finally:
        _WISH.undisturbed -= 1
        if _WISH.wanted and not _WISH.undisturbed:
            _interrupt(0, None)


def interruption_wanted() -> bool:
    """Whether somebody waits for the end of what is undisturbed."""
    return _WISH.wanted


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    _WISH.wanted = bool(_WISH.undisturbed)
    if _WISH.wanted:
        return
    signal.setitimer(signal.ITIMER_REAL, AGAIN_S)
    # What a run lost is told again, and its coroutines complain when they are thrown away in the middle.
    sys.unraisablehook = lambda _unraisable: None
    raise KeyboardInterrupt


def interrupted(done: int, wanted: int, what: str, found: str) -> str:
    """How far it came: so many of ``what``, and what was found until then."""
    if not done:
        return f"interrupted before the first of {wanted:,} {what} was done"
    return f"interrupted after {done:,} of {wanted:,} {what}, {found} so far"
