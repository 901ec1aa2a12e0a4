"""Accepting TCP connections with TLS, of which only so many may be in their TLS handshake.

The loop's own server makes the state of a handshake (some 300 KiB with its buffers) for whoever connects,
tells nobody of one that fails, and has no bound but the files that the process may open. Here a connection
is accepted first and counted. Beyond the limit the oldest handshake makes room, as beyond that of the
protocol's own: it has had the most time, and whoever only fills the places keeps nobody out who is quick.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import ssl as tls
from collections.abc import Callable
from typing import Final

from mcp.net.link import log

_BACKLOG: Final = 256
_NO_ROOM: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
"""What ``accept`` fails with where the process or the system has run out of something."""
_NO_ROOM_PAUSE_S: Final = 1.0
"""So long nothing is accepted then: the next attempt would fail alike, at the speed of the loop."""


class TlsServer:
    """Hands connections that finished the TLS handshake to what ``accept`` makes for each.

    ``refused`` is called for each that did not. Beyond ``handshakes_max`` in it the oldest is closed.
    """

    def __init__(
        self,
        accept: Callable[[], asyncio.BaseProtocol],
        context: tls.SSLContext,
        *,
        handshakes_max: int,
        timeout_s: float,
        refused: Callable[[], object] = lambda: None,
    ) -> None:
        self._accept = accept
        self._context = context
        self._handshakes_max = handshakes_max
        self._timeout_s = timeout_s
        self._refused = refused
        self._sockets: list[socket.socket] = []
        self._handshakes: dict[asyncio.Task[None], None] = {}
        """The oldest first."""
        self._dropped: set[asyncio.Task[None]] = set()
        self._paused: asyncio.TimerHandle | None = None
        self._told = False

    @property
    def handshakes(self) -> int:
        """How many connections are in their TLS handshake."""
        return len(self._handshakes)

    async def start(self, host: str, port: int) -> int:
        """Listen at every address of ``host``, and return the (first) port. Raises :class:`OSError`."""
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        try:
            for family, kind, protocol, _, where in dict.fromkeys(found):
                try:
                    sock = socket.socket(family, kind, protocol)
                except OSError:
                    continue  # the machine knows the name in a family that it does not speak
                self._sockets.append(sock)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                sock.bind(where)
            self._listen()
        except BaseException:
            self.close()
            raise
        if not self._sockets:
            raise OSError(errno.EAFNOSUPPORT, f"no address of {host} is of a family that this machine speaks")
        return int(self._sockets[0].getsockname()[1])

    def serve(self, sock: socket.socket) -> None:
        """Listen at a socket that is bound, and close it in the end. Raises :class:`OSError`."""
        self._sockets.append(sock)
        self._listen()

    def close(self) -> None:
        """Accept no more, and end the handshakes that are under way."""
        if self._paused is not None:
            self._paused.cancel()
        self._stop_reading()
        for sock in self._sockets:
            sock.close()
        self._sockets.clear()
        for handshake in self._handshakes:
            handshake.cancel()

    async def wait_closed(self) -> None:
        """Return once the handshakes have ended that were under way."""
        await asyncio.gather(*self._handshakes, *self._dropped, return_exceptions=True)

    def _listen(self) -> None:
        for sock in self._sockets:
            sock.setblocking(False)
            sock.listen(_BACKLOG)
        self._resume()

    def _resume(self) -> None:
        self._paused = None
        for sock in self._sockets:
            asyncio.get_running_loop().add_reader(sock, self._on_readable, sock)

    def _stop_reading(self) -> None:
        for sock in self._sockets:
            asyncio.get_running_loop().remove_reader(sock)

    def _on_readable(self, listening: socket.socket) -> None:
        for _ in range(_BACKLOG):  # no more in one turn of the loop, which has others to serve
            try:
                sock, _ = listening.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                if error.errno in _NO_ROOM:
                    self._pause(error)
                    return
                continue  # a connection that ended while it waited
            self._begin(sock)

    def _pause(self, error: OSError) -> None:
        log.warning("no connection can be accepted, the next attempt is in a second: %s", error.strerror)
        self._stop_reading()
        self._paused = asyncio.get_running_loop().call_later(_NO_ROOM_PAUSE_S, self._resume)

    def _begin(self, sock: socket.socket) -> None:
        if len(self._handshakes) >= self._handshakes_max:
            self._drop_oldest()
        elif len(self._handshakes) <= self._handshakes_max // 2:
            self._told = False
        sock.setblocking(False)
        task = asyncio.get_running_loop().create_task(self._shake_hands(sock))
        self._handshakes[task] = None
        task.add_done_callback(lambda ended: self._end(ended, sock))

    def _drop_oldest(self) -> None:
        most = self._handshakes_max
        level = logging.DEBUG if self._told else logging.WARNING
        self._told = True
        log.log(level, "tls_handshakes_max=%d TLS handshakes are under way: the oldest makes room", most)
        oldest = next(iter(self._handshakes))
        del self._handshakes[oldest]
        self._dropped.add(oldest)
        oldest.cancel()
        self._refused()

    def _end(self, handshake: asyncio.Task[None], sock: socket.socket) -> None:
        self._handshakes.pop(handshake, None)
        self._dropped.discard(handshake)
        if handshake.cancelled():  # perhaps before its first step, in which the loop takes the socket over
            sock.close()

    async def _shake_hands(self, sock: socket.socket) -> None:
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                self._accept,
                sock,
                ssl=self._context,
                ssl_handshake_timeout=self._timeout_s,
            )
        except OSError as error:
            self._refused()
            log.debug("a TLS handshake failed: %s", error)
