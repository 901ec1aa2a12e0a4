"""The endpoints for those who run nodes: metrics, whether a node lives and is ready, and the description."""

from __future__ import annotations

from typing import Any, Final

from starlette.requests import Request

from mcp.client.answers import node_status
from mcp.errors import InvalidArgument, McpError
from mcp.gateway.asgi import Sendable
from mcp.gateway.exposition import MEDIA_TYPE
from mcp.gateway.observer import Observer
from mcp.gateway.operations import Operations
from mcp.gateway.reply import Reply, json_reply
from mcp.gateway.room import Held, Room

_BROKEN: Final = 503
_NAMES: Final = ("mcp", "nv")


class Observation:
    """The endpoints, by the names in the description."""

    def __init__(
        self, operations: Operations, observer: Observer, room: Room, description: dict[str, Any]
    ) -> None:
        self._operations = operations
        self._observer = observer
        self._room = room
        self._description = json_reply(description)

    async def metrics(self, request: Request, _held: Held) -> Sendable:
        """The node's metrics and this gateway's."""
        names = request.query_params.get("names", _NAMES[0])
        if names not in _NAMES:
            raise InvalidArgument(f'"names" must be one of {", ".join(_NAMES)}, got {names!r:.40}')
        text = self._observer.metrics(self._operations.counted, self._room, triton=names != _NAMES[0])
        return Reply(200, MEDIA_TYPE, [text.encode()])

    async def livez(self, _request: Request, _held: Held) -> Sendable:
        """Dead is what only a restart helps: a node that stopped, or that cannot go on."""
        if self._observer.node is None:
            return json_reply({"live": True})
        try:
            storage = self._observer.node(with_models=False)["storage"]
        except McpError as error:
            return json_reply({"live": False, "error": error.message}, _BROKEN)
        if storage.startswith("failed"):
            return json_reply({"live": False, "error": f"storage {storage}"}, _BROKEN)
        return json_reply({"live": True})

    async def readyz(self, _request: Request, _held: Held) -> Sendable:
        """Whether the node can take part, and where in the log it is."""
        if self._observer.node is None:
            reason = await self._operations.not_ready()
            return _readiness({}, reason)
        try:
            status = self._observer.node(with_models=False)
        except McpError as error:
            return _readiness({}, error.message)
        position = {
            "node": status["node"],
            "term": status["term"],
            "log_position": status["applied_index"],
            "commit_index": status["commit_index"],
        }
        return _readiness(position, node_status("", status).problem)

    async def openapi(self, _request: Request, _held: Held) -> Sendable:
        """What this gateway answers."""
        return self._description


def _readiness(position: dict[str, Any], reason: str | None) -> Reply:
    if reason is None:
        return json_reply({"ready": True, **position})
    return json_reply({"ready": False, **position, "error": reason}, _BROKEN)
