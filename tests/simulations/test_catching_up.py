"""The rule about new voters: shown cases that keep it, and cases that break it."""

from __future__ import annotations

import pytest

from consensus.configuration import Configuration, Member
from consensus.interface import Entry, EntryKind, HardState, Recovered
from simulations.catching_up import CaughtUpFirst
from simulations.invariants import Violation
from simulations.shadow import Disks

BEFORE = Configuration.of([Member("a", 1, ""), Member("b", 2, "", votes=False)])
AFTER = Configuration.of([Member("a", 1, ""), Member("b", 2, "")])


def disks(entries: int, incarnation: int = 2) -> Disks:
    """Of ``b``, which has so many entries."""
    found = Disks(["a", "b"])
    held = [Entry(i, 1, EntryKind.COMMAND, b"") for i in range(1, entries + 1)]
    found.restarted("b", Recovered(HardState(1, None), None, held, incarnation=incarnation))
    return found


@pytest.mark.parametrize(("entries", "index"), [(9, 10), (4, 10)])
def test_a_voter_that_has_nearly_everything_may_vote(entries: int, index: int) -> None:
    rule = CaughtUpFirst(disks(entries), 5)
    rule.follows(index, 1, BEFORE, AFTER)
    assert rule.promoted == 1


def test_a_voter_that_lacks_more_may_not() -> None:
    with pytest.raises(Violation, match="caught up first: b votes from entry 10 on and has 3 entries"):
        CaughtUpFirst(disks(3), 5).follows(10, 1, BEFORE, AFTER)


def test_what_the_others_learn_of_it_later_says_nothing() -> None:
    rule = CaughtUpFirst(disks(9), 5)
    rule.follows(10, 1, BEFORE, AFTER)
    rule._disks.was_emptied("b")
    rule.follows(10, 1, BEFORE, AFTER)
    assert rule.promoted == 1


def test_a_disk_that_was_lost_since_is_another_server() -> None:
    CaughtUpFirst(disks(0, incarnation=7), 5).follows(10, 1, BEFORE, AFTER)


def test_who_votes_already_or_does_not_is_not_looked_at() -> None:
    rule = CaughtUpFirst(disks(0), 5)
    rule.follows(10, 1, AFTER, BEFORE)
    rule.follows(11, 1, AFTER, AFTER)
    assert rule.promoted == 0
