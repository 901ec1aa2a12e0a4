import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from executor.batching.estimates import SAMPLES_MIN, Arrivals, ServiceTimes


def noted(samples):
    times = ServiceTimes()
    for rows, elapsed_s in samples:
        times.note(rows, elapsed_s)
    return times


def test_nothing_is_said_before_enough_was_seen():
    times = noted([(4, 1.0)] * (SAMPLES_MIN - 1))
    assert (times.known, times.line, times.expected_s(4)) == (False, None, 0.0)
    assert times.rows_within(1.0) == math.inf


@given(st.floats(0.0001, 1.0), st.floats(0.00001, 0.1), st.lists(st.integers(1, 64), min_size=4, max_size=40))
def test_a_line_is_found(fixed, per_row, sizes):
    times = noted([(rows, fixed + per_row * rows) for rows in sizes])
    if times.line is None:
        assert max(sizes) - min(sizes) < 2 * max(sizes)
    else:
        assert times.line == pytest.approx((fixed, per_row), rel=0.3, abs=fixed)
        assert times.expected_s(50) > times.expected_s(5)


def test_the_two_parts_of_a_run_are_told_apart():
    times = noted([(rows, 0.001 + 0.0001 * rows) for rows in (1, 64, 8, 32, 2, 16)])
    assert times.line == pytest.approx((0.001, 0.0001))
    assert times.expected_s(100) == pytest.approx(0.011)
    assert times.rows_within(0.011) == pytest.approx(100)


def test_without_different_sizes_fewer_rows_are_as_slow_and_more_are_slower():
    times = noted([(8, 0.004)] * 5)
    assert times.line is None
    assert [times.expected_s(rows) for rows in (1, 8, 16)] == pytest.approx([0.004, 0.004, 0.008])
    assert times.rows_within(0.008) == pytest.approx(16)


def test_one_interruption_is_no_new_estimate_and_a_change_is():
    times = noted([(1, 0.001)] * 20)
    times.note(1, 10.0)
    assert times.expected_s(1) < 0.0012
    for _ in range(200):
        times.note(1, 0.003)
    assert times.expected_s(1) == pytest.approx(0.003, rel=0.01)


def test_a_clock_that_stands_still_gives_no_time():
    times = noted([(1, 0.0), (8, 0.0), (64, 0.0)])
    assert times.expected_s(64) == 0.0
    assert times.rows_within(0.0) == math.inf


def test_arrivals_are_counted_in_the_mean_and_pauses_only_up_to_a_bound():
    arrivals = Arrivals(pause_s_max=1.0)
    for number in range(SAMPLES_MIN):
        arrivals.note(number * 0.1)
        assert arrivals.gap_s is None
    arrivals.note(SAMPLES_MIN * 0.1)
    assert arrivals.gap_s == pytest.approx(0.1)
    arrivals.note(1e6)
    assert arrivals.gap_s < 1.0
    assert arrivals.last_s == 1e6
