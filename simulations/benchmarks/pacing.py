"""A timer of the kernel's in an event loop: finer than the loop's own, and without a thread.

An event loop's timers are a millisecond coarse. A thread that sleeps is not, but it shares the interpreter
with the loop: it takes it away at each arrival and, while the loop is busy, waits for it up to the
interpreter's switch interval of 5 ms, and both would be measured as the server's. A timer that is a file
descriptor wakes the loop as a socket does (``timerfd_create(2)``, Linux; Python has its own from 3.13 on).
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import time
from collections.abc import Callable
from typing import Final

_ABSOLUTE: Final = 1
"""TFD_TIMER_ABSTIME"""


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class _Setting(ctypes.Structure):
    _fields_ = (("interval", _Timespec), ("value", _Timespec))


class Alarm:
    """Calls ``ring`` in the running loop once the time has come that was last set.

    Raises :class:`OSError` where the system has no such timers.
    """

    def __init__(self, ring: Callable[[], None]) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        try:
            self._file: int = self._libc.timerfd_create(time.CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
        except AttributeError:
            raise OSError("open loops need Linux's timers (timerfd_create)") from None
        if self._file < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        self._setting = _Setting()
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._file, self._rung)
        self._ring = ring

    def set(self, at: float) -> None:
        """Ring at ``at``, seconds of :func:`time.perf_counter`, or at once if that is over."""
        # Zero would switch it off. On Linux perf_counter reads the very clock that the timer goes by.
        whole, part = divmod(max(1, int(at * 1e9)), 1_000_000_000)
        self._setting.value.seconds, self._setting.value.nanoseconds = whole, part
        if self._libc.timerfd_settime(self._file, _ABSOLUTE, ctypes.byref(self._setting), None) < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))

    def close(self) -> None:
        """Ring no more."""
        self._loop.remove_reader(self._file)
        os.close(self._file)

    def _rung(self) -> None:
        try:
            os.read(self._file, 8)
        except BlockingIOError:
            return  # it was set anew meanwhile
        self._ring()
