"""Python's garbage collector in a simulated run: when it looks is decided by the run, not by allocations.

Each look in the middle of a run costs time for what is alive anyway, and what ends at a look that nobody
decided (a coroutine, a file) would end at another moment in each process.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collected_by_hand() -> Iterator[None]:
    """Nothing is collected inside but by ``gc.collect()``, and then only what was made inside."""
    was = gc.isenabled()
    gc.disable()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
        if was:
            gc.enable()
