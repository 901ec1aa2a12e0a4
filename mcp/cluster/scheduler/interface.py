"""What is asked of a scheduler, and what it answers.

A scheduler is told what was sent where, how it ended and what the nodes say of themselves, and from that
alone it chooses. It opens nothing and waits for nothing: time and randomness are arguments, so equal calls
give equal choices. Which nodes are *eligible* (they hold the model, they accept the input) is decided
before it is asked. Nothing here is for use by several threads at once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Final, NamedTuple, Protocol

from mcp.cluster.outcome import Outcome
from mcp.cluster.scheduler.load_report import LoadReport
from mcp.errors import InvalidArgument

PRIORITY_MAX: Final = 15
"""The most urgent priority. Priorities are 0 to this, and a larger one is more urgent."""

SIZE_MAX: Final = 1e15
"""The largest size of a request, in whatever unit sizes are: a petabyte, if that is bytes."""


@dataclass(frozen=True, slots=True)
class Request:
    """What a scheduler has to know of an inference.

    ``id`` is unique among the requests under way. ``size`` is what the time of the model depends on, as one
    number of 0 or more: rows, or rows times bytes; for one model always the same. ``priority`` is from 0 to
    :data:`PRIORITY_MAX`, larger is more urgent. ``deadline`` is on the clock of ``now``, in seconds.
    Raises :class:`~mcp.errors.InvalidArgument` for a size, a priority or a deadline that is none.
    """

    id: str
    model: str
    size: float = 1.0
    priority: int = 0
    deadline: float | None = None

    def __post_init__(self) -> None:
        if not 0.0 <= self.size <= SIZE_MAX:  # not a number compares as false
            raise InvalidArgument(
                f"the size of request {self.id!r:.80} is {self.size!r:.40}, "
                f"not a number from 0 to {SIZE_MAX:g}; give its rows, or its rows times their bytes"
            )
        if not 0 <= self.priority <= PRIORITY_MAX:
            raise InvalidArgument(
                f"the priority of request {self.id!r:.80} is {self.priority!r:.40}, "
                f"not an integer from 0 to {PRIORITY_MAX} (larger is more urgent)"
            )
        if self.deadline is not None and not math.isfinite(self.deadline):
            raise InvalidArgument(
                f"the deadline of request {self.id!r:.80} is {self.deadline!r:.40}; "
                "give seconds on the clock of now, or None for no deadline"
            )


class Choice(NamedTuple):
    """Where a request goes. ``node`` is one of the candidates, or ``None``: it waits in the scheduler."""

    node: str | None
    predicted_s: float | None
    """The expected time until the answer, in seconds, where the strategy predicts one."""
    reason: str
    """For people: one clause that says what decided."""
    deviation_s: float | None = None
    """The standard deviation of ``predicted_s``, in seconds."""
    too_late: bool = False
    """No candidate is likely to answer before the deadline: better refused now than answered for nobody."""


class Scheduler(Protocol):
    """Chooses nodes for requests.

    For every request that is sent to a node, :meth:`started` is called when it is sent and
    :meth:`finished` once when it ended there, whatever its outcome.
    """

    def choose(self, candidates: Sequence[str], request: Request, now: float, generator: Random) -> Choice:
        """One of ``candidates``, which are distinct.

        Raises :class:`~mcp.errors.Unavailable` where there are none, and :class:`~mcp.errors.Busy` where
        the request would have to wait and too many do.
        """

    def started(self, node: str, request: Request, now: float) -> None:
        """``request`` is sent to ``node``. Counted at once: the next choice knows of it."""

    def finished(
        self,
        node: str,
        request: Request,
        outcome: Outcome,
        took_s: float,
        now: float,
        *,
        service_s: float | None = None,
    ) -> None:
        """``request`` ended at ``node``, ``took_s`` seconds after it was sent.

        ``service_s`` is how long the node itself worked on it, without the wait in its queue, where the
        node said so. Without it the wait is judged by what was expected. Never raises: a time that is not
        finite, or negative, measures nothing.
        """

    def observed(self, node: str, report: LoadReport, now: float) -> None:
        """``node`` said how it does. An older report than the latest is ignored. Never raises."""
