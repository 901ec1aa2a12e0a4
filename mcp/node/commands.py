"""Many commands of one client in one request, with one answer when the last of them has its outcome.

Each is ordered, executed and refused as if it had come by itself: they share nothing but the message.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from consensus.driver import Applied as Committed
from consensus.errors import ConsensusError
from mcp.errors import InvalidArgument, McpError
from mcp.net.exchange import Exchange
from mcp.node.order import Order, refusal
from mcp.node.translation import translated
from mcp.state.commands import encode_command


class CommandGroup:
    """The commands of one request. ``answer(exchange, results, index)`` is called once, with all of them.

    A result is ``[index, value]``, or the error as a map; ``index`` is the highest of a log position.
    """

    __slots__ = ("_answer", "_exchange", "_index", "_left", "_results")

    def __init__(self, exchange: Exchange, answer: Callable[[Exchange, list[Any], int], None]) -> None:
        self._exchange = exchange
        self._answer = answer
        self._results: list[Any] = []
        self._left = 0
        self._index = 0

    def submit(
        self,
        commands: object,
        order: Order,
        admit: Callable[[str], None],
        *,
        session: str,
        ack: int,
        timeout_s: float,
    ) -> None:
        """Have all of them ordered. Raises :class:`InvalidArgument` where they are no list of commands."""
        read = self._read(commands)
        self._results = [None] * len(read)
        self._left = len(read)
        for place, (seq, op, args) in enumerate(read):
            try:
                data = encode_command(op, args, session=session, seq=seq, ack=ack)
                admit(op)
                order.submit(data, functools.partial(self._done, place), timeout_s=timeout_s)
            except McpError as error:
                self._settle(place, error.to_wire())

    def _read(self, commands: object) -> list[Any]:
        most = self._exchange.connection.limits.commands_max
        if type(commands) is not list or not 1 <= len(commands) <= most:
            raise InvalidArgument(f'"commands" is a list of 1 to commands_max={most} commands')
        for command in commands:
            match command:
                case [int(), str(), dict()] if type(command[0]) is int:
                    continue
            raise InvalidArgument(f"a command is a list of seq, op and args, not {command!r:.80}")
        return commands

    def _done(self, place: int, outcome: Committed | ConsensusError) -> None:
        if isinstance(outcome, ConsensusError):
            self._settle(place, translated(outcome).to_wire())
            return
        index, applied = outcome.index, outcome.result
        self._index = max(self._index, index)
        if applied.error is not None:
            self._settle(place, refusal(applied, index).to_wire())
        else:
            self._settle(place, [index, applied.value])

    def _settle(self, place: int, result: object) -> None:
        self._results[place] = result
        self._left -= 1
        if not self._left:
            self._answer(self._exchange, self._results, self._index)
