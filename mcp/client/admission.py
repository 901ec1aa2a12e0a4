"""Who may send under a session just now: the session of the moment, and those who wait for room in it.

The session is opened by whoever comes first. When the cluster has forgotten it, the next command opens
another, and all who wait are woken to look again. Those who wait get their turns in the order in which they
came, and none waits beyond its deadline: one timer is for all of them.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

from mcp.client.connections import again
from mcp.client.exchange import Exchange, Request
from mcp.client.kinds import CallKind
from mcp.client.retry import Attempts
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


class Turn(Protocol):
    """What waits for room, on the clock of the exchange until ``deadline``."""

    deadline: float

    @property
    def needs(self) -> int:
        """For how many commands there has to be room."""

    def admit(self) -> None:
        """There is room: take it. Called once, and nothing else after it."""

    def late(self) -> None:
        """The deadline is over."""

    def release(self) -> None:
        """The session was replaced, or all is over: look again."""


class _TicketTurn:
    """One who waits for a ticket: it will come, or ``None`` where the session was replaced."""

    __slots__ = ("_admission", "_attempts", "deadline", "ticket")

    needs: Final = 1

    def __init__(self, admission: Admission, attempts: Attempts) -> None:
        self.ticket: asyncio.Future[Ticket | None] = asyncio.get_running_loop().create_future()
        self.deadline = attempts.deadline
        self._attempts = attempts
        self._admission = admission

    def admit(self) -> None:
        if not self.ticket.done():
            self.ticket.set_result(self._admission.session.allocate())

    def late(self) -> None:
        if not self.ticket.done():
            self.ticket.set_exception(self._attempts.out_of_time())

    def release(self) -> None:
        if not self.ticket.done():
            self.ticket.set_result(None)

    def give_back(self) -> None:
        """Whoever waited goes away: a ticket that came in the same moment is not used."""
        if self.ticket.done() and not self.ticket.cancelled() and self.ticket.exception() is None:
            ticket = self.ticket.result()
            if ticket is not None:
                self._admission.resolve(ticket)


class Admission:
    """One session at a time, and the line before it. Use it on one event loop, from any number of tasks."""

    def __init__(self, exchange: Exchange, new_session_id: Callable[[], str], limits: LaneLimits) -> None:
        self._exchange = exchange
        self._new_session_id = new_session_id
        self._limits = limits
        self.session = self._new_session()
        self._opened = False
        self._closing = False
        self._opening: asyncio.Task[McpError | None] | None = None
        self._opening_attempts = self._attempts(0.0)
        self._line: deque[Turn] = deque()
        self._sweeper: asyncio.TimerHandle | None = None
        self._sweep_at = 0.0

    def _new_session(self) -> Session:
        return Session(self._new_session_id(), window_max=self._limits.window_max)

    @property
    def open(self) -> bool:
        """Whether there is a session; where not, see :meth:`ensure_open`."""
        return self._opened and not self._exchange.closed

    @property
    def ready(self) -> bool:
        """Whether a command can have its number at once."""
        return self._opened and self.session.has_room and not self._line and not self._exchange.closed

    @property
    def waiting(self) -> int:
        """How many stand in line."""
        return len(self._line)

    def left(self, attempts: Attempts) -> float:
        """The seconds that are left. Raises ``DeadlineExceeded`` where there are none."""
        left_s = attempts.deadline - self._exchange.clock.monotonic()
        if left_s <= 0:
            raise attempts.out_of_time()
        return left_s

    # -- the line ---------------------------------------------------------------------------------

    async def acquire(self, attempts: Attempts) -> Ticket:
        """Wait for a ticket. Raises ``DeadlineExceeded``, ``Busy`` and ``Unavailable``; nothing was sent."""
        while True:
            await self.ensure_open(attempts)
            if self.session.has_room and not self._line:
                return self.session.allocate()
            turn = _TicketTurn(self, attempts)
            self.wait(turn, self.left(attempts))
            try:
                ticket = await turn.ticket
            except BaseException:
                self.leave(turn)
                turn.give_back()
                raise
            if ticket is not None:
                return ticket

    def wait(self, turn: Turn, left_s: float) -> None:
        """Have it wait for room, ``left_s`` at most. Raises ``Busy`` where too many do already."""
        if len(self._line) >= self._limits.waiting_max:
            raise Busy(
                f"{len(self._line)} commands of this client wait for room already (waiting_max);"
                " await some of them before you send more"
            )
        self._sweep_by(turn.deadline, left_s)
        self._line.append(turn)

    def leave(self, turn: Turn) -> None:
        """It waits no longer, if it did: nobody is told."""
        if turn in self._line:
            self._line.remove(turn)

    def admit(self) -> None:
        """Let in those for whom there is room, one after the other: nobody overtakes."""
        while self._line and self._line[0].needs <= self.session.room:
            self._line.popleft().admit()

    def resolve(self, ticket: Ticket) -> None:
        """This command will never be sent again, which makes room for others."""
        ticket.resolve()
        if self._line:
            self.admit()

    def release(self) -> None:
        """Wake everybody who waits for room, to look again: the session was replaced, or all is over."""
        line, self._line = self._line, deque()
        for turn in line:
            turn.release()

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
        for turn in [turn for turn in self._line if turn.deadline <= now]:
            self._line.remove(turn)
            turn.late()
        if self._line:
            deadline = min(turn.deadline for turn in self._line)
            self._sweep_by(deadline, deadline - now)

    # -- the session ------------------------------------------------------------------------------

    async def ensure_open(self, attempts: Attempts) -> None:
        """Wait until the session is open; one opening is under way however many wait.

        Nothing of the caller's was sent yet, so what goes wrong here leaves no doubt.
        """
        while not self.open:
            if self._closing or self._exchange.closed:
                raise Unavailable("the client is closed; make a new one")
            if self._opening is None:
                self._opening_attempts = self._attempts(self._limits.open_timeout_s)
                self._opening = self._exchange.spawn(self._open())
            opening = self._opening
            await asyncio.wait({opening}, timeout=self.left(attempts))
            if opening.done() and not opening.cancelled():
                error = opening.result()
                if error and not isinstance(error, DeadlineExceeded | OutcomeUnknown | SessionExpired):
                    raise again(error)
            attempts.last_error = self._opening_attempts.last_error

    async def _open(self) -> McpError | None:
        """Open the session; opening it twice is harmless. Returns what went wrong."""
        session = self.session
        try:
            await self._control(session, "session.open", self._opening_attempts)
        except SessionExpired as error:
            self.expired(session)
            return error
        except McpError as error:
            return error
        finally:
            self._opening = None
        self._opened = session is self.session
        return None

    def _attempts(self, timeout_s: float) -> Attempts:
        return self._exchange.attempts(CallKind.COMMAND, timeout_s)

    async def _control(self, session: Session, op: str, attempts: Attempts) -> None:
        ticket = session.allocate()
        try:
            await self._exchange.call(numbered("COMMAND", ticket, {"op": op, "args": {}}), attempts)
        finally:
            ticket.resolve()

    def expired(self, session: Session) -> None:
        """The cluster does not know ``session`` any more: the next commands open another."""
        if session is not self.session:
            return
        self.session = self._new_session()
        self._opened = False
        self.release()

    async def close(self) -> None:
        """Tell the cluster that the session is over, if that is quickly done: it expires anyway.

        No other is opened after it.
        """
        self._closing = True
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None
        if self._opened and self.session.has_room:
            self._opened = False
            with contextlib.suppress(McpError):
                attempts = self._attempts(self._limits.close_timeout_s)
                await self._control(self.session, "session.close", attempts)


def numbered(type_: str, ticket: Ticket, fields: Mapping[str, Any]) -> Request:
    """A message that is safe to repeat; repetitions carry the newest ``ack``, taken when they leave."""
    return Request(CallKind.COMMAND, type_, lambda _: {**ticket.header(), **fields})
