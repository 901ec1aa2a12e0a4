"""What a sequence of journal records amounts to. The same rules hold when writing and when reading."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from consensus.errors import InvariantViolated
from consensus.interface import Entry, HardState, InstalledSnapshot, Record, SnapshotMeta, Truncate


@dataclass(slots=True)
class LogPosition:
    """Where a journal stands after its records so far.

    ``next_index`` is the index that the next entry has to have. ``lowest_cut`` is the lowest index from
    which a ``Truncate`` or an ``InstalledSnapshot`` forgot entries (0: all of them), or ``None``.
    """

    hard_state: HardState = field(default_factory=lambda: HardState(0, None))
    installed: SnapshotMeta | None = None
    next_index: int = 1
    lowest_cut: int | None = None

    def after(self, records: Sequence[Record]) -> LogPosition:
        """The position behind ``records``, with ``lowest_cut`` of these records alone.

        Raises :class:`~consensus.errors.InvariantViolated` for a sequence that no correct engine writes.
        """
        position = LogPosition(self.hard_state, self.installed, self.next_index)
        index = position.next_index
        for record in records:
            if type(record) is Entry and record.index == index:
                index += 1
            else:
                position.next_index = index
                position._step(record)
                index = position.next_index
        position.next_index = index
        return position

    def _step(self, record: Record) -> None:
        match record:
            case HardState():
                self._take_hard_state(record)
            case Truncate(from_index):
                if not 1 <= from_index <= self.next_index:
                    raise InvariantViolated(
                        f"truncation from index {from_index} where the log ends at {self.next_index - 1}"
                    )
                self._cut(from_index)
                self.next_index = from_index
            case InstalledSnapshot(meta):
                self._cut(0)
                self.installed = meta
                self.next_index = meta.index + 1
            case Entry(index):
                raise InvariantViolated(f"entry {index} where entry {self.next_index} had to follow")

    def _take_hard_state(self, new: HardState) -> None:
        old = self.hard_state
        revoted = old.voted_for is not None and new.voted_for != old.voted_for
        if new.term < old.term or (new.term == old.term and revoted):
            raise InvariantViolated(
                f"hard state goes from term {old.term}, vote {old.voted_for} to term {new.term}, vote "
                f"{new.voted_for}: a term never goes back and a vote in it is never changed"
            )
        self.hard_state = new

    def _cut(self, index: int) -> None:
        self.lowest_cut = index if self.lowest_cut is None else min(self.lowest_cut, index)


@dataclass(slots=True)
class Found:
    """What a journal holds.

    ``entries`` are contiguous from ``first_index``, which is the index of the next entry where there
    are none. ``installed`` is the last snapshot that replaced the whole log.
    """

    hard_state: HardState
    installed: SnapshotMeta | None
    first_index: int
    entries: list[Entry]

    @property
    def next_index(self) -> int:
        """The index of the entry that may follow."""
        return self.first_index + len(self.entries)


@dataclass(slots=True)
class Replay:
    """Gathers the entries that are still in the log while ``position`` follows the records."""

    position: LogPosition
    first_index: int
    entries: list[Entry] = field(default_factory=list)

    def take(self, records: Sequence[Record]) -> None:
        """Follow ``records``. Raises :class:`~consensus.errors.InvariantViolated` as ``after`` does."""
        self.position = self.position.after(records)
        for record in records:
            match record:
                case Entry():
                    self.entries.append(record)
                case Truncate(from_index):
                    del self.entries[max(from_index - self.first_index, 0) :]
                    self.first_index = min(self.first_index, from_index)
                case InstalledSnapshot(meta):
                    self.entries.clear()
                    self.first_index = meta.index + 1
                case _:
                    pass

    def found(self) -> Found:
        """Everything so far."""
        position = self.position
        return Found(position.hard_state, position.installed, self.first_index, self.entries)
