"""Tensors: numpy arrays as a small description (the spec) and raw bytes.

A spec is the map ``{"name", "dtype", "shape", "segment"}``, where ``segment`` is the index of the frame's
segment that holds the bytes; or, inline, with ``"data"`` and the bytes themselves instead. Elements are
little endian in row-major order. Names of element types are those of the Open Inference Protocol (version 2,
"Tensor Data Types"), and so is the layout of BYTES: each element is its length as a 32-bit unsigned integer,
little endian, then that many bytes.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from mcp.errors import InputInvalid, InvalidArgument
from mcp.wire.frame import SEGMENTS_MAX, Buffer, as_bytes

RANK_MAX: Final = 16
"""The most dimensions."""
NAME_CHARS_MAX: Final = 1024
"""The longest name of a tensor. An empty name stands for the only input of a model."""
STRINGS_MAX: Final = 1024 * 1024
"""The most elements in one BYTES tensor, since each becomes a Python object."""
TENSORS_MAX: Final = SEGMENTS_MAX
"""The most tensors in one message."""

BYTES_DTYPE: Final = "BYTES"
DTYPES: Final[Mapping[str, np.dtype[Any]]] = {
    "BOOL": np.dtype("?"),
    "INT8": np.dtype("<i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "UINT8": np.dtype("<u1"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
}
"""The element types of fixed size, by their name on the wire. BYTES is beside them."""

_NAMES: Final = {(dtype.kind, dtype.itemsize): name for name, dtype in DTYPES.items()}
_DIMENSION_MAX: Final = 2**40  # keeps a shape with a 0 in it within what numpy can describe
_LENGTH: Final = struct.Struct("<I")
_BY_DTYPE: Final = {dtype: name for name, dtype in DTYPES.items()}
_INTEGER: Final = frozenset({int})
_FEW: Final = 4
_SMALL: Final = 1024
"""So few dimensions of so small a size are no larger than :data:`_DIMENSION_MAX`."""


def dtype_name(array: npt.NDArray[Any]) -> str:
    """The wire's name of an array's element type, whatever its byte order.

    Raises :class:`~mcp.errors.InvalidArgument` for types that have none.
    """
    if array.dtype.kind in "OSU":
        return BYTES_DTYPE
    name = _NAMES.get((array.dtype.kind, array.dtype.itemsize))
    if name is None:
        raise InvalidArgument(
            f"arrays of {array.dtype} cannot be sent; convert to one of {', '.join(DTYPES)}, or strings"
        )
    return name


def pack(name: str, array: npt.ArrayLike, segment_index: int) -> tuple[dict[str, Any], memoryview]:
    """Describe an array of any shape as ``(spec, segment)``.

    The segment is a read-only view of the array's own memory if that is contiguous and little endian: do
    not change the array until the message is sent. Raises :class:`~mcp.errors.InvalidArgument`.
    """
    spec, data = _describe(name, array)
    spec["segment"] = segment_index
    return spec, data


def pack_inline(name: str, array: npt.ArrayLike) -> dict[str, Any]:
    """Describe an array with its bytes in the spec itself, for small values and for the log."""
    spec, data = _describe(name, array)
    return {**spec, "data": bytes(data)}


def pack_all(
    arrays: Mapping[str, npt.ArrayLike], *, first_segment: int = 0
) -> tuple[list[dict[str, Any]], list[memoryview]]:
    """Describe several arrays as ``(specs, segments)``, in the mapping's order, one segment each."""
    if len(arrays) > TENSORS_MAX:
        raise InvalidArgument(f"{len(arrays)} tensors are over tensors_max={TENSORS_MAX}; send fewer at once")
    specs: list[dict[str, Any]] = []
    segments: list[memoryview] = []
    for index, (name, array) in enumerate(arrays.items(), first_segment):
        spec, segment = pack(name, array, index)
        specs.append(spec)
        segments.append(segment)
    return specs, segments


def unpack(spec: object, segments: Sequence[Buffer], *, text: bool = False) -> npt.NDArray[Any]:
    """The array that a spec and its segment describe: a read-only view, no copy.

    BYTES gives an object array of ``bytes``, or of ``str`` with ``text``. Raises
    :class:`~mcp.errors.InputInvalid` saying what was expected and what came.
    """
    name, dtype, shape = _read_spec(spec)
    index = _field(spec, name, "segment")
    if type(index) is not int or not 0 <= index < len(segments):
        raise InputInvalid(
            f'tensor "{name}": "segment" must be the index of one of {len(segments)} segments, '
            f"got {index!r:.80}"
        )
    return _build(name, dtype, shape, as_bytes(segments[index]), text)


def unpack_inline(spec: object, *, text: bool = False) -> npt.NDArray[Any]:
    """The array that an inline spec describes: a read-only view of its ``data``. Raises as :func:`unpack`."""
    name, dtype, shape = _read_spec(spec)
    data = _field(spec, name, "data")
    if not isinstance(data, bytes | bytearray | memoryview):
        raise InputInvalid(f'tensor "{name}": "data" must be bytes, got {type(data).__name__}')
    return _build(name, dtype, shape, as_bytes(data), text)


def unpack_all(
    specs: object, segments: Sequence[Buffer], *, text: bool = False
) -> dict[str, npt.NDArray[Any]]:
    """Arrays by name, in the order of the specs; each in a segment or inline. Raises as :func:`unpack`."""
    known = _plans.get(id(specs))
    if known is not None and known.specs is specs:
        found = known.arrays(segments)
        if found is not None:
            return found
    if not isinstance(specs, list | tuple) or len(specs) > TENSORS_MAX:
        raise InputInvalid(
            f"tensors are described by a list of at most {TENSORS_MAX} specs, got {specs!r:.80}"
        )
    arrays: dict[str, npt.NDArray[Any]] = {}
    for spec in specs:
        inline = isinstance(spec, dict) and "data" in spec
        array = unpack_inline(spec, text=text) if inline else unpack(spec, segments, text=text)
        if spec["name"] in arrays:
            raise InputInvalid(f'tensor "{spec["name"]}" is described twice; names must differ')
        arrays[spec["name"]] = array
    return arrays


class _Plan:
    """Specs that were checked, all of numbers: by name the type, the shape, the bytes, and which segment."""

    __slots__ = ("specs", "tensors")

    def __init__(
        self, specs: object, tensors: list[tuple[str, np.dtype[Any], tuple[int, ...], int, int]]
    ) -> None:
        self.specs = specs
        self.tensors = tensors

    def arrays(self, segments: Sequence[Buffer]) -> dict[str, npt.NDArray[Any]] | None:
        """The arrays; ``None``: the segments are not these specs'."""
        arrays: dict[str, npt.NDArray[Any]] = {}
        count = len(segments)
        for name, element, shape, size, index in self.tensors:
            data = segments[index] if index < count else None
            if type(data) is not memoryview or data.nbytes != size or not data.readonly:
                return None
            arrays[name] = np.ndarray(shape, element, data)
        return arrays


_plans: dict[int, _Plan] = {}
"""By the identity of the specs, which each keeps alive."""


def plan(specs: object) -> None:
    """Remember the specs of a payload that may come again: the very same are not checked a second time."""
    if type(specs) is not list or len(specs) > TENSORS_MAX:
        return
    tensors: dict[str, tuple[str, np.dtype[Any], tuple[int, ...], int, int]] = {}
    for spec in specs:
        try:
            name, dtype, shape = _read_spec(spec)
            index = _field(spec, name, "segment")
        except InputInvalid:
            return  # whoever unpacks them says so
        # Of strings and booleans every element is checked.
        if type(index) is not int or index < 0 or dtype in (BYTES_DTYPE, "BOOL") or name in tensors:
            return
        if "data" in spec:
            return
        element = DTYPES[dtype]
        tensors[name] = name, element, shape, math.prod(shape) * element.itemsize, index
    _plans[id(specs)] = _Plan(specs, list(tensors.values()))


def forget_plans() -> None:
    """Let go of all of them."""
    _plans.clear()


def _describe(name: str, value: npt.ArrayLike) -> tuple[dict[str, Any], memoryview]:
    if not isinstance(name, str) or len(name) > NAME_CHARS_MAX:
        raise InvalidArgument(
            f"a tensor's name is a string of at most {NAME_CHARS_MAX} characters, not {name!r:.80}"
        )
    array = value if type(value) is np.ndarray else np.asarray(value)
    plain = _BY_DTYPE.get(array.dtype)
    if plain is not None and array.size and 0 < array.ndim <= RANK_MAX:
        data = array.data
        if data.c_contiguous:
            return {"name": name, "dtype": plain, "shape": [*array.shape]}, data.cast("B").toreadonly()
    if array.ndim > RANK_MAX:
        raise InvalidArgument(f'tensor "{name}" has {array.ndim} dimensions, over rank_max={RANK_MAX}')
    dtype = dtype_name(array)
    raw = _strings_to_bytes(name, array) if dtype == BYTES_DTYPE else _raw(array, DTYPES[dtype])
    return {"name": name, "dtype": dtype, "shape": list(array.shape)}, raw


def _raw(array: npt.NDArray[Any], dtype: np.dtype[Any]) -> memoryview:
    # order="C" copies only if it must, as does astype; ascontiguousarray would give a scalar a dimension
    flat = np.asarray(array.astype(dtype, copy=False), order="C").reshape(-1)
    return flat.view(np.uint8).data.toreadonly()


def _strings_to_bytes(name: str, array: npt.NDArray[Any]) -> memoryview:
    if array.size > STRINGS_MAX:
        raise InvalidArgument(f'tensor "{name}" has {array.size} strings, over strings_max={STRINGS_MAX}')
    pieces: list[bytes] = []
    for index, element in enumerate(array.reshape(-1).tolist()):
        if not isinstance(element, str | bytes):
            raise InvalidArgument(
                f'tensor "{name}": element {index} is {type(element).__name__}; an array of objects can be '
                "sent if each is str or bytes"
            )
        try:
            data = element.encode("utf-8") if isinstance(element, str) else element
        except UnicodeEncodeError:
            raise InvalidArgument(f'tensor "{name}": element {index} is no valid Unicode text') from None
        pieces += (_LENGTH.pack(len(data)), data)
    return memoryview(b"".join(pieces))


def _read_spec(spec: object) -> tuple[str, str, tuple[int, ...]]:
    if not isinstance(spec, dict):
        raise InputInvalid(f"a tensor is described by a map with name, dtype and shape, got {spec!r:.80}")
    name, dtype, shape = spec.get("name"), spec.get("dtype"), spec.get("shape")
    if type(name) is str and len(name) <= NAME_CHARS_MAX and type(dtype) is str and dtype in DTYPES:
        if (
            type(shape) is list
            and 0 < len(shape) <= _FEW
            and _INTEGER.issuperset(map(type, shape))
            and min(shape) >= 0
            and max(shape) <= _SMALL
        ):
            return name, dtype, tuple(shape)
        return name, dtype, _read_shape(name, shape)
    if not isinstance(name, str) or len(name) > NAME_CHARS_MAX:
        raise InputInvalid(
            f'a tensor\'s "name" must be a string of at most {NAME_CHARS_MAX} characters, got {name!r:.80}'
        )
    if not isinstance(dtype, str) or (dtype not in DTYPES and dtype != BYTES_DTYPE):
        expected = ", ".join([*DTYPES, BYTES_DTYPE])
        raise InputInvalid(f'tensor "{name}": "dtype" must be one of {expected}, got {dtype!r:.80}')
    return name, dtype, _read_shape(name, shape)


def _read_shape(name: str, shape: object) -> tuple[int, ...]:
    if not isinstance(shape, list | tuple) or len(shape) > RANK_MAX:
        raise InputInvalid(
            f'tensor "{name}": "shape" must be a list of at most rank_max={RANK_MAX} sizes, got {shape!r:.80}'
        )
    for size in shape:
        if not isinstance(size, int) or isinstance(size, bool) or size < 0:
            raise InputInvalid(
                f'tensor "{name}": "shape" must hold integers from 0 on, got {size!r:.80}; '
                "the shape of a tensor that is sent has no open dimension"
            )
    if math.prod(max(size, 1) for size in shape) > _DIMENSION_MAX:
        raise InputInvalid(
            f'tensor "{name}": a tensor of shape {list(shape)!r:.80} is larger than any message'
        )
    return tuple(shape)


def _field(spec: Any, name: str, field: str) -> object:
    if field not in spec:
        raise InputInvalid(f'tensor "{name}" lacks "{field}"; a spec has either "segment" or "data"')
    value: object = spec[field]
    return value


def _build(name: str, dtype: str, shape: tuple[int, ...], data: memoryview, text: bool) -> npt.NDArray[Any]:
    if dtype == BYTES_DTYPE:
        return _bytes_to_strings(name, shape, data, text)
    element = DTYPES[dtype]
    expected = math.prod(shape) * element.itemsize
    if len(data) != expected:
        raise InputInvalid(
            f'tensor "{name}": {dtype} of shape {list(shape)} takes {expected} bytes, got {len(data)}',
            details={"expected_bytes": expected, "got_bytes": len(data)},
        )
    if dtype == "BOOL" and expected and (highest := int(np.frombuffer(data, np.uint8).max())) > 1:
        raise InputInvalid(f'tensor "{name}": a BOOL is a byte of 0 or 1, got {highest}')
    return np.ndarray(shape, element, data if data.readonly else data.toreadonly())


def _bytes_to_strings(
    name: str, shape: tuple[int, ...], data: memoryview, text: bool
) -> npt.NDArray[np.object_]:
    count = math.prod(shape)
    if count > STRINGS_MAX:
        raise InputInvalid(f'tensor "{name}" has {count} strings, over strings_max={STRINGS_MAX}; send fewer')
    if count * _LENGTH.size > len(data):
        raise InputInvalid(
            f'tensor "{name}": BYTES of shape {list(shape)} takes at least {count * _LENGTH.size} bytes, '
            f"got {len(data)}"
        )
    array = np.empty(count, object)
    for index, element in enumerate(_split_strings(name, count, data)):
        array[index] = _decode_text(name, index, element) if text else element
    array = array.reshape(shape)
    array.flags.writeable = False
    return array


def _split_strings(name: str, count: int, data: memoryview) -> Iterable[bytes]:
    offset = 0
    for index in range(count):
        end = offset + _LENGTH.size
        if end <= len(data):
            end += _LENGTH.unpack_from(data, offset)[0]
        if end > len(data):
            raise InputInvalid(
                f'tensor "{name}": BYTES element {index} of {count} ends at byte {end}, got {len(data)} bytes'
            )
        yield bytes(data[offset + _LENGTH.size : end])
        offset = end
    if offset != len(data):
        raise InputInvalid(
            f'tensor "{name}": {count} BYTES elements take {offset} bytes, got {len(data)}; check the shape'
        )


def _decode_text(name: str, index: int, element: bytes) -> str:
    try:
        return element.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputInvalid(f'tensor "{name}": element {index} is no UTF-8 text: {error}') from None
