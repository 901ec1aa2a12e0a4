"""What is drawn of members: who joins, who goes, whose disk is emptied, and when."""

from __future__ import annotations

import enum
import random
from collections.abc import Sequence
from dataclasses import dataclass

from simulations.faults import FaultKind, FaultPlan

WISHES_MAX = 4
"""So many moves are pursued at the same time."""

VOTERS_LEAST = 2
"""Nobody is removed below this."""

RELOCATING = 0.25
"""In so many of the runs nodes come back at other addresses."""


class Kind(enum.StrEnum):
    """What may be wished."""

    JOIN = "join"
    """A fresh node becomes a voter."""
    OBSERVE = "observe"
    """A fresh node becomes an observer."""
    REMOVE = "remove"
    """A member goes; its process runs on and has to harm nobody."""
    REPLACE = "replace"
    """The disk of a voter is lost: another server of the same name takes its place."""


@dataclass(frozen=True, slots=True)
class Move:
    """Begins at ``at_s``, in virtual seconds. ``pick`` decides about whom, from 0 to 1."""

    kind: Kind
    at_s: float
    pick: float


def draw_moves(draw: random.Random, seconds: float) -> tuple[Move, ...]:
    """The moves of one run: mostly a few, sometimes many, in half of the runs none."""
    if draw.random() < 0.5:
        return ()
    count = draw.choice((1, 2, 4, 8, 12))
    kinds = draw.choices(list(Kind), (4, 1, 3, 3), k=count)
    times = sorted(draw.uniform(0.03, 0.9) * seconds for _ in kinds)
    return tuple(Move(kind, at_s, draw.random()) for kind, at_s in zip(kinds, times, strict=True))


def fresh_nodes(moves: Sequence[Move], taken: int) -> tuple[str, ...]:
    """Names for those that come, behind the ``taken`` first ones."""
    count = sum(move.kind in (Kind.JOIN, Kind.OBSERVE) for move in moves)
    return tuple(f"n{taken + i}" for i in range(1, count + 1))


def plan_with_members(
    draw: random.Random,
    plan: FaultPlan,
    names: Sequence[str],
    *,
    seconds: float,
    patience_s: float,
    kinds: Sequence[FaultKind],
    counts: Sequence[int],
) -> FaultPlan:
    """The same faults, and some that hit those who join. Disks are emptied instead of damaged for good."""
    kept = [fault for fault in plan.faults if fault.kind is not FaultKind.BIT_FLIP]
    drawn = [kind for kind in kinds if kind is not FaultKind.BIT_FLIP and draw.random() < 0.3]
    more = FaultPlan.draw(
        draw, names, seconds=seconds, patience_s=patience_s, kinds=drawn, count=draw.choice(counts)
    )
    return FaultPlan(tuple(sorted((*kept, *more.faults), key=lambda fault: (fault.at_s, fault.kind))))


@dataclass(frozen=True, slots=True)
class Relocation:
    """Begins at ``at_s``, in virtual seconds, or when the last is over. ``pick`` decides who, from 0 to 1."""

    at_s: float
    pick: float


def draw_relocations(draw: random.Random, founders: int, seconds: float) -> tuple[Relocation, ...]:
    """Those of one run: mostly none. A founder that is alone stays, for clients know of no other."""
    if draw.random() >= RELOCATING or founders == 1:
        return ()
    times = sorted(draw.uniform(0.05, 0.9) * seconds for _ in range(draw.choice((1, 2, 4, 8))))
    return tuple(Relocation(at_s, draw.random()) for at_s in times)
