"""``failover``: from the SIGKILL of the leader to the first new commit, as a client sees it.

A probe writes keys, one after the other, all the time. The leader's process is killed at a random
moment, and a put is begun at once. The figure is the time from just before the kill to the completion
of the first put that was begun after it. Then the node is started again, and the next trial begins when it
has caught up. In the end every node is asked for every key that was acknowledged.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Final

from mcp.cli.demo.workload import Write
from mcp.errors import DeadlineExceeded
from simulations.benchmarks import rivals_failover
from simulations.benchmarks.cluster import Bench, bench, timed_write
from simulations.benchmarks.figures import Bar, Figure, Report
from simulations.benchmarks.progress import Steps

NODES: Final = 3
MEDIAN_MS_MAX: Final = 300.0
WORST_MS_MAX: Final = 800.0
PROBE_PAUSE_S: Final = 0.002
LOAD_S: Final = (0.2, 0.7)
"""How long the probe writes before the kill: at random, so that no phase of a heartbeat is preferred."""


@dataclass(frozen=True, slots=True)
class Size:
    """How many trials."""

    trials: int
    rivals_trials: int = 0


FULL: Final = Size(30, rivals_trials=10)
QUICK: Final = Size(3, rivals_trials=2)


async def measure(size: Size, steps: Steps) -> Report:
    """Run the suite."""
    steps.begin("failover", size.trials)
    async with bench(NODES) as made:
        probe = Probe(made)
        random = made.clock.random()
        trials_s: list[float] = []
        for _ in range(size.trials):
            trials_s.append(await trial(made, probe, random.uniform(*LOAD_S)))
            steps.done()
        wrong = await made.wrong(probe.writes)
    acknowledged = sum(write.acknowledged_at is not None for write in probe.writes)
    figure = Figure.of_trials("kill to first new commit", trials_s)
    worst = Figure.of_trials("the worst trial", [max(trials_s)])
    rivals, missing = await rivals_failover.measure(size.rivals_trials, steps)
    return Report(
        "failover",
        [figure, worst, *(Figure.of_trials(name, durations) for name, durations in rivals.items())],
        [
            Bar(figure, MEDIAN_MS_MAX, "SIGKILL of the leader to the first new commit, default settings"),
            Bar(worst, WORST_MS_MAX, "the same, the worst trial"),
        ],
        wrong,
        {"nodes": NODES, "trials": size.trials, "acknowledged": acknowledged},
        missing=missing,
    )


@dataclass(slots=True)
class Probe:
    """Writes keys, each of its own, one after the other while it runs."""

    made: Bench
    writes: list[Write] = field(default_factory=list)
    stopping: bool = False

    async def run(self) -> None:
        """Write until ``stopping`` is set."""
        while not self.stopping:
            await self.write()
            await asyncio.sleep(PROBE_PAUSE_S)

    async def write(self) -> Write:
        """Write one key."""
        number = len(self.writes)
        return await timed_write(self.made, self.writes, f"probe/{number:06d}", f"value {number}")

    def first_commit_after(self, moment: float) -> float | None:
        """When the first write was acknowledged that was begun at ``moment`` or later."""
        times = (write.acknowledged_at for write in self.writes if write.begun_at >= moment)
        return min((time for time in times if time is not None), default=None)


async def trial(made: Bench, probe: Probe, load_s: float) -> float:
    """Kill whoever leads, under load; the seconds until a put that was begun afterwards is committed."""
    leader = (await made.calm()).leader
    assert leader is not None
    victim = made.cluster.nodes[leader]
    probe.stopping = False
    async with asyncio.TaskGroup() as group:
        group.create_task(probe.run())
        await asyncio.sleep(load_s)
        killed_at = made.clock.monotonic()
        group.create_task(victim.kill())
        await asyncio.sleep(0)  # the signal is sent in the task's first step
        write = await probe.write()
        probe.stopping = True
    first = probe.first_commit_after(killed_at)
    if first is None:
        raise DeadlineExceeded(f"no put succeeded after {leader} was killed: {write.error}")
    await victim.start()
    await made.calm()
    return first - killed_at
