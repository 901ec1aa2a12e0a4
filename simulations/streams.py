"""Byte streams between the machines of a world, over paths that fail.

Production's connections run on it unchanged: every byte goes through the very frames, handshakes and
keepalives that it would meet on TCP. A stream keeps what TCP promises (in order, whole, until it breaks),
so the faults of a path are what TCP makes of them: a lost segment comes later, and what is behind it too;
what a partition holds back arrives when it heals, also in one direction only; a connection that one end
has forgotten is reset by the next segment that gets through. A process that is killed closes its
connections; a machine without power says nothing, and answers what it does not know when it is back.

Datagrams go beside them over the same paths, and there faults are what they are: lost is lost, a partition
swallows, and on a bad path some come twice. Each takes its own time, so that they overtake each other.

It offers what `simulations.chaos` asks of a network, so that a fault means the same here as for messages.
"""

from __future__ import annotations

import asyncio
import random
import zlib
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from mcp.net.interface import Heard
from mcp.net.memory import MemoryNetwork, MemoryTransport, ProtocolFactory
from mcp.wire.frame import Buffer
from simulations.faults import FaultKind
from simulations.network import Path
from simulations.virtual_time import VirtualLoop
from simulations.world import World

RESEND_S = 0.2
"""After this a lost segment is sent again, then after twice as long, and so on."""
RESENDS_MAX = 6
DATAGRAM_TWICE = 0.05
"""Of the datagrams on a path with any fault, so many come a second time, up to a second later."""

SYN, FIN, RESET = "syn", "fin", "reset"
"""What travels beside bytes: a connection begins, ends in good order, or is broken."""

Fired = Callable[[FaultKind], None]


class Host:
    """One machine's place in the network. ``up``: it has power. Processes on it come and go.

    ``address``: under which others reach it; at first that is its name.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.address = name
        self.up = True
        self.processes: list[HostNetwork] = []

    def listener(self) -> tuple[HostNetwork, ProtocolFactory] | None:
        """Who accepts connections here."""
        for process in self.processes:
            if self.address in process.listening:
                return process, process.listening[self.address]
        return None

    def ear(self) -> tuple[HostNetwork, Heard] | None:
        """Who hears datagrams here."""
        for process in self.processes:
            if (heard := process.heard_at(self.address)) is not None:
                return process, heard
        return None


class Pipe:
    """One direction of one connection: what is on its way, and until when."""

    def __init__(self, streams: Streams, number: int, source: Host, target: Host) -> None:
        self.number = number
        self.source, self.target = source, target
        self.bytes = 0
        self.sink: StreamEnd | None = None
        """The end that receives; ``None`` before it was accepted, and when its process is gone."""
        self.back: Pipe | None = None
        """The other direction."""
        self.dropped = False
        """Something between the two has forgotten this connection: what is sent vanishes."""
        self._streams = streams
        self._path = streams.path(source.name, target.name)
        self._items: deque[tuple[float, bytes | str]] = deque()
        self._last = 0.0
        self._armed = -1.0

    def send(self, item: bytes | str, now: float) -> None:
        """``item`` leaves the source at the world's time ``now``."""
        if self.dropped or not self.source.up:
            return
        size = len(item) if isinstance(item, bytes) else 0
        self.bytes += size
        self._last = max(self._last, self._streams.arrival(self._path, size, now))
        self._items.append((self._last, item))
        self._streams.note(self.number, now, item)
        if len(self._items) == 1:
            self._arm()

    def go_on(self) -> None:
        """The path has changed: what is on its way arrives as soon as a healthy path brings it."""
        soon = self._streams.healthy_arrival()
        self._items = deque((min(at, soon), item) for at, item in self._items)
        self._last = min(self._last, soon)
        self._arm()

    @property
    def in_use(self) -> bool:
        """Whether anybody may still send or receive here."""
        return (
            bool(self._items)
            or self.sink is not None
            or (self.back is not None and self.back.sink is not None)
        )

    def clear(self) -> None:
        """Everything on the way is lost."""
        self._items.clear()
        self.bytes = 0

    def _arm(self) -> None:
        if self._items:
            self._armed = self._items[0][0]
            self._streams.world.at(self._armed, self._arrive, self._armed)

    def _arrive(self, armed: float) -> None:
        if armed != self._armed or not self._items:
            return
        if self._path.blockers:
            for kind in self._path.blockers:
                self._streams.fired(kind)
            self._armed = -1.0
            return
        now, items = self._streams.world.now, self._items
        while items and items[0][0] <= now:
            _, item = items.popleft()
            self._hand_over(item)
        self._arm()

    def _hand_over(self, item: bytes | str) -> None:
        if isinstance(item, bytes):
            self.bytes -= len(item)
        if not self.target.up or self.dropped:
            return
        if item == SYN:
            self._streams.accept(self)
        elif self.sink is not None:
            self.sink.take(item)
        elif isinstance(item, bytes) and self.back is not None:
            # Nobody knows this connection here.
            self.back.send(RESET, self._streams.world.now)


class StreamEnd(MemoryTransport):
    """One end of a connection, in one process. Before it was accepted it has no protocol."""

    def __init__(
        self, owner: HostNetwork, protocol: Any, address: str, incoming: Pipe, outgoing: Pipe
    ) -> None:
        super().__init__(owner.loop, protocol, address)
        self.owner = owner
        self.incoming, self.outgoing = incoming, outgoing
        incoming.sink = self
        owner.ends[incoming.number] = self

    def accepted(self, factory: ProtocolFactory) -> None:
        """The process takes the connection."""
        if not self._closing:
            self._protocol = factory()
            self._protocol.connection_made(self)
            self.resume_reading()

    # -- what a protocol calls ----------------------------------------------------------------------

    def write(self, data: Buffer) -> None:
        """Send a copy of ``data``."""
        if self._closing:
            return
        self.outgoing.send(bytes(data), self.owner.loop.world_now())
        if not self._write_paused and self.get_write_buffer_size() > self._high:
            self._write_paused = True
            self._protocol.pause_writing()

    def get_write_buffer_size(self) -> int:
        """Bytes on their way and not read."""
        other = self.outgoing.sink
        return self.outgoing.bytes + (0 if other is None else len(other._incoming))

    def write_eof(self) -> None:
        """Tell the other end, behind all data, that nothing more will come."""
        self.outgoing.send(FIN, self.owner.loop.world_now())

    def _end(self, error: Exception | None, *, lost: bool) -> None:
        if self._closing:
            return
        self.outgoing.send(RESET if lost else FIN, self.owner.loop.world_now())
        self._gone(None)

    # -- what the network does ----------------------------------------------------------------------

    def take(self, item: bytes | str) -> None:
        """Something has arrived."""
        if isinstance(item, bytes):
            self._incoming += item
            self._schedule()
        elif item == FIN:
            self._incoming_ended = True
            self._schedule()
        else:
            self.broken(ConnectionResetError("the other end broke the connection"))

    def broken(self, error: Exception) -> None:
        """The connection is gone at this end, and the other is not told."""
        if not self._closing:
            self._gone(error)

    def vanish(self, *, tell: bool) -> None:
        """The process is gone; with ``tell`` its system closes the connection for it."""
        if tell:
            # Data that nobody has read makes it a reset.
            self.outgoing.send(RESET if self._incoming else FIN, self.owner.loop.world_now())
        self._closing = True
        self.incoming.sink = None

    def room(self) -> None:
        """The other end has read."""
        if self._write_paused and self.get_write_buffer_size() <= self._low:
            self._write_paused = False
            self._loop.call_soon(self._resume_writing)

    def _resume_writing(self) -> None:
        if not self._closing and not self._write_paused:
            self._protocol.resume_writing()

    def _deliver(self) -> None:
        super()._deliver()
        writer = self.outgoing.sink
        if writer is not None:
            writer.room()

    def _gone(self, error: Exception | None) -> None:
        self._closing = True
        self._incoming.clear()
        self.incoming.sink = None
        self.owner.ends.pop(self.incoming.number, None)
        if self._protocol is not None:
            self._loop.call_soon(self._protocol.connection_lost, error)


class HostNetwork(MemoryNetwork):
    """The network as one process on one machine sees it."""

    def __init__(self, streams: Streams, host: Host, loop: VirtualLoop) -> None:
        super().__init__()
        self.streams, self.host, self.loop = streams, host, loop
        self.listening: dict[str, ProtocolFactory] = {}
        self.ends: dict[int, StreamEnd] = {}
        host.processes.append(self)

    def listen(self, name: str, factory: ProtocolFactory) -> None:
        """Accept connections to this machine."""
        self.listening[name] = factory

    def stop_listening(self, name: str) -> None:
        """Accept no more."""
        self.listening.pop(name, None)

    def connect(self, name: str, factory: ProtocolFactory) -> asyncio.BufferedProtocol:
        """Begin a connection to another machine. Whether anybody answers shows later."""
        target = self.streams.reached_at(name)
        if target is None:
            raise ConnectionRefusedError(f"there is no machine at {name}")
        outgoing, incoming = self.streams.pipes(self.host, target)
        end = StreamEnd(self, factory(), f"memory://{name}", incoming, outgoing)
        outgoing.send(SYN, self.loop.world_now())
        end._protocol.connection_made(end)
        return end._protocol

    def carry(self, source: str, target: str, data: bytes) -> None:
        """Send a datagram to another machine."""
        self.streams.datagram(self.host, target, data, self.loop.world_now())

    def heard_at(self, name: str) -> Heard | None:
        """What hears datagrams to this name in this process."""
        return self._heard.get(name)

    def die(self, *, tell: bool) -> None:
        """The process is gone. With ``tell`` the machine lives on and closes its connections."""
        self.host.processes.remove(self)
        self.listening.clear()
        self._heard.clear()
        ends, self.ends = list(self.ends.values()), {}
        for end in ends:
            end.vanish(tell=tell)


class Streams:
    """All machines and the paths between them.

    ``near`` puts a client's machine beside a node: what befalls the paths of the node befalls it too.
    """

    def __init__(self, world: World, fired: Fired, *, delay_s: float, near: Mapping[str, str]) -> None:
        self.world = world
        self.fired = fired
        self.hosts: dict[str, Host] = {}
        self._addresses: dict[str, Host] = {}
        self.bytes_sent = 0
        self._random: random.Random = world.stream("streams")
        self._datagrams: random.Random = world.stream("datagrams")
        self._delay_s = delay_s
        self._beside: dict[str, list[str]] = {}
        for client, node in near.items():
            self._beside.setdefault(node, []).append(client)
        self._paths: dict[tuple[str, str], Path] = {}
        self._pipes: dict[tuple[str, str], list[Pipe]] = {}
        self._held: Counter[tuple[str, str]] = Counter()
        self._count = 0

    def host(self, name: str) -> Host:
        """The machine of that name."""
        if name not in self.hosts:
            self.hosts[name] = self._addresses[name] = Host(name)
        return self.hosts[name]

    def reached_at(self, address: str) -> Host | None:
        """The machine that is reached at ``address``; ``None``: nobody is there any more."""
        return self._addresses.get(address)

    def relocate(self, host: Host, address: str) -> None:
        """From now on the machine is reached at ``address``, and not where it was."""
        del self._addresses[host.address]
        host.address = address
        self._addresses[address] = host

    def path(self, source: str, target: str) -> Path:
        """The way from one machine to another."""
        return self._paths.setdefault((source, target), Path())

    # -- what travels -------------------------------------------------------------------------------

    def pipes(self, source: Host, target: Host) -> tuple[Pipe, Pipe]:
        """Both directions of a new connection, the one from ``source`` first."""
        there = Pipe(self, self._count, source, target)
        back = Pipe(self, self._count + 1, target, source)
        self._count += 2
        there.back, back.back = back, there
        there.dropped = back.dropped = bool(self._held[_pair(source.name, target.name)])
        for pipe in (there, back):
            self._pipes.setdefault((pipe.source.name, pipe.target.name), []).append(pipe)
        return there, back

    def accept(self, pipe: Pipe) -> None:
        """A connection has reached its target."""
        assert pipe.back is not None
        found = pipe.target.listener()
        if found is None:
            pipe.back.send(RESET, self.world.now)
            return
        process, factory = found
        end = StreamEnd(process, None, f"memory://{pipe.source.address}", pipe, pipe.back)
        end.pause_reading()
        process.loop.call_soon(end.accepted, factory)

    def arrival(self, path: Path, size: int, now: float) -> float:
        """When what leaves now arrives, if nothing blocks it."""
        draw = self._random.random
        at = now + self._delay_s * (0.5 + draw())
        if path.clean:
            return at
        if path.bytes_per_s and size:
            path.busy_until = max(path.busy_until, now) + size / path.bytes_per_s
            at += path.busy_until - now
            self.fired(FaultKind.THROTTLE)
        if path.delay_s:
            at += path.delay_s * (0.5 + 0.5 * draw())
            self.fired(FaultKind.DELAY)
        if path.loss:
            resend_s = RESEND_S
            for _ in range(RESENDS_MAX):
                if draw() >= path.loss:
                    break
                self.fired(FaultKind.LOSS)
                at += resend_s
                resend_s *= 2
        return at

    def datagram(self, source: Host, target: str, data: bytes, now: float) -> None:
        """A datagram leaves ``source``."""
        host = self.reached_at(target)
        if host is None or not source.up:
            return
        path, draw = self.path(source.name, host.name), self._datagrams.random
        at = now + self._delay_s * (0.5 + draw())
        if not path.clean:
            if path.loss and draw() < path.loss:
                self.fired(FaultKind.LOSS)
                return
            if path.delay_s:
                self.fired(FaultKind.DELAY)
                at += path.delay_s * (0.5 + 0.5 * draw())
            if draw() < DATAGRAM_TWICE:
                self.world.at(at + draw() ** 4, self._heard, path, host, source.address, data)
        self.world.at(at, self._heard, path, host, source.address, data)

    def _heard(self, path: Path, host: Host, source: str, data: bytes) -> None:
        if path.blockers:
            for kind in path.blockers:
                self.fired(kind)
            return
        found = host.ear() if host.up else None
        if found is not None:
            process, heard = found
            self.bytes_sent += len(data)
            self.world.trace(b"%r %r %08x" % (self.world.now, source, zlib.crc32(data)))
            process.loop.call_soon(heard, data, f"memory://{source}")

    def healthy_arrival(self) -> float:
        """When what is sent now arrives on a path without faults."""
        return self.world.now + self._delay_s * (0.5 + self._random.random())

    def note(self, number: int, now: float, item: bytes | str) -> None:
        """Something is sent: for the trace."""
        data = item if isinstance(item, bytes) else item.encode()
        self.bytes_sent += len(data)
        self.world.trace(b"%d %r %b" % (number, now, data))

    # -- what `simulations.chaos` asks --------------------------------------------------------------

    def add(self, pairs: Sequence[tuple[str, str]], kind: FaultKind, amount: float) -> None:
        """From now on these paths, each in one direction, suffer."""
        for pair in self._widened(pairs):
            path = self.path(*pair)
            path.effects.append((kind, amount))
            path.recompute()

    def remove(self, pairs: Sequence[tuple[str, str]], kind: FaultKind, amount: float) -> None:
        """What :meth:`add` added is over. Nothing happens if it is already."""
        for pair in self._widened(pairs):
            path = self.path(*pair)
            if (kind, amount) in path.effects:
                path.effects.remove((kind, amount))
                path.recompute()
                path.busy_until = self.world.now
                if not path.blockers:
                    self._go_on(pair)

    def connected(self, a: str, b: str) -> bool:
        """Whether there is a connection between the two."""
        return any(pipe.sink is not None for pipe in self._between(a, b))

    def reset(self, a: str, b: str) -> None:
        """Every connection between the two breaks, and both ends learn of it."""
        for pipe in self._between(a, b):
            pipe.clear()
            if pipe.sink is not None:
                pipe.sink.broken(ConnectionResetError("the connection was reset"))

    def reset_if_blocked(self, a: str, b: str) -> None:
        """Both ends give up connections over which nothing comes."""
        if self.path(a, b).blockers or self.path(b, a).blockers:
            self.reset(a, b)

    def hold_down(self, a: str, b: str) -> None:
        """``a`` loses its connections with ``b``, which does not notice; no new ones are made."""
        self._held[_pair(a, b)] += 1
        for pipe in self._between(a, b):
            if pipe.target.name == a and pipe.sink is not None:
                pipe.sink.broken(ConnectionResetError("the connection was lost"))
                self.fired(FaultKind.HALF_OPEN)
            pipe.clear()
            pipe.dropped = True

    def release(self, a: str, b: str) -> None:
        """What :meth:`hold_down` held may be made again."""
        self._held[_pair(a, b)] = max(0, self._held[_pair(a, b)] - 1)
        if not self._held[_pair(a, b)]:
            for pipe in self._between(a, b):
                pipe.dropped = False

    def heal(self) -> None:
        """All is well from now on, for what is on its way too."""
        self._held.clear()
        for pair, path in self._paths.items():
            path.effects.clear()
            path.recompute()
            path.busy_until = self.world.now
            for pipe in self._pipes.get(pair, ()):
                pipe.dropped = False
            self._go_on(pair)

    def _go_on(self, pair: tuple[str, str]) -> None:
        # What is over at both ends is of no use any more.
        self._pipes[pair] = [pipe for pipe in self._pipes.get(pair, ()) if pipe.in_use]
        for pipe in self._pipes[pair]:
            pipe.go_on()

    def _between(self, a: str, b: str) -> Iterator[Pipe]:
        yield from list(self._pipes.get((a, b), ()))
        yield from list(self._pipes.get((b, a), ()))

    def _widened(self, pairs: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
        """These pairs, and those of the clients beside them."""
        wide = dict.fromkeys(pairs)
        for a, b in pairs:
            wide |= dict.fromkeys((client, b) for client in self._beside.get(a, ()))
            wide |= dict.fromkeys((a, client) for client in self._beside.get(b, ()))
        return list(wide)


def _pair(a: str, b: str) -> tuple[str, str]:
    return (a, b) if a < b else (b, a)
