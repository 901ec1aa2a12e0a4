"""A cluster of engines on a virtual clock, network and disk. One seed decides everything.

It drives the engines as the contract of `consensus.interface` says (persist, then send, then apply),
kills nodes between any two of those steps, and checks Raft's promises after every step.
"""

from __future__ import annotations

import hashlib
import heapq
import itertools
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import msgpack

from consensus.configuration import AddObserver, Change, Configuration, Promote, Remove
from consensus.interface import (
    Entry,
    EntryKind,
    HardState,
    InstalledSnapshot,
    Output,
    Record,
    Recovered,
    Role,
    SnapshotMeta,
    Truncate,
)
from consensus.raft import RaftConfig, RaftEngine


@dataclass
class Disk:
    """What survives a crash: records in the order in which they were written."""

    hard_state: HardState = field(default_factory=lambda: HardState(0, None))
    entries: list[Entry] = field(default_factory=list)
    snapshot: SnapshotMeta | None = None
    content: bytes = b""
    incarnation: int = 0

    def write(self, record: Record) -> None:
        match record:
            case HardState():
                assert record.term >= self.hard_state.term
                self.hard_state = record
            case Entry():
                if self.entries:
                    assert record.index == self.entries[-1].index + 1
                elif self.snapshot:
                    assert record.index == self.snapshot.index + 1
                else:
                    assert record.index == 1
                assert record.term <= self.hard_state.term
                self.entries.append(record)
            case Truncate():
                assert self.entries
                assert record.from_index <= self.entries[-1].index
                self.entries = [entry for entry in self.entries if entry.index < record.from_index]
            case InstalledSnapshot():
                assert self.snapshot == record.meta
                self.entries = []

    def recovered(self) -> Recovered:
        return Recovered(self.hard_state, self.snapshot, list(self.entries), self.incarnation)

    def holds(self, entry: Entry) -> bool:
        if self.snapshot and entry.index <= self.snapshot.index:
            return True
        at = entry.index - self.entries[0].index if self.entries else -1
        return 0 <= at < len(self.entries) and self.entries[at] == entry


class Crash(Exception):
    """The node dies here."""


class Node:
    """One engine, its disk, and the list of what it has applied."""

    def __init__(self, world: World, name: str) -> None:
        self.world, self.name = world, name
        self.disk = world.new_disk()
        self.engine: RaftEngine | None = None
        self.applied: list[Entry] = []
        self.outputs: list[Output] = []

    @property
    def live(self) -> RaftEngine:
        assert self.engine is not None
        return self.engine

    @property
    def role(self) -> Role | None:
        return self.engine.status().role if self.engine else None

    @property
    def is_leader(self) -> bool:
        return self.role is Role.LEADER

    def commands(self) -> list[bytes]:
        return [entry.data for entry in self.applied if entry.kind is EntryKind.COMMAND]

    def start(self) -> None:
        world = self.world
        assert self.engine is None
        self.applied = unpack(self.disk.content) if self.disk.snapshot else []
        self.engine = RaftEngine(
            self.name,
            world.initial if self.name in world.initial else (),
            self.disk.recovered(),
            now=world.now,
            random=random.Random(world.random.random()),
            config=world.config,
        )
        self.settle()
        for peer in world.nodes.values():
            if self.engine is None:
                return
            if peer is not self and peer.engine and not world.is_cut(self.name, peer.name):
                self.engine.peer_connected(peer.name, world.now)
                peer.engine.peer_connected(self.name, world.now)
                peer.settle()
        self.settle()

    def lose_disk(self) -> None:
        """The node dies, and its disk with it."""
        if self.engine:
            self.crash()
        self.world.lost[self.name, self.disk.incarnation] = self.disk
        self.disk = self.world.new_disk()

    def change(self, change: Change) -> int:
        """Change the members, and perform what follows from it."""
        index = self.live.change_membership(change, self.world.now)
        self.settle()
        return index

    def crash(self) -> None:
        self.engine = None
        for peer in self.world.nodes.values():
            if peer.engine:
                peer.engine.peer_disconnected(self.name, self.world.now)
                peer.settle()

    def settle(self) -> None:
        """Perform the output completely, or die on the way."""
        if self.engine is None:
            return
        try:
            self._perform(self.engine.take_output())
        except Crash:
            self.crash()
            return
        self.world.check(self)

    def _perform(self, output: Output) -> None:
        self.outputs.append(output)
        for peer, message in output.send_early:
            self.world.send(self.name, peer, message)
        for record in output.persist:
            self._may_die()
            self.disk.write(record)
        if output.persist:
            self._may_die()
        for peer, message in output.send:
            self.world.send(self.name, peer, message)
        if output.restore:
            assert output.restore == self.disk.snapshot
            self.applied = unpack(self.disk.content)
        for entry in output.committed:
            assert entry.index == len(self.applied) + 1, (self.name, entry.index, len(self.applied))
            self.applied.append(entry)
            self.world.committed(entry)
        for context, index in output.reads:
            self.world.confirmed(context, index)
        for context in output.reads_refused:
            del self.world.reads[context]
        for peer in output.snapshot_needed:
            self.send_snapshot(peer)

    def _may_die(self) -> None:
        if self.world.crash_rate and self.world.random.random() < self.world.crash_rate:
            raise Crash

    def propose(self, data: bytes) -> tuple[int, int]:
        """Propose, and perform what follows from it."""
        position = self.live.propose(data, self.world.now)
        self.settle()
        return position

    def read(self) -> int:
        """Ask for a position to read at, and perform what follows from it. Gives the context."""
        world = self.world
        context = next(world.contexts)
        self.live.read_index(context, world.now)
        world.reads[context] = max(world.log, default=1)
        self.settle()
        return context

    def take_snapshot(self, retain_entries: int = 0) -> SnapshotMeta:
        """Snapshot what is applied, and compact the log and the disk behind it."""
        assert len(self.applied) >= 2
        meta, content = pack(self.applied, self.live.configuration_at(self.applied[-1].index))
        self.disk.snapshot, self.disk.content = meta, content
        keep = self.live.compact(meta, retain_entries)
        self.disk.entries = [entry for entry in self.disk.entries if entry.index >= keep]
        return meta

    def send_snapshot(self, peer: str) -> None:
        if self.disk.snapshot:
            term = self.live.status().term
            self.world.send(self.name, peer, ("snapshot", term, self.disk.snapshot, self.disk.content))

    def on_message(self, peer: str, message: object) -> None:
        now = self.world.now
        match message:
            case bytes():
                self.live.receive(peer, message, now)
                self.settle()
            case ("snapshot", term, meta, content):
                self._on_snapshot(peer, term, meta, content)
            case ("delivered", term, index):
                self.live.snapshot_delivered(peer, term, index, now)
                self.settle()

    def _on_snapshot(self, peer: str, term: int, meta: SnapshotMeta, content: bytes) -> None:
        if meta.index <= self.live.status().commit_index:
            self.world.send(self.name, peer, ("delivered", term, meta.index))
            return
        before = self.disk.snapshot, self.disk.content
        self.disk.snapshot, self.disk.content = meta, content
        if self.world.crash_rate and self.world.random.random() < 0.2:
            self.crash()
            return
        if self.live.install_snapshot(peer, term, meta, self.world.now):
            self.settle()
            if self.engine:
                self.world.send(self.name, peer, ("delivered", term, meta.index))
        else:
            self.disk.snapshot, self.disk.content = before
            self.settle()


class World:
    """The clock, the network, the nodes and the promises."""

    def __init__(
        self,
        size: int,
        seed: int = 0,
        config: RaftConfig | None = None,
        *,
        start: bool = True,
        incarnations: bool = False,
    ) -> None:
        self.random = random.Random(seed)
        self.config = config or RaftConfig()
        self.now = 0.0
        self._incarnations = itertools.count(1001) if incarnations else itertools.repeat(0)
        self.lost: dict[tuple[str, int], Disk] = {}
        """What was on disks that are gone."""
        self.initial = tuple(f"n{i}" for i in range(1, size + 1))
        self.configurations: list[tuple[int, Configuration]] = []
        """Those that are committed, and where."""
        self.nodes = {name: Node(self, name) for name in self.initial}
        self.latency_s = (0.001, 0.003)
        self.drop_rate = self.duplicate_rate = self.crash_rate = 0.0
        self.reorder = False
        self.cuts: set[frozenset[str]] = set()
        self.held: Callable[[str, str, object], bool] | None = None
        self.trace = hashlib.sha256()
        self.sent: list[tuple[str, str, object]] = []
        self.bytes_sent = 0
        self._events: list[tuple[float, int, str, str, object]] = []
        self._count = 0
        self._arrival: dict[tuple[str, str], float] = {}
        self.log: dict[int, Entry] = {}
        self.contexts = itertools.count(1)
        self.reads: dict[int, int] = {}
        """Reads under way, and what was committed when they came, by anybody."""
        self.read_at: dict[int, int] = {}
        self.leaders: dict[int, str] = {}
        self._checked_leaders: set[tuple[int, str]] = set()
        if start:
            for node in self.nodes.values():
                node.start()

    def __getitem__(self, name: str) -> Node:
        return self.nodes[name]

    def new_disk(self) -> Disk:
        return Disk(incarnation=next(self._incarnations))

    def join(self, name: str) -> Node:
        """Start a node that waits to be taken in."""
        node = self.nodes[name] = Node(self, name)
        node.start()
        return node

    def add(self, name: str) -> AddObserver:
        return AddObserver(name, self.nodes[name].disk.incarnation, f"{name}:1")

    def promote(self, name: str) -> Promote:
        return Promote(name, self.nodes[name].disk.incarnation)

    def remove(self, name: str) -> Remove:
        return Remove(name, self.nodes[name].disk.incarnation)

    # -- network -----------------------------------------------------------------------------------

    def is_cut(self, a: str, b: str) -> bool:
        return frozenset((a, b)) in self.cuts

    def send(self, source: str, target: str, message: object) -> None:
        self.sent.append((source, target, message))
        if isinstance(message, bytes):
            self.bytes_sent += len(message)
            self.trace.update(f"{self.now:.6f}{source}{target}".encode() + message)
        if self.is_cut(source, target) or (self.held and self.held(source, target, message)):
            return
        if self.drop_rate and self.random.random() < self.drop_rate:
            return
        self.post(source, target, message)
        if self.duplicate_rate and self.random.random() < self.duplicate_rate:
            self.post(source, target, message, late=True)

    def post(self, source: str, target: str, message: object, *, late: bool = False) -> None:
        """Have ``message`` arrive after a while: in order, unless the world reorders."""
        low, high = self.latency_s
        at = self.now + self.random.uniform(low, high * (20 if late else 1))
        if not self.reorder and not late:
            at = max(at, self._arrival.get((source, target), 0.0))
            self._arrival[source, target] = at
        self._count += 1
        heapq.heappush(self._events, (at, self._count, source, target, message))

    def cut(self, *groups: list[str]) -> None:
        """Only nodes of one group reach one another from now on."""
        side = {name: i for i, group in enumerate(groups) for name in group}
        names = sorted(self.nodes)
        for a in names:
            for b in names:
                if a < b and side.get(a) != side.get(b):
                    self._separate(a, b)

    def _separate(self, a: str, b: str) -> None:
        if self.is_cut(a, b):
            return
        self.cuts.add(frozenset((a, b)))
        for node, peer in ((a, b), (b, a)):
            if engine := self.nodes[node].engine:
                engine.peer_disconnected(peer, self.now)
                self.nodes[node].settle()

    def heal(self) -> None:
        """Every node reaches every node."""
        for pair in sorted(self.cuts, key=sorted):
            self.cuts.discard(pair)
            a, b = sorted(pair)
            if self.nodes[a].engine and self.nodes[b].engine:
                for node, peer in ((a, b), (b, a)):
                    if engine := self.nodes[node].engine:
                        engine.peer_connected(peer, self.now)
                        self.nodes[node].settle()

    # -- time --------------------------------------------------------------------------------------

    def _next_tick(self) -> tuple[float, str] | None:
        ticks = [(node.engine.next_deadline(), name) for name, node in self.nodes.items() if node.engine]
        return min(ticks, default=None)

    def step(self, until: float) -> bool:
        """Let the next thing happen that happens before ``until``."""
        tick = self._next_tick()
        message_at = self._events[0][0] if self._events else float("inf")
        at = min(message_at, tick[0] if tick else float("inf"))
        if at > until:
            self.now = until
            return False
        self.now = max(self.now, at)
        if message_at <= at:
            _, _, source, target, message = heapq.heappop(self._events)
            if self.nodes[target].engine and not self.is_cut(source, target):
                self.nodes[target].on_message(source, message)
            return True
        node = self.nodes[tick[1]]
        node.live.tick(self.now)
        node.settle()
        return True

    def run(self, seconds: float) -> None:
        """Let ``seconds`` pass."""
        until = self.now + seconds
        steps = 0
        while self.step(until):
            steps += 1
            assert steps < 1_000_000, "the cluster spins"

    def run_until(self, reached: Callable[[], bool], limit_s: float = 10.0) -> float:
        """Run until ``reached`` and return how long that took."""
        begun = self.now
        while not reached():
            assert self.step(begun + limit_s), f"not reached in {limit_s} s: {self}"
        return self.now - begun

    # -- what tests ask ----------------------------------------------------------------------------

    def up(self) -> Iterator[Node]:
        return (node for node in self.nodes.values() if node.engine)

    def leader(self) -> Node | None:
        """The leader of the highest term."""
        leaders = [node for node in self.up() if node.is_leader]
        return max(leaders, key=lambda node: node.live.status().term, default=None)

    def elect(self, limit_s: float = 10.0) -> Node:
        """Run until there is a leader whose first entry is committed, and that a majority follows."""

        def settled() -> bool:
            leader = self.leader()
            if leader is None or leader.applied == [] or leader.applied[-1].term != leader.live.status().term:
                return False
            voters = leader.live.configuration().voters
            followers = [n for n in self.up() if n.name in voters and n.live.status().leader == leader.name]
            return 2 * len(followers) > len(voters)

        self.run_until(settled, limit_s)
        leader = self.leader()
        assert leader is not None
        return leader

    def converge(self, limit_s: float = 10.0) -> None:
        """Run until every live node has applied everything that any log holds."""

        def equal() -> bool:
            leader = self.leader()
            last = leader.live.status().last_index if leader else -1
            return all(len(node.applied) == last for node in self.members())

        self.run_until(equal, limit_s)
        first = self.leader()
        assert first is not None
        assert all(node.applied == first.applied for node in self.members())

    def members(self) -> list[Node]:
        """Those nodes that are up and members, by what the leader says."""
        leader = self.leader()
        if leader is None:
            return list(self.up())
        known = leader.live.configuration().members
        servers = {(member.name, member.incarnation) for member in known}
        return [n for n in self.up() if {(n.name, n.disk.incarnation), (n.name, 0)} & servers]

    # -- Raft's promises ---------------------------------------------------------------------------

    def committed(self, entry: Entry) -> None:
        """State Machine Safety, and that a commit is on a majority of disks."""
        known = self.log.setdefault(entry.index, entry)
        assert known == entry, f"entry {entry.index} was committed as {known} and as {entry}"
        if entry.index == 1:
            return  # every node begins with it
        if entry.kind is EntryKind.CONFIG and entry.index not in dict(self.configurations):
            self.configurations.append((entry.index, Configuration.decode(entry.data)))
        disks = {(node.name, node.disk.incarnation): node.disk for node in self.nodes.values()} | self.lost
        holders = {server for server, disk in disks.items() if disk.holds(entry)}
        assert any(majority(holders, known) for known in self._electorates(entry.index)), (
            f"entry {entry.index} is committed with copies on {sorted(holders)}"
        )

    def _electorates(self, index: int) -> Iterator[Configuration]:
        """Who can have decided about the entry at ``index``: see `simulations.invariants`."""
        known = [configuration for at, configuration in self.configurations if at <= index]
        yield known[-1] if known else Configuration.of_voters(self.initial)
        for node in self.up():
            yield node.live.configuration()

    def confirmed(self, context: int, index: int) -> None:
        """Linearizable reads: a read sees all that was committed anywhere before it came."""
        before = self.reads.pop(context)
        assert index >= before, f"read {context} is told {index}, but {before} was committed when it came"
        self.read_at[context] = index

    def check(self, node: Node) -> None:
        """Election Safety and Leader Completeness."""
        if not node.is_leader:
            return
        status = node.live.status()
        if (status.term, node.name) in self._checked_leaders:
            return
        self._checked_leaders.add((status.term, node.name))
        known = self.leaders.setdefault(status.term, node.name)
        assert known == node.name, f"{known} and {node.name} both lead term {status.term}"
        for entry in self.log.values():
            if entry.index > 1:
                assert node.disk.holds(entry), f"leader {node.name} of term {status.term} lacks {entry}"

    def __repr__(self) -> str:
        lines = [f"t={self.now:.3f} cuts={[sorted(c) for c in self.cuts]}"]
        lines += [
            f"  {node.name}: {node.engine.status() if node.engine else 'down'}"
            for node in self.nodes.values()
        ]
        return "\n".join(lines)


def majority(servers: set[tuple[str, int]], configuration: Configuration) -> bool:
    """Whether ``servers`` have a majority of the voters; an incarnation of 0 in the list is any."""
    names = {name for name, _ in servers}
    have = [
        m
        for m in configuration.members
        if m.votes and (m.name in names if m.incarnation == 0 else (m.name, m.incarnation) in servers)
    ]
    return 2 * len(have) > len(configuration.voters)


def pack(applied: list[Entry], configuration: bytes = b"") -> tuple[SnapshotMeta, bytes]:
    content = msgpack.packb([(e.index, e.term, int(e.kind), e.data) for e in applied])
    meta = SnapshotMeta(
        applied[-1].index,
        applied[-1].term,
        applied[-2].term,
        len(content),
        hashlib.sha256(content).hexdigest(),
        configuration,
    )
    return meta, content


def unpack(content: bytes) -> list[Entry]:
    return [Entry(i, t, EntryKind(k), d) for i, t, k, d in msgpack.unpackb(content)]
