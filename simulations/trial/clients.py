"""The clients of a trial: production's client, whose every call is written down and timed."""

from __future__ import annotations

import contextvars
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from mcp.client.client import Client
from mcp.client.exchange import Answer, Request
from mcp.client.gathering import Gathered
from mcp.client.retry import Attempts
from mcp.client.session import Ticket
from mcp.errors import InvalidArgument, InvariantViolated, McpError, ProtocolError
from simulations.invariants import Violation
from simulations.nodes.hearing import Crash
from simulations.nodes.workload import CALLS_END, NO_DEFECTS, OVERDUE_S
from simulations.trial.answers import Answers, Call, Key
from simulations.world import World

_CALL: Final[contextvars.ContextVar[Call | None]] = contextvars.ContextVar("call", default=None)
"""The command that is being sent, for whatever numbers it is sent under."""


class Misuse(Crash):
    """A test that cannot mean what it says."""


class Watching(Protocol):
    """What a client finds around itself."""

    world: World
    answers: Answers

    def fail(self, error: Exception) -> None:
        """The run has failed."""


def _note(call: Call | None, key: Key) -> None:
    """The call is sent under this session and number, with others or by itself."""
    if call is not None and key not in call.keys:
        call.keys.append(key)


class WatchedClient(Client):
    """See the head of this module. ``executors`` are the names that there are."""

    def __init__(
        self,
        who: str,
        around: Watching,
        addresses: list[str],
        executors: Iterable[str],
        *,
        timeout_s: float,
        **rest: Any,
    ) -> None:
        super().__init__(addresses, timeout_s=timeout_s, **rest)
        self._who = who
        self._around = around
        self._executors = frozenset(executors)
        send, gathering = self._exchange.call, self._commands._gathering
        begin, add = self._commands._begin, gathering.add
        waiting: dict[Gathered, Call | None] = {}

        async def sent(request: Request, attempts: Attempts, **more: Any) -> Answer:
            payload = request.payload(0.0) if callable(request.payload) else request.payload
            if payload.get("op") == "machine.execute":
                _note(_CALL.get(), (payload["session"], payload["seq"]))
            return await send(request, attempts, **more)

        def begun(op: str, args: Mapping[str, Any], left_s: float, deadline: float) -> Gathered:
            begun = begin(op, args, left_s, deadline)
            if begun.ticket is None:
                waiting[begun] = _CALL.get()
            return begun

        def added(begun: Gathered, ticket: Ticket) -> None:
            # One that has waited is given its number by whoever made room, in the name of another call.
            if begun.op == "machine.execute":
                _note(waiting.pop(begun, _CALL.get()), (ticket.session.id, ticket.seq))
            add(begun, ticket)

        self._exchange.call = sent  # type: ignore[method-assign]
        self._commands._begin = begun  # type: ignore[method-assign]
        gathering.add = added  # type: ignore[method-assign]

    async def execute(self, executor: str, data: bytes, *, timeout_s: float | None = None) -> Any:
        """See :meth:`mcp.client.client.Client.execute`."""
        if executor not in self._executors:
            known = ", ".join(sorted(self._executors))
            raise Misuse(f"client.execute({executor!r}, ...): the cluster has the executors {known}")
        if not isinstance(data, bytes | bytearray | memoryview):
            raise Misuse(f"client.execute({executor!r}, {data!r:.60}): a command is bytes")
        allowed_s = self._timeout_s if timeout_s is None else timeout_s
        answers = self._around.answers
        call = answers.begin(self._who, executor, bytes(data), self._around.world.now + allowed_s)
        token = _CALL.set(call)
        try:
            value = await super().execute(executor, data, timeout_s=timeout_s)
        except McpError as error:
            answers.told(call, error=error)
            raise
        finally:
            _CALL.reset(token)
        answers.told(call, value)
        return value

    async def _command(self, op: str, args: Mapping[str, Any], timeout_s: float | None) -> Any:
        return await self._timed(op, super()._command(op, args, timeout_s), timeout_s)

    async def _call(self, request: Request, timeout_s: float | None) -> Answer:
        answer: Answer = await self._timed("a read", super()._call(request, timeout_s), timeout_s)
        return answer

    async def _timed(self, what: str, call: Awaitable[Any], timeout_s: float | None) -> Any:
        allowed_s = self._timeout_s if timeout_s is None else timeout_s
        world, begun = self._around.world, self._around.world.now
        try:
            return await call
        finally:
            took_s = world.now - begun
            if took_s > allowed_s + OVERDUE_S:
                told = f"{what} of {self._who} took {took_s:.3f} s, allowed {allowed_s:g} s"
                self._around.fail(Violation(CALLS_END, told))


ClientFunction = Callable[[Client, Any], Awaitable[object]]
"""One thing that a client does: takes the client and a :class:`random.Random`."""


@dataclass(slots=True)
class TrialClient:
    """One simulated client: it does one thing after another until ``stopping`` is set."""

    name: str
    client: Client
    stopping: bool = False
    told: dict[str, int] = field(default_factory=dict)
    """Errors that ended what it did, by code."""

    def note(self, error: McpError) -> Exception | None:
        """An error ended what it did: faults excuse that, and this says what no fault excuses."""
        self.told[error.code] = self.told.get(error.code, 0) + 1
        recorded = "index" in error.details
        if type(error) is McpError or isinstance(error, ProtocolError | InvariantViolated):
            return Violation(NO_DEFECTS, f"{self.name}: {error.code}: {error}")
        if isinstance(error, InvalidArgument) and not recorded:
            return Misuse(f"a call that no cluster would accept: {error}")
        return None
