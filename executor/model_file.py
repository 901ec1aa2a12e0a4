"""What has to be known about a model's bytes before onnxruntime sees them.

Models arrive over the network. ONNX lets a tensor keep its data in another file, by path, and
older versions of onnxruntime also follow markers for raw memory addresses in that field: either way a
model can read what its author may not. Such models are refused here, whatever the runtime's version.
The walk also finds inputs and outputs of unknown rank, which onnxruntime's Python API shows like scalars.

Only the fields that lead to tensors are followed (onnx.proto, "ModelProto" and below; Protocol Buffers,
"Encoding"). Weights are stepped over, so the cost depends on the number of nodes, not on the size.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path

from executor.errors import ModelInvalid

Buffer = bytes | memoryview

MODEL_FIELDS_MAX = 20_000_000
"""How many protobuf fields a model may have: bounds the time that the walk takes."""

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5

_TENSOR = "tensor"
_CHILDREN: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: _TENSOR, 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: _TENSOR, 6: "graph", 10: _TENSOR, 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: _TENSOR, 2: _TENSOR},
    _TENSOR: {},
}
_TENSOR_EXTERNAL_DATA = 13
_TENSOR_DATA_LOCATION = 14
_MODEL_GRAPH, _GRAPH_INPUT, _GRAPH_OUTPUT = 7, 11, 12
_VALUE_NAME, _VALUE_TYPE, _TYPE_TENSOR, _TENSOR_SHAPE = 1, 2, 1, 2


def tensors_without_rank(model: Buffer) -> frozenset[str]:
    """Check a model's bytes, and name the inputs and outputs whose number of dimensions is open.

    Raises :class:`~executor.errors.ModelInvalid` for what is no protobuf message, for a model that keeps
    tensors outside its file, and for one with more than :data:`MODEL_FIELDS_MAX` fields.
    """
    view = memoryview(model)
    try:
        _refuse_external_data(view)
        return frozenset(_rankless(view))
    except (IndexError, UnicodeDecodeError) as error:
        raise ModelInvalid("these bytes are no ONNX model: a protobuf field is cut off or damaged") from error


def scan(model: bytes | Path) -> frozenset[str]:
    """Do :func:`tensors_without_rank` for a model in memory or in a file; the file is not read whole."""
    if isinstance(model, bytes):
        return tensors_without_rank(model)
    try:
        with model.open("rb") as file:
            # Not closed here: an error raised by the scan still refers to slices of it.
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return tensors_without_rank(memoryview(mapped))
    except (OSError, ValueError) as error:
        raise ModelInvalid(f"the model's file cannot be read: {error}") from error


def _refuse_external_data(view: memoryview) -> None:
    stack = [("model", view)]
    left = MODEL_FIELDS_MAX
    while stack:
        kind, message = stack.pop()
        children = _CHILDREN[kind]
        for number, wire_type, value in _fields(message):
            left -= 1
            if kind == _TENSOR and (
                number == _TENSOR_EXTERNAL_DATA or (number == _TENSOR_DATA_LOCATION and value != 0)
            ):
                raise ModelInvalid(
                    "this model keeps tensors outside its file, which is refused: a model is one file. "
                    "Save it again without external data."
                )
            if wire_type == _BYTES and number in children and isinstance(value, memoryview):
                stack.append((children[number], value))
        if left < 0:
            raise ModelInvalid(f"this model has more than model_fields_max = {MODEL_FIELDS_MAX} fields")


def _rankless(view: memoryview) -> Iterator[str]:
    for graph in _messages(view, _MODEL_GRAPH):
        for declared in (*_messages(graph, _GRAPH_INPUT), *_messages(graph, _GRAPH_OUTPUT)):
            names = [bytes(name).decode() for name in _messages(declared, _VALUE_NAME)]
            tensors = [
                tensor
                for of_type in _messages(declared, _VALUE_TYPE)
                for tensor in _messages(of_type, _TYPE_TENSOR)
            ]
            if names and tensors and not any(list(_messages(each, _TENSOR_SHAPE)) for each in tensors):
                yield names[-1]


def _messages(view: memoryview, wanted: int) -> Iterator[memoryview]:
    for number, _wire_type, value in _fields(view):
        if number == wanted and isinstance(value, memoryview):
            yield value


def _fields(view: memoryview) -> Iterator[tuple[int, int, int | memoryview]]:
    """Each field's number, wire type, and value; the values of fixed-size fields are not read."""
    at, end = 0, len(view)
    while at < end:
        tag, at = _varint(view, at)
        wire_type = tag & 7
        value: int | memoryview = 0
        if wire_type == _VARINT:
            value, at = _varint(view, at)
        elif wire_type == _BYTES:
            size, at = _varint(view, at)
            value = view[at : at + size]
            at += size
        elif wire_type in (_FIXED64, _FIXED32):
            at += 8 if wire_type == _FIXED64 else 4
        else:
            raise IndexError("a wire type that no ONNX message uses")
        if at > end:
            raise IndexError("a field that is cut off")
        yield tag >> 3, wire_type, value


def _varint(view: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while shift < 70:
        byte = view[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFF_FFFF_FFFF_FFFF, at
        shift += 7
    raise IndexError("a varint of more than ten bytes")
