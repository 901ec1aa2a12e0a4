"""What stands around the pump: its limits, and the seams to a disk, a network, a state and a shell.

`consensus.pump` is written against these protocols alone. In production they are real files, links and
an asyncio loop (`consensus.driver`); in simulation a faulty disk, a faulty network and a virtual clock.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from consensus.batch import Batch
from consensus.errors import ConsensusError
from consensus.interface import EngineStatus, Entry, Record, SnapshotMeta
from consensus.transfer import Receiver, TransferLimits


class Network(Protocol):
    """Where a node's messages go. Delivery is best effort, per peer in order."""

    def send(self, peer: str, message: bytes) -> None:
        """Queue for the next :meth:`flush`, or drop; never block, never raise."""

    def flush(self) -> None:
        """Put on the wire what was queued; never block, never raise."""


class Log(Protocol):
    """The journal's part that a pump needs: see :mod:`consensus.journal`."""

    def append(self, records: Sequence[Record]) -> None:
        """Write. On :class:`~consensus.errors.DiskFull` nothing of it is kept."""

    @property
    def unsynced_bytes(self) -> int:
        """How much waits for :meth:`sync`."""

    def sync(self) -> None:
        """Make durable all that was appended."""

    def seal(self) -> None:
        """Write, without a sync, that everything so far was synced."""

    def compact(self, first_index_kept: int) -> None:
        """Entries below are not needed any more."""


class Snapshots(Protocol):
    """The snapshot store's part that a pump needs: see :mod:`consensus.snapshots`."""

    def latest(self) -> SnapshotMeta | None:
        """The newest durable snapshot."""

    def write(
        self, index: int, term: int, previous_term: int, content: bytes, configuration: bytes = b""
    ) -> SnapshotMeta:
        """Store durably."""

    def read(self, meta: SnapshotMeta) -> bytes:
        """The verified content."""

    def read_chunk(self, meta: SnapshotMeta, offset: int, length: int) -> bytes:
        """A piece of the content."""

    def receive(self, meta: SnapshotMeta) -> Receiver:
        """Begin to write a snapshot that comes from a peer."""


class Sink(Protocol):
    """Where committed entries go: the command queue and what is behind it."""

    def free(self) -> int:
        """How many more commands fit now."""

    def push(self, entry: Entry, batch: Batch) -> None:
        """Take an entry's commands. ``applied`` must be called once they are executed."""

    def restore(self, meta: SnapshotMeta, content: bytes) -> None:
        """Replace everything by a snapshot; what was pushed before and not executed is void."""

    def snapshot(self) -> Callable[[], bytes]:
        """The state after the last entry for which ``applied`` was called.

        Taking it must be quick. The call that writes it down comes later, once, from another thread.
        """


StoreSnapshot = Callable[[], SnapshotMeta]
"""Writes a snapshot that was taken; blocks, and may run beside everything else but another one."""


class Shell(Protocol):
    """What performs a pump's wishes: an event loop, or the heap of a simulation.

    Nothing is called back from inside of these: :meth:`sync` excepted, which may end before it returns.
    """

    def wake(self) -> None:
        """Call ``Pump.turn`` soon, when what runs now has returned. Two wishes are one turn."""

    def arm(self, at: float) -> None:
        """Call ``Pump.turn`` at ``at`` (infinity: not at all), in place of the last such wish."""

    def sync(self) -> None:
        """Perform the journal's ``sync``, here or elsewhere, and tell ``Pump.synced`` how it went."""

    def store(self, write: StoreSnapshot) -> None:
        """Perform ``write``, here or elsewhere, and later tell ``Pump.stored`` how it went."""

    def flush_soon(self) -> None:
        """Flush the network when what runs now has returned."""

    def changed(self, status: EngineStatus) -> None:
        """Role, term or leader changed."""

    def reconfigured(self, status: EngineStatus) -> None:
        """Another configuration is in force here, committed or not."""

    def mishandled(self, error: Exception) -> None:
        """A proposer failed to take its outcome, or a sink to give its snapshot, by a mistake of its own."""

    def failed(self, error: ConsensusError) -> None:
        """The node cannot go on. Said once."""


@dataclass(frozen=True, slots=True)
class DriverLimits:
    """Every bound of a node's consensus, with its unit last."""

    proposals_pending_max: int = 16_384
    command_bytes_max: int = 256 * 1024
    commands_per_entry_max: int = 512
    batch_bytes_max: int = 512 * 1024
    inbox_messages_max: int = 4_096
    apply_entries_max: int = 4_096
    log_entries_max: int = 20_000
    log_bytes_min: int = 16 * 1024**2
    log_bytes_max: int = 64 * 1024**2
    """A snapshot is due when the log since the last one has as many bytes as that one has, but no less than
    ``log_bytes_min`` and no more than ``log_bytes_max``: so snapshots cost about as much to write as the log
    (Ongaro 2014, section 5.1.3)."""
    log_entries_retained: int = 2_000
    log_bytes_retained: int = 4 * 1024**2
    """So much of the log stays behind a snapshot at most, for followers that lag a little."""
    forward_retry_s: float = 2.0
    forward_backoff_s: float = 0.02
    reads_pending_max: int = 16_384
    read_retry_s: float = 0.1
    change_retry_s: float = 0.25
    disk_full_retry_s: float = 0.25
    sync_inline_s_max: float = 0.003
    sync_inline_bytes_max: int = 2048
    """A sync of more is made in a thread however quick the disk is: where there is so much to write, there is
    other work to be done meanwhile, and a hop to a thread costs little beside it. A lone command of 1 KiB is
    below it, a message of 64 small ones above."""
    transfer: TransferLimits = field(default_factory=TransferLimits)


@dataclass(slots=True)
class Applied:
    """A proposal's outcome: where its command stood in the log, and what executing it gave."""

    index: int
    result: Any


Done = Callable[[Applied | ConsensusError], None]
"""Called once with a proposal's outcome, in the middle of the pump's work: it must be quick."""

HandoverDone = Callable[[str | ConsensusError], None]
"""Called once with who leads instead of this node, or why nobody does: it must be quick."""

ChangeDone = Callable[[int | ConsensusError], None]
"""Called once with the index of the committed configuration, or why there is none: it must be quick."""

ReadDone = Callable[[int | ConsensusError], None]
"""Called once with the log index that a read has to see, or why there is none: it must be quick."""
