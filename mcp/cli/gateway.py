"""The gateway that a node serves over HTTP and gRPC, if it is told to."""

from __future__ import annotations

import contextlib
import functools
import importlib
import logging
import ssl
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from mcp.cli.options import option, together
from mcp.errors import DependencyMissing
from mcp.net.limits import files_max
from mcp.net.tls import client_context, server_context
from mcp.node import Node, NodeConfig
from mcp.node.config import is_private

if TYPE_CHECKING:
    from mcp.gateway.grpc_server import GrpcServer
    from mcp.gateway.observer import Observer
    from mcp.gateway.operations import Operations
    from mcp.gateway.room import Room
    from mcp.gateway.server import HttpServer

_log = logging.getLogger("mcp.gateway")

gateway_options = together(
    option(
        "--http",
        metavar="HOST:PORT",
        envvar="MCP_HTTP",
        help="Serve the Open Inference Protocol (KServe v2) here; with TLS if the node has a certificate.",
    ),
    option(
        "--grpc",
        metavar="HOST:PORT",
        envvar="MCP_GRPC",
        help="Serve its gRPC form here; with TLS if the node has a certificate.",
    ),
    option(
        "--http-control",
        is_flag=True,
        envvar="MCP_HTTP_CONTROL",
        help="Let whoever reaches these ports take models out of service.",
    ),
)

_PACKAGES: Final = {"http": ("starlette", "uvicorn"), "grpc": ("grpc", "google.protobuf")}


@dataclass(frozen=True, slots=True)
class GatewaySettings:
    """Where to serve HTTP and gRPC, ``None`` for not at all, and whether models may be unloaded by them."""

    http: str | None = None
    grpc: str | None = None
    control: bool = False


def gateway_settings(http: str | None, grpc: str | None, http_control: bool) -> GatewaySettings:
    """What the options say.

    Raises :class:`~mcp.errors.DependencyMissing`, with the command that installs what one of them needs.
    """
    for flag, address in (("http", http), ("grpc", grpc)):
        if address is not None:
            _require(flag)
    return GatewaySettings(http, grpc, http_control)


@contextlib.asynccontextmanager
async def gateway(node: Node, settings: GatewaySettings) -> AsyncIterator[dict[str, str]]:
    """Serve a running node's gateway meanwhile; gives its addresses by the name of the option.

    Raises :class:`~mcp.errors.ConfigInvalid` where an address cannot be used.
    """
    addresses: dict[str, str] = {}
    if settings.http is None and settings.grpc is None:
        yield addresses
        return
    from mcp.gateway.observer import Observer  # noqa: PLC0415
    from mcp.gateway.operations import Operations  # noqa: PLC0415  (only who serves it pays for it)
    from mcp.gateway.room import Room  # noqa: PLC0415

    config = node.config
    async with contextlib.AsyncExitStack() as stack:
        client = await stack.enter_async_context(node.client(ssl=_to_nodes(config)))
        operations = Operations(client, node=config.node_id, control=settings.control)
        stack.push_async_callback(operations.close)
        parts = operations, Room(), Observer(functools.partial(node.status, with_digest=False))
        for flag, server in _servers(config, settings, *parts):
            await server.start()
            stack.push_async_callback(server.stop)
            addresses[flag] = server.address
            _warn(flag, server.address, config)
        yield addresses


def _servers(
    config: NodeConfig, settings: GatewaySettings, operations: Operations, room: Room, observer: Observer
) -> Iterator[tuple[str, HttpServer | GrpcServer]]:
    from mcp.gateway.limits import connections_fitting  # noqa: PLC0415

    most = connections_fitting(files_max())
    if settings.http is not None:
        from mcp.gateway.application import application  # noqa: PLC0415
        from mcp.gateway.server import HttpServer  # noqa: PLC0415

        app = application(operations, room, observer=observer)
        server = HttpServer(app, settings.http, ssl=_to_listen(config), connections_max=most)
        observer.figures.connections["http"] = lambda: server.connections
        yield "http", server
    if settings.grpc is not None:
        from mcp.gateway.grpc_server import GrpcServer, credentials  # noqa: PLC0415

        identity = credentials(config.tls_cert, config.tls_key, config.tls_ca)
        yield (
            "grpc",
            GrpcServer(
                operations,
                settings.grpc,
                room=room,
                credentials=identity,
                observer=observer,
                connections_max=most,
            ),
        )


def _require(flag: str) -> None:
    for package in _PACKAGES[flag]:
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise DependencyMissing(
                f"--{flag} needs the package {package}, which is not installed:"
                f" pip install 'message-coordination-protocol[{flag}]'"
            ) from error


def _warn(flag: str, address: str, config: NodeConfig) -> None:
    if not is_private(address) and config.tls_ca is None:
        _log.warning(
            "whoever reaches %s at %s may use the models: keep it from those who may not, or ask for"
            " certificates with --tls-ca",
            flag,
            address,
        )


def _to_nodes(config: NodeConfig) -> ssl.SSLContext | None:
    if config.tls_cert is None and config.tls_ca is None:
        return None
    return client_context(authority=config.tls_ca, certificate=config.tls_cert, key=config.tls_key)


def _to_listen(config: NodeConfig) -> ssl.SSLContext | None:
    if config.tls_cert is None or config.tls_key is None:
        return None
    return server_context(config.tls_cert, config.tls_key, authority=config.tls_ca)
