"""The rule that a new voter is caught up first (Ongaro 2014, section 4.2.1).

A voter that lacks the log counts towards the majority that everybody needs and can give nothing to it: with
one that begins empty, a cluster of three that has lost one waits until the whole log has been sent. No
promise breaks by that, so no other rule sees it. The observer stands above the disks: whoever is made a voter
has on its own, synced, all but ``lag_entries_max`` of the entries before the one that says so.
"""

from __future__ import annotations

from consensus.configuration import Configuration
from simulations.invariants import Violation
from simulations.shadow import Disks


class CaughtUpFirst:
    """Who votes from an entry on has caught up with what stands before it."""

    def __init__(self, disks: Disks, lag_entries_max: int) -> None:
        self._disks, self._lag = disks, lag_entries_max
        self._seen: set[tuple[int, int]] = set()
        self.promoted = 0

    def follows(self, index: int, term: int, before: Configuration, after: Configuration) -> None:
        """Somebody has written the entry at ``index``, which makes ``after`` of ``before``.

        Only the first who writes it, its leader, decides; the others learn of it at any later time.
        """
        if (index, term) in self._seen:
            return
        self._seen.add((index, term))
        voted = {member.name for member in before.members if member.votes}
        for member in after.members:
            if not member.votes or member.name in voted:
                continue
            self.promoted += 1
            if self._disks.incarnations.get(member.name) != member.incarnation:
                continue  # Its disk was lost since it last spoke: who promotes it cannot know that yet.
            durable = self._disks.durable[member.name]
            held = max(durable.last, durable.covered)
            if held < index - 1 - self._lag:
                raise Violation(
                    "caught up first",
                    f"{member.name} votes from entry {index} on and has {held} entries, more than "
                    f"{self._lag} too few",
                )
