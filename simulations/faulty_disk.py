"""A disk with bad days: slow, full, failing, torn, rotten; behind the port of `consensus.storage`.

What one process did not sync survives its death, in the system's cache, and is lost with the power: in
whole, behind any byte, or sector by sector. An operation may be the last before the power goes, or may
fail. A failed file refuses everything until it is opened by another process.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from consensus.errors import StorageFailed
from simulations.disk import MemoryDisk
from simulations.faults import FaultKind


class PowerLoss(Exception):
    """The machine dies in the middle of what it does. Nothing that production code may catch."""


class FaultyDisk(MemoryDisk):
    """One machine's disk. ``generator`` decides what a power loss leaves; ``fired`` counts faults."""

    def __init__(self, generator: random.Random, fired: Callable[[FaultKind], None]) -> None:
        super().__init__()
        self._random = generator
        self._fired = fired
        self._power_in: int | None = None
        self._error_in: int | None = None
        self.failures = 0
        """How many operations have failed, other than for want of room."""

    def lose_power_in(self, operations: int) -> None:
        """The operation after this many more does not happen any more."""
        self._power_in = operations

    def fail_in(self, operations: int) -> None:
        """The operation after this many more fails."""
        self._error_in = operations

    def heal(self) -> None:
        """From now on the disk does what it is asked, with all the room that it needs."""
        self._power_in = self._error_in = self.capacity_bytes = None

    def begin(self, operation: str, path: str) -> None:
        """See :class:`simulations.disk.MemoryDisk`. Raises :class:`PowerLoss` and ``StorageFailed``."""
        if self._power_in is not None:
            self._power_in -= 1
            if self._power_in < 0:
                self._power_in = None
                raise PowerLoss(f"during {operation} of {path}")
        if self._error_in is not None:
            self._error_in -= 1
            if self._error_in < 0:
                self._error_in = None
                self.failures += 1
                self._fired(FaultKind.IO_ERROR)
                raise StorageFailed(f"an injected input/output error during {operation} of {path}")
        super().begin(operation, path)

    def ran_full(self) -> None:
        """See :class:`simulations.disk.MemoryDisk`."""
        self._fired(FaultKind.DISK_FULL)

    def reopened(self, *, drops: bool | None = None) -> None:
        """The process is gone, and with it its descriptors; the next one tries again.

        What a failed sync could not write reads as if it had, and ``drops`` says whether the system has
        forgotten that it still has to write it (``None``: by chance)
        (Rebello et al., "Can Applications Recover from fsync Failures?", USENIX ATC 2020).
        """
        for content in self._live.values():
            if content.sync_failed and (self._random.random() < 0.5 if drops is None else drops):
                content.drop_pending()
            content.failed = content.sync_failed = False

    def lose_power(self) -> tuple[int, bool]:
        """The machine is off: what was not synced is lost as the generator decides.

        Gives the number of bytes that no sync had covered, and whether some of them survived.
        """
        draw = self._random
        unsynced = sum(self.unsynced_bytes().values())
        names = draw.randint(0, self.unsynced_names())
        how = draw.random()
        if how < 0.4:
            found = self.crash(keep_names=names)
        elif how < 0.8:
            found = self.crash(keep_bytes=lambda _, count: draw.randint(0, count), keep_names=names)
        else:
            found = self.crash(scatter=lambda: draw.random() < 0.5, keep_names=names)
        self._directories, self._live, self._durable = found._directories, found._live, found._durable
        self._changes = []
        self._power_in = self._error_in = None
        return unsynced, how >= 0.4 and unsynced > 0

    def flip_bit(self, path: str, offset: int) -> None:
        """One bit of one stored byte changes."""
        byte = self.open_file(path).read(offset, 1)[0] ^ (1 << self._random.randrange(8))
        self.overwrite(path, offset, bytes((byte,)))
