"""A client's session: what makes a repeated command harmless.

Every command carries the session's id and a sequence number of its own. The replicated state keeps the
result of each number and answers a repetition from there (Ongaro's dissertation, section 6.3). So that
it can forget, every command also carries ``ack``: all numbers below it are *resolved*, which means that
the client will never send them again, because it got the answer or because it gave up.

Two limits follow. The numbers from ``ack`` to the highest that was given out are the window; the state
keeps a bounded number of results, so the window is bounded too, with a margin. It is the span that
counts: one command that takes long holds back ``ack`` however many later ones are done. And a number
given up in doubt counts as resolved, so the state must refuse numbers below ``ack`` rather than apply a
copy that was late.

Pure: no clock, no network. :mod:`mcp.client.commands` moves it.
"""

from __future__ import annotations

import functools
from typing import Any, Final, NamedTuple

from mcp.errors import InvalidArgument

WINDOW_COMMANDS_MAX: Final = 512
"""How far sequence numbers may run ahead of ``ack``. The state keeps at least 1024 results."""


class Session:
    """Sequence numbers of one session id, and which of them are resolved.

    ``first_seq`` is the first number that is given out.
    """

    def __init__(self, session_id: str, *, first_seq: int = 1, window_max: int = WINDOW_COMMANDS_MAX) -> None:
        if window_max < 1 or first_seq < 1:
            raise InvalidArgument("a session needs a window and a first sequence number of at least 1")
        self.id = session_id
        self.window_max = window_max
        self._next = first_seq
        self._ack = first_seq
        self._resolved: set[int] = set()

    @property
    def ack(self) -> int:
        """Every number below it is resolved."""
        return self._ack

    @property
    def in_flight(self) -> int:
        """How many numbers are given out and not resolved."""
        return self._next - self._ack - len(self._resolved)

    @property
    def has_room(self) -> bool:
        """Whether :meth:`allocate` may be called."""
        return self._next - self._ack < self.window_max

    @property
    def room(self) -> int:
        """For how many numbers there is room."""
        return self.window_max - (self._next - self._ack)

    def allocate(self) -> Ticket:
        """Give out the next number. Raises ``RuntimeError`` when the window has no room: ask first."""
        if self._next - self._ack >= self.window_max:
            raise RuntimeError("the session's window is full; ask has_room before allocate")
        ticket = _ticket((self, self._next))
        self._next += 1
        return ticket

    def allocate_many(self, count: int) -> int:
        """Give out the next ``count`` numbers, of which this is the first. Raises as :meth:`allocate`."""
        if count > self.room:
            raise RuntimeError(f"the session's window has no room for {count}; ask room before allocate_many")
        first = self._next
        self._next += count
        return first

    def resolve_many(self, first: int, count: int) -> None:
        """As :meth:`resolve`, for ``count`` numbers from ``first`` on."""
        if first == self._ack and not self._resolved and first + count <= self._next:
            self._ack += count
            return
        for seq in range(first, first + count):
            self.resolve(seq)

    def resolve(self, seq: int) -> None:
        """``seq`` will never be sent again. Resolving it twice changes nothing."""
        if not self._ack <= seq < self._next:
            return
        if seq == self._ack and not self._resolved:
            self._ack += 1
            return
        self._resolved.add(seq)
        while self._ack in self._resolved:
            self._resolved.remove(self._ack)
            self._ack += 1


class Ticket(NamedTuple):
    """The right to send one command: a sequence number of a session."""

    session: Session
    seq: int

    def header(self) -> dict[str, Any]:
        """The fields of a command's payload that make it safe to repeat, with ``ack`` as it is now."""
        session = self.session
        return {"session": session.id, "seq": self.seq, "ack": session._ack}

    def resolve(self) -> None:
        """This command will never be sent again."""
        self.session.resolve(self.seq)


_ticket: Final = functools.partial(tuple.__new__, Ticket)
"""One of its two fields, without the call that a named tuple's constructor is."""
