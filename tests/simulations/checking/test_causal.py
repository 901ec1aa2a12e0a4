from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcp.causality.buffer import CausalBuffer
from mcp.causality.vector import VersionVector
from simulations.checking.causal import check_causal
from simulations.checking.history import History
from simulations.checking.operations import Deliver, Done, Failed, Ok, Outcome, Send, Unknown

Row = tuple[str, Send | Deliver] | tuple[str, Send | Deliver, Outcome]


def told(*rows: Row) -> History:
    history = History()
    for at, (process, call, *outcome) in enumerate(rows):
        history.record(process, call, outcome[0] if outcome else Ok(Done()), float(at))
    return history


BROKEN: dict[str, tuple[str, list[Row]]] = {
    "an answer before its question": (
        "before 'question'",
        [
            ("a", Send("question")),
            ("b", Deliver("question")),
            ("b", Send("answer")),
            ("c", Deliver("answer")),
            ("c", Deliver("question")),
        ],
    ),
    "one sender's messages out of order": (
        "before '1'",
        [("a", Send("1")), ("a", Send("2")), ("b", Deliver("2")), ("b", Deliver("1"))],
    ),
    "a cause over three hops is missing": (
        "before '1'",
        [
            ("a", Send("1")),
            ("b", Deliver("1")),
            ("b", Send("2", ("c",))),
            ("c", Deliver("1")),
            ("c", Deliver("2")),
            ("c", Send("3")),
            ("d", Deliver("3")),
        ],
    ),
    "a cause of which the sender was never told itself": (
        "before '1'",
        [
            ("a", Send("1", ("c",))),
            ("a", Send("2", ("b",))),
            ("b", Deliver("2")),
            ("b", Send("3")),
            ("c", Deliver("3")),
            ("c", Deliver("1")),
        ],
    ),
    "twice": ("twice", [("a", Send("1")), ("b", Deliver("1")), ("b", Deliver("1"))]),
    "from nowhere": ("had not been sent", [("b", Deliver("1"))]),
    "before it was sent": ("had not been sent", [("b", Deliver("1")), ("a", Send("1"))]),
    "for somebody else": ("is for others", [("a", Send("1", ("c",))), ("b", Deliver("1"))]),
    "what had failed": ("had failed", [("a", Send("1"), Failed()), ("b", Deliver("1"))]),
    "one id for two": ("sent twice", [("a", Send("1")), ("b", Send("1"))]),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_delivery_out_of_turn_is_told(name: str) -> None:
    what, rows = BROKEN[name]
    found = check_causal(told(*rows))
    assert not found.ok
    assert any(what in violation.what for violation in found.violations), found
    assert all(violation.story for violation in found.violations)


SOUND: dict[str, list[Row]] = {
    "concurrent messages in either order": [
        ("a", Send("1")),
        ("b", Send("2")),
        ("c", Deliver("1")),
        ("c", Deliver("2")),
        ("d", Deliver("2")),
        ("d", Deliver("1")),
        ("a", Deliver("2")),
        ("b", Deliver("1")),
    ],
    "a cause that is for others": [
        ("a", Send("1", ("b",))),
        ("a", Send("2")),
        ("c", Deliver("2")),
        ("c", Send("3")),
        ("b", Deliver("1")),
        ("b", Deliver("2")),
        ("b", Deliver("3")),
    ],
    "an unknown message arrives all the same": [("a", Send("1"), Unknown()), ("b", Deliver("1"))],
    "a failed message is nobody's cause": [
        ("a", Send("1"), Failed()),
        ("a", Send("2")),
        ("b", Deliver("2")),
    ],
    "one's own message": [("a", Send("1")), ("a", Deliver("1")), ("a", Send("2")), ("b", Deliver("1"))],
}


@pytest.mark.parametrize("name", SOUND)
def test_deliveries_that_respect_their_causes_pass(name: str) -> None:
    assert check_causal(told(*SOUND[name])).ok


def test_what_never_arrives_is_told_once_the_run_has_come_to_rest() -> None:
    history = told(
        ("a", Send("1")), ("a", Send("2"), Unknown()), ("b", Deliver("1")), ("c", Send("3", ("a",)))
    )
    assert check_causal(history).ok
    found = check_causal(history, settled=True)
    assert {v.what for v in found.violations} == {
        "message '1' was never delivered to c",
        "message '3' was never delivered to a",
    }


# -- the product's buffer -------------------------------------------------------------------------------


def broadcast(seed: int, size: int, processes: Sequence[str], causal: bool) -> History:
    """Processes that broadcast over a network which reorders and duplicates, with the buffer or without."""
    chance, history = random.Random(seed), History()
    buffers = {name: CausalBuffer[str]() for name in processes}
    wires: list[tuple[str, str, VersionVector, str]] = []
    at = 0.0
    while size or wires:
        at += 1
        if size and (not wires or chance.random() < 0.4):
            size -= 1
            sender, message = chance.choice(processes), f"m{size}"
            vector = buffers[sender].delivered.increment(sender)
            history.record(sender, Send(message), Ok(Done()), at)
            buffers[sender].add(sender, vector, message)
            wires += [(other, sender, vector, message) for other in processes if other != sender]
            continue
        place = chance.randrange(len(wires))
        receiver, sender, vector, message = wires[place]
        if chance.random() < 0.8:
            wires.pop(place)
        ready = buffers[receiver].add(sender, vector, message) if causal else [message]
        for delivered in ready:
            history.record(receiver, Deliver(delivered), Ok(Done()), at)
    return history


@settings(deadline=None, max_examples=100)
@given(st.integers(0, 2**32), st.integers(0, 15))
def test_the_products_buffer_delivers_everything_in_causal_order(seed: int, size: int) -> None:
    found = check_causal(broadcast(seed, size, "abcd", causal=True), settled=True)
    assert found.ok, found
    assert found.checked == 3 * size


def test_without_the_buffer_the_network_is_found_out() -> None:
    assert not any(check_causal(broadcast(seed, 15, "abcd", causal=False)).ok for seed in range(20))


def happened_before(history: History) -> set[tuple[str, str]]:
    """Pairs of messages, the causally earlier first: the closure of Lamport's relation, taken literally."""
    events = list(history)
    order = {
        (i, j)
        for j, later in enumerate(events)
        for i, earlier in enumerate(events[:j])
        if earlier.process == later.process
        or (isinstance(earlier.call, Send) and later.call == Deliver(earlier.call.message))
    }
    while longer := {(i, k) for i, j in order for j2, k in order if j == j2} - order:
        order |= longer
    sends = {n: e.call.message for n, e in enumerate(events) if isinstance(e.call, Send)}
    return {(sends[i], sends[j]) for i, j in order if i in sends and j in sends}


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32), st.integers(2, 5))
def test_the_oracle_agrees_with_lamports_relation(seed: int, size: int) -> None:
    history = broadcast(seed, size, "abc", causal=False)
    before = happened_before(history)
    handed: dict[str, list[str]] = {name: [] for name in "abc"}
    legal = True
    for operation in history:
        assert isinstance(operation.call, Send | Deliver)
        message, known = operation.call.message, handed[operation.process]
        if isinstance(operation.call, Deliver):
            legal = legal and message not in known
            legal = legal and all(cause in known for cause, effect in before if effect == message)
        known.append(message)
    assert check_causal(history).ok is legal
