"""Counted latencies against the latencies themselves."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp.cluster.rollout.figures import Figures
from mcp.cluster.rollout.latency import BUCKETS_MAX, LEAST_S, Latencies, upper_s
from mcp.errors import InvalidArgument

FACTOR = 2 ** (1 / 8)
SECONDS = st.lists(st.floats(LEAST_S, 1000.0), min_size=1, max_size=60)


def counted(seconds: list[float]) -> Latencies:
    latencies = Latencies()
    for each in seconds:
        latencies.add(each)
    return latencies


@given(SECONDS, st.floats(0.01, 1.0))
def test_a_quantile_is_at_most_a_bucket_above_the_true_one(seconds: list[float], share: float) -> None:
    true = sorted(seconds)[math.ceil(share * len(seconds)) - 1]
    assert true * (1 - 1e-9) <= counted(seconds).quantile_s(share) <= true * FACTOR * (1 + 1e-9)


@given(SECONDS, st.floats(LEAST_S, 1000.0))
def test_what_is_above_is_never_overstated_and_by_a_bucket_understated(
    seconds: list[float], limit: float
) -> None:
    found = counted(seconds).above(limit)
    assert sum(each > limit * FACTOR * (1 + 1e-9) for each in seconds) <= found
    assert found <= sum(each > limit * (1 - 1e-9) for each in seconds)


@given(SECONDS, SECONDS)
def test_counts_add_up_and_come_back(one: list[float], other: list[float]) -> None:
    both = counted(one)
    both.merge(counted(other))
    assert both.to_plain() == counted(one + other).to_plain()
    again = Latencies.from_plain(both.to_plain())
    assert (again.to_plain(), again.count) == (both.to_plain(), len(one + other))


def test_memory_is_bounded_whatever_comes() -> None:
    latencies = counted([0.0, -1.0, 1e-300, *(10.0**n for n in range(-9, 300)), math.inf, math.nan])
    assert len(latencies.to_plain()) <= BUCKETS_MAX
    assert latencies.quantile_s(1.0) == upper_s(BUCKETS_MAX - 1)
    assert Latencies().quantile_s(0.99) == 0.0


@pytest.mark.parametrize(
    "plain",
    [
        *(None, 3, {}, [1], [[1]], [[1, 2, 3]], [[-1, 1]], [[BUCKETS_MAX, 1]], [[0, -1]], [[0, 1.0]]),
        *([[0, True]], [[0, 2**63]], [[0, 1]] * (BUCKETS_MAX + 1)),
    ],
)
def test_what_is_no_count_is_refused(plain: object) -> None:
    with pytest.raises(InvalidArgument):
        Latencies.from_plain(plain)
    with pytest.raises(InvalidArgument):
        Figures.from_plain({"requests": 1, "failures": 0, "latencies": plain})


@pytest.mark.parametrize(
    "plain",
    [None, [], {}, {"requests": -1}, {"requests": 1, "failures": 2}, {"requests": 1, "failures": None}],
)
def test_what_are_no_figures_is_refused(plain: object) -> None:
    with pytest.raises(InvalidArgument):
        Figures.from_plain({**plain, "latencies": []} if isinstance(plain, dict) else plain)


def test_figures_add_up_and_come_back() -> None:
    one, other = Figures(), Figures()
    one.succeeded(0.5)
    one.failed()
    other.succeeded(0.25)
    one.merge(other)
    assert (one.requests, one.failures, one.latencies.count) == (3, 1, 2)
    assert Figures.from_plain(one.to_plain()).to_plain() == one.to_plain()
