"""``disturbance``: one of three nodes is killed under clients that ask for inferences, as they see it.

Sixteen clients, each with connections of its own, ask for one digit at a time, each again as soon as it has
its answer. A node, chosen at random, is sent SIGKILL; then it is started again and the next trial begins when
it has caught up. The *disturbance* of a trial is the longest time that any client had to wait for an answer
among the requests that were under way at the kill or begun in the seconds after it: what a user of the
unluckiest client would have felt. An inference that failed counts as wrong: two nodes were there to answer
it, and it may be asked for again without harm.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from mcp.cli.demo.digits import Digits, load_digits
from mcp.client.client import Client
from mcp.errors import McpError
from simulations.benchmarks.cluster import CALL_TIMEOUT_S, Bench, bench
from simulations.benchmarks.figures import Bar, Figure, Report
from simulations.benchmarks.in_process import InProcess, Outputs, equal
from simulations.benchmarks.progress import Steps

NODES: Final = 3
CLIENTS: Final = 16
MODEL: Final = "digits"
BOUND_MS: Final = 500.0
LOAD_S: Final = (0.2, 0.7)
"""How long the clients ask before the kill: at random, so that no phase of anything is preferred."""
AFTER_S: Final = 2.0
"""For how long after the kill requests are looked at."""
SCANS: Final = 64


@dataclass(frozen=True, slots=True)
class Size:
    """How many trials, with how many clients, and for how long after each kill."""

    trials: int
    clients: int = CLIENTS
    after_s: float = AFTER_S


FULL: Final = Size(30)
QUICK: Final = Size(3, after_s=1.0)


@dataclass(slots=True)
class Watch:
    """What the clients of one trial saw: (begun at, seconds) of each request, what failed, what was wrong."""

    requests: list[tuple[float, float]] = field(default_factory=list)
    failed: Counter[str] = field(default_factory=Counter)
    wrong: Counter[str] = field(default_factory=Counter)
    stopping: bool = False

    def longest_after(self, moment: float) -> float:
        """The longest of the requests that were not over at ``moment``, in seconds."""
        return max((took for begun, took in self.requests if begun + took >= moment), default=0.0)

    def longest_before(self, moment: float) -> float:
        """The longest of those that were."""
        return max((took for begun, took in self.requests if begun + took < moment), default=0.0)


async def measure(size: Size, steps: Steps) -> Report:
    """Run the suite."""
    steps.begin("disturbance", size.trials)
    digits, generator = load_digits(), random.Random(5)
    own = InProcess(digits.model)
    expected = [own.infer(scan[np.newaxis]) for scan in digits.images[:SCANS]]
    after_s, before_s, answered = [], [], 0
    wrong: Counter[str] = Counter()
    leaders = 0
    async with bench(NODES) as made, AsyncExitStack() as stack:
        await made.client.deploy(MODEL, digits.model)
        clients = [
            await stack.enter_async_context(
                Client(made.cluster.addresses, cluster_key=made.cluster.key, timeout_s=CALL_TIMEOUT_S)
            )
            for _ in range(size.clients)
        ]
        for _ in range(size.trials):
            leader = (await made.calm()).leader
            victim = generator.choice(sorted(made.cluster.nodes))
            leaders += victim == leader
            watch, killed_at = await trial(made, clients, digits, expected, victim, size, generator)
            after_s.append(watch.longest_after(killed_at))
            before_s.append(watch.longest_before(killed_at))
            answered += len(watch.requests)
            wrong += watch.failed + watch.wrong
            steps.done()
    longest = Figure.of_trials("the longest wait at and after a SIGKILL", after_s)
    worst = Figure.of_trials("the worst trial", [max(after_s)])
    usual = Figure.of_trials("the longest wait before it", before_s)
    why = f"one of {NODES} nodes killed under {size.clients} clients: the longest that any of them waited"
    return Report(
        "disturbance",
        [longest, worst, usual],
        [Bar(worst, BOUND_MS, why)],
        [f"{count} times: {what}" for what, count in wrong.items()],
        {"nodes": NODES, "clients": size.clients, "trials": size.trials, "leaders_killed": leaders}
        | {"answered": answered},
    )


async def trial(
    made: Bench,
    clients: list[Client],
    digits: Digits,
    expected: list[Outputs],
    victim: str,
    size: Size,
    generator: random.Random,
) -> tuple[Watch, float]:
    """Kill a node under load; what the clients saw, and when it was killed."""
    watch = Watch()
    async with asyncio.TaskGroup() as group:
        for number, client in enumerate(clients):
            group.create_task(ask(made, client, digits, expected, number, watch))
        await asyncio.sleep(generator.uniform(*LOAD_S))
        killed_at = made.clock.monotonic()
        await made.cluster.nodes[victim].kill()
        await asyncio.sleep(size.after_s)
        watch.stopping = True
    await made.cluster.nodes[victim].start()
    await made.calm()
    return watch, killed_at


async def ask(
    made: Bench, client: Client, digits: Digits, expected: list[Outputs], number: int, watch: Watch
) -> None:
    """Ask for one scan after the other until ``watch.stopping``, and compare the answers."""
    while not watch.stopping:
        place = number % len(expected)
        begun = made.clock.monotonic()
        try:
            answer = await client.infer(MODEL, digits.images[place][np.newaxis])
        except McpError as error:
            watch.failed[f"{error.code}: {error.message}"[:200]] += 1
        else:
            if not equal(answer.outputs, expected[place]):
                watch.wrong[f"scan {place} was answered wrongly"] += 1
        watch.requests.append((begun, made.clock.monotonic() - begun))
        number += 1
