"""One request of the peer and its one answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from mcp.errors import Cancelled, McpError
from mcp.wire.frame import Buffer
from mcp.wire.messages import Message

if TYPE_CHECKING:
    from mcp.net.connection import Connection


class Exchange:
    """A request that waits for its answer. Exactly one is sent; later ones are ignored.

    ``segments`` are read-only views that stay valid as long as they are referenced. ``deadline`` is the
    event loop's time after which nobody waits for the answer.
    """

    __slots__ = (
        "_answered",
        "_callbacks",
        "_cancelled",
        "_stream",
        "connection",
        "deadline",
        "message",
        "segments",
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
        self._stream = stream
        self._answered = False
        self._cancelled = False
        self._callbacks: list[Callable[[], object]] = []

    @property
    def cancelled(self) -> bool:
        """Whether the requester gave up or went away before there was an answer: stop working on it."""
        return self._cancelled

    @property
    def answered(self) -> bool:
        """Whether the answer is given, or nobody wants it any more."""
        return self._answered

    def reply(self, message: Message, segments: Sequence[Buffer] = ()) -> None:
        """Answer. Leave the segments unchanged until they are sent.

        An answer that cannot be sent (too large, no plain values) becomes the error that says so.
        """
        if self._answered:
            return
        try:
            self.connection._send_reply(self._stream, message, segments)
        except McpError as error:
            self.fail(error)
        else:
            self._done()

    def fail(self, error: McpError) -> None:
        """Answer with an error."""
        if not self._answered:
            self._done()
            self.connection._send_error(self._stream, error)

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
        self.fail(Cancelled("the request was cancelled by the peer that sent it, or its connection closed"))
        for callback in callbacks:
            self.connection._guarded(callback)

    def _done(self) -> None:
        self._answered = True
        self._callbacks = []
        self.connection._exchanges.pop(self._stream, None)
