"""For how long a member is suspected before it is declared dead. Source: Lifeguard, section IV-B.

One accuser may be wrong because of itself. So a suspicion begins with a long timeout, which shrinks with
every other member that comes to the same result by a probe of its own::

    timeout = max - (max - min) * log(c + 1) / log(k + 1)        c: confirmations so far, k: as many as count
"""

from __future__ import annotations

import math


class Suspicion:
    """One member under suspicion. Times in seconds of the caller's clock."""

    __slots__ = ("_accusers", "_confirmations_max", "_max_s", "_min_s", "_postponed_s", "_since")

    def __init__(
        self, accuser: str, now: float, *, min_s: float, max_s: float, confirmations_max: int
    ) -> None:
        """Begin with the first accuser. Where ``confirmations_max`` is 0, ``max_s`` holds."""
        self._accusers = {accuser}
        self._since = now
        self._min_s = min_s
        self._max_s = max_s
        self._confirmations_max = confirmations_max
        self._postponed_s = 0.0

    @property
    def accusers(self) -> frozenset[str]:
        """Who has accused, the first and those who confirmed; at most one more than confirmations count."""
        return frozenset(self._accusers)

    def confirm(self, accuser: str) -> bool:
        """Another accusation; whether it counts, being of somebody new and not one too many."""
        if accuser in self._accusers or len(self._accusers) > self._confirmations_max:
            return False
        self._accusers.add(accuser)
        return True

    def postpone(self, seconds: float) -> None:
        """This node stood still for so long, and a refutation could not reach it meanwhile."""
        self._postponed_s += seconds

    @property
    def expires_at(self) -> float:
        """When the member is declared dead, unless it refutes."""
        confirmed = len(self._accusers) - 1
        timeout_s = self._max_s
        if confirmed:
            share = math.log(confirmed + 1) / math.log(self._confirmations_max + 1)
            timeout_s -= (self._max_s - self._min_s) * share
        return self._since + timeout_s + self._postponed_s
