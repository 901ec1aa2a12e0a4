"""The gateway that a node serves over HTTP, if it is told to."""

from __future__ import annotations

import contextlib
import logging
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final

from mcp.cli.options import option, together
from mcp.errors import DependencyMissing
from mcp.net.tls import client_context, server_context
from mcp.node import Node, NodeConfig
from mcp.node.config import is_private

INSTALL: Final = "pip install 'message-coordination-protocol[http]'"
_log = logging.getLogger("mcp.gateway")

http_options = together(
    option(
        "--http",
        metavar="HOST:PORT",
        envvar="MCP_HTTP",
        help="Serve the Open Inference Protocol (KServe v2) here; with TLS if the node has a certificate.",
    ),
    option(
        "--http-control",
        is_flag=True,
        envvar="MCP_HTTP_CONTROL",
        help="Let whoever reaches the HTTP port take models out of service.",
    ),
)


@dataclass(frozen=True, slots=True)
class HttpSettings:
    """Where to serve HTTP, and whether models may be unloaded by it."""

    address: str
    control: bool = False


def http_settings(http: str | None, http_control: bool) -> HttpSettings | None:
    """What the options say; ``None``: no HTTP. Raises :class:`~mcp.errors.DependencyMissing`."""
    if http is None:
        return None
    require_http()
    return HttpSettings(http, http_control)


@contextlib.asynccontextmanager
async def gateway(node: Node, settings: HttpSettings | None) -> AsyncIterator[str | None]:
    """Serve a running node's gateway meanwhile; gives its address, or ``None`` without ``settings``.

    Raises :class:`~mcp.errors.DependencyMissing` with the command that installs what it needs, and
    :class:`~mcp.errors.ConfigInvalid` where the address cannot be used.
    """
    if settings is None:
        yield None
        return
    from mcp.gateway.operations import Operations  # noqa: PLC0415  (only who serves HTTP pays for it)
    from mcp.gateway.rest import application  # noqa: PLC0415
    from mcp.gateway.server import HttpServer  # noqa: PLC0415

    config = node.config
    async with node.client(ssl=_to_nodes(config)) as client:
        operations = Operations(client, node=config.node_id, control=settings.control)
        server = HttpServer(application(operations), settings.address, ssl=_to_listen(config))
        await server.start()
        try:
            if not is_private(server.address) and config.tls_ca is None:
                _log.warning(
                    "whoever reaches http at %s may use the models: keep it from those who may not,"
                    " or ask for certificates with --tls-ca",
                    server.address,
                )
            yield server.address
        finally:
            await server.stop()
            await operations.close()


def require_http() -> None:
    """Raise :class:`~mcp.errors.DependencyMissing` unless the packages of the extra ``http`` are here."""
    try:
        import starlette  # noqa: F401, PLC0415
        import uvicorn  # noqa: F401, PLC0415
    except ImportError as error:
        raise DependencyMissing(
            f"--http needs the package {error.name}, which is not installed: {INSTALL}"
        ) from error


def _to_nodes(config: NodeConfig) -> ssl.SSLContext | None:
    if config.tls_cert is None and config.tls_ca is None:
        return None
    return client_context(authority=config.tls_ca, certificate=config.tls_cert, key=config.tls_key)


def _to_listen(config: NodeConfig) -> ssl.SSLContext | None:
    if config.tls_cert is None or config.tls_key is None:
        return None
    return server_context(config.tls_cert, config.tls_key, authority=config.tls_ca)
