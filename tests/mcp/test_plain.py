"""Values that others wrote: shown without failing whatever they are, and checked alike by every reader."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp.cluster.router.routes import RouteSet
from mcp.cluster.router.rules import RuleSet
from mcp.cluster.scheduler.load_report import LoadReport
from mcp.errors import McpError
from mcp.flow.config import from_plain
from mcp.plain import SHOWN_CHARS_MAX, is_number, is_whole, shown

ENDLESS = 10**5000
"""Python refuses to write it out."""


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (None, "None"),
        (True, "True"),
        (7, "7"),
        (2**64 - 1, "18446744073709551615"),
        (2**64, "an integer of 65 bits"),
        (pytest.param(-ENDLESS, "an integer of 16610 bits", id="endless")),
        (1.5, "1.5"),
        ("a" * 61, repr("a" * 60)),
        ([ENDLESS], "a value of type list"),
        ({1: 2}, "a value of type dict"),
    ],
)
def test_a_value_is_shown(value: object, said: str) -> None:
    assert shown(value) == said


@given(st.one_of(st.text(), st.binary(), st.integers(), st.floats(), st.lists(st.integers()), st.none()))
def test_what_is_shown_is_short(value: object) -> None:
    assert 0 < len(shown(value)) <= SHOWN_CHARS_MAX


def test_a_truth_is_no_integer_and_what_is_no_number_is_in_no_range() -> None:
    assert is_whole(3, 3, 3)
    assert is_number(3, 3, 3)
    assert is_number(2.5, 0, 3)
    for value in (True, 2.0, "2", None, ENDLESS, -ENDLESS):
        assert not is_whole(value, 0, 3)
    for wrong in (True, math.nan, math.inf, "2", None, ENDLESS, [1]):
        assert not is_number(wrong, 0, 3)


@pytest.mark.parametrize("value", [ENDLESS, [ENDLESS], {"a": ENDLESS}, -ENDLESS], ids="abcd")
@pytest.mark.parametrize(
    "read",
    [
        lambda value: RouteSet.from_plain({"version": value, "routes": []}),
        lambda value: RouteSet.from_plain({"version": 0, "routes": value}),
        lambda value: RouteSet.from_plain({"version": 0, "routes": [value]}),
        lambda value: RuleSet.from_plain({"version": 0, "rules": [value]}),
        RuleSet.from_plain,
        lambda value: from_plain({"in_flight_max": value}),
        lambda value: from_plain({"cluster": value}),
        lambda value: from_plain({"cluster": {"a": {"amount": value}}}),
        lambda value: from_plain({"clients": {"default": {"amount": 1, "per_s": value}}}),
        lambda value: from_plain({"clients": {"default": {"amount": 1, "kind": value}}}),
        lambda value: from_plain({value if isinstance(value, int) else "x": 1}),
        lambda value: LoadReport.from_plain({"cpu": value}),
        lambda value: LoadReport.from_plain({"running": value}),
        lambda value: LoadReport.from_plain({"queued": {"m": value}}),
    ],
)
def test_no_reader_fails_at_an_integer_of_thousands_of_digits(
    read: Callable[[Any], object], value: object
) -> None:
    with pytest.raises(McpError) as caught:
        read(value)
    assert len(caught.value.message) < 400
