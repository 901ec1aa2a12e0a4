"""Sessions: what makes a command take effect once, however often it arrives.

A client opens a session under an id of its own choice and numbers its commands in it. The result of
every command, an error as well as a value, is kept under its number. A command that arrives again gets
the kept result and is not executed. With every command the client says below which number it has all
its answers (``ack``); those results are dropped, and a duplicate from down there is refused, for
nobody can tell any more what it did.

A session ends when it is closed, was idle for too long or is evicted. All three are decided by the
agreed order and its stamps alone, so every node ends the same sessions at the same position. A command
of a session that is not open is refused unexecuted: the state cannot tell a retry from a new command.
For the same reason the id of an ended session cannot be opened again: a late duplicate of its opening
would revive it, and a late retry would then be executed a second time. As many ended ids are remembered
as ``ended_sessions_max`` says.

Source: Ongaro, "Consensus: Bridging Theory and Practice", 2014, section 6.3.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import repeat
from typing import Any

import msgpack

from mcp.errors import Busy, InvalidArgument, McpError, SessionExpired
from mcp.state.applied import Applied, Operation, error_of, failure_of, recorded
from mcp.state.arguments import ID, matching
from mcp.state.commands import Command, Moment
from mcp.state.limits import StateLimits
from mcp.state.packing import pack

Outcome = tuple[Any, tuple[str, str, dict[str, Any]] | None]
"""A command's value, and its error (code, message, details) or ``None``."""


@dataclass(slots=True)
class OpenSession:
    """What is kept of a session: when it was used last, and the results that are not acknowledged."""

    last_s: float
    floor: int = 1
    """Every number below it is acknowledged."""
    executed: int = 0
    results_bytes: int = 0
    results: dict[int, bytes] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SessionView:
    """A session as it stands: ``executed`` counts its commands that took effect or gave an error."""

    id: str
    last_s: float
    ack: int
    executed: int
    kept: tuple[int, ...]
    """The numbers whose results are kept, ascending."""


class Sessions:
    """The open sessions, least recently used first, and the results that they keep."""

    def __init__(self, limits: StateLimits) -> None:
        self._limits = limits
        self._open: OrderedDict[str, OpenSession] = OrderedDict()
        self._ended: OrderedDict[str, None] = OrderedDict()
        self._results_bytes = 0
        self._none_idle_before = 0.0
        """No session has been idle for too long before that time: the longest idle one was used since."""
        self.executed = 0
        """Commands executed in sessions."""
        self.deduplicated = 0
        """Commands answered with a kept result."""
        self.expired = 0
        """Sessions that ended by idleness or eviction."""

    def __len__(self) -> int:
        return len(self._open)

    def __iter__(self) -> Iterator[str]:
        """Go through the ids of the open sessions, the longest idle first."""
        return iter(self._open)

    def get(self, session: str) -> SessionView | None:
        """Return the open session with this id, or ``None``."""
        found = self._open.get(session)
        if found is None:
            return None
        return SessionView(session, found.last_s, found.floor, found.executed, tuple(sorted(found.results)))

    def open(self, moment: Moment) -> dict[str, Any]:
        """Register the session of the command; one that is open already is only refreshed.

        Raises :class:`~mcp.errors.SessionExpired` for an ended one, and :class:`~mcp.errors.Busy` when
        ``sessions_max`` are open and none of them was idle for ``session_evict_idle_s``.
        """
        session = matching(moment.session, "a session id", ID)
        if session in self._ended:
            raise SessionExpired(f"session {session} has ended and cannot be opened again; choose a new id")
        if session not in self._open:
            self._make_room(moment.time_s)
            self._open[session] = OpenSession(moment.time_s)
        self._touch(session, moment.time_s)
        return {}

    def close(self, moment: Moment) -> dict[str, Any]:
        """End the session of the command. One that is not open is left as it is."""
        matching(moment.session, "a session id", ID)
        if moment.session in self._open:
            self._end(moment.session)
        return {}

    def expire(self, now_s: float) -> None:
        """End every session that was idle for more than ``session_idle_s``."""
        if now_s < self._none_idle_before:
            return
        while self._open:
            session = next(iter(self._open))
            last_s = self._open[session].last_s
            if now_s - last_s <= self._limits.session_idle_s:
                # A second earlier, so that no rounding makes a node that looks differ from one that does not.
                self._none_idle_before = last_s + self._limits.session_idle_s - 1.0
                return
            self._end(session)
            self.expired += 1

    def kept(self, command: Command, now_s: float) -> Outcome | None:
        """Return the result of a command that was executed before; ``None``: it is to be executed now.

        Raises as :meth:`enter` and :meth:`kept_under`.
        """
        seq = command.seq
        return self.kept_under(self.enter(command.session, seq, command.ack, now_s), seq)

    def keep(self, command: Command, outcome: Outcome) -> None:
        """Keep the result of a command that was executed just now, after :meth:`kept` gave ``None``."""
        self.keep_each(self._open[command.session], (command.seq,), (pack(outcome),))

    def enter(self, session_id: str, seq: int, ack: int, now_s: float) -> OpenSession:
        """The session of commands from the number ``seq`` on, used now; what is below ``ack`` is dropped.

        Raises :class:`~mcp.errors.SessionExpired` when it is not open, and
        :class:`~mcp.errors.InvalidArgument` for numbers that make no sense.
        """
        session = self._open.get(session_id)
        if session is None:
            raise SessionExpired(
                f"session {session_id:.64} is not open, so nothing was executed; open a new one, and "
                "treat what was sent in the old one and not answered as unknown"
            )
        if seq < 1 or ack > seq:
            raise InvalidArgument(
                f"seq={seq} and ack={ack}: commands are numbered from 1, and ack is not above seq"
            )
        session.last_s = now_s
        self._open.move_to_end(session_id)
        if ack > session.floor:
            self._acknowledge(session, ack)
        return session

    def kept_under(self, session: OpenSession, seq: int) -> Outcome | None:
        """The result that the session keeps under the number ``seq``, or ``None``: it was not executed yet.

        Raises :class:`~mcp.errors.SessionExpired` when it was acknowledged, and :class:`~mcp.errors.Busy`
        when the session, or all of them together, keep as many results as they may.
        """
        if seq < session.floor:
            raise SessionExpired(
                f"command {seq} was acknowledged by ack={session.floor} and its result dropped; "
                "a command that is not resolved must not be acknowledged"
            )
        results, limits = session.results, self._limits
        stored = results.get(seq)
        if stored is not None:
            self.deduplicated += 1
            value, error = msgpack.unpackb(stored)
            return value, None if error is None else tuple(error)
        if (
            len(results) >= limits.session_results_max
            or session.results_bytes >= limits.session_results_bytes_max
            or self._results_bytes >= limits.results_bytes_max
        ):
            raise self._full(session)
        return None

    def execute_each(
        self,
        session: OpenSession,
        commands: Iterable[tuple[int, str, dict[str, Any]]],
        operations: Mapping[str, Operation],
        moment: Moment,
    ) -> list[Applied]:
        """Execute commands ``(seq, op, args)`` in their order, after :meth:`enter`, each once.

        What :meth:`kept_under` and :meth:`keep` do to one, without a call for each step.
        """
        results, floor, limits, applied = session.results, session.floor, self._limits, []
        each_max, all_max = limits.session_results_bytes_max, limits.results_bytes_max
        executed = 0
        for seq, op, args in commands:
            if (
                seq < floor
                or seq in results
                or len(results) >= limits.session_results_max
                or session.results_bytes >= each_max
                or self._results_bytes >= all_max
            ):
                applied.append(self._not_executed(session, seq))
                continue
            try:
                value, error = operations[op](args, moment), None
            except Exception as failure:
                value, error = None, failure_of(failure, op)
            results[seq] = data = pack((value, error))
            size = len(data)
            session.results_bytes += size
            self._results_bytes += size
            executed += 1
            applied.append(recorded((value, error, (), True, True)))
        session.executed += executed
        self.executed += executed
        return applied

    def takes_each(self, session: OpenSession, numbers: Sequence[int], result_bytes_max: int) -> bool:
        """Whether commands with these numbers are all new, and there is room for all their results.

        Of none is there more than ``result_bytes_max``.
        """
        count, results, limits = len(numbers), session.results, self._limits
        more = count * result_bytes_max
        return (
            min(numbers) >= session.floor
            and len(set(numbers)) == count
            and results.keys().isdisjoint(numbers)
            and len(results) + count <= limits.session_results_max
            and session.results_bytes + more <= limits.session_results_bytes_max
            and self._results_bytes + more <= limits.results_bytes_max
        )

    def keep_each(self, session: OpenSession, numbers: Sequence[int], outcomes: Sequence[bytes]) -> None:
        """As :meth:`keep` for each new command, whose outcomes are written already."""
        count, size = len(outcomes), sum(map(len, outcomes))
        session.results.update(zip(numbers, outcomes, strict=True))
        session.executed += count
        session.results_bytes += size
        self._results_bytes += size
        self.executed += count

    def _not_executed(self, session: OpenSession, seq: int) -> Applied:
        try:
            kept = self.kept_under(session, seq)
        except McpError as refused:
            return Applied(None, error_of(refused))
        assert kept is not None
        return Applied(*kept, recorded=True)

    def _touch(self, session: str, now_s: float) -> None:
        self._open[session].last_s = now_s
        self._open.move_to_end(session)

    def _make_room(self, now_s: float) -> None:
        limits = self._limits
        if len(self._open) < limits.sessions_max:
            return
        longest = next(iter(self._open))
        if now_s - self._open[longest].last_s <= limits.session_evict_idle_s:
            raise Busy(
                f"sessions_max={limits.sessions_max} sessions are open, and each was used within "
                f"session_evict_idle_s={limits.session_evict_idle_s}; retry later, or close sessions"
            )
        self._end(longest)
        self.expired += 1

    def _end(self, session: str) -> None:
        self._results_bytes -= self._open.pop(session).results_bytes
        self._ended[session] = None
        if len(self._ended) > self._limits.ended_sessions_max:
            self._ended.popitem(last=False)

    def _acknowledge(self, session: OpenSession, ack: int) -> None:
        results = session.results
        numbers: Any = range(session.floor, ack)
        if len(numbers) > len(results):
            numbers = [seq for seq in results if seq < ack]
        dropped = sum(map(len, map(results.pop, numbers, repeat(b""))))
        session.floor = ack
        session.results_bytes -= dropped
        self._results_bytes -= dropped

    def _full(self, session: OpenSession) -> Busy:
        limits = self._limits
        if len(session.results) >= limits.session_results_max:
            reached = f"session_results_max={limits.session_results_max}"
        elif session.results_bytes >= limits.session_results_bytes_max:
            reached = f"session_results_bytes_max={limits.session_results_bytes_max}"
        else:
            reached = f"results_bytes_max={limits.results_bytes_max}"
        return Busy(
            f"{reached} is reached by results that are not acknowledged; "
            "raise ack and send the same command again"
        )

    def to_plain(self) -> list[Any]:
        """Return plain values, equal for equal sessions."""
        return self.frozen()()

    def frozen(self) -> Callable[[], list[Any]]:
        """What :meth:`to_plain` gives, of now. The call may come later, and from another thread."""
        opened = [
            (name, s.last_s, s.floor, s.executed, tuple(s.results.items())) for name, s in self._open.items()
        ]
        ended, counts = tuple(self._ended), (self.executed, self.deduplicated, self.expired)
        return lambda: [
            [[*fields, sorted(results)] for *fields, results in opened],
            list(ended),
            *counts,
        ]

    @classmethod
    def from_plain(cls, plain: list[Any], limits: StateLimits) -> Sessions:
        """Rebuild what :meth:`to_plain` wrote."""
        sessions = cls(limits)
        opened, ended, sessions.executed, sessions.deduplicated, sessions.expired = plain
        for name, last_s, floor, executed, results in opened:
            size = sum(len(data) for _, data in results)
            sessions._open[name] = OpenSession(last_s, floor, executed, size, dict(results))
            sessions._results_bytes += size
        sessions._ended = OrderedDict.fromkeys(ended)
        return sessions
