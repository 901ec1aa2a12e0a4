"""One lone durable command at a time, against what it cannot do without.

A client in this process, with its connections open, puts a key of its own with a value of 20 bytes, and
waits for the acknowledgement before it puts the next one: no batching helps. A command needs at least
one round trip between client and leader, one between leader and a follower, and one fdatasync each of
leader and follower, which overlap. The yardstick is one fdatasync and one round trip, both measured in
the same round; beside it stands the bare chain, which is what these steps cost in the same four processes
when nothing has to be decided, checked or kept (:mod:`simulations.benchmarks.chain`). What the processes
work for a command is measured too: all of it together, shared by the machine's cores, is a floor that no
overlapping gets under.
"""

from __future__ import annotations

import os
import statistics
from dataclasses import dataclass, field
from typing import Final

from mcp.cli.demo.workload import Write
from simulations.benchmarks.chain import chain
from simulations.benchmarks.cluster import Bench, bench, timed_write
from simulations.benchmarks.disk import RECORD_BYTES, measure_syncs
from simulations.benchmarks.echo import RoundTrips, echo_process
from simulations.benchmarks.figures import Bar, Figure, Report
from simulations.benchmarks.processor_time import process_s
from simulations.benchmarks.progress import Steps

NODES: Final = 3
VALUE_BYTES: Final = 20
RATIO_MAX: Final = 5.0


@dataclass(frozen=True, slots=True)
class Size:
    """Rounds, and how often each thing is done in a round."""

    rounds: int
    samples: int
    warm_up: int


FULL: Final = Size(rounds=9, samples=200, warm_up=200)
QUICK: Final = Size(rounds=5, samples=40, warm_up=40)


@dataclass(frozen=True, slots=True)
class Work:
    """Processor time in seconds, of the program and of the system for it."""

    leader: float
    followers: float
    client: float

    def per(self, before: Work, count: int) -> Work:
        """What has come since ``before``, for each of ``count``."""
        return Work(
            (self.leader - before.leader) / count,
            (self.followers - before.followers) / count,
            (self.client - before.client) / count,
        )

    @property
    def together(self) -> float:
        """Of all processes."""
        return self.leader + self.followers + self.client


@dataclass(slots=True)
class Rounds:
    """Durations in seconds, by round."""

    commands: list[list[float]] = field(default_factory=list)
    syncs: list[list[float]] = field(default_factory=list)
    trips: list[list[float]] = field(default_factory=list)
    chains: list[list[float]] = field(default_factory=list)
    works: list[Work] = field(default_factory=list)

    def ratios(self, of: list[list[float]]) -> list[float]:
        """Of each round: these against one sync and one round trip."""
        medians = [list(map(statistics.median, each)) for each in (of, self.syncs, self.trips)]
        return [duration / (sync + trip) for duration, sync, trip in zip(*medians, strict=True)]


async def measure(size: Size, steps: Steps) -> Report:
    """Run the suite."""
    steps.begin("commit", size.rounds)
    rounds, writes = Rounds(), list[Write]()
    async with bench(NODES) as made, echo_process() as trips, chain(made.cluster.folder) as bare:
        await put_one_by_one(made, writes, size.warm_up)
        await trips.measure(size.warm_up)
        await bare.measure(size.warm_up)
        for _ in range(size.rounds):
            await one_round(made, trips, bare, rounds, writes, size.samples)
            steps.done()
        wrong = await made.wrong(writes)
    works, cores = rounds.works, os.cpu_count() or 1
    ratio = Figure.of_ratios("command / (fdatasync + round trip)", rounds.ratios(rounds.commands))
    return Report(
        "commit",
        [
            Figure.of_rounds("command", rounds.commands),
            Figure.of_rounds(f"fdatasync of {RECORD_BYTES} B", rounds.syncs),
            Figure.of_rounds("loopback round trip", rounds.trips),
            Figure.of_rounds("the bare chain", rounds.chains),
            ratio,
            Figure.of_ratios("bare chain / (fdatasync + round trip)", rounds.ratios(rounds.chains)),
            Figure.of_trials("work of the leader", [work.leader for work in works], "us"),
            Figure.of_trials("work of the followers", [work.followers for work in works], "us"),
            Figure.of_trials("work of the client", [work.client for work in works], "us"),
            Figure.of_trials(f"all work / {cores} cores", [work.together / cores for work in works], "us"),
        ],
        # A process that waits for its disk waits for its turn on a core too: on a busy machine a sync takes
        # a scheduler's period, whatever the disk does, and every command looks fast beside it.
        [
            Bar(
                ratio,
                RATIO_MAX,
                "one lone durable command, three nodes on loopback, fsync on",
                needs_quiet=True,
            )
        ],
        wrong,
        {"nodes": NODES, "value_bytes": VALUE_BYTES, "acknowledged": len(writes)},
    )


async def one_round(
    made: Bench, trips: RoundTrips, bare: RoundTrips, rounds: Rounds, writes: list[Write], samples: int
) -> None:
    """Measure each thing in turn."""
    rounds.syncs.append(measure_syncs(made.cluster.folder, samples))
    leader = (await made.calm()).leader  # of both looks: another one's past is not this one's work
    before = worked(made, leader)
    rounds.commands.append(await put_one_by_one(made, writes, samples))
    rounds.works.append(worked(made, leader).per(before, samples))
    rounds.trips.append(await trips.measure(samples))
    rounds.chains.append(await bare.measure(samples))


def worked(made: Bench, leader: str | None) -> Work:
    """The processor time of every process up to now, of a cluster that ``leader`` leads."""
    nodes = {name: process_s(node.pid or 0) for name, node in made.cluster.nodes.items()}
    followers = sum(spent for name, spent in nodes.items() if name != leader)
    return Work(sum(nodes.values()) - followers, followers, process_s(os.getpid()))


async def put_one_by_one(made: Bench, writes: list[Write], count: int) -> list[float]:
    """Durations of ``count`` puts in seconds. Raises what a put raised."""
    durations = []
    for _ in range(count):
        number = len(writes)
        write = await timed_write(made, writes, f"commit/{number:06d}", f"{number:0{VALUE_BYTES}d}")
        if write.acknowledged_at is None:
            assert write.error is not None
            raise write.error
        durations.append(write.acknowledged_at - write.begun_at)
    return durations
