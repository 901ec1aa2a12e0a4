"""Work in several processes, which are gone as soon as nobody wants its results any more."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from typing import Final, TypeVar

Piece = TypeVar("Piece")
Result = TypeVar("Result")

AHEAD_MAX: Final = 1024
"""So many pieces of work are handed out before the first of them is done: others need not wait for it."""


def spread(work: Callable[[Piece], Result], pieces: Iterable[Piece], jobs: int) -> Iterator[Result]:
    """What ``work`` gives for each of the pieces, in order, from so many processes.

    Whoever stops listening (:meth:`~collections.abc.Generator.close`, or an exception) ends them at once, in
    the middle of their work.
    """
    # Fresh interpreters, so that a run is a function of its seed and not of what ran before a fork.
    context = multiprocessing.get_context("spawn")
    others = set(multiprocessing.active_children())
    left = iter(pieces)
    ahead: deque[Future[Result]] = deque()
    with ProcessPoolExecutor(jobs, mp_context=context, initializer=_belong) as pool:
        try:
            while True:
                new = itertools.islice(left, AHEAD_MAX - len(ahead))
                ahead.extend(pool.submit(work, piece) for piece in new)
                if not ahead:
                    return
                yield ahead.popleft().result()
        except BaseException:
            # Told to stop, a process would first finish its piece, and that may take minutes.
            for process in set(multiprocessing.active_children()) - others:
                process.kill()
            pool.shutdown(cancel_futures=True)
            raise


def _belong() -> None:
    """In a process of a pool: end with the one that started it, however that ends, and only then.

    Ctrl-C reaches all processes of a terminal; what it means is for the first one to say.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
