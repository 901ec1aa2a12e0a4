"""Commands: each is sent under a session and a sequence number, so that repeating it is harmless.

A lane is one session at a time with its window. The session is opened by the first command. When the
cluster has forgotten it, commands that were refused for that reason go on under a new one, because a
refusal is a definite answer; a command that was in doubt ends as ``OutcomeUnknown``, because under a new
session it could be applied a second time.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mcp.client.connections import again
from mcp.client.exchange import Answer, Exchange, Prepare, Request
from mcp.client.gathering import TOGETHER_MAX, Begun, Gathering, is_short, results_in
from mcp.client.kinds import CallKind
from mcp.client.one_call import CHUNKS_UNDER_WAY, Chunk, Operation
from mcp.client.retry import Attempts, decided_by_log
from mcp.client.session import WINDOW_COMMANDS_MAX, Session, Ticket
from mcp.errors import Busy, DeadlineExceeded, McpError, OutcomeUnknown, SessionExpired, Unavailable
from mcp.net.connection import TIMER_EARLY_S_MAX


@dataclass(frozen=True, slots=True)
class LaneLimits:
    """The limits of one lane."""

    window_max: int = WINDOW_COMMANDS_MAX
    waiting_max: int = 65_536
    """Commands that wait for room in the window; one more is refused with ``Busy``."""
    open_timeout_s: float = 10.0
    sessions_per_command_max: int = 3
    """A cluster that forgets every session at once is not asked for ever."""
    close_timeout_s: float = 0.5


class _Turn:
    """One who waits for room: the ticket will come, or ``None`` where the session was replaced."""

    __slots__ = ("attempts", "deadline", "ticket")

    def __init__(self, ticket: asyncio.Future[Ticket | None], attempts: Attempts) -> None:
        self.ticket = ticket
        self.attempts = attempts
        self.deadline = attempts.deadline


class CommandLane:
    """Sends commands under one session at a time. Use it on one event loop, from any number of tasks."""

    def __init__(
        self, exchange: Exchange, new_session_id: Callable[[], str], limits: LaneLimits | None = None
    ) -> None:
        self._exchange = exchange
        self._new_session_id = new_session_id
        self._limits = limits or LaneLimits()
        self._session = self._new_session()
        self._opened = False
        self._opening: asyncio.Task[McpError | None] | None = None
        self._opening_attempts = self._attempts(0.0)
        self._waiting: deque[_Turn | Begun | Chunk] = deque()
        self._sweeper: asyncio.TimerHandle | None = None
        self._sweep_at = 0.0
        self._gathering = Gathering(exchange, self._answered)

    def _new_session(self) -> Session:
        return Session(self._new_session_id(), window_max=self._limits.window_max)

    # -- one command ------------------------------------------------------------------------------

    async def command(self, op: str, args: Mapping[str, Any], timeout_s: float) -> Any:
        """Have the operation take effect exactly once, and give its value; raises as :meth:`send`.

        A small one goes with those that begin in the same turn, unless it is the only one.
        """
        deadline, left_s = self._exchange.clock.monotonic() + timeout_s, timeout_s
        begun = attempts = None
        if is_short(args):
            if not self._opened or self._exchange.closed:
                attempts = self._exchange.attempts(CallKind.COMMAND, timeout_s, deadline)
                await self._ensure_open(attempts)
                left_s = self._left(attempts)
            if self._session.in_flight:
                begun = self._begin(op, args, left_s, deadline)
                try:
                    await begun.over
                except BaseException:
                    self._give_up(begun)
                    raise
                if begun.result is not None:
                    return begun.result[1]
        attempts = attempts or self._exchange.attempts(CallKind.COMMAND, timeout_s, deadline)
        answer = await self.send("COMMAND", {"op": op, "args": args}, attempts, begun=begun)
        return answer.payload.get("value")

    async def send(
        self,
        type_: str,
        fields: Mapping[str, Any],
        attempts: Attempts,
        *,
        prepare: Prepare | None = None,
        begun: Begun | None = None,
    ) -> Answer:
        """Send a message with ``fields`` and have it take effect exactly once, or raise.

        ``prepare`` runs before each attempt at the node that it is given. ``begun``: it was on its way with
        others, to no result. Raises the command's own error, ``DeadlineExceeded`` (nothing was written) or
        ``OutcomeUnknown`` (sent, and the answer was lost until the deadline).
        """
        expired: SessionExpired | None = None
        for _ in range(self._limits.sessions_per_command_max):
            ticket = begun.ticket if begun is not None else None
            if ticket is None:
                ticket = self._session.allocate() if self._ready else await self._acquire(attempts)
            try:
                tried = ""
                if begun is not None and begun.error is not None:
                    tried, error = begun.address, begun.error
                    await self._exchange.pause("COMMANDS", attempts, error, {tried})
                request = _request(type_, ticket, fields)
                return await self._exchange.call(request, attempts, prepare=prepare, avoid=tried)
            except SessionExpired as error:
                if decided_by_log(error):
                    raise  # a user's executor may give that code, too: the command has its outcome
                self._expired(ticket.session)
                expired = error
            except OutcomeUnknown:
                if isinstance(attempts.last_error, SessionExpired):
                    self._expired(ticket.session)
                raise
            finally:
                begun = None
                self._resolve(ticket)
        raise expired or SessionExpired("no session could be kept")

    # -- many commands in one call ------------------------------------------------------------------

    async def commands(self, operations: Sequence[Operation], timeout_s: float) -> list[Any]:
        """Have each take effect exactly once; their values, and the errors of those that failed.

        They are commands as any others, and take effect in no set order.
        """
        short = [is_short(args) for _, args in operations]
        if all(short):
            return await self._in_chunks(operations, len(operations), timeout_s)
        places = sorted(range(len(operations)), key=lambda place: not short[place])
        sorted_ = [operations[place] for place in places]
        ended = await self._in_chunks(sorted_, short.count(True), timeout_s)
        by_place = dict(zip(places, ended, strict=True))
        return [by_place[place] for place in range(len(operations))]

    async def _in_chunks(self, operations: Sequence[Operation], short: int, timeout_s: float) -> list[Any]:
        """As :meth:`commands`; the first ``short`` are so, and go together."""
        attempts = self._exchange.attempts(CallKind.COMMAND, timeout_s)
        outcomes: list[Any] = []
        under_way: deque[Chunk] = deque()
        refused: McpError | None = None
        at = 0
        try:
            while at < len(operations):
                await self._ensure_open(attempts)
                if len(under_way) == CHUNKS_UNDER_WAY:
                    outcomes += await self._outcomes(under_way.popleft(), timeout_s)
                    continue
                most = self._chunk_max() if at < short else 1
                end = min(at + (most if most > 1 else TOGETHER_MAX), short if at < short else len(operations))
                under_way.append(self._begin_chunk(operations[at:end], attempts, together=most > 1))
                at = end
        except McpError as error:
            refused = error  # no session, or no time: nothing of the rest was sent
        except BaseException:
            self._give_up_chunks(under_way)
            raise
        while under_way:
            try:
                outcomes += await self._outcomes(under_way.popleft(), timeout_s)
            except BaseException:
                self._give_up_chunks(under_way)
                raise
        if refused is not None:
            outcomes += [again(refused) for _ in operations[at:]]
        return outcomes

    def _chunk_max(self) -> int:
        chosen = self._exchange.commands_at()
        return 1 if chosen is None else min(chosen[1], TOGETHER_MAX, self._limits.window_max)

    def _begin_chunk(self, operations: Sequence[Operation], attempts: Attempts, *, together: bool) -> Chunk:
        left_s = self._left(attempts)
        chunk = Chunk(operations, attempts.deadline, asyncio.get_running_loop().create_future())
        if len(operations) == 1 or not together:
            chunk.end()  # they go by themselves
        elif self._ready and self._session.room >= len(operations):
            self._send_chunk(chunk, left_s)
        else:
            try:
                self._wait(chunk, left_s)
            except Busy as error:
                chunk.error = error
                chunk.end()
        return chunk

    def _send_chunk(self, chunk: Chunk, left_s: float) -> None:
        chosen = self._exchange.commands_at()
        if chosen is None or chosen[1] < len(chunk.operations):
            chunk.end()
            return
        chunk.address, attempt_s = chosen[0], self._exchange.command_attempt_s(left_s)
        session = self._session
        commands = chunk.number(session)
        payload = {"session": session.id, "ack": session.ack, "commands": commands}
        request = Request(CallKind.COMMAND, "COMMANDS", payload, plain=True)
        over = functools.partial(self._chunk_over, chunk)
        if self._exchange.send_now(request, chunk.address, attempt_s, len(commands), over) is None:
            chunk.address = ""
            chunk.end()

    def _chunk_over(self, chunk: Chunk, answer: Answer | McpError) -> None:
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
            self._admit()

    async def _outcomes(self, chunk: Chunk, timeout_s: float) -> list[Any]:
        """What came of a chunk's commands, when all of them have ended, by themselves if need be."""
        try:
            await chunk.over
        except BaseException:
            self._give_up_chunks((chunk,))
            raise
        outcomes, rest = chunk.values(), list(chunk.rest())
        if rest:
            going_on = (self._go_on(begun, timeout_s) for _, begun in rest)
            ended = await asyncio.gather(*going_on, return_exceptions=True)
            for (place, _), outcome in zip(rest, ended, strict=True):
                outcomes[place] = outcome
        return outcomes

    async def _go_on(self, begun: Begun, timeout_s: float) -> Any:
        if begun.error is not None:
            begun.error = again(begun.error)
        attempts = self._exchange.attempts(CallKind.COMMAND, timeout_s, begun.deadline)
        answer = await self.send("COMMAND", {"op": begun.op, "args": begun.args}, attempts, begun=begun)
        return answer.payload.get("value")

    def _give_up_chunks(self, chunks: Iterable[Chunk]) -> None:
        """Their caller has gone away, and they are not sent again."""
        for chunk in chunks:
            chunk.over.cancel()
            if chunk.session is not None:
                chunk.session.resolve_many(chunk.first, len(chunk.operations))
            elif chunk in self._waiting:
                self._waiting.remove(chunk)
        self._admit()

    # -- commands that go together ----------------------------------------------------------------

    def _begin(self, op: str, args: Mapping[str, Any], left_s: float, deadline: float) -> Begun:
        """Send a command with others of this turn, or once there is room for it."""
        begun = Begun(op, args, deadline, asyncio.get_running_loop().create_future())
        if self._ready:
            attempt_s = self._exchange.command_attempt_s(left_s)
            self._gathering.add(begun, self._session.allocate(), attempt_s)
        else:
            self._wait(begun, left_s)
        return begun

    def _give_up(self, begun: Begun) -> None:
        """Its caller has gone away, and it is not sent again."""
        if begun.ticket is not None:
            self._resolve(begun.ticket)
        elif begun in self._waiting:
            self._waiting.remove(begun)

    def _answered(self, answered: Sequence[Begun]) -> None:
        """What has a result is never sent again, which makes room for others."""
        for begun in answered:
            if begun.result is not None and begun.ticket is not None:
                begun.ticket.resolve()
        self._admit()

    # -- tickets ----------------------------------------------------------------------------------

    @property
    def _ready(self) -> bool:
        """Whether a command can have its ticket at once."""
        return self._opened and self._session.has_room and not self._waiting and not self._exchange.closed

    async def _acquire(self, attempts: Attempts) -> Ticket:
        while True:
            await self._ensure_open(attempts)
            if self._session.has_room and not self._waiting:
                return self._session.allocate()
            ticket = await self._wait_for_room(attempts)
            if ticket is not None:
                return ticket

    async def _wait_for_room(self, attempts: Attempts) -> Ticket | None:
        """A ticket once it is this caller's turn; ``None`` when the session was replaced."""
        turn = _Turn(asyncio.get_running_loop().create_future(), attempts)
        self._wait(turn, self._left(attempts))
        try:
            return await turn.ticket
        except BaseException:
            self._leave(turn)
            raise

    def _wait(self, turn: _Turn | Begun | Chunk, left_s: float) -> None:
        """Have it wait for room, ``left_s`` at most. Raises ``Busy`` where too many do already."""
        if len(self._waiting) >= self._limits.waiting_max:
            raise Busy(
                f"{len(self._waiting)} commands of this client wait for room already (waiting_max);"
                " await some of them before you send more"
            )
        self._sweep_by(turn.deadline, left_s)
        self._waiting.append(turn)

    def _leave(self, turn: _Turn) -> None:
        """A waiter goes away; a ticket that it was given in the same moment goes back."""
        if turn in self._waiting:
            self._waiting.remove(turn)
        given = turn.ticket
        if given.done() and not given.cancelled() and given.exception() is None:
            ticket = given.result()
            if ticket is not None:
                self._resolve(ticket)

    def _sweep_by(self, deadline: float, left_s: float) -> None:
        """Look for those whose time is up at ``deadline``: one timer for all who wait."""
        if self._sweeper is not None:
            if deadline >= self._sweep_at:
                return
            self._sweeper.cancel()
        self._sweep_at = deadline
        self._sweeper = asyncio.get_running_loop().call_later(left_s + TIMER_EARLY_S_MAX, self._sweep)

    def _sweep(self) -> None:
        self._sweeper = None
        now = self._exchange.clock.monotonic()
        for turn in [turn for turn in self._waiting if turn.deadline <= now]:
            self._waiting.remove(turn)
            if isinstance(turn, Begun | Chunk):
                turn.end()  # the caller finds that its time is up
            elif not turn.ticket.done():
                turn.ticket.set_exception(turn.attempts.out_of_time())
        if self._waiting:
            deadline = min(turn.deadline for turn in self._waiting)
            self._sweep_by(deadline, deadline - now)

    def _resolve(self, ticket: Ticket) -> None:
        ticket.resolve()
        if self._waiting:
            self._admit()

    def _admit(self) -> None:
        while self._waiting and self._session.has_room:
            turn = self._waiting[0]
            if isinstance(turn, Chunk):
                if self._session.room < len(turn.operations):
                    return
                self._waiting.popleft()
                self._send_chunk(turn, turn.deadline - self._exchange.clock.monotonic())
                continue
            self._waiting.popleft()
            if isinstance(turn, Begun):
                left_s = turn.deadline - self._exchange.clock.monotonic()
                attempt_s = self._exchange.command_attempt_s(left_s)
                self._gathering.add(turn, self._session.allocate(), attempt_s)
            elif not turn.ticket.done():
                turn.ticket.set_result(self._session.allocate())

    def _left(self, attempts: Attempts) -> float:
        left_s = attempts.deadline - self._exchange.clock.monotonic()
        if left_s <= 0:
            raise attempts.out_of_time()
        return left_s

    # -- sessions ---------------------------------------------------------------------------------

    async def _ensure_open(self, attempts: Attempts) -> None:
        """Wait until the session is open; one opening is under way however many wait.

        Nothing of the caller's was sent yet, so what goes wrong here leaves no doubt.
        """
        while not self._opened or self._exchange.closed:
            if self._exchange.closed:
                raise Unavailable("the client is closed; make a new one")
            if self._opening is None:
                self._opening_attempts = self._attempts(self._limits.open_timeout_s)
                self._opening = self._exchange.spawn(self._open())
            opening = self._opening
            await asyncio.wait({opening}, timeout=self._left(attempts))
            if opening.done() and not opening.cancelled():
                error = opening.result()
                if error and not isinstance(error, DeadlineExceeded | OutcomeUnknown | SessionExpired):
                    raise again(error)
            attempts.last_error = self._opening_attempts.last_error

    async def _open(self) -> McpError | None:
        """Open the session; opening it twice is harmless. Returns what went wrong."""
        session = self._session
        try:
            await self._control(session, "session.open", self._opening_attempts)
        except SessionExpired as error:
            self._expired(session)
            return error
        except McpError as error:
            return error
        finally:
            self._opening = None
        self._opened = session is self._session
        return None

    def _attempts(self, timeout_s: float) -> Attempts:
        return self._exchange.attempts(CallKind.COMMAND, timeout_s)

    async def _control(self, session: Session, op: str, attempts: Attempts) -> None:
        ticket = session.allocate()
        request = _request("COMMAND", ticket, {"op": op, "args": {}})
        try:
            await self._exchange.call(request, attempts)
        finally:
            ticket.resolve()

    def _expired(self, session: Session) -> None:
        """The cluster does not know ``session`` any more: the next commands open another."""
        if session is not self._session:
            return
        self._session = self._new_session()
        self._opened = False
        self.release()

    def release(self) -> None:
        """Wake everybody who waits for room, to look again: the session was replaced, or all is over."""
        waiting, self._waiting = self._waiting, deque()
        for turn in waiting:
            if isinstance(turn, Begun | Chunk):
                turn.end()
            elif not turn.ticket.done():
                turn.ticket.set_result(None)

    async def close(self) -> None:
        """Tell the cluster that the session is over, if that is quickly done: it expires anyway."""
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None
        if self._opened and self._session.has_room:
            self._opened = False
            with contextlib.suppress(McpError):
                attempts = self._attempts(self._limits.close_timeout_s)
                await self._control(self._session, "session.close", attempts)


def _request(type_: str, ticket: Ticket, fields: Mapping[str, Any]) -> Request:
    """``ack`` is taken when an attempt leaves, so that repetitions carry the newest."""
    return Request(CallKind.COMMAND, type_, lambda _: {**ticket.header(), **fields})
