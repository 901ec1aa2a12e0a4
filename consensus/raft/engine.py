"""The Raft engine: PySyncObj's core between our guards.

One pass through the engine: an event comes in and is checked (:mod:`~consensus.raft.messages`), put
into a form that PySyncObj handles rightly (:mod:`~consensus.raft.guards`) and delivered
(:mod:`~consensus.raft.seams`). What PySyncObj then wants to persist, send and apply gathers until
:meth:`RaftEngine.take_output`, which first decides which peers are owed an append.
PySyncObj calls no election by itself: :mod:`~consensus.raft.elections` decides when.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

from consensus.configuration import VOTERS_MAX, Change, Configuration, Standing
from consensus.errors import Busy, EntryTooLarge, InvariantViolated, NotLeader
from consensus.interface import (
    EngineStatus,
    Entry,
    EntryKind,
    Leadership,
    Output,
    Recovered,
    SnapshotMeta,
)
from consensus.raft.config import RaftConfig
from consensus.raft.elections import Elections
from consensus.raft.guards import Delivery, Reign, normalise
from consensus.raft.handover import Handover
from consensus.raft.log import MemoryLog
from consensus.raft.membership import Membership
from consensus.raft.messages import (
    Ack,
    Append,
    Codec,
    Malformed,
    Message,
    NewerTerm,
    NotMember,
    PreVote,
    PreVoteAnswer,
    RequestVote,
    SnapshotPending,
    TimeoutNow,
    TransferVote,
    Vote,
)
from consensus.raft.reads import PendingReads
from consensus.raft.replication import Replication
from consensus.raft.seams import Core, Peer

if TYPE_CHECKING:
    from random import Random

_P = ParamSpec("_P")
_R = TypeVar("_R")

DEADLINE_SLACK_S = 1e-6
"""PySyncObj acts strictly after a deadline: ticking that much later is sure to be after it."""


def _event(
    method: Callable[Concatenate[RaftEngine, _P], _R],
) -> Callable[Concatenate[RaftEngine, _P], _R]:
    """Every way into the engine: none is open any more once an invariant was violated."""

    @functools.wraps(method)
    def enter(self: RaftEngine, /, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        if self._broken is not None:
            raise InvariantViolated(f"the engine has stopped: {self._broken}")
        self._status = None
        try:
            return method(self, *args, **kwargs)
        except InvariantViolated as error:
            self._broken = str(error)
            raise

    return enter


class RaftEngine:
    """One node of a Raft cluster. Implements :class:`~consensus.interface.Engine`.

    ``voters`` are the node ids of the one to seven voters that the cluster is begun with, this one included,
    equal on every one of them; or a configuration, which has their addresses too; or nobody, on a node that
    waits to be taken into a cluster. What stands in the log later goes before it.
    ``recovered`` is what the disk held; ``now`` and every later ``now`` are seconds on one clock that
    does not go back, ``random`` draws the election timeouts. Times and limits: :class:`RaftConfig`.

    A log begins with one entry at index 1 that every node knows. A fresh node persists it and commits
    it in its first output; proposals follow from a leader's first entry on.

    Raises :class:`ValueError` when the voters make no sense, and
    :class:`~consensus.errors.InvariantViolated` when ``recovered`` contradicts itself.
    """

    def __init__(
        self,
        node_id: str,
        voters: Sequence[str] | Configuration,
        recovered: Recovered,
        *,
        now: float,
        random: Random,
        config: RaftConfig = RaftConfig(),  # noqa: B008 (frozen)
    ) -> None:
        self._config = config
        initial = _check_voters(node_id, voters)
        names = initial.voters or (node_id,)
        known = {name: Peer(ordinal, name) for ordinal, name in enumerate(names, 1)}
        self._self = known[node_id]
        self._incarnation = recovered.incarnation
        self._codec = Codec(config)
        self._log = MemoryLog(recovered, config)
        self._reign = Reign()
        self._answering: tuple[int, Delivery] | None = None
        self._broken: str | None = None
        self._status: EngineStatus | None = None
        self._standing: tuple[int, int, Peer | None] | None = None
        self._leadership: Leadership
        self._output = Output()
        self.dropped: Counter[str] = Counter()
        """How many messages were dropped, by reason."""
        applied = recovered.snapshot.index if recovered.snapshot else 0
        self._core = Core(
            self._self, (), self._log, self, config, applied_index=applied, now=now, random=random
        )
        self._membership = Membership(
            self._core, self._log, self._self, self._incarnation, initial, known, config
        )
        self._replication = Replication(self._core, self._log, self._codec, self._membership, config)
        self._reads = PendingReads(self._core, self._replication)
        self._handover = Handover(self._core, self._log, self._membership, config, send=self._send)
        self._elections = Elections(
            self._core,
            self._log,
            self._self,
            self._membership,
            config,
            generator=random,
            send=self._send,
            dropped=self.dropped,
        )
        self._core.advance()

    # -- events ------------------------------------------------------------------------------------

    @_event
    def receive(self, peer: str, message: bytes, now: float) -> None:
        """Take a peer's message. See :meth:`consensus.interface.Engine.receive`."""
        self._advance_clock(now)
        sender = self._membership.peer(peer)
        if sender is None:
            self.dropped["unknown_peer"] += 1
            return
        try:
            decoded = self._codec.decode(message)
        except Malformed as problem:
            self.dropped[problem.reason] += 1
            return
        self._handle(sender, decoded)
        self._notice_role()

    @_event
    def propose(self, data: bytes, now: float) -> tuple[int, int]:
        """Append ``data``. See :meth:`consensus.interface.Engine.propose`."""
        self._advance_clock(now)
        self._must_lead()
        core, successor = self._core, self._handover.successor
        if successor is not None:
            raise Busy(f"leadership is being handed over to {successor.id}; propose again in a moment")
        if len(data) > self._config.entry_bytes_max:
            raise EntryTooLarge(
                f"the proposal has {len(data)} bytes, at most entry_bytes_max={self._config.entry_bytes_max} "
                "are allowed; split it, or keep the bulk out of the log"
            )
        entry = Entry(self._log.last_index + 1, core.term, EntryKind.COMMAND, bytes(data))
        self._log.append_entry(entry)
        return entry.term, entry.index

    @_event
    def read_index(self, context: int, now: float) -> None:
        """Ask for a position to read at. See :meth:`consensus.interface.Engine.read_index`."""
        self._advance_clock(now)
        self._must_lead()
        self._reads.add(context)

    @_event
    def transfer_leadership(self, target: str | None, now: float) -> str:
        """Hand over. See :meth:`consensus.interface.Engine.transfer_leadership`."""
        self._advance_clock(now)
        self._must_lead()
        membership = self._membership
        successor = next((peer for peer in membership.voters if peer.id == target), None)
        if (successor is None) != (target is None):
            voters = ", ".join(membership.configuration.voters)
            raise ValueError(f"{target!r} is no other voter; the voters are {voters}")
        return self._handover.begin(successor).id

    @_event
    def change_membership(self, change: Change, now: float) -> int:
        """Append another configuration. See :meth:`consensus.interface.Engine.change_membership`."""
        self._advance_clock(now)
        self._must_lead()
        successor = self._handover.successor
        if successor is not None:
            raise Busy(f"leadership is being handed over to {successor.id}; ask again in a moment")
        index = self._membership.change(change, self._replication.first_index)
        self._follow_configuration()
        return index

    @_event
    def tick(self, now: float) -> None:
        """Let time pass. See :meth:`consensus.interface.Engine.tick`."""
        self._advance_clock(now)
        self._elections.tick()
        self._core.tick()
        self._handover.tick()
        self._notice_role()

    @_event
    def peer_connected(self, peer: str, now: float) -> None:
        """Messages to ``peer`` have a chance to arrive from now on."""
        self._advance_clock(now)
        node = self._membership.peer(peer)
        if node is None or node in self._core.connected:
            return
        if not self._core.connected and not self._core.is_leader:
            # Cut off until now: give a leader the time to make itself heard before calling an election.
            self._core.postpone_election()
        self._core.connect(node)
        self._elections.regained_link(node)
        self._replication.connected(node)

    @_event
    def peer_disconnected(self, peer: str, now: float) -> None:
        """Messages to ``peer`` are lost until further notice."""
        self._advance_clock(now)
        node = self._membership.peer(peer)
        if node is None or node not in self._core.connected:
            return
        self._core.disconnect(node)
        self._elections.lost_link(node)
        self._handover.disconnected(node)
        self._replication.disconnected(node)

    @_event
    def install_snapshot(self, peer: str, term: int, meta: SnapshotMeta, now: float) -> bool:
        """Take a leader's snapshot. See :meth:`consensus.interface.Engine.install_snapshot`.

        When the log holds the snapshot's last entry, everything up to it is known to be committed
        and is applied from the log: the log stays, and nothing is restored.
        """
        self._advance_clock(now)
        sender = self._membership.peer(peer)
        if sender is None or not self._follow(sender, term):
            self.dropped["snapshot_refused"] += 1
            return False
        self._notice_role()
        if meta.index <= self._core.commit_index:
            return False
        held = self._log.base_index <= meta.index <= self._log.last_index
        if held and self._log.term_at(meta.index) == meta.term:
            self._core.committed_to(meta.index, applied=False)
            self._core.advance()
            return True
        self._log.install(meta)
        self._core.committed_to(meta.index, applied=True)
        self._follow_configuration()
        self._output.committed.clear()
        self._output.restore = meta
        return True

    @_event
    def snapshot_delivered(self, peer: str, term: int, index: int, now: float) -> None:
        """``peer`` has made our snapshot durable: go on behind it."""
        self._advance_clock(now)
        core, node = self._core, self._membership.peer(peer)
        if (
            node is None
            or node not in self._membership.incarnations
            or not core.is_leader
            or term != core.term
        ):
            self.dropped["stale_ack"] += 1
        elif index > core.commit_index:
            self.dropped["ack_of_nothing"] += 1
        else:
            self._replication.delivered(node, index)

    @_event
    def hurry(self, peer: str, index: int, now: float) -> None:
        """Somebody at ``peer`` waits. See :meth:`consensus.interface.Engine.hurry`."""
        self._advance_clock(now)
        node = self._membership.peer(peer)
        if node is not None:
            self._replication.hurry(node, index)

    @_event
    def compact(self, meta: SnapshotMeta, retain_entries: int) -> int:
        """A snapshot is durable. See :meth:`consensus.interface.Engine.compact`."""
        log = self._log
        if meta.index > self._core.commit_index:
            raise InvariantViolated(
                f"a snapshot of {meta.index} was taken, but only {self._core.commit_index} is committed"
            )
        if meta.index >= log.base_index and log.term_at(meta.index) != meta.term:
            raise InvariantViolated(
                f"a snapshot of {meta.index} says term {meta.term}, the log says {log.term_at(meta.index)}"
            )
        log.forget_configurations(meta.index)
        return log.compact(meta.index - max(retain_entries, 0))

    # -- what comes out ----------------------------------------------------------------------------

    @_event
    def take_output(self) -> Output:
        """What has gathered. See :meth:`consensus.interface.Engine.take_output`."""
        core = self._core
        if core.is_leader:
            if not self._membership.voters:
                core.advance()
            self._replication.flush(self._output)
            if self._reads:
                self._output.reads.extend(self._reads.take_confirmed())
            if self._handover.successor is not None:
                self._handover.go_on()
        output, self._output = self._output, Output()
        output.persist = self._log.take_records()
        return output

    def next_deadline(self) -> float:
        """The time at which :meth:`tick` has something to do; infinity when there is no such time.

        A follower without a connection waits for one, and a leader without peers for a proposal.
        """
        core = self._core
        if core.is_leader:
            if not self._membership.peers:
                return float("inf")
            replication, until = self._replication, self._handover.until
            at = min(core.heartbeat_at, replication.fallback_at(), replication.notice_at, until)
            return at + DEADLINE_SLACK_S
        if self._membership.may_stand:
            if self._membership.voters and not core.connected:
                return float("inf")
        elif core.leader is None:
            return float("inf")
        return core.election_deadline + DEADLINE_SLACK_S

    def leadership(self) -> Leadership:
        """The part of :meth:`status` that is asked for all the time."""
        core = self._core
        standing = core.standing()
        if standing != self._standing:
            self._standing = standing
            leader = core.leader
            self._leadership = Leadership(core.role, core.term, None if leader is None else leader.id)
        return self._leadership

    def transferring(self) -> str | None:
        """See :meth:`consensus.interface.Engine.transferring`."""
        successor = self._handover.successor
        return None if successor is None else successor.id

    def configuration(self) -> Configuration:
        """See :meth:`consensus.interface.Engine.configuration`."""
        return self._membership.configuration

    def configuration_at(self, index: int) -> bytes:
        """See :meth:`consensus.interface.Engine.configuration_at`."""
        configuration = self._log.configuration_at(index)
        return b"" if configuration is None else configuration.encode()

    def commit_index(self) -> int:
        """See :meth:`consensus.interface.Engine.commit_index`."""
        return self._core.commit_index

    def entries_held(self) -> int:
        """See :meth:`consensus.interface.Engine.entries_held`."""
        return self._log.last_index - self._log.first_index + 1

    def status(self) -> EngineStatus:
        """A view of the engine as it is now."""
        if self._status is None:
            self._status = self._view()
        return self._status

    def _view(self) -> EngineStatus:
        core, leader, membership = self._core, self._core.leader, self._membership
        match: Mapping[str, int] = {}
        contact: Mapping[str, float] = {}
        if core.is_leader:
            match = {peer.id: core.match_index[peer] for peer in membership.peers}
            contact = {peer.id: core.last_response[peer] for peer in membership.peers}
        return EngineStatus(
            self._self.id,
            core.role,
            core.term,
            None if leader is None else leader.id,
            self._log.first_index,
            self._log.last_index,
            core.commit_index,
            membership.configuration.voters,
            match,
            contact,
            membership.configuration.observers,
            membership.standing,
            membership.is_dismissed,
        )

    # -- messages in -------------------------------------------------------------------------------

    def _handle(self, sender: Peer, message: Message) -> None:
        match message:
            case Append():
                self._on_append(sender, message)
            case Ack():
                self._on_ack(sender, message)
            case SnapshotPending():
                self._on_snapshot_pending(sender, message)
            case RequestVote() | TransferVote():
                self._elections.on_request_vote(sender, message)
            case Vote():
                self._elections.on_vote(sender, message)
            case PreVote():
                self._elections.on_pre_vote(sender, message)
                if sender not in self._membership.incarnations:
                    self._dismiss(sender)
            case PreVoteAnswer():
                self._elections.on_pre_vote_answer(sender, message)
            case NewerTerm():
                self._elections.on_newer_term(sender, message)
            case TimeoutNow():
                self._elections.on_timeout_now(sender, message)
            case NotMember():
                self._on_not_member(message)

    def _on_append(self, sender: Peer, append: Append) -> None:
        if not self._admit_leader(sender, append.term):
            return
        core = self._core
        delivery = normalise(append, self._log, core.commit_index)
        self._answering = append.number, delivery
        core.deliver(
            sender,
            {
                "type": "append_entries",
                "term": append.term,
                "commit_index": delivery.commit_index,
                "entries": [(entry.data, entry.index, entry.term, entry) for entry in delivery.entries],
                "prevLogIdx": delivery.prev_index,
                "prevLogTerm": delivery.prev_term,
            },
        )
        self._answering = None
        self._follow_configuration()
        self._elections.heard(sender)
        core.advance()

    def _on_snapshot_pending(self, sender: Peer, message: SnapshotPending) -> None:
        if not self._follow(sender, message.term):
            return
        # What is committed here is in the leader's log: if it has come far enough, no snapshot is needed.
        next_index = self._core.commit_index + 1
        ack = Ack(message.term, message.number, next_index, False, True, self._incarnation)
        self._send(sender, ack)

    def _follow(self, sender: Peer, term: int) -> bool:
        """Take ``sender`` for the leader of ``term`` without looking at any entry of its log."""
        if not self._admit_leader(sender, term):
            return False
        self._core.deliver(sender, {"type": "append_entries", "term": term, "commit_index": 0})
        self._elections.heard(sender)
        return True

    def _admit_leader(self, sender: Peer, term: int) -> bool:
        if term < self._core.term:
            self.dropped["stale_term"] += 1
            self._elections.on_stale_leader(sender)
            return False
        if not self._reign.admit(term, sender):
            self.dropped["second_leader"] += 1
            return False
        return True

    def _on_ack(self, sender: Peer, ack: Ack) -> None:
        """Deliver an answer if it is one to what this node sent as the leader of this term.

        Defect 2: an acknowledgement of an earlier term speaks of entries that may be gone since.
        """
        core = self._core
        if not core.is_leader or ack.term != core.term:
            self.dropped["stale_ack"] += 1
            return
        if not self._membership.counts(sender, ack.incarnation):
            self.dropped["ack_of_a_stranger"] += 1
            self._dismiss(sender)
            return
        if not self._replication.take_ack(sender, ack):
            self.dropped["ack_of_nothing"] += 1

    # -- members -----------------------------------------------------------------------------------

    def _follow_configuration(self) -> None:
        """The log may have another configuration than the one in force."""
        membership = self._membership
        if not membership.follow():
            return
        self._replication.reconfigure()
        if self._core.is_leader and membership.standing is not Standing.VOTER:
            raise InvariantViolated(
                f"{self._self.id} leads term {self._core.term} and is no voter of the configuration at entry "
                f"{membership.index}; restart this node"
            )

    def _dismiss(self, peer: Peer) -> None:
        """Tell whoever takes itself for a member that it is none, if that is certain."""
        membership = self._membership
        if membership.index and membership.is_settled:
            self._send(peer, NotMember(self._core.term, membership.index))

    def _on_not_member(self, message: NotMember) -> None:
        if message.term < self._core.term or not self._membership.dismiss(message.position):
            self.dropped["stale_dismissal"] += 1

    # -- messages out ------------------------------------------------------------------------------

    def on_message(self, peer: Peer, message: dict[str, Any]) -> None:
        """Take what PySyncObj sends. Called from inside :class:`Core`."""
        match message["type"]:
            case "next_node_idx":
                self._send_ack(peer, message)
            case "request_vote":
                self._send(peer, self._elections.request(message))
            case "response_vote":
                self._send(peer, Vote(message["term"], self._incarnation))
            case unknown:
                raise InvariantViolated(f"PySyncObj sent a message of a type that is not ours: {unknown!r}")

    def on_committed(self, index: int) -> None:
        """Take what PySyncObj has committed. Called from inside :class:`Core`."""
        self._output.committed.append(self._log.entry_at(index))

    def _send(self, peer: Peer, message: Message) -> None:
        self._output.send.append((peer.id, self._codec.encode(message)))

    def _send_ack(self, peer: Peer, message: dict[str, Any]) -> None:
        if self._answering is None:
            raise InvariantViolated("PySyncObj acknowledged what nobody sent")
        number, delivery = self._answering
        if message["success"] and not number:
            return
        next_index = min(message["next_node_idx"], delivery.next_index_max)
        success, reset = message["success"], message["reset"]
        self._send(peer, Ack(self._core.term, number, next_index, success, reset, self._incarnation))

    def _must_lead(self) -> None:
        if not self._core.is_leader:
            leader = self._core.leader
            raise NotLeader(None if leader is None else leader.id)

    # -- time and role -----------------------------------------------------------------------------

    def _advance_clock(self, now: float) -> None:
        self._core.now = max(self._core.now, now)

    def _notice_role(self) -> None:
        core = self._core
        if core.is_leader:
            if self._replication.term != core.term:
                if not self._reign.admit(core.term, self._self):
                    raise InvariantViolated(f"elected in term {core.term}, which has a leader already")
                self._replication.begin()
                if self._membership.founding:
                    self._membership.found(self._elections.founders)
                    self._follow_configuration()
        elif self._replication.end():
            self._output.reads_refused += self._reads.refuse()
            self._handover.end()
            if core.election_deadline <= core.now:
                # Defect 23: the deadline dates from before the reign. Without this a deposed leader would
                # call an election at once, against whoever deposed it.
                core.postpone_election()


def _check_voters(node_id: str, voters: Sequence[str] | Configuration) -> Configuration:
    if isinstance(voters, Configuration):
        initial, names = voters, list(voters.voters)
    else:
        names = sorted(set(voters))
        if len(names) != len(voters) or len(names) > VOTERS_MAX:
            raise ValueError(f"voters must be at most {VOTERS_MAX} distinct node ids, not {list(voters)}")
        initial = Configuration.of_voters(names)
    if names and node_id not in names:
        raise ValueError(f"node {node_id!r} is not among the voters {names}")
    return initial
