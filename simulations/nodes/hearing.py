"""What production logs and warns of while a run goes on: an error is a defect.

Nodes log on purpose where a disk was made to fail, and then end: why one cannot go on is looked at where it
ends. Everything else that is logged as an error, and every coroutine that nobody awaited, is a crash.
"""

from __future__ import annotations

import functools
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

LOGGERS: Final = ("mcp", "consensus", "executor", "asyncio")

Tell = Callable[[str], None]
Fail = Callable[[Exception], None]


class Crash(Exception):
    """Something was raised, or logged as a defect, that nobody does on purpose."""


class _Ear(logging.Handler):
    def __init__(self, tell: Tell, fail: Fail) -> None:
        super().__init__(logging.WARNING)
        self._tell = tell
        self._fail = fail

    def emit(self, record: logging.LogRecord) -> None:
        """See :class:`logging.Handler`."""
        text = record.getMessage()
        if record.levelno < logging.ERROR or "cannot go on" in text:
            self._tell(text)
        else:
            self._fail(Crash(f"logged as {record.levelname.lower()}: {text}"))


@contextmanager
def heard(tell: Tell, fail: Fail) -> Iterator[None]:
    """Hear what is logged and warned of within: it is told, or the run fails for it."""
    ear = _Ear(tell, fail)
    told = warnings.catch_warnings()
    loggers = [logging.getLogger(name) for name in LOGGERS]
    before = [(logger.propagate, logger.level) for logger in loggers]
    for logger in loggers:
        logger.addHandler(ear)
        logger.propagate = False
        logger.setLevel(logging.WARNING)
    told.__enter__()
    warnings.simplefilter("always", RuntimeWarning)
    warnings.showwarning = functools.partial(_warned, fail)
    try:
        yield
    finally:
        told.__exit__(None, None, None)
        for logger, (propagate, level) in zip(loggers, before, strict=True):
            logger.removeHandler(ear)
            logger.propagate = propagate
            logger.setLevel(level)


def _warned(fail: Fail, message: Warning | str, category: type[Warning], *_: Any) -> None:
    if issubclass(category, RuntimeWarning):
        fail(Crash(f"warned: {message}"))
