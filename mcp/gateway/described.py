"""What a gateway tells of the server, of models and of how they are: plain values for JSON.

Pure. Source: Open Inference Protocol, "Server Metadata" and "Model Metadata"; Triton's "Model Repository
Extension".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from mcp.client.results import ClusterStatus, ModelStatus
from mcp.errors import ModelNotFound
from mcp.version import VERSION

SERVER_NAME: Final = "mcp"
PLATFORM: Final = "onnxruntime_onnx"
EXTENSIONS: Final = ("binary_tensor_data", "statistics", "model_repository")

_NAMES_SHOWN: Final = 10


def server_metadata() -> dict[str, Any]:
    """The answer to ``GET /v2``."""
    return {"name": SERVER_NAME, "version": VERSION, "extensions": list(EXTENSIONS)}


def find_model(models: Sequence[ModelStatus], name: str, version: str | None) -> ModelStatus:
    """The model with that name or alias, which has that version.

    Raises :class:`~mcp.errors.ModelNotFound` with the names that there are.
    """
    found = next((model for model in models if name == model.name), None) or next(
        (model for model in models if name in model.aliases), None
    )
    if found is None:
        names = ", ".join(model.name for model in models[:_NAMES_SHOWN]) or "none"
        raise ModelNotFound(f"there is no model {name!r:.80}; there are: {names}")
    if version is not None and version not in found.versions:
        versions = ", ".join(found.versions[:_NAMES_SHOWN])
        raise ModelNotFound(f"model {found.name} has no version {version!r:.80}; it has {versions}")
    return found


def model_metadata(model: ModelStatus) -> dict[str, Any]:
    """The answer to ``GET /v2/models/NAME``: dimensions that are open are -1."""
    return {
        "name": model.name,
        "versions": list(model.versions),
        "platform": PLATFORM,
        "inputs": [_tensor(spec) for spec in model.inputs or ()],
        "outputs": [_tensor(spec) for spec in model.outputs or ()],
    }


def is_ready(model: ModelStatus, version: str | None, status: ClusterStatus) -> bool:
    """Whether a node that answers can run it now; versions beside the active one are loaded when asked."""
    if version not in (None, model.version):
        return bool(status.reachable)
    return any(each.ready for each in _told(model.name, status))


def _told(name: str, status: ClusterStatus) -> list[ModelStatus]:
    """What the nodes that answer say of a model."""
    return [each for node in status.reachable for each in node.models if each.name == name]


def repository_index(models: Sequence[ModelStatus], status: ClusterStatus) -> list[dict[str, str]]:
    """Every version of every model with its ``state``: READY, LOADING or UNAVAILABLE, and why."""
    # By name, once: with a thousand models, looking each up among all of every node holds up the loop.
    told: dict[str, list[ModelStatus]] = {model.name: [] for model in models}
    for node in status.reachable:
        for each in node.models:
            told.get(each.name, []).append(each)
    answering = bool(status.reachable)
    return [
        {
            "name": model.name,
            "version": version,
            **_state(told[model.name], active=version == model.version, answering=answering),
        }
        for model in models
        for version in model.versions
    ]


def _state(told: Sequence[ModelStatus], *, active: bool, answering: bool) -> dict[str, str]:
    if any(each.ready for each in told) if active else answering:
        return {"state": "READY", "reason": ""}
    problem = next((each.problem for each in told if each.problem is not None), None)
    if problem is not None:
        return {"state": "UNAVAILABLE", "reason": f"{problem.code}: {problem.message}"}
    return {"state": "LOADING", "reason": ""}


def _tensor(spec: Mapping[str, Any]) -> dict[str, Any]:
    shape = spec.get("shape")
    sizes = [-1] if shape is None else [size if isinstance(size, int) else -1 for size in shape]
    return {"name": spec.get("name"), "datatype": spec.get("dtype"), "shape": sizes}
