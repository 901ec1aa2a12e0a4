"""Tensors in the Open Inference Protocol's two forms: JSON's ``data``, and raw bytes.

Raw bytes have the layout of our own wire (:mod:`mcp.wire.tensors`): little endian, row-major, BYTES with a
length of four bytes before each element. JSON is read by :mod:`mcp.wire.json_tensors` and written here.

Pure. Source: Open Inference Protocol, "Tensor Data"; Triton's "Binary Tensor Data Extension".
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mcp.errors import InputInvalid, InvalidArgument, TooLarge
from mcp.gateway.limits import ELEMENTS_PER_PIECE, NAME_CHARS_MAX, OBJECTS_MAX
from mcp.wire.frame import Buffer
from mcp.wire.tensors import dtype_name, pack, unpack_inline

Array = NDArray[Any]


def read_name(where: str, name: object) -> str:
    """Check a tensor's name. ``where`` says which it is, as in ``inputs[0]``. Raises ``InputInvalid``."""
    if not isinstance(name, str) or not 1 <= len(name) <= NAME_CHARS_MAX:
        raise InputInvalid(
            f'{where}: "name" must be a text of 1 to {NAME_CHARS_MAX} characters, got {name!r:.80}'
        )
    return name


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
