"""The causal buffer against the relation itself: every message after everything that its sender had seen."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp.causality.buffer import CausalBuffer
from mcp.causality.vector import VersionVector
from mcp.errors import Busy, InvalidArgument

Sent = tuple[str, VersionVector, int]
SENDERS = ("p", "q", "r")


@st.composite
def executions(draw: st.DrawFn, size: int = 10) -> tuple[list[Sent], list[set[int]]]:
    """Messages in the order of sending, and for each the set of those that happened before it.

    Before it sends, a process takes delivery of an earlier message together with that message's past.
    """
    sent: list[Sent] = []
    past: list[set[int]] = []
    known: dict[str, set[int]] = {sender: set() for sender in SENDERS}
    for number in range(draw(st.integers(1, size))):
        sender = draw(st.sampled_from(SENDERS))
        if sent and draw(st.booleans()):
            received = draw(st.integers(0, len(sent) - 1))
            known[sender] |= {received} | past[received]
        past.append(set(known[sender]))
        known[sender].add(number)
        vector = VersionVector()
        for seen in known[sender]:
            vector = vector.increment(sent[seen][0] if seen != number else sender)
        sent.append((sender, vector, number))
    return sent, past


@given(executions(), st.data())
def test_every_arrival_order_is_delivered_in_causal_order(
    execution: tuple[list[Sent], list[set[int]]], data: st.DataObject
) -> None:
    sent, past = execution
    again = data.draw(st.lists(st.sampled_from(sent), max_size=4))
    arrivals = data.draw(st.permutations(sent + again))
    buffer: CausalBuffer[int] = CausalBuffer(held_max=len(sent))
    delivered: list[int] = []
    for sender, vector, number in arrivals:
        for message in buffer.add(sender, vector, number):
            assert past[message] <= set(delivered)
            delivered.append(message)
        arrived = {n for _, _, n in arrivals[: arrivals.index((sender, vector, number)) + 1]} | set(delivered)
        assert all(n in delivered for n in arrived if past[n] <= set(delivered)), "held without need"
    assert sorted(delivered) == list(range(len(sent)))
    assert buffer.held == 0
    assert buffer.duplicates == len(again)
    assert buffer.delivered.to_mapping() == {
        s: sum(1 for sender, _, _ in sent if sender == s) for s in sorted({sender for sender, _, _ in sent})
    }


def test_all_arrivals_of_a_small_execution() -> None:
    first = VersionVector().increment("p")
    answer = first.increment("q")
    second = first.increment("p")
    closing = second.merge(answer).increment("r")
    sent = [("p", first), ("q", answer), ("p", second), ("r", closing)]
    orders = set()
    for arrivals in itertools.permutations(sent):
        buffer: CausalBuffer[VersionVector] = CausalBuffer()
        orders.add(tuple(v for sender, vector in arrivals for v in buffer.add(sender, vector, vector)))
    assert orders == {(first, answer, second, closing), (first, second, answer, closing)}


@given(executions(), st.integers(0, 2), st.data())
def test_a_full_buffer_refuses_and_loses_nothing(
    execution: tuple[list[Sent], list[set[int]]], held_max: int, data: st.DataObject
) -> None:
    sent, _ = execution
    buffer: CausalBuffer[int] = CausalBuffer(held_max=held_max)
    pending: list[Sent] = list(data.draw(st.permutations(sent)))
    delivered: list[int] = []
    while pending:
        refused = []
        for sender, vector, number in pending:
            held = buffer.held
            try:
                delivered += buffer.add(sender, vector, number)
            except Busy:
                assert buffer.held == held == held_max
                refused.append((sender, vector, number))
        assert len(refused) < len(pending), "sending again must make progress"
        pending = refused
    assert sorted(delivered) == list(range(len(sent)))


@given(executions(), st.data())
def test_a_buffer_resumes_from_what_was_delivered(
    execution: tuple[list[Sent], list[set[int]]], data: st.DataObject
) -> None:
    sent, _ = execution
    cut = data.draw(st.integers(0, len(sent)))
    first: CausalBuffer[int] = CausalBuffer()
    before = [m for sender, vector, number in sent[:cut] for m in first.add(sender, vector, number)]
    second: CausalBuffer[int] = CausalBuffer(delivered=first.delivered)
    after = [m for sender, vector, number in sent for m in second.add(sender, vector, number)]
    assert before + after == list(range(len(sent)))
    assert second.duplicates == cut


def test_a_message_that_does_not_count_itself_is_refused() -> None:
    buffer: CausalBuffer[str] = CausalBuffer()
    with pytest.raises(InvalidArgument, match="does not count the message itself"):
        buffer.add("p", VersionVector().increment("q"), "m")


def test_senders_are_limited() -> None:
    buffer: CausalBuffer[str] = CausalBuffer(senders_max=1)
    assert buffer.add("p", VersionVector().increment("p"), "m") == ["m"]
    with pytest.raises(Busy, match="senders_max=1"):
        buffer.add("q", VersionVector().increment("q"), "n")
    assert buffer.add("p", VersionVector.from_mapping({"p": 2}), "o") == ["o"]


def test_limits_that_make_no_sense_are_refused() -> None:
    with pytest.raises(InvalidArgument):
        CausalBuffer(held_max=-1)
    with pytest.raises(InvalidArgument):
        CausalBuffer(senders_max=0)


def test_the_senders_of_waiting_messages_count() -> None:
    buffer: CausalBuffer[str] = CausalBuffer(senders_max=1)
    assert buffer.add("p", VersionVector.from_mapping({"p": 2}), "second") == []
    with pytest.raises(Busy, match="senders_max=1"):
        buffer.add("q", VersionVector().increment("q"), "other")
    assert buffer.add("p", VersionVector().increment("p"), "first") == ["first", "second"]
