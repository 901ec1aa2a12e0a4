import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from executor.compare import compare_outputs


def one(values, dtype=np.float32):
    return {"y": np.array(values, dtype)}


@pytest.mark.parametrize(
    ("left", "right", "problem"),
    [
        ({"y": np.zeros(1)}, {"z": np.zeros(1)}, "the outputs are ['y'] and ['z']"),
        (one([1.0]), one([1.0], np.float64), "'y': the types are <f4 and <f8"),
        (one([1.0, 2.0]), one([[1.0, 2.0]]), "'y': the shapes are [2] and [1, 2]"),
        (one([[1.0, 2.0]]), one([[1.0, 2.5]]), "'y': at [0, 1] the values are 2.0 and 2.5"),
        (one([1, 2], np.int64), one([1, 3], np.int64), "'y': at [1] the values are 2 and 3"),
        (one(["a", "b"], object), one(["a", "B"], object), "'y': at [1] the values are 'b' and 'B'"),
        (one([True]), one([False]), "'y': at [0] the values are 1.0 and 0.0"),
        (one([math.nan, 1.0]), one([1.0, math.nan]), "'y': at [0] the values are nan and 1.0"),
        (one([math.inf]), one([-math.inf]), "'y': at [0] the values are inf and -inf"),
        (one([math.inf]), one([3e38]), "'y': at [0] the values are inf and 3.0000000"),
    ],
)
def test_what_differs_is_named(left, right, problem):
    comparison = compare_outputs(left, right)
    assert not comparison.equal
    assert comparison.problem.startswith(problem)
    assert math.isfinite(comparison.max_abs_diff)


def test_the_first_problem_is_told_and_the_largest_difference_of_all():
    left = {"a": np.array([1.0, 5.0]), "b": np.array([7], np.int64)}
    right = {"b": np.array([3], np.int64), "a": np.array([1.0, 6.0])}
    comparison = compare_outputs(left, right)
    assert comparison.max_abs_diff == 4.0
    assert comparison.problem.startswith("'a': at [1]")


@pytest.mark.parametrize(
    ("dtype", "low", "high", "diff"),
    [
        (np.int64, -(2**63), 2**63 - 1, float(2**64 - 1)),
        (np.uint64, 0, 2**64 - 1, float(2**64 - 1)),
        (np.int8, -128, 127, 255.0),
        (np.uint8, 3, 5, 2.0),
    ],
)
def test_integer_differences_do_not_overflow(dtype, low, high, diff):
    for pair in ((low, high), (high, low)):
        comparison = compare_outputs(one([pair[0]], dtype), one([pair[1]], dtype))
        assert (comparison.equal, comparison.max_abs_diff) == (False, diff)


def test_the_tolerance_is_relative_to_the_reference_plus_absolute():
    assert compare_outputs(one([1000.0]), one([1000.1])).equal
    assert not compare_outputs(one([1000.0]), one([1000.2])).equal
    assert compare_outputs(one([0.0]), one([1e-5], np.float32), rtol=0, atol=1.1e-5).equal
    assert not compare_outputs(one([0.0]), one([1e-4])).equal
    assert not compare_outputs(one([1.0]), one([1.25]), rtol=0.22, atol=0).equal
    assert compare_outputs(one([1.25]), one([1.0]), rtol=0.22, atol=0).equal


def test_half_precision_is_not_compared_more_finely_than_it_counts():
    assert compare_outputs(one([1.0], np.float16), one([1.0 + 2**-10], np.float16)).equal
    assert not compare_outputs(one([1.0], np.float16), one([1.01], np.float16)).equal


def test_empty_scalar_and_view_are_compared():
    assert compare_outputs({}, {}).equal
    assert compare_outputs(one([]), one([])).equal
    assert compare_outputs(one(1.0), one(1.0)).equal
    assert not compare_outputs(one(1.0), one(2.0)).equal
    grid = np.arange(12, dtype=np.float32).reshape(3, 4)
    assert compare_outputs({"y": grid.T}, {"y": np.ascontiguousarray(grid.T)}).equal


def test_a_difference_far_behind_is_found_in_its_place():
    left = np.zeros((600, 1000), np.float32)
    right = left.copy()
    right[599, 998] = 1.0
    assert compare_outputs({"y": left}, {"y": right}).problem.startswith("'y': at [599, 998]")


@pytest.mark.parametrize("tolerance", [{"rtol": -1.0}, {"atol": math.nan}, {"rtol": math.inf}])
def test_a_tolerance_without_sense_is_refused(tolerance):
    with pytest.raises(ValueError, match="finite"):
        compare_outputs({}, {}, **tolerance)


SHAPES = hnp.array_shapes(max_dims=3, max_side=4, min_side=0)
ARRAYS = st.sampled_from([np.float32, np.float64, np.float16, np.int32, np.uint8, np.bool_]).flatmap(
    lambda dtype: hnp.arrays(dtype, SHAPES)
)


@settings(max_examples=150, deadline=None)
@given(ARRAYS)
def test_everything_equals_itself(array):
    comparison = compare_outputs({"y": array}, {"y": array.copy()}, rtol=0, atol=0)
    assert (comparison.equal, comparison.max_abs_diff) == (True, 0.0)


@settings(max_examples=150, deadline=None)
@given(hnp.arrays(np.float64, 5), hnp.arrays(np.float64, 5))
def test_the_verdict_is_that_of_the_definition(a, b):
    expected = all(
        (math.isnan(x) and math.isnan(y))
        or x == y
        or (math.isfinite(x) and math.isfinite(y) and abs(x - y) <= 1e-5 + 1e-4 * abs(x))
        for x, y in zip(a.tolist(), b.tolist(), strict=True)
    )
    comparison = compare_outputs({"y": a}, {"y": b})
    assert comparison.equal == expected
    assert math.isfinite(comparison.max_abs_diff)
