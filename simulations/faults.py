"""Faults as data: what may go wrong, for how long, to whom. One plan type for every level.

A plan comes from code, from a seed (:meth:`FaultPlan.draw`) or, later, from a file; how a fault is made
real is the business of the level that runs it (`simulations.chaos` for simulated nodes). A fault that is
planned is not yet one that happened: levels count what really fired.
"""

from __future__ import annotations

import enum
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Self


class FaultKind(enum.StrEnum):
    """The classes of faults. What ``Fault.amount`` means stands beside each."""

    LOSS = "loss"
    """Messages of a link get lost; the probability."""
    DUPLICATE = "duplicate"
    """Messages of a link arrive twice; the probability."""
    REORDER = "reorder"
    """Messages of a link overtake each other; the largest extra delay, in seconds."""
    DELAY = "delay"
    """Every message of a link takes longer; seconds."""
    THROTTLE = "throttle"
    """A link carries little; bytes per second."""
    PARTITION = "partition"
    """``nodes`` and ``peers`` do not hear each other, and notice it after ``amount`` seconds."""
    ONE_WAY = "one_way"
    """``peers`` do not hear ``nodes``; nobody notices."""
    PARTIAL = "partial"
    """One node and one other do not hear each other; everybody else hears both. Seconds to notice."""
    HALF_OPEN = "half_open"
    """A connection is gone for ``nodes``, while ``peers`` believe in it."""
    RESET = "reset"
    """Connections break, what is on the way is lost, and they are made again; every ``amount`` seconds."""
    KILL = "kill"
    """The process dies; what it wrote stays in the system's cache."""
    POWER_LOSS = "power_loss"
    """The machine dies: what was not synced is lost, in whole or in part."""
    TORN_WRITE = "torn_write"
    """The machine dies between two operations of its disk, the ``amount``-th from now."""
    BLACKOUT = "blackout"
    """All machines lose power at once."""
    PAUSE = "pause"
    """The process stands still and goes on, as if nothing had happened."""
    SLOW_SYNC = "slow_sync"
    """Syncs take long; seconds, at most."""
    DISK_FULL = "disk_full"
    """There is room for ``amount`` more bytes."""
    IO_ERROR = "io_error"
    """The ``amount``-th operation of the disk from now fails."""
    BIT_FLIP = "bit_flip"
    """A stored bit changes behind everybody's back; where the format promises to notice."""
    CLOCK_DRIFT = "clock_drift"
    """A monotonic clock runs ``amount`` times as fast."""
    CLOCK_LEAP = "clock_leap"
    """A monotonic clock leaps ahead; seconds."""
    WALL_JUMP = "wall_jump"
    """A wall clock jumps, ahead or back; seconds."""


@dataclass(frozen=True, slots=True)
class Fault:
    """``kind`` happens to ``nodes`` (and, on links, between them and ``peers``) from ``at_s`` on.

    On links, no ``peers`` means all other nodes, also among ``nodes``.

    Times are virtual seconds from the start of the run; ``amount`` is explained at the kind.
    """

    kind: FaultKind
    at_s: float
    duration_s: float
    nodes: tuple[str, ...]
    peers: tuple[str, ...] = ()
    amount: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self) | {"kind": str(self.kind)}

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Self:
        """The opposite of :meth:`to_dict`. Raises ``ValueError`` naming the field that is wrong."""
        known = {"kind", "at_s", "duration_s", "nodes", "peers", "amount"}
        if unknown := sorted(set(fields) - known):
            raise ValueError(f"a fault has no field {unknown[0]!r}; it has {', '.join(sorted(known))}")
        try:
            kind = FaultKind(fields["kind"])
            numbers = (
                float(fields["at_s"]),
                float(fields.get("duration_s", 0.0)),
                float(fields.get("amount", 0)),
            )
        except KeyError as missing:
            raise ValueError(f"a fault needs the field {missing.args[0]!r}") from None
        at_s, duration_s, amount = numbers
        if at_s < 0 or duration_s < 0:
            raise ValueError(f"at_s={at_s} and duration_s={duration_s} must not be negative")
        return cls(kind, at_s, duration_s, tuple(fields["nodes"]), tuple(fields.get("peers", ())), amount)

    def __str__(self) -> str:
        whom = ",".join(self.nodes) + (f" | {','.join(self.peers)}" if self.peers else "")
        return f"{self.kind} of {whom} for {self.duration_s:.3f} s (amount {self.amount:.4g})"


LINK_KINDS = frozenset(
    {
        FaultKind.LOSS,
        FaultKind.DUPLICATE,
        FaultKind.REORDER,
        FaultKind.DELAY,
        FaultKind.THROTTLE,
        FaultKind.PARTITION,
        FaultKind.ONE_WAY,
        FaultKind.PARTIAL,
        FaultKind.HALF_OPEN,
        FaultKind.RESET,
    }
)
"""Those that happen between nodes, and need two of them."""

SURE = frozenset(
    {FaultKind.KILL, FaultKind.POWER_LOSS, FaultKind.BLACKOUT, FaultKind.PAUSE, FaultKind.CLOCK_LEAP}
)
"""Those that have an effect whatever the cluster does at that time; of others a run may notice nothing."""

Draw = Callable[[random.Random, float], float]
"""An amount, from a generator and the cluster's patience in seconds (the longest election timeout)."""

AMOUNTS: dict[FaultKind, Draw] = {
    FaultKind.LOSS: lambda r, _: r.choice((0.02, 0.1, 0.3, 0.7)),
    FaultKind.DUPLICATE: lambda r, _: r.choice((0.05, 0.3, 0.9)),
    FaultKind.REORDER: lambda r, patience: r.choice((0.05, 0.5, 3.0)) * patience,
    FaultKind.DELAY: lambda r, patience: r.choice((0.05, 0.4, 1.2, 4.0)) * patience,
    FaultKind.THROTTLE: lambda r, _: 10 ** r.uniform(2.5, 5.0),
    FaultKind.PARTITION: lambda r, patience: r.uniform(0.0, 2.0) * patience,
    FaultKind.PARTIAL: lambda r, patience: r.uniform(0.0, 2.0) * patience,
    FaultKind.RESET: lambda r, patience: r.uniform(0.05, 1.0) * patience,
    FaultKind.TORN_WRITE: lambda r, _: float(r.randrange(12)),
    FaultKind.SLOW_SYNC: lambda r, patience: r.uniform(0.05, 2.0) * patience,
    FaultKind.DISK_FULL: lambda r, _: float(r.choice((0, 1, 100, r.randrange(5000)))),
    FaultKind.IO_ERROR: lambda r, _: float(r.randrange(12)),
    FaultKind.CLOCK_DRIFT: lambda r, _: r.choice((0.8, 0.95, 1.05, 1.25)),
    FaultKind.CLOCK_LEAP: lambda r, patience: r.uniform(0.1, 5.0) * patience,
    FaultKind.WALL_JUMP: lambda r, _: r.choice((-1, 1)) * 10 ** r.uniform(-1, 5),
}


@dataclass(frozen=True, slots=True)
class FaultPlan:
    """The faults of one run, by the time at which they begin."""

    faults: tuple[Fault, ...] = ()

    @classmethod
    def draw(
        cls,
        generator: random.Random,
        nodes: Sequence[str],
        *,
        seconds: float,
        patience_s: float,
        kinds: Sequence[FaultKind],
        count: int,
        fragile: Sequence[str] = (),
    ) -> FaultPlan:
        """``count`` faults of ``kinds`` over ``seconds``, half of them in storms, and perhaps bad weather.

        ``patience_s`` is the longest election timeout. Bits flip on ``fragile`` nodes only: a node that
        finds its disk damaged does not come back, so these may be no more than the cluster can lose.
        """
        usable = [kind for kind in kinds if _possible(kind, nodes, fragile)]
        # Half of them come in storms: what is harmless alone often is not in company.
        storms = [generator.uniform(0.02, 0.9) * seconds for _ in range(1 + count // 8)]
        faults = []
        for _ in range(count if usable else 0):
            at_s = generator.uniform(0.02, 0.95) * seconds
            if generator.random() < 0.5:
                at_s = min(generator.choice(storms) + generator.random() * 2 * patience_s, 0.95 * seconds)
            faults.append(
                _draw_fault(generator, generator.choice(usable), at_s, nodes, seconds, patience_s, fragile)
            )
        if len(nodes) > 1:
            faults += _draw_weather(generator, kinds, nodes, seconds, patience_s)
        return cls(tuple(sorted(faults, key=lambda fault: (fault.at_s, fault.kind))))

    def made_sure(self, generator: random.Random, nodes: Sequence[str], seconds: float) -> FaultPlan:
        """The same, and a kill where none of the faults is sure to have an effect: see :data:`SURE`."""
        if any(fault.kind in SURE for fault in self.faults):
            return self
        at_s = generator.uniform(0.1, 0.9) * seconds
        kill = Fault(FaultKind.KILL, at_s, generator.uniform(0.1, 1.0), (generator.choice(nodes),))
        return FaultPlan(tuple(sorted((*self.faults, kill), key=lambda fault: (fault.at_s, fault.kind))))

    def keep(self, numbers: Iterable[int]) -> FaultPlan:
        """Only the faults at these positions, which are counted from 0."""
        return FaultPlan(tuple(self.faults[i] for i in sorted(set(numbers)) if 0 <= i < len(self.faults)))

    def shifted(self, seconds: float) -> FaultPlan:
        """The same faults, each ``seconds`` later."""
        return FaultPlan(tuple(replace(fault, at_s=fault.at_s + seconds) for fault in self.faults))


def _possible(kind: FaultKind, nodes: Sequence[str], fragile: Sequence[str]) -> bool:
    if kind is FaultKind.BIT_FLIP:
        return bool(fragile)
    return kind not in LINK_KINDS or len(nodes) > 1


def _draw_weather(
    generator: random.Random,
    kinds: Sequence[FaultKind],
    nodes: Sequence[str],
    seconds: float,
    patience_s: float,
) -> list[Fault]:
    """What all links suffer, mildly and all the time."""
    mild = {
        FaultKind.LOSS: 0.02,
        FaultKind.DUPLICATE: 0.3,
        FaultKind.REORDER: 0.02 * patience_s,
        FaultKind.DELAY: 0.02 * patience_s,
    }
    chosen = [kind for kind in mild if kind in kinds and generator.random() < 0.3]
    return [Fault(kind, 0.0, seconds, tuple(nodes), (), mild[kind]) for kind in chosen]


def _draw_fault(
    generator: random.Random,
    kind: FaultKind,
    at_s: float,
    nodes: Sequence[str],
    seconds: float,
    patience_s: float,
    fragile: Sequence[str],
) -> Fault:
    amount = AMOUNTS[kind](generator, patience_s) if kind in AMOUNTS else 0.0
    duration_s = min(patience_s * 10 ** generator.uniform(-1.0, 1.0), seconds - at_s)
    chosen, others = _draw_sides(generator, kind, nodes, fragile)
    return Fault(kind, at_s, duration_s, chosen, others, amount)


def _draw_sides(
    generator: random.Random, kind: FaultKind, nodes: Sequence[str], fragile: Sequence[str]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    if kind is FaultKind.BLACKOUT:
        return tuple(nodes), ()
    if kind is FaultKind.BIT_FLIP:
        return (generator.choice(fragile),), ()
    if kind not in LINK_KINDS:
        # Mostly one; sometimes several at once, beyond what the cluster can stand.
        count = 1 if generator.random() < 0.8 else generator.randint(1, len(nodes))
        return tuple(sorted(generator.sample(list(nodes), count))), ()
    shuffled = generator.sample(list(nodes), len(nodes))
    if kind in (FaultKind.PARTIAL, FaultKind.HALF_OPEN):
        return (shuffled[0],), (shuffled[1],)
    if generator.random() < 0.4:
        return (shuffled[0],), tuple(sorted(shuffled[1:]))
    cut = generator.randint(1, len(nodes) - 1)
    return tuple(sorted(shuffled[:cut])), tuple(sorted(shuffled[cut:]))
