"""What every call of a client is made of: one request with its attempts, and one read of the state."""

from __future__ import annotations

from collections.abc import Coroutine, Mapping
from typing import Any, get_args

from mcp.client import arguments
from mcp.client.commands import CommandLane
from mcp.client.exchange import Answer, Exchange, Request
from mcp.client.kinds import CallKind
from mcp.client.results import Consistency
from mcp.errors import InvalidArgument


class Calls:
    """What the parts of a :class:`~mcp.client.client.Client` have in common, which makes the attributes."""

    _exchange: Exchange
    _commands: CommandLane
    _timeout_s: float

    async def _call(self, request: Request, timeout_s: float | None) -> Answer:
        attempts = self._exchange.attempts(request.kind, arguments.timeout(timeout_s, self._timeout_s))
        return await self._exchange.call(request, attempts)

    async def _read(
        self, kind: str, args: Mapping[str, Any], consistency: Consistency, timeout_s: float | None
    ) -> Any:
        if consistency not in get_args(Consistency):
            expected = ", ".join(get_args(Consistency))
            raise InvalidArgument(f"consistency is one of {expected}, not {consistency!r:.40}")
        answer = await self._call(read_request(kind, args, consistency), timeout_s)
        return answer.payload.get("value")

    def _command(self, op: str, args: Mapping[str, Any], timeout_s: float | None) -> Coroutine[Any, Any, Any]:
        return self._commands.command(op, args, arguments.timeout(timeout_s, self._timeout_s))


def read_request(kind: str, args: Mapping[str, Any], consistency: str) -> Request:
    """A ``READ``; one that is linearizable goes to the leader."""
    payload = {"kind": kind, "args": dict(args), "consistency": consistency}
    return Request(CallKind.READ, "READ", payload, to_leader=consistency == "linearizable")
