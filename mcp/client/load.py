"""How long a node would take for one more call, and whether it is to be spared altogether.

Pure: time is an argument. A call that is sent now is answered when those before it are: so a node's expected
time is its time for each place in its queue, times the places. The first is learned from the answers (how
long each took, divided by the places that there were when it was sent); the second is what the node said
last of its queue, which holds other clients' calls too, and what this client has sent since. Nodes that say
nothing are judged by this client's own calls. The idea that answers carry the queue is that of Suresh et al.,
"C3: Cutting Tail Latency in Cloud Data Stores via Adaptive Replica Selection", NSDI 2015.

What was said, and what was measured, counts half as much after a while: a queue empties, and a node that was
slow once is tried again.

A node is an *outlier* if it takes several times as long as the others in the middle, or if its answers are
mostly faults of its own and theirs are not. The second matters more than it seems: a node that fails does so
fast, looks idle, and would draw all calls to itself. Never more than half of the nodes are outliers: if most
are slow or failing, then that is how things are.
"""

from __future__ import annotations

import statistics
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

Node = TypeVar("Node", bound=Hashable)


@dataclass(frozen=True, slots=True)
class LoadLimits:
    """How measurements are smoothed and forgotten, and what is an outlier."""

    weight: float = 0.2
    """How much one new measurement counts in the smoothed time."""
    half_life_s: float = 5.0
    """What was measured is believed half as much after this time without a new measurement."""
    queue_half_life_s: float = 0.1
    """What a node said of its queue is taken for half of it after this time."""
    time_min_s: float = 0.0001
    slow_factor: float = 4.0
    """An outlier takes more than so many times what the other nodes in the middle do,"""
    slow_min_s: float = 0.02
    """and more than this."""
    fault_weight: float = 0.2
    fault_share: float = 0.5
    """An outlier fails in more than this share of its latest answers,"""
    fault_share_others: float = 0.2
    """and the other nodes in the middle in no more than this."""


class Load:
    """One kind of calls at one node."""

    __slots__ = ("_limits", "_measured_at", "_sent_since", "_time_s", "_told", "_told_at", "in_flight")

    def __init__(self, limits: LoadLimits) -> None:
        self._limits = limits
        self.in_flight = 0
        """This client's calls that have no answer yet."""
        self._time_s: float | None = None
        self._measured_at = 0.0
        self._told = 0
        self._told_at = 0.0
        self._sent_since = 0

    def sent(self, now: float) -> float:
        """A call is sent; gives how many were before it, for :meth:`answered`."""
        ahead = self.ahead(now)
        self.in_flight += 1
        self._sent_since += 1
        return ahead

    def ended(self) -> None:
        """A call is answered or given up."""
        self.in_flight = max(0, self.in_flight - 1)

    def answered(self, now: float, elapsed_s: float, ahead: float, queue: int | None = None) -> None:
        """A call took ``elapsed_s`` behind ``ahead`` others; the node has ``queue`` now, if it said so."""
        self.measured(now, elapsed_s / (ahead + 1))
        if queue is not None:
            self._told, self._told_at, self._sent_since = queue, now, 0

    def measured(self, now: float, time_s: float) -> None:
        """A place in the queue takes so long."""
        if self._time_s is None:
            self._time_s = time_s
        else:
            self._time_s += self._limits.weight * (time_s - self._time_s)
        self._measured_at = now

    def ahead(self, now: float) -> float:
        """How many calls are before one that is sent now, as far as can be known."""
        if not self._told:
            return self.in_flight
        faded: float = self._told * 0.5 ** (max(0.0, now - self._told_at) / self._limits.queue_half_life_s)
        return max(self.in_flight, faded + self._sent_since)

    def time_s(self, now: float) -> float | None:
        """What a place in the queue takes, or ``None`` if that was never measured."""
        if self._time_s is None:
            return None
        idle_s = max(0.0, now - self._measured_at)
        faded: float = self._time_s * 0.5 ** (idle_s / self._limits.half_life_s)
        return max(self._limits.time_min_s, faded)


class Faults:
    """What share of a node's latest answers were faults of its own."""

    __slots__ = ("_at", "_limits", "_share")

    def __init__(self, limits: LoadLimits) -> None:
        self._limits = limits
        self._share = 0.0
        self._at = 0.0

    def answered(self, now: float, *, fault: bool) -> None:
        """An answer came, or a call was overtaken by its time, which is a fault."""
        if fault or self._share:
            self._share += self._limits.fault_weight * (fault - self._share)
            self._at = now

    def share(self, now: float) -> float:
        """The share now, 0 to 1."""
        if not self._share:
            return 0.0
        faded: float = self._share * 0.5 ** (max(0.0, now - self._at) / self._limits.half_life_s)
        return faded


class Standing(NamedTuple):
    """How a node does: what a place in its queue takes, if that is known, and its share of faults."""

    time_s: float | None
    faults: float


def outliers(nodes: Mapping[Node, Standing], limits: LoadLimits) -> frozenset[Node]:
    """Which of ``nodes`` to spare; the worst first, and no more than half of them."""
    found: list[tuple[float, float, Node]] = []
    for node, own in nodes.items():
        others = [standing for other, standing in nodes.items() if other != node]
        if not others:
            return frozenset()
        times = [other.time_s for other in others if other.time_s is not None]
        slow = bool(times) and own.time_s is not None and own.time_s > limits.slow_min_s
        slow = slow and (own.time_s or 0.0) > limits.slow_factor * statistics.median(times)
        failing = own.faults > limits.fault_share
        failing = failing and statistics.median([o.faults for o in others]) <= limits.fault_share_others
        if slow or failing:
            found.append((own.faults if failing else 0.0, own.time_s or 0.0, node))
    found.sort(key=lambda each: each[:2], reverse=True)
    return frozenset(node for _, _, node in found[: len(nodes) // 2])
