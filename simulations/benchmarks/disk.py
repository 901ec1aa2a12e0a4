"""What the disk takes to make a small record durable: no acknowledged command can be faster."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path
from typing import Final

RECORD_BYTES: Final = 256


def measure_syncs(folder: Path, count: int) -> list[float]:
    """Durations of ``count`` fdatasyncs, each of a record appended to a file in ``folder``, in seconds.

    The write itself is not counted, and the file grows, as a log does.
    """
    with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
        return [_once(file.fileno()) for _ in range(count)]


def _once(descriptor: int) -> float:
    os.write(descriptor, bytes(RECORD_BYTES))
    begun = time.perf_counter()
    os.fdatasync(descriptor)
    return time.perf_counter() - begun
