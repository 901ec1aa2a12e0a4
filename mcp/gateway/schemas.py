"""The bodies of requests and answers as JSON Schema, by name: what the published description refers to. Pure.

Source: JSON Schema 2020-12, as OpenAPI 3.1 takes it; the protocols' own words for the fields.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from mcp.cluster.router.requests import HEADER_CHARS_MAX, HEADERS_MAX, PRIORITY_MAX, SESSION_CHARS_MAX
from mcp.gateway.limits import INPUTS_MAX, NAME_CHARS_MAX, PARAMETERS_MAX
from mcp.wire.messages import HOPS_MAX, TTL_MS_MAX
from mcp.wire.messages import NAME_CHARS_MAX as MESSAGE_NAME_CHARS_MAX
from mcp.wire.tensors import BYTES_DTYPE, DTYPES, RANK_MAX

Schema = dict[str, Any]

TEXT: Final[Schema] = {"type": "string"}
FLAG: Final[Schema] = {"type": "boolean"}
COUNT: Final[Schema] = {"type": "integer", "minimum": 0}
NUMBER: Final[Schema] = {"type": "number"}
ANYTHING: Final[Schema] = {}
_UINT64: Final[Schema] = {"type": "integer", "minimum": 0, "maximum": 2**64 - 1}
_NAME: Final[Schema] = {"type": "string", "minLength": 1, "maxLength": NAME_CHARS_MAX}
_DATATYPE: Final[Schema] = {"enum": [*DTYPES, BYTES_DTYPE]}


def reference(name: str) -> Schema:
    """What stands for a named schema."""
    return {"$ref": f"#/components/schemas/{name}"}


def array(items: Schema, **bounds: int) -> Schema:
    """A list of these."""
    return {"type": "array", "items": items, **bounds}


def fields(required: str = "", **properties: Schema) -> Schema:
    """An object; ``required`` are names, parted by spaces. Further fields are allowed."""
    made: Schema = {"type": "object", "properties": properties}
    return {**made, "required": required.split()} if required else made


def nullable(schema: Schema) -> Schema:
    """That, or null."""
    return {"anyOf": [schema, {"type": "null"}]}


_SHAPE: Final = array(COUNT, maxItems=RANK_MAX)
_PARAMETERS: Final[Schema] = {
    "type": "object",
    "maxProperties": PARAMETERS_MAX,
    "additionalProperties": {"type": ["string", "number", "boolean"]},
}
_TENSOR_PARAMETERS: Final[Schema] = {**_PARAMETERS, "properties": {"binary_data_size": _UINT64}}
_OUTPUT_PARAMETERS: Final[Schema] = {**_PARAMETERS, "properties": {"binary_data": FLAG}}
_REQUEST_PARAMETERS: Final[Schema] = {
    **_PARAMETERS,
    "properties": {"timeout": _UINT64, "priority": _UINT64, "binary_data_output": FLAG},
}
_BYTES: Final = fields("$bytes", **{"$bytes": {"type": "string", "contentEncoding": "base64"}})
_DATA: Final[Schema] = {"anyOf": [array(ANYTHING), _BYTES]}
_NATIVE_TENSOR: Final = fields("dtype shape data", name=TEXT, dtype=_DATATYPE, shape=_SHAPE, data=_DATA)
_TOLD_TENSOR: Final = fields("name dtype shape data", name=TEXT, dtype=_DATATYPE, shape=_SHAPE, data=_DATA)
_SPEC: Final = fields(
    "name datatype shape",
    name=TEXT,
    datatype=_DATATYPE,
    shape=array({"type": "integer", "minimum": -1}),
)
_DURATION: Final = fields("count ns", count=COUNT, ns=COUNT)
_DURATIONS: Final = (
    *("success", "fail", "queue", "compute_input", "compute_infer", "compute_output"),
    *("cache_hit", "cache_miss"),
)
_MESSAGE_NAME: Final[Schema] = {"type": "string", "minLength": 1, "maxLength": MESSAGE_NAME_CHARS_MAX}
_MESSAGE_HEAD: Final[dict[str, Schema]] = {
    "mcp_version": {"type": "string", "pattern": r"^1\.[0-9]+$"},
    "id": _MESSAGE_NAME,
    "trace_id": {"type": "string", "maxLength": MESSAGE_NAME_CHARS_MAX},
    "vector": {"type": "object", "additionalProperties": COUNT},
    "ttl": fields(
        hops={"type": "integer", "minimum": 0, "maximum": HOPS_MAX},
        ms={"type": "integer", "minimum": 0, "maximum": TTL_MS_MAX},
    ),
}
_ENCODING: Final[Schema] = {"enum": ["list", "base64"]}
_ASK: Final[dict[str, Schema]] = {
    "model_hint": {"type": "string", "minLength": 1},
    "data_chunk": TEXT,
    "inputs": array(_NATIVE_TENSOR, minItems=1, maxItems=INPUTS_MAX),
    "outputs": array(_NAME, maxItems=INPUTS_MAX),
    "timeout_ms": {"type": "integer", "minimum": 1},
    "encoding": _ENCODING,
}
_ROUTED: Final[dict[str, Schema]] = {
    "session": {"type": "string", "minLength": 1, "maxLength": SESSION_CHARS_MAX},
    "headers": {
        "type": "object",
        "maxProperties": HEADERS_MAX,
        "additionalProperties": {"type": "string", "maxLength": HEADER_CHARS_MAX},
    },
    "priority": {"type": "integer", "minimum": -PRIORITY_MAX, "maximum": PRIORITY_MAX},
}
_STREAM: Final[dict[str, Schema]] = {
    "carry": {"type": "object", "additionalProperties": TEXT},
    "steps": {"type": "integer", "minimum": 1},
    "until": TEXT,
}


def _asking(**properties: Schema) -> Schema:
    """The payload of a message that asks a model: with a text or with tensors, not with both."""
    one_of = [{"required": ["data_chunk"]}, {"required": ["inputs"]}]
    return {**fields("model_hint", **_ASK, **properties), "oneOf": one_of}


_FALLBACK: Final[dict[str, Schema]] = {
    "fallback": {"enum": ["model", "cached", "fixed"]},
    "age_s": {"type": "number", "minimum": 0},
}
_NODE: Final = fields(
    "address reachable",
    node=nullable(TEXT),
    address=TEXT,
    reachable=FLAG,
    problem=nullable(TEXT),
    role=nullable(TEXT),
    term=COUNT,
    leader=nullable(TEXT),
    standing=TEXT,
    commit_index=COUNT,
    applied_index=COUNT,
    last_index=COUNT,
    first_index=COUNT,
    storage=TEXT,
    uptime_s=NUMBER,
    package_version=nullable(TEXT),
)

SCHEMAS: Final[Mapping[str, Schema]] = {
    "Error": fields("error", error=TEXT),
    "Nothing": {"type": "object", "maxProperties": 0},
    "Server": fields("name version extensions", name=TEXT, version=TEXT, extensions=array(TEXT)),
    "Live": fields("live", live=FLAG),
    "Ready": fields("live ready", live=FLAG, ready=FLAG, error=TEXT),
    "Model": fields(
        "name versions platform inputs outputs",
        name=TEXT,
        versions=array(TEXT),
        platform=TEXT,
        inputs=array(_SPEC),
        outputs=array(_SPEC),
    ),
    "ModelReady": fields("name ready", name=TEXT, ready=FLAG, error=TEXT),
    "Statistics": fields(
        "model_stats",
        model_stats=array(
            fields(
                "name version inference_count inference_stats",
                name=TEXT,
                version=TEXT,
                last_inference=COUNT,
                inference_count=COUNT,
                execution_count=COUNT,
                inference_stats=fields(" ".join(_DURATIONS), **dict.fromkeys(_DURATIONS, _DURATION)),
                batch_stats=array(ANYTHING),
            )
        ),
    ),
    "Inference": fields(
        "inputs",
        id={"type": "string", "maxLength": NAME_CHARS_MAX},
        parameters=_REQUEST_PARAMETERS,
        inputs=array(
            fields(
                "name datatype shape",
                name=_NAME,
                datatype=_DATATYPE,
                shape=_SHAPE,
                parameters=_TENSOR_PARAMETERS,
                data=array(ANYTHING),
            ),
            minItems=1,
            maxItems=INPUTS_MAX,
        ),
        outputs=array(fields("name", name=_NAME, parameters=_OUTPUT_PARAMETERS), maxItems=INPUTS_MAX),
    ),
    "Answer": fields(
        "model_name model_version outputs",
        model_name=TEXT,
        model_version=TEXT,
        id=TEXT,
        parameters=fields("", **_FALLBACK),
        outputs=array(
            fields(
                "name shape datatype",
                name=TEXT,
                shape=_SHAPE,
                datatype=_DATATYPE,
                parameters=_TENSOR_PARAMETERS,
                data=array(ANYTHING),
            )
        ),
    ),
    "RepositoryRequest": fields(ready=FLAG),
    "RepositoryIndex": array(
        fields("name version state reason", name=TEXT, version=TEXT, state=TEXT, reason=TEXT)
    ),
    "RepositoryLoad": fields(parameters={"type": "object", "maxProperties": 0}),
    "RepositoryAction": fields(parameters=_PARAMETERS),
    "Message": fields(
        "mcp_version type payload",
        **_MESSAGE_HEAD,
        type={"enum": ["INFER_REQUEST", "INFER_STREAM"]},
        payload=_asking(**_STREAM, **_ROUTED),
    ),
    "MessageAnswer": fields(
        "mcp_version id type trace_id payload",
        **_MESSAGE_HEAD,
        type={"const": "INFER_RESPONSE"},
        payload=fields(
            "model version node outputs",
            model=TEXT,
            version=TEXT,
            node=TEXT,
            outputs=array(_TOLD_TENSOR),
            **_FALLBACK,
        ),
    ),
    "Submission": fields(
        "mcp_version type payload",
        **_MESSAGE_HEAD,
        type={"const": "INFER_REQUEST"},
        payload=_asking(mode={"enum": ["durable", "replicated"]}),
    ),
    "Submitted": fields("id url", id=TEXT, url=TEXT),
    "Record": fields(
        "id status mode model version attempts",
        id=TEXT,
        status={"enum": ["waiting", "assigned", "done", "failed"]},
        mode={"enum": ["durable", "replicated"]},
        model=TEXT,
        version=TEXT,
        node=nullable(TEXT),
        token=COUNT,
        attempts=COUNT,
        error=nullable(fields("code message", code=TEXT, message=TEXT)),
        replicas={
            "type": "object",
            "additionalProperties": fields("equal", equal=FLAG, max_abs_diff=nullable(NUMBER)),
        },
        outputs=nullable(array(_TOLD_TENSOR)),
    ),
    "Cluster": fields(
        "leader term voters serves nodes models",
        leader=nullable(TEXT),
        term=COUNT,
        voters=array(TEXT),
        serves=FLAG,
        nodes=array(_NODE),
        models=array(
            fields(
                "name version versions aliases",
                name=TEXT,
                version=TEXT,
                versions=array(TEXT),
                aliases=array(TEXT),
                holders=array(TEXT),
            )
        ),
    ),
    "NodeLive": fields("live", live=FLAG, error=TEXT),
    "NodeReady": fields(
        "ready", ready=FLAG, error=TEXT, node=TEXT, term=COUNT, log_position=COUNT, commit_index=COUNT
    ),
    "Text": TEXT,
    "Description": {"type": "object"},
}
"""By the names under which the description refers to them."""
