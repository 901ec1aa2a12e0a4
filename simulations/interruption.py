"""Commands that are told to stop say how far they came, and leave nothing running."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Iterator
from types import FrameType
from typing import Final

INTERRUPTED: Final = 130
"""The exit status of a command that Ctrl-C or SIGTERM has ended."""

AGAIN_S: Final = 0.5
"""So long after it was not heard, an interruption is told again."""


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


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    signal.setitimer(signal.ITIMER_REAL, AGAIN_S)
    # What a run lost is told again, and its coroutines complain when they are thrown away in the middle.
    sys.unraisablehook = lambda _unraisable: None
    raise KeyboardInterrupt


def interrupted(done: int, wanted: int, what: str, found: str) -> str:
    """How far it came: so many of ``what``, and what was found until then."""
    if not done:
        return f"interrupted before the first of {wanted:,} {what} was done"
    return f"interrupted after {done:,} of {wanted:,} {what}, {found} so far"
