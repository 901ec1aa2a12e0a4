"""Answers in parts: how many the requester takes, and the parts as they come.

A requester says in its request how many parts it takes before it allows more (its *credit*), and allows
more as its user takes them. So what an end holds for a slow user is bounded by parts and not by time, and a
stream that nobody reads holds up neither the others on its connection nor the node that answers it: the
producer stops at the end of its credit. The two classes of arithmetic are pure; both ends use them, so that
neither trusts the other to keep the rule.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple

from mcp.errors import ProtocolError
from mcp.net.interface import Reply
from mcp.wire.messages import CREDIT_MAX

if TYPE_CHECKING:
    from mcp.net.calls import Call
    from mcp.net.connection import Connection


class Part(NamedTuple):
    """One part of an answer. The segments are read-only and valid as long as they are referenced."""

    payload: dict[str, Any]
    segments: tuple[memoryview, ...]


class Credit:
    """What an answering end may still send."""

    __slots__ = ("parts",)

    def __init__(self, parts: int) -> None:
        self.parts = parts

    def spend(self) -> None:
        """A part is sent. Raises ``RuntimeError`` when there is no credit: look before."""
        if not self.parts:
            raise RuntimeError("no part may be sent before the requester allows more")
        self.parts -= 1

    def allow(self, parts: object) -> None:
        """The requester allows more. Raises :class:`~mcp.errors.ProtocolError` for what makes no sense."""
        if type(parts) is not int or not 1 <= parts <= CREDIT_MAX - self.parts:
            raise ProtocolError(
                f"credit for {parts!r:.80} parts came where {self.parts} were allowed already; a requester "
                f"allows at least 1, and at most credit_max={CREDIT_MAX} in all"
            )
        self.parts += parts


class Window:
    """What a requester has allowed: at most ``size`` parts are on their way or not taken by the user yet."""

    __slots__ = ("_allowed", "_size", "_taken")

    def __init__(self, size: int) -> None:
        self._size = size
        self._allowed = size
        self._taken = 0

    def came(self) -> None:
        """A part came. Raises :class:`~mcp.errors.ProtocolError` when none was allowed."""
        if not self._allowed:
            raise ProtocolError("a part of an answer came for which no credit was left")
        self._allowed -= 1

    def taken(self) -> int:
        """The user took a part. Gives how many more to allow now: half a window at a time, to save frames."""
        self._taken += 1
        if 2 * self._taken < self._size:
            return 0
        owed, self._taken = self._taken, 0
        self._allowed += owed
        return owed

    def allow(self, parts: int) -> None:
        """So many more are allowed, whatever was taken."""
        self._allowed += parts


class Parts:
    """The answer to one request as it comes: an asynchronous iterator of :class:`Part`, for one task.

    It ends with ``StopAsyncIteration`` when the answer is complete, of which :attr:`reply` is the end; or it
    raises what ended it. Call :meth:`close` in any case: the peer stops if it has not finished.
    """

    def __init__(self, connection: Connection, call: Call, window: int) -> None:
        self._connection = connection
        self._call = call
        self._window = Window(window)
        self._waiting: deque[Part] = deque()
        self._woken: asyncio.Future[None] | None = None
        self.reply: Reply | None = None
        """What ended the answer, once it has."""
        call.future.add_done_callback(self._ended)

    def __aiter__(self) -> Parts:
        return self

    async def __anext__(self) -> Part:
        """The next part. Raises the peer's error, and what :meth:`Connection.request` does."""
        if not self._waiting and not await self.arrived():
            self.reply = self._call.future.result()
            raise StopAsyncIteration
        part = self.take()
        more = self._window.taken()
        if more and not self._call.future.done():
            self._connection._allow(self._call, more)
        return part

    # For one who passes the parts on, and allows only what its own reader does.

    async def arrived(self) -> bool:
        """Wait until a part is here, and leave it; ``False``: none comes any more. Raises nothing."""
        while not self._waiting:
            if self._call.future.done():
                return False
            self._woken = asyncio.get_running_loop().create_future()
            await self._woken
        return True

    def take(self) -> Part:
        """The part that has arrived. Nothing is allowed for it: :meth:`allow` does that."""
        return self._waiting.popleft()

    def allow(self, parts: int) -> None:
        """Have the peer send so many parts more than it may."""
        if not self._call.future.done():
            self._window.allow(parts)
            self._connection._allow(self._call, parts)

    def close(self) -> None:
        """Nobody reads on. What was not read is dropped, and the peer is told to stop."""
        self._waiting.clear()
        if not self._call.future.done():
            self._connection.abandon(self._call)
            self._call.future.cancel()

    def _came(self, part: Part) -> None:
        self._window.came()
        self._waiting.append(part)
        self._wake()

    def _ended(self, future: asyncio.Future[Reply]) -> None:
        if not future.cancelled():
            future.exception()  # it is raised where the parts are read, if they are
        self._wake()

    def _wake(self) -> None:
        if self._woken is not None and not self._woken.done():
            self._woken.set_result(None)
