"""Commands that begin in one turn of the event loop, sent as one message.

A client of many callers has most of its costs in messages: one for each command, and one for each answer.
So while commands of a lane are under way, those that begin in the same turn go together (``COMMANDS``), and
their answers come together. A lone command waits for nobody and goes by itself.

What goes together is a command's first attempt alone. Whatever does not come of it is the business of each
command by itself, as after any first attempt that failed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping
from typing import Any, Final, Protocol

from mcp.client.session import Ticket
from mcp.errors import McpError, ProtocolError, from_wire

GATHERED_BYTES_MAX: Final = 1024
"""A command with a larger value goes by itself, so that a message of many stays small."""

TOGETHER_MAX: Final = 128
"""So many are sent at once, in the middle of a turn: while nodes work on these, the client goes on."""

_SHORT: Final = frozenset({int, float, bool, type(None)})


class Carrier(Protocol):
    """What a message of commands goes with: the exchange of the client."""

    def commands_at(self) -> tuple[str, int] | None:
        """The node that takes commands now, and how many in one message; ``None``: not known, or one."""

    def send_commands(
        self, address: str, payload: dict[str, Any], timeout_s: float
    ) -> Awaitable[list[Any]] | None:
        """Send them now, and give what will come of each: ``[index, value]``, or an error as a map.

        ``None``: there is no place for them just now.
        """

    def commands_failed(self, address: str, error: McpError) -> None:
        """A node could not take a command."""

    def spawn(self, work: Any) -> asyncio.Task[Any]:
        """Run ``work`` in the background."""


class Begun:
    """A command that waits for the end of the turn, or for its answer.

    ``answer`` gives ``(index, value)``, or raises what came of it; ``None``: send it by itself.
    """

    __slots__ = ("address", "answer", "args", "op", "ticket")

    def __init__(self, ticket: Ticket, op: str, args: Mapping[str, Any], answer: asyncio.Future[Any]) -> None:
        self.ticket = ticket
        self.op = op
        self.args = args
        self.answer = answer
        self.address = ""


class Gathering:
    """The commands of one lane that begin in this turn, by how long an attempt may take."""

    def __init__(self, carrier: Carrier) -> None:
        self._carrier = carrier
        self._gathered: dict[tuple[str, float], list[Begun]] = {}

    def begin(self, ticket: Ticket, op: str, args: Mapping[str, Any], timeout_s: float) -> Begun:
        """Send it with others at the end of this turn. Its attempt may take ``timeout_s``."""
        loop = asyncio.get_running_loop()
        if not self._gathered:
            loop.call_soon(self._turn_over)
        begun = Begun(ticket, op, args, loop.create_future())
        group = self._gathered.setdefault((ticket.session.id, timeout_s), [])
        group.append(begun)
        if len(group) >= TOGETHER_MAX:
            self._gathered[ticket.session.id, timeout_s] = []
            self._go(group, timeout_s)
        return begun

    def _turn_over(self) -> None:
        gathered, self._gathered = self._gathered, {}
        for (_, timeout_s), begun in gathered.items():
            self._go(begun, timeout_s)

    def _go(self, begun: list[Begun], timeout_s: float) -> None:
        waiting = [each for each in begun if not each.answer.done()]
        chosen = self._carrier.commands_at() if len(waiting) > 1 else None
        if chosen is None:
            _by_themselves(waiting)
            return
        address, most = chosen
        for at in range(0, len(waiting), most):
            self._send(waiting[at : at + most], address, timeout_s)

    def _send(self, begun: list[Begun], address: str, timeout_s: float) -> None:
        session = begun[0].ticket.session
        payload = {
            "session": session.id,
            "ack": session.ack,
            "commands": [[each.ticket.seq, each.op, each.args] for each in begun],
        }
        results = self._carrier.send_commands(address, payload, timeout_s)
        if results is None:
            _by_themselves(begun)
            return
        for each in begun:
            each.address = address
        self._carrier.spawn(self._receive(begun, results, address))

    async def _receive(self, begun: list[Begun], coming: Awaitable[list[Any]], address: str) -> None:
        try:
            results = await coming
            if len(results) != len(begun):
                raise ProtocolError(f"{len(results)} results came for {len(begun)} commands")
        except McpError as error:
            for each in begun:
                _fail(each, type(error)(error.message, details=error.details))
        except BaseException:
            _by_themselves(begun)
            raise
        else:
            self._settle(begun, results, address)

    def _settle(self, begun: list[Begun], results: list[Any], address: str) -> None:
        told = False
        for each, result in zip(begun, results, strict=True):
            if type(result) is list and len(result) == 2:
                if not each.answer.done():
                    each.answer.set_result(result)
                continue
            error = from_wire(result) if type(result) is dict else ProtocolError("a result is no result")
            if not told:
                told = True
                self._carrier.commands_failed(address, error)
            _fail(each, error)


def is_short(args: Mapping[str, Any]) -> bool:
    """Whether a command is small for sure: its values are numbers, or texts and bytes that are short."""
    for value in args.values():
        kind = type(value)
        if kind in _SHORT:
            continue
        if (kind is str or kind is bytes) and len(value) <= GATHERED_BYTES_MAX:
            continue
        return False
    return True


def _by_themselves(begun: list[Begun]) -> None:
    for each in begun:
        if not each.answer.done():
            each.answer.set_result(None)


def _fail(each: Begun, error: McpError) -> None:
    if not each.answer.done():
        each.answer.set_exception(error)
