"""Is there an order? The search at the heart of the linearizability checker, for any sequential model.

A history is linearizable if one point can be chosen for every operation, between its invocation and its
completion, so that the operations, in the order of their points, are a run of the sequential model
(Herlihy and Wing 1990, section 3). Wing and Gong search for such an order by always taking an operation
that no other had to precede: one that was invoked before the first completion of all that remain. Lowe
remembers the configurations, a state with the set of operations taken, and leaves each that was met before.

Taken operations are not kept as a set here: what was admitted (invoked before the first completion
that remains) and not yet taken says the same in a few numbers, however long the history is. An operation
that was never answered is never due: it may be taken at any point after its invocation, or not at all.
Three cuts, none of which loses an order:

- An operation that changes no state wherever it is legal (a read) is taken as soon as it is legal: in
  any order in which it comes later it can be moved to the front.
- Of never answered operations that are equal, the one that was invoked first is taken first: swap them.
- A configuration is left if an equal one was met that had taken fewer of the never answered ones: they
  need not be taken, so whatever can follow this one could have followed that one. For the same reason
  those that could not be taken again anyway are not remembered.

Deciding this is NP-complete (Gibbons and Korach 1997), so the search has a bound, and says when it is met.

Sources: Wing and Gong, "Testing and Verifying Concurrent Objects", 1993, section 4; Lowe, "Testing for
Linearizability", 2017, sections 3 and 4 (memoised configurations).
"""

from __future__ import annotations

import enum
import math
from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Generic, NamedTuple, TypeVar

S = TypeVar("S", bound=Hashable)
C = TypeVar("C", bound=Hashable)

CONFIGURATIONS_MAX: Final = 200_000
"""How many configurations a search looks at, unless told otherwise."""


class Model(ABC, Generic[S, C]):
    """A sequential object: states are hashable, calls carry what was answered. Everything is pure."""

    @abstractmethod
    def initial(self) -> S:
        """Return the state before the first operation."""

    @abstractmethod
    def step(self, state: S, call: C) -> S | None:
        """Return the state after ``call``; ``None`` if it cannot be answered so in this state."""

    def reads(self, call: C) -> bool:
        """Whether ``call`` leaves every state as it is, wherever it is legal."""
        return False

    def needs(self, call: C) -> Hashable | None:
        """Name the states in which alone ``call`` can be taken, and after which it never can be again.

        ``None``: there is no such name. Only never answered operations are asked. It spares looking at
        the many that cannot be taken, and remembering those that were.
        """
        return None

    def offers(self, state: S) -> Hashable | None:
        """Return the name of ``state`` in the sense of :meth:`needs`; ``None``: it could be any."""
        return None


@dataclass(frozen=True, slots=True)
class Interval(Generic[C]):
    """A call between two positions in a total order of events. ``completed`` ``None``: never answered."""

    invoked: int
    completed: int | None
    call: C


class Finding(enum.Enum):
    """How a search ends."""

    FOUND = "found"
    IMPOSSIBLE = "impossible"
    BOUND = "bound"


@dataclass(frozen=True, slots=True)
class Search:
    """What a search found. ``order``: the intervals' numbers in a legal order, if there is one.

    ``stuck_at``: the first completion, as a position, that no order gets past, if there is none.
    """

    finding: Finding
    explored: int
    order: tuple[int, ...] = ()
    stuck_at: int | None = None


class _Path(NamedTuple):
    """What was taken, the last first: a list that shares its tail with others."""

    taken: tuple[int, ...]
    before: _Path | None


class _Node(NamedTuple, Generic[S]):
    state: S
    admitted: int
    waiting: tuple[int, ...]
    """Answered operations that are admitted and not taken."""
    used: int
    """A bit for each never answered operation that was taken."""
    limit: float
    """The first completion among those that remain."""
    path: _Path | None


def search(
    intervals: Sequence[Interval[C]], model: Model[S, C], *, configurations_max: int = CONFIGURATIONS_MAX
) -> Search:
    """Look for a legal order of the intervals. Takes time in proportion to what it explores."""
    return _Searcher(intervals, model).run(configurations_max)


class _Searcher(Generic[S, C]):
    def __init__(self, intervals: Sequence[Interval[C]], model: Model[S, C]) -> None:
        order = sorted(range(len(intervals)), key=lambda i: intervals[i].invoked)
        self._model = model
        self._known = [i for i in order if intervals[i].completed is not None]
        self._invoked = [intervals[i].invoked for i in self._known]
        self._completed = [c for i in self._known if (c := intervals[i].completed) is not None]
        self._calls = [intervals[i].call for i in self._known]
        self._reads = [model.reads(call) for call in self._calls]
        self._open = [i for i in order if intervals[i].completed is None]
        self._open_invoked = [intervals[i].invoked for i in self._open]
        twins: dict[C, list[int]] = {}
        for bit, i in enumerate(self._open):
            twins.setdefault(intervals[i].call, []).append(bit)
        self._twins = list(twins.items())
        self._needed: dict[Hashable | None, list[tuple[C, list[int]]]] = {}
        self._once = {}
        for call, bits in self._twins:
            name = model.needs(call)
            self._once[call] = name is not None
            self._needed.setdefault(name, []).append((call, bits))

    def run(self, configurations_max: int) -> Search:
        visited: dict[tuple[S, int, tuple[int, ...]], list[int]] = {}
        stack: list[Iterator[_Node[S]]] = [iter((self._settled(self._model.initial(), 0, (), 0, None),))]
        explored, deepest = 0, -1.0
        while stack:
            node = next(stack[-1], None)
            if node is None:
                stack.pop()
                continue
            masks = visited.setdefault(node[:3], [])
            if any(mask & node.used == mask for mask in masks):
                continue
            masks.append(node.used)
            explored += 1
            deepest = max(deepest, node.limit)
            if node.limit == math.inf:
                return Search(Finding.FOUND, explored, self._order(node.path))
            if explored >= configurations_max:
                return Search(Finding.BOUND, explored)
            stack.append(self._successors(node))
        return Search(Finding.IMPOSSIBLE, explored, stuck_at=int(deepest))

    def _settled(
        self, state: S, admitted: int, waiting: tuple[int, ...], used: int, path: _Path | None
    ) -> _Node[S]:
        """Admit what may come next, and take every read that is legal as things are."""
        completed, invoked, total = self._completed, self._invoked, len(self._known)
        while True:
            limit: float = min((completed[i] for i in waiting), default=math.inf)
            first = admitted
            while admitted < total and invoked[admitted] < limit:
                limit = min(limit, completed[admitted])
                admitted += 1
            waiting = (*waiting, *range(first, admitted))
            taken = tuple(
                i for i in waiting if self._reads[i] and self._model.step(state, self._calls[i]) == state
            )
            if not taken:
                return _Node(state, admitted, waiting, used, limit, path)
            path = _Path(tuple(self._known[i] for i in taken), path)
            waiting = tuple(i for i in waiting if i not in taken)

    def _successors(self, node: _Node[S]) -> Iterator[_Node[S]]:
        state, admitted, waiting, used, limit, path = node
        step = self._model.step
        for i in waiting:
            after = step(state, self._calls[i])
            if after is not None:
                rest = tuple(j for j in waiting if j != i)
                yield self._settled(after, admitted, rest, used, _Path((self._known[i],), path))
        for call, bits in self._candidates(state):
            bit = next((bit for bit in bits if not used >> bit & 1), None)
            if bit is None or self._open_invoked[bit] > limit:
                continue
            after = step(state, call)
            if after is not None and after != state:
                taken = used if self._once[call] else used | 1 << bit
                yield self._settled(after, admitted, waiting, taken, _Path((self._open[bit],), path))

    def _candidates(self, state: S) -> Iterator[tuple[C, list[int]]]:
        """Kinds of never answered operations that might be taken in this state."""
        offered = self._model.offers(state)
        if offered is None:
            yield from self._twins
            return
        yield from self._needed.get(offered, ())
        yield from self._needed.get(None, ())

    def _order(self, path: _Path | None) -> tuple[int, ...]:
        order: list[int] = []
        while path is not None:
            order += reversed(path.taken)
            path = path.before
        return tuple(reversed(order))
