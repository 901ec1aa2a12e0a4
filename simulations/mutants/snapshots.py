"""Mistakes with snapshots: one stands for entries that exist nowhere else on a node."""

from __future__ import annotations

from typing import Any

from consensus.catch_up import CatchUp
from consensus.compaction import Compaction
from consensus.interface import SnapshotMeta
from consensus.pump import Pump
from consensus.raft.log import MemoryLog
from consensus.snapshots import SnapshotReceiver, SnapshotStore
from consensus.transfer import SnapshotIntake, SnapshotSender
from simulations.mutants.mutant import Group, Patch
from simulations.mutants.storage import Deaf

GROUP = Group("snapshots")


@GROUP.mutant()
def snapshots_are_not_verified(patch: Patch) -> None:
    """A snapshot is taken as it is read, whatever its checksum says."""

    def trusting(_self: SnapshotStore, _file: Any, _meta: SnapshotMeta) -> None:
        return

    def reading(self: SnapshotStore, meta: SnapshotMeta) -> bytes:
        return self.read_chunk(meta, 0, meta.size)

    patch.method(SnapshotStore, "_verify", trusting)
    patch.method(SnapshotStore, "read", reading)


@GROUP.mutant()
def a_received_snapshot_is_not_synced(patch: Patch) -> None:
    """A follower acknowledges a leader's snapshot that is not durable yet."""
    finish = patch.original(SnapshotReceiver, "finish")

    def hasty(self: SnapshotReceiver) -> SnapshotMeta:
        self._file = Deaf(self._file, "sync")
        meta: SnapshotMeta = finish(self)
        return meta

    patch.method(SnapshotReceiver, "finish", hasty)


@GROUP.mutant()
def a_snapshot_of_ones_own_is_not_synced(patch: Patch) -> None:
    """The log is compacted behind a snapshot whose content is still in the system's cache."""
    write = patch.original(SnapshotStore, "write")

    class Careless:
        """A disk whose new files are not synced."""

        def __init__(self, disk: Any) -> None:
            self._disk = disk

        def create_file(self, path: str) -> Any:
            return Deaf(self._disk.create_file(path), "sync")

        def __getattr__(self, name: str) -> Any:
            return getattr(self._disk, name)

    def hasty(
        self: SnapshotStore,
        index: int,
        term: int,
        previous_term: int,
        content: bytes,
        configuration: bytes = b"",
    ) -> SnapshotMeta:
        disk = self._disk
        self._disk = Careless(disk)
        try:
            meta: SnapshotMeta = write(self, index, term, previous_term, content, configuration)
        finally:
            self._disk = disk
        return meta

    patch.method(SnapshotStore, "write", hasty)


@GROUP.mutant()
def the_name_of_a_snapshot_is_not_synced(patch: Patch) -> None:
    """The directory is not synced after the rename, and the log is compacted behind a name that may go."""
    publish = patch.original(SnapshotStore, "_publish")

    def nameless(self: SnapshotStore, temporary: str, header: Any) -> SnapshotMeta:
        disk = self._disk
        self._disk = Deaf(disk, "sync_directory")
        try:
            meta: SnapshotMeta = publish(self, temporary, header)
        finally:
            self._disk = disk
        return meta

    patch.method(SnapshotStore, "_publish", nameless)


@GROUP.mutant()
def a_snapshot_is_labelled_one_too_high(patch: Patch) -> None:
    """The index of a snapshot is that of the first entry that is not in it."""
    write = patch.original(SnapshotStore, "write")

    def ahead(
        self: SnapshotStore,
        index: int,
        term: int,
        previous_term: int,
        content: bytes,
        configuration: bytes = b"",
    ) -> SnapshotMeta:
        meta: SnapshotMeta = write(self, index + 1, term, previous_term, content, configuration)
        return meta

    patch.method(SnapshotStore, "write", ahead)


@GROUP.mutant()
def a_snapshot_is_labelled_one_too_low(patch: Patch) -> None:
    """The index of a snapshot is that of the last entry but one: the last is executed a second time."""
    write = patch.original(SnapshotStore, "write")

    def behind(
        self: SnapshotStore,
        index: int,
        term: int,
        previous_term: int,
        content: bytes,
        configuration: bytes = b"",
    ) -> SnapshotMeta:
        meta: SnapshotMeta = write(self, index - 1, previous_term, previous_term, content, configuration)
        return meta

    patch.method(SnapshotStore, "write", behind)


@GROUP.mutant()
def a_leaders_snapshot_is_not_restored(patch: Patch) -> None:
    """A follower that got a snapshot goes on behind it, with the state that it had before."""
    restore = patch.original(Pump, "_restore")

    def forgetful(self: Pump, meta: SnapshotMeta) -> None:
        if self._seen is None:  # at the start
            restore(self, meta)
            return
        self._applied = (meta.index, meta.term, meta.previous_term)

    patch.method(Pump, "_restore", forgetful)


@GROUP.mutant()
def a_node_starts_with_an_empty_state(patch: Patch) -> None:
    """The snapshot that is on the disk is not restored at the start."""
    restore = patch.original(Pump, "_restore")

    def forgetful(self: Pump, meta: SnapshotMeta) -> None:
        if self._seen is None:
            self._applied = (meta.index, meta.term, meta.previous_term)
            return
        restore(self, meta)

    patch.method(Pump, "_restore", forgetful)


@GROUP.mutant(
    survives="The snapshot is durable when the answer is made, and recovery repairs a journal that does not "
    "know of it yet. What the sync adds shows only where entries come in one turn with a chunk of a snapshot "
    "that has them; those are committed, so a majority has them without this node."
)
def a_snapshot_is_acknowledged_before_it_is_durable(patch: Patch) -> None:
    """That a snapshot is here is said at once, and not behind the sync that covers what it replaces."""
    init = patch.original(CatchUp, "__init__")

    def hasty(
        self: CatchUp, engine: Any, snapshots: Any, limits: Any, *, tell: Any, promise: Any, drop: Any
    ) -> None:
        init(self, engine, snapshots, limits, tell=tell, promise=tell, drop=drop)

    patch.method(CatchUp, "__init__", hasty)


@GROUP.mutant()
def the_first_chunk_counts_for_all(patch: Patch) -> None:
    """A leader takes the answer to any piece of a snapshot for the one that says that all is durable."""

    def impatient(_self: SnapshotSender, ack: Any, _now: float) -> bool:
        return bool(ack.received > 0)

    patch.method(SnapshotSender, "acknowledge", impatient)


@GROUP.mutant()
def a_lost_chunk_is_not_sent_again(patch: Patch) -> None:
    """A sender never goes back to what was acknowledged last: a transfer that lost a piece never ends."""
    due = patch.original(SnapshotSender, "due")

    def once(self: SnapshotSender, read: Any, now: float) -> Any:
        self._got_on = now
        return due(self, read, now)

    patch.method(SnapshotSender, "due", once)


@GROUP.mutant()
def the_log_is_compacted_without_a_snapshot(patch: Patch) -> None:
    """Entries are dropped from memory and disk as soon as they are executed, before a snapshot has them."""
    look = patch.original(Compaction, "look")

    def greedy(self: Compaction, applied: tuple[int, int, int], now: float) -> None:
        news = applied[0] != self._looked_at
        look(self, applied, now)
        if news:
            self._journal.compact(applied[0])

    patch.method(Compaction, "look", greedy)


@GROUP.mutant(
    survives="What is put together from two snapshots has the checksum of neither, so it is thrown away and "
    "the transfer begins again; and snapshots of one position have one content, whoever took them."
)
def an_old_leaders_snapshot_goes_on(patch: Patch) -> None:
    """Pieces of two leaders' snapshots are put together, as long as each begins where the last ended."""
    current = patch.original(SnapshotIntake, "_current")

    def mixing(self: SnapshotIntake, peer: str, chunk: Any) -> Any:
        receiver = self._receiver
        if receiver is not None and self._from is not None and chunk.offset == receiver.received > 0:
            return receiver
        return current(self, peer, chunk)

    patch.method(SnapshotIntake, "_current", mixing)


@GROUP.mutant()
def a_snapshot_leaves_the_old_log_in_memory(patch: Patch) -> None:
    """Installing a snapshot tells the journal to forget the log, and keeps it in memory."""
    install = patch.original(MemoryLog, "install")

    def sticky(self: MemoryLog, meta: SnapshotMeta) -> None:
        slots, base = list(self), self._base_index
        install(self, meta)
        self[:], self._base_index, self._has_placeholder = slots, base, False

    patch.method(MemoryLog, "install", sticky)
