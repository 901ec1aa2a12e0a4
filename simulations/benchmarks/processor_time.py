"""Processor time of other processes, to the nanosecond where the system tells that."""

from __future__ import annotations

import sys
import time
from typing import Final

import psutil

_SCHEDULED: Final = 2
"""The clock of time on a core, of those that Linux has for each process (``CPUCLOCK_SCHED``)."""


def process_s(pid: int) -> float:
    """Seconds that a process and its threads, ended ones too, have been on a core.

    Linux has a clock for that, whose number follows from the process's (``clock_getcpuclockid(3)``);
    elsewhere psutil is asked, which counts in hundredths of a second. Raises ``OSError`` or
    ``psutil.NoSuchProcess`` where there is no such process.
    """
    if sys.platform == "linux":
        return time.clock_gettime(~pid << 3 | _SCHEDULED)
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def tree_s(pid: int) -> float:
    """The same of a process and of those that it started and that run."""
    children = psutil.Process(pid).children(recursive=True)
    return process_s(pid) + sum(process_s(child.pid) for child in children)
