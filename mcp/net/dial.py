"""Connecting to a listener."""

from __future__ import annotations

import asyncio
import socket
import ssl as tls
from collections.abc import Callable
from typing import Final, cast

from mcp.clock import Clock, SystemClock
from mcp.errors import AuthenticationFailed, ConfigInvalid, McpError, Unavailable
from mcp.net.address import Address, Scheme, parse_address
from mcp.net.connection import Connection
from mcp.net.interface import Handler, RequestsRefused
from mcp.net.limits import DEFAULT_LIMITS, Limits
from mcp.net.memory import MemoryNetwork
from mcp.wire.handshake import NONCE_BYTES, Identity, InitiatorHandshake, PeerLimits

CONNECT_TIMEOUT_S: Final = 5.0
"""How long a connection and its handshake may take unless told otherwise."""


async def connect(
    address: str | Address,
    identity: Identity,
    handler: Handler | None = None,
    *,
    ssl: tls.SSLContext | None = None,
    timeout_s: float = CONNECT_TIMEOUT_S,
    limits: Limits = DEFAULT_LIMITS,
    clock: Clock | None = None,
    network: MemoryNetwork | None = None,
) -> Connection:
    """Connect to a node and finish the handshake.

    ``handler`` gets the peer's requests; without one they are refused. ``ssl`` is for TCP only.
    ``network`` is where ``memory://`` addresses are. Raises :class:`~mcp.errors.Unavailable` when nobody
    answers in ``timeout_s``, :class:`~mcp.errors.AuthenticationFailed` for another cluster, key or
    certificate, :class:`~mcp.errors.VersionMismatch`, :class:`~mcp.errors.Busy` when the node has no room,
    and :class:`~mcp.errors.InvalidArgument` for what is no address.
    """
    where = parse_address(address) if isinstance(address, str) else address
    nonce = (clock or SystemClock()).entropy(NONCE_BYTES)
    accepts = PeerLimits(limits.frame_bytes_max, limits.streams_max, limits.commands_max)

    def factory() -> Connection:
        handshake = InitiatorHandshake(identity, nonce, accepts)
        return Connection(handshake, handler or RequestsRefused(), limits=limits, address=str(where))

    connection: Connection | None = None
    try:
        async with asyncio.timeout(timeout_s):
            connection = await _open(where, factory, ssl, network)
            await asyncio.shield(connection.ready)
    except TimeoutError:
        _drop(connection)
        if connection is not None:
            raise Unavailable(
                f"{where} did not answer within {timeout_s:g} s, though somebody accepts connections there: "
                "check that it is a node's own port (--listen), not its gateway's (--http, --grpc), nor "
                "another program's, and that the node does not hang"
            ) from None
        raise Unavailable(
            f"{where} did not answer within {timeout_s:g} s; check the address, the network and the node"
        ) from None
    except OSError as error:
        raise _translated(where, error) from error
    except McpError as error:
        raise type(error)(f"{where}: {error.message}", details=error.details) from None
    except asyncio.CancelledError:
        _drop(connection)
        raise
    return connection


async def _open(
    where: Address,
    factory: Callable[[], Connection],
    ssl: tls.SSLContext | None,
    network: MemoryNetwork | None,
) -> Connection:
    loop = asyncio.get_running_loop()
    if where.scheme is Scheme.MEMORY:
        if network is None:
            raise ConfigInvalid("a memory:// address needs the MemoryNetwork that it is in; pass network=")
        return cast(Connection, network.connect(where.path, factory))
    if where.scheme is Scheme.UNIX:
        _, connection = await loop.create_unix_connection(factory, where.path)
    elif ssl is None:
        _, connection = await loop.create_connection(factory, where.host, where.port)
    else:
        _, connection = await loop.create_connection(
            factory, where.host, where.port, ssl=ssl, server_hostname=where.host
        )
    return connection


def _drop(connection: Connection | None) -> None:
    if connection is not None:
        connection.abort()


def _translated(where: Address, error: OSError) -> McpError:
    if isinstance(error, tls.SSLCertVerificationError):
        return AuthenticationFailed(
            f"{where} showed a certificate that is not trusted: {error.verify_message}; "
            "use the authority that signed it, and connect to a host name that is in it"
        )
    if isinstance(error, tls.SSLError):
        return AuthenticationFailed(
            f"TLS with {where} failed: {error.reason or error}; check that the node uses TLS too, and "
            "whether it asks for a certificate of this end"
        )
    if isinstance(error, socket.gaierror):
        return Unavailable(f"the host of {where} is not known: {error.strerror}; check the name")
    if isinstance(error, ConnectionRefusedError | FileNotFoundError):
        return Unavailable(f"nobody listens at {where}; check the address, and that the node is running")
    if isinstance(error, PermissionError):
        return Unavailable(f"this user may not connect to {where}; run as the user of the node")
    return Unavailable(f"{where} cannot be reached: {error.strerror or error}")
