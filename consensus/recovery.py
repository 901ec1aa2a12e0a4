"""Putting a journal and a snapshot store together after a stop, at whatever point it came.

What each crash point leaves, and why the answer is right:

1. *A snapshot of ours is durable, the journal is not compacted yet*: its entries reach across the
   snapshot's index. They stay; the engine applies those behind it.
2. *A leader's snapshot is durable, the journal has not recorded that it replaces the log*: the snapshot
   stands for committed entries, so it is valid whatever the journal holds. Where the journal has the
   snapshot's last entry with the same term, what follows in it agrees with the snapshot and may have
   been acknowledged, so it stays (Ongaro and Ousterhout 2014, figure 13, rule 6). Where it ends before
   the snapshot, or has another term there, nothing in it counts any more: it is reset now.
3. *The reset is recorded*: the journal continues behind the snapshot.

Everything else can not come from a crash: entries that begin behind the snapshot, a log whose begin was
dropped without a snapshot, a snapshot older than the one that the journal continues, a snapshot beside
a journal that is gone and with it the votes of this node, or a log that ends before a snapshot that was
taken here: the journal has lost entries that it had promised.
"""

from __future__ import annotations

from consensus.errors import StorageCorrupt
from consensus.interface import HardState, InstalledSnapshot, Record, Recovered, SnapshotMeta
from consensus.journal import Journal
from consensus.replay import Found
from consensus.snapshots import SnapshotStore
from consensus.storage import REPLACE_NODE_ADVICE


def recover(journal: Journal, store: SnapshotStore) -> Recovered:
    """What an engine starts from, all of it durable. Takes what ``journal`` found; may write to it.

    What was repaired is told in ``journal.recovered_notes``. Raises
    :class:`~consensus.errors.StorageCorrupt` where the two do not belong together,
    :class:`~consensus.errors.DiskFull` and :class:`~consensus.errors.StorageFailed`.
    """
    found = journal.take_found()
    snapshot = store.latest()
    problem = _contradiction(found, snapshot, journal_is_new=journal.created)
    if snapshot is not None and problem is None and not store.latest_was_received():
        problem = _loss(found, snapshot)
    if problem is not None:
        raise StorageCorrupt(journal.path, 0, problem, REPLACE_NODE_ADVICE)
    if snapshot is None:
        return Recovered(found.hard_state, None, found.entries, journal.incarnation)
    records: list[Record] = []
    if not _continues(found, snapshot):
        records.append(InstalledSnapshot(snapshot))
        found.entries = []
        journal.recovered_notes.append(
            f"the log ended before the snapshot of entry {snapshot.index}, or disagreed with it: it goes on "
            f"from entry {snapshot.index + 1}"
        )
    if found.hard_state.term < snapshot.term:
        # A vote in that term would have been persisted with the term, so none was given.
        found.hard_state = HardState(snapshot.term, None)
        records.append(found.hard_state)
    journal.append(records)
    journal.sync()
    return Recovered(found.hard_state, snapshot, found.entries, journal.incarnation)


def _contradiction(found: Found, snapshot: SnapshotMeta | None, *, journal_is_new: bool) -> str | None:
    if snapshot is None:
        if found.first_index > 1:
            return f"the log begins at entry {found.first_index} and the snapshot before it is missing"
        return None
    if journal_is_new:
        return f"there is a snapshot of entry {snapshot.index} and no journal beside it"
    if found.first_index > snapshot.index + 1:
        return (
            f"the log begins at entry {found.first_index} and the snapshot ends at entry {snapshot.index}: "
            "the entries between them are missing"
        )
    installed = found.installed
    if installed is not None and (
        installed.index > snapshot.index
        or (installed.index == snapshot.index and installed.term != snapshot.term)
    ):
        return (
            f"the journal continues a snapshot of entry {installed.index}, term {installed.term}, and the "
            f"latest one here is of entry {snapshot.index}, term {snapshot.term}"
        )
    return None


def _loss(found: Found, snapshot: SnapshotMeta) -> str | None:
    if _continues(found, snapshot):
        return None
    return (
        f"this node applied everything up to entry {snapshot.index}, term {snapshot.term}, and took a "
        f"snapshot of it; its log ends at entry {found.next_index - 1} or has another term there"
    )


def _continues(found: Found, snapshot: SnapshotMeta) -> bool:
    """Whether the log reaches up to ``snapshot`` at least, and agrees with it there."""
    if found.next_index <= snapshot.index:
        return False
    position = snapshot.index - found.first_index
    if position >= 0:
        return found.entries[position].term == snapshot.term
    return not found.entries or found.entries[0].term >= snapshot.term
