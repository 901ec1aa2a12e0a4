"""When a snapshot is taken, and when the log before it is let go.

A snapshot is taken when enough was executed since the last one, in entries or in bytes, and the log is cut
once it is durable. The state says what it holds on the loop, which is quick, and writes it down elsewhere.
"""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Callable

from consensus.errors import ConsensusError, DiskFull
from consensus.interface import Engine, Role, SnapshotMeta
from consensus.ports import DriverLimits, Log, Shell, Sink, Snapshots

AGAIN_S = 5.0
"""After a sink could not give its snapshot it is asked again then."""


class Compaction:
    """One node's. ``drop`` counts, by reason, what did not come about."""

    def __init__(
        self,
        engine: Engine,
        journal: Log,
        snapshots: Snapshots,
        sink: Sink,
        shell: Shell,
        limits: DriverLimits,
        *,
        drop: Callable[[str], None],
    ) -> None:
        self.failure = ""
        """Why the sink could not give its snapshot when it was asked last, if it could not."""
        self._engine = engine
        self._journal = journal
        self._snapshots = snapshots
        self._sink = sink
        self._shell = shell
        self._limits = limits
        self._drop = drop
        self._bytes = 0
        self._sizes: deque[int] = deque(maxlen=limits.log_entries_retained)
        self._retained = limits.log_entries_retained
        self._looked_at = 0
        self._at = -math.inf
        self._storing = False
        self._cut_at: SnapshotMeta | None = None

    def begin(self, latest: SnapshotMeta) -> None:
        """The node starts with this snapshot, and perhaps with log from before it."""
        self._cut_at = latest

    def executed(self, size: int) -> None:
        """An entry of so many bytes is to be executed."""
        self._bytes += size
        self._sizes.appendleft(size)

    def restored(self) -> None:
        """The state is that of another node's snapshot now."""
        self._bytes = 0
        self._sizes.clear()

    def stored(self, outcome: SnapshotMeta | ConsensusError) -> ConsensusError | None:
        """The snapshot that was to be stored is durable, or why not; gives what the node cannot survive."""
        self._storing = False
        if isinstance(outcome, SnapshotMeta):
            self._cut_at = outcome
            self._shell.wake()
        elif isinstance(outcome, DiskFull):
            self._drop("snapshot_disk_full")
            self._looked_at = -1
        else:
            return outcome
        return None

    def look(self, applied: tuple[int, int, int], now: float) -> None:
        """Do what is due. ``applied``: index, term and the term before it of the last entry executed."""
        if applied[0] == self._looked_at and self._cut_at is None:
            return
        self._looked_at = applied[0]
        if self._cut_at is not None:
            self._journal.compact(self._engine.compact(self._cut_at, self._retained))
            self._cut_at = None
        latest = self._snapshots.latest()
        grown = applied[0] - (latest.index if latest else 0)
        if grown <= self._limits.log_entries_max and self._bytes <= self._bytes_due(latest):
            return
        if self._storing or now < self._at or grown < 2 or self._engine.leadership().role is Role.CANDIDATE:
            self._looked_at = -1
            return
        self._take(applied, now)

    def _bytes_due(self, latest: SnapshotMeta | None) -> int:
        limits = self._limits
        return min(limits.log_bytes_max, max(limits.log_bytes_min, latest.size if latest else 0))

    def _take(self, applied: tuple[int, int, int], now: float) -> None:
        index, term, previous_term = applied
        try:
            written = self._sink.snapshot()
        except ConsensusError:
            raise
        except Exception as error:
            # A user's state machine that cannot tell its state now may be able to later; until then the log
            # grows, and whoever finds it full is told why.
            self.failure = f"{type(error).__name__}: {error}"
            self._at, self._looked_at = now + AGAIN_S, -1
            self._drop("snapshot_failed")
            self._shell.mishandled(error)
            return
        self.failure, self._storing, self._bytes = "", True, 0
        sizes, limits = self._sizes, self._limits
        fitting = sum(1 for size in itertools.accumulate(sizes) if size <= limits.log_bytes_retained)
        # Where all fit, those before them may too: how large these are is not known after a start.
        self._retained = fitting if fitting < len(sizes) else limits.log_entries_retained
        members = self._engine.configuration_at(index)
        self._shell.store(lambda: self._snapshots.write(index, term, previous_term, written(), members))
