"""One life of a simulated node: the real journal, snapshots, recovery, engine and pump, in virtual time.

It stands where `consensus.driver` stands in production: it gives the pump the time and performs its
wishes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from consensus.errors import ConsensusError
from consensus.interface import Engine, EngineStatus, Role, SnapshotMeta
from consensus.journal import Journal
from consensus.ports import StoreSnapshot
from consensus.pump import Pump
from consensus.raft.engine import RaftEngine
from consensus.recovery import recover
from consensus.snapshots import SnapshotStore
from consensus.solo import SoloEngine
from simulations.engine.observer import Observer, WatchedJournal
from simulations.engine.register import Register
from simulations.engine.scenario import Scenario
from simulations.faulty_disk import FaultyDisk
from simulations.invariants import PromisesAreDurable
from simulations.network import Network
from simulations.world import TIMER_STEP_S, Clock, World

JOURNAL, SNAPSHOTS = "journal", "snapshots"

_NOBODY: Mapping[str, int] = {}


class Host(Protocol):
    """The node that a process runs on."""

    name: str
    scenario: Scenario
    world: World
    clock: Clock
    disk: FaultyDisk
    observer: Observer
    network: Network

    def perform(self, process: Process, call: Callable[..., None], *arguments: Any) -> None:
        """Call, if the process still lives and does not stand still; die if the power goes meanwhile."""

    def begun_with(self) -> tuple[str, ...]:
        """The voters that it is told, should its log name none."""

    def next_incarnation(self) -> int:
        """A number for a journal, should one be made."""

    def sync_delay_s(self) -> float:
        """How long the next sync takes."""

    def store_delay_s(self) -> float:
        """How long it takes to write the next snapshot."""

    def loses(self, message: bytes) -> bool:
        """Whether this message never gets as far as the network."""

    def failed(self, process: Process, error: ConsensusError) -> None:
        """The pump cannot go on."""


class Process:
    """One life of a node: from reading its disk until it dies. A :class:`consensus.ports.Shell`.

    Opening may raise whatever opening a journal and a snapshot store may raise, and
    :class:`~simulations.faulty_disk.PowerLoss`.
    """

    def __init__(self, node: Host, life: int) -> None:
        self._node = node
        self._world = node.world
        scenario, observer = node.scenario, node.observer
        self.journal = Journal.open(
            node.disk, JOURNAL, limits=scenario.journal, incarnation=node.next_incarnation()
        )
        self.snapshots = SnapshotStore.open(node.disk, SNAPSHOTS)
        recovered = recover(self.journal, self.snapshots)
        observer.restarted(node.name, recovered)
        self._watched = WatchedJournal(self.journal, node.name, observer)
        generator = node.world.stream(f"{node.name}/{life}")
        self.engine: Engine
        if len(scenario.nodes) == 1 and scenario.seed % 2 and not scenario.moves:
            self.engine = SoloEngine(node.name, recovered, entry_bytes_max=scenario.raft.entry_bytes_max)
        else:
            self.engine = RaftEngine(
                node.name,
                node.begun_with(),
                recovered,
                now=node.clock.now(),
                random=generator,
                config=scenario.raft,
            )
        habits = scenario.habits
        self.register = Register(
            node.world,
            node.name,
            observer,
            self._executed,
            padding_bytes=habits.snapshot_bytes,
            queue_commands_max=habits.queue_commands_max,
            lag_s=habits.lag_s,
            generator=generator,
        )
        self._outbox: list[tuple[str, bytes]] = []
        self._awake = self._syncing = False
        self._timer_at = self._deadline = math.inf
        self.pump = Pump(
            self.engine,
            self._watched,
            self.snapshots,
            self.register,
            self,
            self,
            wall=node.clock.wall,
            generator=generator,
            limits=scenario.limits,
        )

    def _executed(self, index: int, results: Sequence[tuple[bytes, Any]]) -> None:
        self.pump.applied(index, results)

    # -- consensus.ports.Network --------------------------------------------------------------------

    def send(self, peer: str, message: bytes) -> None:
        """See :class:`consensus.ports.Network`."""
        self._outbox.append((peer, message))

    def flush(self) -> None:
        """See :class:`consensus.ports.Network`."""
        outbox, self._outbox = self._outbox, []
        node = self._node
        node.observer.covered(node.name, self.snapshots.latest())
        for peer, message in outbox:
            node.observer.sent(node.name, peer, message)
            if not node.loses(message):
                node.network.send(node.name, peer, message)

    # -- consensus.ports.Shell ----------------------------------------------------------------------

    def wake(self) -> None:
        """See :class:`consensus.ports.Shell`."""
        if not self._awake:
            self._awake = True
            self._world.soon(self._node.perform, self, self._turn)

    def _turn(self) -> None:
        self._awake = False
        node = self._node
        now, busy = node.clock.now(), self._busy
        self.pump.turn(now)
        self._stepped()
        if not busy and self.pump.failure is None:
            node.observer.contact.heard(node.name, now)
            if not self._busy:
                node.observer.looked(node.name, now)

    @property
    def _busy(self) -> bool:
        """Whether the engine rests: a write is under way, or waits for room."""
        return self._syncing or self.pump.disk_full

    def _stepped(self) -> None:
        node, engine = self._node, self.engine
        leadership, commit_index = engine.leadership(), engine.commit_index()
        match = engine.status().match if leadership.role is Role.LEADER else _NOBODY
        node.observer.stepped(node.name, leadership, commit_index, match)
        self._world.chronicle.commit(self._world.now, node.name, commit_index)

    def arm(self, at: float) -> None:
        """See :class:`consensus.ports.Shell`. Deadlines mostly move away: an early timer looks again."""
        self._deadline = at
        if at < self._timer_at:
            self._set_timer()

    def rearm(self) -> None:
        """The clock was changed: what was set is for the wrong time."""
        self._timer_at = math.inf
        if self._deadline < math.inf:
            self._set_timer()

    def _set_timer(self) -> None:
        self._timer_at = self._deadline
        when = max(self._node.clock.when(self._deadline), self._world.now + TIMER_STEP_S)
        self._world.at(when, self._node.perform, self, self._on_timer, self._deadline)

    def _on_timer(self, set_for: float) -> None:
        if set_for != self._timer_at:
            return
        self._timer_at = math.inf
        if self._node.clock.now() >= self._deadline - TIMER_STEP_S:
            self._turn()
        elif self._deadline < math.inf:
            self._set_timer()

    def sync(self) -> None:
        """See :class:`consensus.ports.Shell`."""
        self._syncing = True
        delay_s = self._node.sync_delay_s()
        if delay_s == 0:
            self._sync()
        else:
            self._world.after(delay_s, self._node.perform, self, self._sync_later)

    def _sync_later(self) -> None:
        self._sync()
        self._stepped()

    def _sync(self) -> None:
        error, self._syncing = None, False
        try:
            self._watched.sync()
            cached = self._node.disk.unsynced_bytes()
            PromisesAreDurable.synced(
                self._node.name, sum(count for path, count in cached.items() if path.startswith(JOURNAL))
            )
        except ConsensusError as failure:
            error = failure
        self.pump.synced(self._node.clock.now(), error)

    def store(self, write: StoreSnapshot) -> None:
        """See :class:`consensus.ports.Shell`."""
        self._world.after(self._node.store_delay_s(), self._node.perform, self, self._store, write)

    def _store(self, write: StoreSnapshot) -> None:
        outcome: SnapshotMeta | ConsensusError
        try:
            outcome = write()
        except ConsensusError as error:
            outcome = error
        self._node.observer.covered(self._node.name, self.snapshots.latest())
        self.pump.stored(outcome)

    def flush_soon(self) -> None:
        """See :class:`consensus.ports.Shell`."""
        self._world.soon(self._node.perform, self, self.pump.flush)

    def changed(self, status: EngineStatus) -> None:
        """See :class:`consensus.ports.Shell`."""
        node = self._node
        node.observer.changed(node.name, status, node.clock.now())
        chronicle = self._world.chronicle
        chronicle.role(self._world.now, node.name, str(status.role), status.term, status.leader)
        leader = "no leader" if status.leader is None else f"leader {status.leader}"
        self._world.tell(node.name, f"{status.role} in term {status.term}, {leader}")

    def reconfigured(self, status: EngineStatus) -> None:
        """See :class:`consensus.ports.Shell`."""
        voters, observers = ",".join(status.voters), ",".join(status.observers)
        self._world.tell(self._node.name, f"members are {voters}{' and ' if observers else ''}{observers}")

    def mishandled(self, error: Exception) -> None:
        """See :class:`consensus.ports.Shell`. Here a proposer is the observer, whose errors count."""
        raise error

    def failed(self, error: ConsensusError) -> None:
        """See :class:`consensus.ports.Shell`."""
        self._node.failed(self, error)
