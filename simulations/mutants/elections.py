"""Mistakes in elections: one leader per term, with all that is committed, and only when one is wanted."""

from __future__ import annotations

from typing import Any

from consensus.raft.elections import Elections
from consensus.raft.guards import Ballot, Reign
from consensus.raft.messages import PreVote, PreVoteAnswer, RequestVote, TransferVote, Vote
from consensus.raft.seams import Core
from simulations.mutants.mutant import Group, Patch

GROUP = Group("elections")


@GROUP.mutant()
def votes_are_counted_twice(patch: Patch) -> None:
    """Defect 3: a vote that the network repeats counts again."""

    def everybody(_self: Ballot, _term: int, _voter: int) -> bool:
        return True

    patch.method(Ballot, "admit", everybody)


@GROUP.mutant()
def votes_of_old_terms_count(patch: Patch) -> None:
    """A candidate counts a vote that was given to it in an earlier term."""
    on_vote = patch.original(Elections, "on_vote")

    def timeless(self: Elections, sender: Any, vote: Vote) -> None:
        on_vote(self, sender, vote._replace(term=self._core.term))

    patch.method(Elections, "on_vote", timeless)


@GROUP.mutant()
def votes_ignore_the_log(patch: Patch) -> None:
    """A voter does not ask whether the candidate's log is as up to date as its own."""
    on_request = patch.original(Elections, "on_request_vote")
    would_vote = patch.original(Elections, "_would_vote")

    def blind(self: Elections, sender: Any, request: RequestVote | TransferVote) -> None:
        on_request(self, sender, request._replace(last_index=2**60, last_term=request.term))

    def blindly(self: Elections, ask: PreVote) -> bool:
        return bool(would_vote(self, ask._replace(last_index=2**60, last_term=ask.term)))

    patch.method(Elections, "on_request_vote", blind)
    patch.method(Elections, "_would_vote", blindly)


@GROUP.mutant()
def a_voter_votes_twice(patch: Patch) -> None:
    """A voter forgets its vote when the next candidate of the same term asks."""
    on_request = patch.original(Elections, "on_request_vote")

    def generous(self: Elections, sender: Any, request: RequestVote | TransferVote) -> None:
        if request.term == self._core.term and not self._core.is_leader:
            self._core.raft._SyncObj__votedForNodeId = None
        on_request(self, sender, request)

    patch.method(Elections, "on_request_vote", generous)


@GROUP.mutant()
def elections_without_asking(patch: Patch) -> None:
    """Defect 11: no PreVote. Who hears nobody counts its term up, and deposes a leader when it returns."""

    def bold(self: Elections) -> None:
        self.call(handed_over=False)

    patch.method(Elections, "_ask", bold)


@GROUP.mutant()
def everybody_consents_to_elections(patch: Patch) -> None:
    """A node that is asked whether it would vote says yes, even while it leads itself."""
    would_vote = patch.original(Elections, "_would_vote")
    patch.value(Elections, "has_leader", lambda _self: False)

    def yes(self: Elections, ask: PreVote) -> bool:
        return bool(would_vote(self, ask)) or True

    patch.method(Elections, "_would_vote", yes)


@GROUP.mutant()
def consent_to_another_asking_counts(patch: Patch) -> None:
    """Answers to earlier askings count for the present one: a majority that was never there at one time."""
    on_answer = patch.original(Elections, "on_pre_vote_answer")

    def timeless(self: Elections, sender: Any, answer: PreVoteAnswer) -> None:
        on_answer(self, sender, answer._replace(round=self._round))

    patch.method(Elections, "on_pre_vote_answer", timeless)


@GROUP.mutant()
def half_of_the_voters_call_an_election(patch: Patch) -> None:
    """A node calls an election as soon as the first of the others consents."""
    on_answer = patch.original(Elections, "on_pre_vote_answer")

    def impatient(self: Elections, sender: Any, answer: PreVoteAnswer) -> None:
        on_answer(self, sender, answer)
        if answer.granted and answer.round == self._round and self._asked_term == self._core.term + 1:
            self.call(handed_over=False)

    patch.method(Elections, "on_pre_vote_answer", impatient)


@GROUP.mutant()
def refusals_tell_no_term(patch: Patch) -> None:
    """A node that is refused because its term is over does not learn of the newer one."""
    on_answer = patch.original(Elections, "on_pre_vote_answer")

    def deaf(self: Elections, sender: Any, answer: PreVoteAnswer) -> None:
        if answer.granted:
            on_answer(self, sender, answer)

    patch.method(Elections, "on_pre_vote_answer", deaf)


@GROUP.mutant()
def anybody_may_hand_leadership_over(patch: Patch) -> None:
    """Nodes that call an election of their own accord say that the leader has asked for it."""
    call = patch.original(Elections, "call")

    def pretending(self: Elections, *, handed_over: bool) -> None:
        call(self, handed_over=True)

    patch.method(Elections, "call", pretending)


@GROUP.mutant()
def nobody_calls_elections(patch: Patch) -> None:
    """A follower that hears no leader waits on."""

    def patient(self: Elections) -> None:
        if self._core.election_deadline < self._core.now and not self._core.is_leader:
            self._core.postpone_election()

    patch.method(Elections, "tick", patient)


@GROUP.mutant(
    survives="Election safety rules out what it guards against: while a term has one leader, nobody else "
    "speaks as its leader. It is a second line of defence against peers that do not keep to Raft, and "
    "tests/consensus/raft/test_defects.py shows it at work (22)."
)
def a_second_leader_of_a_term_is_followed(patch: Patch) -> None:
    """Defect 22: a node obeys whoever speaks as the leader of its term, also after another has."""

    def everybody(_self: Reign, _term: int, _leader: int) -> bool:
        return True

    patch.method(Reign, "admit", everybody)


@GROUP.mutant()
def the_term_of_an_election_is_not_new(patch: Patch) -> None:
    """A candidate asks for votes in the term that it was in, in which another may have led."""
    call = patch.original(Core, "call_election")

    def repeating(self: Core) -> None:
        self.raft._SyncObj__raftCurrentTerm -= self.term > 1
        call(self)

    patch.method(Core, "call_election", repeating)
