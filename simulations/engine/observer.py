"""Shows every event of a cluster of engines to the rules of `simulations.invariants`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import msgpack

from consensus.batch import Batch
from consensus.channel import Kind
from consensus.configuration import Configuration
from consensus.errors import ConsensusError
from consensus.interface import (
    EngineStatus,
    Entry,
    EntryKind,
    Leadership,
    Record,
    Recovered,
    Role,
    SnapshotMeta,
)
from consensus.journal import Journal
from consensus.ports import Applied
from simulations.catching_up import CaughtUpFirst
from simulations.contact import LeadersAreHeard
from simulations.invariants import (
    AcknowledgementsAreTrue,
    Agreement,
    CommitsAreCounted,
    ElectionSafety,
    ElectionsAreWanted,
    LeaderCompleteness,
    LogMatching,
    NothingGoesBack,
    OneMemberAtATime,
    PromisesAreDurable,
    ProposalsResolveOnce,
    QuorumDurability,
    Violation,
)
from simulations.shadow import Disks, Electorate

_PROMISE_BYTES_MAX = 64
"""Votes and acknowledgements are shorter; what is longer carries entries."""

_APPEND_HEAD_BYTES_MAX = 64
"""All of an append before its entries: seven headers and five integers."""

_APPEND, _VOTE, _ACK = 3, 11, 12
_PROMISING = {
    1: "a request for votes",
    _APPEND: "an append",
    5: "a heartbeat",
    _VOTE: "a vote",
    _ACK: "an answer",
}
"""The engine's messages that speak in the name of a term; the others promise nothing."""

_REQUEST, _PRE_VOTE, _PRE_VOTE_ANSWER, _TRANSFER_VOTE, _TIMEOUT_NOW = 1, 6, 7, 8, 10


class Observer:
    """Stands above the cluster. Every method may raise :class:`~simulations.invariants.Violation`."""

    def __init__(
        self, nodes: Sequence[str], voters: Sequence[str], *, fallback_s: float, lag_entries_max: int
    ) -> None:
        """``voters`` of ``nodes`` are those that the cluster is started with."""
        self.disks = Disks(nodes)
        self.elections = ElectionSafety(len(voters))
        self.consent = ElectionsAreWanted(len(voters))
        self.contact = LeadersAreHeard(nodes, fallback_s)
        self.configurations: list[tuple[int, Configuration]] = []
        """Those that are committed, with their indexes."""
        self._first = Electorate.first(voters)
        self._stored: dict[str, SnapshotMeta] = {}
        self.catching_up = CaughtUpFirst(self.disks, lag_entries_max)
        self.matching = LogMatching()
        self.completeness = LeaderCompleteness()
        self.agreement = Agreement()
        self.commits = CommitsAreCounted(len(nodes))
        self.answers = AcknowledgementsAreTrue()
        self.proposals = ProposalsResolveOnce()
        self.on_reign: Callable[[], None] = lambda: None
        """Called when the first entry of a later term than any before is committed."""
        self._heeded: dict[str, tuple[str, ...]] = {}
        """Whose answers counted for each leader when it last looked."""
        self._states: dict[int, bytes] = {}
        self._commit = dict.fromkeys(nodes, 0)
        self._term = dict.fromkeys(nodes, 0)
        self.messages = 0
        """That were handed to the network."""
        self.steps = 0
        """Outputs that were performed completely."""

    @property
    def checked(self) -> dict[str, int]:
        """How many things each rule was held against so far, by the rule's name."""
        led, committed = len(self.elections.leaders), self.agreement.tip
        return {
            "election safety": led,
            "leader completeness": led,
            "log matching": self.matching.written,
            "state machine safety": committed,
            "committed never changes": committed,
            "quorum durability": committed,
            "promises are durable": self.messages,
            "nothing goes back": self.steps,
            "proposals resolve once": self.proposals.ended,
        }

    # -- disks --------------------------------------------------------------------------------------

    def appended(self, node: str, records: Sequence[Record]) -> None:
        """``node`` wrote these records."""
        live = self.disks.live[node]
        for record in records:
            if type(record) is Entry:
                self._wrote(node, record.term)
                self.matching.wrote(node, record, live.term_at(record.index - 1))
            live.take((record,))
            if type(record) is Entry and record.kind is EntryKind.CONFIG and len(live.configurations) > 1:
                (_, before), (_, after) = live.configurations[-2:]
                OneMemberAtATime.follows(node, before, after)
                self.catching_up.follows(record.index, record.term, before, after)
        self.disks.note_pending(node, records)

    def synced(self, node: str) -> None:
        """``node`` synced its journal. What that takes away may be missed."""
        cut = self.disks.cut_pending(node)
        self.disks.synced(node)
        if cut and self.agreement.tip:
            self._durable(self.agreement.history[-1])

    def covered(self, node: str, meta: SnapshotMeta | None) -> None:
        """The latest durable snapshot of ``node``."""
        if meta is not None and meta != self._stored.get(node):
            self._stored[node] = meta
            OneMemberAtATime.stored(node, meta, self._committed_at(meta.index))
            self.disks.covered(node, meta.index)

    def was_emptied(self, node: str) -> None:
        """The disk of ``node`` was emptied: whoever starts on it is another server."""
        self.disks.was_emptied(node)
        self._stored.pop(node, None)

    def restarted(self, node: str, recovered: Recovered) -> None:
        """``node`` has read its disk."""
        known = self.disks.incarnations[node]
        if known not in (0, recovered.incarnation) and self.disks.durable[node].last:
            raise Violation("nothing goes back", f"{node} comes back as another than it was, with its disk")
        NothingGoesBack.restarted(
            node, self.disks.durable[node], recovered, cut_pending=self.disks.cut_pending(node)
        )
        self.disks.restarted(node, recovered)
        self._commit[node] = self._term[node] = 0
        self.consent.reigns(node, None)
        self.contact.led(node, 0.0, leads=False)
        if self.agreement.tip:
            self._durable(self.agreement.history[-1])

    # -- engines ------------------------------------------------------------------------------------

    def stepped(self, node: str, leadership: Leadership, commit_index: int, match: Mapping[str, int]) -> None:
        """``node`` has performed an output completely. ``match``: what it believes of peers, if it leads."""
        self.steps += 1
        role, term, _ = leadership
        before = self._commit[node]
        NothingGoesBack.advanced(node, "the commit index", before, commit_index)
        NothingGoesBack.advanced(node, "the term", self._term[node], term)
        leads, moved = role is Role.LEADER, commit_index > before
        self.commits.stepped(
            node,
            term,
            commit_index,
            self.disks.live[node],
            leads=leads,
            moved=moved,
            electorates=self._in_force(node) if leads and moved else (),
            incarnation=self.disks.incarnations[node],
        )
        if leads:
            self.completeness.committed(term, commit_index)
            self.commits.believed(node, term, match)
        self._commit[node], self._term[node] = commit_index, term

    def changed(self, node: str, status: EngineStatus, now: float) -> None:
        """Role, term or leader of ``node`` changed, at ``now`` on its clock."""
        leads = status.role is Role.LEADER
        self.consent.reigns(node, status.term if leads else None)
        self.contact.led(node, now, leads=leads)
        if status.leader is not None:
            electorate = self._electorate_before(status.leader, status.term)
            self.elections.followed(node, status.leader, status.term, electorate)
        if leads:
            electorate = self._electorate_before(node, status.term)
            self.elections.led(node, status.term, electorate, self.disks.incarnations[node])
            self.completeness.led(node, status.term, self.disks.live[node], self.agreement.history)

    def committed(self, node: str, entry: Entry, batch: Batch, after: int) -> None:
        """``node`` is about to execute ``entry``, behind index ``after``."""
        before = self.agreement.history[-1].term if self.agreement.tip else 0
        if self.agreement.committed(node, entry, after):
            if entry.kind is EntryKind.CONFIG:
                self.configurations.append((entry.index, Configuration.decode(entry.data)))
            if entry.term > before:
                self.on_reign()
            self._durable(entry)
            for command in batch.commands:
                self.proposals.committed(command, entry.index)

    def _durable(self, entry: Entry) -> None:
        # The entry of term 0 that every log begins with is part of the program.
        if entry.term > 0:
            QuorumDurability.committed(entry.index, entry.term, self.disks, self._electorates_at(entry.index))

    def looked(self, node: str, now: float) -> None:
        """``node`` has done everything that is due at ``now``."""
        if not self.contact.leads(node):
            return
        known = self.disks.live[node].configurations
        voters = tuple(self._first.incarnations) if not known else known[-1][1].voters
        if self._heeded.get(node) == voters:
            self.contact.looked(node, now, voters)
        # Others count now: a leader may find that it has not heard enough of these, and acts on it next.
        self._heeded[node] = voters

    def _wrote(self, node: str, term: int) -> None:
        if not self.elections.has_begun(node, term):
            self.elections.wrote(node, term, self._electorate_before(node, term))

    def _electorate_before(self, node: str, term: int) -> Electorate:
        """Whose votes make ``node`` the leader of ``term``.

        Its first configuration may stand behind its first entry of the term: that one has elected nobody.
        """
        log = self.disks.live[node]
        known = [c for i, c in log.configurations if (log.term_at(i) or 0) < term]
        return Electorate.of(known[-1]) if known else self._first

    def _in_force(self, node: str) -> list[Electorate]:
        """Who may have decided in this step: the step may have changed the members after it committed."""
        known = [Electorate.of(c) for _, c in self.disks.live[node].configurations[-2:]]
        return known if len(known) > 1 else [Electorate(self._first.incarnations), *known]

    def _committed_at(self, index: int) -> Configuration | None:
        known = (configuration for at, configuration in reversed(self.configurations) if at <= index)
        return next(known, None)

    def _electorates_at(self, index: int) -> list[Electorate]:
        """Who can have decided about the entry at ``index``."""
        at = self._committed_at(index)
        last = max(index, self.configurations[-1][0] if self.configurations else 0)
        found = {} if at is None else {at: Electorate.of(at)}
        for shadow in self.disks.live.values():
            ahead = next((c for i, c in shadow.configurations if i > last), None)
            if ahead is not None:
                found[ahead] = Electorate.of(ahead)
        first = [Electorate(self._first.incarnations)] if at is None else []
        return [*first, *found.values()]

    def restored(self, node: str, meta: SnapshotMeta, state: bytes) -> None:
        """``node`` goes on from a snapshot with this state."""
        self.agreement.restored(node, meta)
        self.executed(node, meta.index, state)

    def executed(self, node: str, index: int, state: bytes) -> None:
        """The state of ``node`` after entry ``index``: it is a function of the history alone."""
        first = self._states.setdefault(index, state)
        if first != state:
            raise Violation("state machine safety", f"the state of {node} after entry {index} is another one")

    def resolved(self, command: bytes, outcome: Applied | ConsensusError) -> None:
        """A proposal has its outcome."""
        if isinstance(outcome, Applied):
            self.proposals.resolved(command, outcome.index, None)
        else:
            self.proposals.resolved(command, None, outcome)

    # -- messages -----------------------------------------------------------------------------------

    def sent(self, node: str, peer: str, message: bytes) -> None:
        """``node`` hands a message to the network."""
        self.messages += 1
        durable = self.disks.durable[node]
        if message[0] == Kind.ENGINE:
            if message[2] == _APPEND:
                self._sent_append(node, peer, message)
            if len(message) <= _PROMISE_BYTES_MAX:
                self._spoke(node, peer, msgpack.unpackb(message[1:]))
        elif message[0] == Kind.CHUNK_ACK:
            term, index, _, done = msgpack.unpackb(message[1:])
            if done:
                PromisesAreDurable.acknowledged(node, index, term, durable)

    def _sent_append(self, node: str, peer: str, message: bytes) -> None:
        """Read an append up to the number of its entries, and no entry."""
        unpacker = msgpack.Unpacker()
        unpacker.feed(message[1 : 1 + _APPEND_HEAD_BYTES_MAX])
        unpacker.read_array_header()
        _, term, number, _, previous, _ = (unpacker.unpack() for _ in range(6))
        if number:
            self.answers.sent(node, peer, term, number, previous + unpacker.read_array_header())

    def received(self, node: str, peer: str, message: bytes) -> None:
        """A message of ``peer`` has reached ``node``."""
        self.contact.came(node, peer)
        if message[0] == Kind.ENGINE:
            if message[2] == _VOTE:
                _, term, incarnation = msgpack.unpackb(message[1:])
                self.elections.voted(peer, node, term, incarnation)
            elif message[2] == _ACK:
                _, term, _, next_index, success, _, incarnation = msgpack.unpackb(message[1:])
                if success:
                    self.commits.acknowledged(node, peer, term, next_index - 1, incarnation)

    def _spoke(self, node: str, peer: str, fields: Sequence[int]) -> None:
        durable = self.disks.durable[node]
        kind, term = fields[0], fields[1]
        self._look_at_election(node, peer, kind, fields)
        if kind not in _PROMISING:
            return
        PromisesAreDurable.spoke(node, _PROMISING[kind], term, durable)
        if kind == _VOTE:
            PromisesAreDurable.voted(node, peer, term, durable)
        elif kind == _ACK and fields[4]:
            PromisesAreDurable.acknowledged(node, fields[3] - 1, term, durable)
            self.answers.acknowledged(node, peer, term, fields[2], fields[3] - 1)

    def _look_at_election(self, node: str, peer: str, kind: int, fields: Sequence[int]) -> None:
        if kind == _PRE_VOTE:
            self.consent.asked(node, fields[1], fields[2])
        elif kind == _PRE_VOTE_ANSWER and fields[3]:
            self.consent.consented(node, peer, fields[1], fields[2])
        elif kind == _TIMEOUT_NOW:
            self.consent.told_to_take_over(peer, fields[1])
        elif kind in (_REQUEST, _TRANSFER_VOTE):
            electorate = self._electorate_before(node, fields[1])
            self.consent.called(node, fields[1], handed_over=kind == _TRANSFER_VOTE, electorate=electorate)


class WatchedJournal:
    """A node's journal, with an observer who sees what is written and what is synced."""

    def __init__(self, journal: Journal, node: str, observer: Observer) -> None:
        self._journal = journal
        self._node = node
        self._observer = observer

    def append(self, records: Sequence[Record]) -> None:
        """See :class:`consensus.ports.Log`."""
        self._journal.append(records)
        self._observer.appended(self._node, records)

    @property
    def unsynced_bytes(self) -> int:
        """See :class:`consensus.ports.Log`."""
        return self._journal.unsynced_bytes

    def sync(self) -> None:
        """See :class:`consensus.ports.Log`."""
        self._journal.sync()
        self._observer.synced(self._node)

    def seal(self) -> None:
        """See :class:`consensus.ports.Log`."""
        self._journal.seal()

    def compact(self, first_index_kept: int) -> None:
        """See :class:`consensus.ports.Log`."""
        self._journal.compact(first_index_kept)
