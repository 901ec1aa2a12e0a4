"""An HTTP server inside a node's process, on its event loop: uvicorn, without its signals.

h11 reads the requests, because it bounds the headers; what uvicorn does not bound (connections, the time
until a request's headers are here, the time in which nobody reads an answer) is bounded here. What is no
request is told so in the protocol's own form of errors, and ends its connection: where a request ends that is
framed in two ways, or wrongly, the next proxy may see otherwise (RFC 9112, sections 6.1, 6.3 and 11.2).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import ssl
from collections.abc import Iterator
from typing import Any, Final

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from mcp.errors import ConfigInvalid
from mcp.gateway.limits import CONNECTIONS_MAX, HEAD_TIMEOUT_S, TLS_HANDSHAKES_MAX, WRITE_TIMEOUT_S
from mcp.net.address import Scheme, parse_address
from mcp.net.tls_server import TlsServer

BACKLOG: Final = 512
KEEP_ALIVE_S: Final = 75
"""How long an idle connection is kept."""
_FIRST_BYTES: Final = 8
STOP_S: Final = 5
"""How long requests that are under way have when the server stops."""


def _refusal(status: str, code: str, message: str, *headers: str) -> bytes:
    """A whole answer, for a connection that is closed with it."""
    body = json.dumps({"error": message})
    lines = [f"HTTP/1.1 {status}", "Content-Type: application/json", f"MCP-Error-Code: {code}", *headers]
    return "\r\n".join([*lines, "Connection: close", f"Content-Length: {len(body)}", "", body]).encode()


_OVERDUE: Final = _refusal(
    "408 Request Timeout",
    "DEADLINE_EXCEEDED",
    f"the request's headers did not come within head_timeout_s={HEAD_TIMEOUT_S:g}; send them at once",
)
_FAULT_CHARS_MAX: Final = 200
_FAULTS: Final = {431: "431 Request Header Fields Too Large", 501: "501 Not Implemented"}
"""What h11 tells of a faulty request beside 400."""


class HttpServer:
    """Serves an ASGI application at ``address`` (``host:port``), with TLS where a context is given."""

    def __init__(
        self,
        app: Any,
        address: str,
        *,
        ssl: ssl.SSLContext | None = None,
        connections_max: int = CONNECTIONS_MAX,
    ) -> None:
        """Raises :class:`~mcp.errors.InvalidArgument` for what is no ``host:port``."""
        self._address = parse_address(address)
        if self._address.scheme is not Scheme.TCP:
            raise ConfigInvalid(f"HTTP is served at host:port, not at {address!r:.200}")
        self._app = app
        self._ssl = ssl
        self._connections_max = connections_max
        self._server: _Server | None = None
        self._serving: asyncio.Task[None] | None = None
        self.address = ""
        """Where it listens, ``host:port``, once it does."""

    @property
    def connections(self) -> int:
        """How many connections are open."""
        return 0 if self._server is None else len(self._server.server_state.connections)

    async def start(self) -> None:
        """Listen. Raises :class:`~mcp.errors.ConfigInvalid` where that is not possible."""
        listening = await self._listening()
        host, port = listening.getsockname()[:2]
        self.address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        config = uvicorn.Config(
            self._app,
            http=_protocol(self._connections_max),
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            log_level="error",
            access_log=False,
            proxy_headers=False,
            server_header=False,
            backlog=BACKLOG,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=STOP_S,
        )
        config.load()
        config.ssl = self._ssl
        self._server = _Server(config, self._connections_max)
        self._serving = asyncio.ensure_future(self._server.serve(sockets=[listening]))
        begun = asyncio.ensure_future(self._server.begun.wait())
        await asyncio.wait((self._serving, begun), return_when=asyncio.FIRST_COMPLETED)
        begun.cancel()
        if self._serving.done():
            listening.close()
            self._serving.result()

    async def stop(self) -> None:
        """Accept no more, let what is under way finish within ``STOP_S``, and close every connection."""
        if self._server is None or self._serving is None:
            return
        self._server.should_exit = True
        await self._serving

    async def _listening(self) -> socket.socket:
        host, port = self._address.host, self._address.port
        try:
            found = await asyncio.get_running_loop().getaddrinfo(
                host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )
            # A name such as localhost may stand for both; clients of this protocol dial the older one first.
            family, kind, protocol, _, where = min(found, key=lambda each: each[0] != socket.AF_INET)
            listening = socket.socket(family, kind, protocol)
            try:
                listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                listening.bind(where)
                listening.setblocking(False)
            except BaseException:
                listening.close()
                raise
        except OSError as error:
            raise ConfigInvalid(
                f"cannot serve HTTP at {self._address}: {error.strerror or error}; choose another address, or"
                " stop what uses this one"
            ) from error
        return listening


class _Server(uvicorn.Server):
    """Tells when it listens, and leaves the process's signals to whoever runs it."""

    def __init__(self, config: uvicorn.Config, connections_max: int) -> None:
        super().__init__(config)
        self.connections_max = connections_max
        self.begun = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        if self.config.ssl is None:
            await super().startup(sockets=sockets)
        else:  # uvicorn has no bound for how many TLS handshakes are under way, and gives each a minute
            await super().startup(sockets=[])
            self._serve_tls(self.config.ssl, sockets or [])
        self.begun.set()

    def _serve_tls(self, context: ssl.SSLContext, sockets: list[socket.socket]) -> None:
        def connection() -> asyncio.Protocol:
            make: Any = self.config.http_protocol_class
            made: asyncio.Protocol = make(
                config=self.config, server_state=self.server_state, app_state=self.lifespan.state
            )
            return made

        server: Any = TlsServer(
            connection,
            context,
            handshakes_max=min(TLS_HANDSHAKES_MAX, max(1, self.connections_max // 2)),
            timeout_s=HEAD_TIMEOUT_S,
        )
        self.servers.append(server)
        for sock in sockets:
            server.serve(sock)


class _Protocol(H11Protocol):
    """One connection, with bounds."""

    connections_max = CONNECTIONS_MAX
    _begun = False
    _head_due: asyncio.TimerHandle | None = None
    _write_due: asyncio.TimerHandle | None = None

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.conn: _Connection = _Connection()

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        if len(self.connections) > self.connections_max:
            transport.write(_too_many(self.connections_max))
            transport.close()
            return
        self._watch_head()

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        if not self._begun:
            self._begun = True
            if 0 in data[:_FIRST_BYTES]:
                # A client of the nodes' own protocol, or TLS: h11 would wait for the end of a line.
                self.send_400_response("")
                return
        super().data_received(data)
        self._watch_head()

    def connection_lost(self, error: Exception | None) -> None:
        super().connection_lost(error)
        _stop(self._head_due)
        self._head_due = None
        _stop(self._write_due)
        self._write_due = None

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._write_due is None:
            self._write_due = self.loop.call_later(WRITE_TIMEOUT_S, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        _stop(self._write_due)
        self._write_due = None

    def send_400_response(self, msg: str) -> None:
        # What has been begun, or answered, cannot be answered once more.
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            self.transport.write(_invalid(self.conn.fault))
        self.transport.close()
        if self.cycle is not None and not self.cycle.response_complete:
            # Whoever waits for the rest of the body, or is about to answer, is told now that nobody is there.
            self.cycle.disconnected = True
            self.cycle.message_event.set()

    def shutdown(self) -> None:
        if not self.transport.is_closing():
            super().shutdown()

    def _watch_head(self) -> None:
        """A request that has begun to come has to be one within a bounded time."""
        waiting = self.cycle is None or self.cycle.response_complete
        if not waiting or self.transport.is_closing():
            _stop(self._head_due)
            self._head_due = None
        elif self._head_due is None:
            self._head_due = self.loop.call_later(HEAD_TIMEOUT_S, self._head_overdue)

    def _head_overdue(self) -> None:
        self._head_due = None
        if self.conn.our_state is h11.IDLE and self.conn.trailing_data[0]:
            self.transport.write(_OVERDUE)
            self.transport.close()
        elif self.cycle is None or self.cycle.response_complete:
            self.transport.abort()


def _protocol(most: int) -> type[_Protocol]:
    """The class for a server with at most so many connections: uvicorn hands nothing of ours to it."""

    class Bounded(_Protocol):
        connections_max = most

    return Bounded


class _Connection(h11.Connection):
    """Reads a client's requests, and keeps what was wrong with the one that is none."""

    def __init__(self) -> None:
        super().__init__(h11.SERVER)
        self.fault: h11.RemoteProtocolError | None = None

    def next_event(self) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        """As h11's. Raises for a request whose end two readers could see in two places, too."""
        try:
            event = super().next_event()
            if isinstance(event, h11.Request):
                _check_framing(event)
        except h11.RemoteProtocolError as error:
            self.fault = error
            raise
        return event


def _check_framing(request: h11.Request) -> None:
    names = [name for name, _ in request.headers]
    if b"transfer-encoding" not in names:
        return
    if b"content-length" in names:
        raise h11.RemoteProtocolError("Content-Length and Transfer-Encoding in one request; send one of them")
    if request.http_version < b"1.1":
        raise h11.RemoteProtocolError("Transfer-Encoding is not of HTTP/1.0; send Content-Length")


def _too_many(most: int) -> bytes:
    message = f"connections_max={most} are open; come back in a while"
    return _refusal("429 Too Many Requests", "BUSY", message, "Retry-After: 1")


def _invalid(fault: h11.RemoteProtocolError | None) -> bytes:
    if fault is None:
        return _refusal("400 Bad Request", "PROTOCOL_ERROR", "this is no HTTP/1.1")
    status = _FAULTS.get(fault.error_status_hint, "400 Bad Request")
    return _refusal(status, "PROTOCOL_ERROR", f"this is no HTTP/1.1: {str(fault)[:_FAULT_CHARS_MAX]}")


def _stop(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()
