"""Mistakes around the journal and the disk: what is promised has to be there after a power loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from consensus import recovery, segment
from consensus.errors import DiskFull, StorageFailed
from consensus.interface import HardState, Record, Recovered, Role, Truncate
from consensus.journal import Journal
from consensus.journal_reader import Tail
from consensus.pump import Pump
from consensus.raft.log import MemoryLog
from consensus.replay import Found
from simulations.mutants.mutant import Group, Patch

GROUP = Group("journal and sync")


class Deaf:
    """A file or a disk to which some calls make no difference."""

    def __init__(self, inner: Any, *ignored: str) -> None:
        self._inner, self._ignored = inner, ignored

    def __getattr__(self, name: str) -> Any:
        """See the head of this class."""
        return (lambda *_: None) if name in self._ignored else getattr(self._inner, name)


@GROUP.mutant()
def sync_is_skipped(patch: Patch) -> None:
    """The journal never syncs: it says that everything it wrote is durable as soon as it is written."""

    def skipped(self: Journal) -> None:
        self._active.durable = self._active.end

    patch.method(Journal, "_sync_file", skipped)


@GROUP.mutant()
def sends_before_the_sync(patch: Patch) -> None:
    """Votes and acknowledgements leave before the sync that covers them has returned."""
    perform = patch.original(Pump, "_perform")

    def early(self: Pump, output: Any, now: float) -> None:
        self._send_all(output.send)
        output.send = []
        self._flush()
        perform(self, output, now)

    patch.method(Pump, "_perform", early)


@GROUP.mutant()
def applies_before_the_sync(patch: Patch) -> None:
    """What is committed is executed, and answered, before the leader's own write is durable."""
    perform = patch.original(Pump, "_perform")

    def early(self: Pump, output: Any, now: float) -> None:
        if output.restore is None:
            self._take_committed(output.committed)
            self._feed_sink()
            output.committed = []
        perform(self, output, now)

    patch.method(Pump, "_perform", early)


@GROUP.mutant()
def acknowledgements_are_handled_during_the_sync(patch: Patch) -> None:
    """A leader counts itself for entries whose sync is under way, and commits with one disk too few."""
    turn = patch.original(Pump, "turn")

    def eager(self: Pump, now: float) -> None:
        turn(self, now)
        under_way, leads = self._under_way, self._engine.leadership().role is Role.LEADER
        if under_way is None or self._stopped or self.disk_full or not leads:
            return
        self._take_inbox(now)
        output = self._engine.take_output()
        self._journal.append(output.persist)
        self._send_all(output.send_early)
        under_way.send += output.send
        under_way.reads += output.reads
        under_way.reads_refused += output.reads_refused
        self._take_committed(output.committed)
        self._feed_sink()

    patch.method(Pump, "turn", eager)


@GROUP.mutant()
def hard_state_is_not_written(patch: Patch) -> None:
    """Terms and votes stay in memory, and a node that starts again has forgotten them."""
    append = patch.original(Journal, "append")

    def without(self: Journal, records: Sequence[Record]) -> None:
        append(self, [record for record in records if not isinstance(record, HardState)])

    patch.method(Journal, "append", without)


@GROUP.mutant()
def the_vote_is_not_written(patch: Patch) -> None:
    """Of the hard state the term is persisted and the vote is not."""
    note = patch.original(MemoryLog, "setCurrentTerm")

    def without(self: MemoryLog, term: int, votedForNodeId: str | None) -> None:  # noqa: N803
        note(self, term, None)

    patch.method(MemoryLog, "setCurrentTerm", without)


@GROUP.mutant()
def the_vote_is_forgotten_at_the_start(patch: Patch) -> None:
    """The vote is on the disk, and a node that starts does not look at it."""
    recover = patch.original(recovery, "recover")

    def forgetful(journal: Any, store: Any) -> Recovered:
        recovered: Recovered = recover(journal, store)
        recovered.hard_state = HardState(recovered.hard_state.term, None)
        return recovered

    patch.function(recovery, "recover", forgetful)


@GROUP.mutant()
def a_truncation_is_not_written(patch: Patch) -> None:
    """A follower drops a suffix that conflicts in its memory, and the journal is not told."""
    delete = patch.original(MemoryLog, "deleteEntriesFrom")

    def silent(self: MemoryLog, entryFrom: int) -> None:  # noqa: N803
        delete(self, entryFrom)
        assert isinstance(self._records.pop(), Truncate)

    patch.method(MemoryLog, "deleteEntriesFrom", silent)


@GROUP.mutant()
def a_torn_tail_is_kept(patch: Patch) -> None:
    """What a power loss left of the last write is not cut off; new batches follow behind it."""
    resume = patch.original(Journal, "_resume")

    def careless(self: Journal, tail: Tail) -> Any:
        tail.note = None
        return resume(self, tail)

    patch.method(Journal, "_resume", careless)


@GROUP.mutant()
def checksums_are_not_compared(patch: Patch) -> None:
    """Every record of the journal is taken for good, whatever its bytes are."""

    def nothing(_data: bytes) -> int:
        return 0

    def no_more(_crc: int, _data: bytes) -> int:
        return 0

    patch.function(segment, "_checksum", nothing)
    patch.function(segment, "_extend", no_more)


@GROUP.mutant()
def a_full_segment_is_not_synced(patch: Patch) -> None:
    """The journal goes on in a new segment before the last writes to the old one are durable."""
    rotate = patch.original(Journal, "_rotate")

    def hasty(self: Journal) -> None:
        active = self._active
        file, active.file = active.file, Deaf(active.file, "sync")
        try:
            rotate(self)
        finally:
            active.file = file

    patch.method(Journal, "_rotate", hasty)


@GROUP.mutant()
def the_name_of_a_segment_is_not_synced(patch: Patch) -> None:
    """The directory is not synced after a segment was added: with the power its name goes, and all in it."""
    create = patch.original(Journal, "_create")

    def nameless(self: Journal, head: Any) -> Any:
        disk = self._disk
        self._disk = Deaf(disk, "sync_directory")
        try:
            return create(self, head)
        finally:
            self._disk = disk

    patch.method(Journal, "_create", nameless)


@GROUP.mutant()
def segments_are_dropped_too_early(patch: Patch) -> None:
    """Compaction drops segments whose entries no snapshot covers."""
    compact = patch.original(Journal, "compact")

    def greedy(self: Journal, first_index_kept: int) -> None:
        compact(self, first_index_kept + 20)

    patch.method(Journal, "compact", greedy)


@GROUP.mutant()
def a_failed_sync_is_tried_again(patch: Patch) -> None:
    """A sync that failed is asked for once more, and that one succeeds: it has nothing left to write."""
    sync = patch.original(Journal, "_sync_file")

    def stubborn(self: Journal) -> None:
        try:
            sync(self)
        except StorageFailed:
            self._failed = None
            self._active.durable = self._active.end

    patch.method(Journal, "_sync_file", stubborn)


@GROUP.mutant()
def what_a_failed_sync_left_is_trusted(patch: Patch) -> None:
    """After a failed sync the next start takes what it reads for durable, and it is only in the cache."""
    resume = patch.original(Journal, "_resume")

    def trusting(self: Journal, tail: Tail) -> Any:
        tail.claimed = max(tail.claimed, tail.records_end)
        return resume(self, tail)

    patch.method(Journal, "_resume", trusting)


@GROUP.mutant()
def half_a_write_stays_on_a_full_disk(patch: Patch) -> None:
    """What a full disk took of a batch is not cut off before the batch is written again."""
    write = patch.original(Journal, "_write")

    def messy(self: Journal, records: Sequence[Record]) -> None:
        file = self._active.file
        self._active.file = Deaf(file, "truncate")
        try:
            write(self, records)
        finally:
            self._active.file = file

    patch.method(Journal, "_write", messy)


@GROUP.mutant()
def a_full_disk_is_ignored(patch: Patch) -> None:
    """What does not fit onto the disk is acknowledged all the same."""
    append = patch.original(Journal, "append")

    def ignoring(self: Journal, records: Sequence[Record]) -> None:
        try:
            append(self, records)
        except DiskFull:
            self._position = self._position.after(records)

    patch.method(Journal, "append", ignoring)


@GROUP.mutant()
def recovery_keeps_a_log_that_contradicts_the_snapshot(patch: Patch) -> None:
    """A node that got a leader's snapshot and stopped before its journal knew keeps the old log behind it."""

    def always(_found: Found, _snapshot: Any) -> bool:
        return True

    patch.function(recovery, "_continues", always)
