"""Tensors whose elements stand in JSON: numbers, booleans and texts, flat or nested as the shape says.

Nothing is converted in silence: an INT64 is no ``1.5``, and no ``true``. Pure. Source: Open Inference
Protocol, "Tensor Data".
"""

from __future__ import annotations

import itertools
import math
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from mcp.errors import InputInvalid
from mcp.wire.tensors import BYTES_DTYPE, DTYPES, RANK_MAX, STRINGS_MAX

Array = NDArray[Any]

_ELEMENTS_MAX: Final = 2**40
_PIECE: Final = 64 * 1024
"""Elements that are looked at in one call: between two of them other threads have the interpreter."""
_Expected = tuple[set[type], str]
_KINDS: Final[dict[str, _Expected]] = {
    "b": ({bool}, "true or false"),
    "i": ({int}, "integers"),
    "u": ({int}, "integers"),
}
_NUMBERS: Final[_Expected] = ({int, float}, "numbers")


def read_datatype(where: str, datatype: object, field: str = "datatype") -> str:
    """Check a tensor's type, which ``field`` has. BF16, which nothing here carries, is refused by name."""
    if isinstance(datatype, str) and (datatype in DTYPES or datatype == BYTES_DTYPE):
        return datatype
    expected = ", ".join([*DTYPES, BYTES_DTYPE])
    if datatype == "BF16":
        raise InputInvalid(
            f'{where}: "{field}" BF16 cannot be carried here, as no model takes it; use one of {expected}'
        )
    raise InputInvalid(f'{where}: "{field}" must be one of {expected}, got {datatype!r:.80}')


def read_shape(where: str, shape: object) -> tuple[int, ...]:
    """Check a tensor's shape: at most ``RANK_MAX`` sizes from 0 on. Raises ``InputInvalid``."""
    if not isinstance(shape, list | tuple) or len(shape) > RANK_MAX:
        raise InputInvalid(f'{where}: "shape" must be a list of at most {RANK_MAX} sizes, got {shape!r:.80}')
    if any(type(size) is not int or size < 0 for size in shape):
        raise InputInvalid(f'{where}: "shape" must hold integers from 0 on, got {list(shape)!r:.80}')
    if math.prod(max(size, 1) for size in shape) > _ELEMENTS_MAX:
        raise InputInvalid(f'{where}: "shape" {list(shape)!r:.80} is larger than any message')
    return tuple(shape)


def from_json(where: str, datatype: str, shape: tuple[int, ...], data: object) -> Array:
    """The array that JSON's ``data`` holds, flat or nested as ``shape`` says. Raises ``InputInvalid``."""
    flat = _flat(where, shape, data)
    if datatype == BYTES_DTYPE:
        return _strings(where, shape, flat)
    dtype = DTYPES[datatype]
    expected, words = _KINDS.get(dtype.kind, _NUMBERS)
    if not _all_of(flat, expected):
        strange = next(element for element in flat if type(element) not in expected)
        raise InputInvalid(f'{where}: "data" of {datatype} must hold {words}, got {strange!r:.80}')
    try:
        with np.errstate(over="ignore"):
            array = _converted(flat, dtype)
    except (OverflowError, ValueError):
        raise InputInvalid(f'{where}: "data" holds a number that is no {datatype}') from None
    if dtype.kind == "f" and not np.isfinite(array).all():
        raise InputInvalid(f'{where}: "data" holds a number that is too large for {datatype}')
    return array.reshape(shape)


def _all_of(elements: list[Any], types: set[type]) -> bool:
    return all(
        types.issuperset(map(type, elements[begin : begin + _PIECE]))
        for begin in range(0, len(elements), _PIECE)
    )


def _converted(flat: list[Any], dtype: np.dtype[Any]) -> Array:
    """The elements as an array, a piece at a time. Raises ``OverflowError`` and ``ValueError``."""
    if len(flat) <= _PIECE:
        return np.array(flat, dtype)
    array = np.empty(len(flat), dtype)
    for begin in range(0, len(flat), _PIECE):
        array[begin : begin + _PIECE] = np.array(flat[begin : begin + _PIECE], dtype)
    return array


def _flat(where: str, shape: tuple[int, ...], data: object) -> list[Any]:
    """The elements in row-major order, the number of which is the shape's."""
    count = math.prod(shape)
    if type(data) is not list:
        raise InputInvalid(f'{where}: "data" must be a list, got {type(data).__name__}')
    level: list[Any] = data
    if level and type(level[0]) is list:
        level = _unnested(where, shape, level)
    elif not level and count == 0:
        return []
    if len(level) != count:
        raise InputInvalid(
            f'{where}: "data" must hold {count} elements for the shape {list(shape)}, got {len(level)}',
            details={"expected": count, "got": len(level)},
        )
    return level


def _unnested(where: str, shape: tuple[int, ...], data: list[Any]) -> list[Any]:
    level: list[Any] = [data]
    for depth, size in enumerate(shape):
        if not _all_of(level, {list}):
            raise InputInvalid(f'{where}: "data" must be flat, or nested in {len(shape)} levels throughout')
        strange = next((each for each in level if len(each) != size), None)
        if strange is not None:
            raise InputInvalid(
                f'{where}: "data" must have lists of {size} at level {depth} for the shape {list(shape)},'
                f" got one of {len(strange)}"
            )
        rows, outer = max(1, _PIECE // max(size, 1)), level
        level = []
        for begin in range(0, len(outer), rows):
            level.extend(itertools.chain.from_iterable(outer[begin : begin + rows]))
    if any(list in map(type, level[begin : begin + _PIECE]) for begin in range(0, len(level), _PIECE)):
        raise InputInvalid(f'{where}: "data" is nested deeper than its shape {list(shape)}')
    return level


def _strings(where: str, shape: tuple[int, ...], flat: list[Any]) -> Array:
    if len(flat) > STRINGS_MAX:
        raise InputInvalid(f'{where}: "data" has {len(flat)} strings, over strings_max={STRINGS_MAX}')
    array = np.empty(len(flat), object)
    for index, element in enumerate(flat):
        if type(element) is not str:
            raise InputInvalid(f'{where}: "data" of BYTES must hold texts, got {element!r:.80}')
        try:
            array[index] = element.encode()
        except UnicodeEncodeError:
            raise InputInvalid(f'{where}: "data" element {index} is no valid Unicode text') from None
    return array.reshape(shape)
