"""The rule that a leader which nobody answers stops to lead."""

from __future__ import annotations

import math
from collections.abc import Sequence

from simulations.invariants import Violation


class LeadersAreHeard:
    """Who hears from no majority for ``fallback_s`` leads no more (PySyncObj's defect 12).

    A leader that is cut off can commit nothing, and whoever asks it waits in vain; meanwhile the others have
    elected another. The observer counts whatever reached the node, which is more than what it may count.
    """

    ROUNDING_S = 1e-5

    def __init__(self, voters: Sequence[str], fallback_s: float) -> None:
        self._others_needed = len(voters) // 2
        self._fallback_s = fallback_s
        self._came: dict[str, set[str]] = {node: set() for node in voters}
        self._heard: dict[str, dict[str, float]] = {
            node: {peer: -math.inf for peer in voters if peer != node} for node in voters
        }
        self._led_since: dict[str, float] = {}

    def came(self, node: str, peer: str) -> None:
        """Something of ``peer`` has reached ``node``, and waits for its turn."""
        self._came[node].add(peer)

    def led(self, node: str, now: float, *, leads: bool) -> None:
        """``node`` leads, or does not, from ``now`` on, on its clock."""
        if leads:
            self._led_since[node] = now
        else:
            self._led_since.pop(node, None)

    def heard(self, node: str, now: float) -> None:
        """``node`` has looked at all that came, at ``now``."""
        came = self._came[node]
        if came:
            self._heard[node].update(dict.fromkeys(came, now))
            came.clear()

    def leads(self, node: str) -> bool:
        """Whether ``node`` leads, as far as is known here."""
        return node in self._led_since

    def looked(self, node: str, now: float, voters: Sequence[str] | None = None) -> None:
        """``node`` has done everything that is due at ``now``; ``voters`` are those that count for it."""
        since = self._led_since.get(node)
        needed = self._others_needed if voters is None else len(voters) // 2
        if since is None or not needed:
            return
        heard = self._heard[node]
        times = [heard[peer] for peer in (heard if voters is None else voters) if peer != node]
        contact = max(since, sorted(times, reverse=True)[needed - 1])
        if now - contact > self._fallback_s + self.ROUNDING_S:
            raise Violation(
                "leaders are heard", f"{node} leads on, {now - contact:.3f} s after a majority was heard"
            )
