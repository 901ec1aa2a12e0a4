"""Comparing what replicas computed.

Results are not bitwise equal across batch sizes, thread counts or execution providers, so replicas are
compared within a tolerance. The verdict is the same wherever it is computed: differences are taken in
float64, in a fixed order, and integers, booleans and strings have to be equal.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

FP16_RTOL_MIN = 2.0**-9
"""The least relative tolerance for FP16: its mantissa has 11 bits, so two roundings are this far apart."""

_BLOCK = 1 << 18  # elements at a time: the float64 copies of a large tensor need not all exist at once


@dataclass(frozen=True, slots=True)
class Comparison:
    """Whether two sets of outputs agree.

    ``max_abs_diff`` is the largest difference between two finite numbers that could be compared; it is
    always finite. ``problem`` is the first thing that does not agree, tensors taken by name.
    """

    equal: bool
    max_abs_diff: float
    problem: str | None


def compare_outputs(
    reference: Mapping[str, Array], other: Mapping[str, Array], *, rtol: float = 1e-4, atol: float = 1e-5
) -> Comparison:
    """Compare ``other`` with ``reference``: names, types, shapes, then values.

    Floating point numbers agree if ``|a - b| <= atol + rtol * |a|`` with ``a`` from ``reference``;
    NaN agrees with NaN only, an infinity with the same infinity only. FP16 is never compared more
    finely than :data:`FP16_RTOL_MIN`. Everything else has to be equal.

    Raises ``ValueError`` for a tolerance that is negative or not finite.
    """
    if not all(0 <= tolerance < math.inf for tolerance in (rtol, atol)):
        raise ValueError(f"rtol and atol must be finite and not negative, got {rtol} and {atol}")
    problem: str | None = None
    largest = 0.0
    if reference.keys() != other.keys():
        problem = f"the outputs are {sorted(reference)} and {sorted(other)}"
    for name in sorted(reference.keys() & other.keys()):
        diff, found = _compare(reference[name], other[name], rtol, atol)
        largest = max(largest, diff)
        if found is not None and problem is None:
            problem = f"{name!r}: {found}"
    return Comparison(problem is None, largest, problem)


def _compare(a: Array, b: Array, rtol: float, atol: float) -> tuple[float, str | None]:
    if _type(a) != _type(b):
        return 0.0, f"the types are {_type(a)} and {_type(b)}"
    if a.shape != b.shape:
        return 0.0, f"the shapes are {list(a.shape)} and {list(b.shape)}"
    if a.dtype == np.float16:
        rtol = max(rtol, FP16_RTOL_MIN)
    largest = 0.0
    first: int | None = None
    for start, left, right in _blocks(a, b):
        diff, wrong = _block(left, right, rtol, atol)
        largest = max(largest, diff)
        if first is None and wrong is not None:
            first = start + wrong
    if first is None:
        return largest, None
    at = tuple(int(axis) for axis in np.unravel_index(first, a.shape))
    return largest, f"at {list(at)} the values are {_show(a[at])} and {_show(b[at])}"


def _blocks(a: Array, b: Array) -> Iterator[tuple[int, Array, Array]]:
    left, right = a.reshape(-1), b.reshape(-1)
    for start in range(0, left.size, _BLOCK):
        yield start, left[start : start + _BLOCK], right[start : start + _BLOCK]


def _block(a: Array, b: Array, rtol: float, atol: float) -> tuple[float, int | None]:
    """The largest difference, and the place of the first pair that does not agree."""
    if a.dtype.kind == "f":
        diff, agree = _floats(a.astype(np.float64), b.astype(np.float64), rtol, atol)
    elif a.dtype.kind in "iu":
        agree = a == b
        diff = _integers(a, b)
    else:
        agree = np.asarray(a == b, dtype=bool)
        diff = 0.0
    return diff, None if bool(agree.all()) else int(np.argmin(agree))


def _floats(a: Array, b: Array, rtol: float, atol: float) -> tuple[float, Array]:
    finite = np.isfinite(a) & np.isfinite(b)
    with np.errstate(invalid="ignore", over="ignore"):
        diff = np.where(finite, np.abs(a - b), 0.0)
        close = diff <= atol + rtol * np.where(finite, np.abs(a), 0.0)
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    return min(float(diff.max()), np.finfo(np.float64).max.item()), np.where(finite, close, same)


def _integers(a: Array, b: Array) -> float:
    # Modulo 2**64 the larger minus the smaller is right for every signed and unsigned type.
    high, low = np.maximum(a, b).astype(np.uint64), np.minimum(a, b).astype(np.uint64)
    return float((high - low).max())


def _type(array: Array) -> str:
    return "str" if array.dtype.kind in "OU" else array.dtype.str


def _show(value: object) -> str:
    text = repr(value.item() if isinstance(value, np.generic) else value)
    return text if len(text) <= 64 else text[:61] + "..."
