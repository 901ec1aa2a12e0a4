"""The REST form of the Open Inference Protocol: an ASGI application over :class:`Operations`.

Every error is ``{"error": message}`` with our code in the header ``MCP-Error-Code``. A client that goes away
takes its inference with it.

Source: Open Inference Protocol, "HTTP/REST"; the extensions that :mod:`mcp.gateway.described` names.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any, Final, TypeVar

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.routing import Route

from mcp.client.results import Inference
from mcp.errors import InvalidArgument, McpError, Unavailable
from mcp.gateway.body import Receive, read_body
from mcp.gateway.described import server_metadata
from mcp.gateway.failures import BODY_TOO_SLOW, Failure, failure
from mcp.gateway.limits import BODY_TIMEOUT_S
from mcp.gateway.operations import Operations
from mcp.gateway.parameters import flag, read_parameters
from mcp.gateway.reply import Reply, json_reply
from mcp.gateway.requests import HEADER_LENGTH, InferenceRequest, read_json, read_request
from mcp.gateway.responses import binary_parts, chosen_outputs, response_json
from mcp.gateway.room import Held, Room

_log = logging.getLogger("mcp.gateway")

T = TypeVar("T")
Endpoint = Callable[[Request, Held], Awaitable[Reply]]

ERROR_CODE: Final = "MCP-Error-Code"
"""The header that has our error's code, as on every other wire."""

_NOT_READY: Final = 503
_TURN_BYTES: Final = 64 * 1024
"""JSON that is written before others have the event loop."""
_REPOSITORY: Final = "/v2/repository/models/{model:path}"
_MODEL: Final = "/v2/models/{model:path}"
_VERSION: Final = _MODEL + "/versions/{version:path}"


def application(
    operations: Operations, room: Room | None = None, body_timeout_s: float = BODY_TIMEOUT_S
) -> Any:
    """The ASGI application. ``room`` bounds what is under way in it."""
    rest = _Rest(operations, body_timeout_s)
    shared = room or Room()

    def route(path: str, method: str, endpoint: Endpoint) -> Route:
        return Route(path, _Answering(endpoint, shared), methods=[method])

    routes = [
        route("/v2", "GET", rest.server),
        route("/v2/", "GET", rest.server),
        route("/v2/health/live", "GET", rest.live),
        route("/v2/health/ready", "GET", rest.ready),
        route("/v2/models/stats", "GET", rest.statistics),
        route("/v2/repository/index", "POST", rest.index),
        route(f"{_REPOSITORY}/load", "POST", rest.load),
        route(f"{_REPOSITORY}/unload", "POST", rest.unload),
    ]
    # A model's and a version's name may have slashes, so what has more words behind them comes first.
    for path in (_VERSION, _MODEL):
        routes += [
            route(f"{path}/infer", "POST", rest.infer),
            route(f"{path}/ready", "GET", rest.model_ready),
            route(f"{path}/stats", "GET", rest.statistics),
        ]
    routes += [route(path, "GET", rest.model) for path in (_VERSION, _MODEL)]
    app = Starlette(routes=routes, exception_handlers={HTTPException: _no_route})
    app.router.redirect_slashes = False
    return app


class _Rest:
    """The endpoints."""

    def __init__(self, operations: Operations, body_timeout_s: float) -> None:
        self._operations = operations
        self._body_timeout_s = body_timeout_s

    async def server(self, _request: Request, _held: Held) -> Reply:
        return json_reply(server_metadata())

    async def live(self, _request: Request, _held: Held) -> Reply:
        return json_reply({"live": True})

    async def ready(self, _request: Request, _held: Held) -> Reply:
        reason = await self._operations.not_ready()
        if reason is None:
            return json_reply({"live": True, "ready": True})
        return json_reply({"live": True, "ready": False, "error": reason}, _NOT_READY)

    async def model(self, request: Request, _held: Held) -> Reply:
        return json_reply(await self._operations.model_metadata(*_named(request)))

    async def model_ready(self, request: Request, _held: Held) -> Reply:
        model, version = _named(request)
        if await self._operations.model_ready(model, version):
            return json_reply({"name": model, "ready": True})
        error = f"no node has model {model} ready"
        return json_reply({"name": model, "ready": False, "error": error}, _NOT_READY)

    async def statistics(self, request: Request, _held: Held) -> Reply:
        named = request.path_params
        return json_reply(await self._operations.statistics(named.get("model"), named.get("version")))

    async def index(self, request: Request, held: Held) -> Reply:
        wanted = read_json(await self._body(request, held))
        ready_only = flag("the request", wanted, "ready")
        return json_reply(await self._operations.repository_index(ready_only=ready_only))

    async def load(self, request: Request, held: Held) -> Reply:
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
        await self._body(request, held)
        await self._operations.unload(request.path_params["model"])
        return json_reply({})

    async def infer(self, request: Request, held: Held) -> Reply:
        model, version = _named(request)
        body = await self._body(request, held)
        asked = read_request(body, request.headers.get(HEADER_LENGTH))
        answer = await unless_gone(request.receive, self._operations.infer(model, version, asked))
        return await _inference_reply(asked, answer, held)

    async def _body(self, request: Request, held: Held) -> bytes | bytearray:
        held.enter()
        try:
            async with asyncio.timeout(self._body_timeout_s):
                return await read_body(request.receive, request.headers, held)
        except TimeoutError:
            raise _BodyTooSlow from None


class _BodyTooSlow(Exception):
    """The body did not come in time: 408, which is the client's time, and no deadline of an inference."""


class _Answering:
    """An ASGI endpoint: a reply, or the error as one; what the request holds is given back at its end."""

    def __init__(self, endpoint: Endpoint, room: Room) -> None:
        self._endpoint = endpoint
        self._room = room

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        with self._room.request() as held:
            reply = await self._reply(Request(scope, receive), held)
            await reply.send(send)

    async def _reply(self, request: Request, held: Held) -> Reply:
        try:
            return await self._endpoint(request, held)
        except McpError as error:
            return failure_reply(failure(error))
        except _BodyTooSlow:
            message = "the request's body did not come in time; send less, or faster"
            return failure_reply(Failure(BODY_TOO_SLOW, "DEADLINE_EXCEEDED", message))
        except Exception as error:
            _log.exception("%s %s", request.method, request.url.path)
            return failure_reply(failure(McpError(f"a defect of this server: {type(error).__name__}")))


def failure_reply(told: Failure) -> Reply:
    """An error as every client of the protocol reads it."""
    headers = {ERROR_CODE: told.code}
    if told.retry_after_s is not None:
        headers["Retry-After"] = str(told.retry_after_s)
    return json_reply({"error": told.message}, told.status, headers)


async def unless_gone(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """What ``work`` gives, unless the client goes away first: then it is cancelled.

    The request's body has been read. Raises what ``work`` does, or ``Unavailable``, which nobody will read.
    """
    working, leaving = asyncio.ensure_future(work), asyncio.ensure_future(_gone(receive))
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise Unavailable("the client is gone")
    finally:
        working.cancel()
        leaving.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


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
            await asyncio.sleep(0)
    held.grow(length + sum(map(len, parts.values())))
    if not parts:
        return Reply(200, "application/json", head)
    return Reply(200, "application/octet-stream", [*head, *parts.values()], {HEADER_LENGTH: str(length)})


def _named(request: Request) -> tuple[str, str | None]:
    named: Mapping[str, str] = request.path_params
    return named["model"], named.get("version")


async def _no_route(request: Request, error: Exception) -> Any:
    """No such path, or not with this method."""
    status = getattr(error, "status_code", 404)
    words = "no such path" if status == 404 else "this path has another method"
    message = f"{words}: {request.method} {request.url.path:.200}; the routes are in docs/gateway.md"
    headers = {str(name): str(value) for name, value in (getattr(error, "headers", None) or {}).items()}
    return json_reply({"error": message}, status, {ERROR_CODE: "NOT_FOUND", **headers})
