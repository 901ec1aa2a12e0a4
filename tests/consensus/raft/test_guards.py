"""The guards alone: what PySyncObj is given has the effect that Raft asks for."""

from __future__ import annotations

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from consensus.errors import InvariantViolated
from consensus.interface import Entry, EntryKind, HardState, Recovered
from consensus.raft import RaftConfig
from consensus.raft.flow import Flow
from consensus.raft.guards import Ballot, Delivery, Reign, normalise
from consensus.raft.log import GENESIS, MemoryLog
from consensus.raft.messages import Append


def log_of(terms: list[int], compact_to: int = 1) -> MemoryLog:
    """A log whose entries behind the first have these terms."""
    entries = [GENESIS] + [Entry(i, term, EntryKind.COMMAND, b"") for i, term in enumerate(terms, 2)]
    log = MemoryLog(Recovered(HardState(99, None), None, entries), RaftConfig())
    log.compact(compact_to)
    return log


def pysyncobj_obeys(delivery: Delivery, terms: list[int], commit: int) -> tuple[list[int], int, int | None]:
    """What PySyncObj makes of it: the log's terms, the commit index, and the next index if it succeeds."""
    if delivery.prev_index > len(terms) or terms[delivery.prev_index - 1] != delivery.prev_term:
        return terms, commit, None
    terms = terms[: delivery.prev_index] + [entry.term for entry in delivery.entries]
    next_index = delivery.entries[-1].index + 1 if delivery.entries else delivery.prev_index + 1
    commit = max(commit, min(delivery.commit_index, len(terms)))
    return terms, commit, min(next_index, delivery.next_index_max)


def raft_obeys(append: Append, terms: list[int], commit: int) -> tuple[list[int], int, int | None]:
    """Figure 2 of the paper, to the letter: the receiver's rules for AppendEntries."""
    if append.prev_index > len(terms) or terms[append.prev_index - 1] != append.prev_term:
        return terms, commit, None
    terms = list(terms)
    for entry in append.entries:
        if entry.index <= len(terms) and terms[entry.index - 1] != entry.term:
            del terms[entry.index - 1 :]
        if entry.index > len(terms):
            terms.append(entry.term)
    last_new = append.prev_index + len(append.entries)
    return terms, max(commit, min(append.commit_index, last_new)), last_new + 1


def first_difference(ours: list[int], leaders: list[int]) -> int | None:
    """How many entries are equal before the first pair that is not."""
    pairs = enumerate(zip(ours, leaders, strict=False))
    return next((at for at, (a, b) in pairs if a != b), None)


rising = st.lists(st.integers(1, 4), max_size=8).map(sorted)


@settings(max_examples=500)
@given(rising, rising, st.data())
def test_a_normalised_append_does_in_pysyncobj_what_the_paper_says(
    ours: list[int], leaders: list[int], data: st.DataObject
) -> None:
    differ = first_difference(ours, leaders)
    common = min(len(ours), len(leaders)) if differ is None else differ
    commit = data.draw(st.integers(1, common + 1))
    base = data.draw(st.integers(1, commit))
    full = [0, *leaders]
    prev = data.draw(st.integers(1, len(full)))
    end = data.draw(st.integers(prev, len(full)))
    entries = [Entry(i, full[i - 1], EntryKind.COMMAND, b"") for i in range(prev + 1, end + 1)]
    append = Append(9, 1, data.draw(st.integers(1, len(full))), prev, full[prev - 1], entries)
    delivery = normalise(append, log_of(ours, base), commit)
    assert delivery.prev_index >= base
    assert pysyncobj_obeys(delivery, [0, *ours], commit) == raft_obeys(append, [0, *ours], commit)


@given(rising, rising, st.data())
def test_what_contradicts_a_commit_is_never_delivered(
    ours: list[int], leaders: list[int], data: st.DataObject
) -> None:
    common = first_difference(ours, leaders)
    assume(common is not None)
    commit = data.draw(st.integers(common + 2, len(ours) + 1))
    full = [0, *leaders]
    prev = data.draw(st.integers(1, common + 2))
    entries = [Entry(i, full[i - 1], EntryKind.COMMAND, b"") for i in range(prev + 1, len(full) + 1)]
    append = Append(9, 1, 1, prev, full[prev - 1], entries)
    try:
        normalise(append, log_of(ours), commit)
    except InvariantViolated:
        return
    raise AssertionError("it was delivered")


def test_a_rejection_skips_the_term_but_never_a_commit() -> None:
    log = log_of([1, 1, 2, 2, 2, 2])
    assert normalise(Append(5, 1, 1, 7, 4, ()), log, 2).next_index_max == 4
    assert normalise(Append(5, 1, 1, 7, 4, ()), log, 5).next_index_max == 6
    assert normalise(Append(5, 1, 1, 50, 4, ()), log, 2).next_index_max == 8


def test_a_voter_counts_once_per_term() -> None:
    ballot = Ballot()
    assert [ballot.admit(1, 2), ballot.admit(1, 2), ballot.admit(1, 3)] == [True, False, True]
    assert [ballot.admit(2, 2), ballot.admit(2, 2)] == [True, False]


def test_a_term_has_one_leader() -> None:
    reign = Reign()
    assert [reign.admit(0, 1), reign.admit(0, 2), reign.admit(0, 1)] == [True, False, True]
    assert [reign.admit(3, 2), reign.admit(3, 1), reign.admit(3, 2)] == [True, False, True]
    assert reign.admit(2, 2) is False


def test_a_window_fills_and_empties_by_number() -> None:
    flow = Flow(RaftConfig(appends_in_flight_max=3, append_bytes_in_flight_max=100), 0.0)
    for number in (1, 2, 3):
        assert flow.has_room
        flow.sent(number, 10)
    assert not flow.has_room
    flow.settled(2)
    assert flow.has_room
    flow.sent(4, 95)
    assert not flow.has_room
    flow.settled(3)
    assert flow.has_room
    flow.sent(5, 10)
    assert not flow.has_room
    flow.lost(5)
    assert flow.has_room
    assert [flow.is_news(number) for number in (5, 6)] == [False, True]


def test_only_a_rejection_of_something_newer_is_news() -> None:
    flow = Flow(RaftConfig(), 0.0)
    assert flow.is_news(1)
    assert not flow.is_news(0)
    flow.set_back(7)
    assert [flow.is_news(number) for number in (6, 7, 8)] == [False, False, True]
