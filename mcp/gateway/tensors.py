"""Tensors in the Open Inference Protocol's two forms: JSON's ``data``, and raw bytes.

Raw bytes have the layout of our own wire (:mod:`mcp.wire.tensors`): little endian, row-major, BYTES with a
length of four bytes before each element. In JSON, numbers, booleans and texts stand in a list of their own,
or nested as the shape says. Nothing is converted in silence: an INT64 is no ``1.5``, and no ``true``.

Pure. Source: Open Inference Protocol, "Tensor Data"; Triton's "Binary Tensor Data Extension".
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from mcp.errors import InputInvalid, InvalidArgument, TooLarge
from mcp.gateway.limits import ELEMENTS_PER_PIECE, NAME_CHARS_MAX, OBJECTS_MAX
from mcp.wire.frame import Buffer
from mcp.wire.tensors import BYTES_DTYPE, DTYPES, RANK_MAX, STRINGS_MAX, dtype_name, pack, unpack_inline

Array = NDArray[Any]

_ELEMENTS_MAX: Final = 2**40
_Expected = tuple[set[type], str]
_KINDS: Final[dict[str, _Expected]] = {
    "b": ({bool}, "true or false"),
    "i": ({int}, "integers"),
    "u": ({int}, "integers"),
}
_NUMBERS: Final[_Expected] = ({int, float}, "numbers")


def read_name(where: str, name: object) -> str:
    """Check a tensor's name. ``where`` says which it is, as in ``inputs[0]``. Raises ``InputInvalid``."""
    if not isinstance(name, str) or not 1 <= len(name) <= NAME_CHARS_MAX:
        raise InputInvalid(
            f'{where}: "name" must be a text of 1 to {NAME_CHARS_MAX} characters, got {name!r:.80}'
        )
    return name


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


class Objects:
    """How many elements of one request become Python objects, which takes time for each."""

    def __init__(self) -> None:
        self._taken = 0

    def take(self, where: str, shape: tuple[int, ...]) -> None:
        """Count a tensor's elements. Raises :class:`~mcp.errors.TooLarge`."""
        self._taken += math.prod(shape)
        if self._taken > OBJECTS_MAX:
            raise TooLarge(
                f"{where}: with it the request has {self._taken} strings or typed elements, over"
                f" objects_max={OBJECTS_MAX}; send fewer at once, or numbers as raw bytes"
            )


def from_raw(where: str, name: str, datatype: str, shape: tuple[int, ...], raw: Buffer) -> Array:
    """The array in ``raw``: a read-only view, or an object array of ``bytes``. Raises ``InputInvalid``."""
    try:
        return unpack_inline({"name": name, "dtype": datatype, "shape": shape, "data": raw})
    except InputInvalid as error:
        raise InputInvalid(f"{where}: {error.message}", details=error.details) from None


def to_raw(name: str, array: Array) -> memoryview:
    """The bytes of an array, or of its strings with their lengths: a view where that is possible."""
    return pack(name, array, 0)[1]


def from_json(where: str, datatype: str, shape: tuple[int, ...], data: object) -> Array:
    """The array that JSON's ``data`` holds, flat or nested as ``shape`` says. Raises ``InputInvalid``."""
    flat = _flat(where, shape, data)
    if datatype == BYTES_DTYPE:
        return _strings(where, shape, flat)
    dtype = DTYPES[datatype]
    expected, words = _KINDS.get(dtype.kind, _NUMBERS)
    if not expected.issuperset(map(type, flat)):
        strange = next(element for element in flat if type(element) not in expected)
        raise InputInvalid(f'{where}: "data" of {datatype} must hold {words}, got {strange!r:.80}')
    try:
        with np.errstate(over="ignore"):
            array = np.array(flat, dtype)
    except (OverflowError, ValueError):
        raise InputInvalid(f'{where}: "data" holds a number that is no {datatype}') from None
    if dtype.kind == "f" and not np.isfinite(array).all():
        raise InputInvalid(f'{where}: "data" holds a number that is too large for {datatype}')
    return array.reshape(shape)


def json_pieces(name: str, array: Array) -> Iterator[str]:
    """The flat JSON list of an array, in pieces that take little time each; joined they are the list.

    Raises :class:`~mcp.errors.InvalidArgument` for what JSON has no form for: NaN, infinities, and bytes
    that are no UTF-8.
    """
    flat = array.reshape(-1)
    if flat.dtype.kind == "f" and not np.isfinite(flat).all():
        raise InvalidArgument(
            f'output "{name}" holds NaN or infinity, for which JSON has no form; ask for it with'
            ' the parameter "binary_data": true'
        )
    yield "["
    for begin in range(0, flat.size, ELEMENTS_PER_PIECE):
        elements = flat[begin : begin + ELEMENTS_PER_PIECE].tolist()
        if flat.dtype.kind in "OSU":
            elements = [_text(name, element) for element in elements]
        written = json.dumps(elements, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        yield ("," if begin else "") + written[1:-1]
    yield "]"


def datatype_of(array: Array) -> str:
    """The protocol's name of an array's type. Raises :class:`~mcp.errors.InvalidArgument` if it has none."""
    return dtype_name(array)


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
        if not {list}.issuperset(map(type, level)):
            raise InputInvalid(f'{where}: "data" must be flat, or nested in {len(shape)} levels throughout')
        strange = next((each for each in level if len(each) != size), None)
        if strange is not None:
            raise InputInvalid(
                f'{where}: "data" must have lists of {size} at level {depth} for the shape {list(shape)},'
                f" got one of {len(strange)}"
            )
        level = list(itertools.chain.from_iterable(level))
    if list in set(map(type, level)):
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


def _text(name: str, element: object) -> str:
    if isinstance(element, str):
        return element
    try:
        return bytes(element).decode()  # type: ignore[call-overload, no-any-return]
    except UnicodeDecodeError:
        raise InvalidArgument(
            f'output "{name}" holds bytes that are no UTF-8 text; ask for it with the parameter'
            ' "binary_data": true'
        ) from None
