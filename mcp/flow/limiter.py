"""What every limiter promises, and the unit in which all of them count time.

Pure: time is an argument, in seconds on a clock that should not go back. Limiters count it in whole
microseconds and amounts in whole numbers, so that no rounding adds up: a burst of N admits exactly N.
Should the clock go back all the same, time stands still for a limiter until the clock has caught up, so
that nothing is given twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Protocol, Self

from mcp.errors import ConfigInvalid, InvalidArgument

TICKS_PER_S: Final = 1_000_000
"""Time is counted in microseconds."""
AMOUNT_MAX: Final = 1_000_000_000
"""The largest amount of a rate, a burst or a cost."""
PERIOD_S_MAX: Final = 366 * 86_400.0
"""The longest period of a rate: a year."""


@dataclass(frozen=True, slots=True)
class Admitted:
    """It is let in, after ``wait_s`` seconds: 0 for everything but a queue."""

    wait_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Refused:
    """It is not let in. The same would be after ``retry_after_s`` seconds, if nothing else came before it.

    Infinite: never, because it costs more than the limiter can hold.
    """

    retry_after_s: float


Verdict = Admitted | Refused
ADMITTED: Final = Admitted()
"""Let in at once."""


@dataclass(frozen=True, slots=True)
class Rate:
    """``amount`` of cost per ``per_s`` seconds. Raises :class:`~mcp.errors.ConfigInvalid`."""

    amount: int
    per_s: float = 1.0

    def __post_init__(self) -> None:
        if isinstance(self.amount, bool) or not 1 <= self.amount <= AMOUNT_MAX:
            raise ConfigInvalid(f"amount={self.amount!r}: a rate's amount is a number from 1 to {AMOUNT_MAX}")
        if not 1 / TICKS_PER_S <= self.per_s <= PERIOD_S_MAX:
            raise ConfigInvalid(
                f"per_s={self.per_s!r}: a rate's period is from {1 / TICKS_PER_S:g} to {PERIOD_S_MAX:g} s"
            )

    @property
    def per_ticks(self) -> int:
        """The period in ticks, rounded."""
        return round(self.per_s * TICKS_PER_S)


class Limiter(Protocol):
    """Lets in so much and no more. ``cost`` is a whole number, 1 at least; ``now`` is in seconds."""

    def admit(self, now: float, cost: int = 1) -> Verdict:
        """Let in what costs ``cost``, or say when. A refusal takes nothing.

        Raises :class:`~mcp.errors.InvalidArgument` for a cost below 1.
        """

    def undo(self, cost: int = 1) -> None:
        """Take back the last :meth:`admit`, which let in ``cost``, before anything else is asked.

        For whoever asks several limiters, and is refused by a later one.
        """

    def idle(self, now: float) -> bool:
        """Whether it is as good as new: nothing that it let in counts any more."""

    def copy(self) -> Self:
        """Another one in the same state."""


def check_cost(cost: int) -> None:
    """Raise :class:`~mcp.errors.InvalidArgument` for a cost below 1, which would give instead of take."""
    if cost < 1:
        raise InvalidArgument(f"cost={cost!r}: whatever asks a limiter costs 1 at least")


def seconds_until(tick: int, now_tick: int) -> float:
    """Seconds from ``now_tick`` until surely not before ``tick``.

    A tick more than the difference, for the sum of two times in seconds is rounded.
    """
    return (tick - now_tick + 1) / TICKS_PER_S
