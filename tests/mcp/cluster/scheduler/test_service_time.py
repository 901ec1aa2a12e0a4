"""The estimator on data whose truth is known, and on data that has none."""

from __future__ import annotations

import math
from collections.abc import Callable
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp.cluster.scheduler.interface import SIZE_MAX
from mcp.cluster.scheduler.service_time import TIME_MAX_S, TIME_MIN_S, ServiceTime
from mcp.cluster.scheduler.service_times import ServiceTimes

sizes = st.floats(0, SIZE_MAX)
any_time = st.floats(allow_nan=True, allow_infinity=True)


def affine(base_s: float, slope_s: float) -> Callable[[float], float]:
    return lambda size: base_s + slope_s * size


def learn(
    time: ServiceTime | None, truth: Callable[[float], float], count: int, random: Random, noise: float = 0.1
) -> ServiceTime:
    for _ in range(count):
        size = 2.0 ** random.uniform(0, 7)
        took_s = truth(size) * random.lognormvariate(0, noise)
        if time is None:
            time = ServiceTime(size, took_s)
        else:
            time.measured(size, took_s)
    assert time is not None
    return time


def error(time: ServiceTime, truth: Callable[[float], float]) -> float:
    """The largest relative error over the sizes that occur."""
    return max(abs(time.at(size) / truth(size) - 1) for size in (1, 4, 16, 64, 128))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("truth", [affine(0.004, 0.001), affine(0.02, 0.00001), affine(0.0, 0.003)])
def test_an_affine_time_is_found(truth: Callable[[float], float], seed: int) -> None:
    time = learn(None, truth, 200, Random(seed))
    at_the_ends = [time.at(size) / truth(size) for size in (1, 128)]
    assert time.at(16) == pytest.approx(truth(16), rel=0.12)
    assert all(0.6 < ratio < 1.6 for ratio in at_the_ends), at_the_ends


def test_without_noise_it_is_found_exactly() -> None:
    truth = affine(0.004, 0.001)
    time = learn(None, truth, 300, Random(1), noise=0.0)
    assert error(time, truth) < 0.03


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("factor", [4.0, 0.25])
def test_a_change_is_followed_within_few_requests(seed: int, factor: float) -> None:
    random, truth = Random(seed), affine(0.004, 0.001)
    time = learn(None, truth, 100, random)
    changed = affine(0.004 * factor, 0.001 * factor)
    learn(time, changed, 4, random)
    assert time.at(16) == pytest.approx(changed(16), rel=0.35)
    learn(time, changed, 10, random)
    assert time.at(16) == pytest.approx(changed(16), rel=0.2)


def test_a_change_scales_the_whole_line() -> None:
    truth, changed = affine(0.004, 0.001), affine(0.016, 0.004)
    time = learn(None, truth, 300, Random(1), noise=0.0)
    for _ in range(3):
        time.measured(16, changed(16))
    assert [time.at(size) for size in (1, 128)] == pytest.approx([changed(1), changed(128)], rel=0.1)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("factor", [0.001, 50.0, 1e6])
def test_one_outlier_moves_it_little(seed: int, factor: float) -> None:
    random, truth = Random(seed), affine(0.004, 0.001)
    time = learn(None, truth, 100, random)
    before = [time.at(size) for size in (1, 16, 128)]
    time.measured(16, truth(16) * factor)
    after = [time.at(size) for size in (1, 16, 128)]
    assert after == pytest.approx(before, rel=0.1)


def test_two_outliers_with_a_good_one_between_are_no_change() -> None:
    truth = affine(0.004, 0.001)
    time = learn(None, truth, 100, Random(3))
    for _ in range(6):
        time.measured(16, truth(16) * 20)
        time.measured(16, truth(16))
    assert time.at(16) < 2 * truth(16)


def test_equal_sizes_leave_half_of_the_time_to_the_size() -> None:
    time = ServiceTime(10, 0.1)
    for _ in range(50):
        time.measured(10, 0.1)
    assert time.at(10) == pytest.approx(0.1)
    assert time.at(20) == pytest.approx(0.15)
    assert time.at(0) == pytest.approx(0.05)


def test_the_deviation_is_that_of_the_times() -> None:
    steady = learn(None, affine(0.01, 0.0), 300, Random(1), noise=0.05)
    wild = learn(None, affine(0.01, 0.0), 300, Random(1), noise=0.5)
    assert steady.relative_deviation == pytest.approx(0.05, rel=0.5)
    assert wild.relative_deviation == pytest.approx(0.5, rel=0.5)


@given(sizes, any_time, st.lists(st.tuples(sizes, any_time), max_size=60), sizes)
def test_estimates_are_positive_and_finite_whatever_was_measured(
    first_size: float, first_s: float, measured: list[tuple[float, float]], size: float
) -> None:
    time = ServiceTime(first_size, first_s)
    for measured_size, took_s in measured:
        time.measured(measured_size, took_s)
        assert TIME_MIN_S <= time.at(size) <= TIME_MAX_S
        assert 0 <= time.base_s < math.inf
        assert 0 <= time.slope_s < math.inf
        assert 0 < time.relative_deviation < 10


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from("xyz")), max_size=40), st.integers(1, 6))
def test_the_least_recently_measured_pair_is_forgotten(pairs: list[tuple[str, str]], pairs_max: int) -> None:
    times = ServiceTimes(pairs_max=pairs_max)
    for now, (node, model) in enumerate(pairs):
        times.measured(node, model, 1.0, 0.01, float(now))
    latest = list(dict.fromkeys(reversed(pairs)))
    kept, forgotten = latest[:pairs_max], latest[pairs_max:]
    assert len(times) == len(kept)
    assert all(times.get(node, model) is not None for node, model in kept)
    assert all(times.get(node, model) is None for node, model in forgotten)
    for model in "xyz":
        assert (times.fastest(model, 1.0) is not None) == any(kept_model == model for _, kept_model in kept)
