"""What one end does to keep a connection: transport, handshake, signs of life, orderly close.

:class:`Link` knows frames and nothing of requests; :class:`mcp.net.connection.Connection` adds those.
"""

from __future__ import annotations

import asyncio
import enum
import logging
import socket
import ssl
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Final, cast

from mcp.errors import AuthenticationFailed, Busy, McpError, Unavailable, from_wire
from mcp.net.interface import Counters, Peer
from mcp.net.limits import Limits
from mcp.net.memory import Handover
from mcp.net.outbox import Outbox
from mcp.net.polling import Poller, poller_of, several_processors
from mcp.net.strangers import FIRST_BYTES, stranger
from mcp.wire.codec import decode_map, encode_error
from mcp.wire.frame import (
    HANDSHAKE_FRAME_BYTES_MAX,
    HANDSHAKE_KINDS,
    JOIN_BYTES_MAX,
    OPEN_KINDS,
    Buffer,
    Frame,
    FrameKind,
    FrameReader,
    encode_frame,
    encode_plain,
)
from mcp.wire.handshake import Established, Handshake, InitiatorHandshake, Role, Step

log: Final = logging.getLogger("mcp.net")


class State(enum.Enum):
    """Where a connection is in its life. It only goes down this list."""

    HANDSHAKE = "handshake"
    OPEN = "open"
    CLOSING = "closing"  # nothing is handled any more; what is queued is being sent
    CLOSED = "closed"


class Link(asyncio.BufferedProtocol):
    """The part of a connection below requests. ``made`` is called when there is a transport."""

    def __init__(
        self, handshake: Handshake, *, limits: Limits, address: str, made: Callable[[], object] | None
    ) -> None:
        loop = asyncio.get_running_loop()
        self._loop = loop
        self._handshake = handshake
        self._limits = limits
        self._address = address
        self._made = made
        self._initiator = isinstance(handshake, InitiatorHandshake)
        self._state = State.HANDSHAKE
        self._transport: asyncio.Transport | None = None
        self._reader = FrameReader(kinds=HANDSHAKE_KINDS, frame_bytes_max=HANDSHAKE_FRAME_BYTES_MAX)
        self._outbox = Outbox()
        self._peer: Peer | None = None
        self._handover: Handover | None = None  # where the peer is in this process
        self._frame_bytes_max = HANDSHAKE_FRAME_BYTES_MAX  # that the peer takes
        self._reason: McpError | None = None
        self._flush_scheduled = False
        self._handling = False
        self._settled = False  # all is sent and nothing is held back: there is nothing to regulate
        self._reading_paused = False
        self._awaiting_room = 0  # answers in parts that go on when less is unsent
        self._refusals_unread = 0
        self._poller: Poller | None = None
        self._expects_bytes = False  # what was sent since the last flush has an answer, or a next request
        self._heard = loop.time()
        self._sent_at_tick = 0
        self._timer: asyncio.TimerHandle | None = None
        self._dispatch: dict[FrameKind, Callable[[Frame], None]] = {
            FrameKind.PING: self._on_ping,
            FrameKind.PONG: self._on_pong,
            FrameKind.GOODBYE: self._on_goodbye,
        }
        self.counters = Counters()
        self.ready: asyncio.Future[Peer] = loop.create_future()
        """Done when the handshake is: the peer, or the error that ended it."""
        self.ready.add_done_callback(_retrieve)
        self.closed: asyncio.Future[McpError | None] = loop.create_future()
        """Done when the connection is gone: the reason, ``None`` after an orderly close. Do not cancel it."""

    # What a user calls.

    @property
    def peer(self) -> Peer:
        """Who is at the other end. Raises :class:`~mcp.errors.Unavailable` before the handshake is done."""
        if self._peer is None:
            raise Unavailable("the peer is not known before the handshake is done; wait for it")
        return self._peer

    @property
    def address(self) -> str:
        """Where the peer was dialled, or was seen to come from."""
        return self._address

    @property
    def limits(self) -> Limits:
        """What this end takes, and how long it waits."""
        return self._limits

    @property
    def is_open(self) -> bool:
        """Whether requests can be sent now."""
        return self._state is State.OPEN

    @property
    def backlog_bytes(self) -> int:
        """Bytes that are queued and that the operating system has not taken yet."""
        return self._outbox.backlog_bytes

    def close(self, reason: McpError | None = None) -> None:
        """Say goodbye, send what is queued, and close.

        Requests in flight fail, and those of the peer are cancelled without an answer.
        """
        if self._state is State.OPEN:
            body = b"" if reason is None else encode_error(reason)
            self._close_after(((FrameKind.GOODBYE, body),), reason)
        elif self._state is State.HANDSHAKE:
            self._drop(reason or Unavailable("the connection was closed during its handshake"))

    def abort(self) -> None:
        """Close at once; what is queued is lost."""
        self._drop(Unavailable("the connection was aborted by this end"))

    def watch_closely(self, limits: Limits) -> None:
        """From now on ask for signs of life, and give the peer up, as ``limits`` say. While it is open."""
        self._limits = replace(self._limits, keepalive_s=limits.keepalive_s, dead_after_s=limits.dead_after_s)
        if self._state is State.OPEN:
            if self._timer is not None:
                self._timer.cancel()
            self._timer = self._loop.call_later(limits.keepalive_s, self._tick)

    def flush(self) -> None:
        """Pass on now what is queued, instead of when the event loop has its next turn."""
        if self._outbox:
            self._flush()

    async def wait_closed(self) -> McpError | None:
        """Wait until the connection is gone, and return why."""
        return await asyncio.shield(self.closed)

    # What the transport calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin the handshake."""
        self._transport = cast(asyncio.Transport, transport)
        if self._made is not None:
            self._made()
        self._address = self._address or _peer_address(transport)
        self._outbox.attach(self._transport)
        self._handover = transport.get_extra_info("handover")
        sock = transport.get_extra_info("socket")
        if sock is not None:
            if self._limits.poll_s and several_processors():
                self._poller = poller_of(self._loop)
            if sock.family in (socket.AF_INET, socket.AF_INET6):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._timer = self._loop.call_later(self._limits.handshake_timeout_s, self._handshake_timeout)
        self._take_step(self._handshake.start())
        self._flush()

    def get_buffer(self, sizehint: int) -> memoryview:
        """Lend the reader's buffer."""
        return self._reader.get_buffer()

    def buffer_updated(self, nbytes: int) -> None:
        """Handle every complete frame that is there."""
        self._heard = self._loop.time()
        if self._poller is not None:
            self._poller.came()
        counters = self.counters
        counters.bytes_received += nbytes
        reader = self._reader
        reader.received(nbytes)
        self._handling = True
        try:
            if (
                self._state is State.HANDSHAKE
                and self._awaits_first
                and (foreign := stranger(reader.peek(FIRST_BYTES))) is not None
            ):
                raise foreign
            while self._state in _READING and (frame := reader.next_frame()) is not None:
                counters.frames_received += 1
                if self._state is State.OPEN:
                    self._dispatch[frame.kind](frame)
                    if reader.is_empty:
                        break
                else:
                    self._take_step(self._handshake.receive(frame.kind, frame.body))
        except McpError as error:
            self._refuse_peer(error)
        finally:
            self._handling = False
        if self._state not in _READING:
            reader.skip()  # nobody wants it any more, and room for what comes behind it there has to be
        if not self._settled:
            self._flush()

    def eof_received(self) -> bool:
        """The peer sends no more: it left. There is no half-closed connection in this protocol."""
        told = self._stranger()
        self._drop(told or Unavailable("the peer closed the connection without a goodbye" + self._hint()))
        return False

    def pause_writing(self) -> None:
        """The operating system takes no more for now."""
        self._outbox.pause()

    def resume_writing(self) -> None:
        """The operating system took everything."""
        self._outbox.resume()
        self._flush()

    def connection_lost(self, exc: Exception | None) -> None:
        """The transport is gone: end everything that waits."""
        self._finish(self._lost(exc), position=self._outbox.handed)
        self._state = State.CLOSED
        if self._timer is not None:
            self._timer.cancel()
        self._outbox.clear()
        self._transport = None
        if self._peer is not None:
            self._guarded(self._gone, self._reason)
        if not self.ready.done():
            self.ready.set_exception(
                self._reason or Unavailable("the connection closed during its handshake")
            )
        if not self.closed.done():
            self.closed.set_result(self._reason)

    # What a subclass defines.

    def _opened(self) -> None:
        """The handshake is done."""

    def _ended(self, position: int, reason: McpError | None) -> None:
        """Nothing is handled any more. Of this end's stream, the bytes up to ``position`` may arrive."""

    def _gone(self, reason: McpError | None) -> None:
        """The transport of a connection that was open is gone."""

    def _flushed(self) -> None:
        """What could be sent was, and there are answers that wait for room."""

    def _must_not_read(self, backlog: int) -> bool:
        """Whether to stop reading, with ``backlog`` bytes unsent."""
        raise NotImplementedError

    # Sending.

    def _send(
        self,
        kind: FrameKind,
        stream: int = 0,
        body: Buffer | Sequence[Buffer] = b"",
        segments: Sequence[Buffer] = (),
        *,
        corked: bool = False,
    ) -> None:
        limit = self._frame_bytes_max
        if not segments and type(body) is bytes and len(body) <= JOIN_BYTES_MAX:
            self._outbox.put_one(encode_plain(kind, stream, body, frame_bytes_max=limit))
        else:
            self._outbox.put(encode_frame(kind, stream, body, segments, frame_bytes_max=limit))
        self._settled = False
        # What is sent while received frames are handled is flushed after the last of them.
        if not (self._flush_scheduled or self._handling or corked):
            self._flush_scheduled = True
            self._loop.call_soon(self._flush_later)

    def _flush_later(self) -> None:
        self._flush_scheduled = False
        self._flush()

    def _flush(self) -> None:
        if not self._settled:
            self._outbox.flush()
            if self._expects_bytes:
                self._expects_bytes = False
                if self._poller is not None:
                    self._poller.sent(self._limits.poll_s)
            self._regulate()
            if self._awaiting_room:
                self._flushed()

    def _regulate(self) -> None:
        """Stop or go on reading; and close when all is sent that should be."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        backlog = self._outbox.backlog_bytes
        if not backlog:
            self._refusals_unread = 0
            if self._state is State.OPEN and not self._reading_paused:
                self._settled = True
                return
        if self._state is State.OPEN:
            stop = self._must_not_read(backlog)
            if stop != self._reading_paused:
                self._reading_paused = stop
                (transport.pause_reading if stop else transport.resume_reading)()
            self._settled = not backlog
        elif self._state is State.CLOSING and not backlog:
            transport.close()

    def _count_unread_answer(self) -> None:
        """Cut off a peer that makes us answer and does not read. Raises :class:`~mcp.errors.Busy`."""
        self._refusals_unread += 1
        if self._refusals_unread > self._limits.streams_max:
            self._outbox.flush()
            if self._outbox.backlog_bytes:
                raise Busy("the peer sends on and reads no answers, so it was cut off")
            self._refusals_unread = 0

    # The connection's life.

    def _take_step(self, step: Step) -> None:
        if step.failure is not None:
            self._close_after(step.send, step.failure)
            return
        for kind, body in step.send:
            self._send(kind, 0, body)
        if step.established is not None:
            self._establish(step.established)

    def _establish(self, established: Established) -> None:
        self._peer = Peer(
            established.node_id,
            established.role,
            established.version,
            self._address,
            established.limits,
            established.journal,
        )
        if not self._initiator and established.role is Role.NODE:
            self._poller = None  # nodes ask each other by the clock, or for somebody who waits elsewhere
        self._frame_bytes_max = established.limits.frame_bytes_max
        self._reader.expect(OPEN_KINDS, self._limits.frame_bytes_max)
        self._state = State.OPEN
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(self._limits.keepalive_s, self._tick)
        self._guarded(self._opened)
        if not self.ready.done():
            self.ready.set_result(self._peer)

    def _on_ping(self, frame: Frame) -> None:
        self._send(FrameKind.PONG)
        self._count_unread_answer()

    def _on_pong(self, frame: Frame) -> None:
        """Nothing to do: any bytes are a sign of life."""

    def _on_goodbye(self, frame: Frame) -> None:
        reason = from_wire(decode_map(frame.body)) if len(frame.body) else None
        self._drop(reason)  # the peer reads no more

    def _tick(self) -> None:
        """Ask a silent peer for a sign of life, or give it up. That it reads what we send is one too."""
        now = self._loop.time()
        sent = self._outbox.sent
        if self._outbox.backlog_bytes and sent > self._sent_at_tick:
            self._heard = now
        self._sent_at_tick = sent
        silent_s = now - self._heard
        keepalive_s, dead_after_s = self._limits.keepalive_s, self._limits.dead_after_s
        if silent_s >= dead_after_s:
            self._drop(Unavailable(f"the peer was silent for {silent_s:g} s and is taken for dead"))
            return
        wait_s = keepalive_s - silent_s
        if wait_s <= 0:
            self._send(FrameKind.PING)
            wait_s = min(keepalive_s, dead_after_s - silent_s)
        self._timer = self._loop.call_later(wait_s, self._tick)

    def _handshake_timeout(self) -> None:
        limit = self._limits.handshake_timeout_s
        self._drop(
            Unavailable(f"the handshake was not done within handshake_timeout_s={limit:g}" + self._hint())
        )

    def _refuse_peer(self, error: McpError) -> None:
        """The peer broke the protocol: say so, and close."""
        if self._state is State.OPEN:
            self._close_after(((FrameKind.GOODBYE, encode_error(error)),), error)
        elif self._initiator:
            self._drop(error)
        else:
            self._close_after(((FrameKind.REJECT, encode_error(error)),), error)

    def _close_after(self, frames: Sequence[tuple[FrameKind, bytes]], reason: McpError | None) -> None:
        if self._state not in _READING or self._transport is None:
            return
        # What is queued is still sent, so a request in it may yet be handled.
        self._finish(reason, position=self._outbox.queued)
        for kind, body in frames:
            self._send(kind, 0, body)
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(self._limits.close_timeout_s, self._transport.abort)
        if self._reading_paused:
            self._transport.resume_reading()  # or it would not be noticed that the peer leaves too
        self._flush()

    def _drop(self, reason: McpError | None) -> None:
        self._finish(reason, position=self._outbox.handed)
        if self._transport is not None:
            self._transport.abort()

    def _finish(self, reason: McpError | None, *, position: int) -> None:
        """End everything that waits on this connection, once."""
        if self._state in _READING:
            self._state = State.CLOSING
            self._settled = False
            self._reason = reason
            self._ended(position, reason)

    def _lost(self, exc: Exception | None) -> McpError:
        cause = f": {exc}" if exc is not None else ""
        if isinstance(exc, ssl.SSLError) and self._peer is None:
            return AuthenticationFailed(
                f"TLS with {self._address} failed{cause}; check both ends' certificates and authorities"
            )
        told = self._stranger()
        return told or Unavailable(f"the connection to {self._address} was lost{cause}" + self._hint())

    @property
    def _awaits_first(self) -> bool:
        """Whether this end has dialled, and the other has not shown yet that it is a node."""
        return self._initiator and self._peer is None and not self.counters.frames_received

    def _stranger(self) -> McpError | None:
        """What a peer was that has left before it had sent a frame, if it has sent anything."""
        return stranger(self._reader.peek(FIRST_BYTES), over=True) if self._awaits_first else None

    def _hint(self) -> str:
        if self._peer is not None:
            return ""
        if not self._initiator and self.counters.frames_received:
            # Older initiators that find our proof wrong close and say nothing.
            return (
                f"; {self._address} left early: it was stopped, or is an older one with another cluster key"
            )
        if self._transport is not None and self._transport.get_extra_info("sslcontext") is not None:
            # asyncio closes without the alert that would say this
            return "; with TLS that may mean that the node asks for a certificate which this end lacks"
        return "; check that the address is a node's, and that both ends use TLS or neither does"

    def _guarded(self, callback: Callable[..., object], *arguments: Any) -> None:
        try:
            callback(*arguments)
        except Exception:
            log.exception("a callback of the connection to %s failed", self._address)


_READING: Final = (State.OPEN, State.HANDSHAKE)


def _retrieve(future: asyncio.Future[Peer]) -> None:
    """Mark the error as seen: who dials raises it, and a listener's connections only log it."""
    if not future.cancelled():
        future.exception()


def _peer_address(transport: asyncio.BaseTransport) -> str:
    peername = transport.get_extra_info("peername")
    if isinstance(peername, tuple):
        return f"[{peername[0]}]:{peername[1]}" if ":" in peername[0] else f"{peername[0]}:{peername[1]}"
    return str(peername) if peername else "a local peer"
