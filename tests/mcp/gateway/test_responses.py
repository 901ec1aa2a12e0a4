"""Answers: read back as a client of the field does it, they are what the model gave."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from mcp.client.results import Inference
from mcp.errors import InvalidArgument
from mcp.gateway.limits import JSON_ELEMENTS_MAX
from mcp.gateway.parameters import Wishes
from mcp.gateway.requests import InferenceRequest
from mcp.gateway.responses import binary_parts, chosen_outputs, response_json
from mcp.gateway.tensors import Array, from_raw
from mcp.wire.json_tensors import from_json

OUTPUTS = {
    "a": np.array([[1.5, -0.0], [3e-45, 0.1]], np.float32),
    "s": np.array(["ä", b"\xc3\xa4", ""], object),
    "n": np.array(2**63 - 1),
    "e": np.empty((0, 3), np.float16),
}


def asked(outputs: dict[str, bool] | None = None, binary: bool = False) -> InferenceRequest:
    return InferenceRequest({}, outputs, Wishes(binary=binary), "7")


def answered(request: InferenceRequest, outputs: dict[str, Array]) -> tuple[dict[str, Any], bytes]:
    answer = Inference(outputs, "m", "3", "n1")
    chosen = chosen_outputs(request, answer)
    parts = binary_parts(request, chosen)
    text = "".join(response_json(request, answer, chosen, parts))
    return json.loads(text), b"".join(parts.values())


def read(head: dict[str, Any], behind: bytes) -> dict[str, Array]:
    """As Triton's client reads it: binary outputs lie behind the JSON in its order."""
    found, offset = {}, 0
    for output in head["outputs"]:
        name, datatype, shape = output["name"], output["datatype"], tuple(output["shape"])
        if "parameters" in output:
            end = offset + output["parameters"]["binary_data_size"]
            found[name] = from_raw(name, name, datatype, shape, behind[offset:end])
            offset = end
        else:
            found[name] = from_json(name, datatype, shape, output["data"])
    assert offset == len(behind)
    return found


def strings(array: Array) -> list[bytes]:
    return [each.encode() if isinstance(each, str) else each for each in array.reshape(-1)]


@pytest.mark.parametrize("request_", [asked(), asked(binary=True), asked({"s": True, "a": False, "e": True})])
def test_outputs_are_what_the_model_gave_in_either_form(request_: InferenceRequest) -> None:
    head, behind = answered(request_, OUTPUTS)
    assert (head["model_name"], head["model_version"], head["id"]) == ("m", "3", "7")
    found = read(head, behind)
    assert list(found) == (request_.names or list(OUTPUTS))
    for name, array in found.items():
        assert array.shape == OUTPUTS[name].shape
        if array.dtype.kind == "O":
            assert strings(array) == strings(OUTPUTS[name])
        else:
            assert array.tobytes() == OUTPUTS[name].tobytes()
        assert ("parameters" in head["outputs"][list(found).index(name)]) == request_.is_binary(name)


def test_an_answer_without_an_id_has_none() -> None:
    assert "id" not in answered(InferenceRequest({}, None, Wishes()), OUTPUTS)[0]


def test_so_many_elements_go_as_binary_data_only() -> None:
    outputs = {"y": np.zeros(JSON_ELEMENTS_MAX + 1, np.int8)}
    with pytest.raises(InvalidArgument, match="binary_data_output"):
        answered(asked(), outputs)
    head, behind = answered(asked(binary=True), outputs)
    assert len(behind) == head["outputs"][0]["shape"][0]
