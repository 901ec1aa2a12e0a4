"""One run: a fleet, a load, a strategy, and how long every request took.

Each scheduler knows what it sent itself, what the answers say and what the nodes report now and then, which
arrives late: so what several schedulers know is old, and what one of them sends the others learn late.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random
from typing import Final

from mcp.cluster.outcome import Outcome
from mcp.cluster.scheduler.interface import Request
from mcp.cluster.scheduler.load_report import LoadReport
from mcp.cluster.scheduler.strategies import SchedulerSettings, Strategies
from mcp.errors import Busy
from simulations.benchmarks.figures import percentile
from simulations.scheduling.fleet import FLEETS, Node
from simulations.world import World

MODEL: Final = "digits"
HOP_S: Final = 0.0005
"""How long a message is under way."""

WARM_UP_S: Final = 1.0
"""What arrives before this is not counted."""

DRAIN_S: Final = 30.0
"""What is not answered so long after the last arrival never is."""

BURST_EVERY_S: Final = 2.5
BURST_S: Final = 0.25
BURST_FACTOR: Final = 2.0
"""In every so many seconds, so many have so many times as many requests."""

SIZES: Final = ((0.7, 1, 4), (0.25, 8, 32), (0.05, 64, 128))
"""Shares of the requests, and from how many rows to how many they have."""

MEAN_ROWS: Final = sum(share * (least + most) / 2 for share, least, most in SIZES)


@dataclass(frozen=True, slots=True)
class Trial:
    """What to run. ``rate`` is requests a second outside the bursts, of all schedulers together."""

    fleet: str
    settings: SchedulerSettings
    rate: float
    seed: int
    schedulers: int = 1
    report_every_s: float = 0.5
    report_delay_s: float = 0.1
    seconds: float = 20.0


@dataclass(slots=True)
class Latencies:
    """How long the counted requests took, in seconds; the refused and unanswered ones for ever."""

    taken_s: list[float] = field(default_factory=list)
    refused: int = 0
    by_node: dict[str, int] = field(default_factory=dict)

    def at(self, share: float) -> float:
        """A percentile, in seconds."""
        return percentile(self.taken_s, share) if self.taken_s else math.inf

    def throughput(self, seconds: float) -> float:
        """Answers to the counted requests, per second of their arrivals."""
        return sum(taken_s < math.inf for taken_s in self.taken_s) / seconds


class _Run:
    def __init__(self, trial: Trial) -> None:
        self.trial = trial
        self.world = World(trial.seed)
        slow = (trial.seconds / 4, 3 * trial.seconds / 4)
        self.nodes = {
            f"n{number}": Node(self.world, f"n{number}", kind, slow)
            for number, kind in enumerate(FLEETS[trial.fleet])
        }
        self.names = tuple(self.nodes)
        self.schedulers = [Strategies(trial.settings) for _ in range(trial.schedulers)]
        self.random = self.world.stream("schedulers")
        self.arrived: dict[str, float] = {}
        self.found = Latencies(by_node=dict.fromkeys(self.names, 0))

    def go(self) -> Latencies:
        load = self.world.stream("load")
        for number, at in enumerate(arrivals(self.trial.rate, self.trial.seconds, load)):
            request = Request(f"r{number}", MODEL, size_drawn(load))
            scheduler = load.randrange(len(self.schedulers))
            self.world.at(at, self.arrive, self.schedulers[scheduler], request)
        stagger = self.world.stream("reports")
        for node in self.nodes.values():
            self.world.at(stagger.random() * self.trial.report_every_s, self.report, node)
        self.world.run(self.trial.seconds + DRAIN_S)
        self.found.taken_s += [math.inf] * sum(at >= WARM_UP_S for at in self.arrived.values())
        return self.found

    def arrive(self, scheduler: Strategies, request: Request) -> None:
        self.arrived[request.id] = self.world.now
        try:
            node = scheduler.choose(self.names, request, self.world.now, self.random).node
        except Busy:
            self.found.refused += 1
            self.count(request, math.inf)
            return
        if node is not None:
            self.send(scheduler, node, request)

    def count(self, request: Request, taken_s: float) -> None:
        if self.arrived.pop(request.id) >= WARM_UP_S:
            self.found.taken_s.append(taken_s)

    def send(self, scheduler: Strategies, node: str, request: Request) -> None:
        sent_at = self.world.now
        self.found.by_node[node] += 1
        scheduler.started(node, request, sent_at)

        def answer(service_s: float) -> None:
            self.world.after(HOP_S, self.answered, scheduler, node, request, sent_at, service_s)

        self.world.after(HOP_S, self.nodes[node].arrive, request, answer)

    def answered(
        self, scheduler: Strategies, node: str, request: Request, sent_at: float, service_s: float
    ) -> None:
        now = self.world.now
        scheduler.finished(node, request, Outcome.ANSWERED, now - sent_at, now, service_s=service_s)
        self.count(request, now - self.arrived[request.id])
        self.hand_out(scheduler)

    def hand_out(self, scheduler: Strategies) -> None:
        while scheduler.waiting and (
            found := scheduler.next(lambda _: self.names, self.world.now, self.random)
        ):
            request, choice = found
            assert choice.node is not None
            self.send(scheduler, choice.node, request)

    def report(self, node: Node) -> None:
        report = node.report(MODEL).older_by(self.trial.report_delay_s)
        for scheduler in self.schedulers:
            self.world.after(self.trial.report_delay_s, self.observed, scheduler, node.name, report)
        if self.world.now < self.trial.seconds + DRAIN_S / 2:
            self.world.after(self.trial.report_every_s, self.report, node)

    def observed(self, scheduler: Strategies, name: str, report: LoadReport) -> None:
        scheduler.observed(name, report, self.world.now)
        self.hand_out(scheduler)


def run(trial: Trial) -> Latencies:
    """Run it. The same trial gives the same latencies, in every process."""
    return _Run(trial).go()


def arrivals(rate: float, seconds: float, random: Random) -> Iterator[float]:
    """When requests arrive: independently of each other, and more of them in the bursts."""
    at = 0.0
    while True:
        bursting = at % BURST_EVERY_S >= BURST_EVERY_S - BURST_S
        at += random.expovariate(rate * (BURST_FACTOR if bursting else 1.0))
        if at >= seconds:
            return
        yield at


def size_drawn(random: Random) -> int:
    """How many rows a request has."""
    drawn = random.random()
    for share, least, most in SIZES:
        if drawn < share:
            return random.randint(least, most)
        drawn -= share
    return SIZES[-1][2]
