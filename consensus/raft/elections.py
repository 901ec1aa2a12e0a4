"""When this node calls an election, and whom it lets call one.

PySyncObj calls an election whenever its deadline passes, and lets any higher term depose a leader: a
node that hears nobody counts its term up, and when it is heard again it ends a reign that served
everybody else (defect 11). Both are guarded here (Ongaro 2014, sections 9.6 and 4.2.3):

- *PreVote.* When the deadline passes, the node first asks whether it could win, and nothing changes by
  asking: no term, no vote, nothing on the disk. A peer says yes if it would vote for such a log and term,
  and does not know of a leader that is alive. Only a majority of yeses makes PySyncObj call the
  election; otherwise the deadline is put off and the term stays.
- *Stickiness.* Whoever knows of a leader that is alive ignores requests for votes, unless that leader
  has itself asked for the election (section 3.10).
- *A lost link.* Most leaders that fall silent are processes that died, and then the link breaks at once. So
  nobody waits for the whole deadline after that, unless the link is back first; and nobody vouches for a
  leader without a link to it. Should the leader be alive after all, whoever still has a link says no.
- *Making way.* Who says yes waits a moment with an asking of its own, and of two that ask at once the one
  with the smaller name goes first: votes that are split cost a whole timeout.

None of this can make two leaders: it only holds back messages that Raft allows to be lost. It must not
hold back too much, so the term still gets around. A refusal carries the peer's term, because a log that
could win is worth nothing under a term that is over. And a leader of an older term is told so, because
nobody would depose it otherwise, and the node with the newer term could never follow it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from consensus.interface import Role
from consensus.raft.config import RaftConfig
from consensus.raft.guards import Ballot
from consensus.raft.log import MemoryLog
from consensus.raft.membership import Membership
from consensus.raft.messages import (
    Message,
    NewerTerm,
    PreVote,
    PreVoteAnswer,
    RequestVote,
    TimeoutNow,
    TransferVote,
    Vote,
)
from consensus.raft.seams import Core, Peer

if TYPE_CHECKING:
    from random import Random

Send = Callable[[Peer, Message], None]


class Elections:
    """One voter's side of every election. ``dropped`` counts what was ignored, by reason."""

    def __init__(
        self,
        core: Core,
        log: MemoryLog,
        me: Peer,
        membership: Membership,
        config: RaftConfig,
        *,
        generator: Random,
        send: Send,
        dropped: Counter[str],
    ) -> None:
        self._core, self._log, self._membership, self._config = core, log, membership, config
        self._me, self._random = me, generator
        self._send, self._dropped = send, dropped
        self._ballot = Ballot()
        self._heard_at = float("-inf")
        self._deadline_before_loss: float | None = None
        # So that an answer to an earlier life of this node is not taken for one to this.
        self._round = int(generator.random() * 2**48)
        self._asked_term = 0
        self._grants: set[Peer] = set()
        self._handed_over = False
        self.founders: dict[Peer, int] = {}
        """Who has voted for this node in its last candidacy, in which incarnation, while it is founding."""

    @property
    def has_leader(self) -> bool:
        """Whether a leader is alive: this node, or one that it heard over a link that still stands."""
        core, leader = self._core, self._core.leader
        if core.is_leader:
            return True
        fresh = core.now - self._heard_at < self._config.election_timeout_min_s
        return fresh and leader is not None and leader in core.connected

    def heard(self, leader: Peer) -> None:
        """The leader of the term has spoken, and the deadline is a new one: nobody need be asked any more."""
        self._heard_at = self._core.now
        self._deadline_before_loss = None
        self._close()
        if leader not in self._core.connected:
            # Its last words, which were on their way when the link broke.
            self.lost_link(leader)

    def lost_link(self, peer: Peer) -> None:
        """The link to ``peer`` broke. If it is the leader, it may have died: do not wait for long."""
        core = self._core
        if core.leader == peer:
            self._deadline_before_loss = core.election_deadline
            core.election_deadline = min(core.election_deadline, self._soon())

    def regained_link(self, peer: Peer) -> None:
        """The link to ``peer`` is back. If it is the leader, it has the time again that it had."""
        if self._core.leader == peer and self._deadline_before_loss is not None:
            self._core.election_deadline = self._deadline_before_loss
            self._deadline_before_loss = None

    def _soon(self) -> float:
        low, high = self._config.lost_leader_min_s, self._config.lost_leader_max_s
        return self._core.now + low + (high - low) * self._random.random()

    # -- calling one -------------------------------------------------------------------------------

    def tick(self) -> None:
        """Ask the others if the deadline has passed. Without others PySyncObj needs no asking."""
        core, stands = self._core, self._membership.may_stand
        if core.is_leader or (stands and not (self._membership.voters and core.connected)):
            return
        if core.election_deadline < core.now:
            # Also where this node does not stand: PySyncObj would.
            core.postpone_election()
            if stands:
                self._ask()
            else:
                core.forget_leader()

    def call(self, *, handed_over: bool) -> None:
        """Begin a term and ask for votes; ``handed_over``: the leader itself wants it."""
        self._close()
        self.founders = {}
        self._handed_over = handed_over
        try:
            self._core.call_election()
        finally:
            self._handed_over = False

    def request(self, message: dict[str, Any]) -> RequestVote | TransferVote:
        """PySyncObj's request for a vote, as peers are told."""
        shape = TransferVote if self._handed_over else RequestVote
        return shape(message["term"], message["last_log_index"], message["last_log_term"])

    def _ask(self) -> None:
        core, log = self._core, self._log
        # Whoever hears no leader knows of none: commands wait for the next one to speak.
        core.forget_leader()
        self._deadline_before_loss = None
        self._round += 1
        self._asked_term = core.term + 1
        self._grants.clear()
        for peer in self._membership.voters:
            self._send(peer, PreVote(self._asked_term, self._round, log.last_index, log.last_term))

    def _close(self) -> None:
        self._asked_term = 0

    def on_pre_vote_answer(self, sender: Peer, answer: PreVoteAnswer) -> None:
        """Count a yes; a majority of them calls the election. Only answers to the last asking count."""
        core = self._core
        if answer.round != self._round or self._asked_term != core.term + 1:
            self._dropped["stale_pre_vote"] += 1
        elif answer.granted:
            if sender in self._membership.voters:
                self._grants.add(sender)
            if self._has_enough(len(self._grants)):
                self.call(handed_over=False)
        elif answer.term > core.term:
            core.observe_term(sender, answer.term)

    def _has_enough(self, others: int) -> bool:
        """Whether the votes of so many other voters, and this node's own, elect it."""
        voters, founding = len(self._membership.voters), self._membership.founding
        return others == voters if founding else others + 1 > (voters + 1) // 2

    def on_vote(self, sender: Peer, vote: Vote) -> None:
        """Count a vote, if it is one for this term, a voter's, and the sender's first (defect 3)."""
        core, membership = self._core, self._membership
        if core.role is not Role.CANDIDATE or vote.term != core.term:
            self._dropped["stale_vote"] += 1
        elif sender not in membership.voters or not (
            membership.founding or membership.counts(sender, vote.incarnation)
        ):
            self._dropped["vote_of_a_stranger"] += 1
        elif not self._ballot.admit(vote.term, sender):
            self._dropped["second_vote"] += 1
        else:
            self.founders[sender] = vote.incarnation
            if membership.founding and not self._has_enough(len(self.founders)):
                return
            for voter in list(self.founders) if membership.founding else (sender,):
                core.deliver(voter, {"type": "response_vote", "term": vote.term})
            core.advance()

    def on_timeout_now(self, sender: Peer, message: TimeoutNow) -> None:
        """Call an election at once, if it is the leader of this term that wants it."""
        core = self._core
        if message.term != core.term or core.leader != sender or not self._membership.may_stand:
            self._dropped["stale_timeout_now"] += 1
            return
        self.call(handed_over=True)

    # -- letting others call one -------------------------------------------------------------------

    def on_pre_vote(self, sender: Peer, ask: PreVote) -> None:
        """Say whether this node would vote for the sender."""
        granted = not self.has_leader and self._would_vote(ask)
        if granted:
            self._make_way(sender)
        self._send(sender, PreVoteAnswer(self._core.term, ask.round, granted))

    def _make_way(self, candidate: Peer) -> None:
        core = self._core
        core.election_deadline = max(core.election_deadline, self._soon())
        if candidate.id < self._me.id:
            self._close()

    def _would_vote(self, ask: PreVote) -> bool:
        term, log = self._core.term, self._log
        free = ask.term > term or (ask.term == term and log.getVotedForNodeId() is None)
        return free and (ask.last_term, ask.last_index) >= (log.last_term, log.last_index)

    def on_request_vote(self, sender: Peer, request: RequestVote | TransferVote) -> None:
        """Let PySyncObj vote, unless a leader is alive that has not asked for this election."""
        if self.has_leader and isinstance(request, RequestVote):
            self._dropped["leader_alive"] += 1
            return
        message = {
            "type": "request_vote",
            "term": request.term,
            "last_log_index": request.last_index,
            "last_log_term": request.last_term,
        }
        self._core.deliver(sender, message)

    # -- terms -------------------------------------------------------------------------------------

    def on_stale_leader(self, sender: Peer) -> None:
        """``sender`` leads a term that is over: nobody else may tell it."""
        self._send(sender, NewerTerm(self._core.term))

    def on_newer_term(self, sender: Peer, message: NewerTerm) -> None:
        """A peer cannot follow this leader any more: make room for one that everybody can follow."""
        member = sender in self._membership.incarnations
        if self._core.is_leader and message.term > self._core.term and member:
            self._core.observe_term(sender, message.term)
        else:
            self._dropped["stale_term"] += 1
