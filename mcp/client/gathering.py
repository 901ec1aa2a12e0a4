"""Commands that begin in one turn of the event loop, sent as one message.

A client of many callers has most of its costs in messages: one for each command, and one for each answer.
So while commands of a lane are under way, those that begin in the same turn go together (``COMMANDS``), and
their answers come together. A lone command waits for nobody and goes by itself.

What goes together is a command's first attempt alone. Whatever does not come of it is the business of each
command by itself, as after any first attempt that failed.
"""

from __future__ import annotations

import asyncio
import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from mcp.client.exchange import Answer, Exchange, Request
from mcp.client.kinds import CallKind
from mcp.client.session import Session, Ticket
from mcp.errors import McpError, OutcomeUnknown, ProtocolError, from_wire

GATHERED_BYTES_MAX: Final = 1024
"""A command with a larger value goes by itself, so that a message of many stays small."""

TOGETHER_MAX: Final = 128
"""So many are sent at once, in the middle of a turn: while nodes work on these, the client goes on."""

Result = list[Any] | McpError
"""What came of a command: ``[index, value]``, or its error."""

_SHORT: Final = frozenset({int, float, bool, type(None)})
_SIZED: Final = frozenset({str, bytes})
_LISTS: Final = frozenset({list})
_PAIR: Final = frozenset({2})


class Begun:
    """A command that was begun with others, and may have to go on by itself.

    That is under its ``ticket`` if it has one, and after the ``error`` of the attempt at ``address`` if there
    was one.
    """

    __slots__ = ("address", "args", "deadline", "error", "op", "ticket")

    def __init__(self, op: str, args: Mapping[str, Any], deadline: float) -> None:
        self.op = op
        self.args = args
        self.deadline = deadline
        self.ticket: Ticket | None = None
        self.error: McpError | None = None
        self.address = ""


class Awaited:
    """What has a caller who awaits ``over``; whatever it waited for, that is how it ends."""

    __slots__ = ()

    over: asyncio.Future[None]

    def end(self) -> None:
        """What comes of it is known: wake the caller, who may have gone away."""
        if not self.over.done():
            self.over.set_result(None)

    late = release = end


class Gathered(Begun, Awaited):
    """One whose caller awaits ``over``, and then looks whether it has a ``result``: ``[index, value]``.

    ``add`` is called where it had to wait, once there is room for it.
    """

    __slots__ = ("add", "over", "result")

    needs: Final = 1

    def __init__(
        self, op: str, args: Mapping[str, Any], deadline: float, add: Callable[[Gathered], None]
    ) -> None:
        super().__init__(op, args, deadline)
        self.add = add
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.result: list[Any] | None = None

    def admit(self) -> None:
        """See :class:`~mcp.client.admission.Turn`."""
        self.add(self)


class Gathering:
    """The commands of one lane that begin in this turn, by session.

    ``answered`` is called with those of a message that have their results, before their callers go on.
    """

    def __init__(self, exchange: Exchange, answered: Callable[[Sequence[Gathered]], None]) -> None:
        self._exchange = exchange
        self._answered = answered
        self._gathered: dict[Session, list[Gathered]] = {}

    def add(self, begun: Gathered, ticket: Ticket) -> None:
        """Send it with others at the end of this turn."""
        begun.ticket = ticket
        session = ticket.session
        if not self._gathered:
            asyncio.get_running_loop().call_soon(self._turn_over)
        group = self._gathered.setdefault(session, [])
        group.append(begun)
        if len(group) >= TOGETHER_MAX:
            self._gathered[session] = []
            self._go(group, session)

    def _turn_over(self) -> None:
        gathered, self._gathered = self._gathered, {}
        for session, begun in gathered.items():
            self._go(begun, session)

    def _go(self, begun: list[Gathered], session: Session) -> None:
        waiting = [each for each in begun if not each.over.done()]
        chosen = self._exchange.commands_at() if len(waiting) > 1 else None
        if chosen is None:
            _end(waiting)
            return
        address, most = chosen
        for timeout_s, each in self._by_time_left(waiting):
            for at in range(0, len(each), most):
                self._send(each[at : at + most], session, address, timeout_s)

    def _by_time_left(self, waiting: list[Gathered]) -> Iterator[tuple[float, list[Gathered]]]:
        """Those that have about as much time left, with how long their attempt may take.

        "About" is within a factor of two: where the first runs out of time, the others are sent again.
        """
        now = self._exchange.clock.monotonic()
        left_s = min(each.deadline for each in waiting) - now
        if (attempt_s := self._exchange.command_attempt_s(left_s)) < left_s:
            yield attempt_s, waiting  # as is most often the case
            return
        alike: dict[int, tuple[float, list[Gathered]]] = {}
        for each in waiting:
            attempt_s = self._exchange.command_attempt_s(each.deadline - now)
            if attempt_s <= 0:
                each.end()
                continue
            _, power = math.frexp(attempt_s)
            least_s, others = alike.get(power, (attempt_s, []))
            others.append(each)
            alike[power] = min(least_s, attempt_s), others
        yield from alike.values()

    def _send(self, begun: list[Gathered], session: Session, address: str, timeout_s: float) -> None:
        commands = [[each.ticket.seq, each.op, each.args] for each in begun if each.ticket is not None]
        payload = {"session": session.id, "ack": session.ack, "commands": commands}
        request = Request(CallKind.COMMAND, "COMMANDS", payload, final=True)
        over = functools.partial(self._over, begun, address)
        if self._exchange.send_now(request, address, timeout_s, len(begun), over) is None:
            _end(begun)
            return
        for each in begun:
            each.address = address

    def _over(self, begun: list[Gathered], address: str, answer: Answer | McpError) -> None:
        """The attempt has ended, in whatever way. These were sent, so without a result they are in doubt."""
        try:
            self._note(begun, results_in(answer, len(begun)), address)
        except McpError as error:
            for each in begun:
                each.error = type(error)(error.message, details=error.details)
        except BaseException as error:
            for each in begun:
                each.error = OutcomeUnknown(f"{type(error).__name__} while reading the answer")
            raise
        finally:
            _end(begun)

    def _note(self, begun: list[Gathered], results: Sequence[Result], address: str) -> None:
        failed: McpError | None = None
        for each, result in zip(begun, results, strict=True):
            if isinstance(result, McpError):
                each.error = result
                failed = failed or result
            else:
                each.result = result
        if failed is not None:
            self._exchange.commands_failed(address, failed)
            begun = [each for each in begun if each.result is not None]
        self._answered(begun)


def results_in(answer: Answer | McpError, count: int) -> list[Result]:
    """What an answer says of ``count`` commands. Raises the error that it is, and ``ProtocolError``."""
    if isinstance(answer, McpError):
        raise answer
    came = answer.payload.get("results")
    if type(came) is not list or len(came) != count:
        raise ProtocolError(f"an answer to {count} commands has not as many results")
    if all_results(came) and set(map(len, came)) == _PAIR:
        return came
    return [each if type(each) is list and len(each) == 2 else _error_in(each) for each in came]


def all_results(results: Sequence[Result]) -> bool:
    """Whether none of them is an error."""
    return set(map(type, results)) == _LISTS


def _error_in(result: object) -> McpError:
    return from_wire(result) if isinstance(result, dict) else ProtocolError("a result is no result")


def is_short(args: Mapping[str, Any]) -> bool:
    """Whether a command is small for sure: its values are numbers, or texts and bytes that are short."""
    for value in args.values():
        kind = type(value)
        if kind in _SIZED:
            if len(value) > GATHERED_BYTES_MAX:
                return False
        elif kind not in _SHORT:
            return False
    return True


def all_short(each: Sequence[Mapping[str, Any]]) -> bool:
    """Whether :func:`is_short` says so of the arguments of each, which are hundreds."""
    values = [value for args in each for value in args.values()]
    kinds = set(map(type, values))
    if kinds <= _SIZED:
        return max(map(len, values), default=0) <= GATHERED_BYTES_MAX
    return kinds <= _SHORT or all(map(is_short, each))


def _end(begun: Sequence[Gathered]) -> None:
    for each in begun:
        each.end()
