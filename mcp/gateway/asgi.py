"""Endpoints as ASGI: bodies in within bounds, replies or errors out, and all of it noted.

Every error is ``{"error": message}`` with our code in the header ``MCP-Error-Code``. A client that goes away
takes its request with it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, Protocol, TypeVar

from starlette.requests import Request

from mcp.errors import McpError, Unavailable
from mcp.gateway.body import Receive, read_body
from mcp.gateway.failures import BODY_TOO_SLOW, Failure, failure
from mcp.gateway.limits import JSON_AT_ONCE_BYTES_MAX
from mcp.gateway.observer import Observer, Seen
from mcp.gateway.openapi import ERROR_CODE
from mcp.gateway.reply import Reply, Send, json_reply
from mcp.gateway.room import Held, Room
from mcp.gateway.trace import carrier

_log = logging.getLogger("mcp.gateway")

T = TypeVar("T")

_READER: Final = ThreadPoolExecutor(1, "gateway-json")

PROTOCOL: Final = "http"
UNKNOWN: Final = "unknown"
"""The operation of requests for what there is not."""


class Sendable(Protocol):
    """What an endpoint gives: a :class:`~mcp.gateway.reply.Reply`, or a stream of events."""

    @property
    def status(self) -> int:
        """The status."""

    async def send(self, send: Send, headers: Mapping[str, str]) -> None:
        """Send it, with these headers beside its own."""


Endpoint = Callable[[Request, Held], Awaitable[Sendable]]


class BodyTooSlow(Exception):
    """The body did not come in time: 408, which is the client's time, and no deadline of an inference."""


class Bodies:
    """Reads requests' bodies, each within ``timeout_s``."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s

    async def read(self, request: Request, held: Held) -> bytes | bytearray:
        """The whole body. Raises :class:`BodyTooSlow`, and what :func:`mcp.gateway.body.read_body` does."""
        held.enter()
        try:
            async with asyncio.timeout(self._timeout_s):
                return await read_body(request.receive, request.headers, held)
        except TimeoutError:
            raise BodyTooSlow from None


class Answering:
    """All methods of one path. ``endpoints``: by method, the operation's name and what answers it."""

    def __init__(self, endpoints: Mapping[str, tuple[str, Endpoint]], room: Room, observer: Observer) -> None:
        self._endpoints = endpoints
        self._allow = ", ".join(sorted({*endpoints, *(["HEAD"] if "GET" in endpoints else [])}))
        self._room = room
        self._observer = observer

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        """As an ASGI application."""
        request = Request(scope, receive)
        # The server leaves the body of an answer to HEAD away.
        found = self._endpoints.get("GET" if request.method == "HEAD" else request.method)
        name = UNKNOWN if found is None else found[0]
        traced = carrier(request.headers.items())
        with self._room.request() as held, self._observer.request(PROTOCOL, name, traced) as seen:
            if found is None:
                reply: Sendable = wrong_method(request, self._allow)
                seen.code = "NOT_FOUND"
            else:
                reply = await _answer(found[1], request, held, seen)
            seen.status = str(reply.status)
            await reply.send(send, seen.headers)


async def _answer(endpoint: Endpoint, request: Request, held: Held, seen: Seen) -> Sendable:
    try:
        return await endpoint(request, held)
    except McpError as error:
        told = failure(error)
    except BodyTooSlow:
        message = "the request's body did not come in time; send less, or faster"
        told = Failure(BODY_TOO_SLOW, "DEADLINE_EXCEEDED", message)
    except Exception as error:
        _log.exception("%s %s", request.method, request.url.path)
        told = failure(McpError(f"a defect of this server: {type(error).__name__}"))
    seen.code = told.code
    return failure_reply(told)


def failure_reply(told: Failure) -> Reply:
    """An error as every client of the protocol reads it."""
    headers = {ERROR_CODE: told.code}
    if told.retry_after is not None:
        headers["Retry-After"] = told.retry_after
    if told.status == BODY_TOO_SLOW:
        # The rest of the body would be read as long as it comes.
        headers["Connection"] = "close"
    return json_reply({"error": told.message}, told.status, headers)


def no_path(request: Request, headers: Mapping[str, str]) -> Reply:
    """There is no such path; ``headers`` are told beside."""
    message = f"no such path: {request.method} {request.url.path:.200}; see GET /openapi.json"
    return json_reply({"error": message}, 404, {ERROR_CODE: "NOT_FOUND", **headers})


def wrong_method(request: Request, allow: str) -> Reply:
    """There is the path, and not with this method."""
    message = f"this path has another method: {request.method} {request.url.path:.200}; it takes {allow}"
    return json_reply({"error": message}, 405, {ERROR_CODE: "NOT_FOUND", "Allow": allow})


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
        # An error's traceback has this frame, and its task the error: they would keep the request's body.
        del working, leaving, work


async def aside(size_bytes: int, work: Callable[..., T], *arguments: Any) -> T:
    """What ``work`` gives, which reads so many bytes of JSON: many of them are read in a thread.

    There is one thread for all: reading holds the interpreter, so that several would be no faster. Raises
    what ``work`` does.
    """
    if size_bytes <= JSON_AT_ONCE_BYTES_MAX:
        return work(*arguments)
    return await asyncio.get_running_loop().run_in_executor(_READER, work, *arguments)


async def others_turn() -> None:
    """Let others have the event loop."""
    await asyncio.sleep(0)


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
