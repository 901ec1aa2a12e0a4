"""Every operation of the REST gateway, once: its routes are made of this, and what it publishes of them too.

Pure. An operation's ``name`` is its ``operationId`` and its label in the metrics; ``endpoint`` is the method
that answers it. Of two paths that fit a request, the one that stands first here is meant.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from mcp.gateway.limits import WAIT_S_MAX
from mcp.gateway.schemas import Schema

JSON: Final = "application/json"
BINARY: Final = "application/octet-stream"
EVENTS: Final = "text/event-stream"
PLAIN: Final = "text/plain"

_BODY_ERRORS: Final = (400, 408, 413, 429)
_CLUSTER_ERRORS: Final = (429, 503, 504)
_MODEL_ERRORS: Final = (400, 404)


@dataclass(frozen=True, slots=True)
class Told:
    """An answer that is no error: the name of its schema, and its media types."""

    meaning: str
    schema: str
    media: tuple[str, ...] = (JSON,)


@dataclass(frozen=True, slots=True)
class Operation:
    """One method of one path. ``query``: parameters by name, each a schema and what it means."""

    name: str
    method: str
    path: str
    summary: str
    answers: Mapping[int, Told]
    errors: tuple[int, ...] = ()
    body: str | None = None
    body_required: bool = False
    body_media: tuple[str, ...] = (JSON,)
    query: Mapping[str, tuple[Schema, str]] = field(default_factory=dict)
    endpoint: str = ""

    @property
    def answered_by(self) -> str:
        """The name of the method that answers it."""
        return self.endpoint or self.name

    @property
    def status_codes(self) -> tuple[int, ...]:
        """Every status that it may have."""
        return tuple(sorted({*self.answers, *self.errors}))


def _ok(meaning: str, schema: str, *media: str) -> dict[int, Told]:
    return {200: Told(meaning, schema, media or (JSON,))}


def _ready(schema: str) -> dict[int, Told]:
    return {200: Told("It is.", schema), 503: Told("It is not, and why.", schema)}


_MODEL: Final = "/v2/models/{model}"
_VERSION: Final = f"{_MODEL}/versions/{{version}}"
_ACTIONS: Final = "/v2/repository/models/{model}"
_INFER: Final[dict[str, Any]] = {
    "answers": _ok("The outputs, as JSON or with raw tensors behind it.", "Answer", JSON, BINARY),
    "errors": (*_BODY_ERRORS, 404, 501, 503, 504),
    "body": "Inference",
    "body_required": True,
    "body_media": (JSON, BINARY),
    "endpoint": "infer",
}
_METADATA: Final[dict[str, Any]] = {
    "answers": _ok("Inputs, outputs and versions.", "Model"),
    "errors": (400, 404, 501, *_CLUSTER_ERRORS),
    "endpoint": "model",
}
_MODEL_READY: Final[dict[str, Any]] = {
    "answers": _ready("ModelReady"),
    "errors": (*_MODEL_ERRORS, *_CLUSTER_ERRORS),
    "endpoint": "model_ready",
}
_STATISTICS: Final[dict[str, Any]] = {
    "answers": _ok("Requests that this gateway answered.", "Statistics"),
    "errors": (*_MODEL_ERRORS, *_CLUSTER_ERRORS),
    "endpoint": "statistics",
}
_ACTION: Final[dict[str, Any]] = {
    "answers": _ok("Done.", "Nothing"),
    "errors": (*_BODY_ERRORS, 403, 404, 501, 503, 504),
}
_ENCODING: Final = (
    {"enum": ["list", "base64"], "default": "list"},
    'Tensors as lists, or as {"$bytes": base64} of their raw bytes.',
)

OPEN_INFERENCE: Final = (
    Operation("server", "GET", "/v2", "The server and its extensions.", _ok("They are.", "Server")),
    Operation("live", "GET", "/v2/health/live", "Whether the server answers.", _ok("It does.", "Live")),
    Operation(
        "ready",
        "GET",
        "/v2/health/ready",
        "Whether this node can answer for the cluster.",
        _ready("Ready"),
        errors=_CLUSTER_ERRORS,
    ),
    Operation("all_statistics", "GET", "/v2/models/stats", "Statistics of all models.", **_STATISTICS),
    Operation(
        "index",
        "POST",
        "/v2/repository/index",
        "Every version of every model, and its state.",
        _ok("They are.", "RepositoryIndex"),
        errors=(*_BODY_ERRORS, 503, 504),
        body="RepositoryRequest",
    ),
    Operation(
        "load",
        "POST",
        f"{_ACTIONS}/load",
        "Whether a model is known, as nodes load by themselves.",
        body="RepositoryLoad",
        **_ACTION,
    ),
    Operation(
        "unload",
        "POST",
        f"{_ACTIONS}/unload",
        "Take a model out of service.",
        body="RepositoryAction",
        **_ACTION,
    ),
    Operation("infer_version", "POST", f"{_VERSION}/infer", "An inference by one version.", **_INFER),
    Operation("version_ready", "GET", f"{_VERSION}/ready", "Whether a node has it ready.", **_MODEL_READY),
    Operation("version_statistics", "GET", f"{_VERSION}/stats", "Its statistics.", **_STATISTICS),
    Operation("infer", "POST", f"{_MODEL}/infer", "An inference.", **_INFER),
    Operation("model_ready", "GET", f"{_MODEL}/ready", "Whether a node has it ready.", **_MODEL_READY),
    Operation("model_statistics", "GET", f"{_MODEL}/stats", "Its statistics.", **_STATISTICS),
    Operation("version", "GET", _VERSION, "What a version takes and gives.", **_METADATA),
    Operation("model", "GET", _MODEL, "What a model takes and gives.", **_METADATA),
)
"""The Open Inference Protocol, and Triton's extensions of statistics and of the model repository."""

COORDINATION: Final = (
    Operation(
        "message",
        "POST",
        "/mcp/v1/messages",
        "A message of our protocol: an inference, or a stream of steps as server-sent events.",
        {
            200: Told(
                "INFER_REQUEST: the answer. INFER_STREAM: an event for each step, and one for the end.",
                "MessageAnswer",
                (JSON, EVENTS),
            )
        },
        errors=(*_BODY_ERRORS, 404, 501, 503, 504),
        body="Message",
        body_required=True,
    ),
    Operation(
        "submit",
        "POST",
        "/mcp/v1/inferences",
        "Put an inference into the log: it survives any node, and its result is recorded once.",
        {202: Told("It is in the log; its record is at the URL.", "Submitted")},
        errors=(*_BODY_ERRORS, 404, 501, 503, 504),
        body="Submission",
        body_required=True,
    ),
    Operation(
        "record",
        "GET",
        "/mcp/v1/inferences/{id}",
        "The record of a submitted inference, as it is by now.",
        _ok("It is.", "Record"),
        errors=(400, 404, *_CLUSTER_ERRORS),
        query={
            "wait_s": (
                {"type": "number", "minimum": 0, "maximum": WAIT_S_MAX, "default": 0},
                "Seconds to wait for its end.",
            ),
            "encoding": _ENCODING,
        },
    ),
    Operation(
        "cluster",
        "GET",
        "/mcp/v1/cluster",
        "Every node as it is by its own word, as of a second ago at most.",
        _ok("They are.", "Cluster"),
        errors=_CLUSTER_ERRORS,
    ),
)
"""What the Open Inference Protocol lacks."""

OBSERVATION: Final = (
    Operation(
        "metrics",
        "GET",
        "/metrics",
        "Metrics in Prometheus's text format.",
        _ok("docs/observing.md says what they mean.", "Text", PLAIN),
        errors=(400,),
        query={
            "names": (
                {"enum": ["mcp", "nv"], "default": "mcp"},
                "nv: under the names that Triton's dashboards know, and only those.",
            )
        },
    ),
    Operation("livez", "GET", "/livez", "Whether the node should go on.", _ready("NodeLive")),
    Operation(
        "readyz",
        "GET",
        "/readyz",
        "Whether the node can take part, and at which log position.",
        _ready("NodeReady"),
    ),
    Operation("openapi", "GET", "/openapi.json", "This description.", _ok("It is.", "Description")),
)
"""For those who run nodes."""

OPERATIONS: Final = (*OPEN_INFERENCE, *COORDINATION, *OBSERVATION)
"""All of them."""
