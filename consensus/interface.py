"""The contract of an engine: persist, then send, then apply.

An engine decides on an order of opaque byte strings. It owns no socket, no file, no thread and no
clock: events go in with the time as an argument, and :meth:`Engine.take_output` says what has to be
done about them. Whoever drives an engine performs one :class:`Output` completely before it hands
the engine another event, in this order:

1. ``send_early`` may leave at any time: these messages promise nothing that is not durable yet.
2. ``persist`` is appended to the journal in order, and one sync covers all of it.
3. ``send`` leaves only when that sync has returned: a vote, a term or an acknowledgement is a promise.
4. ``committed`` is applied, in order.

This is the contract of etcd's raft library (doc.go, "Usage"), with the leader's own write overlapped
as in Ongaro's dissertation, section 10.2.1: the leader may send its entries before its own sync has
returned, because it handles no acknowledgement before that.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from consensus.configuration import Change, Configuration, Standing


class Role(enum.StrEnum):
    """What a node is in the current term (Ongaro and Ousterhout 2014, figure 4)."""

    FOLLOWER = "follower"
    CANDIDATE = "candidate"
    LEADER = "leader"


class EntryKind(enum.IntEnum):
    """Who an entry is for. The values are on disk and on the wire."""

    COMMAND = 0
    NOOP = 1
    CONFIG = 2
    """The members from here on: see :mod:`consensus.configuration`."""


class Entry(NamedTuple):
    """One position of the log. ``index`` counts from 1, ``data`` is opaque to the engine."""

    index: int  # type: ignore[assignment]  # tuples have a method of that name, which nobody wants here
    term: int
    kind: EntryKind
    data: bytes


@dataclass(frozen=True, slots=True)
class HardState:
    """What Raft must remember across restarts beside the log: the term and the vote given in it."""

    term: int
    voted_for: str | None


@dataclass(frozen=True, slots=True)
class Truncate:
    """Forget every entry whose index is ``from_index`` or more."""

    from_index: int


@dataclass(frozen=True, slots=True)
class SnapshotMeta:
    """The snapshot stands for every entry up to ``index``, the last of which has ``term``.

    ``previous_term`` is the term of the entry at ``index - 1``: PySyncObj keeps the last two.
    ``size`` is in bytes, ``sha256`` is the hexadecimal digest of the snapshot's content.
    ``configuration`` is the last one at or before ``index``, encoded, and so a committed one; empty where
    the log has none, because the members are those that the nodes were started with.
    """

    index: int
    term: int
    previous_term: int
    size: int
    sha256: str
    configuration: bytes = b""


@dataclass(frozen=True, slots=True)
class InstalledSnapshot:
    """A verified snapshot, already durable in the snapshot store, replaces the whole log.

    Journals write it as a reset: what follows continues at ``meta.index + 1``.
    """

    meta: SnapshotMeta


Record = Entry | HardState | Truncate | InstalledSnapshot
"""What a journal stores, in the order in which the engine asked for it."""


@dataclass(slots=True)
class Recovered:
    """What a journal and a snapshot store found on the disk when they were opened.

    ``entries`` are contiguous; with a snapshot they start at or before ``snapshot.index + 1``. A fresh disk
    gives ``Recovered(HardState(0, None), None, [])``. ``incarnation`` tells this journal from every other,
    also from an earlier one of the same node; 0 where it was made before there were such numbers.
    """

    hard_state: HardState
    snapshot: SnapshotMeta | None
    entries: list[Entry]
    incarnation: int = 0


@dataclass(slots=True)
class Output:
    """What to do, in the order that the head of this module states."""

    send_early: list[tuple[str, bytes]] = field(default_factory=list)
    persist: list[Record] = field(default_factory=list)
    send: list[tuple[str, bytes]] = field(default_factory=list)
    committed: list[Entry] = field(default_factory=list)
    snapshot_needed: list[str] = field(default_factory=list)
    """Peers that lag behind the first entry of the log: stream them the latest snapshot."""
    restore: SnapshotMeta | None = None
    """Replace the applied state by this snapshot before applying ``committed``."""
    reads: list[tuple[int, int]] = field(default_factory=list)
    """``(context, index)``: what was asked with :meth:`Engine.read_index` is confirmed. It has to see
    everything up to ``index``."""
    reads_refused: list[int] = field(default_factory=list)
    """Contexts that are not confirmed, because this node does not lead any more: ask the next leader."""

    def __bool__(self) -> bool:
        return bool(
            self.send_early
            or self.persist
            or self.send
            or self.committed
            or self.snapshot_needed
            or self.restore
            or self.reads
            or self.reads_refused
        )


class EngineStatus(NamedTuple):
    """A view of the engine, for people and for the driver. Indexes count entries from 1."""

    node_id: str
    role: Role
    term: int
    leader: str | None
    first_index: int
    last_index: int
    commit_index: int
    voters: Sequence[str]
    """By the configuration in force here, which may not be committed yet."""
    match: Mapping[str, int]
    """On the leader: the highest index known to be durable on each peer."""
    last_contact_s: Mapping[str, float]
    """On the leader: when each peer answered last, on the clock that is passed as ``now``."""
    observers: Sequence[str] = ()
    standing: Standing = Standing.VOTER
    """What this node is in that configuration."""
    dismissed: bool = False
    """Another node has said that this one is no member any more, or only an earlier incarnation of it."""


class Leadership(NamedTuple):
    """Who leads, as far as the node knows: what a driver asks after every event."""

    role: Role
    term: int
    leader: str | None


class Engine(Protocol):
    """One node's part in agreeing on an order. See the head of this module for how to drive it."""

    def receive(self, peer: str, message: bytes, now: float) -> None:
        """Take a peer's message. A message that makes no sense is dropped and counted, never raised.

        Raises :class:`~consensus.errors.InvariantViolated` when obeying it would undo a commit.
        """

    def propose(self, data: bytes, now: float) -> tuple[int, int]:
        """Append ``data`` to the log and return its ``(term, index)``. It is not committed yet.

        Raises :class:`~consensus.errors.NotLeader`, :class:`~consensus.errors.EntryTooLarge` and, while
        leadership is handed over, :class:`~consensus.errors.Busy`; nothing was appended then.
        """

    def read_index(self, context: int, now: float) -> None:
        """Ask for a log position that is behind everything acknowledged to anybody before ``now``.

        A later output gives it in ``reads``, once a majority has confirmed that this node still leads,
        or the context in ``reads_refused``. No log write (Ongaro 2014, section 6.4).

        Raises :class:`~consensus.errors.NotLeader`, and :class:`~consensus.errors.Busy` when too many wait.
        """

    def transfer_leadership(self, target: str | None, now: float) -> str:
        """Hand leadership over to ``target``, or to whoever has most of the log; gives who it is to be.

        Proposals are refused until :meth:`transferring` says that it is over, in one way or the other: this
        node leads no more, or it leads on because the successor did not take over in time.

        Raises :class:`~consensus.errors.NotLeader`, :class:`~consensus.errors.Busy` when nobody can take over
        or one is at it already, and :class:`ValueError` when ``target`` is no other voter.
        """

    def transferring(self) -> str | None:
        """To whom leadership is being handed over, on the leader that does it."""

    def change_membership(self, change: Change, now: float) -> int:
        """Append the configuration after ``change``; gives the index at which it stands or stood already.

        It is in force here from now on, and done once that index is committed while this node leads.

        Raises :class:`~consensus.errors.NotLeader`; :class:`~consensus.errors.Busy` while another change is
        not committed, nothing of this leader's term is, or leadership is handed over;
        :class:`~consensus.errors.NotCaughtUp`; and :class:`~consensus.errors.MembershipRefused` for what
        makes no sense, would leave no majority that can be reached, or would remove this leader itself.
        """

    def configuration(self) -> Configuration:
        """The configuration in force here: the same object until it changes."""

    def configuration_at(self, index: int) -> bytes:
        """What a snapshot of ``index``, which is committed, has to say of the configuration."""

    def tick(self, now: float) -> None:
        """Let time pass: elections, heartbeats, stepping down. Call it at :meth:`next_deadline`."""

    def next_deadline(self) -> float:
        """The time at which :meth:`tick` has something to do, on the same clock as ``now``."""

    def take_output(self) -> Output:
        """What has gathered since the last call. The caller owes all of it, in order."""

    def peer_connected(self, peer: str, now: float) -> None:
        """Messages to ``peer`` have a chance to arrive from now on."""

    def peer_disconnected(self, peer: str, now: float) -> None:
        """Messages to ``peer`` are lost until further notice."""

    def install_snapshot(self, peer: str, term: int, meta: SnapshotMeta, now: float) -> bool:
        """``peer``, leader in ``term``, sent a snapshot that is verified and durable here.

        Returns whether it was taken: one from an old term, or behind our commit index, is not.
        """

    def snapshot_delivered(self, peer: str, term: int, index: int, now: float) -> None:
        """``peer`` has made our snapshot of ``index`` durable, which we sent as leader in ``term``."""

    def compact(self, meta: SnapshotMeta, retain_entries: int) -> int:
        """A snapshot is durable: entries below ``meta.index - retain_entries`` are not needed.

        Returns the first index that is kept, for the journal to drop its segments below it.
        """

    def hurry(self, peer: str, index: int, now: float) -> None:
        """Somebody at ``peer`` waits for the entry at ``index``: tell it at once of the commit.

        Otherwise a leader may let a commit index travel with the next message that it has for the peer.
        """

    def leadership(self) -> Leadership:
        """The role, the term and the leader of :meth:`status`, for less."""

    def commit_index(self) -> int:
        """The one of :meth:`status`, for less."""

    def entries_held(self) -> int:
        """How many entries the log holds, from ``first_index`` to ``last_index`` of :meth:`status`."""

    def status(self) -> EngineStatus:
        """A view of the engine as it is now."""
