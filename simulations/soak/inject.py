"""Makes a plan happen to real processes and to what is between them, and counts what really did.

Nodes that are down and that nobody holds down are started again, as a service manager would. One that
ended by itself is a finding, unless its disk was made ill before.
"""

from __future__ import annotations

import asyncio
import math
import random
import shutil
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from mcp.errors import McpError
from simulations.chronicle import SILENT, Chronicle, Happening
from simulations.faults import FaultKind
from simulations.soak.ailing_disk import ORDERED
from simulations.soak.controls import Ailments, Hits, Operation
from simulations.soak.kinds import Kind, LiveKind
from simulations.soak.mesh import CLIENTS, Pair
from simulations.soak.path import PATH_KINDS, Effect
from simulations.soak.plan import FOLLOWER, LEADER, PATH_FAULTS, PORT_FAULTS, LiveFault, LivePlan
from simulations.soak.supervisor import NodeProcess, Supervisor
from simulations.soak.watch import Watch

TEND_S: Final = 0.05
START_AGAIN_S: Final = 0.5
BEARABLE_WITHIN_S: Final = 8.0
"""For the quorum's sake a fault waits so long until others are over, and is skipped then."""
EXCUSED_S: Final = 3.0
"""A node whose disk was ill may end as late as this after the disk is well again."""
STRESS_PERIOD_S: Final = 0.05
RESET_EVERY_S_MIN: Final = 0.05
REPLACED_WITHIN_S: Final = 60.0
"""A node that lost its disk and does not vote again by then is waited for no longer; the end will tell."""
WELL_WITHIN_S: Final = 15.0
"""A node that is not well again by then counts as well, so that the walk goes on; the end will tell."""


@dataclass(frozen=True, slots=True)
class Event:
    """Something that the injector did or saw."""

    at_s: float
    what: str


@dataclass(frozen=True, slots=True)
class Happened:
    """A fault that was made to happen: of which kind, and from when to when."""

    kind: str
    begun_s: float
    ended_s: float


@dataclass(frozen=True, slots=True)
class Kill:
    """A SIGKILL. ``alone``: nothing else was wrong by then. ``starting``: of a node that was not ready."""

    at_s: float
    node: str
    led: bool
    alone: bool
    starting: bool


TAKES_OUT: Final[frozenset[Kind]] = frozenset(
    {
        *(FaultKind.KILL, FaultKind.BLACKOUT, FaultKind.PAUSE),
        *(FaultKind.PARTITION, FaultKind.ONE_WAY, FaultKind.PARTIAL, FaultKind.HALF_OPEN),
        *(FaultKind.DISK_FULL, FaultKind.IO_ERROR, LiveKind.DISK_LOSS),
    }
)
"""Kinds during which a node can acknowledge nothing, until it is well again; others make it slow."""


@dataclass(slots=True)
class Injector:
    """``now``: seconds since the beginning. ``keep_quorum``: skip what would break more than a minority."""

    supervisor: Supervisor
    watch: Watch
    plan: LivePlan
    now: Callable[[], float]
    seconds: float = math.inf
    """Nothing begins later."""
    seed: int = 0
    keep_quorum: bool = False
    on_kill: Callable[[Kill], None] = lambda kill: None
    chronicle: Chronicle = SILENT
    """Is told what happens, for whoever wants a picture of the run."""
    fired: Counter[str] = field(default_factory=Counter)
    skipped: int = 0
    events: list[Event] = field(default_factory=list)
    happened: list[Happened] = field(default_factory=list)
    kills: list[Kill] = field(default_factory=list)
    outvoted: list[tuple[float, float]] = field(default_factory=list)
    """From when to when a majority of the nodes was out at once; see :meth:`outages`."""
    falls: list[str] = field(default_factory=list)
    """Nodes that ended, or did not start, without being made to."""
    _random: random.Random = field(init=False)
    _held: Counter[str] = field(default_factory=Counter)
    _broken: Counter[str] = field(default_factory=Counter)
    _ailing: dict[str, list[LiveFault]] = field(default_factory=dict)
    _ill: Counter[str] = field(default_factory=Counter)
    _ill_until: dict[str, float] = field(default_factory=dict)
    _starting: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    _out: Counter[str] = field(default_factory=Counter)
    _outvoted_since: float | None = None
    _losing: str | None = None
    """Whose disk is lost, until another server votes in its place."""

    def __post_init__(self) -> None:
        self._random = random.Random(f"inject/{self.seed}")
        self.plan.check(list(self.supervisor.nodes))

    async def run(self) -> None:
        """Until the plan has happened, in its order; what has to wait delays all that follows as much.

        The nodes are tended meanwhile, see :meth:`tend`.
        """
        async with asyncio.TaskGroup() as group:
            late_s = 0.0
            for fault in self.plan.faults:
                # What comes too late is told at once: nobody waits for a time that is not there.
                due_s = min(fault.at_s + late_s, self.seconds)
                await asyncio.sleep(max(0.0, due_s - self.now()))
                admitted = await self._admitted(fault)
                late_s = max(0.0, self.now() - fault.at_s)
                if admitted is None:
                    self.skipped += 1
                    self._tell(f"skipped, there was no time for it without breaking the quorum: {fault}")
                else:
                    group.create_task(self._happen(admitted))
                    await asyncio.sleep(0)

    async def tend(self) -> None:
        """For ever: start again what is down and is not held down."""
        try:
            while True:
                for node in self.supervisor.nodes.values():
                    self._look_after(node)
                await asyncio.sleep(TEND_S)
        finally:
            for task in list(self._starting.values()):
                task.cancel()
            await asyncio.gather(*self._starting.values(), return_exceptions=True)

    def heal(self) -> None:
        """Everything is well from now on, as far as faults go; nodes that are down start again."""
        self.supervisor.mesh.heal()
        for name, node in self.supervisor.nodes.items():
            self._ailing.pop(name, None)
            node.controls.set(Ailments())
            if node.volume is not None:
                node.volume.relieve()
            while node.paused:
                node.resume(node.starts)
        self.chronicle.healed(self.now())
        self._tell("everything is healed")

    def _tell(self, what: str) -> None:
        self.events.append(Event(round(self.now(), 3), what))

    # -- tending --------------------------------------------------------------------------------------

    def _look_after(self, node: NodeProcess) -> None:
        name = node.node
        if node.running or self._held[name] > 0 or name in self._starting:
            return
        if node.fell:
            self._tell(f"{name} ended by itself")
            self.chronicle.life(self.now(), name, "down", "ended by itself")
            if not self._is_excused(name):
                self._fell(f"{name} ended by itself; {node.last_words()}")
        self._starting[name] = asyncio.ensure_future(self._start(node))

    async def _start(self, node: NodeProcess) -> None:
        try:
            if await node.start():
                self._tell(f"{node.node} is up again")
                self.chronicle.life(self.now(), node.node, "up")
        except McpError as error:
            if not self._is_excused(node.node):
                self._fell(error.message)
            self._tell(f"{node.node} did not start")
            await asyncio.sleep(START_AGAIN_S)
        finally:
            self._starting.pop(node.node, None)

    def _fell(self, what: str) -> None:
        # A node that cannot start falls again and again, always with the same words; and one whose last words
        # are of what was ordered may be seen to have ended long after its disk is well again.
        if what not in self.falls and not what.endswith(ORDERED):
            self.falls.append(what)

    def _is_excused(self, name: str) -> bool:
        return self._ill[name] > 0 or self.now() < self._ill_until.get(name, 0.0)

    def _fall_ill(self, fault: LiveFault) -> None:
        self._ill.update(fault.nodes)

    def _get_well(self, fault: LiveFault) -> None:
        self._ill.subtract(fault.nodes)
        for name in fault.nodes:
            self._ill_until[name] = self.now() + EXCUSED_S

    # -- one fault ------------------------------------------------------------------------------------

    async def _happen(self, fault: LiveFault) -> None:
        broken = self._breaks(fault)
        alone = not +self._broken and not self._starting
        out = set(broken) if fault.kind in TAKES_OUT else set()
        self._broken.update(broken)
        self._count_out(out)
        self._tell(f"{fault}")
        begun = self.now()
        try:
            if await self._handler(fault)(fault, alone):
                self.fired[str(fault.kind)] += 1
            self.happened.append(Happened(str(fault.kind), begun, self.now()))
            self.chronicle.fault(
                Happening(str(fault.kind), begun, self.now(), fault.nodes, fault.peers, str(fault))
            )
            await asyncio.gather(
                self._well_again(broken, WELL_WITHIN_S), *(self._in_again(node, out) for node in sorted(out))
            )
        finally:
            self._broken.subtract(broken)
            self._count_out(out, back=True)

    async def _in_again(self, node: str, out: set[str]) -> None:
        """Take a node from those that a fault has ``out`` as soon as it is well, whatever the others do."""
        if await self._well_again([node], WELL_WITHIN_S):
            out.remove(node)
            self._count_out([node], back=True)

    def _count_out(self, nodes: Collection[str], *, back: bool = False) -> None:
        """Note when a majority is lost, and when it is there again."""
        if back:
            self._out.subtract(nodes)
        else:
            self._out.update(nodes)
        lost = len(+self._out) > self._minority
        if lost and self._outvoted_since is None:
            self._outvoted_since = self.now()
        elif not lost and self._outvoted_since is not None:
            self.outvoted.append((self._outvoted_since, self.now()))
            self._outvoted_since = None

    def outages(self) -> list[tuple[float, float]]:
        """When faults had taken out a majority of the nodes, until now: nobody can write then."""
        going = [] if self._outvoted_since is None else [(self._outvoted_since, self.now())]
        return self.outvoted + going

    async def _admitted(self, fault: LiveFault) -> LiveFault | None:
        """The fault with names for roles, once a majority is well in spite of it; ``None``: too late."""
        since = self.now()
        while True:
            named = replace(fault, nodes=self._whom(fault.nodes))
            if self.now() >= self.seconds or self.now() - since > BEARABLE_WITHIN_S:
                return None
            if not self.keep_quorum or self._bearable(self._breaks(named)):
                return named
            await asyncio.sleep(TEND_S)

    def _handler(self, fault: LiveFault) -> Callable[[LiveFault, bool], Awaitable[bool]]:
        special: dict[Kind, Callable[[LiveFault, bool], Awaitable[bool]]] = {
            FaultKind.KILL: self._kill,
            FaultKind.BLACKOUT: self._kill,
            FaultKind.PAUSE: self._pause,
            FaultKind.DISK_FULL: self._disk_full,
            FaultKind.RESET: self._reset,
            FaultKind.HALF_OPEN: self._half_open,
            LiveKind.CPU_STRESS: self._stress,
            LiveKind.DISK_LOSS: self._disk_loss,
        }
        if fault.kind in special:
            return special[fault.kind]
        if fault.kind in PORT_FAULTS:
            return self._ail
        assert fault.kind in PATH_KINDS
        return self._path

    def _whom(self, nodes: Sequence[str]) -> tuple[str, ...]:
        """Put names in the place of roles. When nobody leads, anybody stands in for the leader."""
        everybody = list(self.supervisor.nodes)
        leader = self.watch.leader() or self._random.choice(everybody)
        followers = [node for node in everybody if node != leader] or everybody
        roles = {LEADER: leader, FOLLOWER: self._random.choice(followers)}
        return tuple(dict.fromkeys(roles.get(node, node) for node in nodes))

    def _breaks(self, fault: LiveFault) -> set[str]:
        """Who is not of use to the cluster while it lasts: the smaller side of a link, or those it hits."""
        sides = [set(fault.nodes), {peer for peer, _ in self._others(fault)} or set(fault.nodes)]
        sides = [side - {CLIENTS} for side in sides]
        return min(sides, key=len) if fault.kind in PATH_FAULTS else set(fault.nodes)

    def _bearable(self, broken: set[str]) -> bool:
        return len({*broken, *(+self._broken)}) <= self._minority

    @property
    def _minority(self) -> int:
        return (len(self.supervisor.nodes) - 1) // 2

    async def _well_again(self, nodes: Collection[str], within_s: float) -> bool:
        since = self.now()
        while not all(self.watch.well(node, since) for node in nodes):
            if self.now() - since > within_s:
                return False
            await asyncio.sleep(TEND_S)
        return True

    # -- processes ------------------------------------------------------------------------------------

    async def _kill(self, fault: LiveFault, alone: bool) -> bool:
        fired = await asyncio.gather(*(self._kill_one(node, alone) for node in fault.nodes))
        try:
            await asyncio.sleep(fault.duration_s)
        finally:
            self._held.subtract(fault.nodes)
        return any(fired)

    async def _kill_one(self, name: str, alone: bool) -> bool:
        self._held[name] += 1
        node = self.supervisor.nodes[name]
        if not node.running:
            return False
        led = self.watch.leader() == name
        kill = Kill(self.now(), name, led, alone, name in self._starting)
        self.kills.append(kill)
        self.on_kill(kill)
        self.chronicle.life(kill.at_s, name, "down", "SIGKILL")
        return await node.kill()

    async def _disk_loss(self, fault: LiveFault, alone: bool) -> bool:
        """One at a time: until another server votes in the lost one's place, no other disk may go."""
        (name,) = fault.nodes
        if self._losing is not None:
            self._tell(f"{name} keeps its disk: that of {self._losing} is not replaced yet")
            return False
        self._losing = name
        self._held[name] += 1
        try:
            await self._kill_one(name, alone)
            if name in self._starting:
                await asyncio.wait([self._starting[name]])
            await asyncio.to_thread(_empty, self.supervisor.data_dir(name))
            await asyncio.sleep(fault.duration_s)
        finally:
            self._held[name] -= 2  # its own, and that of the kill
        if await self._well_again([name], REPLACED_WITHIN_S):
            self._tell(f"{name} votes again, as another server")
            self._losing = None
        return True

    async def _pause(self, fault: LiveFault, _alone: bool) -> bool:
        paused = [(node, node.pause()) for node in map(self.supervisor.nodes.__getitem__, fault.nodes)]
        for node, pause in paused:
            if pause:
                self.chronicle.life(self.now(), node.node, "still")
        try:
            await asyncio.sleep(fault.duration_s)
        finally:
            for node, pause in paused:
                node.resume(pause)
                if not node.paused:
                    self.chronicle.life(self.now(), node.node, "going")
        return any(pause for _, pause in paused)

    async def _stress(self, fault: LiveFault, _alone: bool) -> bool:
        ends, fired = self.now() + fault.duration_s, False
        nodes = [self.supervisor.nodes[name] for name in fault.nodes]
        while self.now() < ends:
            paused = [(node, node.pause()) for node in nodes]
            try:
                await asyncio.sleep(STRESS_PERIOD_S * fault.amount)
            finally:
                for node, pause in paused:
                    node.resume(pause)
            fired = fired or any(pause for _, pause in paused)
            await asyncio.sleep(STRESS_PERIOD_S * (1 - fault.amount))
        return fired

    # -- disks and clocks -----------------------------------------------------------------------------

    async def _disk_full(self, fault: LiveFault, alone: bool) -> bool:
        nodes = [self.supervisor.nodes[name] for name in fault.nodes]
        if any(node.volume is None for node in nodes):
            return await self._ail(fault, alone)
        self._fall_ill(fault)
        for node in nodes:
            assert node.volume is not None
            await asyncio.to_thread(node.volume.fill, int(fault.amount))
        ends, fired = self.now() + fault.duration_s, False
        try:
            while self.now() < ends:
                seen = [self.watch.latest.get(name) for name in fault.nodes]
                fired = fired or any(one is not None and one.storage != "ok" for one in seen)
                fired = fired or any(node.fell for node in nodes)
                await asyncio.sleep(TEND_S)
        finally:
            for node in nodes:
                assert node.volume is not None
                node.volume.relieve()
            self._get_well(fault)
        return fired

    async def _ail(self, fault: LiveFault, _alone: bool) -> bool:
        before = {name: self.supervisor.nodes[name].controls.hits() for name in fault.nodes}
        self._fall_ill(fault)
        for name in fault.nodes:
            self._ailing.setdefault(name, []).append(fault)
            self._set_ailments(name)
        try:
            await asyncio.sleep(fault.duration_s)
        finally:
            for name in fault.nodes:
                if fault in self._ailing.get(name, ()):
                    self._ailing[name].remove(fault)
                    self._set_ailments(name)
            self._get_well(fault)
        after = {name: self.supervisor.nodes[name].controls.hits() for name in fault.nodes}
        return any(suffered(fault, after[name]) > suffered(fault, before[name]) for name in fault.nodes)

    def _set_ailments(self, name: str) -> None:
        ailments = Ailments()
        for fault in self._ailing.get(name, ()):
            ailments = worse(ailments, fault, self.supervisor.used_bytes(name))
        self.supervisor.nodes[name].controls.set(ailments)

    # -- links ----------------------------------------------------------------------------------------

    def _others(self, fault: LiveFault) -> list[Pair]:
        """Whom the nodes of a fault on links have on the other side, with the node."""
        places = [*self.supervisor.nodes, CLIENTS]
        peers = fault.peers or [place for place in places if place not in fault.nodes]
        # Clients have no way to each other, nor nodes to themselves.
        return [(peer, node) for node in fault.nodes for peer in peers if peer != node]

    def _pairs(self, fault: LiveFault) -> list[Pair]:
        found = self._others(fault)
        there = [(node, peer) for peer, node in found] if fault.direction != "from" else []
        return there + (found if fault.direction != "to" else [])

    async def _path(self, fault: LiveFault, _alone: bool) -> bool:
        effect = Effect(
            fault.kind,
            fault.amount if fault.kind not in {FaultKind.PARTITION, FaultKind.PARTIAL} else 0.0,
            fault.jitter_s,
            fault.correlation,
            fault.burst_bytes,
            fault.buffer_bytes,
        )
        pairs = self._pairs(fault)
        self.supervisor.mesh.add(pairs, effect)
        try:
            await asyncio.sleep(fault.duration_s)
        finally:
            self.supervisor.mesh.remove(pairs, effect)
        return effect.hits > 0

    async def _reset(self, fault: LiveFault, _alone: bool) -> bool:
        ends, broken = self.now() + fault.duration_s, 0
        while True:
            broken += sum(self.supervisor.mesh.reset(a, b) for a, b in self._others(fault))
            if self.now() >= ends:
                return broken > 0
            await asyncio.sleep(max(RESET_EVERY_S_MIN, fault.amount))

    async def _half_open(self, fault: LiveFault, _alone: bool) -> bool:
        others = self._others(fault)
        lost = sum(self.supervisor.mesh.lose_end(node, peer) for peer, node in others)
        try:
            await asyncio.sleep(fault.duration_s)
        finally:
            for peer, node in others:
                self.supervisor.mesh.end_half_open(node, peer)
        return lost > 0


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def worse(ailments: Ailments, fault: LiveFault, used_bytes: int) -> Ailments:
    """The ailments with one fault more; of two of a kind the later counts."""
    match fault.kind:
        case FaultKind.SLOW_SYNC:
            return replace(ailments, delay_s=fault.amount, delayed=Operation.FSYNC, delay_chance=1.0)
        case LiveKind.SLOW_DISK:
            return replace(
                ailments, delay_s=fault.amount, delayed=fault.operations, delay_chance=fault.chance
            )
        case FaultKind.IO_ERROR:
            return replace(ailments, errno=fault.errno, failing=fault.operations, error_chance=fault.chance)
        case FaultKind.DISK_FULL:
            return replace(ailments, room_bytes=used_bytes + fault.amount)
        case FaultKind.WALL_JUMP:
            return replace(ailments, wall_offset_s=ailments.wall_offset_s + fault.amount)
    raise AssertionError(f"{fault.kind} is no ailment")


def suffered(fault: LiveFault, hits: Hits) -> int:
    """What a node counts when it suffers from a fault like this one."""
    match fault.kind:
        case FaultKind.IO_ERROR:
            return hits.errors
        case FaultKind.DISK_FULL:
            return hits.refusals
        case FaultKind.WALL_JUMP:
            return hits.clock_reads
    return hits.delays
