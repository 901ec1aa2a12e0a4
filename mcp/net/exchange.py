"""One request of the peer and its one answer."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from mcp.errors import Cancelled, McpError, ProtocolError
from mcp.net.parts import Credit
from mcp.wire.frame import Buffer
from mcp.wire.messages import Message

if TYPE_CHECKING:
    from mcp.net.connection import Connection


class Exchange:
    """A request that waits for its answer. Exactly one is sent; later ones are ignored.

    Where the request allows it, the answer may be preceded by parts. Each is made when there is room for it::

        def go_on():
            if exchange.has_room:
                exchange.part(payload, segments)
            exchange.on_room(go_on)

    ``segments`` are read-only views that stay valid as long as they are referenced. ``deadline`` is the
    event loop's time after which nobody waits for the answer.
    """

    __slots__ = (
        "_answered",
        "_callbacks",
        "_cancelled",
        "_credit",
        "_ended",
        "_instead",
        "_room",
        "_stream",
        "connection",
        "deadline",
        "message",
        "note",
        "segments",
        "waited_s",
    )

    def __init__(
        self,
        message: Message,
        segments: tuple[memoryview, ...],
        connection: Connection,
        stream: int,
        deadline: float | None,
    ) -> None:
        self.message = message
        self.segments = segments
        self.connection = connection
        self.deadline = deadline
        self.note: object = None
        """The handler's own: what it wants to know of the request when it answers."""
        self.waited_s: float | None = None
        """How long the request waited before it was worked on, once whoever does that has told it."""
        self._stream = stream
        self._answered = False
        self._cancelled = False
        self._callbacks: list[Callable[[], object]] = []
        self._credit: Credit | None = Credit(message.credit) if message.credit else None
        self._room: Callable[[], object] | None = None
        self._ended: Callable[[McpError | None], object] | None = None
        self._instead: Callable[[McpError], bool] | None = None

    @property
    def cancelled(self) -> bool:
        """Whether the requester gave up or went away before there was an answer: stop working on it."""
        return self._cancelled

    @property
    def answered(self) -> bool:
        """Whether the answer is given, or nobody wants it any more."""
        return self._answered

    def reply(
        self,
        message: Message,
        segments: Sequence[Buffer] = (),
        *,
        plain: bool = False,
        final: bool = False,
    ) -> None:
        """Answer. Leave the segments unchanged until they are sent; ``plain`` and ``final`` as for a request.

        An answer that cannot be sent (too large, no plain values) becomes the error that says so.
        """
        if self._answered:
            return
        try:
            self.connection._send_reply(self._stream, message, segments, plain, final)
        except McpError as error:
            self.fail(error)
        else:
            self._done()

    @property
    def in_parts(self) -> bool:
        """Whether the requester takes the answer in parts."""
        return self._credit is not None

    @property
    def parts_allowed(self) -> int:
        """How many parts the requester takes now."""
        return 0 if self._credit is None else self._credit.parts

    @property
    def has_room(self) -> bool:
        """Whether a part may be sent now: it was allowed, and not too much is unsent."""
        credit = self._credit
        return credit is not None and credit.parts > 0 and not self.connection._clogged

    def part(self, payload: dict[str, Any], segments: Sequence[Buffer] = ()) -> None:
        """Send a part of the answer, if there is room. Leave the segments unchanged until they are sent.

        One that cannot be sent (too large, no plain values) ends the answer with the error that says so.
        Raises ``RuntimeError`` when no part was allowed.
        """
        if self._answered or self._credit is None:
            return
        self._credit.spend()
        try:
            self.connection._send_part(self._stream, payload, segments)
        except McpError as error:
            self.fail(error)

    def on_room(self, callback: Callable[[], object]) -> None:
        """Call ``callback()`` once there is room, in a turn of the loop of its own; once, and the last one.

        Never, once the answer is given or nobody wants it any more.
        """
        if not self._answered:
            if self._room is None:
                self.connection._awaiting_room += 1
            self._room = callback
            self._look_for_room()

    def fail(self, error: McpError) -> None:
        """Answer with an error, unless something else is done instead (:meth:`on_failure`)."""
        if not self._answered and not (self._instead is not None and self._begun_anew(error)):
            self._done(error)
            self.connection._send_error(self._stream, error)

    def on_failure(self, callback: Callable[[McpError], bool]) -> None:
        """Ask ``callback(error)``, once, before an error is sent: ``True``, and it is not, for work goes on.

        What was begun has ended with that error all the same: whoever asked for it by :meth:`on_end` is told
        so before, and nobody who did by :meth:`on_cancel` is told anything any more. Nobody is asked where
        the requester has gone away.
        """
        self._instead = callback

    def on_end(self, callback: Callable[[McpError | None], object]) -> None:
        """Call ``callback(error)`` once, when the answer is given, with its error if it is one.

        Several are called in their order. Also when nobody waits for it any more, with
        :class:`~mcp.errors.Cancelled`; at once if that is so.
        """
        if self._answered:
            callback(Cancelled("the request is over"))
        elif self._ended is None:
            self._ended = callback
        else:
            self._ended = functools.partial(_both, self._ended, callback)

    def on_cancel(self, callback: Callable[[], object]) -> None:
        """Call ``callback()`` when the exchange is cancelled; at once if it already is."""
        if self._cancelled:
            callback()
        elif not self._answered:
            self._callbacks.append(callback)

    def _cancel(self) -> None:
        """Nobody waits any more. The peer is told, so that it can forget the stream."""
        if self._answered:
            return
        self._cancelled = True
        callbacks = self._callbacks
        self._instead = None
        self.fail(Cancelled("the request was cancelled by the peer that sent it, or its connection closed"))
        for callback in callbacks:
            self.connection._guarded(callback)

    @property
    def _waits_for_room(self) -> bool:
        return self._room is not None

    def _allow(self, parts: object) -> None:
        if self._credit is None:
            raise ProtocolError("credit came for an answer that was wanted whole")
        self._credit.allow(parts)
        self._look_for_room()

    def _look_for_room(self) -> None:
        if self._room is not None and self.has_room:
            self.connection._loop.call_soon(self._go_on, self._take_room())

    def _go_on(self, callback: Callable[[], object]) -> None:
        if not self._answered:
            self.connection._guarded(callback)

    def _take_room(self) -> Callable[[], object]:
        callback, self._room = self._room, None
        self.connection._awaiting_room -= 1
        assert callback is not None
        return callback

    def _begun_anew(self, error: McpError) -> bool:
        """The first attempt has failed: whether another is begun."""
        instead, self._instead = self._instead, None
        ended, self._ended = self._ended, None
        self._callbacks = []
        if ended is not None:
            ended(error)
        assert instead is not None
        return instead(error)

    def _done(self, error: McpError | None = None) -> None:
        self._answered = True
        self._callbacks = []
        if self._ended is not None:
            self._ended(error)
        if self._room is not None:
            self._take_room()
        self.connection._exchanges.pop(self._stream, None)


def _both(
    first: Callable[[McpError | None], object],
    second: Callable[[McpError | None], object],
    error: McpError | None,
) -> None:
    first(error)
    second(error)
