"""Commands: each is sent under a session and a sequence number, so that repeating it is harmless.

A lane is one session at a time with its window. The session is opened by the first command. When the
cluster has forgotten it, commands that were refused for that reason go on under a new one, because a
refusal is a definite answer; a command that was in doubt ends as ``OutcomeUnknown``, because under a new
session it could be applied a second time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mcp.client.admission import Admission, LaneLimits, numbered
from mcp.client.exchange import Answer, Exchange, Prepare
from mcp.client.gathering import Begun, Gathered, Gathering, is_short
from mcp.client.kinds import CallKind
from mcp.client.one_call import OneCall, Operation
from mcp.client.retry import Attempts, decided_by_log
from mcp.errors import OutcomeUnknown, SessionExpired


class CommandLane:
    """Sends commands under one session at a time. Use it on one event loop, from any number of tasks."""

    def __init__(
        self, exchange: Exchange, new_session_id: Callable[[], str], limits: LaneLimits | None = None
    ) -> None:
        self._exchange = exchange
        self._limits = limits or LaneLimits()
        self._admission = Admission(exchange, new_session_id, self._limits)
        self._gathering = Gathering(exchange, self._answered)

    async def command(self, op: str, args: Mapping[str, Any], timeout_s: float) -> Any:
        """Have the operation take effect exactly once, and give its value; raises as :meth:`send`.

        A small one goes with those that begin in the same turn, unless it is the only one.
        """
        deadline, left_s = self._exchange.clock.monotonic() + timeout_s, timeout_s
        begun = attempts = None
        admission = self._admission
        if is_short(args):
            if not admission.open:
                attempts = self._exchange.attempts(CallKind.COMMAND, timeout_s, deadline)
                await admission.ensure_open(attempts)
                left_s = admission.left(attempts)
            if admission.session.in_flight:
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

    async def commands(self, operations: Sequence[Operation], timeout_s: float) -> list[Any]:
        """Have each take effect exactly once; their values, and the errors of those that failed.

        They are commands as any others, and take effect in no set order.
        """
        return await OneCall(self._exchange, self._admission, self._go_on, timeout_s).outcomes(operations)

    async def _go_on(self, begun: Begun, timeout_s: float) -> Any:
        attempts = self._exchange.attempts(CallKind.COMMAND, timeout_s, begun.deadline)
        answer = await self.send("COMMAND", {"op": begun.op, "args": begun.args}, attempts, begun=begun)
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
        admission = self._admission
        expired: SessionExpired | None = None
        for _ in range(self._limits.sessions_per_command_max):
            ticket = begun.ticket if begun is not None else None
            if ticket is None:
                at_once = admission.ready
                ticket = admission.session.allocate() if at_once else await admission.acquire(attempts)
            try:
                tried = ""
                if begun is not None and begun.error is not None:
                    tried, error = begun.address, begun.error
                    await self._exchange.pause("COMMANDS", attempts, error, {tried})
                request = numbered(type_, ticket, fields)
                return await self._exchange.call(request, attempts, prepare=prepare, avoid=tried)
            except SessionExpired as error:
                if decided_by_log(error):
                    raise  # a user's executor may give that code, too: the command has its outcome
                admission.expired(ticket.session)
                expired = error
            except OutcomeUnknown:
                if isinstance(attempts.last_error, SessionExpired):
                    admission.expired(ticket.session)
                raise
            finally:
                begun = None
                admission.resolve(ticket)
        raise expired or SessionExpired("no session could be kept")

    def release(self) -> None:
        """Wake everybody who waits for room: all is over."""
        self._admission.release()

    async def close(self) -> None:
        """Tell the cluster that the session is over, if that is quickly done: it expires anyway."""
        await self._admission.close()

    # -- commands that go together ----------------------------------------------------------------

    def _begin(self, op: str, args: Mapping[str, Any], left_s: float, deadline: float) -> Gathered:
        """Send a command with others of this turn, or once there is room for it."""
        begun = Gathered(op, args, deadline, self._add)
        if self._admission.ready:
            self._add(begun)
        else:
            self._admission.wait(begun, left_s)
        return begun

    def _add(self, begun: Gathered) -> None:
        self._gathering.add(begun, self._admission.session.allocate())

    def _give_up(self, begun: Gathered) -> None:
        """Its caller has gone away, and it is not sent again."""
        if begun.ticket is not None:
            self._admission.resolve(begun.ticket)
        else:
            self._admission.leave(begun)

    def _answered(self, answered: Sequence[Gathered]) -> None:
        """These are never sent again, which makes room for others. They are of one session."""
        tickets = [begun.ticket for begun in answered if begun.ticket is not None]
        if tickets:
            session, first = tickets[0]
            if tickets[-1].seq - first == len(tickets) - 1:  # none of them was sent by itself
                session.resolve_many(first, len(tickets))
            else:
                for ticket in tickets:
                    ticket.resolve()
        self._admission.admit()
