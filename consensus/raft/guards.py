"""What stands between PySyncObj and the ways in which it can lose an acknowledged command.

Each guard is a pure function or a small object, and its head says why it is enough. The numbers are
those of the project's list of PySyncObj's defects; every one has a regression test that shows the
defect on the bare library and its absence here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from consensus.errors import InvariantViolated
from consensus.interface import Entry
from consensus.raft.messages import Append


class LogView(Protocol):
    """What the guards read of a log. The base is its first slot: committed, its term known."""

    @property
    def base_index(self) -> int:
        """The index of the base."""

    @property
    def last_index(self) -> int:
        """The index of the last entry."""

    def term_at(self, index: int) -> int:
        """The term at ``index``, from the base to the last."""

    def first_index_of_term(self, term: int) -> int:
        """The first index, from the base on, whose term is ``term`` or later."""


class Delivery(NamedTuple):
    """An append in a form in which PySyncObj does with it what Raft asks for."""

    prev_index: int
    prev_term: int
    entries: Sequence[Entry]
    commit_index: int
    next_index_max: int
    """The acknowledgement may not name a higher next index than this one."""


def normalise(append: Append, log: LogView, commit_index: int) -> Delivery:
    """Defect 1: PySyncObj forgets every entry behind ``prev_index``, also those that match.

    A resent or overtaken append would erase entries that this node has acknowledged. So entries
    that are here already are taken out, and PySyncObj sees only what is new, right behind what is
    known to be equal: there is nothing matching left behind ``prev_index`` that it could erase.
    When nothing is new, it sees a heartbeat at our own last index.

    Why that is right: by the Log Matching property an entry with the same index and term is the
    same entry and has the same past. Entries at or before the base are committed, hence in the log
    of every later leader (Leader Completeness), hence equal. What lies behind the *verified* index,
    the last one that the message speaks of, may differ from the leader's log. So it may neither be
    acknowledged nor committed: both are capped there.

    Raises :class:`~consensus.errors.InvariantViolated` when the append contradicts an entry that is
    committed here: obeying would undo a commit, and Raft rules it out.
    """
    last, verified = log.last_index, append.prev_index + len(append.entries)
    if append.prev_index > last:
        return Delivery(append.prev_index, append.prev_term, (), 0, last + 1)
    if append.prev_index >= log.base_index and log.term_at(append.prev_index) != append.prev_term:
        _refuse_to_undo(append.prev_index, append.prev_term, log, commit_index)
        hint = _conflict_hint(log, append.prev_index, commit_index)
        return Delivery(append.prev_index, append.prev_term, (), 0, hint)
    commit = min(append.commit_index, verified)
    for position, entry in enumerate(append.entries):
        if entry.index < log.base_index:
            continue
        if entry.index <= last:
            if log.term_at(entry.index) == entry.term:
                continue
            _refuse_to_undo(entry.index, entry.term, log, commit_index)
        before = entry.index - 1
        return Delivery(before, log.term_at(before), append.entries[position:], commit, verified + 1)
    return Delivery(last, log.term_at(last), (), commit, verified + 1)


def _refuse_to_undo(index: int, term: int, log: LogView, commit_index: int) -> None:
    if index <= commit_index:
        raise InvariantViolated(
            f"a leader's entry {index} is of term {term}, but entry {index} of term {log.term_at(index)} is "
            f"committed here (commit index {commit_index}); stop this node and compare the logs"
        )


def _conflict_hint(log: LogView, prev_index: int, commit_index: int) -> int:
    """Defect 25: skip the whole term that does not fit (Ongaro and Ousterhout 2014, end of section 5.3).

    PySyncObj goes back one entry per round trip. Anything at or below the right answer is safe: the
    leader checks again from there, and what is committed here fits in any case.
    """
    return max(log.first_index_of_term(log.term_at(prev_index)), commit_index + 1)


class Ballot:
    """Defect 3: PySyncObj counts votes without looking at who sent them.

    A majority means something only among distinct voters: two majorities then share a voter, who
    votes once per term (section 5.2), so a term has one leader at most. Duplicated and replayed
    votes are found by remembering who voted in the term; there are few voters, so the memory is small.
    """

    def __init__(self) -> None:
        self._term = -1
        self._voters: set[int] = set()

    def admit(self, term: int, voter: int) -> bool:
        """Whether this is the first vote of ``voter`` in ``term``."""
        if term != self._term:
            self._term = term
            self._voters.clear()
        if voter in self._voters:
            return False
        self._voters.add(voter)
        return True


class Reign:
    """Defect 22: one leader per term; who has led in it stays the only one who may speak as its leader.

    PySyncObj obeys anyone who sends an append in its term, even while it leads in that very term.
    Election Safety says that a second leader cannot exist, so its words are not Raft's: they are
    dropped and counted, and this node follows the first.
    """

    def __init__(self) -> None:
        self._term = -1
        self._leader = -1

    def admit(self, term: int, leader: int) -> bool:
        """Whether ``leader`` may lead in ``term``. The first who is asked about may."""
        if term > self._term:
            self._term, self._leader = term, leader
        return term == self._term and leader == self._leader
