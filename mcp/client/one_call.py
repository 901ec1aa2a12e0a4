"""Many commands in one call: one caller, one wake-up, and an outcome for each of them.

A coroutine, a future and a record for each command cost more than the command itself does on its way. Where
one caller has many, they go in chunks, of which each is one message and has one of each.
"""

from __future__ import annotations

import asyncio
import functools
from collections import deque
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from typing import Any, Final

from mcp.client.admission import Admission
from mcp.client.connections import again
from mcp.client.exchange import Answer, Exchange, Request
from mcp.client.gathering import (
    TOGETHER_MAX,
    Awaited,
    Begun,
    Result,
    all_results,
    all_short,
    is_short,
    results_in,
)
from mcp.client.kinds import CallKind
from mcp.client.session import Session, Ticket
from mcp.errors import Busy, McpError, OutcomeUnknown

CALLS_MAX: Final = 65_536
"""So many commands may be in one call."""
CHUNKS_UNDER_WAY: Final = 8
"""So many chunks of one call are begun before the first of them has ended: enough to fill a window."""

Operation = tuple[str, Mapping[str, Any]]
"""What a command does, and its arguments."""

GoOn = Callable[[Begun, float], Coroutine[Any, Any, Any]]
"""Sends a command by itself that was on its way with others, to no result; its call began with so many
seconds. Gives its value, or raises."""


class Chunk(Awaited):
    """Commands that one message carries; its caller awaits ``over`` and then looks at what came of them.

    Those without a result of their own go on by themselves, after the ``error`` of the attempt at ``address``
    if there was one. ``send`` is called where it had to wait, once there is room for all of it.
    """

    __slots__ = (
        "address",
        "complete",
        "deadline",
        "error",
        "first",
        "operations",
        "over",
        "results",
        "send",
        "session",
    )

    def __init__(
        self, operations: Sequence[Operation], deadline: float, send: Callable[[Chunk], None]
    ) -> None:
        self.operations = operations
        self.deadline = deadline
        self.send = send
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.session: Session | None = None
        self.first = 0
        self.results: Sequence[Result] = ()
        self.complete = False
        self.error: McpError | None = None
        self.address = ""

    @property
    def needs(self) -> int:
        """See :class:`~mcp.client.admission.Turn`: all go, or none."""
        return len(self.operations)

    def admit(self) -> None:
        """See :class:`~mcp.client.admission.Turn`."""
        self.send(self)

    def number(self, session: Session) -> list[list[Any]]:
        """Give each command its number, and write down what the message says of them."""
        self.session, self.first = session, session.allocate_many(len(self.operations))
        return [[seq, op, args] for seq, (op, args) in enumerate(self.operations, self.first)]

    def take(self, results: Sequence[Result]) -> McpError | None:
        """Note what came of all of them; whoever has a result is never sent again. Gives an error, if any."""
        assert self.session is not None
        self.results = results
        if all_results(results):
            self.complete = True
            self.session.resolve_many(self.first, len(results))
            return None
        failed = [place for place, each in enumerate(results) if type(each) is not list]
        for place in set(range(len(results))).difference(failed):
            self.session.resolve(self.first + place)
        found = results[failed[0]]
        assert isinstance(found, McpError)
        return found

    def resolve(self) -> None:
        """None of them is sent again."""
        if self.session is not None:
            self.session.resolve_many(self.first, len(self.operations))

    def values(self) -> list[Any]:
        """Each command's value; ``None`` for those that go on."""
        if self.complete:
            return [value for _, value in self.results]  # type: ignore[misc]  # none of them is an error
        if not self.results:
            return [None] * len(self.operations)
        return [None if isinstance(each, McpError) else each[1] for each in self.results]

    def rest(self) -> Iterator[tuple[int, Begun]]:
        """Those that go on by themselves, with their places."""
        if self.complete:
            return
        for place, (op, args) in enumerate(self.operations):
            error = self.error
            if self.results:
                result = self.results[place]
                if not isinstance(result, McpError):
                    continue
                error = result
            begun = Begun(op, args, self.deadline)
            begun.error, begun.address = None if error is None else again(error), self.address
            if self.session is not None:
                begun.ticket = Ticket(self.session, self.first + place)
            yield place, begun


class OneCall:
    """The commands of one call, in chunks of which some are under way at once.

    ``timeout_s`` is for all of them.
    """

    def __init__(self, exchange: Exchange, admission: Admission, go_on: GoOn, timeout_s: float) -> None:
        self._exchange = exchange
        self._admission = admission
        self._go_on = go_on
        self._timeout_s = timeout_s
        self._attempts = exchange.attempts(CallKind.COMMAND, timeout_s)
        self._under_way: deque[Chunk] = deque()

    async def outcomes(self, operations: Sequence[Operation]) -> list[Any]:
        """Their values, and the errors of those that failed, each in its place."""
        if all_short([args for _, args in operations]):
            return await self._all(operations, len(operations))
        short = [is_short(args) for _, args in operations]
        places = sorted(range(len(operations)), key=lambda place: not short[place])
        ended = await self._all([operations[place] for place in places], short.count(True))
        by_place = dict(zip(places, ended, strict=True))
        return [by_place[place] for place in range(len(operations))]

    async def _all(self, operations: Sequence[Operation], short: int) -> list[Any]:
        """As :meth:`outcomes`; the first ``short`` are so, and go together."""
        try:
            return await self._in_chunks(operations, short)
        except BaseException:
            self._give_up()
            raise

    async def _in_chunks(self, operations: Sequence[Operation], short: int) -> list[Any]:
        outcomes: list[Any] = []
        refused: McpError | None = None
        at = 0
        try:
            while at < len(operations):
                await self._admission.ensure_open(self._attempts)
                if len(self._under_way) == CHUNKS_UNDER_WAY:
                    outcomes += await self._first_outcomes()
                    continue
                together = self._together_max() if at < short else 1
                most = together if together > 1 else TOGETHER_MAX
                end = min(at + most, short if at < short else len(operations))
                self._under_way.append(self._begin(operations[at:end], together=together > 1))
                at = end
        except McpError as error:
            refused = error  # no session, or no time: nothing of the rest was sent
        while self._under_way:
            outcomes += await self._first_outcomes()
        if refused is not None:
            outcomes += [again(refused) for _ in operations[at:]]
        return outcomes

    def _together_max(self) -> int:
        chosen = self._exchange.commands_at()
        return 1 if chosen is None else min(chosen[1], TOGETHER_MAX, self._admission.session.window_max)

    def _begin(self, operations: Sequence[Operation], *, together: bool) -> Chunk:
        left_s = self._admission.left(self._attempts)
        chunk = Chunk(operations, self._attempts.deadline, self._send)
        if len(operations) == 1 or not together:
            chunk.end()  # they go by themselves
        elif self._admission.ready and self._admission.session.room >= chunk.needs:
            self._send(chunk)
        else:
            try:
                self._admission.wait(chunk, left_s)
            except Busy as error:
                chunk.error = error
                chunk.end()
        return chunk

    def _send(self, chunk: Chunk) -> None:
        chosen = self._exchange.commands_at()
        if chosen is None or chosen[1] < chunk.needs:
            chunk.end()  # it waited, and now another node takes commands
            return
        left_s = chunk.deadline - self._exchange.clock.monotonic()
        chunk.address, attempt_s = chosen[0], self._exchange.command_attempt_s(left_s)
        session = self._admission.session
        commands = chunk.number(session)
        payload = {"session": session.id, "ack": session.ack, "commands": commands}
        request = Request(CallKind.COMMAND, "COMMANDS", payload, final=True)
        over = functools.partial(self._over, chunk)
        if self._exchange.send_now(request, chunk.address, attempt_s, len(commands), over) is None:
            chunk.address = ""
            chunk.end()

    def _over(self, chunk: Chunk, answer: Answer | McpError) -> None:
        """The attempt has ended. They were sent, so without a result they are in doubt."""
        try:
            failed = chunk.take(results_in(answer, len(chunk.operations)))
            if failed is not None:
                self._exchange.commands_failed(chunk.address, failed)
        except McpError as error:
            chunk.error = error
        except BaseException as error:
            chunk.error = OutcomeUnknown(f"{type(error).__name__} while reading the answer")
            raise
        finally:
            chunk.end()
            self._admission.admit()

    async def _first_outcomes(self) -> list[Any]:
        """What came of the first chunk's commands, when all have ended, by themselves if need be."""
        chunk = self._under_way[0]
        await chunk.over
        outcomes, rest = chunk.values(), list(chunk.rest())
        if rest:
            going_on = (self._go_on(begun, self._timeout_s) for _, begun in rest)
            ended = await asyncio.gather(*going_on, return_exceptions=True)
            for (place, _), outcome in zip(rest, ended, strict=True):
                outcomes[place] = outcome
        self._under_way.popleft()
        return outcomes

    def _give_up(self) -> None:
        """The caller has gone away, and nothing is sent again."""
        for chunk in self._under_way:
            chunk.over.cancel()
            chunk.resolve()
            self._admission.leave(chunk)
        self._admission.admit()
