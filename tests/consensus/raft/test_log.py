"""The log in memory: PySyncObj's journal on one side, records for the disk on the other."""

from __future__ import annotations

import pytest
from pysyncobj.journal import Journal

from consensus.errors import InvariantViolated
from consensus.interface import (
    Entry,
    EntryKind,
    HardState,
    InstalledSnapshot,
    Recovered,
    SnapshotMeta,
    Truncate,
)
from consensus.raft import RaftConfig
from consensus.raft.config import ENTRY_OVERHEAD_BYTES_MAX
from consensus.raft.log import GENESIS, MemoryLog
from consensus.raft.messages import Append, Codec

CONFIG = RaftConfig()


def command(index: int, term: int = 1, data: bytes = b"x") -> Entry:
    return Entry(index, term, EntryKind.COMMAND, data)


def meta(index: int, term: int = 1) -> SnapshotMeta:
    return SnapshotMeta(index, term, term, 0, "")


def log(
    *entries: Entry, term: int = 1, snapshot: SnapshotMeta | None = None, config: RaftConfig = CONFIG
) -> MemoryLog:
    return MemoryLog(Recovered(HardState(term, None), snapshot, list(entries)), config)


def test_it_has_all_of_pysyncobjs_journal() -> None:
    assert [
        name for name in vars(Journal) if callable(getattr(Journal, name)) and not hasattr(MemoryLog, name)
    ] == []


def test_a_fresh_log_begins_with_the_entry_that_all_know_and_persists_it() -> None:
    fresh = log(term=0)
    assert (fresh.base_index, fresh.first_index, fresh.last_index, fresh.last_term) == (1, 1, 1, 0)
    assert fresh.take_records() == [GENESIS]
    assert log(GENESIS, command(2)).take_records() == []


def test_it_is_read_like_a_list_of_pysyncobjs_entries() -> None:
    entries = log(GENESIS, command(2, data=b"two"), command(3))
    assert len(entries) == 3
    assert entries[-1][:3] == (b"x", 3, 1)
    assert entries[0][:3] == (b"", 1, 0)
    assert [slot[1] for slot in entries[1:]] == [2, 3]
    assert [slot[1] for slot in entries[1:2]] == [2]
    assert entries[7:8] == []
    assert entries.entry_at(2).data == b"two"


def test_changes_are_recorded_in_order() -> None:
    changed = log(GENESIS, command(2), command(3))
    changed.setCurrentTerm(2, None)
    changed.setCurrentTerm(2, "b")
    assert changed.term_pending
    changed.deleteEntriesFrom(1)
    changed.append_entry(command(2, term=2))
    changed.add(b"\x01", 3, 2)
    changed.setCurrentTerm(3, None)
    assert changed.take_records() == [
        HardState(2, "b"),
        Truncate(2),
        command(2, term=2),
        Entry(3, 2, EntryKind.NOOP, b""),
        HardState(3, None),
    ]
    assert not changed.term_pending
    changed.setCurrentTerm(3, None)
    assert changed.take_records() == []
    assert (changed.getCurrentTerm(), changed.getVotedForNodeId()) == (3, None)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda it: it.append_entry(command(9)),
        lambda it: it.add(b"\x02members", 3, 1),
        lambda it: it.deleteEntriesFrom(0),
        lambda it: it.deleteEntriesTo(1),
        lambda it: it.clear(),
    ],
)
def test_what_pysyncobj_must_not_do_is_refused(wrong) -> None:
    with pytest.raises(InvariantViolated):
        wrong(log(GENESIS, command(2)))


@pytest.mark.parametrize("far", [1, 2**62], ids=["small", "large"])
def test_what_is_sent_fits_into_one_message(far: int) -> None:
    config = RaftConfig(entry_bytes_max=1000, append_bytes_max=4000, append_entries_max=200)
    codec = Codec(config)
    sizes = [0] * 400 + [1000] * 10 + [500] * 10 + [1] * 10
    held = [command(far + i, far, bytes(size)) for i, size in enumerate(sizes, 1)]
    entries = log(*held, snapshot=meta(far, far), term=far, config=config)
    start, messages = 1, 0
    while start < len(entries):
        slots = entries.message_from(entries.base_index + start)
        data = codec.encode_append(Append(far, far, far, far, far, ()), codec.encode_entries(slots))
        assert 1 <= len(slots) <= config.append_entries_max
        assert len(data) <= config.append_bytes_max
        start, messages = start + len(slots), messages + 1
    assert messages < 15


def test_an_open_slice_is_the_whole_rest_when_nothing_is_sent() -> None:
    """PySyncObj looks at it to see whether something follows that has to be truncated."""
    config = RaftConfig(entry_bytes_max=1000, append_bytes_max=1200, append_entries_max=1)
    entries = log(GENESIS, command(2, 1, bytes(1000)), command(3, 1, bytes(1000)), term=1, config=config)
    assert [slot[1] for slot in entries[1:]] == [2, 3]


def test_the_overhead_of_an_entry_is_not_underestimated() -> None:
    codec = Codec(CONFIG)
    data = bytes(70_000)
    slot = (data, 2**63 - 1, 2**63 - 1, Entry(2**63 - 1, 2**63 - 1, EntryKind.NOOP, data))
    array = 5
    assert len(codec.encode_entries([slot])) <= array + len(data) + ENTRY_OVERHEAD_BYTES_MAX


@pytest.mark.parametrize(
    ("snapshot", "entries", "base", "first", "last", "records"),
    [
        (meta(5), [], 5, 6, 5, []),
        (meta(5), range(6, 9), 5, 6, 8, []),
        (meta(5), range(5, 9), 5, 5, 8, []),
        (meta(5), range(3, 9), 3, 3, 8, []),
        (meta(5), range(1, 6), 1, 1, 5, []),
        (meta(5), range(1, 5), 5, 6, 5, [InstalledSnapshot(meta(5))]),
        (meta(5, 2), range(1, 9), 5, 6, 5, [InstalledSnapshot(meta(5, 2))]),
    ],
    ids=["bare", "behind", "at", "around", "before", "short", "contradicted"],
)
def test_recovery_joins_the_snapshot_and_the_entries(snapshot, entries, base, first, last, records) -> None:
    held = [GENESIS if i == 1 else command(i) for i in entries]
    recovered = log(*held, snapshot=snapshot, term=2)
    assert (recovered.base_index, recovered.first_index, recovered.last_index) == (base, first, last)
    assert recovered.getRaftCommitIndex() == 5
    assert recovered.term_at(5) == snapshot.term
    assert recovered.take_records() == records


def test_a_snapshot_of_a_term_that_was_not_stored_yet_brings_the_term() -> None:
    recovered = log(GENESIS, command(2), snapshot=meta(9, term=4), term=1)
    assert recovered.take_records() == [HardState(4, None), InstalledSnapshot(meta(9, term=4))]
    assert recovered.getCurrentTerm() == 4


@pytest.mark.parametrize(
    ("entries", "snapshot"),
    [
        ([command(2)], None),
        ([GENESIS, command(3)], None),
        ([GENESIS, command(2, term=2), command(3, term=1)], None),
        ([GENESIS, command(2, term=9)], None),
        ([command(7)], meta(5)),
        ([command(1)], None),
    ],
    ids=["beginning", "gap", "order", "term", "distance", "genesis"],
)
def test_a_recovered_log_that_contradicts_itself_is_refused(entries, snapshot) -> None:
    with pytest.raises(InvariantViolated, match="contradicts itself"):
        log(*entries, snapshot=snapshot, term=2)


def test_compaction_moves_the_base() -> None:
    compacted = log(GENESIS, *(command(i) for i in range(2, 10)))
    assert compacted.compact(5) == 5
    assert (compacted.base_index, compacted.first_index, compacted.term_at(5)) == (5, 5, 1)
    assert compacted.compact(3) == 5
    compacted.install(meta(20, term=3))
    assert (compacted.base_index, compacted.first_index, compacted.last_index) == (20, 21, 20)
    assert compacted.compact(20) == 21
    compacted.append(command(21, term=3))
    assert compacted.compact(21) == 21
    assert (compacted.base_index, compacted.first_index) == (20, 21)


def test_terms_are_found_by_bisection() -> None:
    terms = [0, 1, 1, 1, 4, 4, 6]
    entries = [GENESIS, *(command(i, term) for i, term in enumerate(terms[1:], 2))]
    held = log(*entries, term=9)
    assert [held.first_index_of_term(term) for term in (0, 1, 2, 4, 6, 7)] == [1, 2, 5, 5, 7, 8]
