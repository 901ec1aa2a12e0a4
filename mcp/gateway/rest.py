"""The endpoints of the Open Inference Protocol's REST form, over :class:`Operations`.

Source: Open Inference Protocol, "HTTP/REST"; the extensions that :mod:`mcp.gateway.described` names.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from starlette.requests import Request

from mcp.client.results import Inference
from mcp.errors import InvalidArgument
from mcp.gateway.asgi import Bodies, aside, others_turn, unless_gone
from mcp.gateway.context import read_context
from mcp.gateway.described import server_metadata
from mcp.gateway.operations import Operations
from mcp.gateway.parameters import flag, read_parameters
from mcp.gateway.reply import Reply, json_reply
from mcp.gateway.requests import (
    HEADER_LENGTH,
    InferenceRequest,
    read_header_length,
    read_json,
    read_request,
)
from mcp.gateway.responses import binary_parts, chosen_outputs, response_json
from mcp.gateway.room import Held

_NOT_READY: Final = 503
_TURN_BYTES: Final = 64 * 1024
"""JSON that is written before others have the event loop."""


class OpenInference:
    """The endpoints, by the names in the description."""

    def __init__(self, operations: Operations, bodies: Bodies) -> None:
        self._operations = operations
        self._body = bodies.read

    async def server(self, _request: Request, _held: Held) -> Reply:
        """What the server is."""
        return json_reply(server_metadata())

    async def live(self, _request: Request, _held: Held) -> Reply:
        """Whether it answers: it does."""
        return json_reply({"live": True})

    async def ready(self, _request: Request, _held: Held) -> Reply:
        """Whether this node can answer for the cluster."""
        reason = await self._operations.not_ready()
        if reason is None:
            return json_reply({"live": True, "ready": True})
        return json_reply({"live": True, "ready": False, "error": reason}, _NOT_READY)

    async def model(self, request: Request, _held: Held) -> Reply:
        """What a model, or a version, takes and gives."""
        return json_reply(await self._operations.model_metadata(*_named(request)))

    async def model_ready(self, request: Request, _held: Held) -> Reply:
        """Whether some node can run it now."""
        model, version = _named(request)
        if await self._operations.model_ready(model, version):
            return json_reply({"name": model, "ready": True})
        error = f"no node has model {model} ready"
        return json_reply({"name": model, "ready": False, "error": error}, _NOT_READY)

    async def statistics(self, request: Request, _held: Held) -> Reply:
        """What this gateway answered."""
        named = request.path_params
        return json_reply(await self._operations.statistics(named.get("model"), named.get("version")))

    async def index(self, request: Request, held: Held) -> Reply:
        """Every version of every model."""
        wanted = read_json(await self._body(request, held))
        ready_only = flag("the request", wanted, "ready")
        return json_reply(await self._operations.repository_index(ready_only=ready_only))

    async def load(self, request: Request, held: Held) -> Reply:
        """Whether the cluster knows a model."""
        fields = read_json(await self._body(request, held))
        unknown = next(iter(read_parameters("the request", fields.get("parameters"))), None)
        if unknown is not None:
            raise InvalidArgument(
                f'the parameter "{unknown:.80}" cannot be honoured: models are deployed with their bytes by'
                " 'mcpctl deploy'; leave it out"
            )
        await self._operations.load(request.path_params["model"])
        return json_reply({})

    async def unload(self, request: Request, held: Held) -> Reply:
        """Take a model out of service."""
        await self._body(request, held)
        await self._operations.unload(request.path_params["model"])
        return json_reply({})

    async def infer(self, request: Request, held: Held) -> Reply:
        """Run a model."""
        model, version = _named(request)
        body = await self._body(request, held)
        header = request.headers.get(HEADER_LENGTH)
        asked = await aside(read_header_length(header, len(body)), read_request, body, header)
        context = read_context(request.headers.items(), asked.wishes.priority)
        answer = await unless_gone(request.receive, self._operations.infer(model, version, asked, context))
        return await _inference_reply(asked, answer, held)


async def _inference_reply(asked: InferenceRequest, answer: Inference, held: Held) -> Reply:
    outputs = chosen_outputs(asked, answer)
    parts = binary_parts(asked, outputs)
    head: list[bytes] = []
    length = turn = 0
    for piece in response_json(asked, answer, outputs, parts):
        head.append(piece.encode())
        length += len(head[-1])
        if length - turn > _TURN_BYTES:
            turn = length
            await others_turn()
    held.grow(length + sum(map(len, parts.values())))
    if not parts:
        return Reply(200, "application/json", head)
    return Reply(200, "application/octet-stream", [*head, *parts.values()], {HEADER_LENGTH: str(length)})


def _named(request: Request) -> tuple[str, str | None]:
    named: Mapping[str, str] = request.path_params
    return named["model"], named.get("version")
