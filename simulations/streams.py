"""Connections in virtual time, between named hosts, over links that fail.

Production's connections run on it unchanged: every byte goes through the very frames, handshakes and
keepalives that it would meet on TCP. What a byte stream cannot do is not simulated here (loss and
reordering of parts of it); what TCP does instead is: delay, a link that holds everything back until it
heals (a partition; also in one direction only), and a connection that breaks.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from mcp.net.memory import MemoryNetwork, MemoryTransport, ProtocolFactory
from mcp.wire.frame import Buffer

BREAK_AFTER_S = 20.0
"""How long TCP would retry before a connection over a cut link breaks."""


@dataclass(slots=True)
class Link:
    """One direction between two hosts. Times in seconds, rate in bytes per second (0: no limit)."""

    delay_s: float = 0.0002
    jitter_s: float = 0.0001
    rate: float = 0.0
    cut: bool = False
    transports: set[HostTransport] = field(default_factory=set)
    """Those whose data travels in this direction."""


class HostTransport(MemoryTransport):
    """The receiving end of a connection: what is sent to it arrives when its link lets it."""

    link: Link
    weather: Weather

    def begin(self, weather: Weather, link: Link, number: int) -> None:
        """``link`` is the direction towards this end."""
        self.weather, self.link, self.number = weather, link, number
        self._travelling: deque[tuple[float, bytes]] = deque()
        self._arrives = 0.0
        link.transports.add(self)

    def __hash__(self) -> int:
        return self.number

    def write(self, data: Buffer) -> None:
        """Send a copy of ``data`` to the other end."""
        other = self._other
        if self._closing or not isinstance(other, HostTransport) or other._closing:
            return
        other.sent_to(bytes(data))
        if not self._write_paused and self.get_write_buffer_size() > self._high:
            self._write_paused = True
            self._protocol.pause_writing()

    def get_write_buffer_size(self) -> int:
        """Bytes on their way and not read."""
        other = self._other
        if not isinstance(other, HostTransport) or other._closing:
            return 0
        return len(other._incoming) + sum(len(data) for _, data in other._travelling)

    def sent_to(self, data: bytes) -> None:
        """``data`` is on its way to this end."""
        link = self.link
        delay = link.delay_s + self.weather.random.random() * link.jitter_s
        if link.rate:
            delay += len(data) / link.rate
        self._arrives = max(self._arrives, self._loop.time() + delay)
        self._travelling.append((self._arrives, data))
        self.weather.note(self.number, data)
        if len(self._travelling) == 1 and not link.cut:
            self._loop.call_at(self._arrives, self._arrive)

    def healed(self) -> None:
        """The link lets data through again: what was held back is sent again."""
        if self._travelling and not self._closing:
            self._loop.call_at(self._loop.time() + self.link.delay_s, self._arrive)

    def _arrive(self) -> None:
        now = self._loop.time()
        if self.link.cut or self._closing:
            return
        while self._travelling and self._travelling[0][0] <= now:
            self._incoming += self._travelling.popleft()[1]
        self._schedule()
        if self._travelling:
            self._loop.call_at(self._travelling[0][0], self._arrive)

    def write_eof(self) -> None:
        """Tell the other end, once all data has arrived, that nothing more will come."""
        other = self._other
        if isinstance(other, HostTransport):
            self._loop.call_at(max(other._arrives, self._loop.time()), other._ended)

    def _ended(self) -> None:
        if self.link.cut:
            return
        self._incoming_ended = True
        self._schedule()

    def _end(self, error: Exception | None, *, lost: bool) -> None:
        self.link.transports.discard(self)
        super()._end(error, lost=lost)


class Weather:
    """All hosts and the links between them; one random source, and a note of everything sent."""

    def __init__(self, generator: random.Random, note: Callable[[int, bytes], None] | None = None) -> None:
        self.random = generator
        self.note = note or (lambda number, data: None)
        self._links: dict[tuple[str, str], Link] = {}
        self._factories: dict[str, ProtocolFactory] = {}
        self._count = 0

    def host(self, name: str) -> HostNetwork:
        """The network as the host called ``name`` sees it."""
        return HostNetwork(self, name)

    def link(self, source: str, target: str) -> Link:
        """The link from ``source`` to ``target``, to be looked at or changed."""
        return self._links.setdefault((source, target), Link())

    def cut(self, source: str, target: str) -> None:
        """Hold back everything from ``source`` to ``target`` from now on."""
        self.link(source, target).cut = True

    def heal(self, source: str, target: str) -> None:
        """Let it through again, what was held back first."""
        link = self.link(source, target)
        if link.cut:
            link.cut = False
            for transport in sorted(link.transports, key=lambda t: t.number):
                transport.healed()

    def break_connections(self, source: str, target: str) -> int:
        """Abort every connection between the two; gives how many there were."""
        both = self.link(source, target).transports | self.link(target, source).transports
        broken = sorted(both, key=lambda t: t.number)
        for transport in broken:
            transport.abort()
        return len(broken)

    def crash(self, name: str) -> None:
        """The host is gone: nobody listens there, and its connections are aborted."""
        self._factories.pop(name, None)
        for source, target in sorted(self._links):
            if name in (source, target):
                self.break_connections(source, target)

    def connect(self, source: str, target: str, factory: ProtocolFactory) -> asyncio.BufferedProtocol:
        """A connection between two hosts."""
        accept = self._factories.get(target)
        if self.link(source, target).cut or self.link(target, source).cut:
            raise TimeoutError(f"{target} does not answer")
        if accept is None:
            raise ConnectionRefusedError(f"nobody listens at memory://{target}")
        loop = asyncio.get_running_loop()
        protocols = factory(), accept()
        near = HostTransport(loop, protocols[0], f"memory://{target}")
        far = HostTransport(loop, protocols[1], f"memory://{source}")
        near.join(far)
        far.join(near)
        near.begin(self, self.link(target, source), self._count)
        far.begin(self, self.link(source, target), self._count + 1)
        self._count += 2
        far._protocol.connection_made(far)
        near._protocol.connection_made(near)
        return near._protocol


class HostNetwork(MemoryNetwork):
    """One host's view of the weather."""

    def __init__(self, weather: Weather, name: str) -> None:
        super().__init__()
        self._weather = weather
        self._name = name

    def listen(self, name: str, factory: ProtocolFactory) -> None:
        """Accept connections to this host."""
        self._weather._factories[name] = factory

    def stop_listening(self, name: str) -> None:
        """Accept no more."""
        self._weather._factories.pop(name, None)

    def connect(self, name: str, factory: ProtocolFactory) -> asyncio.BufferedProtocol:
        """Connect to another host."""
        return self._weather.connect(self._name, name, factory)
