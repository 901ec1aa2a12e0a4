"""The ASGI application of a gateway: the routes are those of the description, and no others."""

from __future__ import annotations

from typing import Any, Final

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.routing import Route

from mcp.gateway.asgi import PROTOCOL, UNKNOWN, Answering, Bodies, Endpoint, no_path
from mcp.gateway.coordination import Coordination
from mcp.gateway.description import COORDINATION, OBSERVATION, OPEN_INFERENCE, OPERATIONS
from mcp.gateway.limits import BODY_TIMEOUT_S
from mcp.gateway.observation import Observation
from mcp.gateway.observer import Observer
from mcp.gateway.openapi import openapi
from mcp.gateway.operations import Operations
from mcp.gateway.rest import OpenInference
from mcp.gateway.room import Room
from mcp.gateway.trace import carrier

_ALSO_AT: Final = {"/v2": "/v2/"}
"""Paths that clients write in two ways."""
_WITH_SLASHES: Final = ("model", "version")


def application(
    operations: Operations,
    room: Room | None = None,
    body_timeout_s: float = BODY_TIMEOUT_S,
    observer: Observer | None = None,
) -> Any:
    """The ASGI application. ``room`` bounds what is under way in it; ``observer`` notes it."""
    shared, observer, bodies = room or Room(), observer or Observer(), Bodies(body_timeout_s)
    served = (
        (OPEN_INFERENCE, OpenInference(operations, bodies)),
        (COORDINATION, Coordination(operations, bodies)),
        (OBSERVATION, Observation(operations, observer, shared, openapi(OPERATIONS))),
    )
    paths: dict[str, dict[str, tuple[str, Endpoint]]] = {}
    for operations_there, endpoints in served:
        for each in operations_there:
            answers: Endpoint = getattr(endpoints, each.answered_by)
            paths.setdefault(each.path, {})[each.method] = each.name, answers
    routes: list[Route] = []
    for path, by_method in paths.items():
        answering = Answering(by_method, shared, observer)
        written = filter(None, (path, _ALSO_AT.get(path)))
        routes += [Route(_pattern(each), answering) for each in written]
    app = Starlette(routes=routes, exception_handlers={404: _NotFound(observer)})
    app.router.redirect_slashes = False
    return app


def _pattern(path: str) -> str:
    """A path as the router writes it: a model's and a version's name may have slashes."""
    for name in _WITH_SLASHES:
        path = path.replace(f"{{{name}}}", f"{{{name}:path}}")
    return path


class _NotFound:
    """The answer where there is no such path."""

    def __init__(self, observer: Observer) -> None:
        self._observer = observer

    async def __call__(self, request: Request, _error: Exception) -> Any:
        """Note it, as every other."""
        with self._observer.request(PROTOCOL, UNKNOWN, carrier(request.headers.items())) as seen:
            reply = no_path(request, seen.headers)
            seen.status, seen.code = str(reply.status), "NOT_FOUND"
        return reply
