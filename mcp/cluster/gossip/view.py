"""What one node knows of the members: the records, how updates change them, and a digest of it all.

The records of one name form a lattice, ordered by ``(incarnation, state)`` and apart from that by ``(card
version, card)``, and every change goes up in it. So nodes that have heard the same updates, in any order,
hold equal records, and an incarnation never goes back. Only a suspicion of somebody who is gone is not kept:
it would pass by itself.

A name that is claimed at two addresses is a conflict. The claim with the larger incarnation holds, and of
two with the same one that with the smaller address, so that all views come to the same result; the
conflict is reported by every node that sees it, whichever claim holds.

The digest is the exclusive or of 64 bits of BLAKE2b over each member that is present: its name,
incarnation, address and card, but not whether it is suspected, which passes. Equal digests mean equal
views, but for one chance in 2**64; unequal ones that stay so make two nodes compare their views
(:mod:`mcp.cluster.gossip.sync`). The digest of a member that is dead or left is not in it: who came later
need never have heard of it.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import msgpack

from mcp.cluster.gossip.events import Event, EventKind
from mcp.cluster.gossip.limits import CONFLICTS_MAX, GossipLimits
from mcp.cluster.gossip.suspicion import Suspicion
from mcp.cluster.gossip.updates import Alive, FullRecord, LoadUpdate, State
from mcp.wire.codec import decode_map

_NOTHING: Final[Mapping[str, Any]] = {}


@dataclass(frozen=True, slots=True)
class Member:
    """A member as the view shows it. ``since``: the time of its last change of state.

    ``card`` and ``load`` are maps of plain values, not to be changed; empty while nothing is known.
    """

    name: str
    address: str
    state: State
    incarnation: int
    card_version: int
    card: Mapping[str, Any]
    load: Mapping[str, Any]
    since: float


@dataclass(slots=True)
class Record:
    """What is kept of a member."""

    name: str
    address: str
    incarnation: int
    state: State
    since: float
    card_version: int = 0
    card: bytes = b""
    load: LoadUpdate | None = None
    suspicion: Suspicion | None = None
    mark: int = 0
    """64 bits over all of it that is to be the same everywhere, but for the state."""
    counted: int = 0
    """What of it is in the digest: the mark, or 0 while it is not present."""
    newest_card: int = 0
    """The largest card version that was heard of, with or without the card."""
    decoded: Mapping[str, Any] = field(default_factory=dict)
    decoded_load: Mapping[str, Any] = field(default_factory=dict)

    @property
    def card_is_missing(self) -> bool:
        """Whether there is a later card than the one that is here."""
        return self.newest_card > self.card_version

    def shown(self) -> Member:
        """As the view shows it."""
        return Member(
            self.name,
            self.address,
            self.state,
            self.incarnation,
            self.card_version,
            self.decoded,
            self.decoded_load,
            self.since,
        )

    def alive(self, *, with_card: bool) -> Alive:
        """An update that says that it is there."""
        card = self.card if with_card else None
        version = self.card_version if with_card else self.newest_card
        return Alive(self.name, self.incarnation, self.address, version, card)

    def full(self, now: float) -> FullRecord:
        """All of it, for a stream."""
        age_ms = max(0, int((now - self.since) * 1000))
        return FullRecord(
            self.name,
            self.incarnation,
            self.state,
            self.address,
            self.card_version,
            self.card,
            age_ms,
            self.load,
        )


class View:
    """The records of all members, this node's own included. ``report`` is told of every change."""

    def __init__(self, limits: GossipLimits, report: Callable[[Event], None]) -> None:
        self._limits = limits
        self._report = report
        self._records: dict[str, Record] = {}
        self._ring: list[tuple[bytes, str]] = []
        self._conflicts: dict[tuple[str, str], float] = {}
        self.digest = 0
        """Over all that are present."""
        self.changed_at = float("-inf")
        """When the digest changed last."""
        self.not_taken_in = 0
        """Announcements of members for whom there was no room."""

    def get(self, name: str) -> Record | None:
        """What is known of that name."""
        return self._records.get(name)

    def __iter__(self) -> Iterator[Record]:
        return iter(self._records.values())

    def __len__(self) -> int:
        return len(self._records)

    @property
    def present(self) -> int:
        """How many members are alive or suspected, this node included."""
        return len(self._ring)

    def names_present(self) -> list[str]:
        """Who is alive or suspected."""
        return [name for _, name in self._ring]

    def successor(self, name: str) -> str | None:
        """Who comes after ``name`` on the ring of all that are present; ``None`` where nobody else is."""
        at = bisect_left(self._ring, (_position(name), name))
        following = self._ring[at + 1 :] or self._ring[:1]
        found = following[0][1] if following else name
        return None if found == name else found

    def members(self) -> tuple[Member, ...]:
        """All records, in the order of their names."""
        return tuple(record.shown() for _, record in sorted(self._records.items()))

    # -- changes ------------------------------------------------------------------------------------

    def learn(self, said: Alive, now: float) -> Alive | None:
        """Somebody is alive. What of it is news, to be passed on; ``None``: nothing."""
        record = self._records.get(said.name)
        if record is None:
            record = self._take_in(said, now)
            if record is None:
                return None
            self._adopt_card(record, said)
            self._refresh(record, now)
            self._tell(EventKind.JOINED, record, now)
            return said
        if not record.state.present and said.incarnation <= record.incarnation:
            return None
        if said.address != record.address and record.state.present and not self._moves(record, said, now):
            return None
        rises = said.incarnation > record.incarnation or said.address != record.address
        kind = self._raise(record, said, now) if rises else None
        newer = said.card_version > record.newest_card
        card = self._adopt_card(record, said)
        if card and kind is None:
            kind = EventKind.UPDATED
        if not (rises or newer or card):
            return None
        self._refresh(record, now)
        if kind is not None:
            self._tell(kind, record, now)
        return record.alive(with_card=card)

    def _take_in(self, said: Alive, now: float) -> Record | None:
        if not self._has_room():
            self.not_taken_in += 1
            return None
        record = self._records[said.name] = Record(
            said.name, said.address, said.incarnation, State.ALIVE, now
        )
        return record

    def _raise(self, record: Record, said: Alive, now: float) -> EventKind | None:
        """A later incarnation, or another address that holds. What to report; ``None``: nobody notices."""
        before, moved = record.state, said.address != record.address
        if said.incarnation > record.incarnation:
            record.suspicion = None
            if before is not State.ALIVE:
                record.state, record.since = State.ALIVE, now
        record.incarnation, record.address = said.incarnation, said.address
        if not before.present:
            return EventKind.JOINED
        if before is State.SUSPECT and record.state is State.ALIVE:
            return EventKind.REFUTED
        return EventKind.UPDATED if moved else None

    def _moves(self, record: Record, said: Alive, now: float) -> bool:
        """Whether the other claim to a name holds from now on. Reports it, unless it is an old one."""
        ours, theirs = record.incarnation, said.incarnation
        if theirs < ours:
            return False
        wins = theirs > ours or said.address < record.address
        kept, refused = (said.address, record.address) if wins else (record.address, said.address)
        self.conflict(record, kept, refused, now)
        return wins

    def _adopt_card(self, record: Record, said: Alive) -> bool:
        record.newest_card = max(record.newest_card, said.card_version)
        if said.card is None or (said.card_version, said.card) <= (record.card_version, record.card):
            return False
        record.card_version, record.card = said.card_version, said.card
        record.decoded = decode_map(said.card) if said.card else _NOTHING
        return True

    def suspect(self, record: Record, incarnation: int, suspicion: Suspicion, now: float) -> None:
        """The member is suspected in this incarnation, which is not below the one that is known."""
        record.incarnation, record.suspicion = incarnation, suspicion
        if record.state is not State.SUSPECT:
            record.state, record.since = State.SUSPECT, now
            self._tell(EventKind.SUSPECTED, record, now)
        self._refresh(record, now)

    def bury(self, record: Record, incarnation: int, state: State, now: float) -> bool:
        """The member is dead or has left; whether that is news."""
        if (incarnation, state) <= (record.incarnation, record.state):
            return False
        changes = state is not record.state
        if changes:
            record.since = now
        record.incarnation, record.state, record.suspicion = incarnation, state, None
        self._refresh(record, now)
        if changes:
            self._tell(EventKind.DIED if state is State.DEAD else EventKind.LEFT, record, now)
        return True

    def remember(self, gone: FullRecord, now: float) -> None:
        """Somebody who was never known here is dead or has left: keep it for as long as the others do."""
        if self._has_room():
            record = Record(gone.name, gone.address, gone.incarnation, gone.state, now - gone.age_ms / 1000)
            record.card_version, record.card, record.newest_card = (
                gone.card_version,
                gone.card,
                gone.card_version,
            )
            record.decoded = decode_map(gone.card) if gone.card else _NOTHING
            self._records[gone.name] = record
            self._refresh(record, now)

    def learn_load(self, load: LoadUpdate) -> bool:
        """A load record; whether it is later than what is known."""
        record = self._records.get(load.name)
        if record is None or not record.state.present:
            return False
        known = record.load
        if known and (load.incarnation, load.sequence) <= (known.incarnation, known.sequence):
            return False
        record.load, record.decoded_load = load, decode_map(load.load)
        return True

    def expire(self, now: float) -> None:
        """Forget who has been gone for ``dead_remembered_s``."""
        gone = [
            r.name for r in self if not r.state.present and now - r.since > self._limits.dead_remembered_s
        ]
        for name in gone:
            del self._records[name]

    def _has_room(self) -> bool:
        """Whether one more can be kept; who has been gone for longest makes room."""
        if len(self._records) < self._limits.members_max:
            return True
        gone = [record for record in self if not record.state.present]
        if gone:
            del self._records[min(gone, key=lambda record: record.since).name]
        return bool(gone)

    def _refresh(self, record: Record, now: float) -> None:
        """Bring mark, digest and ring in line with a record that has changed."""
        record.mark = mark_of(record)
        counted = record.mark if record.state.present else 0
        if counted != record.counted:
            self.digest ^= record.counted ^ counted
            record.counted, self.changed_at = counted, now
        place = (_position(record.name), record.name)
        at = bisect_left(self._ring, place)
        listed = at < len(self._ring) and self._ring[at] == place
        if record.state.present and not listed:
            self._ring.insert(at, place)
        elif listed and not record.state.present:
            del self._ring[at]

    # -- reports ------------------------------------------------------------------------------------

    def _tell(self, kind: EventKind, record: Record, now: float) -> None:
        """Report what happened to a member."""
        self._report(Event(kind, record.name, record.address, record.incarnation, record.state, now))

    def conflict(self, record: Record, kept: str, refused: str, now: float) -> None:
        """Report that a name is claimed at two addresses, once in ``conflict_repeat_s``."""
        reported = self._conflicts.get((record.name, refused))
        if reported is not None and now - reported < self._limits.conflict_repeat_s:
            return
        if len(self._conflicts) >= CONFLICTS_MAX:
            del self._conflicts[next(iter(self._conflicts))]
        self._conflicts[record.name, refused] = now
        self._report(
            Event(EventKind.CONFLICT, record.name, kept, record.incarnation, record.state, now, refused)
        )


def mark_of(record: Record) -> int:
    """64 bits over everything of a record that is to be the same everywhere, but for its state.

    Of somebody who is gone, address and card are as they were when each view heard of it last.
    """
    fields: list[object] = [record.name, record.incarnation]
    if record.state.present:
        fields += [record.address, record.card_version, record.card]
    return int.from_bytes(hashlib.blake2b(msgpack.packb(fields), digest_size=8).digest(), "big")


def _position(name: str) -> bytes:
    """Where a name stands on the ring: not beside the names that it looks like, which may fail with it."""
    return hashlib.blake2b(name.encode(), digest_size=8).digest()
