"""What an observer writes down of every node's disk, and who has to have something for it to count."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from consensus.configuration import Configuration
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

Server = tuple[str, int]
"""A node and the incarnation of its journal: a disk that was emptied makes another server of the same
name."""


@dataclass(frozen=True, slots=True)
class Electorate:
    """Whose votes and disks count. ``incarnations`` is ``None`` for a voter of whom any incarnation does.

    A majority decides; of those that a cluster is first started with, ``unanimous``, all of them: see
    `consensus.raft.membership`.
    """

    incarnations: Mapping[str, int | None]
    unanimous: bool = False

    @classmethod
    def first(cls, names: Iterable[str], *, unanimous: bool = True) -> Electorate:
        """Those that a cluster is started with."""
        return cls(dict.fromkeys(names), unanimous)

    @classmethod
    def of(cls, configuration: Configuration) -> Electorate:
        """The voters of a configuration."""
        return cls({m.name: m.incarnation for m in configuration.members if m.votes})

    def decides(self, servers: Iterable[Server]) -> bool:
        """Whether these are enough."""
        known = self.incarnations
        count = len({name for name, number in servers if name in known and known[name] in (None, number)})
        return count == len(known) if self.unanimous else 2 * count > len(known)


@dataclass(slots=True)
class Shadow:
    """A log as an observer writes it down: everything that a node was told to persist, in order.

    Entries are contiguous from ``first``; everything up to ``covered`` is in a durable snapshot.
    ``configurations`` are those in the log and the last one before it, with their indexes.
    """

    hard_state: HardState = field(default_factory=lambda: HardState(0, None))
    first: int = 1
    entries: list[Entry] = field(default_factory=list)
    covered: int = 0
    configurations: list[tuple[int, Configuration]] = field(default_factory=list)

    @property
    def last(self) -> int:
        """The index of the last entry."""
        return self.first + len(self.entries) - 1

    def take(self, records: Iterable[Record]) -> None:
        """Follow ``records``."""
        for record in records:
            match record:
                case Entry():
                    self.entries.append(record)
                    if record.kind is EntryKind.CONFIG:
                        self.configurations.append((record.index, Configuration.decode(record.data)))
                case HardState():
                    self.hard_state = record
                case Truncate(index):
                    del self.entries[max(0, index - self.first) :]
                    self.first = min(self.first, index)
                    self.configurations = [each for each in self.configurations if each[0] < index]
                case InstalledSnapshot(meta):
                    self.entries, self.first = [], meta.index + 1
                    self.configurations = _in_snapshot(meta)

    def term_at(self, index: int) -> int | None:
        """The term of the entry at ``index``; ``None`` where there is none."""
        at = index - self.first
        return self.entries[at].term if 0 <= at < len(self.entries) else None

    def holds(self, index: int, term: int) -> bool:
        """Whether the entry is here, or in the snapshot."""
        return index <= self.covered or self.term_at(index) == term

    def copy(self) -> Shadow:
        """Another one, equal now."""
        return Shadow(
            self.hard_state, self.first, list(self.entries), self.covered, list(self.configurations)
        )


def _in_snapshot(meta: SnapshotMeta | None) -> list[tuple[int, Configuration]]:
    if meta is None or not meta.configuration:
        return []
    return [(meta.index, Configuration.decode(meta.configuration))]


class Disks:
    """What every node has written (``live``), and what of it a sync has covered (``durable``).

    ``emptied`` is what was durable on disks that were emptied since: nobody who has lost a minority of
    disks has lost what was committed, and the proof counts the disks as they were when it was.
    """

    def __init__(self, nodes: Sequence[str]) -> None:
        self.live = {name: Shadow() for name in nodes}
        self.durable = {name: Shadow() for name in nodes}
        self.incarnations = dict.fromkeys(nodes, 0)
        self.emptied: dict[Server, Shadow] = {}
        self._pending: dict[str, list[Sequence[Record]]] = {name: [] for name in nodes}

    def appended(self, node: str, records: Sequence[Record]) -> None:
        """``node`` wrote ``records``; they are not promised yet."""
        self.live[node].take(records)
        self.note_pending(node, records)

    def note_pending(self, node: str, records: Sequence[Record]) -> None:
        """The next sync of ``node`` covers ``records``, which ``live`` has already."""
        self._pending[node].append(records)

    def synced(self, node: str) -> None:
        """Everything that ``node`` wrote is durable."""
        for records in self._pending[node]:
            self.durable[node].take(records)
        self._pending[node].clear()

    def covered(self, node: str, index: int) -> None:
        """``node`` has a durable snapshot of everything up to ``index``."""
        self.live[node].covered = self.durable[node].covered = index

    def cut_pending(self, node: str) -> bool:
        """Whether something that was not synced would have taken entries away."""
        return any(
            isinstance(r, Truncate | InstalledSnapshot) for records in self._pending[node] for r in records
        )

    def was_emptied(self, node: str) -> None:
        """Everything on the disk of ``node`` is gone."""
        self.emptied[node, self.incarnations[node]] = self.durable[node]
        self.live[node], self.durable[node] = Shadow(), Shadow()
        self._pending[node].clear()

    def holders(self, index: int, term: int) -> list[Server]:
        """On which synced disks the entry is, or was."""
        disks = [((name, self.incarnations[name]), shadow) for name, shadow in self.durable.items()]
        return [server for server, shadow in (*disks, *self.emptied.items()) if shadow.holds(index, term)]

    def restarted(self, node: str, recovered: Recovered) -> None:
        """``node`` has started from its disk with this."""
        self.incarnations[node] = recovered.incarnation
        entries = list(recovered.entries)
        covered = recovered.snapshot.index if recovered.snapshot else 0
        first = entries[0].index if entries else covered + 1
        configurations = _in_snapshot(recovered.snapshot)
        configurations += [
            (entry.index, Configuration.decode(entry.data))
            for entry in entries
            if entry.kind is EntryKind.CONFIG and entry.index > covered
        ]
        self.live[node] = Shadow(recovered.hard_state, first, entries, covered, configurations)
        self.durable[node] = self.live[node].copy()
        self._pending[node].clear()
