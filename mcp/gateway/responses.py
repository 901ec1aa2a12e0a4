"""The answer to an inference, as JSON with raw tensors behind it.

It is made in pieces: whoever sends it can let others have the event loop in between. Pure.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from mcp.client.results import Inference
from mcp.errors import InvalidArgument
from mcp.gateway.limits import JSON_ELEMENTS_MAX
from mcp.gateway.requests import InferenceRequest
from mcp.gateway.tensors import Array, datatype_of, json_pieces, to_raw


def chosen_outputs(request: InferenceRequest, answer: Inference) -> dict[str, Array]:
    """The outputs that were asked for, in the order in which they were; all of them by default."""
    names = request.names
    return answer.outputs if names is None else {name: answer.outputs[name] for name in names}


def binary_parts(request: InferenceRequest, outputs: Mapping[str, Array]) -> dict[str, memoryview]:
    """The outputs that go out as binary data, in order.

    Raises :class:`~mcp.errors.InvalidArgument` where those that do not would be too many elements of JSON.
    """
    elements = sum(array.size for name, array in outputs.items() if not request.is_binary(name))
    if elements > JSON_ELEMENTS_MAX:
        raise InvalidArgument(
            f"the outputs have {elements} elements, over json_elements_max={JSON_ELEMENTS_MAX} for JSON;"
            ' ask for binary data with the parameter "binary_data_output": true'
        )
    return {name: to_raw(name, array) for name, array in outputs.items() if request.is_binary(name)}


def response_json(
    request: InferenceRequest,
    answer: Inference,
    outputs: Mapping[str, Array],
    parts: Mapping[str, memoryview],
) -> Iterator[str]:
    """The JSON of an answer, in pieces that take little time each. Raises as :func:`json_pieces` does."""
    head: dict[str, Any] = {"model_name": answer.model, "model_version": answer.version}
    parameters = answer_parameters(answer)
    if parameters:
        head["parameters"] = parameters
    if request.id is not None:
        head["id"] = request.id
    yield _dumped(head)[:-1] + ',"outputs":['
    for index, (name, array) in enumerate(outputs.items()):
        fields: dict[str, Any] = {"name": name, "shape": list(array.shape), "datatype": datatype_of(array)}
        if name in parts:
            fields["parameters"] = {"binary_data_size": len(parts[name])}
        yield ("," if index else "") + _dumped(fields)[:-1]
        if name not in parts:
            yield ',"data":'
            yield from json_pieces(name, array)
        yield "}"
    yield "]}"


def answer_parameters(answer: Inference) -> dict[str, str | float]:
    """What an answer has beside outputs: which fallback it is, and its age; nothing for the model's own."""
    found: dict[str, str | float] = {}
    if answer.fallback is not None:
        found["fallback"] = answer.fallback
    if answer.age_s is not None:
        found["age_s"] = answer.age_s
    return found


def _dumped(fields: Mapping[str, Any]) -> str:
    return json.dumps(fields, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
