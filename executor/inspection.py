"""What a model declares, in the words of the Open Inference Protocol.

Data types are the protocol's names (BOOL, INT8 to INT64, UINT8 to UINT64, FP16, FP32, FP64, BYTES for
strings). Types that it has no name for (bfloat16, sequences, maps, sparse tensors) cannot be served.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

Dimension = int | str | None
"""A fixed size, the name of a dynamic one, or ``None`` for a dynamic one without a name."""

Shape = tuple[Dimension, ...] | None
"""``None`` if the model leaves the number of dimensions open."""

NUMPY_TYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    "INT8": np.dtype(np.int8),
    "INT16": np.dtype(np.int16),
    "INT32": np.dtype(np.int32),
    "INT64": np.dtype(np.int64),
    "UINT8": np.dtype(np.uint8),
    "UINT16": np.dtype(np.uint16),
    "UINT32": np.dtype(np.uint32),
    "UINT64": np.dtype(np.uint64),
    "FP16": np.dtype(np.float16),
    "FP32": np.dtype(np.float32),
    "FP64": np.dtype(np.float64),
    "BYTES": np.dtype(object),
}
"""The numpy type of each data type, in this machine's byte order. Strings are object arrays of ``str``."""

_NAMES = {dtype: name for name, dtype in NUMPY_TYPES.items()}

_ONNX_NAMES = {
    "tensor(bool)": "BOOL",
    "tensor(float16)": "FP16",
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(string)": "BYTES",
    **{
        f"tensor({sign}int{bits})": f"{sign.upper()}INT{bits}"
        for sign in ("", "u")
        for bits in (8, 16, 32, 64)
    },
}


def dtype_of_onnx(onnx_type: str) -> str | None:
    """The protocol's name of an ONNX type such as ``tensor(float)``; ``None`` if it has none."""
    return _ONNX_NAMES.get(onnx_type)


def dtype_of_array(array: np.ndarray[Any, Any]) -> str | None:
    """The protocol's name of an array's type; ``None`` if it has none or the byte order is foreign."""
    if array.dtype.kind == "U" and array.dtype.isnative:
        return "BYTES"
    return _NAMES.get(array.dtype)


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One declared input or output."""

    name: str
    dtype: str
    shape: Shape

    def to_spec(self) -> dict[str, object]:
        """As plain data: ``{"name", "dtype", "shape"}``; an open shape is ``None``."""
        return {
            "name": self.name,
            "dtype": self.dtype,
            "shape": None if self.shape is None else list(self.shape),
        }


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What a loaded model declares, and what it runs on.

    ``providers`` are the execution providers in use, in order of preference, by short name ("cpu",
    "cuda"). ``fallback`` are those that were asked for and are not in use: empty unless a fallback
    was allowed. ``outputs_unsupported`` are outputs whose type the protocol cannot carry; they are
    not computed. ``size_bytes`` is the size of the model's file.
    """

    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    providers: tuple[str, ...]
    fallback: tuple[str, ...] = ()
    outputs_unsupported: tuple[str, ...] = ()
    size_bytes: int = 0


def format_shape(shape: Shape) -> str:
    """A shape for people: ``[batch, 64, ?]``, or ``[...]`` for one of any rank."""
    if shape is None:
        return "[...]"
    return "[" + ", ".join("?" if size is None else str(size) for size in shape) + "]"
