"""The requests that this end has sent and that have no answer yet."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable
from contextvars import Context, copy_context
from typing import TYPE_CHECKING, Final

from mcp.errors import Busy, McpError, OutcomeUnknown, Unavailable
from mcp.net.interface import Reply

if TYPE_CHECKING:
    from mcp.net.parts import Parts

_STREAMS: Final = 2**32
_log: Final = logging.getLogger("mcp.net")


class Call:
    """One request: its stream, its future, and the position in the outbox where its frame ends."""

    __slots__ = ("_context", "_then", "deadline", "end", "future", "parts", "stream")

    def __init__(self, stream: int, future: asyncio.Future[Reply], deadline: float) -> None:
        self.stream = stream
        self.future = future
        self.deadline = deadline
        self.end = 0
        self.parts: Parts | None = None
        self._then: Callable[[asyncio.Future[Reply]], object] | None = None
        self._context: Context | None = None

    def go_on(self, then: Callable[[asyncio.Future[Reply]], object]) -> None:
        """Have ``then`` called with the future as soon as that is done, in the same turn of the event loop.

        It has the caller's context, as a future's own callbacks have: an answer comes in the context in which
        the connection was made, and whose trace is another.
        """
        self._then, self._context = then, copy_context()

    def answered(self, reply: Reply) -> None:
        """The answer has come."""
        self.future.set_result(reply)
        if self._then is not None:
            self._done()

    def failed(self, error: McpError) -> None:
        """There is none, and why."""
        self.future.set_exception(error)
        if self._then is not None:
            self._done()

    def cancel(self) -> None:
        """Nobody wants it any more."""
        if self.future.cancel() and self._then is not None:
            self._done()

    def _done(self) -> None:
        then, self._then = self._then, None
        context, self._context = self._context, None
        assert then is not None
        assert context is not None
        try:
            context.run(then, self.future)
        except Exception:
            _log.exception("what was to be done with an answer failed")


class Calls:
    """Requests in flight by stream. Streams of one end are all odd or all even, and are used again.

    A call that nobody waits for any more is kept, without its future, until its answer comes: its stream
    is still in use by the peer, and the peer still owes us bytes.
    """

    def __init__(self, first_stream: int) -> None:
        self._first = first_stream
        self._next = first_stream
        self._calls: dict[int, Call] = {}
        self._abandoned: set[int] = set()

    def __len__(self) -> int:
        """How many answers the peer owes."""
        return len(self._calls) + len(self._abandoned)

    def open(self, future: asyncio.Future[Reply], streams_max: int, deadline: float = math.inf) -> Call:
        """Start a call on a free stream. Raises :class:`~mcp.errors.Busy` at the peer's limit."""
        if len(self) >= streams_max:
            raise Busy(
                f"{len(self)} requests are in flight on this connection and the peer takes "
                f"streams_max={streams_max}; wait for answers, or use another connection",
                details={"streams_max": streams_max},
            )
        stream = self._next
        while stream in self._calls or stream in self._abandoned:
            stream = self._after(stream)
        self._next = self._after(stream)
        call = self._calls[stream] = Call(stream, future, deadline)
        return call

    def overdue(self, now: float) -> list[Call]:
        """The calls whose deadline has passed."""
        return [call for call in self._calls.values() if call.deadline <= now]

    def next_deadline(self) -> float:
        """When the next call is overdue; infinity when nobody waits."""
        return min((call.deadline for call in self._calls.values()), default=math.inf)

    def discard(self, call: Call) -> None:
        """Forget a call that was never queued."""
        self._calls.pop(call.stream, None)

    def find(self, stream: int) -> Call | None:
        """The call on ``stream``, if somebody waits for its answer."""
        return self._calls.get(stream)

    def owes(self, stream: int) -> bool:
        """Whether the peer owes an answer on ``stream`` for which nobody waits any more."""
        return stream in self._abandoned

    def take(self, stream: int) -> Call | None:
        """The call that an answer on ``stream`` ends, if somebody waits for it."""
        return self._calls.pop(stream, None)

    def take_abandoned(self, stream: int) -> bool:
        """Whether an answer on ``stream`` ends a call that nobody waits for."""
        if stream not in self._abandoned:
            return False
        self._abandoned.remove(stream)
        return True

    def abandon(self, call: Call) -> bool:
        """Wait no more. Returns whether the peer should be told, because it has not answered yet."""
        if self._calls.get(call.stream) is not call:
            return False
        del self._calls[call.stream]
        self._abandoned.add(call.stream)
        return True

    def fail_all(self, handed: int, reason: McpError | None) -> None:
        """End every call: the connection is gone, and its transport had taken ``handed`` bytes of it.

        A request whose frame was not handed over entirely cannot have been understood.
        """
        why = f": {reason.message}" if reason is not None else ""
        calls, self._calls = self._calls, {}
        self._abandoned.clear()
        for call in calls.values():
            if call.future.done():
                continue
            if call.end > handed:
                error: McpError = Unavailable(f"the connection closed before the request was sent{why}")
            else:
                error = OutcomeUnknown(
                    f"the connection closed before the answer came, so the request may have taken "
                    f"effect{why}; retry only under the same request id"
                )
            call.failed(error)

    def _after(self, stream: int) -> int:
        return stream + 2 if stream + 2 < _STREAMS else self._first
