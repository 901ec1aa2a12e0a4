"""What a node sends: datagrams with as much news as fits, stream messages, and the events beside them."""

from __future__ import annotations

from collections import Counter
from typing import TypeVar

from mcp.cluster.gossip.codec import (
    LIST_HEADS_BYTES,
    Carried,
    Kind,
    datagram_head,
    encode_stream,
    encode_update,
    join_datagram,
)
from mcp.cluster.gossip.events import Event, Output
from mcp.cluster.gossip.limits import OUTPUT_MAX
from mcp.cluster.gossip.membership import Membership
from mcp.cluster.gossip.seal import Seal
from mcp.cluster.gossip.updates import Dead, Left, State, Suspect, Update
from mcp.cluster.gossip.view import Record

T = TypeVar("T")


class Outbox:
    """What waits to be taken, bounded."""

    def __init__(self) -> None:
        self._datagrams: list[tuple[str, bytes]] = []
        self._streams: list[tuple[str, bytes]] = []
        self._events: list[Event] = []
        self.dropped: Counter[str] = Counter()
        """What was over ``OUTPUT_MAX``, by kind."""

    def datagram(self, address: str, data: bytes) -> None:
        """Send this as it is."""
        self._put("datagrams", self._datagrams, (address, data))

    def stream(self, address: str, data: bytes) -> None:
        """Send this over a connection."""
        self._put("streams", self._streams, (address, data))

    def event(self, event: Event) -> None:
        """Tell this."""
        self._put("events", self._events, event)

    def take(self) -> Output:
        """Everything since the last time."""
        output = Output(tuple(self._datagrams), tuple(self._streams), tuple(self._events))
        for kept in (self._datagrams, self._streams, self._events):
            kept.clear()
        return output

    def _put(self, kind: str, kept: list[T], what: T) -> None:
        if len(kept) < OUTPUT_MAX:
            kept.append(what)
        else:
            self.dropped[kind] += 1


class Post:
    """Composes what goes out. Every datagram carries news, and tells a suspect of the suspicion first.

    Source of the latter: Lifeguard, section IV-C, the buddy system.
    """

    def __init__(self, membership: Membership, outbox: Outbox, datagrams: Seal, streams: Seal) -> None:
        self._membership = membership
        self._outbox = outbox
        self._datagrams = datagrams
        self._streams = streams

    @property
    def stream_room(self) -> int:
        """The bytes that the body of a stream message may have."""
        return self._streams.room

    def send(self, kind: Kind, seq: int, to: str, address: str, *, subject: str = "") -> None:
        """One datagram to the member ``to`` ("": whoever is there). Gossip without news is not sent."""
        body = self._compose(kind, seq, to, subject)
        if body is not None:
            self._outbox.datagram(address, self._datagrams.seal(body))

    def carry(self, kind: Kind, seq: int, to: str, address: str) -> None:
        """The same, over a stream."""
        body = self._compose(kind, seq, to, "")
        if body is not None:
            membership = self._membership
            self.stream(address, encode_stream(Carried(membership.name, membership.address, body)))

    def beacon(self) -> bytes:
        """A sealed ping to whoever is there."""
        membership = self._membership
        head = datagram_head(Kind.PING, 0, membership.name, "", "", membership.view.digest, None)
        return self._datagrams.seal(join_datagram(head, (), ()))

    def stream(self, address: str, body: bytes) -> None:
        """One stream message."""
        self._outbox.stream(address, self._streams.seal(body))

    def _compose(self, kind: Kind, seq: int, to: str, subject: str) -> bytes | None:
        membership = self._membership
        probing = kind in (Kind.PING, Kind.ACK)
        load = membership.own.load if probing else None
        head = datagram_head(kind, seq, membership.name, to, subject, membership.view.digest, load)
        room = self._datagrams.room - len(head) - LIST_HEADS_BYTES
        updates = _first_of_all(membership.view.get(to))
        room -= sum(map(len, updates))
        updates += membership.news.take(room, membership.transmissions, updates)
        if kind is Kind.GOSSIP and not updates:
            return None
        loads: list[bytes] = []
        if probing:
            room = self._datagrams.room - len(head) - LIST_HEADS_BYTES - sum(map(len, updates))
            loads = membership.loads.take(min(room, membership.limits.relayed_loads_bytes), to)
        return join_datagram(head, updates, loads)


def _first_of_all(record: Record | None) -> list[bytes]:
    """What the receiver has to know before anything else: that it is held for something else than alive."""
    if record is None or record.state is State.ALIVE:
        return []
    update: Update
    if record.state is State.LEFT:
        update = Left(record.name, record.incarnation)
    elif record.state is State.DEAD:
        update = Dead(record.name, record.incarnation, record.name)
    else:
        accusers = record.suspicion.accusers if record.suspicion else ()
        update = Suspect(record.name, record.incarnation, min(accusers, default=record.name))
    return [encode_update(update)]
