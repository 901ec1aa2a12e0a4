"""The figures: how long it takes to agree, and what it costs to know."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from mcp.cluster.gossip.events import EventKind
from mcp.cluster.gossip.limits import DEFAULT_LIMITS, GossipLimits
from mcp.cluster.gossip.updates import State
from simulations.faults import FaultKind
from simulations.gossip.cluster import GossipCluster

STEP_S: Final = 0.02
"""How closely is looked whether something has come about."""
WAIT_MAX_S: Final = 120.0
"""After so long it is taken for never."""
SETTLED_S: Final = 5.0
"""What is left of news when views are equal is sent within this."""
LOAD_EVERY_S: Final = 1.0
"""How often each node's load changes while the cost at rest is measured."""


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure and its bar. ``value`` must not be above ``at_most``, where there is one."""

    name: str
    value: float
    unit: str
    at_most: float | None = None

    @property
    def met(self) -> bool:
        """Whether the bar holds."""
        return self.at_most is None or self.value <= self.at_most

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "name": self.name,
            "value": round(self.value, 3),
            "unit": self.unit,
            "at_most": self.at_most,
            "met": self.met,
        }


def settled(
    seed: int, nodes: int, *, loss: float = 0.0, delay_s: float = 0.002, limits: GossipLimits = DEFAULT_LIMITS
) -> tuple[GossipCluster, float]:
    """A cluster that all nodes entered by one seed address, and how long that took."""
    cluster = GossipCluster(seed, nodes, delay_s=delay_s, limits=limits)
    if loss:
        cluster.everywhere(FaultKind.LOSS, loss)
    cluster.start_all(["n00"])
    entry_s = until(cluster, lambda: len(cluster.running()) == nodes and cluster.views_are_equal())
    cluster.world.run(cluster.world.now + SETTLED_S)
    cluster.check()
    return cluster, entry_s


def until(cluster: GossipCluster, holds: Callable[[], bool], step_s: float = STEP_S) -> float:
    """Let time pass until it holds; for how long. Infinite: it never did."""
    begun = cluster.world.now
    while not holds():
        if cluster.world.now - begun > WAIT_MAX_S:
            return float("inf")
        cluster.world.run(cluster.world.now + step_s)
    return cluster.world.now - begun


def crash_known_s(cluster: GossipCluster, name: str) -> float:
    """How long it takes until every node has a crashed one for dead. It is started again afterwards."""
    cluster.world.run(cluster.world.now + cluster.world.stream(f"crash {name}").random())
    cluster.crash(name)
    took_s = until(cluster, lambda: cluster.all_see(name, State.DEAD))
    cluster.world.run(cluster.world.now + SETTLED_S)
    cluster.start(name, ["n00" if name != "n00" else "n01"])
    until(cluster, cluster.views_are_equal)
    cluster.check()
    return took_s


def at_rest(cluster: GossipCluster, seconds: float) -> dict[str, float]:
    """What each node sends in a second while nothing happens but that loads change, headers included."""
    ends_at = cluster.world.now + seconds

    def change(name: str, queue: int) -> None:
        core = cluster.hosts[name].core
        if core is not None and cluster.world.now < ends_at:
            core.set_load({"queue": queue, "ms": 1.5 + queue, "cpu": 0.25})
            cluster.world.after(LOAD_EVERY_S, change, name, (queue + 7) % 100)

    for place, name in enumerate(cluster.hosts):
        cluster.world.after(LOAD_EVERY_S * place / len(cluster.hosts), change, name, place)
    before = cluster.sent_bytes()
    cluster.world.run(ends_at)
    return {name: (sent - before[name]) / seconds for name, sent in cluster.sent_bytes().items()}


def healed_s(cluster: GossipCluster, parted_s: float) -> float:
    """How long two halves that took each other for dead need until all views are equal again."""
    names = sorted(cluster.hosts)
    cluster.part(names[: len(names) // 2])
    cluster.world.run(cluster.world.now + parted_s)
    cluster.network.heal()
    took_s = until(cluster, cluster.views_are_equal)
    cluster.check()
    return took_s


def entry_figures(seeds: Sequence[int], nodes: int) -> list[Figure]:
    """From the first start to equal views, the worst of these seeds."""
    return [Figure("entry", max(settled(seed, nodes)[1] for seed in seeds), "s", 5.0)]


def crash_figures(seeds: Sequence[int], nodes: int, crashes: int, loss: float = 0.0) -> list[Figure]:
    """From a crash to its being known everywhere."""
    took: list[float] = []
    for seed in seeds:
        cluster, _ = settled(seed, nodes, loss=loss)
        draws = cluster.world.stream("victims")
        took += [crash_known_s(cluster, draws.choice(sorted(cluster.hosts))) for _ in range(crashes)]
    suffix = f" at {loss:.0%} loss" if loss else ""
    return [
        Figure(f"crash known everywhere{suffix}, mean", sum(took) / len(took), "s"),
        Figure(f"crash known everywhere{suffix}, worst of {len(took)}", max(took), "s", 3.0),
    ]


def rest_figures(seed: int, nodes: int, seconds: float) -> list[Figure]:
    """What gossip costs while nothing happens."""
    rates = at_rest(settled(seed, nodes)[0], seconds).values()
    return [
        Figure("sent at rest, mean of the nodes", sum(rates) / len(rates), "B/s"),
        Figure("sent at rest, most of a node", max(rates), "B/s", 1500.0),
    ]


def healing_figures(seeds: Sequence[int], nodes: int, parted_s: float) -> list[Figure]:
    """After a partition into two halves."""
    took = [healed_s(settled(seed, nodes)[0], parted_s) for seed in seeds]
    return [Figure(f"views equal after {parted_s:g} s in two halves", max(took), "s", 30.0)]


def loss_figures(seed: int, nodes: int, loss: float, seconds: float) -> list[Figure]:
    """Nobody fails, and datagrams get lost."""
    cluster, _ = settled(seed, nodes, loss=loss)
    cluster.counts.clear()
    rates = at_rest(cluster, seconds).values()
    cluster.check()
    suspicions = cluster.counts[EventKind.SUSPECTED] / max(1, nodes - 1)
    return [
        Figure(f"false deaths in {seconds:g} s at {loss:.0%} loss", float(cluster.false_deaths), "", 0.0),
        Figure(f"suspicions, all refuted, in {seconds:g} s at {loss:.0%} loss", suspicions, ""),
        Figure(f"sent at {loss:.0%} loss, mean of the nodes", sum(rates) / len(rates), "B/s"),
    ]
