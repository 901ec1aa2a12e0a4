"""Nodes that only gossip, on one world's clock and network.

Datagrams go through :class:`~simulations.network.Network`, which loses, repeats and reorders them as it
is told. Streams are modelled apart, for what is lost there is sent again: a connection opens with two
packets (sent again after 1 s, as Linux does) and carries its message in one more (sent again after 0.2
s), each time twice as late.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from typing import Any, Final

from mcp.cluster.gossip.core import Gossip
from mcp.cluster.gossip.events import Event, EventKind
from mcp.cluster.gossip.limits import DATAGRAM_BYTES_MAX, DEFAULT_LIMITS, STREAM_BYTES_MAX, GossipLimits
from mcp.cluster.gossip.updates import State
from mcp.node.card import make_card, make_load
from mcp.node.gauges import Capacity, Sample
from simulations.faults import FaultKind
from simulations.network import Network
from simulations.world import World

DATAGRAM_HEADERS_BYTES: Final = 28
"""IPv4 and UDP."""
SEGMENT_HEADERS_BYTES: Final = 40
"""IPv4 and TCP."""
CONNECTION_SEGMENTS: Final = 5
"""What an end of a connection sends to open, acknowledge and close it, beside the message."""
OPEN_AGAIN_S: Final = 1.0
SEND_AGAIN_S: Final = 0.2
GIVE_UP_S: Final = 10.0
"""A connection that has not come about by then is given up."""
CLUSTER: Final = "simulated"
KEY: Final = b"of this cluster only"


class Broken(AssertionError):
    """A rule that every view keeps was broken."""


class Host:
    """One machine, and the node that runs on it or does not."""

    def __init__(self, cluster: GossipCluster, name: str) -> None:
        self._cluster = cluster
        self.name = name
        self.core: Gossip | None = None
        self.lives = 0
        self.sent_bytes = 0
        self.events: list[Event] = []
        self.known: dict[str, int] = {}
        self._armed_at = float("inf")
        self._unread: list[tuple[str, bytes, bool]] | None = None

    @property
    def alive(self) -> bool:
        """See :class:`~simulations.network.Endpoint`."""
        return self.core is not None

    def link_up(self, peer: str) -> None:
        """See :class:`~simulations.network.Endpoint`. Datagrams know no connections."""

    def link_down(self, peer: str) -> None:
        """See :class:`~simulations.network.Endpoint`."""

    def deliver(self, peer: str, message: bytes) -> None:
        """A datagram has arrived."""
        self.read(peer, message, by_stream=False)

    def read(self, peer: str, message: bytes, *, by_stream: bool) -> None:
        """Something has arrived; a process that stands still reads it when it goes on."""
        if self._unread is not None:
            self._unread.append((peer, message, by_stream))
        elif self.core is not None:
            now = self._cluster.world.now
            if by_stream:
                self.core.receive_stream(message, now)
            else:
                self.core.receive(message, address_of(peer), now)
            self.pump()

    def start(self, core: Gossip) -> None:
        """Run this."""
        self.core = core
        self.lives += 1
        self.known.clear()
        self._armed_at = float("inf")
        self.pump()

    def stop(self) -> None:
        """The process is gone."""
        self.core = self._unread = None

    def pause(self) -> None:
        """The process stands still."""
        self._unread = []

    def resume(self) -> None:
        """The process goes on: first with its timers, as event loops do, then with what it has not read."""
        unread, self._unread = self._unread or [], None
        if self.core is not None:
            self.core.tick(self._cluster.world.now)
            self.pump()
        for peer, message, by_stream in unread:
            self.read(peer, message, by_stream=by_stream)

    def pump(self) -> None:
        """Send what is to be sent, and wake up when something is due."""
        core, cluster = self.core, self._cluster
        if core is None:
            return
        output = core.take_output()
        for address, data in output.datagrams:
            self.sent_bytes += len(data) + DATAGRAM_HEADERS_BYTES
            cluster.send(self.name, address, data)
        for address, data in output.streams:
            cluster.stream(self, address, data)
        for event in output.events:
            self.events.append(event)
            cluster.heard(self, event)
        due = core.next_deadline()
        if due < self._armed_at:
            self._armed_at = due
            cluster.world.at(due, self._wake, self.lives, due)

    def _wake(self, life: int, due: float) -> None:
        if life != self.lives or due != self._armed_at or self.core is None:
            return
        self._armed_at = float("inf")
        if self._unread is None:
            if self.core.next_deadline() <= self._cluster.world.now:
                self.core.tick(self._cluster.world.now)
            self.pump()


class GossipCluster:
    """``nodes`` hosts named ``n00``, ``n01`` and so on; none is started yet."""

    def __init__(
        self, seed: int, nodes: int, *, delay_s: float = 0.002, limits: GossipLimits = DEFAULT_LIMITS
    ) -> None:
        self.world = World(seed)
        self.limits = limits
        names = [f"n{number:02}" for number in range(nodes)]
        self.hosts = {name: Host(self, name) for name in names}
        self.fired: Counter[FaultKind] = Counter()
        self.network = Network(
            self.world,
            self.hosts,
            names=names,
            delay_s=delay_s,
            redial_s=0.02,
            late_s=1.0,
            fired=lambda kind: self.fired.update((kind,)),
        )
        self._delay_s = delay_s
        self._random = self.world.stream("streams")
        self.no_datagrams: set[tuple[str, str]] = set()
        """Paths that carry streams only, as behind some firewalls."""
        self.announced: set[str] = set()
        self.counts: Counter[EventKind] = Counter()
        self.false_deaths = 0

    # -- what happens to nodes ----------------------------------------------------------------------

    def start(
        self,
        host_name: str,
        seeds: Iterable[str],
        *,
        name: str | None = None,
        card: Mapping[str, Any] | None = None,
    ) -> None:
        """Start a node on this host, named like it where nothing else is said.

        ``seeds`` are names of hosts, some of which may not run.
        """
        host = self.hosts[host_name]
        name = host_name if name is None else name
        now = self.world.now
        core = Gossip(
            name,
            address_of(host_name),
            cluster_id=CLUSTER,
            cluster_key=KEY,
            random_=self.world.stream(f"gossip/{host_name}/{host.lives}"),
            now=now,
            seeds=map(address_of, seeds),
            limits=self.limits,
        )
        core.set_card(_card(host.lives) if card is None else card, now)
        core.set_load(_LOAD)
        self.announced.add(name)
        self.network.joined(host_name)
        host.start(core)

    def start_all(self, seeds: Collection[str], within_s: float = 0.2) -> None:
        """Start every node, each at some time within so many seconds."""
        random_ = self.world.stream("starts")
        for name in self.hosts:
            self.world.after(random_.random() * within_s, self.start, name, seeds)

    def crash(self, name: str) -> None:
        """The process is gone, without a word."""
        self.hosts[name].stop()
        self.network.gone(name, 0.0)

    def pause(self, name: str, seconds: float) -> None:
        """The process stands still for so long."""
        self.hosts[name].pause()
        self.world.after(seconds, self.hosts[name].resume)

    def part(self, some: Iterable[str]) -> list[tuple[str, str]]:
        """These nodes and the others do not hear each other; the paths that are cut."""
        inside = set(some)
        cut = [(a, b) for a, b in self.network.paths if (a in inside) != (b in inside)]
        self.network.add(cut, FaultKind.PARTITION, 0.0)
        return cut

    def everywhere(self, kind: FaultKind, amount: float) -> None:
        """Every path suffers from this."""
        self.network.add(list(self.network.paths), kind, amount)

    # -- carrying -----------------------------------------------------------------------------------

    def send(self, source: str, address: str, data: bytes) -> None:
        """A datagram."""
        if len(data) > DATAGRAM_BYTES_MAX:
            raise Broken(f"{source} sends a datagram of {len(data)} bytes")
        target = address.partition(":")[0]
        if target in self.hosts and target != source and (source, target) not in self.no_datagrams:
            self.network.send(source, target, data)

    def stream(self, source: Host, address: str, data: bytes) -> None:
        """A stream message over a connection of its own."""
        if len(data) > STREAM_BYTES_MAX:
            raise Broken(f"{source.name} sends a stream message of {len(data)} bytes")
        segments = CONNECTION_SEGMENTS + -(-len(data) // DATAGRAM_BYTES_MAX)
        source.sent_bytes += len(data) + segments * SEGMENT_HEADERS_BYTES
        target = address.partition(":")[0]
        if target not in self.hosts or target == source.name:
            return
        there, back = self.network.paths[source.name, target], self.network.paths[target, source.name]
        if there.blockers or back.blockers:
            return
        loss = max(there.loss, back.loss)
        took_s = sum(self._packet_s(loss, again_s) for again_s in (OPEN_AGAIN_S, OPEN_AGAIN_S, SEND_AGAIN_S))
        if took_s < GIVE_UP_S:
            host = self.hosts[target]
            self.world.after(took_s, self._arrive, source.name, host, host.lives, data)

    def _packet_s(self, loss: float, again_s: float) -> float:
        took_s = self._delay_s * (0.5 + self._random.random())
        while took_s < GIVE_UP_S and self._random.random() < loss:
            took_s += again_s
            again_s *= 2
        return took_s

    def _arrive(self, source: str, host: Host, life: int, data: bytes) -> None:
        if host.lives == life:
            host.read(source, data, by_stream=True)

    # -- rules --------------------------------------------------------------------------------------

    def heard(self, host: Host, event: Event) -> None:
        """A node has told of something. Raises :class:`Broken` where that cannot be."""
        self.counts[event.kind] += 1
        if event.kind is EventKind.DIED and any(self.is_there(core, event.name) for core in self.cores()):
            self.false_deaths += 1
        if event.name not in self.announced:
            raise Broken(f"{host.name} has {event.name} in its view, whom nobody announced")
        if event.kind is EventKind.CONFLICT:
            return
        if host.core is not None and event.name == host.core.name:
            raise Broken(f"{host.name} holds itself for {event.state.name}")
        if event.incarnation < host.known.get(event.name, 0):
            raise Broken(f"{host.name}: the incarnation of {event.name} went back to {event.incarnation}")
        host.known[event.name] = event.incarnation

    def check(self) -> None:
        """Look at every view. Raises :class:`Broken` where one cannot be."""
        for core in self.cores():
            for member in core.members(self.world.now):
                name = core.name
                if member.name not in self.announced:
                    raise Broken(f"{name} has {member.name} in its view, whom nobody announced")
                if member.name == name and not member.state.present and not core.has_left:
                    raise Broken(f"{name} holds itself for {member.state.name}")

    # -- looking ------------------------------------------------------------------------------------

    def running(self) -> dict[str, Gossip]:
        """The nodes that run."""
        return {name: host.core for name, host in self.hosts.items() if host.core is not None}

    def cores(self) -> list[Gossip]:
        """The same, without the names of their hosts."""
        return list(self.running().values())

    @staticmethod
    def is_there(core: Gossip, name: str) -> bool:
        """Whether this is the node of that name, as far as the others should know."""
        return core.name == name and not core.contested and not core.leaving

    def views_are_equal(self) -> bool:
        """Whether all running nodes see exactly the running ones, all alive and with all else equal."""
        running = [core for core in self.cores() if not core.contested]
        if len({core.digest for core in running}) != 1:
            return False
        views = {
            tuple(
                (m.name, m.address, m.state, m.incarnation, m.card_version)
                for m in core.members(self.world.now)
                if m.state.present
            )
            for core in running
        }
        if len(views) > 1:
            return False
        return {(name, state) for name, _, state, *_ in next(iter(views))} == {
            (core.name, State.ALIVE) for core in running
        }

    def all_see(self, name: str, state: State) -> bool:
        """Whether every running node but the one itself sees it in this state."""
        return all(
            any(member.name == name and member.state is state for member in core.members(self.world.now))
            for core in self.cores()
            if core.name != name
        )

    def sent_bytes(self) -> dict[str, int]:
        """What each host has sent so far, headers included."""
        return {name: host.sent_bytes for name, host in self.hosts.items()}


def _card(life: int) -> dict[str, Any]:
    """As whole nodes have it; their last lives' are others."""
    return make_card(
        models={"digits@1": 17},
        providers=("cpu",),
        capacity=Capacity(cores=4, memory_bytes=16 * 1024**3),
        workers=3,
        labels={"life": str(life)},
        standing="voter",
        version="1.0",
    )


_LOAD: Final = make_load(
    Sample(cpu=0.5, memory_free_bytes=8 * 1024**3), queue=20, running=3, applied_index=1_000_000
)


def address_of(name: str) -> str:
    """Where a host can be reached."""
    return f"{name}:7400"
