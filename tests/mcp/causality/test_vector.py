"""The laws of version vectors, and their order against a brute-force happens-before relation."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp.causality.vector import COUNT_MAX, Order, VersionVector
from mcp.errors import InvalidArgument

NAMES = st.sampled_from(["a", "b", "c", "log"])
MAPPINGS = st.dictionaries(NAMES, st.integers(0, 3))
VECTORS = MAPPINGS.map(VersionVector.from_mapping)
OPPOSITE = {
    Order.BEFORE: Order.AFTER,
    Order.AFTER: Order.BEFORE,
    Order.EQUAL: Order.EQUAL,
    Order.CONCURRENT: Order.CONCURRENT,
}


@given(VECTORS, VECTORS, VECTORS)
def test_merge_is_the_least_upper_bound(a: VersionVector, b: VersionVector, c: VersionVector) -> None:
    assert a.merge(b) == b.merge(a)
    assert a.merge(b).merge(c) == a.merge(b.merge(c))
    assert a.merge(a) == a
    assert a.merge(VersionVector()) == a
    assert a.merge(b).dominates(a)
    if c.dominates(a) and c.dominates(b):
        assert c.dominates(a.merge(b))


@given(VECTORS, VECTORS, VECTORS)
def test_dominates_is_a_partial_order(a: VersionVector, b: VersionVector, c: VersionVector) -> None:
    assert a.dominates(a)
    if a.dominates(b) and b.dominates(a):
        assert a == b
        assert hash(a) == hash(b)
    if a.dominates(b) and b.dominates(c):
        assert a.dominates(c)


@given(VECTORS, VECTORS)
def test_compare_says_what_dominates_says(a: VersionVector, b: VersionVector) -> None:
    expected = {
        (True, True): Order.EQUAL,
        (True, False): Order.AFTER,
        (False, True): Order.BEFORE,
        (False, False): Order.CONCURRENT,
    }[a.dominates(b), b.dominates(a)]
    assert a.compare(b) is expected
    assert b.compare(a) is OPPOSITE[expected]


@given(MAPPINGS, NAMES)
def test_increment_moves_one_component_and_leaves_the_old_vector(counts: dict[str, int], name: str) -> None:
    vector = VersionVector.from_mapping(counts)
    later = vector.increment(name)
    assert later.get(name) == counts.get(name, 0) + 1
    assert vector.compare(later) is Order.BEFORE
    assert vector == VersionVector.from_mapping(counts)
    assert {n: later.get(n) for n in counts if n != name} == {n: c for n, c in counts.items() if n != name}


@given(VECTORS, NAMES, st.integers(0, 5))
def test_advance_never_goes_back(vector: VersionVector, name: str, count: int) -> None:
    assert vector.advance(name, count).get(name) == max(vector.get(name), count)
    assert vector.advance(name, count).dominates(vector)


@given(MAPPINGS)
def test_a_mapping_round_trips_in_one_order(counts: dict[str, int]) -> None:
    vector = VersionVector.from_mapping(counts)
    written = vector.to_mapping()
    assert VersionVector.from_mapping(written) == vector
    assert list(written) == sorted(written) == list(vector)
    assert written == {n: c for n, c in counts.items() if c}
    assert len(vector) == len(written)
    assert bool(vector) is bool(written)


@pytest.mark.parametrize(
    "bad",
    [
        None,
        3,
        [("a", 1)],
        {1: 1},
        {"": 1},
        {"a": -1},
        {"a": True},
        {"a": 1.0},
        {"a": "1"},
        {"a": COUNT_MAX + 1},
        {"x" * 257: 1},
        {"\ud800": 1},
    ],
)
def test_what_is_no_vector_is_refused(bad: Any) -> None:
    with pytest.raises(InvalidArgument):
        VersionVector.from_mapping(bad)


def test_components_are_limited() -> None:
    counts = {"a": 1, "b": 0, "c": 1}
    assert len(VersionVector.from_mapping(counts, components_max=3)) == 2
    with pytest.raises(InvalidArgument, match="components_max=2"):
        VersionVector.from_mapping(counts, components_max=2)


def test_the_last_count_is_the_last() -> None:
    full = VersionVector.from_mapping({"a": COUNT_MAX})
    with pytest.raises(InvalidArgument):
        full.increment("a")


def test_a_vector_is_no_mapping() -> None:
    assert VersionVector() != {}
    assert repr(VersionVector().increment("b").increment("a")) == "VersionVector({'a': 1, 'b': 1})"


PROCESSES = ("p", "q", "r")
STEPS = st.lists(
    st.tuples(st.sampled_from(PROCESSES), st.one_of(st.none(), st.integers(0, 100))), min_size=1, max_size=14
)


@given(STEPS)
def test_the_order_is_happens_before(steps: list[tuple[str, int | None]]) -> None:
    """Every event may receive what an earlier event sent; Fidge and Mattern's clock against the relation."""
    clock = {process: VersionVector() for process in PROCESSES}
    taken: list[VersionVector] = []
    past: list[set[int]] = []  # past[i]: the events that happened before i, by Lamport's three rules
    last: dict[str, int] = {}
    for number, (process, receives) in enumerate(steps):
        causes = {last[process]} if process in last else set()
        vector = clock[process]
        if receives is not None and taken:
            sent = receives % len(taken)
            causes.add(sent)
            vector = vector.merge(taken[sent])
        clock[process] = vector.increment(process)
        taken.append(clock[process])
        past.append(causes.union(*(past[cause] for cause in causes)))
        last[process] = number
    for i, one in enumerate(taken):
        for j, other in enumerate(taken):
            expected = (
                Order.EQUAL
                if i == j
                else Order.BEFORE
                if i in past[j]
                else Order.AFTER
                if j in past[i]
                else Order.CONCURRENT
            )
            assert one.compare(other) is expected
