"""Whether what clients were told of their commands is what the log did with them.

Every command of a client travels under a session and a number, so each execution in the log belongs to one
call. A command that was acknowledged stands in the log once and its answer is the one given there; one that
was refused has no effect; of one whose outcome is unknown there is at most one. And what was answered
before another was asked stands before it. The log is one sequence, executed one after the other, so with
that every answer is linearizable (Herlihy and Wing, "Linearizability", 1990): the log is the witness.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

import msgpack

from mcp.errors import McpError
from simulations.checking.verdict import Verdict, Violation, verdict
from simulations.trial.replicas import Place, shown

ONE_EFFECT: Final = "every command has exactly one effect"

Key = tuple[str, int]
"""A session and a number in it."""


@dataclass(slots=True)
class Call:
    """One command as its caller sees it. ``begun`` and ``ended`` are positions among all events of calls."""

    who: str
    executor: str
    data: bytes
    deadline_s: float
    begun: int
    ended: int | None = None
    keys: list[Key] = field(default_factory=list)
    answer: bytes | None = None
    """The value that was told."""
    error: McpError | None = None

    def __str__(self) -> str:
        return f"{self.executor}, {shown(self.data)} of {self.who}"


@dataclass(frozen=True, slots=True)
class Execution:
    """One command as the log has it."""

    place: Place
    answer: bytes
    failed: bool


class Answers:
    """Every call, and every execution."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self._executed: dict[Key, Execution] = {}
        self._events = 0

    def __len__(self) -> int:
        """How many commands were executed."""
        return len(self._executed)

    def begin(self, who: str, executor: str, data: bytes, deadline_s: float) -> Call:
        """A call begins; ``deadline_s`` is in virtual seconds."""
        self._events += 1
        call = Call(who, executor, data, deadline_s, self._events)
        self.calls.append(call)
        return call

    def told(self, call: Call, value: Any = None, error: McpError | None = None) -> None:
        """A call ends."""
        self._events += 1
        call.ended, call.error = self._events, error
        if error is None:
            call.answer = msgpack.packb(value)

    def executed(self, key: Key, place: Place, value: Any, *, failed: bool) -> Violation | None:
        """The log has executed a command, and that is the first to be heard of it, or a violation."""
        known = self._executed.setdefault(key, Execution(place, msgpack.packb(value), failed))
        if known.place != place:
            return Violation(f"command {key[1]} of one session was executed at {known.place} and at {place}")
        return None

    def check(self) -> Verdict:
        """Hold calls against executions."""
        violations, asked = list[Violation](), set[Key]()
        for call in self.calls:
            asked.update(call.keys)
            wrong = self._wrong(call, [self._executed[key] for key in call.keys if key in self._executed])
            if wrong is not None:
                violations.append(Violation(f"{call}: {wrong}"))
        violations += [
            Violation(f"what stands at {execution.place} was executed, and nobody asked for it")
            for key, execution in self._executed.items()
            if key not in asked
        ]
        return verdict(ONE_EFFECT, len(self.calls), violations + self._out_of_order())

    @staticmethod
    def _wrong(call: Call, executions: list[Execution]) -> str | None:
        effects = [execution for execution in executions if not execution.failed]
        at = [execution.place for execution in effects]
        if len(effects) > 1:
            return f"took effect {len(effects)} times, at {at}"
        if call.ended is None or (call.error is not None and not call.error.outcome_known):
            return None
        if call.error is not None:
            return f"was refused with {call.error.code}, and took effect at {at}" if effects else None
        if not effects:
            return "was acknowledged, and had no effect"
        if effects[0].answer != call.answer:
            told, given = msgpack.unpackb(call.answer or b"\xc0"), msgpack.unpackb(effects[0].answer)
            return f"was told {shown(told)}, where {shown(given)} was given at {effects[0].place}"
        return None

    def _out_of_order(self) -> list[Violation]:
        events: list[tuple[int, Place, Call]] = []
        for call in self.calls:
            places = [self._executed[key].place for key in call.keys if key in self._executed]
            if not places:
                continue
            events.append((call.begun, places[0], call))
            if call.ended is not None and call.answer is not None:
                events.append((call.ended, places[0], call))
        latest: tuple[Place, Call] | None = None
        violations = []
        for at, place, call in sorted(events, key=lambda event: event[0]):
            if at == call.begun and latest is not None and place < latest[0]:
                violations.append(
                    Violation(f"{call} stands at {place}, before {latest[1]} at {latest[0]}, which was over")
                )
            elif at == call.ended and (latest is None or place > latest[0]):
                latest = place, call
        return violations
