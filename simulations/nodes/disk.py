"""A machine's disk as one process after another uses it: a dead process can do nothing to it any more."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from typing import Self

from simulations.faults import FaultKind
from simulations.faulty_disk import FaultyDisk, PowerLoss

SNAPSHOTS = "snapshots"
JOURNAL = "journal"


class MachineDisk(FaultyDisk):
    """See the head of this module.

    ``syncing`` is called before every sync: it blocks whoever asked for it. ``off`` is called when the power
    goes in the middle of an operation, with what that was. ``done`` counts what a run should have seen.
    """

    def __init__(
        self,
        generator: random.Random,
        fired: Callable[[FaultKind], None],
        *,
        syncing: Callable[[], None],
        off: Callable[[str], None],
        done: Counter[str],
    ) -> None:
        super().__init__(generator, fired)
        self._syncing = syncing
        self._off = off
        self._done = done
        self._dead = False

    def begin(self, operation: str, path: str) -> None:
        """See :class:`simulations.faulty_disk.FaultyDisk`."""
        if self._dead:
            raise PowerLoss(f"a dead process tried to {operation} {path}")
        if operation == "sync":
            self._syncing()
        try:
            super().begin(operation, path)
        except PowerLoss as loss:
            self._off(str(loss))
            raise
        if operation == "rename" and path.startswith(SNAPSHOTS):
            self._done["snapshots received" if ".receiving" in path else "snapshots taken"] += 1
        elif operation == "remove" and path.startswith(JOURNAL):
            self._done["segments compacted"] += 1

    def handed_over(self) -> Self:
        """The same disk for the next process; this one is dead from now on, with every open file."""
        other = type(self).__new__(type(self))
        vars(other).update(vars(self))
        self._dead = True
        self._directories, self._live, self._durable, self._changes = {""}, {}, {}, []
        other.reopened()
        return other
