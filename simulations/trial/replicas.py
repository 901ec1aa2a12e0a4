"""What the replicas of one executor answered and held after each command, wherever they began.

The first to execute a command sets what all others have to answer and to hold there. A replica may have
executed everything, or have begun with a snapshot, or execute the same commands a second time after a
restart: all of that must come to the same.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, Final

import msgpack

from executor.interface import Command, Result
from simulations.invariants import Violation

DETERMINISTIC: Final = "executors are deterministic"
WHOLE_SNAPSHOTS: Final = "snapshots are the whole state"

ADVICE: Final = (
    "take time from command.time_s, randomness from random.Random(command.seed), sort what comes out of a "
    "set, and share nothing between executors"
)
SHOWN_MAX: Final = 160
"""Characters of a command, an answer or a snapshot in a message."""

Place = tuple[int, int]
"""A log index, and a position in its entry."""


def shown(value: object) -> str:
    """A short account of ``value``."""
    text = repr(value)
    return text if len(text) <= SHOWN_MAX else f"{text[:SHOWN_MAX]}..."


def answer_of(result: Result) -> bytes:
    """A result as it travels: what makes two of them equal."""
    packed: bytes = msgpack.packb([result.value, result.error])
    return packed


def digest_of(snapshot: bytes) -> bytes:
    """What makes two snapshots equal."""
    return hashlib.blake2b(snapshot, digest_size=16).digest()


@dataclass(frozen=True, slots=True)
class Step:
    """One command as one replica executed it. ``origin``: how that replica came to its state."""

    command: Command
    node: str
    origin: str
    answer: bytes
    result: Result
    snapshot: bytes

    @property
    def place(self) -> Place:
        """Where it stands in the agreed order."""
        return self.command.index, self.command.position


@dataclass(frozen=True, slots=True)
class _First:
    command: Command
    node: str
    origin: str
    answer: bytes
    shown: str
    digest: bytes
    state: str


class Replicas:
    """All replicas of the executor ``name``."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._first: dict[Place, _First] = {}

    def __len__(self) -> int:
        return len(self._first)

    def steps(self) -> list[tuple[Command, bytes, bytes, str]]:
        """Every command in order, with its answer, the digest of the state after it, and both shown."""
        return [
            (first.command, first.answer, first.digest, f"{first.shown}, state {first.state}")
            for _, first in sorted(self._first.items())
        ]

    def add(self, step: Step) -> Violation | None:
        """One more replica has executed a command; gives what is wrong with that."""
        digest = digest_of(step.snapshot)
        first = self._first.get(step.place)
        if first is None:
            self._first[step.place] = _First(
                step.command,
                step.node,
                step.origin,
                step.answer,
                shown(step.result.error or step.result.value),
                digest,
                shown(step.snapshot),
            )
            return None
        if first.answer != step.answer:
            return self._differ(first, step, "answered", first.shown, step.result.error or step.result.value)
        if first.digest != digest:
            return self._differ(first, step, "hold, as snapshots,", first.state, step.snapshot)
        return None

    def _differ(self, first: _First, step: Step, what: str, one: str, other: Any) -> Violation:
        text = (
            f"{described(self.name, step.command)}: {first.node} ({first.origin}) and {step.node} "
            f"({step.origin}) {what} {one} and {shown(other)}"
        )
        if first.origin == step.origin:
            return Violation(DETERMINISTIC, f"{text}; {ADVICE}")
        return Violation(
            WHOLE_SNAPSHOTS,
            f"{text}; snapshot() leaves something out that execute() needs, restore() does not replace "
            f"everything, or the executor is not deterministic: {ADVICE}",
        )


def described(name: str, command: Command) -> str:
    """A command in a message."""
    return f"{name}, {shown(command.data)} at {command.index}.{command.position}"
