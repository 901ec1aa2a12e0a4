"""Requests and answers of the gRPC form, from and to messages. Pure.

A tensor comes as raw bytes (``raw_input_contents``, one for each input) or in the field of ``contents`` that
its type has. Outputs always go out as raw bytes, which every client reads.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from mcp.client.results import Inference
from mcp.errors import InputInvalid, InvalidArgument
from mcp.gateway.limits import INPUTS_MAX
from mcp.gateway.parameters import read_parameters, read_wishes, refuse_tensor_parameters
from mcp.gateway.requests import InferenceRequest, read_id
from mcp.gateway.responses import answer_parameters, chosen_outputs
from mcp.gateway.tensors import Array, Objects, datatype_of, from_raw, read_name, to_raw
from mcp.wire.json_tensors import read_datatype, read_shape
from mcp.wire.tensors import BYTES_DTYPE, DTYPES

_WHERE: Final = "the request"
CONTENTS: Final[Mapping[str, str]] = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
"""The field of ``contents`` in which a type's elements are; FP16 has none and comes as raw bytes."""


def read_inference(message: Any) -> InferenceRequest:
    """What a ``ModelInferRequest`` asks.

    Raises :class:`~mcp.errors.InvalidArgument`, :class:`~mcp.errors.InputInvalid` or
    :class:`~mcp.errors.TooLarge`; each names the field.
    """
    wishes = read_wishes(_WHERE, parameters_of(_WHERE, message.parameters))
    if not 1 <= len(message.inputs) <= INPUTS_MAX or len(message.outputs) > INPUTS_MAX:
        raise InputInvalid(
            f'"inputs" are 1 to {INPUTS_MAX} tensors and "outputs" at most as many, got'
            f" {len(message.inputs)} and {len(message.outputs)}"
        )
    raw: Sequence[bytes] = message.raw_input_contents
    if raw and len(raw) != len(message.inputs):
        raise InvalidArgument(
            f'"raw_input_contents" has {len(raw)} entries for {len(message.inputs)} inputs; give one for each'
        )
    inputs: dict[str, Array] = {}
    objects = Objects()
    for index, tensor in enumerate(message.inputs):
        name, array = _read_input(f"inputs[{index}]", tensor, raw[index] if raw else None, objects)
        if name in inputs:
            raise InputInvalid(f'inputs[{index}] "{name:.80}": the name is there twice; names must differ')
        inputs[name] = array
    return InferenceRequest(inputs, _read_outputs(message.outputs), wishes, read_id(message.id or None))


def inference_response(message_class: Any, request: InferenceRequest, answer: Inference) -> Any:
    """The ``ModelInferResponse`` with the outputs that were asked for."""
    outputs = chosen_outputs(request, answer)
    message = message_class(model_name=answer.model, model_version=answer.version, id=request.id or "")
    for parameter, value in answer_parameters(answer).items():
        kind = "string_param" if isinstance(value, str) else "double_param"
        setattr(message.parameters[parameter], kind, value)
    for name, array in outputs.items():
        message.outputs.add(name=name, datatype=datatype_of(array), shape=array.shape)
        message.raw_output_contents.append(bytes(to_raw(name, array)))
    return message


def parameters_of(where: str, parameters: Mapping[str, Any]) -> Mapping[str, Any]:
    """Parameters as plain values by name. Raises :class:`~mcp.errors.InvalidArgument`."""
    plain = {}
    for name, value in parameters.items():
        chosen = value.WhichOneof("parameter_choice")
        plain[name] = None if chosen is None else getattr(value, chosen)
    return read_parameters(where, plain)


def _read_input(where: str, tensor: Any, raw: bytes | None, objects: Objects) -> tuple[str, Array]:
    name = read_name(where, tensor.name)
    where = f'{where} "{name:.80}"'
    refuse_tensor_parameters(where, parameters_of(where, tensor.parameters))
    datatype = read_datatype(where, tensor.datatype)
    shape = read_shape(where, list(tensor.shape))
    if raw is None or datatype == BYTES_DTYPE:
        objects.take(where, shape)
    if raw is None:
        return name, _from_contents(where, datatype, shape, tensor.contents)
    if tensor.HasField("contents"):
        raise InputInvalid(f'{where}: has both "contents" and "raw_input_contents"; give one')
    return name, from_raw(where, name, datatype, shape, raw)


def _read_outputs(outputs: Sequence[Any]) -> dict[str, bool] | None:
    wanted: dict[str, bool] = {}
    for index, tensor in enumerate(outputs):
        where = f"outputs[{index}]"
        name = read_name(where, tensor.name)
        if name in wanted:
            raise InvalidArgument(f'{where}: the name "{name:.80}" is there twice; names must differ')
        refuse_tensor_parameters(where, parameters_of(where, tensor.parameters))
        wanted[name] = True
    return wanted or None


def _from_contents(where: str, datatype: str, shape: tuple[int, ...], contents: Any) -> Array:
    field = CONTENTS.get(datatype)
    if field is None:
        raise InputInvalid(f'{where}: {datatype} has no field in "contents"; send "raw_input_contents"')
    strange = [other.name for other, _ in contents.ListFields() if other.name != field]
    if strange:
        raise InputInvalid(f'{where}: {datatype} is sent in "{field}", got "{strange[0]}"')
    elements = getattr(contents, field)
    if len(elements) != math.prod(shape):
        raise InputInvalid(
            f'{where}: "{field}" must hold {math.prod(shape)} elements for the shape {list(shape)}, got'
            f" {len(elements)}"
        )
    if datatype == BYTES_DTYPE:
        strings = np.empty(len(elements), object)
        strings[:] = list(elements)
        return strings.reshape(shape)
    try:
        return np.array(list(elements), DTYPES[datatype]).reshape(shape)
    except OverflowError:
        raise InputInvalid(f'{where}: "{field}" holds a number that is no {datatype}') from None
