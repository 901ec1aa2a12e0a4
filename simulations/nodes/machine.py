"""One machine: a disk and clocks that stay, and on it one process after another, each a production node."""

from __future__ import annotations

import enum
import random
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

from consensus.journal import Journal
from consensus.recovery import recover
from consensus.snapshots import SnapshotStore
from executor.interface import Executor, Pool
from executor.onnx import OnnxRuntime
from mcp.errors import DiskFull, McpError, StorageCorrupt, StorageError
from mcp.node.assembly import Assembly
from mcp.node.config import NodeConfig
from mcp.node.gauges import Capacity, Sample
from mcp.node.node import Node
from mcp.node.storage import NodeFiles
from mcp.node.surroundings import Surroundings
from mcp.state.commands import SCHEMA_MAX
from simulations.faults import FaultKind
from simulations.faulty_disk import FaultyDisk
from simulations.invariants import Violation
from simulations.nodes import models
from simulations.nodes.disk import JOURNAL, SNAPSHOTS, MachineDisk
from simulations.nodes.ledger import Ledger
from simulations.nodes.pool import simulated_pool
from simulations.nodes.scenario import Scenario
from simulations.streams import HostNetwork, Streams
from simulations.virtual_time import VirtualClock, VirtualLoop
from simulations.world import Clock, World

STOPS_FOR_FAULTS = "a node stops only for a fault"
STARTS_AGAIN = "a node starts on what it left"


class State(enum.StrEnum):
    """What a machine is."""

    DOWN = "down"
    UP = "up"
    LOST = "lost"
    """Its disk is damaged, it has noticed, and it will not start again."""


class Surrounding(Protocol):
    """What a machine finds around itself."""

    world: World
    scenario: Scenario
    streams: Streams
    ledger: Ledger
    path: Path
    done: Counter[str]

    def fired(self, kind: FaultKind) -> None:
        """A fault had an effect."""

    def fail(self, error: Exception) -> None:
        """The run has failed."""

    def reported(self, who: str, context: dict[str, Any]) -> None:
        """Something was raised that nobody awaits, as asyncio tells it."""

    def executors(self, name: str) -> Mapping[str, Executor]:
        """New executors for a process that starts on the machine ``name``."""


class Unlocked:
    """The lock of files that nobody else can reach."""

    def release(self) -> None:
        """Nothing was taken."""


class SteadyGauges:
    """A machine that is the same everywhere (:class:`mcp.node.gauges.Gauges`)."""

    def open(self) -> None:
        """It has no devices."""

    def capacity(self) -> Capacity:
        """What it has."""
        return Capacity(cores=4, memory_bytes=8 * 1024**3)

    def sample(self) -> Sample:
        """It is never busy."""
        return Sample(cpu=0.25, memory_free_bytes=4 * 1024**3)


@dataclass(slots=True)
class Process:
    """One life of a node."""

    loop: VirtualLoop
    network: HostNetwork
    node: Node
    started: bool = False

    @property
    def parts(self) -> Assembly | None:
        """What the node is made of, once it has started."""
        return self.node._parts if self.started else None


class Machine:
    """See the head of this module. It is what `simulations.chaos` wants of a machine."""

    def __init__(self, name: str, around: Surrounding) -> None:
        self.name = name
        self.state = State.DOWN
        self.process: Process | None = None
        self.lives = 0
        self.graves: list[VirtualLoop] = []
        self.slow_sync_s = 0.0
        self.paused = 0
        self.schema_max = SCHEMA_MAX
        """What the version that is installed here executes; for the processes to come."""
        self.address = name
        """Where it is reached once it starts again."""
        self.enlisted = name in around.scenario.nodes
        """Whether it has been started for the first time: those that join are later."""
        self.observer = False
        """Whether whoever joins here is to observe."""
        self.seeds: tuple[str, ...] = ()
        """Where whoever joins here is told that members are; none: it begins with the founders."""
        self.incarnation: int | None = None
        """The number of the journal that is on its disk; ``None`` before there is one."""
        self.clock = Clock(around.world)
        self._around = around
        self._random: random.Random = around.world.stream(f"{name}/machine")
        self._timing: random.Random = around.world.stream(f"{name}/timing")
        self._entropy: random.Random = around.world.stream(f"{name}/entropy")
        self._host = around.streams.host(name)
        self._flipped = False
        self._failures_before = 0
        self.disk: FaultyDisk = self._new_disk(f"{name}/disk")

    def _new_disk(self, stream: str) -> MachineDisk:
        around = self._around
        return MachineDisk(
            around.world.stream(stream),
            around.fired,
            syncing=self._syncing,
            off=self._torn,
            done=around.done,
        )

    @property
    def alive(self) -> bool:
        """Whether a process runs."""
        return self.process is not None

    @property
    def parts(self) -> Assembly | None:
        """What the node is made of, while it runs."""
        return None if self.process is None else self.process.parts

    # -- life ---------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start a process, if it is down."""
        if self.state is not State.DOWN or not self.enlisted:
            return
        around = self._around
        self.state, self._host.up = State.UP, True
        if self.address != self._host.address:
            around.streams.relocate(self._host, self.address)
            around.done["starts elsewhere"] += 1
        self.lives += 1
        self._failures_before = self.disk.failures
        loop = VirtualLoop(
            around.world,
            self.clock,
            job_s=self._job_s,
            report=lambda context: around.reported(self.name, context),
        )
        network = HostNetwork(around.streams, self._host, loop)
        self.process = Process(loop, network, self._node(network))
        around.world.tell(self.name, "starts")
        around.world.chronicle.life(around.world.now, self.name, "up")
        loop.create_task(self._live(self.process))

    def _node(self, network: HostNetwork) -> Node:
        scenario = self._around.scenario
        timing = scenario.timing
        own = f"memory://{self.address}"
        # Nobody tells a node where the others have moved to.
        founders = {name: f"memory://{name}" for name in scenario.nodes if not self.seeds}
        founders |= {self.name: own} if self.name in founders else {}
        config = NodeConfig(
            self.name,
            self._around.path / self.name,
            # Where its name leads to, a node listens in any case.
            listen=() if self.address == self.name else (own,),
            voters=founders,
            join=tuple(f"memory://{address}" for address in self.seeds),
            observer=self.observer,
            advertise=own,
            election_timeout_min_s=timing.election_timeout_min_s,
            election_timeout_max_s=timing.election_timeout_max_s,
            heartbeat_s=timing.heartbeat_s,
            schema_max=self.schema_max,
            replace_dead_after_s=scenario.replace_dead_after_s,
            limits=scenario.node_limits,
            consensus_limits=scenario.limits,
        )
        surroundings = Surroundings(
            clock=VirtualClock(self.clock, self._entropy),
            network=network,
            open_files=self._open_files,
            make_pool=self._make_pool,
            gauges=SteadyGauges(),
        )
        executors = self._around.executors(self.name)
        return Node(config, executors=executors, surroundings=surroundings)

    async def _live(self, process: Process) -> None:
        node = process.node
        try:
            await node.start()
        except McpError as error:
            self._over(process, error, "cannot start", STARTS_AGAIN)
            return
        process.started = True
        assert process.parts is not None
        self._around.ledger.watch(self.name, process.parts.state)
        self._over(process, await node.wait_failed(), "stopped itself", STOPS_FOR_FAULTS)

    def _over(self, process: Process, error: McpError, what: str, rule: str) -> None:
        """A process ends with an error: it may do so for a reason alone."""
        if process is not self.process:
            return
        if isinstance(error, StorageCorrupt) and self._flipped:
            self._around.fired(FaultKind.BIT_FLIP)
            self._end(f"lost for good: {error}", tell=True)
            self.state = State.LOST
            self._around.world.chronicle.life(self._around.world.now, self.name, "lost", str(error))
        elif isinstance(error, DiskFull) or (
            isinstance(error, StorageError) and self.disk.failures > self._failures_before
        ):
            self._end(f"{what}: {error}", tell=True)
            self.start_later()
        else:
            self._around.fail(Violation(rule, f"{self.name} {what}: {error.code}: {error}"))

    def stop_in_order(self) -> None:
        """As its supervisor does before it starts another version; it starts again by itself."""
        process = self.process
        if process is None:
            return
        if not process.started:
            self.kill("is told to stop while it starts")
            self.start_later()
            return
        self._around.world.tell(self.name, "is told to stop")
        stopping = process.loop.create_task(process.node.stop())
        stopping.add_done_callback(lambda _: self._stopped(process))

    def _stopped(self, process: Process) -> None:
        if process is self.process:
            self._end("has stopped in order", tell=True)
            self.start_later()

    def relocate(self, address: str) -> None:
        """It is stopped, and starts on its disk at another address: another machine, as others see it."""
        self.address = address
        self._around.world.tell(self.name, f"moves to {address}")
        self.stop_in_order()

    def start_later(self) -> None:
        """As its supervisor does."""
        delay_s = self._around.scenario.habits.restart_s * (0.5 + self._random.random())
        self._around.world.after(delay_s, self.start)

    def kill(self, why: str = "killed") -> bool:
        """End the process; what it wrote stays in the system's cache. Whether there was one."""
        if self.process is None:
            return False
        self._end(why, tell=True)
        return True

    def lose_power(self, why: str, kind: FaultKind) -> bool:
        """Switch the machine off; whether a process ran. It starts again by itself."""
        if self.process is None:
            return False
        if kind is FaultKind.TORN_WRITE:
            self._around.fired(kind)
        self._end(f"off: {why}" if why else "off", tell=False)
        self._host.up = False
        unsynced, survived = self.disk.lose_power()
        self._cut_uploads()
        kept = "some of it was kept" if survived else "all of it was lost"
        self._around.world.tell(self.name, f"{kind}: {unsynced} bytes were not synced, {kept}")
        self.start_later()
        return True

    def enlist(self, seeds: Sequence[str], *, observer: bool) -> None:
        """It is there from now on, and starts: a fresh node that joins ``seeds``."""
        self.enlisted, self.seeds, self.observer = True, tuple(seeds), observer
        self.start()

    def empty_disk(self, seeds: Sequence[str]) -> None:
        """The machine goes off, gets an empty disk in the place of its own, and starts again.

        It is started as it was, but for one that has begun its cluster alone, and would begin another:
        that joins ``seeds``.
        """
        if len(self._around.scenario.nodes) == 1:
            self.seeds = tuple(seeds)
        if self.process is not None:
            self._end("off: its disk is lost", tell=False)
            self._host.up = False
        self.disk = self._new_disk(f"{self.name}/disk/{self.lives}")
        self._failures_before, self.incarnation = 0, None
        shutil.rmtree(self._around.path / self.name, ignore_errors=True)
        self.start_later()

    def _torn(self, why: str) -> None:
        self.lose_power(why, FaultKind.TORN_WRITE)

    def _end(self, why: str, *, tell: bool) -> None:
        process, self.process = self.process, None
        assert process is not None
        process.loop.end()
        process.network.die(tell=tell)
        self.graves.append(process.loop)
        self.disk = cast(MachineDisk, self.disk).handed_over()
        self.state, self.paused = State.DOWN, 0
        self._around.world.tell(self.name, why)
        self._around.world.chronicle.life(self._around.world.now, self.name, "down", why)

    def _cut_uploads(self) -> None:
        """Blobs are on the real disk: of those that are not whole nothing was synced."""
        folder = self._around.path / self.name / "blobs" / "partial"
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            content = path.read_bytes()
            kept = self._random.randint(0, len(content))
            zeros = self._random.random() < 0.3
            path.write_bytes(bytes(kept) if zeros else content[:kept])

    # -- what a process finds -----------------------------------------------------------------------

    def _open_files(self, data_dir: Path, incarnation: int) -> NodeFiles:
        snapshots = SnapshotStore.open(self.disk, SNAPSHOTS)
        limits = self._around.scenario.journal
        journal = Journal.open(self.disk, JOURNAL, limits=limits, incarnation=incarnation)
        self.incarnation = journal.incarnation
        return NodeFiles(Unlocked(), journal, snapshots, recover(journal, snapshots))

    def _make_pool(self, runtime: OnnxRuntime, config: NodeConfig) -> Pool:
        generator = random.Random(self._entropy.getrandbits(64))
        scenario = self._around.scenario
        failing = {models.key("2"): scenario.failing} if scenario.failing else {}
        return simulated_pool(runtime, config, generator, scenario.habits.run_s, self._around.done, failing)

    def _job_s(self) -> float:
        return self._timing.random() * self._around.scenario.habits.job_s + self._slow_s()

    def _syncing(self) -> None:
        if self.process is not None:
            sync_s = self._timing.random() * self._around.scenario.habits.sync_s
            self.process.loop.stall(sync_s + self._slow_s())

    def _slow_s(self) -> float:
        if not self.slow_sync_s:
            return 0.0
        self._around.fired(FaultKind.SLOW_SYNC)
        return self._timing.random() * self.slow_sync_s

    # -- what may happen to it ----------------------------------------------------------------------

    def pause(self) -> None:
        """Let the process stand still."""
        self.paused += 1
        self._around.world.chronicle.life(self._around.world.now, self.name, "still")
        if self.process is not None:
            self.process.loop.stand_still()

    def resume(self) -> None:
        """Let it go on."""
        self.paused = max(0, self.paused - 1)
        if not self.paused:
            self._around.world.chronicle.life(self._around.world.now, self.name, "going")
        if not self.paused and self.process is not None:
            self.process.loop.go_on()

    def clock_changed(self) -> None:
        """The clock was changed: timers are due at other times."""
        if self.process is not None:
            self.process.loop.rearm()

    def flip_bit(self) -> bool:
        """Flip a stored bit where the formats promise to notice: see `simulations.engine.node`."""
        segments = [f"{JOURNAL}/{n}" for n in self.disk.list_names(JOURNAL) if n.endswith(".journal")]
        snapshots = [f"{SNAPSHOTS}/{n}" for n in self.disk.list_names(SNAPSHOTS) if n.endswith(".snapshot")]
        places = [p for p in segments[:-1] + snapshots[-1:] if self.disk.open_file(p).size]
        if not places:
            return False
        path = self._random.choice(places)
        offset = self._random.randrange(self.disk.open_file(path).size)
        self.disk.flip_bit(path, offset)
        self._flipped = True
        self._around.world.tell(self.name, f"a bit of byte {offset} of {path} flips")
        return True
