"""Many commands in one call: one caller, one wake-up, and an outcome for each of them.

A coroutine, a future and a record for each command cost more than the command itself does on its way. Where
one caller has many, they go in chunks, of which each is one message and has one of each.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from mcp.client.gathering import Begun, Result
from mcp.client.session import Session, Ticket
from mcp.errors import McpError

CALLS_MAX: Final = 65_536
"""So many commands may be in one call."""
CHUNKS_UNDER_WAY: Final = 8
"""So many chunks of one call are begun before the first of them has ended: enough to fill a window."""

Operation = tuple[str, Mapping[str, Any]]
"""What a command does, and its arguments."""


class Chunk:
    """Commands that one message carries; its caller awaits ``over`` and then looks at what came of them.

    Those without a result of their own go on by themselves, after the ``error`` of the attempt at ``address``
    if there was one.
    """

    __slots__ = ("address", "deadline", "error", "first", "operations", "over", "results", "session")

    def __init__(self, operations: Sequence[Operation], deadline: float, over: asyncio.Future[None]) -> None:
        self.operations = operations
        self.deadline = deadline
        self.over = over
        self.session: Session | None = None
        self.first = 0
        self.results: Sequence[Result] = ()
        self.error: McpError | None = None
        self.address = ""

    def number(self, session: Session) -> list[list[Any]]:
        """Give each command its number, and write down what the message says of them."""
        self.session, self.first = session, session.allocate_many(len(self.operations))
        return [[seq, op, args] for seq, (op, args) in enumerate(self.operations, self.first)]

    def take(self, results: Sequence[Result]) -> McpError | None:
        """Note what came of all of them; whoever has a result is never sent again. Gives an error, if any."""
        assert self.session is not None
        self.results = results
        failed = [place for place, each in enumerate(results) if isinstance(each, McpError)]
        if not failed:
            self.session.resolve_many(self.first, len(results))
            return None
        for place in set(range(len(results))).difference(failed):
            self.session.resolve(self.first + place)
        found = results[failed[0]]
        assert isinstance(found, McpError)
        return found

    def end(self) -> None:
        """What comes of it is known: wake the caller, who may have gone away."""
        if not self.over.done():
            self.over.set_result(None)

    def values(self) -> list[Any]:
        """Each command's value; ``None`` for those that go on."""
        if not self.results:
            return [None] * len(self.operations)
        return [None if isinstance(each, McpError) else each[1] for each in self.results]

    def rest(self) -> Iterator[tuple[int, Begun]]:
        """Those that go on by themselves, with their places."""
        for place, (op, args) in enumerate(self.operations):
            error = self.error
            if self.results:
                result = self.results[place]
                if not isinstance(result, McpError):
                    continue
                error = result
            begun = Begun(op, args, self.deadline, self.over)
            begun.error, begun.address = error, self.address
            if self.session is not None:
                begun.ticket = Ticket(self.session, self.first + place)
            yield place, begun
