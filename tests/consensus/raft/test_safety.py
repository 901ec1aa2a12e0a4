"""Randomised runs: the seed draws the faults, and Raft's promises are checked after every step.

`World` checks Election Safety, Leader Completeness, State Machine Safety and that what is committed
is on a majority of disks. Every run ends with healing, and then everything must get through.
"""

from __future__ import annotations

import contextlib
import random

import pytest
from raft_world import Node, World

from consensus.errors import Busy
from consensus.raft import RaftConfig

TIGHT = RaftConfig(append_entries_max=8, appends_in_flight_max=4)


class Storm:
    """A schedule of faults, drawn from one seed."""

    def __init__(self, seed: int) -> None:
        rng = self.random = random.Random(seed)
        world = self.world = World(rng.choice([3, 3, 5]), seed=seed, config=TIGHT)
        world.reorder = rng.random() < 0.6
        world.drop_rate = rng.choice([0.0, 0.02, 0.1])
        world.duplicate_rate = rng.choice([0.0, 0.1, 0.3])
        world.crash_rate = rng.choice([0.0, 0.001, 0.01])
        self.proposed: set[bytes] = set()

    def blow(self, steps: int) -> None:
        for _ in range(steps):
            action = self.random.choices(
                [
                    self.propose,
                    self.cut,
                    self.world.heal,
                    self.kill,
                    self.revive,
                    self.snapshot,
                    self.read,
                    self.hand_over,
                ],
                weights=[45, 7, 10, 6, 12, 10, 10, 5],
            )[0]
            action()
            self.world.run(self.random.uniform(0.0, 0.15))

    def propose(self) -> None:
        for leader in [node for node in self.world.up() if node.is_leader]:
            for _ in range(self.random.randint(1, 5)):
                if leader.is_leader and leader.live.transferring() is None:
                    data = b"%d" % len(self.proposed)
                    self.proposed.add(data)
                    leader.propose(data)

    def read(self) -> None:
        """On whoever believes to lead, also on a leader that nobody follows any more."""
        for leader in [node for node in self.world.up() if node.is_leader]:
            if leader.is_leader:
                leader.read()

    def hand_over(self) -> None:
        for leader in [node for node in self.world.up() if node.is_leader]:
            with contextlib.suppress(Busy):
                leader.live.transfer_leadership(None, self.world.now)
            leader.settle()

    def cut(self) -> None:
        names = self.random.sample(sorted(self.world.nodes), len(self.world.nodes))
        size = self.random.randint(1, len(names) - 1)
        self.world.cut(names[:size], names[size:])

    def any_node(self) -> Node:
        return self.world[self.random.choice(sorted(self.world.nodes))]

    def kill(self) -> None:
        node = self.any_node()
        if node.engine:
            node.crash()

    def revive(self) -> None:
        for node in self.world.nodes.values():
            if not node.engine and self.random.random() < 0.6:
                node.start()

    def snapshot(self) -> None:
        node = self.any_node()
        behind = node.disk.snapshot.index if node.disk.snapshot else 1
        if node.engine and len(node.applied) > behind:
            node.take_snapshot(self.random.choice([0, 0, 3]))

    def calm(self) -> None:
        world = self.world
        world.crash_rate = world.drop_rate = 0.0
        world.heal()
        for node in world.nodes.values():
            if not node.engine:
                node.start()
        world.run_until(lambda: world.elect(limit_s=30.0).live.transferring() is None)
        leader = world.elect(limit_s=30.0)
        leader.propose(b"the end")
        read = leader.read()
        world.converge(limit_s=30.0)
        assert read not in world.reads, "every read is answered or refused"

    def verify(self) -> None:
        commands = next(self.world.up()).commands()
        assert len(commands) == len(set(commands))
        assert set(commands) <= self.proposed | {b"the end"}
        assert commands[-1] == b"the end"


@pytest.mark.parametrize("block", range(4))
def test_nothing_committed_is_lost_or_changed(block: int) -> None:
    committed = elections = restores = reads = 0
    for seed in range(block * 12, block * 12 + 12):
        storm = Storm(seed)
        storm.blow(100)
        storm.calm()
        storm.verify()
        committed += len(storm.world.log)
        elections += len(storm.world.leaders)
        reads += len(storm.world.read_at)
        restores += sum(bool(output.restore) for node in storm.world.up() for output in node.outputs)
    assert committed > 300
    assert elections > 12
    assert restores > 0
    assert reads > 50


def test_a_run_is_decided_by_its_seed() -> None:
    def trace(seed: int) -> str:
        storm = Storm(seed)
        storm.blow(60)
        return storm.world.trace.hexdigest()

    assert trace(5) == trace(5) != trace(6)
