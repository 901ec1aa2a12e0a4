"""What the strategies have in common: one choice among candidates, on an account that others keep."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Final, Protocol

from mcp.cluster.scheduler.interface import Choice, Request

TABLES_MAX: Final = 64
"""For how many models a strategy keeps what it worked out; of more, everything is worked out again."""

REFRESH_S: Final = 0.1
"""What depends on the age of things (reports, measurements, failures) is worked out anew so often."""


class Strategy(Protocol):
    """One way to choose. It is told which nodes changed and looks them up in the account."""

    def choose(self, candidates: Sequence[str], request: Request, now: float, generator: Random) -> Choice:
        """One of ``candidates``, of which there is at least one. See :class:`~.interface.Scheduler`."""

    def preview(self, candidates: Sequence[str], request: Request, now: float, generator: Random) -> Choice:
        """What :meth:`choose` would give. No later choice is another one for it."""

    def touched(self, node: str, request: Request | None, now: float) -> None:
        """Something about ``node`` is not as it was, for example because ``request`` began there."""


def drawn(candidates: Sequence[str], draws: int | None, generator: Random) -> Sequence[str]:
    """The candidates to compare: all of them from a random one on, or ``draws`` that are drawn.

    Whoever takes the first of the best then takes any of them with equal chance. That a few random ones
    are nearly as good as all, and better if what is known is old and many choose: Mitzenmacher, "The Power
    of Two Choices in Randomized Load Balancing", IEEE TPDS 12(10), 2001, and "How Useful Is Old
    Information?", 2000, section 3.
    """
    count = len(candidates)
    if count == 1:
        return candidates
    if draws is None or draws >= count:
        first = int(generator.random() * count)
        return [*candidates[first:], *candidates[:first]] if first else candidates
    if draws == 2:  # quicker than a sample
        one = int(generator.random() * count)
        other = int(generator.random() * (count - 1))
        return candidates[one], candidates[other + (other >= one)]
    return generator.sample(candidates, draws)
