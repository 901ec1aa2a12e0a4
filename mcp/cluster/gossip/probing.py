"""Whom to probe next, and what is known of the probes that wait for an answer.

Every second probe goes to the next member on the ring, the others through a shuffled list of all.

The list is SWIM's (section 4.3): everybody is probed by everybody within a bounded time. But the first
probe of a crashed member comes when it comes: in a large cluster a share of ``e**-k`` of the crashes is
not probed by anybody for *k* periods, which is a long tail under a short bar. On the ring every member
has exactly one predecessor, which probes it every second period, so that the first probe comes after two
periods at most, unless the predecessor has failed as well. Places on the ring are hashes of names, so
that neighbours are strangers.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from mcp.cluster.gossip.view import View


@dataclass(slots=True)
class Probe:
    """A probe of this node's own. Times are absolute."""

    seq: int
    name: str
    widen_at: float
    ends_at: float
    widened: bool = False
    asked: int = 0
    nacks: int = 0

    @property
    def due_at(self) -> float:
        """When something is to be done about it next."""
        return self.ends_at if self.widened else self.widen_at

    def postpone(self, seconds: float) -> None:
        """This node stood still for so long."""
        self.widen_at += seconds
        self.ends_at += seconds


@dataclass(slots=True)
class Relay:
    """A probe for somebody else: who asked, and under which number."""

    origin: str
    origin_seq: int
    name: str
    nack_at: float
    ends_at: float
    nacked: bool = False

    @property
    def due_at(self) -> float:
        """When something is to be done about it next."""
        return self.ends_at if self.nacked else self.nack_at


class ProbeOrder:
    """Gives the next member to probe."""

    def __init__(self, own: str, view: View, random_: random.Random) -> None:
        self._own = own
        self._view = view
        self._random = random_
        self._ahead: list[str] = []
        self._on_ring = False

    def add(self, name: str) -> None:
        """A new member, put anywhere among those that are still ahead (SWIM, section 4.3)."""
        if name not in self._ahead:
            self._ahead.insert(self._random.randint(0, len(self._ahead)), name)

    def next(self) -> str | None:
        """Whom to probe; ``None`` where nobody else is present."""
        self._on_ring = not self._on_ring
        if self._on_ring:
            return self._view.successor(self._own)
        return self._next_in_list()

    def _next_in_list(self) -> str | None:
        for _ in range(2):
            while self._ahead:
                name = self._ahead.pop()
                record = self._view.get(name)
                if record is not None and record.state.present and name != self._own:
                    return name
            self._ahead = self._view.names_present()
            self._random.shuffle(self._ahead)
        return None
