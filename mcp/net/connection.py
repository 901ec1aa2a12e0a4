"""One connection: requests both ways, notices, backpressure, over any asyncio transport.

Why it cannot run out of memory, and why it cannot lock up: an end that reads requests while the peer does
not read its answers would queue answers for ever. So an end stops reading while more than
``write_high_water_bytes`` are unsent and answers are among them. If both ends did that at once, each would
wait for the other for ever; so an end that is itself owed an answer goes on reading. Then no two ends both
stop: the one that stops is owed nothing, hence the other owes no answers, hence it does not stop. An end
that must go on reading refuses further requests with BUSY above ``write_buffer_bytes_max``, and a peer that
reads not even those refusals is cut off. Parts of answers are answers in this; who makes them asks for room
before each (:meth:`mcp.net.exchange.Exchange.on_room`), so that they are not made faster than they are read.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from typing import Any, Final, NoReturn

from mcp.errors import (
    Busy,
    DeadlineExceeded,
    InvalidArgument,
    McpError,
    MessageExpired,
    ProtocolError,
    Unavailable,
)
from mcp.net.calls import Call, Calls
from mcp.net.exchange import Exchange
from mcp.net.interface import Handler, Reply
from mcp.net.limits import DEFAULT_LIMITS, Limits
from mcp.net.link import Link, State, log
from mcp.net.parts import Part, Parts
from mcp.wire.codec import (
    decode_error,
    decode_map,
    decode_message,
    encode_error,
    encode_map,
    encode_message,
)
from mcp.wire.frame import FRAME_OVERHEAD_BYTES_MAX, Buffer, Frame, FrameKind
from mcp.wire.handshake import Handshake
from mcp.wire.messages import Message

TIMER_EARLY_S_MAX: Final = 0.001
"""uvloop counts whole milliseconds, so its timers come up to one too early."""


class Connection(Link):
    """One end of a connection. Made by :func:`mcp.net.connect` and by a listener, not by hand.

    All methods are for the event loop's own thread.
    """

    def __init__(
        self,
        handshake: Handshake,
        handler: Handler,
        *,
        limits: Limits = DEFAULT_LIMITS,
        address: str = "",
        made: Callable[[], object] | None = None,
    ) -> None:
        super().__init__(handshake, limits=limits, address=address, made=made)
        self._handler = handler
        self._parity = 1 if self._initiator else 0
        self._calls = Calls(first_stream=1 if self._initiator else 2)
        self._exchanges: dict[int, Exchange] = {}
        self._sweeper: asyncio.TimerHandle | None = None
        self._sweep_at = math.inf
        self._answers_end = 0  # the outbox position where the last answer ends
        self._dispatch |= {
            FrameKind.REQUEST: self._on_request,
            FrameKind.RESPONSE: self._on_response,
            FrameKind.ERROR: self._on_error,
            FrameKind.CANCEL: self._on_cancel,
            FrameKind.NOTICE: self._on_notice,
            FrameKind.PART: self._on_part,
            FrameKind.CREDIT: self._on_credit,
        }

    @property
    def requests_in_flight(self) -> int:
        """How many answers the peer owes, those included that nobody waits for any more."""
        return len(self._calls)

    @property
    def exchanges_in_progress(self) -> int:
        """How many answers this end owes."""
        return len(self._exchanges)

    async def request(self, message: Message, segments: Sequence[Buffer] = (), *, timeout_s: float) -> Reply:
        """Send a request and return its answer. Leave the segments unchanged until then.

        The peer is told the shorter of ``timeout_s`` and what the message's ``ttl`` leaves. Raises the
        peer's own error; :class:`~mcp.errors.DeadlineExceeded` after ``timeout_s`` (the peer is told to
        cancel); :class:`~mcp.errors.Unavailable` if the connection closed before the request was sent;
        :class:`~mcp.errors.OutcomeUnknown` if it closed after that; :class:`~mcp.errors.Busy` above the
        peer's limit of requests in flight; :class:`~mcp.errors.FrameTooLarge`. Cancelling the waiting
        task cancels the request.
        """
        call = self.begin(message, segments, timeout_s=timeout_s)
        try:
            return await call.future
        except asyncio.CancelledError:
            self.abandon(call)
            raise
        finally:
            # An error's traceback has this frame, and the call's future has the error: they would keep each
            # other, and the request's tensors, until the collector comes.
            del call

    def begin(
        self,
        message: Message,
        segments: Sequence[Buffer] = (),
        *,
        timeout_s: float,
        plain: bool = False,
        final: bool = False,
    ) -> Call:
        """Send a request. Its answer is the call's ``future``, which raises what :meth:`request` does.

        Call :meth:`abandon` if you stop waiting for it. ``plain`` is as for
        :func:`~mcp.wire.codec.encode_message`. ``final`` is more: the payload is small, has values of
        Python's own types alone (no subclass, whose look on a wire differs), and nobody changes it any more,
        so a peer in this process may be given it as it is.
        """
        call = self._open_call(message, segments, timeout_s, plain, final)
        if call.deadline < self._sweep_at:
            self._sweep_by(call.deadline)
        return call

    def stream(self, message: Message, segments: Sequence[Buffer] = (), *, timeout_s: float) -> Parts:
        """Send a request whose answer comes in parts; ``message.credit`` of them at most wait to be taken.

        ``timeout_s`` is for the whole answer. Raises what sending a request raises; the rest is raised where
        the parts are read. Close what is returned, in any case.
        """
        call = self.begin(message, segments, timeout_s=timeout_s)
        call.parts = Parts(self, call, message.credit)
        return call.parts

    def notify(self, body: Buffer | Sequence[Buffer], *, corked: bool = False) -> bool:
        """Send a one-way message. ``False``: it was dropped, because too much is unsent or nobody is there.

        It leaves when the event loop has its next turn, or with ``corked`` when :meth:`flush` is called.
        Raises :class:`~mcp.errors.FrameTooLarge`.
        """
        if self._state is not State.OPEN or self._outbox.backlog_bytes > self._limits.write_buffer_bytes_max:
            self.counters.notices_dropped += 1
            return False
        self._send(FrameKind.NOTICE, 0, body, corked=corked)
        return True

    # Requests of this end.

    def _open_call(
        self, message: Message, segments: Sequence[Buffer], timeout_s: float, plain: bool, final: bool
    ) -> Call:
        if self._state is not State.OPEN or self._peer is None:
            why = f": {self._reason.message}" if self._reason is not None else ""
            raise Unavailable(f"the connection is not open, and the request was not sent{why}")
        if timeout_s <= 0:
            raise DeadlineExceeded("no time was left to send the request, and it was not sent")
        ttl_ms = min(message.ttl.ms, math.ceil(timeout_s * 1000))
        body = self._body_of(message, plain, final, ttl_ms)
        deadline = self._loop.time() + timeout_s
        call = self._calls.open(self._loop.create_future(), self._peer.limits.streams_max, deadline)
        try:
            alone = len(self._calls) == 1
            self._send(FrameKind.REQUEST, call.stream, body, segments, corked=alone)
            if not body:
                self._hand_over(message.with_ttl_ms(ttl_ms))
        except McpError:
            self._calls.discard(call)
            raise
        call.end = self._outbox.queued
        self._expects_bytes = True
        if alone:
            self.flush()  # others that come in the same turn of the loop share the next write
        return call

    def _sweep_by(self, deadline: float) -> None:
        """Look for overdue calls at ``deadline``: one timer serves all of them, for most are answered."""
        if self._sweeper is not None:
            self._sweeper.cancel()
        self._sweep_at = deadline
        self._sweeper = self._loop.call_at(deadline + TIMER_EARLY_S_MAX, self._sweep)

    def _sweep(self) -> None:
        self._sweeper, self._sweep_at = None, math.inf
        for call in self._calls.overdue(self._loop.time()):
            if not call.future.done():
                call.failed(DeadlineExceeded("no answer came in time, and the request was cancelled"))
            self.abandon(call)
        deadline = self._calls.next_deadline()
        if deadline < math.inf:
            self._sweep_by(deadline)

    def abandon(self, call: Call) -> None:
        """Nobody waits for this answer any more: the peer is told, unless it has given it."""
        if self._calls.abandon(call) and self._state is State.OPEN:
            self._send(FrameKind.CANCEL, call.stream)

    def _take_call(self, stream: int) -> Call | None:
        """The call that the answer on ``stream`` is for, if somebody waits for it."""
        call = self._calls.take(stream)
        if call is not None:
            return None if call.future.done() else call
        if self._calls.take_abandoned(stream):
            self.counters.answers_late += 1
        else:
            self.counters.answers_unsolicited += 1
        return None

    def _body_of(self, message: Message, plain: bool, final: bool, ttl_ms: int | None = None) -> bytes:
        """The message as its frame has it; nothing where it is to be handed over, once that is sent."""
        if final and self._handover is not None:
            return b""
        return encode_message(message, ttl_ms=ttl_ms, plain=plain or final)

    def _hand_over(self, message: Message) -> None:
        """The message of a frame that was sent without a body."""
        assert self._handover is not None
        self._handover.given.append(message)

    def _handed_over(self, frame: Frame) -> Message | None:
        """The message of this frame, if it was not encoded."""
        handover = self._handover
        return handover.taken.popleft() if handover and handover.taken and not len(frame.body) else None

    def _on_response(self, frame: Frame) -> None:
        handed = self._handed_over(frame)
        call = self._take_call(frame.stream)
        if call is None:
            return
        try:
            reply = Reply(handed or decode_message(frame.body), frame.segments)
        except McpError as error:
            _fail_garbled(call, error)
        call.answered(reply)

    def _on_part(self, frame: Frame) -> None:
        call = self._calls.find(frame.stream)
        if call is None:
            if self._calls.owes(frame.stream):
                self.counters.answers_late += 1
            else:
                self.counters.answers_unsolicited += 1
            return
        try:
            if call.parts is None:
                raise ProtocolError("a part came of an answer that was wanted whole")
            call.parts._came(Part(decode_map(frame.body), frame.segments))
        except McpError as error:
            self._calls.take(frame.stream)
            _fail_garbled(call, error)

    def _allow(self, call: Call, parts: int) -> None:
        """The user of an answer took so many of its parts: the peer may send as many more."""
        if self._state is State.OPEN and self._calls.find(call.stream) is call:
            self._send(FrameKind.CREDIT, call.stream, encode_map({"parts": parts}))

    def _on_error(self, frame: Frame) -> None:
        call = self._take_call(frame.stream)
        if call is None:
            return
        try:
            told = decode_error(frame.body)
        except McpError as error:
            _fail_garbled(call, error)
        call.failed(told)

    # Requests of the peer.

    def _on_request(self, frame: Frame) -> None:
        stream = frame.stream
        if stream & 1 == self._parity or stream in self._exchanges:
            raise ProtocolError(
                f"a request came on stream {stream}, which "
                + ("is in use" if stream in self._exchanges else "belongs to this end")
                + "; the end that connected uses odd streams, the other even ones"
            )
        self.counters.requests_received += 1
        handed = self._handed_over(frame)
        try:
            self._check_room()
            message = self._read_request(frame.body, handed)
        except McpError as error:
            self.counters.requests_refused += 1
            self._send_error(stream, error)
            self._count_unread_answer()
            return
        exchange = Exchange(message, frame.segments, self, stream, self._heard + message.ttl.ms / 1000)
        self._exchanges[stream] = exchange
        try:
            self._handler.on_request(exchange)
        except McpError as error:
            exchange.fail(error)
        except Exception:
            log.exception("the handler failed on a %s from %s", message.type, self.peer.node_id)
            exchange.fail(McpError(f"the peer failed while handling {message.type}; its log says why"))

    def _check_room(self) -> None:
        limits = self._limits
        if len(self._exchanges) >= limits.streams_max:
            reached = f"streams_max={limits.streams_max} requests are in progress on this connection"
        elif self._outbox.backlog_bytes > limits.write_buffer_bytes_max:
            reached = f"write_buffer_bytes_max={limits.write_buffer_bytes_max} bytes of answers are unread"
        else:
            return
        raise Busy(f"{reached}; nothing was done, retry after reading answers")

    def _read_request(self, body: memoryview, handed: Message | None) -> Message:
        # The frame was sound, so what is wrong concerns this request alone and the connection goes on.
        try:
            message = handed or decode_message(body)
        except ProtocolError as error:
            raise InvalidArgument(error.message) from None
        if message.ttl.expired:
            self.counters.messages_expired += 1
            raise MessageExpired(f"the {message.type} had expired when it came; send it with a longer ttl.ms")
        return message

    def _on_cancel(self, frame: Frame) -> None:
        exchange = self._exchanges.get(frame.stream)
        if exchange is not None:
            exchange._cancel()

    def _on_credit(self, frame: Frame) -> None:
        exchange = self._exchanges.get(frame.stream)
        if exchange is not None:  # else it crossed the end of the answer
            exchange._allow(decode_map(frame.body).get("parts"))

    @property
    def _clogged(self) -> bool:
        """Whether so much is unsent that nothing more should be made to be sent."""
        return self._outbox.backlog_bytes > self._limits.write_high_water_bytes

    def _send_part(self, stream: int, payload: dict[str, Any], segments: Sequence[Buffer]) -> None:
        if self._state is State.OPEN:
            alone = len(self._exchanges) == 1 and not self._handling
            self._send(FrameKind.PART, stream, encode_map(payload), segments, corked=alone)
            self._answers_end = self._outbox.queued
            if alone:
                self.flush()

    def _flushed(self) -> None:
        for exchange in [each for each in self._exchanges.values() if each._waits_for_room]:
            exchange._look_for_room()

    def _on_notice(self, frame: Frame) -> None:
        self._guarded(self._handler.on_notice, self, frame.body)

    def _send_reply(
        self, stream: int, message: Message, segments: Sequence[Buffer], plain: bool, final: bool
    ) -> None:
        if self._state is State.OPEN:
            alone = len(self._exchanges) == 1 and not self._handling
            body = self._body_of(message, plain, final)
            self._send(FrameKind.RESPONSE, stream, body, segments, corked=alone)
            if not body:
                self._hand_over(message)
            self._answers_end = self._outbox.queued
            self._expects_bytes = True
            if alone:
                self.flush()  # nobody else waits for an answer here, so there is nothing to wait for

    def _send_error(self, stream: int, error: McpError) -> None:
        if self._state is State.OPEN:
            room = self.peer.limits.frame_bytes_max - FRAME_OVERHEAD_BYTES_MAX
            self._send(FrameKind.ERROR, stream, encode_error(error, bytes_max=room))
            self._answers_end = self._outbox.queued

    # What the link asks.

    def _opened(self) -> None:
        self._handler.on_connected(self)

    def _ended(self, position: int, reason: McpError | None) -> None:
        if self._sweeper is not None:
            self._sweeper.cancel()
        self._calls.fail_all(position, reason)
        for exchange in list(self._exchanges.values()):
            exchange._cancel()

    def _gone(self, reason: McpError | None) -> None:
        self._handler.on_closed(self, reason)

    def _must_not_read(self, backlog: int) -> bool:
        high = self._limits.write_high_water_bytes
        if backlog <= (high // 2 if self._reading_paused else high) or len(self._calls):
            return False
        return self._answers_end > self._outbox.queued - backlog


def _fail_garbled(call: Call, error: McpError) -> NoReturn:
    """Tell the caller and the link: a peer whose answers cannot be read is not to be trusted further."""
    call.failed(error)
    raise error
