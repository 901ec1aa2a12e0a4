"""What a seed stands for in a trial: the node level's machines and habits, a user's faults and clients."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Self

from simulations.faults import FaultKind, FaultPlan
from simulations.nodes.scenario import KINDS, SECONDS, Scenario

SEEDS: Final = range(10)
SEEDS_MAX: Final = 1_000_000
NODES_MAX: Final = 7
CLIENTS_MAX: Final = 16


@dataclass(frozen=True, slots=True)
class Settings:
    """What a test says about its cluster. ``None``: the seed decides.

    ``seeds``: one run each. ``nodes``: 1 to ``NODES_MAX`` voters. ``clients``: how many at once. ``faults``:
    the kinds that may happen, by name. ``seconds``: how long the cluster is under fire, in virtual seconds.
    ``pure``: reading the clock or drawing chance while executing is a failure. ``repeat``: execute the first
    seed's commands again in another process, under another hash seed.
    """

    seeds: tuple[int, ...] = tuple(SEEDS)
    nodes: int | None = None
    clients: int | None = None
    faults: tuple[FaultKind, ...] | None = None
    seconds: float = SECONDS
    pure: bool = True
    repeat: bool = True

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Self:
        """From the arguments of a marker. Raises :class:`ValueError`, which says what is wrong with which."""
        unknown = sorted(given.keys() - {*cls.__slots__})
        if unknown:
            raise ValueError(f"{', '.join(unknown)}: unknown; there are {', '.join(cls.__slots__)}")
        values = dict(given)
        if "seeds" in values:
            values["seeds"] = seeds_of(values["seeds"])
        if values.get("faults") is not None:
            values["faults"] = kinds_of(values["faults"])
        for name, most in (("nodes", NODES_MAX), ("clients", CLIENTS_MAX)):
            value = values.get(name)
            if value is not None and (type(value) is not int or not 1 <= value <= most):
                raise ValueError(f"{name}={value!r}: a number from 1 to {most}")
        seconds = values.get("seconds", SECONDS)
        if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0.5 <= seconds <= 3600:
            raise ValueError(f"seconds={seconds!r}: a number from 0.5 to 3600, of virtual seconds")
        return cls(**values)


def seeds_of(value: object) -> tuple[int, ...]:
    """Seeds from a count, ``"A:B"`` (from A up to but not B), or a sequence. Raises :class:`ValueError`."""
    seeds: Iterable[Any] | None = None
    if type(value) is int:
        seeds = range(value)
    elif isinstance(value, str):
        first, colon, end = value.partition(":")
        try:
            seeds = range(int(first), int(end)) if colon else (int(first),)
        except ValueError:
            seeds = None
    elif isinstance(value, Iterable):
        seeds = value if isinstance(value, range) else tuple(value)
    if isinstance(seeds, range) and seeds.stop - seeds.start > SEEDS_MAX:
        raise ValueError(f"seeds={value!r:.60}: more than {SEEDS_MAX:,}, and each is a test")
    if seeds is None or not (chosen := tuple(seeds)) or any(type(s) is not int or s < 0 for s in chosen):
        raise ValueError(
            f"seeds={value!r:.60}: how many there are, 'A:B' (from A up to but not B), or a list"
        )
    return tuple(dict.fromkeys(chosen))


def kinds_of(value: object) -> tuple[FaultKind, ...]:
    """Kinds of faults by name. Raises :class:`ValueError`."""
    possible = ", ".join(KINDS)
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise ValueError(f"faults={value!r}: a list of names; there are {possible}")
    names = [str(name) for name in value]
    wrong = [name for name in names if name not in set(map(str, KINDS))]
    if wrong:
        raise ValueError(f"faults={value!r}: {', '.join(wrong)} cannot happen here; there are {possible}")
    return tuple(FaultKind(name) for name in dict.fromkeys(names))


def draw(seed: int, settings: Settings) -> Scenario:
    """The scenario of ``seed``. Its faults do not depend on ``seconds`` staying as they are."""
    base = Scenario.draw_fixed(seed, seconds=settings.seconds)
    generator = random.Random(f"{seed}/trial")
    nodes = base.nodes
    if settings.nodes is not None:
        nodes = tuple(f"n{i}" for i in range(1, settings.nodes + 1))
    clients = settings.clients or base.load.clients
    near = {f"c{i}": generator.choice(nodes) for i in range(1, clients + 1) if generator.random() < 0.5}
    workers = base.load.workers
    load = replace(base.load, clients=clients, near=near, pause_s=clients * workers / 40.0)
    return replace(base, nodes=nodes, load=load, plan=_plan(generator, base, nodes, settings))


def _plan(generator: random.Random, base: Scenario, nodes: tuple[str, ...], settings: Settings) -> FaultPlan:
    kinds = settings.faults
    if kinds is None:
        kinds = tuple(kind for kind in KINDS if generator.random() < 0.35) or (FaultKind.KILL,)
    return FaultPlan.draw(
        generator,
        nodes,
        seconds=base.seconds,
        patience_s=base.patience_s * generator.choice((1.0, 3.0)),
        kinds=kinds,
        count=generator.choice((4, 8, 16)),
        fragile=generator.sample(nodes, (len(nodes) - 1) // 2),
    )
