from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import permutations

from hypothesis import given, settings
from hypothesis import strategies as st

from simulations.checking.search import Finding, Interval, Model, search

Call = tuple[str, int | None]


class Queue(Model[tuple[int, ...], Call]):
    """A first-in-first-out queue: ``("put", x)``, and ``("take", x)``, ``None`` for an empty one."""

    def initial(self) -> tuple[int, ...]:
        return ()

    def step(self, state: tuple[int, ...], call: Call) -> tuple[int, ...] | None:
        kind, value = call
        if kind == "put":
            assert value is not None
            return (*state, value)
        if not state:
            return () if value is None else None
        return state[1:] if state[0] == value else None


class Register(Model[int, Call]):
    """A register without versions, whose reads change nothing."""

    def initial(self) -> int:
        return 0

    def step(self, state: int, call: Call) -> int | None:
        kind, value = call
        assert value is not None
        if kind == "write":
            return value
        return state if state == value else None

    def reads(self, call: Call) -> bool:
        return call[0] == "read"


Row = tuple[int, int | None, Call]


def intervals(*rows: Row) -> list[Interval[Call]]:
    return [Interval(*row) for row in rows]


def finding(model: Model[tuple[int, ...], Call], *rows: Row) -> Finding:
    return search(intervals(*rows), model).finding


def test_queues_of_herlihy_and_wing() -> None:
    """The kind of examples that their paper begins with."""
    x, y = 1, 2
    overlapping: list[Row] = [
        (0, 3, ("put", x)),
        (1, 2, ("put", y)),
        (4, 7, ("take", y)),
        (5, 6, ("take", x)),
    ]
    assert finding(Queue(), *overlapping) is Finding.FOUND
    in_turn: list[Row] = [(0, 1, ("put", x)), (2, 3, ("put", y)), (4, 5, ("take", y))]
    assert finding(Queue(), *in_turn) is Finding.IMPOSSIBLE
    taken_twice: list[Row] = [(0, 5, ("put", x)), (1, 2, ("take", x)), (3, 4, ("take", x))]
    assert finding(Queue(), *taken_twice) is Finding.IMPOSSIBLE
    unanswered: list[Row] = [(0, None, ("put", x)), (2, 3, ("take", None)), (4, 5, ("take", x))]
    assert finding(Queue(), *unanswered) is Finding.FOUND


def test_the_first_completion_that_no_order_gets_past_is_told() -> None:
    rows: list[Row] = [(0, 1, ("put", 1)), (2, 3, ("take", 1)), (4, 5, ("take", 1)), (6, 7, ("put", 2))]
    result = search(intervals(*rows), Queue())
    assert (result.finding, result.stuck_at) == (Finding.IMPOSSIBLE, 5)


def test_the_bound_ends_the_search_without_a_verdict() -> None:
    rows: list[Row] = [(i, 100 + i, ("put", i)) for i in range(12)] + [(200, 201, ("take", 99))]
    result = search(intervals(*rows), Queue(), configurations_max=500)
    assert (result.finding, result.explored, result.order) == (Finding.BOUND, 500, ())
    assert search(intervals(*rows[:6], rows[-1]), Queue()).finding is Finding.IMPOSSIBLE


def test_many_equal_unanswered_operations_cost_one_choice_each() -> None:
    """Without the order among equals this would look at 2**40 configurations."""
    rows: list[Row] = [(i, None, ("write", 1)) for i in range(40)]
    rows += [(100, 101, ("write", 2)), (102, 103, ("read", 3))]
    result = search(intervals(*rows), Register())
    assert result.finding is Finding.IMPOSSIBLE
    assert result.explored < 500


def test_concurrent_reads_cost_no_choice() -> None:
    rows: list[Row] = [(i, 100 + i, ("read", 0)) for i in range(40)] + [(200, 201, ("read", 1))]
    assert search(intervals(*rows), Register()).explored < 5


def test_a_configuration_is_left_only_for_one_that_had_used_no_other() -> None:
    """Taking both writes first leads to the state that must be reached with one of them left."""
    rows: list[Row] = [(0, None, ("write", 1)), (1, None, ("write", 2))]
    rows += [(2, 3, ("read", 2)), (4, 5, ("read", 1))]
    assert search(intervals(*rows), Register()).finding is Finding.FOUND


def legal(model: Model[int, Call], rows: Sequence[Row], order: Sequence[int]) -> bool:
    state: int | None = model.initial()
    for number in order:
        if state is not None:
            state = model.step(state, rows[number][2])
    ends = [rows[number][1] for number in order]
    begins = [rows[number][0] for number in order]
    late = any(end is not None and end < begin for i, begin in enumerate(begins) for end in ends[i + 1 :])
    return state is not None and not late


def brute(model: Model[int, Call], rows: Sequence[Row]) -> bool:
    answered = {n for n, row in enumerate(rows) if row[1] is not None}
    return any(
        answered <= set(order) and legal(model, rows, order)
        for size in range(len(answered), len(rows) + 1)
        for order in permutations(range(len(rows)), size)
    )


def drawn(seed: int, size: int) -> list[Row]:
    chance = random.Random(seed)
    places = list(range(2 * size))
    chance.shuffle(places)
    rows: list[Row] = []
    for number in range(size):
        begin, end = sorted(places[2 * number : 2 * number + 2])
        call = chance.choice(["read", "write"]), chance.randrange(3)
        rows.append((begin, None if chance.random() < 0.4 else end, call))
    return rows


@settings(deadline=None, max_examples=300)
@given(st.integers(0, 2**32), st.integers(0, 5))
def test_a_register_without_versions_is_judged_as_by_all_permutations(seed: int, size: int) -> None:
    rows = drawn(seed, size)
    result = search(intervals(*rows), Register())
    assert (result.finding is Finding.FOUND) is brute(Register(), rows)
    if result.finding is Finding.FOUND:
        assert legal(Register(), rows, result.order)
        assert {n for n, row in enumerate(rows) if row[1] is not None} <= set(result.order)
