"""Figures, times and scales as a reader sees them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulations.report.markup import element, moment, number, power, seconds, step_of, ticks


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (None, "never"),
        (0.0, "0"),
        (0.0000123, "12 µs"),
        (0.00213, "2.1 ms"),
        (0.0999, "100 ms"),
        (0.9996, "1.00 s"),
        (1.234, "1.23 s"),
        (9.996, "10.0 s"),
        (61.23, "61.2 s"),
        (125.0, "2:05 min"),
    ],
)
def test_durations_have_a_unit_and_no_needless_digits(value: float | None, told: str) -> None:
    assert seconds(value) == told


@pytest.mark.parametrize(
    ("value", "told"),
    [(0, "0"), (7.0, "7"), (0.123, "0.12"), (1.26, "1.3"), (9.96, "10"), (12345.6, "12,346")],
)
def test_numbers_are_easy_to_read(value: float, told: str) -> None:
    assert number(value) == told


def test_scales() -> None:
    assert [power(exponent) for exponent in (-4, -3, -1, 0, 1)] == ["100 µs", "1 ms", "100 ms", "1 s", "10 s"]
    assert moment(12.5, 0.5) == "12.5 s"
    assert moment(125.0, 5.0) == "2:05 min"
    assert step_of(60, 12, clock=True) == 5.0
    assert step_of(100, 12, clock=True) == 10.0
    assert step_of(3600, 12, clock=True) == 300.0
    assert step_of(0.6, 12) == pytest.approx(0.05)
    assert ticks(0, 1.0, 0.25) == [0, 0.25, 0.5, 0.75, 1.0]


@given(st.floats(1e-3, 1e6), st.integers(1, 20), st.booleans())
def test_there_are_never_more_ticks_than_there_is_room_for(length: float, count: int, clock: bool) -> None:
    step = step_of(length, count, clock=clock)
    assert length / step <= count * 1.01
    found = ticks(0.0, length, step)
    assert found[0] == 0.0
    assert found[-1] <= length * 1.0001


def test_attributes_are_escaped_and_left_out_when_there_is_none() -> None:
    assert (
        element("b", "x", class_='a"b', data_x="<&", id=None)
        == '<b class="a&quot;b" data-x="&lt;&amp;">x</b>'
    )
