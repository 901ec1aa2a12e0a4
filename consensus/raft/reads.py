"""Reads without a log write: proof that this node leads, for less than an entry (Ongaro 2014, section 6.4).

Whoever reads at a log position wants it to be behind everything that anybody was told to be done before the
read came. The leader knows such a position: its commit index, once it has committed an entry of its own
term, for all that earlier leaders committed lies before that. What it does not know is whether it still
leads. So it waits until a majority has answered a message that it sent after the read came: they were in its
term when they answered, so no later term can have had a majority, and with it a commit, before the
read came.

Messages are numbered and answers carry the number (:mod:`~consensus.raft.flow`): one of a higher number
than the last before the read is enough, whichever it is and however many reads wait for it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from consensus.errors import Busy
from consensus.raft.replication import Replication
from consensus.raft.seams import Core

READS_PENDING_MAX = 4096
"""So many reads, each of which may stand for many, wait at most for a majority."""


class PendingReads:
    """The reads of one leader that are not confirmed, in the order in which they came."""

    def __init__(self, core: Core, replication: Replication) -> None:
        self._core, self._replication = core, replication
        self._waiting: deque[tuple[int, int, int]] = deque()

    def __len__(self) -> int:
        """How many wait."""
        return len(self._waiting)

    def add(self, context: int) -> None:
        """A read has come: everybody is asked with the next output. Raises :class:`Busy`."""
        if len(self._waiting) >= READS_PENDING_MAX:
            raise Busy(f"{READS_PENDING_MAX} reads wait for a majority to answer; retry later")
        index = max(self._core.commit_index, self._replication.first_index)
        self._waiting.append((context, index, self._replication.number))
        self._replication.ask_everybody()

    def take_confirmed(self) -> Iterable[tuple[int, int]]:
        """``(context, index)`` of those that are confirmed, which are then forgotten."""
        if not self._waiting or self._core.commit_index < self._replication.first_index:
            return
        answered = self._replication.answered()
        while self._waiting and self._waiting[0][2] < answered:
            context, index, _ = self._waiting.popleft()
            yield context, index

    def refuse(self) -> list[int]:
        """This node leads no more: the contexts of all of them, which are then forgotten."""
        contexts = [context for context, _, _ in self._waiting]
        self._waiting.clear()
        return contexts
