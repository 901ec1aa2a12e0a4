"""Work in several processes, which are gone as soon as nobody wants its results any more."""

from __future__ import annotations

import concurrent.futures
import contextlib
import ctypes
import gc
import itertools
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Final, TypeVar

from simulations.interruption import interruption_wanted, undisturbed

Piece = TypeVar("Piece")
Result = TypeVar("Result")

AHEAD_MAX: Final = 1024
"""So many pieces of work are handed out before the first of them is done: others need not wait for it."""
LOOK_S: Final = 0.1
"""How often whoever waits for a result looks whether it is still wanted."""
ONE_GONE: Final = (
    "a process of this run was ended by something else (for want of memory, most likely), and with it all "
    "of them; give fewer --jobs"
)
COLLECT_AFTER: Final = (20_000, 20, 20)
"""For :func:`gc.set_threshold` in those processes: a run lets go of what it made when it ends, and to look
for circles as often as Python does by itself would take an eighth of their time."""


class ProcessGone(Exception):
    """A process that was to do a part of the work is gone, and nobody knows how far it was."""


def spread(work: Callable[[Piece], Result], pieces: Iterable[Piece], jobs: int) -> Iterator[Result]:
    """What ``work`` gives for each of the pieces, in order, from so many processes.

    Whoever stops listening (:meth:`~collections.abc.Generator.close`, or an exception) ends them at once, in
    the middle of their work. Raises :class:`ProcessGone` when something else has ended one of them.
    """
    # Fresh interpreters, so that a run is a function of its seed and not of what ran before a fork.
    context = multiprocessing.get_context("spawn")
    others = set(multiprocessing.active_children())
    left = iter(pieces)
    ahead: deque[Future[Result]] = deque()
    pool = ProcessPoolExecutor(jobs, mp_context=context, initializer=_belong)
    finished = False
    try:
        while True:
            # An exception that came from nowhere would leave the pool's locks locked, for ever.
            with undisturbed():
                with _deaf():
                    new = itertools.islice(left, AHEAD_MAX - len(ahead))
                    ahead.extend(pool.submit(_tidily, work, piece) for piece in new)
                if not ahead:
                    finished = True
                    return
                result = _awaited(ahead.popleft())
            yield result
    finally:
        with undisturbed():
            # Told to stop, a process would first finish its piece, and that may take minutes.
            for process in set() if finished else set(multiprocessing.active_children()) - others:
                process.kill()
            pool.shutdown(cancel_futures=True)


def _awaited(future: Future[Result]) -> Result:
    while not interruption_wanted():
        # A timeout may as well be what the work itself has raised.
        if concurrent.futures.wait([future], LOOK_S).done:
            try:
                return future.result()
            except BrokenProcessPool:
                raise ProcessGone(ONE_GONE) from None
    raise KeyboardInterrupt


def _tidily(work: Callable[[Piece], Result], piece: Piece) -> Result:
    """In a process of a pool: the memory that a piece of work took goes back to the system afterwards.

    The C library keeps it, in ever smaller parts: after 400 runs of whole nodes that was almost a gigabyte.
    """
    try:
        return work(piece)
    finally:
        gc.collect()
        # There is no such function but in glibc, and none is needed elsewhere.
        with contextlib.suppress(AttributeError, OSError, TypeError):
            ctypes.CDLL(None).malloc_trim(0)


@contextlib.contextmanager
def _deaf() -> Iterator[None]:
    """Ctrl-C waits until the body has ended; for processes that start in it, until :func:`_belong`."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _belong() -> None:
    """In a process of a pool: end with the one that started it, however that ends, and only then.

    Ctrl-C reaches all processes of a terminal; what it means is for the first one to say.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    gc.set_threshold(*COLLECT_AFTER)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
