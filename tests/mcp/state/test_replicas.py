"""Comparing replicas: within a tolerance for numbers with a point, exactly for everything else."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp.state.replicas import ATOL, RTOL, compare
from mcp.wire.tensors import pack_inline


def outputs(**arrays: Any) -> dict[str, Any]:
    return {"outputs": [pack_inline(name, array) for name, array in arrays.items()]}


FLOATS = st.floats(allow_nan=True, allow_infinity=True, width=64)


@given(st.lists(st.tuples(FLOATS, FLOATS), min_size=1, max_size=5))
def test_floats_are_compared_as_the_definition_says(pairs: list[tuple[float, float]]) -> None:
    def alike(a: float, b: float) -> bool:
        if math.isfinite(a) and math.isfinite(b):
            return abs(b - a) <= ATOL + RTOL * abs(a)
        return a == b or (math.isnan(a) and math.isnan(b))

    reference = outputs(y=np.array([a for a, _ in pairs]))
    other = outputs(y=np.array([b for _, b in pairs]))
    equal, difference = compare(reference, other)
    assert equal is all(alike(a, b) for a, b in pairs)
    finite = [abs(b - a) for a, b in pairs if math.isfinite(a) and math.isfinite(b)]
    if all(math.isfinite(a) and math.isfinite(b) for a, b in pairs) and math.isfinite(max(finite)):
        assert difference == max(finite)


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        (np.float32([1, 2]), np.float32([1, 2.0001]), (True, pytest.approx(1e-4, rel=0.01))),
        (np.float32([1, 2]), np.float32([1, 2.001]), (False, pytest.approx(1e-3, rel=0.01))),
        (np.float16([1]), np.float16([1.001]), (False, pytest.approx(0.000977, rel=0.01))),
        (np.float64([np.nan, 1]), np.float64([np.nan, 1.000001]), (True, pytest.approx(1e-6, rel=0.01))),
        (np.float64([1]), np.float64([1.000110005]), (False, pytest.approx(1.10005e-4))),
        (np.float64([1.000110005]), np.float64([1]), (True, pytest.approx(1.10005e-4))),
        (np.float64([np.nan]), np.float64([1]), (False, None)),
        (np.float64([np.inf]), np.float64([np.inf]), (True, 0.0)),
        (np.float64([np.inf]), np.float64([-np.inf]), (False, None)),
        (np.float64([1e308]), np.float64([-1e308]), (False, None)),
        (np.int64([2**62]), np.int64([2**62 + 1]), (False, 0.0)),
        (np.int8([3]), np.int8([-4]), (False, 7.0)),
        (np.bool_([True]), np.bool_([False]), (False, 1.0)),
        (np.array(["a"]), np.array(["a"]), (True, 0.0)),
        (np.array(["a"]), np.array(["b"]), (False, None)),
        (np.float32([1]), np.float64([1]), (False, None)),
        (np.float32([1]), np.float32([[1]]), (False, None)),
        (np.zeros((0, 3), np.float32), np.zeros((0, 3), np.float32), (True, 0.0)),
    ],
)
def test_tensors(a: Any, b: Any, expected: Any) -> None:
    assert compare(outputs(y=a), outputs(y=b)) == expected


def test_the_names_have_to_be_the_same() -> None:
    one, two = np.float32([1]), np.float32([2])
    assert compare(outputs(a=one, b=two), outputs(b=two, a=one)) == (True, 0.0)
    assert compare(outputs(a=one), outputs(a=one, b=two)) == (False, None)
    assert compare(outputs(a=one, b=one), outputs(a=one, b=two)) == (False, 1.0)


def test_outcomes_of_other_kinds() -> None:
    blob = {"digest": "a" * 64, "size": 3, "node": "n"}
    error = {"error": {"code": "INPUT_INVALID", "message": "one", "details": {}}}
    assert compare(blob, {**blob, "node": "m"}) == (True, 0.0)
    assert compare(blob, {**blob, "digest": "b" * 64}) == (False, None)
    assert compare(error, {"error": {"code": "INPUT_INVALID", "message": "two"}}) == (True, None)
    assert compare(error, {"error": {"code": "INFERENCE_FAILED", "message": "one"}}) == (False, None)
    assert compare(blob, outputs(y=[1.0])) == (False, None)
    assert compare(outputs(y=[1.0]), error) == (False, None)
