"""Every proposal resolves, and what is said about it is true."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consensus.errors import Busy, EntryTooLarge
from consensus.proposals import Proposals


def table(**limits: int) -> Proposals:
    return Proposals(b"12345678", **({"pending_max": 4, "command_bytes_max": 8} | limits))


def test_a_waiting_proposal_expires_as_never_sent() -> None:
    proposals = table()
    proposals.add(b"a", 5.0, None)
    assert proposals.expired(4.9) == []
    (gone,) = proposals.expired(5.0)
    assert not gone.maybe_logged
    assert len(proposals) == 0


def test_a_sent_proposal_expires_as_maybe_logged() -> None:
    proposals = table()
    proposals.add(b"a", 5.0, None)
    proposals.take_waiting(1.0)
    (gone,) = proposals.expired(6.0)
    assert gone.maybe_logged


def test_an_explicit_refusal_of_the_only_attempt_makes_it_unsent_again() -> None:
    proposals = table()
    added = proposals.add(b"a", 5.0, None)
    attempt, _ = proposals.take_waiting(1.0)
    assert proposals.not_appended(attempt, [added.request_id]) == [added]
    assert not added.maybe_logged
    assert proposals.waiting == 1


def test_a_late_refusal_of_an_earlier_attempt_proves_nothing_about_a_later_one() -> None:
    proposals = table()
    added = proposals.add(b"a", 5.0, None)
    first, _ = proposals.take_waiting(1.0)
    proposals.wait_again()
    proposals.take_waiting(2.0)
    assert proposals.not_appended(first, [added.request_id]) == []
    assert added.maybe_logged


def test_a_refusal_after_an_unanswered_attempt_leaves_it_maybe_logged() -> None:
    proposals = table()
    added = proposals.add(b"a", 5.0, None)
    proposals.take_waiting(1.0)
    proposals.wait_again()
    second, _ = proposals.take_waiting(2.0)
    proposals.not_appended(second, [added.request_id])
    assert added.maybe_logged


def test_limits_refuse_without_keeping_anything() -> None:
    proposals = table(pending_max=1)
    with pytest.raises(EntryTooLarge, match="command_bytes_max=8"):
        proposals.add(b"x" * 9, 1.0, None)
    proposals.add(b"a", 1.0, None)
    with pytest.raises(Busy, match="pending_max=1"):
        proposals.add(b"b", 1.0, None)
    assert len(proposals) == 1


def test_the_order_of_proposing_survives_being_sent_again() -> None:
    proposals = table()
    for command in (b"a", b"b", b"c"):
        proposals.add(command, 9.0, None)
    proposals.take_waiting(0.0)
    proposals.add(b"d", 9.0, None)
    proposals.wait_again()
    _, taken = proposals.take_waiting(1.0)
    assert [p.command for p in taken] == [b"a", b"b", b"c", b"d"]


@given(st.lists(st.sampled_from(["add", "take", "again", "refuse", "resolve", "expire"]), max_size=60))
def test_no_proposal_is_lost_or_resolved_twice(steps: list[str]) -> None:
    proposals = table(pending_max=1000)
    open_ids: set[bytes] = set()
    attempt, now = 0, 0.0
    for step in steps:
        now += 1.0
        if step == "add":
            open_ids.add(proposals.add(b"x", now + 5.0, None).request_id)
        elif step == "take":
            attempt, _ = proposals.take_waiting(now)
        elif step == "again":
            proposals.wait_again()
        elif step == "refuse":
            proposals.not_appended(attempt, sorted(open_ids)[:2])
        elif step == "resolve" and open_ids:
            request_id = min(open_ids)
            assert proposals.resolve(request_id) is not None
            assert proposals.resolve(request_id) is None
            open_ids.discard(request_id)
        elif step == "expire":
            for gone in proposals.expired(now):
                open_ids.remove(gone.request_id)
        assert len(proposals) == len(open_ids)
    assert {p.request_id for p in proposals.drain()} == open_ids
