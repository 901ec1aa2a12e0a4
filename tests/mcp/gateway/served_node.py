"""A real node, its gateway on a real port, and the plainest client that there is."""

from __future__ import annotations

import asyncio
import functools
import http.client
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mcp.client.client import Client
from mcp.gateway.application import application
from mcp.gateway.observer import Observer
from mcp.gateway.operations import Operations
from mcp.gateway.room import Room
from mcp.gateway.server import HttpServer
from mcp.node.node import Node

MODELS = Path(__file__).parents[2] / "executor" / "models"
TIMEOUT_S = 60.0


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def value(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> str:
        return str(self.value["error"])


def _ask(address: str, method: str, path: str, body: bytes | None, headers: Mapping[str, str]) -> Answer:
    host, _, port = address.rpartition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=TIMEOUT_S)
    try:
        connection.request(method, path, body, dict(headers))
        answer = connection.getresponse()
        return Answer(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
    finally:
        connection.close()


async def ask(
    address: str, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None
) -> Answer:
    """One request on a connection of its own; a body that is no bytes is sent as JSON."""
    data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    return await asyncio.to_thread(_ask, address, method, path, data, headers or {})


@dataclass
class Gateway:
    node: Node
    client: Client
    operations: Operations
    address: str
    room: Room
    observer: Observer

    async def get(self, path: str) -> Answer:
        return await ask(self.address, "GET", path)

    async def post(self, path: str, body: Any = None, headers: Mapping[str, str] | None = None) -> Answer:
        return await ask(self.address, "POST", path, body, headers)

    async def deploy(self, *names: str) -> None:
        for name in names:
            await self.client.deploy(name, MODELS / f"{name}.onnx")


@asynccontextmanager
async def gateway_of(
    node: Node,
    *,
    room: Room | None = None,
    control: bool = False,
    body_timeout_s: float = TIMEOUT_S,
    **server_options: Any,
) -> AsyncIterator[Gateway]:
    """The gateway of a node that runs."""
    async with node.client() as client:
        room = room or Room()
        operations = Operations(client, node=node.config.node_id, control=control)
        observer = Observer(functools.partial(node.status, with_digest=False))
        app = application(operations, room, body_timeout_s, observer)
        server = HttpServer(app, "127.0.0.1:0", **server_options)
        await server.start()
        observer.figures.connections["http"] = lambda: server.connections
        try:
            yield Gateway(node, client, operations, server.address, room, observer)
        finally:
            await server.stop()
            await operations.close()


@asynccontextmanager
async def serving(path: Path, **settings: Any) -> AsyncIterator[Gateway]:
    """A node alone with its gateway."""
    async with Node.local(path / "node", workers=1) as node, gateway_of(node, **settings) as gateway:
        yield gateway
