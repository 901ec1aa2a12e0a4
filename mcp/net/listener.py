"""Accepting connections on one address."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import ssl as tls
import stat
from collections.abc import Callable
from dataclasses import replace

from mcp.clock import Clock, SystemClock
from mcp.errors import Busy, ConfigInvalid, McpError, NameTaken, Unavailable
from mcp.net.address import Address, Scheme, parse_address
from mcp.net.connection import Connection
from mcp.net.interface import Handler
from mcp.net.limits import DEFAULT_LIMITS, Limits
from mcp.net.link import log
from mcp.net.memory import MemoryNetwork
from mcp.net.tls_server import TlsServer
from mcp.wire.handshake import NONCE_BYTES, AcceptorHandshake, Established, Identity, PeerLimits, Role

_SOCKET_MODE = 0o600
_BACKLOG = 256


class Listener:
    """Accepts connections at ``address``, and hands those that finish the handshake to ``handler``.

    TCP port 0 takes any free port. A Unix socket gets mode 0600; a file that is left of a listener which
    is gone is replaced. ``ssl`` is for TCP only; ``network`` is where ``memory://`` addresses are.
    ``admit(peer, address)`` is asked last of all, for one whose proof is right, and raises what it is refused
    with; by default nobody is.
    """

    def __init__(
        self,
        address: str | Address,
        identity: Identity,
        handler: Handler,
        *,
        ssl: tls.SSLContext | None = None,
        limits: Limits = DEFAULT_LIMITS,
        clock: Clock | None = None,
        network: MemoryNetwork | None = None,
        admit: Callable[[Established, str], None] = lambda _peer, _address: None,
    ) -> None:
        self._may_come = admit
        self._address = parse_address(address) if isinstance(address, str) else address
        self._identity = identity
        self._handler = handler
        self._ssl = ssl
        self._limits = limits
        self._clock = clock or SystemClock()
        self._network = network
        self._server: asyncio.Server | TlsServer | None = None
        self._socket_file: os.stat_result | None = None
        self._bound: Address | None = None
        self._connections: dict[Connection, None] = {}
        self._arriving: dict[Connection, None] = {}
        """Those in their handshake, the oldest first."""
        self._admitted: dict[Connection, Role] = {}
        self._closed = False
        self.accepted = 0
        """Connections that were accepted."""
        self.refused = 0
        """Connections that ended before their handshake was done."""

    @property
    def bound_address(self) -> Address:
        """Where it listens, with the port that was taken. Raises :class:`~mcp.errors.Unavailable` before."""
        if self._bound is None:
            raise Unavailable(f"the listener at {self._address} is not started")
        return self._bound

    @property
    def connections(self) -> frozenset[Connection]:
        """The connections that are there now, those in their handshake included."""
        return frozenset(self._connections)

    @property
    def open(self) -> int:
        """How many connections are there now, those in their handshake included."""
        return len(self._connections)

    async def start(self) -> None:
        """Listen; once. Raises :class:`~mcp.errors.ConfigInvalid` when the address cannot be had."""
        try:
            if self._address.scheme is Scheme.MEMORY:
                self._start_memory()
            elif self._address.scheme is Scheme.UNIX:
                await self._start_unix()
            else:
                await self._start_tcp()
        except OSError as error:
            raise ConfigInvalid(
                f"cannot listen at {self._address}: {error.strerror or error}; choose another address, or "
                "stop what uses this one"
            ) from error

    async def close(self) -> None:
        """Accept no more, say goodbye on every connection, and wait until they are gone."""
        if self._bound is None:
            return
        self._bound = None
        self._closed = True
        if self._network is not None and self._address.scheme is Scheme.MEMORY:
            self._network.stop_listening(self._address.path)
        if self._server is not None:
            self._server.close()
        self._remove_socket_file()
        leaving = list(self._connections)
        for connection in leaving:
            connection.close()
        await asyncio.gather(*(connection.wait_closed() for connection in leaving))

    def _start_memory(self) -> None:
        if self._network is None:
            raise ConfigInvalid(f"{self._address} needs the MemoryNetwork that it is in; pass network=")
        self._network.listen(self._address.path, self._accept)
        self._bound = self._address

    async def _start_tcp(self) -> None:
        host, port = self._address.host, self._address.port
        if self._ssl is not None:
            server = TlsServer(
                self._accept,
                self._ssl,
                handshakes_max=self._limits.tls_handshakes_max,
                timeout_s=self._limits.handshake_timeout_s,
                refused=self._refuse,
            )
            port = await server.start(host, port)
            self._server = server
        else:
            plain = await asyncio.get_running_loop().create_server(self._accept, host, port, backlog=_BACKLOG)
            port = plain.sockets[0].getsockname()[1]
            self._server = plain
        self._bound = replace(self._address, port=port)

    async def _start_unix(self) -> None:
        path = self._address.path
        await _remove_stale_socket(path)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.setblocking(False)
            sock.bind(path)
            os.chmod(path, _SOCKET_MODE)  # before listen(), so that nobody else can connect in between
            self._socket_file = os.stat(path)
            loop = asyncio.get_running_loop()
            self._server = await loop.create_unix_server(self._accept, sock=sock, backlog=_BACKLOG)
        except BaseException:
            sock.close()
            raise
        self._bound = self._address

    def _remove_socket_file(self) -> None:
        """Remove the file if it is still ours and not that of a listener which replaced it."""
        ours, self._socket_file = self._socket_file, None
        if ours is None:
            return
        with contextlib.suppress(OSError):
            found = os.stat(self._address.path)
            if (found.st_dev, found.st_ino) == (ours.st_dev, ours.st_ino):
                os.unlink(self._address.path)

    def _refuse(self) -> None:
        self.refused += 1

    def _accept(self) -> Connection:
        limits = self._limits
        accepts = PeerLimits(limits.frame_bytes_max, limits.streams_max, limits.commands_max)
        nonce = self._clock.entropy(NONCE_BYTES)
        handshake = AcceptorHandshake(
            self._identity, nonce, accepts, lambda peer: self._admit(connection, peer)
        )
        connection = Connection(handshake, self._handler, limits=limits, made=lambda: self._keep(connection))
        return connection

    def _keep(self, connection: Connection) -> None:
        # Not before there is a transport: with TLS there is none until its handshake is done, and nothing
        # would tell us of one that failed.
        self.accepted += 1
        self._connections[connection] = None
        self._arriving[connection] = None
        connection.ready.add_done_callback(lambda _: self._arriving.pop(connection, None))
        connection.closed.add_done_callback(lambda closed: self._forget(connection, closed.result()))
        if self._closed:  # it was on its way while the listener closed
            connection.close()
        elif len(self._arriving) > self._limits.handshakes_max:
            # A handshake takes a moment: whoever has been at it for longest is the least likely to finish.
            next(each for each in self._arriving if not each.ready.done()).abort()

    def _admit(self, connection: Connection, peer: Established) -> None:
        """Take one in whose proof is right. Raises :class:`~mcp.errors.Busy` when its role has no room."""
        most, role = self._limits.connections_max, peer.role
        if sum(taken is role for taken in self._admitted.values()) >= most:
            raise Busy(f"the node has connections_max={most} connections of {role}s; try another node")
        self._may_come(peer, connection.address)
        self._admitted[connection] = role

    def _forget(self, connection: Connection, reason: McpError | None) -> None:
        self._connections.pop(connection, None)
        self._admitted.pop(connection, None)
        if connection.ready.exception() is not None:
            self.refused += 1
            # Whoever leaves without a word is nobody's fault: it looked whether somebody listens, or was
            # stopped, or is content. Of a name that is taken it is told where that is found.
            plain = type(reason) is Unavailable or isinstance(reason, NameTaken)
            level = logging.DEBUG if plain else logging.INFO
            log.log(level, "a connection ended during its handshake: %s", reason)


async def _remove_stale_socket(path: str) -> None:
    """Remove what a listener left that is gone. Anything else at ``path`` is left alone and is an error."""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise ConfigInvalid(f"{path} is there and is no socket; move it away, or listen elsewhere")
    try:
        _, writer = await asyncio.open_unix_connection(path)
    except ConnectionRefusedError:
        os.unlink(path)
        return
    except OSError as error:
        raise ConfigInvalid(
            f"{path} is there and cannot be tried: {error.strerror}; remove it by hand"
        ) from error
    writer.close()
    raise ConfigInvalid(f"somebody listens at unix://{path}; stop it, or listen elsewhere")
