"""Sequence numbers, and which of them are resolved."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp.client.session import Session, Ticket
from mcp.errors import InvalidArgument


@given(st.data(), st.integers(1, 40))
def test_everything_below_ack_is_resolved_and_ack_itself_is_not(data: st.DataObject, window: int) -> None:
    """For any order in which commands are sent and resolved, against a set that remembers everything."""
    session = Session("s", window_max=window)
    open_now: list[Ticket] = []
    given_out: list[int] = []
    resolved: set[int] = set()
    for _ in range(data.draw(st.integers(0, 80))):
        if session.has_room and (not open_now or data.draw(st.booleans())):
            ticket = session.allocate()
            given_out.append(ticket.seq)
            open_now.append(ticket)
        elif open_now:
            ticket = open_now.pop(data.draw(st.integers(0, len(open_now) - 1)))
            ticket.resolve()
            resolved.add(ticket.seq)
        assert all(seq in resolved for seq in range(1, session.ack))
        assert session.ack not in resolved
        assert session.in_flight == len(open_now)
        span = len(given_out) + 1 - session.ack
        assert span <= window
        assert session.has_room is (span < window)
        for ticket in open_now:
            assert ticket.header() == {"session": "s", "seq": ticket.seq, "ack": session.ack}
            assert session.ack <= ticket.seq
    assert given_out == list(range(1, len(given_out) + 1))


def test_one_unresolved_command_holds_the_window_back() -> None:
    session = Session("s", window_max=3)
    first, *rest = [session.allocate() for _ in range(3)]
    for ticket in rest:
        ticket.resolve()
    assert not session.has_room
    with pytest.raises(RuntimeError):
        session.allocate()
    first.resolve()
    assert session.ack == 4
    assert session.has_room


def test_resolving_twice_or_what_was_never_given_out_changes_nothing() -> None:
    session = Session("s")
    ticket = session.allocate()
    ticket.resolve()
    ticket.resolve()
    session.resolve(99)
    session.resolve(-1)
    assert (session.ack, session.in_flight) == (2, 0)


@pytest.mark.parametrize(("first", "window"), [(0, 1), (1, 0)])
def test_a_session_needs_room_and_numbers_from_one(first: int, window: int) -> None:
    with pytest.raises(InvalidArgument):
        Session("s", first_seq=first, window_max=window)


@given(st.lists(st.tuples(st.integers(1, 6), st.booleans()), max_size=12), st.randoms())
def test_numbers_in_a_row_are_given_out_and_resolved_as_one_by_one(
    runs: list[tuple[int, bool]], random: Random
) -> None:
    many, single = Session("s", window_max=20), Session("s", window_max=20)
    given_out: list[tuple[int, int]] = []
    for count, resolves in runs:
        if count <= many.room:
            first = many.allocate_many(count)
            assert [single.allocate().seq for _ in range(count)] == list(range(first, first + count))
            given_out.append((first, count))
        if resolves and given_out:
            start, length = given_out.pop(random.randrange(len(given_out)))
            many.resolve_many(start, length)
            for seq in range(start, start + length):
                single.resolve(seq)
        assert (many.ack, many.in_flight, many.room) == (single.ack, single.in_flight, single.room)
        assert many.has_room == (many.room > 0)
    with pytest.raises(RuntimeError, match="no room"):
        many.allocate_many(21)
