"""Local health: how far a node trusts itself before it accuses others. Source: Lifeguard, section IV-A.

A node that is starved of processor time or has a bad link sees everybody else fail. The signs of it are
its own failed probes, relays that do not even say that they tried, and accusations that it has to refute.
Each adds one to a score, and each answered probe takes one off. Periods and timeouts are longer by one
for every point, so that a node in bad health probes less and waits longer, while the others go on as
ever.
"""

from __future__ import annotations


class LocalHealth:
    """The score, from 0 (well) to ``score_max``."""

    __slots__ = ("_score", "_score_max")

    def __init__(self, score_max: int) -> None:
        self._score = 0
        self._score_max = score_max

    @property
    def score(self) -> int:
        """0: well."""
        return self._score

    @property
    def multiplier(self) -> int:
        """What periods and timeouts of probes are multiplied with, from 1."""
        return self._score + 1

    def worse(self, points: int = 1) -> None:
        """Something went wrong that may well be this node's own doing."""
        self._score = min(self._score_max, self._score + points)

    def better(self) -> None:
        """A probe was answered in time."""
        self._score = max(0, self._score - 1)
