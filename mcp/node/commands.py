"""Many commands of one client in one request, with one answer when the last of them has its outcome.

Each is executed and refused as if it had come by itself: they share the message and, those that can
(:mod:`mcp.state.groups`), one command of the log.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from consensus.driver import Applied as Committed
from consensus.errors import ConsensusError
from mcp.errors import InvalidArgument, McpError, TooLarge
from mcp.net.exchange import Exchange
from mcp.node.order import Order, refusal
from mcp.node.payload import integer, text
from mcp.node.translation import translated
from mcp.state.applied import Applied
from mcp.state.commands import SEQ_MAX, encode_command
from mcp.state.groups import GROUPED, Columns, columns, encode_group


class CommandGroup:
    """The commands of one request. ``answer(exchange, group)`` is called once, when all have ended.

    A result is ``[index, value]``, or the error as a map; ``index`` is the highest of a log position.
    ``plain``: the results' maps are known to be flat and to have strings as keys.
    ``admit(op, args)`` raises what refuses a command, and gives how long it has to wait; ``submit`` has one
    by itself ordered (:meth:`mcp.node.submitting.Submitting.submit`).
    """

    def __init__(
        self,
        exchange: Exchange,
        order: Order,
        admit: Callable[[str, Mapping[str, Any]], float],
        submit: Callable[..., None],
        answer: Callable[[Exchange, CommandGroup], None],
    ) -> None:
        self._exchange = exchange
        self._order = order
        self._admit = admit
        self._submit_one = submit
        self._answer = answer
        payload = exchange.message.payload
        self._session, self._ack = text(payload, "session"), integer(payload, "ack")
        self._left = 0
        self.results: list[Any] = []
        self.index = 0
        self.plain = True

    def submit(self, commands: object, *, in_groups: bool, timeout_s: float) -> None:
        """Have all of them ordered. Raises :class:`InvalidArgument` where they are no list of commands.

        ``in_groups``: the log takes several in one.
        """
        read, found = self._read(commands)
        self.results = [None] * len(read)
        self._left = len(read)
        alone: Sequence[int] = range(len(read))
        if in_groups:
            together = self._together(found)
            if len(together) > 1 and self._submit_group(together, read, timeout_s):
                grouped = frozenset(together)
                alone = [place for place in alone if place not in grouped]
        for place in alone:
            seq, op, args = read[place]
            try:
                data = encode_command(op, args, session=self._session, seq=seq, ack=self._ack)
                wait_s = self._admit(op, args)
                done = functools.partial(self._done, place)
                refused = functools.partial(self._refused, place)
                self._submit_one(op, args, wait_s, data, done, refused, timeout_s=timeout_s)
            except McpError as error:
                self._settle(place, error.to_wire())

    def _together(self, found: Columns) -> Sequence[int]:
        """The places of those that the log takes in one."""
        numbers, ops, _ = found
        least = max(self._ack, 1)
        if GROUPED.issuperset(ops) and least <= min(numbers) and max(numbers) <= SEQ_MAX:
            return range(len(numbers))  # as is most often the case
        return [
            place
            for place, (seq, op) in enumerate(zip(numbers, ops, strict=True))
            if op in GROUPED and least <= seq <= SEQ_MAX
        ]

    def _submit_group(self, places: Sequence[int], read: list[Any], timeout_s: float) -> bool:
        """Have these ordered as one; whether that could be done."""
        some = read if len(places) == len(read) else [read[place] for place in places]
        try:
            data = encode_group(self._session, self._ack, some)
        except (InvalidArgument, TooLarge):
            return False  # by itself each is told what is wrong with it
        try:
            self._order.submit(data, functools.partial(self._group_done, places), timeout_s=timeout_s)
        except McpError as error:
            self._settle_all(places, error.to_wire())
        return True

    def _read(self, commands: object) -> tuple[list[Any], Columns]:
        most = self._exchange.connection.limits.commands_max
        if type(commands) is not list or not 1 <= len(commands) <= most:
            raise InvalidArgument(f'"commands" is a list of 1 to commands_max={most} commands')
        found = columns(commands)
        if found is None:
            wrong = next(command for command in commands if columns([command]) is None)
            raise InvalidArgument(f"a command is a list of seq, op and args, not {wrong!r:.80}")
        return commands, found

    def _done(self, place: int, outcome: Committed | ConsensusError) -> None:
        if isinstance(outcome, ConsensusError):
            self._settle(place, translated(outcome).to_wire())
        else:
            self.index = max(self.index, outcome.index)
            self._settle(place, _result(outcome.result, outcome.index))

    def _refused(self, place: int, error: McpError) -> None:
        self._settle(place, error.to_wire())

    def _group_done(self, places: Sequence[int], outcome: Committed | ConsensusError) -> None:
        if isinstance(outcome, ConsensusError):
            self._settle_all(places, translated(outcome).to_wire())
            return
        index, applied = outcome.index, outcome.result
        self.index = max(self.index, index)
        if applied.error is not None:
            self._settle_all(places, _result(applied, index))
            return
        results = self.results
        for place, each in zip(places, applied.value, strict=True):
            if each.error is None:  # what operations in groups give is flat
                results[place] = [index, each.value]
            else:
                results[place] = _result(each, index)
                self.plain = False
        self._settled(len(places))

    def _settle_all(self, places: Sequence[int], result: object) -> None:
        for place in places:
            self.results[place] = result
        self.plain = False
        self._settled(len(places))

    def _settle(self, place: int, result: object) -> None:
        self._settle_all((place,), result)

    def _settled(self, count: int) -> None:
        """So many more have their results; with the last of all they leave."""
        self._left -= count
        if not self._left:
            self._answer(self._exchange, self)


def _result(applied: Applied, index: int) -> object:
    return [index, applied.value] if applied.error is None else refusal(applied, index).to_wire()
