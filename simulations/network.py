"""One network: connections between nodes, and everything that can become of what they carry.

A connection is what TCP gives: in order, whole, until it breaks, and then both ends learn of it sooner
or later. On top of that every path (one direction between two nodes) may lose, repeat, delay, reorder
and block messages, which no TCP does, because the engine promises to be safe under all of it. Broken
connections are dialled again for as long as both nodes live.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from simulations.faults import FaultKind
from simulations.world import World

_BLOCKING = (FaultKind.PARTITION, FaultKind.ONE_WAY, FaultKind.PARTIAL)


class Endpoint(Protocol):
    """A node, as the network sees it."""

    @property
    def alive(self) -> bool:
        """Whether a process is there that can be connected to."""

    def deliver(self, peer: str, message: bytes) -> None:
        """A message has arrived."""

    def link_up(self, peer: str) -> None:
        """There is a new connection with ``peer``."""

    def link_down(self, peer: str) -> None:
        """The connection with ``peer`` is gone."""


@dataclass(slots=True)
class Path:
    """One direction between two nodes. ``effects`` are the faults under way, as kind and amount."""

    effects: list[tuple[FaultKind, float]] = field(default_factory=list)
    blockers: tuple[FaultKind, ...] = ()
    loss: float = 0.0
    duplicate: float = 0.0
    reorder_s: float = 0.0
    delay_s: float = 0.0
    bytes_per_s: float = 0.0
    last_arrival: float = 0.0
    busy_until: float = 0.0
    clean: bool = True

    def recompute(self) -> None:
        """The worst of each kind counts."""

        def worst(kind: FaultKind) -> float:
            return max((amount for k, amount in self.effects if k is kind), default=0.0)

        self.blockers = tuple(kind for kind, _ in self.effects if kind in _BLOCKING)
        self.loss, self.duplicate = worst(FaultKind.LOSS), worst(FaultKind.DUPLICATE)
        self.reorder_s, self.delay_s = worst(FaultKind.REORDER), worst(FaultKind.DELAY)
        rates = [amount for kind, amount in self.effects if kind is FaultKind.THROTTLE]
        self.bytes_per_s = min(rates, default=0.0)
        self.clean = not self.effects


@dataclass(slots=True)
class Connection:
    """Between two nodes. ``seen_by`` says which end believes in it; an ``epoch`` is one connection."""

    seen_by: dict[str, bool]
    epoch: int = 0
    held_down: int = 0
    dialling: bool = False


class Network:
    """See the head of this module. ``endpoints`` may be filled in later.

    ``delay_s`` is what a message takes on a good day, and ``redial_s`` a new connection, on average. A
    duplicate comes up to ``late_s`` later.
    ``fired`` is called for every effect of a fault.
    """

    def __init__(
        self,
        world: World,
        endpoints: Mapping[str, Endpoint],
        *,
        names: Sequence[str],
        delay_s: float,
        redial_s: float,
        late_s: float,
        fired: Callable[[FaultKind], None],
    ) -> None:
        self._world = world
        self._nodes = endpoints
        self._random = world.stream("network")
        self._delay_s = delay_s
        self._redial_s = redial_s
        self._late_s = late_s
        self._fired = fired
        self._numbers = {name: number for number, name in enumerate(names)}
        self.paths = {(a, b): Path() for a in names for b in names if a != b}
        self._connections = {(a, b): Connection({a: False, b: False}) for a in names for b in names if a < b}
        self.delivered = 0

    # -- messages -----------------------------------------------------------------------------------

    def send(self, source: str, target: str, message: bytes) -> None:
        """Carry ``message``, or lose it."""
        connection = self._connection(source, target)
        if not connection.seen_by[source]:
            return
        path, draw = self.paths[source, target], self._random.random
        flight = (source, target, message, connection, connection.epoch)
        if not path.clean:
            if path.blockers:
                for kind in path.blockers:
                    self._fired(kind)
                return
            if path.loss and draw() < path.loss:
                self._fired(FaultKind.LOSS)
                return
            if path.duplicate and draw() < path.duplicate:
                self._fired(FaultKind.DUPLICATE)
                # Often right behind the first, sometimes when nobody expects it: in another term, say.
                late_s = self._late_s * draw() ** 4 if draw() < 0.5 else 0.0
                self._world.after(self._delay_s * (0.5 + draw()) + late_s, self._arrive, *flight)
        self._world.at(self._arrival(path, len(message)), self._arrive, *flight)

    def _arrival(self, path: Path, size: int) -> float:
        now = self._world.now
        arrival = now + self._delay_s * (0.5 + self._random.random())
        if not path.clean:
            if path.bytes_per_s:
                path.busy_until = max(path.busy_until, now) + size / path.bytes_per_s
                arrival += path.busy_until - now
                self._fired(FaultKind.THROTTLE)
            if path.delay_s:
                arrival += path.delay_s
                self._fired(FaultKind.DELAY)
            if path.reorder_s:
                arrival += self._random.random() * path.reorder_s
                if arrival < path.last_arrival:
                    self._fired(FaultKind.REORDER)
                path.last_arrival = max(arrival, path.last_arrival)
                return arrival
        path.last_arrival = max(arrival, path.last_arrival)
        return path.last_arrival

    def _arrive(self, source: str, target: str, message: bytes, connection: Connection, epoch: int) -> None:
        node = self._nodes[target]
        if epoch != connection.epoch or not node.alive or not connection.seen_by[target]:
            return
        self.delivered += 1
        self._world.trace(
            b"%r%d%d%08x"
            % (self._world.now, self._numbers[source], self._numbers[target], zlib.crc32(message))
        )
        node.deliver(source, message)

    # -- connections --------------------------------------------------------------------------------

    def connected(self, a: str, b: str) -> bool:
        """Whether both ends believe in a connection."""
        return all(self._connection(a, b).seen_by.values())

    def joined(self, name: str) -> None:
        """The node has started: it has no connections, and peers drop those with its former life."""
        for peer in self._others(name):
            self._lose(name, peer)
            self._dial_soon(name, peer)

    def gone(self, name: str, notice_s: float) -> None:
        """The node is dead, and its peers notice it after ``notice_s``."""
        for peer in self._others(name):
            connection = self._connection(name, peer)
            connection.epoch += 1
            connection.seen_by[name] = False
            self._world.after(notice_s, self._notice, name, peer, connection.epoch)

    def _notice(self, gone: str, peer: str, epoch: int) -> None:
        connection = self._connection(gone, peer)
        if connection.epoch == epoch and connection.seen_by[peer]:
            connection.seen_by[peer] = False
            self._tell_down(peer, gone)

    def reset(self, a: str, b: str) -> None:
        """The connection breaks and both ends learn of it; it will be made again."""
        self._lose(a, b)
        self._dial_soon(a, b)

    def reset_if_blocked(self, a: str, b: str) -> None:
        """Both ends give up a connection over which nothing comes."""
        if self.paths[a, b].blockers or self.paths[b, a].blockers:
            self.reset(a, b)

    def hold_down(self, a: str, b: str) -> None:
        """``a`` loses its connection with ``b``, which does not notice; no new one is made."""
        connection = self._connection(a, b)
        connection.held_down += 1
        connection.epoch += 1
        if connection.seen_by[a]:
            connection.seen_by[a] = False
            self._tell_down(a, b)
            self._fired(FaultKind.HALF_OPEN)

    def release(self, a: str, b: str) -> None:
        """What :meth:`hold_down` held may be made again."""
        connection = self._connection(a, b)
        connection.held_down = max(0, connection.held_down - 1)
        self._dial_soon(a, b)

    def _lose(self, a: str, b: str) -> None:
        connection = self._connection(a, b)
        connection.epoch += 1
        for end, other in ((a, b), (b, a)):
            if connection.seen_by[end]:
                connection.seen_by[end] = False
                self._tell_down(end, other)

    def _tell_down(self, name: str, peer: str) -> None:
        if self._nodes[name].alive:
            self._nodes[name].link_down(peer)

    def _dial_soon(self, a: str, b: str) -> None:
        connection = self._connection(a, b)
        if not connection.dialling:
            connection.dialling = True
            self._world.after(self._redial_s * (0.5 + self._random.random()), self._dial, a, b)

    def _dial(self, a: str, b: str) -> None:
        connection = self._connection(a, b)
        connection.dialling = False
        if all(connection.seen_by.values()) or not (self._nodes[a].alive and self._nodes[b].alive):
            return
        blocked = self.paths[a, b].blockers or self.paths[b, a].blockers
        if blocked or connection.held_down:
            self._dial_soon(a, b)
            return
        connection.epoch += 1
        connection.seen_by = {a: True, b: True}
        self._nodes[a].link_up(b)
        self._nodes[b].link_up(a)

    # -- faults -------------------------------------------------------------------------------------

    def add(self, pairs: Sequence[tuple[str, str]], kind: FaultKind, amount: float) -> None:
        """From now on these paths, each in one direction, suffer."""
        for pair in pairs:
            self.paths[pair].effects.append((kind, amount))
            self.paths[pair].recompute()

    def remove(self, pairs: Sequence[tuple[str, str]], kind: FaultKind, amount: float) -> None:
        """What :meth:`add` added is over. Nothing happens if it is already."""
        for pair in pairs:
            if (kind, amount) in self.paths[pair].effects:
                self.paths[pair].effects.remove((kind, amount))
                self.paths[pair].recompute()

    def heal(self) -> None:
        """All is well from now on, for new messages; what is under way may still come late."""
        for path in self.paths.values():
            path.effects.clear()
            path.recompute()
            # Otherwise what comes next would stand in the queue behind what was held up.
            path.last_arrival = path.busy_until = self._world.now
        for (a, b), connection in self._connections.items():
            connection.held_down = 0
            if not all(connection.seen_by.values()):
                self._dial_soon(a, b)

    def _connection(self, a: str, b: str) -> Connection:
        return self._connections[(a, b) if a < b else (b, a)]

    def _others(self, name: str) -> Iterator[str]:
        return (other for other in self._numbers if other != name)
