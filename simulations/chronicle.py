"""What happened in a run, as plain values, for whoever asked to have it written down.

Levels tell a :class:`Chronicle` what happens; the one that every world has by default forgets it at once,
so a run that nobody draws a picture of pays for calls that do nothing. A :class:`Recording` keeps it. Being
told is not an event: neither what happens nor the trace hash depends on whether somebody writes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, Literal

from simulations.checking.operations import Call as Asked
from simulations.checking.operations import (
    CompareAndSet,
    Conflict,
    Delete,
    Failed,
    Fetch,
    Get,
    Ok,
    Operation,
    Put,
    Submit,
)

Ended = Literal["ok", "failed", "unknown"]
"""How a call ended: done; certainly not done; nobody can tell, or no answer ever came."""

COMMITS_APART_S: Final = 0.02
"""Of one node's commit index, what is nearer together than this is one step."""
EVENTS_MAX: Final = 200_000
"""Of each sort; what follows is not kept."""


@dataclass(frozen=True, slots=True)
class Happening:
    """A fault, from when to when, to whom; ``detail`` in words. What is over at once has no length."""

    kind: str
    begun_s: float
    ended_s: float
    nodes: tuple[str, ...]
    peers: tuple[str, ...] = ()
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Role:
    """``node`` has this role in this term from ``at_s`` on."""

    at_s: float
    node: str
    role: str
    term: int
    leader: str | None = None


@dataclass(frozen=True, slots=True)
class Life:
    """``node`` is from ``at_s`` on: up, down, lost for good; standing still, or going on."""

    at_s: float
    node: str
    state: Literal["up", "down", "lost", "still", "going"]
    why: str = ""


@dataclass(frozen=True, slots=True)
class Commit:
    """``node`` knows of commits up to ``index``."""

    at_s: float
    node: str
    index: int


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a client, from when to when; ``ended_s`` ``None``: it never came back."""

    begun_s: float
    ended_s: float | None
    sort: str
    ended: Ended
    write: bool
    """Whether it changes something: only then does its success show that the cluster serves."""


@dataclass(frozen=True, slots=True)
class Checked:
    """A rule and how many things it was held against."""

    rule: str
    checked: int
    note: str = ""


class Chronicle:
    """Forgets everything. Times are seconds from the beginning of the run."""

    def fault(self, happening: Happening) -> None:
        """A fault was made to happen."""

    def healed(self, at_s: float) -> None:
        """Every fault is over."""

    def role(self, at_s: float, node: str, role: str, term: int, leader: str | None) -> None:
        """What a node says of itself; it may say the same again."""

    def life(
        self, at_s: float, node: str, state: Literal["up", "down", "lost", "still", "going"], why: str = ""
    ) -> None:
        """A node starts or ends, stands still or goes on."""

    def commit(self, at_s: float, node: str, index: int) -> None:
        """A node's commit index; it may be the same again."""

    def call(self, begun_s: float, ended_s: float | None, sort: str, ended: Ended, *, write: bool) -> None:
        """A call came back, or never will."""

    def calls(self, history: Iterable[Operation]) -> None:
        """All calls of a history."""

    def checked(self, rule: str, checked: int, note: str = "") -> None:
        """A rule was held against so many things."""


SILENT: Final = Chronicle()
"""Forgets everything, for every run that nobody asked about."""


@dataclass(slots=True)
class Recording(Chronicle):
    """Keeps everything, in the order in which it was told."""

    faults: list[Happening] = field(default_factory=list)
    roles: list[Role] = field(default_factory=list)
    lives: list[Life] = field(default_factory=list)
    commits: list[Commit] = field(default_factory=list)
    made: list[Call] = field(default_factory=list)
    rules: list[Checked] = field(default_factory=list)
    healed_s: float | None = None
    _said: dict[str, tuple[str, int, str | None]] = field(default_factory=dict)
    _commit: dict[str, int] = field(default_factory=dict)
    """Where the last commit of each node stands in ``commits``."""

    def fault(self, happening: Happening) -> None:
        """See :class:`Chronicle`."""
        self.faults.append(happening)

    def healed(self, at_s: float) -> None:
        """See :class:`Chronicle`."""
        self.healed_s = at_s

    def role(self, at_s: float, node: str, role: str, term: int, leader: str | None) -> None:
        """See :class:`Chronicle`."""
        said = (role, term, leader)
        if self._said.get(node) != said and len(self.roles) < EVENTS_MAX:
            self._said[node] = said
            self.roles.append(Role(at_s, node, role, term, leader))

    def life(
        self, at_s: float, node: str, state: Literal["up", "down", "lost", "still", "going"], why: str = ""
    ) -> None:
        """See :class:`Chronicle`."""
        if len(self.lives) < EVENTS_MAX:
            self.lives.append(Life(at_s, node, state, why))
        if state in ("up", "down", "lost"):
            # It will say anew what it is, and begin to count again.
            self._said.pop(node, None)
            self._commit.pop(node, None)

    def commit(self, at_s: float, node: str, index: int) -> None:
        """See :class:`Chronicle`."""
        place = self._commit.get(node)
        if place is not None:
            last = self.commits[place]
            if last.index == index:
                return
            if at_s - last.at_s < COMMITS_APART_S:
                self.commits[place] = Commit(last.at_s, node, index)
                return
        if len(self.commits) < EVENTS_MAX:
            self._commit[node] = len(self.commits)
            self.commits.append(Commit(at_s, node, index))

    def call(self, begun_s: float, ended_s: float | None, sort: str, ended: Ended, *, write: bool) -> None:
        """See :class:`Chronicle`."""
        if len(self.made) < EVENTS_MAX:
            self.made.append(Call(begun_s, ended_s, sort, ended, write))

    def calls(self, history: Iterable[Operation]) -> None:
        """See :class:`Chronicle`."""
        for operation in history:
            self.call(
                operation.invoked_at,
                operation.completed_at,
                sort_of(operation.call),
                how_it_ended(operation),
                write=_writes(operation),
            )

    def checked(self, rule: str, checked: int, note: str = "") -> None:
        """See :class:`Chronicle`."""
        self.rules.append(Checked(rule, checked, note))


def how_it_ended(operation: Operation) -> Ended:
    """How an operation of a history ended."""
    if isinstance(operation.outcome, Ok):
        return "ok"
    return "failed" if isinstance(operation.outcome, Failed) else "unknown"


def _writes(operation: Operation) -> bool:
    """Whether it was to change a key; one that was told of a conflict did not."""
    refused = isinstance(operation.outcome, Ok) and isinstance(operation.outcome.result, Conflict)
    return isinstance(operation.call, Put | CompareAndSet | Delete) and not refused


def sort_of(call: Asked) -> str:
    """What a table calls it."""
    match call:
        case Get(_, consistency):
            return f"get ({consistency})"
        case CompareAndSet():
            return "compare and set"
        case Submit(_, mode):
            return f"submit ({mode})"
        case Fetch():
            return "result"
    return type(call).__name__.lower()
