"""Round robin: each candidate in turn, whatever it does. The yardstick, and right for equal nodes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from random import Random
from typing import Final

from mcp.cluster.scheduler.interface import Choice, Request

TURNS_MAX: Final = 1024
"""For how many models the turn is remembered."""


class RoundRobin:
    """Takes turns by model. Begins anywhere, so that many schedulers do not begin with the same node.

    It does not look at the account at all, so nodes that failed get their turns: that is for the caller's
    breakers.
    """

    def __init__(self) -> None:
        self._turns: OrderedDict[str, int] = OrderedDict()

    def choose(self, candidates: Sequence[str], request: Request, now: float, generator: Random) -> Choice:
        """The next in the order of ``candidates``."""
        turn = self._turns.pop(request.model, None)
        if turn is None:
            turn = int(generator.random() * len(candidates))
            if len(self._turns) >= TURNS_MAX:
                self._turns.popitem(last=False)
        turn %= len(candidates)
        self._turns[request.model] = turn + 1
        return Choice(candidates[turn], None, "its turn")

    def preview(self, candidates: Sequence[str], request: Request, now: float, generator: Random) -> Choice:
        """See :class:`~mcp.cluster.scheduler.strategy.Strategy`."""
        turn = self._turns.get(request.model)
        if turn is None:
            return Choice(candidates[0], None, "any of them, as it is the first turn")
        return Choice(candidates[turn % len(candidates)], None, "its turn")

    def touched(self, node: str, request: Request | None, now: float) -> None:
        """Nothing is remembered of a node."""
