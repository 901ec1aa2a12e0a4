"""One simulated node: a machine with a disk and clocks, and on it one process after another."""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Callable
from typing import Any

from consensus.channel import Kind
from consensus.errors import ConsensusError, DiskFull, StorageCorrupt, StorageFailed
from simulations.engine.observer import Observer
from simulations.engine.process import JOURNAL, SNAPSHOTS, Process
from simulations.engine.scenario import Scenario
from simulations.faults import FaultKind
from simulations.faulty_disk import FaultyDisk, PowerLoss
from simulations.invariants import Violation
from simulations.network import Network
from simulations.world import Clock, World

Fired = Callable[[FaultKind], None]

STOPS_FOR_FAULTS = "a node stops only for a fault"
READS_WHAT_IT_LEFT = "a disk that was not damaged is read"

SOCKET_MESSAGES_MAX = 1000
"""What a system keeps for a process that stands still."""

BALLOTS_LOST = (0.0, 0.0, 0.0, 0.25, 0.5)
"""Of these one is drawn: so many requests for votes are lost. Each loss leaves a term that nobody leads."""

_REQUESTS_FOR_VOTES = (1, 8)


class State(enum.StrEnum):
    """What a node is."""

    DOWN = "down"
    UP = "up"
    LOST = "lost"
    """Its disk is damaged, it has noticed, and it will not start again."""


class Node:
    """See the head of this module. Everything that happens to it happens through :meth:`perform`."""

    def __init__(
        self, name: str, scenario: Scenario, world: World, observer: Observer, network: Network, fired: Fired
    ) -> None:
        self.name = name
        self.scenario = scenario
        self.world = world
        self.observer = observer
        self.network = network
        self.clock = Clock(world)
        self.disk = FaultyDisk(world.stream(f"{name}/disk"), fired)
        self.state = State.DOWN
        self.enlisted = name in scenario.nodes
        """Whether it has been started for the first time: those that join are later."""
        self.process: Process | None = None
        self.lives = 0
        self.flipped = False
        self.slow_sync_s = 0.0
        self.paused = 0
        self.resumed_at = 0.0
        self._fired = fired
        self._random = world.stream(f"{name}/machine")
        self._held: deque[tuple[Process, Callable[..., None], tuple[Any, ...]]] = deque()
        self._failures_before = 0
        self._ballots = world.stream(f"{name}/ballots")
        self._ballots_lost = world.stream("ballots").choice(BALLOTS_LOST)
        self._emptied = False
        self._incarnations = world.stream(f"{name}/incarnations")

    # -- simulations.network.Endpoint ---------------------------------------------------------------

    @property
    def alive(self) -> bool:
        """See :class:`simulations.network.Endpoint`."""
        return self.process is not None

    def deliver(self, peer: str, message: bytes) -> None:
        """See :class:`simulations.network.Endpoint`."""
        if self.process is not None and len(self._held) < SOCKET_MESSAGES_MAX:
            self.perform(self.process, self._receive, self.process, peer, message)

    def _receive(self, process: Process, peer: str, message: bytes) -> None:
        self.observer.received(self.name, peer, message)
        process.pump.message(peer, message)

    def link_up(self, peer: str) -> None:
        """See :class:`simulations.network.Endpoint`."""
        if self.process is not None:
            self.perform(self.process, self.process.pump.connected, peer)

    def link_down(self, peer: str) -> None:
        """See :class:`simulations.network.Endpoint`."""
        if self.process is not None:
            self.perform(self.process, self.process.pump.disconnected, peer)

    # -- simulations.engine.process.Host ------------------------------------------------------------

    def perform(self, process: Process, call: Callable[..., None], *arguments: Any) -> None:
        """See :class:`simulations.engine.process.Host`."""
        if process is not self.process:
            return
        if self.paused:
            self._held.append((process, call, arguments))
            return
        try:
            call(*arguments)
        except PowerLoss as loss:
            self._fired(FaultKind.TORN_WRITE)
            self.lose_power(str(loss), FaultKind.TORN_WRITE)

    def begun_with(self) -> tuple[str, ...]:
        """See :class:`simulations.engine.process.Host`. Who began alone would begin another cluster."""
        nodes = self.scenario.nodes
        alone = self._emptied and len(nodes) == 1
        return nodes if self.name in nodes and not alone else ()

    def next_incarnation(self) -> int:
        """See :class:`simulations.engine.process.Host`."""
        return 1 + self._incarnations.getrandbits(40)

    def sync_delay_s(self) -> float:
        """See :class:`simulations.engine.process.Host`."""
        delay_s = self._random.random() * self.scenario.habits.sync_s
        if self.slow_sync_s:
            self._fired(FaultKind.SLOW_SYNC)
            delay_s += self._random.random() * self.slow_sync_s
        return delay_s

    def store_delay_s(self) -> float:
        """See :class:`simulations.engine.process.Host`."""
        return self._random.random() * (self.scenario.habits.store_s + self.slow_sync_s)

    def failed(self, process: Process, error: ConsensusError) -> None:
        """See :class:`simulations.engine.process.Host`. A node may stop itself only for a reason."""
        if isinstance(error, StorageCorrupt) and self.flipped:
            self._lose(error)
        elif isinstance(error, StorageFailed) and self.disk.failures > self._failures_before:
            self.world.soon(self._stop, process, f"stopped itself: {error}")
            self.start_later()
        else:
            raise Violation(STOPS_FOR_FAULTS, f"{self.name} stopped itself: {error}")

    def loses(self, message: bytes) -> bool:
        """See :class:`simulations.engine.process.Host`."""
        if message[0] != Kind.ENGINE or message[2] not in _REQUESTS_FOR_VOTES or not self._ballots_lost:
            return False
        return self.world.now < self.scenario.seconds and self._ballots.random() < self._ballots_lost

    # -- life ---------------------------------------------------------------------------------------

    def start(self) -> None:
        """Read the disk and begin, if it is down."""
        if self.state is not State.DOWN or not self.enlisted:
            return
        self.lives += 1
        self._failures_before = self.disk.failures
        try:
            process = Process(self, self.lives)
        except PowerLoss as loss:
            self._fired(FaultKind.TORN_WRITE)
            self._disk_lost_power(f"off while it starts, {loss}")
            self.start_later()
        except (DiskFull, StorageFailed) as error:
            self.world.tell(self.name, f"cannot start: {error}")
            self.disk.reopened()
            self.start_later()
        except StorageCorrupt as error:
            if not self.flipped:
                raise Violation(READS_WHAT_IT_LEFT, str(error)) from error
            self._lose(error)
        else:
            self._begin(process)

    def _begin(self, process: Process) -> None:
        self.process, self.state = process, State.UP
        notes = "; ".join(process.journal.recovered_notes)
        last = process.engine.status().last_index
        self.world.tell(self.name, f"starts with entries up to {last}{': ' if notes else ''}{notes}")
        self.world.chronicle.life(self.world.now, self.name, "up")
        self.network.joined(self.name)
        self.perform(process, process.pump.start)

    def start_later(self) -> None:
        """As its supervisor does."""
        self.world.after(self.scenario.habits.restart_s * (0.5 + self._random.random()), self.start)

    def kill(self, why: str = "killed") -> bool:
        """The process is gone; what it wrote stays in the system's cache. Whether there was one."""
        if self.process is None:
            return False
        self._end(why)
        self.network.gone(self.name, self.scenario.habits.delay_s)
        return True

    def _stop(self, process: Process, why: str) -> None:
        if process is self.process:
            self.kill(why)

    def lose_power(self, why: str, kind: FaultKind) -> bool:
        """The machine is off: what was not synced is lost, or some of it. Whether it was on."""
        if self.process is None:
            return False
        self._end(f"off: {why}" if why else "off")
        self._disk_lost_power(f"{kind}")
        # Nobody sends a goodbye: its peers have to notice the silence.
        self.network.gone(self.name, self.scenario.patience_s * self._random.random())
        self.start_later()
        return True

    def _disk_lost_power(self, why: str) -> None:
        unsynced, survived = self.disk.lose_power()
        kept = "some of it was kept" if survived else "all of it was lost"
        self.world.tell(self.name, f"{why}: {unsynced} bytes were not synced, {kept}")

    def _end(self, why: str) -> None:
        self.process, self.state = None, State.DOWN
        self._held.clear()
        self.paused = 0
        self.disk.reopened()
        self.world.tell(self.name, why)
        self.world.chronicle.life(self.world.now, self.name, "down", why)

    def _lose(self, error: ConsensusError) -> None:
        if self.process is not None:
            self.network.gone(self.name, self.scenario.habits.delay_s)
            self.process = None
        self.state = State.LOST
        self._fired(FaultKind.BIT_FLIP)
        self.world.tell(self.name, f"lost for good: {error}")
        self.world.chronicle.life(self.world.now, self.name, "lost", str(error))

    def enlist(self) -> None:
        """It is there from now on, and starts."""
        self.enlisted = True
        self.start()

    def empty_disk(self) -> None:
        """The machine goes off, gets an empty disk in the place of its own, and starts again."""
        if self.process is not None:
            self._end("off: its disk is lost")
            self.network.gone(self.name, self.scenario.patience_s * self._random.random())
        self.lives += 1
        self.disk = FaultyDisk(self.world.stream(f"{self.name}/disk/{self.lives}"), self._fired)
        self._failures_before = 0
        self._emptied = True
        self.observer.was_emptied(self.name)
        self.start_later()

    # -- what may happen to it ----------------------------------------------------------------------

    def pause(self) -> None:
        """Stand still."""
        self.paused += 1
        self.world.chronicle.life(self.world.now, self.name, "still")

    def resume(self) -> None:
        """Go on, with everything that has come in meanwhile."""
        self.paused = max(0, self.paused - 1)
        if self.paused:
            return
        self.resumed_at = self.world.now
        self.world.chronicle.life(self.world.now, self.name, "going")
        held, self._held = self._held, deque()
        for process, call, arguments in held:
            self.perform(process, call, *arguments)

    def clock_changed(self) -> None:
        """Timers that are set are for the wrong time."""
        if self.process is not None:
            self.process.rearm()

    def flip_bit(self) -> bool:
        """Flip a stored bit where the formats promise to notice. Whether there was such a place.

        That is: in all segments of the journal but the last, and in snapshots. What a sync has covered at
        the end of the last segment can not be told from a torn write: see `consensus.segment`. And not before
        the cluster has had its first leader, for whom all of its voters are needed.
        """
        if len(self.scenario.nodes) > 1 and not self.observer.configurations:
            return False
        segments = [
            f"{JOURNAL}/{name}" for name in self.disk.list_names(JOURNAL) if name.endswith(".journal")
        ]
        snapshots = [f"{SNAPSHOTS}/{n}" for n in self.disk.list_names(SNAPSHOTS) if n.endswith(".snapshot")]
        places = [p for p in segments[:-1] + snapshots[-1:] if self.disk.open_file(p).size]
        if not places:
            return False
        path = self._random.choice(places)
        offset = self._random.randrange(self.disk.open_file(path).size)
        self.disk.flip_bit(path, offset)
        self.flipped = True
        self.world.tell(self.name, f"a bit of byte {offset} of {path} flips")
        return True
