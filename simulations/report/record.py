"""What is known of one run, as plain values. All times are seconds from the beginning of the load."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from simulations.chronicle import Call, Commit, Happening

State = Literal["leader", "candidate", "follower", "up", "down", "lost"]
"""``up``: it runs, and nobody has heard yet what it takes itself for."""
Status = Literal["ok", "violation", "inconclusive", "not reached"]


@dataclass(frozen=True, slots=True)
class Span:
    """``node`` is in one state for a while; ``term`` 0: it has none."""

    node: str
    state: State
    begun_s: float
    ended_s: float
    term: int = 0
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Still:
    """``node``'s process stands still for a while, in whatever state it is."""

    node: str
    begun_s: float
    ended_s: float


@dataclass(frozen=True, slots=True)
class Check:
    """One rule, why it is a rule in one line, and what came of it; ``checked`` 0 proves nothing."""

    rule: str
    theory: str
    status: Status
    checked: int
    note: str = ""
    violations: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Failover:
    """The death of a leader; ``seconds`` until the next fresh write was acknowledged, ``None``: never."""

    at_s: float
    node: str
    seconds: float | None
    alone: bool
    """Nothing else was wrong until then."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One number that the page begins with. ``bad``: it should not be so."""

    name: str
    value: str
    note: str = ""
    bad: bool = False


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the run's story."""

    at_s: float
    who: str
    what: str


@dataclass(frozen=True, slots=True)
class Run:
    """One run. ``real``: of real processes, in real time; otherwise simulated, in virtual time.

    ``reasons`` say what is wrong, each with the verdict that it leads to. ``healed_s`` is when the faults
    were over, ``failed_s`` when a simulated run broke off. ``planned`` and ``effects`` count faults by
    kind, ``effects_are`` says what of. ``stalls`` are times in which the observing machine stood still.
    """

    title: str
    real: bool
    seed: int
    verdict: str
    command: str
    nodes: tuple[str, ...]
    ended_s: float
    reasons: tuple[tuple[str, str], ...] = ()
    healed_s: float | None = None
    failed_s: float | None = None
    spans: tuple[Span, ...] = ()
    stills: tuple[Still, ...] = ()
    faults: tuple[Happening, ...] = ()
    commits: tuple[Commit, ...] = ()
    calls: tuple[Call, ...] = ()
    checks: tuple[Check, ...] = ()
    failovers: tuple[Failover, ...] = ()
    stalls: tuple[tuple[float, float], ...] = ()
    planned: Mapping[str, int] = field(default_factory=dict)
    effects: Mapping[str, int] = field(default_factory=dict)
    effects_are: str = "had an effect"
    figures: tuple[Figure, ...] = ()
    notes: tuple[str, ...] = ()
    story: tuple[Line, ...] = ()
