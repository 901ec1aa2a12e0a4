"""The engine's log in memory, in the shape that PySyncObj expects of a journal.

PySyncObj reads and writes positions as sequences ``(command, index, term)``. Here a position is a
:data:`Slot`, which carries the :class:`~consensus.interface.Entry` as a fourth element: PySyncObj
passes it through untouched, so ``Entry.data`` never needs PySyncObj's type byte in front.

The log always holds at least one slot, its *base*: PySyncObj needs the term of the entry before the
first that it sends. On a fresh log the base is the entry that every cluster begins with (index 1,
term 0, no operation); after a snapshot it is a placeholder that knows the snapshot's index and term
and has no data. The base is committed, and its data are never sent.

Every change is noted in order in :meth:`MemoryLog.take_records`, for the journal on the disk.
"""

from __future__ import annotations

import bisect
import itertools
import operator

from consensus.configuration import Configuration
from consensus.errors import InvariantViolated
from consensus.interface import (
    Entry,
    EntryKind,
    HardState,
    InstalledSnapshot,
    Record,
    Recovered,
    SnapshotMeta,
    Truncate,
)
from consensus.raft.config import ENTRY_OVERHEAD_BYTES_MAX, MESSAGE_OVERHEAD_BYTES_MAX, RaftConfig

Slot = tuple[bytes, int, int, Entry]
"""``(data, index, term, entry)``: the first three are what PySyncObj looks at."""

GENESIS = Entry(1, 0, EntryKind.NOOP, b"")
"""The first entry of every log: PySyncObj takes it for granted on every node."""

_PYSYNCOBJ_NOOP = b"\x01"
_CONFIG = EntryKind.CONFIG
_term_of = operator.itemgetter(2)


def _slot(entry: Entry) -> Slot:
    return entry.data, entry.index, entry.term, entry


def _placeholder(meta: SnapshotMeta) -> Slot:
    return _slot(Entry(meta.index, meta.term, EntryKind.NOOP, b""))


class MemoryLog(list[Slot]):
    """The log of one node. PySyncObj's ``Journal`` interface, and what the guards ask for.

    It is a list of slots: PySyncObj looks at its first and last slot several times for every message,
    and a list of Python's own answers that without a call of ours.

    Raises :class:`~consensus.errors.InvariantViolated` when ``recovered`` contradicts itself.
    """

    def __init__(self, recovered: Recovered, config: RaftConfig) -> None:
        self._bytes_max = config.append_bytes_max - MESSAGE_OVERHEAD_BYTES_MAX
        self._count_max = config.append_entries_max
        self._records: list[Record] = []
        self._hard_state = recovered.hard_state
        self._term_pending = False
        self._has_placeholder = False
        self._configurations: list[tuple[int, Configuration]] = []
        self._commit_index = recovered.snapshot.index if recovered.snapshot else GENESIS.index
        _check_order(recovered)
        super().__init__(self._recover(recovered.snapshot, recovered.entries))
        self._base_index = self[0][1]
        self._recover_configurations(recovered.snapshot)

    def _recover(self, meta: SnapshotMeta | None, entries: list[Entry]) -> list[Slot]:
        if meta is None:
            if not entries:
                self._records.append(GENESIS)
            return [_slot(entry) for entry in entries or [GENESIS]]
        if meta.term > self._hard_state.term:
            # The leader's snapshot was stored before its term was: no vote was given in that term.
            self.setCurrentTerm(meta.term, None)
        held = [entry.term for entry in entries if entry.index == meta.index]
        if held == [meta.term]:
            return [_slot(entry) for entry in entries]
        self._has_placeholder = True
        follows = [entry for entry in entries if entry.index > meta.index]
        if held or (entries and not follows):
            # The node stopped between storing the leader's snapshot and resetting its journal: what
            # contradicts the snapshot was never committed, and what ends before it is covered by it.
            self._records.append(InstalledSnapshot(meta))
            follows = []
        return [_placeholder(meta), *map(_slot, follows)]

    def _recover_configurations(self, meta: SnapshotMeta | None) -> None:
        covered = meta.index if meta is not None else 0
        try:
            if meta is not None and meta.configuration:
                self._configurations.append((covered, Configuration.decode(meta.configuration)))
            for data, index, _, entry in self:
                if entry.kind is _CONFIG and index > covered:
                    self._configurations.append((index, Configuration.decode(data)))
        except ValueError as problem:
            raise _contradiction(str(problem)) from problem

    # -- what the guards and the engine ask --------------------------------------------------------

    @property
    def base_index(self) -> int:
        """The index of the first slot: the entries after it can be sent."""
        return self._base_index

    @property
    def first_index(self) -> int:
        """The first index whose entry is here, with its data."""
        return self._base_index + self._has_placeholder

    @property
    def last_index(self) -> int:
        """The index of the last slot."""
        return self[-1][1]

    @property
    def last_term(self) -> int:
        """The term of the last slot."""
        return self[-1][2]

    @property
    def term_pending(self) -> bool:
        """Whether a term or a vote is among the records that were not taken yet."""
        return self._term_pending

    def term_at(self, index: int) -> int:
        """The term of the entry at ``index``, which is from ``base_index`` to ``last_index``."""
        return self[index - self._base_index][2]

    def entry_at(self, index: int) -> Entry:
        """The entry at ``index``, which is from ``first_index`` to ``last_index``."""
        return self[index - self._base_index][3]

    def first_index_of_term(self, term: int) -> int:
        """The first index in memory whose term is ``term`` or later: terms never fall along a log."""
        return self._base_index + bisect.bisect_left(self, term, key=_term_of)

    @property
    def configuration(self) -> tuple[int, Configuration] | None:
        """The last configuration in the log or its snapshot, and where: the same object until it changes."""
        return self._configurations[-1] if self._configurations else None

    def configuration_at(self, index: int) -> Configuration | None:
        """The last configuration at or before ``index``, which is not before the last snapshot."""
        known = (configuration for at, configuration in reversed(self._configurations) if at <= index)
        return next(known, None)

    # -- changes that the engine makes itself ------------------------------------------------------

    def append_entry(self, entry: Entry) -> None:
        """Add ``entry`` behind the last one."""
        self.add(entry.data, entry.index, entry.term, entry)

    def install(self, meta: SnapshotMeta) -> None:
        """Forget everything: the log goes on behind the snapshot."""
        self[:] = [_placeholder(meta)]
        self._base_index = meta.index
        self._has_placeholder = True
        self._configurations.clear()
        if meta.configuration:
            self._configurations.append((meta.index, Configuration.decode(meta.configuration)))
        self._records.append(InstalledSnapshot(meta))

    def forget_configurations(self, index: int) -> None:
        """A snapshot of ``index`` stands for what was in force before it."""
        held = self._configurations
        while len(held) > 1 and held[1][0] <= index:
            del held[0]

    def compact(self, first_index: int) -> int:
        """Forget what is before ``first_index``, which is committed; return the first index kept."""
        if first_index > self.first_index:
            del self[: first_index - self._base_index]
            self._base_index = first_index
            self._has_placeholder = False
        return self.first_index

    def take_records(self) -> list[Record]:
        """What changed since the last call, in order."""
        records, self._records = self._records, []
        self._term_pending = False
        return records

    # -- PySyncObj's Journal -----------------------------------------------------------------------

    def message_from(self, index: int) -> list[Slot]:
        """What one message can carry of the slots from ``index`` on, which is behind the base."""
        start = index - self._base_index
        slots = self[start : start + self._count_max]
        if len(slots) < 2:
            return slots
        room = self._bytes_max
        for count, slot in enumerate(slots):
            room -= len(slot[0]) + ENTRY_OVERHEAD_BYTES_MAX
            if room < 0:
                return slots[: max(count, 1)]
        return slots

    def add(self, command: bytes, idx: int, term: int, entry: Entry | None = None) -> None:
        """Append one slot. Only PySyncObj's own no-operation comes without an ``entry``."""
        if idx != self[-1][1] + 1:
            raise InvariantViolated(f"entry {idx} was added behind entry {self[-1][1]}")
        if entry is None:
            if command != _PYSYNCOBJ_NOOP:
                raise InvariantViolated(f"PySyncObj added a command of its own: {command[:16]!r}")
            entry = Entry(idx, term, EntryKind.NOOP, b"")
            command = b""
        super().append((command, idx, term, entry))
        self._records.append(entry)
        if entry.kind is _CONFIG:
            self._configurations.append((idx, Configuration.decode(command)))

    def deleteEntriesFrom(self, entryFrom: int) -> None:  # noqa: N802, N803 (PySyncObj's names)
        """Forget the slots from position ``entryFrom`` on."""
        if entryFrom < 1:
            raise InvariantViolated("PySyncObj tried to delete the base of the log, which is committed")
        del self[entryFrom:]
        self._records.append(Truncate(self.last_index + 1))
        while self._configurations and self._configurations[-1][0] > self.last_index:
            # In force when it was appended, and not any more: it was never committed.
            self._configurations.pop()

    def deleteEntriesTo(self, entryTo: int) -> None:  # noqa: N802, N803 (PySyncObj's names)
        """PySyncObj compacts only after it has serialised, and here it never does."""
        raise InvariantViolated(f"PySyncObj tried to compact {entryTo} entries of its own accord")

    def clear(self) -> None:
        """PySyncObj clears only to load a dump, and here it never does."""
        raise InvariantViolated("PySyncObj tried to clear the log of its own accord")

    def setRaftCommitIndex(self, raftCommitIndex: int) -> None:  # noqa: N802, N803 (PySyncObj's names)
        """Remember the commit index in memory. It needs no disk: a leader tells it again."""
        self._commit_index = raftCommitIndex

    def getRaftCommitIndex(self) -> int:  # noqa: N802 (PySyncObj's name)
        """The commit index."""
        return self._commit_index

    def setCurrentTerm(self, term: int, votedForNodeId: str | None) -> None:  # noqa: N802, N803 (PySyncObj's names)
        """Note the term and the vote in it, for the disk."""
        hard_state = HardState(term, votedForNodeId)
        if hard_state == self._hard_state:
            return
        self._hard_state = hard_state
        self._term_pending = True
        if self._records and isinstance(self._records[-1], HardState):
            self._records.pop()
        self._records.append(hard_state)

    def getCurrentTerm(self) -> int:  # noqa: N802 (PySyncObj's name)
        """The term."""
        return self._hard_state.term

    def getVotedForNodeId(self) -> str | None:  # noqa: N802 (PySyncObj's name)
        """The vote given in the term."""
        return self._hard_state.voted_for

    def onOneSecondTimer(self) -> None:  # noqa: N802 (PySyncObj's name)
        """Nothing waits for a timer: the driver syncs."""

    def _destroy(self) -> None:
        """Nothing to close."""


def _contradiction(problem: str) -> InvariantViolated:
    return InvariantViolated(
        f"the recovered log contradicts itself: {problem}; "
        "restore this node from its peers with a new node id"
    )


def _check_order(recovered: Recovered) -> None:
    entries, meta = recovered.entries, recovered.snapshot
    if not entries:
        return
    if meta is None and entries[0] != GENESIS:
        raise _contradiction(f"entries begin with {entries[0].index} and there is no snapshot before it")
    if meta is not None and entries[0].index > meta.index + 1:
        raise _contradiction(f"entries begin with {entries[0].index}, the snapshot ends with {meta.index}")
    for before, after in itertools.pairwise(entries):
        if after.index != before.index + 1 or after.term < before.term:
            raise _contradiction(
                f"entry {after.index} of term {after.term} follows entry {before.index} of term {before.term}"
            )
    if entries[-1].term > recovered.hard_state.term:
        raise _contradiction(
            f"entry {entries[-1].index} is of term {entries[-1].term}, the stored term is "
            f"{recovered.hard_state.term}"
        )
