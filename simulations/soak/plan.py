"""What goes wrong in a soak, when and to whom: as data, from code, from a seed, or from a file.

A :class:`LiveFault` is a :class:`simulations.faults.Fault` with what only real processes know. What no real
process can be made to suffer honestly is refused by name: see :data:`SIMULATED_ONLY`.
"""

from __future__ import annotations

import errno
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Final, Literal, Self, get_args

from simulations.faults import LINK_KINDS, Fault, FaultKind, FaultPlan
from simulations.soak.controls import EVERY, Operation
from simulations.soak.kinds import Kind, LiveKind, kind_named
from simulations.soak.mesh import CLIENTS
from simulations.soak.path import BUFFER_BYTES_MAX, IMPOSSIBLE

LEADER: Final = "@leader"
"""Stands for whoever leads when the fault begins."""
FOLLOWER: Final = "@follower"
"""Stands for one who does not lead when the fault begins."""
Direction = Literal["to", "from", "both"]
"""On links: from ``nodes`` to ``peers``, the other way, or both."""

_MACHINE = "a process can be killed and its machine cannot be switched off; the simulated disks can"
_MONOTONIC = "the monotonic clock is the kernel's; the simulated clocks can"
SIMULATED_ONLY: Final[dict[Kind, str]] = {
    **IMPOSSIBLE,
    FaultKind.POWER_LOSS: _MACHINE,
    FaultKind.TORN_WRITE: _MACHINE,
    FaultKind.BIT_FLIP: "a damaged log stops its node for good; the simulated disks flip bits",
    FaultKind.CLOCK_DRIFT: _MONOTONIC,
    FaultKind.CLOCK_LEAP: _MONOTONIC,
}
"""Kinds that are refused here, and why."""
PATH_FAULTS: Final[frozenset[Kind]] = frozenset(LINK_KINDS) | {LiveKind.CORRUPT}
"""Kinds that happen between places."""
PORT_FAULTS: Final[frozenset[Kind]] = frozenset(
    {LiveKind.SLOW_DISK, FaultKind.SLOW_SYNC, FaultKind.IO_ERROR, FaultKind.WALL_JUMP}
)
"""Kinds that need a node whose disk and clock can be made ill."""


DISK_LOSS_NODES_MIN: Final = 3
"""A quorum has to outlive the loss of a disk."""
NUMBERS: Final = (
    *("at_s", "duration_s", "amount", "jitter_s", "correlation"),
    *("burst_bytes", "buffer_bytes", "chance", "errno"),
)
"""The fields of a fault that are numbers; those that are whole by nature need not be written so."""
NUMBER_MAX: Final = 1e18
"""Nothing that can be asked for is larger, and what is not a number at all is not smaller."""


class PlanInvalid(ValueError):
    """A plan cannot be run here. Says which part of it, why, and what to do instead."""


@dataclass(frozen=True, slots=True)
class LiveFault:
    """``kind`` happens to ``nodes`` (and, on links, between them and ``peers``) from ``at_s`` on.

    Seconds are real, from the beginning of the load. ``nodes`` may name :data:`LEADER` and
    :data:`FOLLOWER`; ``peers`` may name the clients, and stands for all others when empty. ``amount`` is
    as at the kind. The rest is for links (``direction``, ``jitter_s``, ``correlation``, ``burst_bytes``,
    ``buffer_bytes``) and disks (``chance``, ``operations``, ``errno``).
    Raises :class:`PlanInvalid` for what is not honoured or contradicts itself.
    """

    kind: Kind
    at_s: float
    duration_s: float
    nodes: tuple[str, ...]
    peers: tuple[str, ...] = ()
    amount: float = 0.0
    direction: Direction = "both"
    jitter_s: float = 0.0
    correlation: float = 0.0
    burst_bytes: int = 0
    buffer_bytes: int = BUFFER_BYTES_MAX
    chance: float = 1.0
    operations: Operation = EVERY
    errno: int = errno.EIO

    def __post_init__(self) -> None:
        if self.kind not in HONOURED:
            why = SIMULATED_ONLY.get(self.kind, "nobody knows how")
            raise PlanInvalid(f"{self.kind}: not on real processes: {why}")
        for name in NUMBERS:
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= NUMBER_MAX:
                raise PlanInvalid(f"{self.kind}: {name} is a number, not {value!r:.40}")
        if not self.nodes:
            raise PlanInvalid(f"{self.kind}: it has to happen to somebody: nodes is empty")
        if self.at_s < 0 or self.duration_s < 0 or (self.amount < 0 and self.kind is not FaultKind.WALL_JUMP):
            raise PlanInvalid(f"{self.kind}: at_s, duration_s and amount must not be negative")
        if self.direction not in get_args(Direction):
            raise PlanInvalid(f"{self.kind}: direction is to, from or both, not {self.direction!r}")
        if self.peers and self.kind not in PATH_FAULTS:
            raise PlanInvalid(f"{self.kind}: it happens to nodes, not between them: peers must be empty")
        if set(self.nodes) & set(self.peers):
            raise PlanInvalid(f"{self.kind}: {sorted(set(self.nodes) & set(self.peers))[0]} is on both sides")

    @classmethod
    def of(cls, fault: Fault) -> Self:
        """The same fault on real processes. Raises :class:`PlanInvalid` where that cannot be."""
        direction: Direction = "to" if fault.kind is FaultKind.ONE_WAY else "both"
        return cls(
            fault.kind, fault.at_s, fault.duration_s, fault.nodes, fault.peers, fault.amount, direction
        )

    @property
    def ends_s(self) -> float:
        """When it is over."""
        return self.at_s + self.duration_s

    def to_dict(self) -> dict[str, Any]:
        """Plain values: what differs from the defaults, and what every fault has."""
        plain = asdict(self) | {"kind": str(self.kind), "operations": int(self.operations)}
        always = {"kind", "at_s", "duration_s", "nodes"}
        defaults = {field.name: field.default for field in fields(self)}
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in plain.items()
            if name in always or value != defaults[name]
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The opposite of :meth:`to_dict`. Raises :class:`PlanInvalid` naming the field."""
        if not isinstance(values, Mapping):
            raise PlanInvalid(f"a mapping of fields is expected, not {values!r:.40}")
        known = {field.name for field in fields(cls)}
        if unknown := sorted(map(str, set(values) - known)):
            raise PlanInvalid(f"a fault has no field {unknown[0]!r}; it has {', '.join(sorted(known))}")
        try:
            made = dict(values) | {"kind": kind_named(str(values["kind"]))}
            for name in ("nodes", "peers"):
                made[name] = _names(name, made.get(name, []))
            made["operations"] = Operation(int(made.get("operations", EVERY)))
            return cls(**made)
        except KeyError as missing:
            raise PlanInvalid(f"a fault needs the field {missing.args[0]!r}") from None
        except (TypeError, ValueError, OverflowError) as error:
            raise PlanInvalid(str(error)) from error

    def __str__(self) -> str:
        between = f" | {','.join(self.peers)}" if self.peers else ""
        way = f" ({self.direction})" if self.kind in PATH_FAULTS and self.direction != "both" else ""
        amount = f", {self.amount:.4g}" if self.amount else ""
        return f"{self.kind} {','.join(self.nodes)}{between}{way} for {self.duration_s:.2f} s{amount}"


def _names(field: str, value: object) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or not all(isinstance(name, str) for name in value):
        raise PlanInvalid(f"{field} is a list of names, not {value!r:.40}")
    return tuple(value)


@dataclass(frozen=True, slots=True)
class LivePlan:
    """The faults of one soak, by the time at which they begin."""

    faults: tuple[LiveFault, ...] = ()

    @classmethod
    def of(cls, plan: FaultPlan | Iterable[LiveFault]) -> Self:
        """A plan of any level, or any faults, in order. Raises :class:`PlanInvalid`."""
        found = map(LiveFault.of, plan.faults) if isinstance(plan, FaultPlan) else plan
        return cls(tuple(sorted(found, key=lambda fault: (fault.at_s, fault.kind, fault.nodes))))

    @classmethod
    def from_plain(cls, faults: object) -> Self:
        """Faults as JSON has them. Raises :class:`PlanInvalid` saying which one is wrong, and how."""
        if not isinstance(faults, list):
            raise PlanInvalid(f"faults: a list is expected, not {faults!r:.40}")
        found = []
        for number, values in enumerate(faults, 1):
            try:
                found.append(LiveFault.from_dict(values))
            except PlanInvalid as error:
                raise PlanInvalid(f"fault {number}: {error}") from None
        return cls.of(found)

    @property
    def kinds(self) -> frozenset[Kind]:
        """What goes wrong."""
        return frozenset(fault.kind for fault in self.faults)

    @property
    def seconds(self) -> float:
        """When all of it is over."""
        return max((fault.ends_s for fault in self.faults), default=0.0)

    def within(self, seconds: float) -> Self:
        """What begins before ``seconds``, ended by then."""
        return type(self)(
            tuple(
                replace(fault, duration_s=min(fault.duration_s, seconds - fault.at_s))
                for fault in self.faults
                if fault.at_s < seconds
            )
        )

    def check(self, nodes: Sequence[str]) -> None:
        """Raises :class:`PlanInvalid` when a fault names a place that the cluster does not have."""
        known = {*nodes, CLIENTS, LEADER, FOLLOWER}
        for fault in self.faults:
            for name in (*fault.nodes, *fault.peers):
                if name not in known:
                    raise PlanInvalid(
                        f"{fault.kind}: there is no {name!r}; there are {', '.join(sorted(known))}"
                    )
            few = len(nodes) < DISK_LOSS_NODES_MIN or len(fault.nodes) > 1
            if fault.kind is LiveKind.DISK_LOSS and few:
                raise PlanInvalid(
                    f"{fault.kind}: one node's disk at a time, of at least {DISK_LOSS_NODES_MIN} nodes: else "
                    "what was acknowledged may be lost with it"
                )
            if CLIENTS in fault.nodes and fault.kind not in PATH_FAULTS:
                raise PlanInvalid(f"{fault.kind}: it cannot happen to the clients, only to nodes")


# -- from a seed ------------------------------------------------------------------------------------------

WEIGHTS: Final[dict[Kind, float]] = {
    FaultKind.KILL: 6.0,
    FaultKind.PAUSE: 2.0,
    FaultKind.PARTITION: 2.0,
    FaultKind.ONE_WAY: 1.0,
    FaultKind.PARTIAL: 1.0,
    FaultKind.DELAY: 1.0,
    FaultKind.LOSS: 1.0,
    FaultKind.THROTTLE: 0.7,
    FaultKind.RESET: 1.0,
    FaultKind.HALF_OPEN: 1.0,
    FaultKind.DISK_FULL: 0.7,
    FaultKind.SLOW_SYNC: 0.7,
    FaultKind.IO_ERROR: 0.3,
    FaultKind.WALL_JUMP: 0.3,
    LiveKind.CPU_STRESS: 0.7,
    LiveKind.SLOW_DISK: 0.3,
    LiveKind.DISK_LOSS: 0.5,
    FaultKind.BLACKOUT: 0.3,
    LiveKind.CORRUPT: 0.7,
}
"""How often each kind is drawn, in proportion."""
HONOURED: Final[frozenset[Kind]] = frozenset(WEIGHTS)
"""Kinds that really happen here."""


@dataclass(frozen=True, slots=True)
class WalkLimits:
    """The limits of a random walk over faults; times in seconds, from the shortest to the longest."""

    calm_s: float = 1.0
    """Nothing goes wrong so long at first."""
    gap_s: tuple[float, float] = (0.2, 2.0)
    duration_s: tuple[float, float] = (0.2, 4.0)
    leader_chance: float = 0.4
    """How often a fault of one node is the leader's."""
    several_chance: float = 0.15
    """How often more than one node is chosen, where that is allowed."""


def walk(
    seed: int,
    nodes: Sequence[str],
    seconds: float,
    *,
    kinds: Iterable[Kind] | None = None,
    keep_quorum: bool = False,
    limits: WalkLimits | None = None,
) -> LivePlan:
    """Faults one after the other, at random, until ``seconds``.

    With ``keep_quorum`` no fault takes more than a minority by itself; that several at a time do not
    either is for whoever makes them happen, because only he knows who is well again.
    """
    limits = limits or WalkLimits()
    generator = random.Random(f"soak/{seed}")
    allowed = set(WEIGHTS if kinds is None else kinds) - set(impossible(nodes, keep_quorum=keep_quorum))
    choices = [kind for kind in WEIGHTS if kind in allowed] + sorted(allowed - set(WEIGHTS))
    if not choices:
        raise PlanInvalid("there is no kind of fault left to draw from")
    weights = [WEIGHTS.get(kind, 1.0) for kind in choices]
    faults = []
    at_s = limits.calm_s
    while at_s < seconds:
        (kind,) = generator.choices(choices, weights)
        faults.append(_drawn(generator, kind, at_s, nodes, limits, keep_quorum=keep_quorum))
        at_s += generator.uniform(*limits.gap_s)
    return LivePlan.of(faults).within(seconds)


def impossible(nodes: Sequence[str], *, keep_quorum: bool) -> dict[Kind, str]:
    """Kinds that no walk over these nodes draws, each with the reason."""
    found: dict[Kind, str] = {}
    if keep_quorum:
        found[FaultKind.BLACKOUT] = "it takes all nodes, and the quorum is to be kept"
    if len(nodes) == 1:
        found |= dict.fromkeys(PATH_FAULTS, "it happens between nodes, and there is one")
    if len(nodes) < DISK_LOSS_NODES_MIN:
        found[LiveKind.DISK_LOSS] = f"a quorum has to outlive it, of at least {DISK_LOSS_NODES_MIN} nodes"
    return found


def _drawn(
    generator: random.Random,
    kind: Kind,
    at_s: float,
    nodes: Sequence[str],
    limits: WalkLimits,
    *,
    keep_quorum: bool,
) -> LiveFault:
    duration_s = generator.uniform(*limits.duration_s)
    chosen = _whom(generator, kind, nodes, limits, keep_quorum=keep_quorum)
    peers: tuple[str, ...] = ()
    direction: Direction = "both"
    if kind in {FaultKind.PARTIAL, FaultKind.HALF_OPEN}:
        chosen, peers = chosen[:1], (generator.choice([n for n in nodes if n not in chosen[:1]]),)
    elif kind is FaultKind.ONE_WAY:
        direction = generator.choice(("to", "from"))
    elif kind in PATH_FAULTS and generator.random() < 0.5:
        # Half of the time a node is cut off from its like only, and its clients still reach it.
        peers = tuple(node for node in nodes if node not in chosen)
    return LiveFault(
        kind,
        round(at_s, 3),
        round(duration_s, 3),
        chosen,
        peers,
        round(_amount(generator, kind), 4),
        direction,
        chance=0.5 if kind is FaultKind.IO_ERROR else 1.0,
        errno=generator.choice((errno.EIO, errno.ENOSPC)),
    )


def _whom(
    generator: random.Random, kind: Kind, nodes: Sequence[str], limits: WalkLimits, *, keep_quorum: bool
) -> tuple[str, ...]:
    if kind is FaultKind.BLACKOUT:
        return tuple(nodes)
    minority = (len(nodes) - 1) // 2
    most = minority if keep_quorum else max(1, len(nodes) - 1)
    if most > 1 and kind is not LiveKind.DISK_LOSS and generator.random() < limits.several_chance:
        return tuple(sorted(generator.sample(list(nodes), generator.randint(2, most))))
    named = kind not in {FaultKind.PARTIAL, FaultKind.HALF_OPEN} and kind not in PATH_FAULTS
    if named and generator.random() < limits.leader_chance:
        return (LEADER,)
    return (generator.choice(list(nodes)),)


def _amount(generator: random.Random, kind: Kind) -> float:
    draws = {
        FaultKind.DELAY: lambda: generator.choice((0.005, 0.05, 0.2, 0.6)),
        FaultKind.LOSS: lambda: generator.choice((0.02, 0.1, 0.3, 0.7)),
        FaultKind.THROTTLE: lambda: 10 ** generator.uniform(3.0, 5.5),
        FaultKind.RESET: lambda: generator.uniform(0.1, 1.0),
        FaultKind.SLOW_SYNC: lambda: generator.choice((0.02, 0.1, 0.5)),
        FaultKind.DISK_FULL: lambda: float(generator.choice((0, 1000, 20_000))),
        FaultKind.WALL_JUMP: lambda: generator.choice((-1, 1)) * 10 ** generator.uniform(0, 4),
        LiveKind.CPU_STRESS: lambda: generator.choice((0.5, 0.8, 0.95)),
        LiveKind.SLOW_DISK: lambda: generator.choice((0.005, 0.05)),
        LiveKind.CORRUPT: lambda: generator.choice((0.01, 0.1)),
    }
    return draws[kind]() if kind in draws else 0.0
