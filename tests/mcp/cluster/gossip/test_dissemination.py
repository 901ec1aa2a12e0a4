"""What is told next, how often, and what is not told any more."""

from __future__ import annotations

import msgpack

from mcp.cluster.gossip.codec import encode_load, encode_update
from mcp.cluster.gossip.dissemination import LOAD_TRANSMISSIONS, Dissemination, LoadRelay
from mcp.cluster.gossip.updates import Alive, Dead, Left, LoadUpdate, Suspect, Update

CARD = msgpack.packb({"a": 1})


def queue(*updates: Update) -> Dissemination:
    made = Dissemination()
    for update in updates:
        made.add(update)
    return made


def taken(made: Dissemination, room: int = 10_000, transmissions: int = 100) -> list[bytes]:
    return made.take(room, transmissions)


def test_an_update_is_sent_as_often_as_it_should_be() -> None:
    made = queue(Left("a", 1))
    assert [len(taken(made, transmissions=3)) for _ in range(5)] == [1, 1, 1, 0, 0]
    assert not made


def test_what_was_sent_least_goes_first_and_then_the_latest() -> None:
    a, b, c = Left("a", 1), Left("b", 1), Left("c", 1)
    made = queue(a)
    one = len(encode_update(a))
    assert taken(made, one) == [encode_update(a)]
    made.add(b)
    made.add(c)
    assert [taken(made, one) for _ in range(3)] == [[encode_update(u)] for u in (c, b, c)]


def test_a_large_update_does_not_hold_up_a_small_one() -> None:
    small, large = Left("a", 1), Alive("b", 1, "b:1", 1, msgpack.packb({"a": "x" * 100}))
    made = queue(small, large)
    assert taken(made, 50) == [encode_update(small)]


def test_what_is_on_board_already_is_not_sent_twice() -> None:
    update = Suspect("a", 1, "b")
    made = queue(update)
    assert made.take(1000, 10, [encode_update(update)]) == []
    assert len(made) == 1


def test_a_later_state_ends_what_it_overrides() -> None:
    with_card = Alive("a", 1, "a:1", 1, CARD)
    made = queue(with_card, Suspect("a", 1, "b"), Suspect("a", 1, "c"), Left("z", 1))
    assert len(made) == 4
    made.add(Alive("a", 2, "a:1", 1))
    # The card is still news to somebody.
    left = [Alive("a", 2, "a:1", 1), Left("z", 1), with_card]
    assert taken(made) == list(map(encode_update, left))
    made.add(Dead("a", 2, "b"))
    assert taken(made) == list(map(encode_update, [Dead("a", 2, "b"), Left("z", 1)]))


def test_a_new_card_does_not_end_a_suspicion_of_the_same_incarnation() -> None:
    made = queue(Suspect("a", 1, "b"), Alive("a", 1, "a:1", 2, CARD))
    assert len(made) == 2
    made.add(Alive("a", 2, "a:1", 2, CARD))
    assert len(made) == 1


def test_a_suspicion_ends_the_state_before_it() -> None:
    made = queue(Alive("a", 1, "a:1", 1), Suspect("a", 1, "b"))
    assert taken(made) == [encode_update(Suspect("a", 1, "b"))]


def test_what_is_said_of_a_member_can_be_dropped() -> None:
    made = queue(Alive("a", 1, "a:1", 1, CARD), Suspect("a", 1, "b"), Left("z", 1))
    made.forget("a")
    assert taken(made) == [encode_update(Left("z", 1))]


def test_loads_are_passed_on_a_few_times_and_not_to_their_owner() -> None:
    relay = LoadRelay()
    old, new, other = (LoadUpdate(n, 1, s, CARD) for n, s in (("a", 1), ("a", 2), ("b", 1)))
    for load in (old, new, other):
        relay.add(load)
    assert relay.take(1000, "b") == [encode_load(new)]
    assert relay.take(1000, "") == [encode_load(other), encode_load(new)]
    assert relay.take(1000, "") == [encode_load(other)]
    assert LOAD_TRANSMISSIONS == 2
    assert not relay
    relay.add(new)
    assert relay.take(3, "") == []
    relay.forget("a")
    assert not relay
