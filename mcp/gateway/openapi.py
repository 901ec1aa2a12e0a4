"""The published description of the REST gateway, made of what its routes are made of. Pure.

Source: OpenAPI Specification 3.1.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from mcp.gateway.description import JSON, Operation, Told
from mcp.gateway.schemas import SCHEMAS, Schema, reference
from mcp.version import VERSION

VERSION_OF_FORMAT: Final = "3.1.0"
ERROR_CODE: Final = "MCP-Error-Code"
"""The header that has our error's code, as on every other wire."""

_PARAMETER: Final = re.compile(r"\{(\w+)\}")
_NAMES: Final[Mapping[str, tuple[Schema, str]]] = {
    "model": ({"type": "string", "minLength": 1}, "A model's name or alias; slashes may be in it."),
    "version": ({"type": "string", "minLength": 1}, "A version of the model."),
    "id": ({"type": "string", "pattern": "^[A-Za-z0-9._-]{1,64}$"}, "The id of a submitted inference."),
}
_ERRORS: Final[Mapping[int, str]] = {
    400: "The request is wrong, and stays so; the message names the field.",
    403: "Not here.",
    404: "There is no such model, version or record.",
    408: "The body did not come in time.",
    413: "Too large.",
    429: "Too much at once: come back after Retry-After seconds.",
    501: "The cluster cannot tell or do this.",
    503: "This server cannot answer now, or the model failed: try another one.",
    504: "It did not end in its time.",
}


def openapi(operations: Sequence[Operation]) -> dict[str, Any]:
    """The description of these operations, as plain values for JSON."""
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _operation(operation)
    return {
        "openapi": VERSION_OF_FORMAT,
        "info": {
            "title": "Message Coordination Protocol: the gateway of a node",
            "version": VERSION,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": paths,
        "components": {"schemas": dict(SCHEMAS)},
    }


def _operation(operation: Operation) -> dict[str, Any]:
    made: dict[str, Any] = {
        "operationId": operation.name,
        "summary": operation.summary,
        "parameters": [*_path_parameters(operation), *_query_parameters(operation)],
        "responses": {
            **{str(status): _answer(told) for status, told in operation.answers.items()},
            **{
                str(status): _error(status)
                for status in operation.status_codes
                if status not in operation.answers
            },
        },
    }
    if operation.body is not None:
        content = {media: _media(media, operation.body) for media in operation.body_media}
        made["requestBody"] = {"required": operation.body_required, "content": content}
    return made


def _path_parameters(operation: Operation) -> list[dict[str, Any]]:
    return [
        _parameter(name, "path", *_NAMES[name], required=True) for name in _PARAMETER.findall(operation.path)
    ]


def _query_parameters(operation: Operation) -> list[dict[str, Any]]:
    return [_parameter(name, "query", *told, required=False) for name, told in operation.query.items()]


def _parameter(name: str, place: str, schema: Schema, meaning: str, *, required: bool) -> dict[str, Any]:
    return {"name": name, "in": place, "required": required, "description": meaning, "schema": schema}


def _answer(told: Told) -> dict[str, Any]:
    content = {media: _media(media, told.schema) for media in told.media}
    return {"description": told.meaning, "content": content}


def _media(media: str, schema: str) -> dict[str, Any]:
    """JSON has a schema; what has JSON in it and more behind it, or is a text, has none of JSON's."""
    return {"schema": reference(schema)} if media == JSON else {"schema": {"type": "string"}}


def _error(status: int) -> dict[str, Any]:
    headers: dict[str, Any] = {ERROR_CODE: {"description": "Our code.", "schema": {"type": "string"}}}
    if status == 429:
        headers["Retry-After"] = {"description": "Seconds.", "schema": {"type": "integer", "minimum": 1}}
    return {
        "description": _ERRORS[status],
        "headers": headers,
        "content": {JSON: {"schema": reference("Error")}},
    }
