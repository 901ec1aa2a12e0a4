"""Notices that an executor reads the clock or draws chance while it executes.

Replicas that ask anything but the command give different answers, and so does one replica that executes its
log again after a restart. Comparing replicas shows that they differ; this shows why, with the file and the
line, before anything has differed. Calls into C are watched with :func:`sys.setprofile`, so ``from time
import time`` hides nothing. Logging stamps its records, which is nobody's state, and is left out; so are
monotonic clocks, for metrics. What is not noticed: generators of other packages, ``id()``, ``hash()`` and
the order of sets, which is what comparing replicas, and processes, is for.
"""

from __future__ import annotations

import datetime
import os
import random
import sys
import sysconfig
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, Final

_READS: Final[dict[Any, str]] = {
    time.time: "time.time()",
    time.time_ns: "time.time_ns()",
    datetime.datetime.now: "datetime.now()",
    datetime.datetime.utcnow: "datetime.utcnow()",
    datetime.datetime.today: "datetime.today()",
    datetime.date.today: "date.today()",
    os.urandom: "os.urandom()",
    random.random: "the random module",
    random.getrandbits: "the random module",
}
_STANDARD_LIBRARY: Final = sysconfig.get_paths()["stdlib"]
NOTICED_MAX: Final = 10
"""So many different calls are told."""


@contextmanager
def noticing(found: list[str]) -> Iterator[None]:
    """Write down in ``found`` what is read in the body, and where. Under another profiler: nothing."""
    if sys.getprofile() is not None:
        yield
        return

    def look(frame: FrameType, event: str, called: Any) -> None:
        if event != "c_call" or called not in _READS or frame.f_globals.get("__name__") == "logging":
            return
        told = f"{_READS[called]} at {place(frame)}"
        if told not in found and len(found) < NOTICED_MAX:
            found.append(told)

    sys.setprofile(look)
    try:
        yield
    finally:
        sys.setprofile(None)


def place(frame: FrameType | None) -> str:
    """The file and line of the innermost frame that is not the standard library's."""
    at = frame
    while at is not None and _is_library(at.f_code.co_filename):
        at = at.f_back
    at = at or frame
    return "?" if at is None else f"{shown_path(at.f_code.co_filename)}:{at.f_lineno}"


def _is_library(name: str) -> bool:
    return name.startswith((_STANDARD_LIBRARY, "<frozen")) and "site-packages" not in name


def shown_path(name: str) -> str:
    """A file's path as a person at this folder would write it."""
    path = Path(name)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else name
