"""The virtual clock, the heap, the streams of chance and the nodes' own clocks."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulations.world import STANDSTILL_EVENTS, WALL_EPOCH_S, Clock, Standstill, World


def test_events_happen_in_the_order_of_time_and_then_of_asking() -> None:
    world, seen = World(1), []
    world.at(2.0, seen.append, "c")
    world.at(1.0, seen.append, "a")
    world.at(1.0, seen.append, "b")
    world.run(3.0)
    assert (seen, world.now) == (["a", "b", "c"], 3.0)


def test_soon_is_now_and_before_what_comes_later() -> None:
    world, seen = World(1), []

    def first() -> None:
        world.soon(seen.append, ("soon", world.now))
        world.at(1.0, seen.append, ("heap", 1.0))

    world.at(1.0, first)
    world.run(1.0)
    assert seen == [("soon", 1.0), ("heap", 1.0)]


def test_what_is_due_later_stays() -> None:
    world, seen = World(1), []
    world.at(2.0, seen.append, "later")
    world.run(1.9)
    assert seen == []
    world.run(2.0)
    assert seen == ["later"]


@pytest.mark.parametrize("step_s", [0.0, 1e-9])
def test_an_endless_loop_is_found(step_s: float) -> None:
    world = World(1)

    def again() -> None:
        if step_s:
            world.after(step_s, again)
        else:
            world.soon(again)

    world.soon(again)
    with pytest.raises(Standstill, match="100000 events"):
        world.run(1.0)


def test_many_events_in_enough_time_are_none() -> None:
    world = World(1)
    for number in range(2 * STANDSTILL_EVENTS):
        world.at(1e-6 * number, int)
    world.run(1.0)
    assert world.events == 2 * STANDSTILL_EVENTS


def test_streams_depend_on_the_seed_and_the_name_alone() -> None:
    one, other = World(1), World(1)
    other.stream("else").random()
    assert one.stream("x").random() == other.stream("x").random()
    assert one.stream("x").random() != World(2).stream("x").random()
    assert one.stream("x").random() != one.stream("y").random()


def test_the_trace_hash_covers_what_is_told_and_traced() -> None:
    hashes = set()
    for told, traced in (("a", b"b"), ("a", b"c"), ("b", b"b")):
        world = World(1)
        world.tell("n1", told)
        world.trace(traced)
        hashes.add(world.trace_hash)
    assert len(hashes) == 3


@given(st.lists(st.tuples(st.sampled_from(["rate", "leap", "pass"]), st.floats(0.1, 10.0)), max_size=20))
def test_a_clock_never_goes_back_and_knows_when(steps: list[tuple[str, float]]) -> None:
    world = World(1)
    clock, before = Clock(world), 0.0
    for what, amount in steps:
        if what == "rate":
            clock.set_rate(amount)
        elif what == "leap":
            clock.leap(amount)
        else:
            world.run(world.now + amount)
        assert clock.now() >= before
        before = clock.now()
        ahead = clock.when(before + 1.0)
        assert abs((ahead - world.now) * clock.rate - 1.0) < 1e-6


def test_a_wall_clock_may_jump_and_the_monotonic_one_does_not_care() -> None:
    world = World(1)
    clock = Clock(world)
    clock.wall_offset_s = -500.0
    world.run(2.0)
    assert clock.now() == 2.0
    assert clock.wall() == WALL_EPOCH_S - 498.0
