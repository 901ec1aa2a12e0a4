"""Mistakes in how entries get from the leader to the others, and when they count as committed."""

from __future__ import annotations

from typing import Any

from consensus.raft import guards
from consensus.raft.elections import Elections
from consensus.raft.engine import RaftEngine
from consensus.raft.guards import Delivery
from consensus.raft.messages import Ack, Append
from consensus.raft.replication import Replication
from consensus.raft.seams import Core
from simulations.mutants.mutant import Group, Patch

GROUP = Group("replication and commit")


@GROUP.mutant()
def appends_are_not_normalised(patch: Patch) -> None:
    """Defect 1 as PySyncObj has it: a resent append makes a follower forget what matches behind it."""

    def bare(append: Append, _log: Any, _commit_index: int) -> Delivery:
        after = append.prev_index + len(append.entries) + 1
        return Delivery(append.prev_index, append.prev_term, append.entries, append.commit_index, after)

    patch.function(guards, "normalise", bare)


@GROUP.mutant()
def a_follower_acknowledges_what_was_not_compared(patch: Patch) -> None:
    """A follower whose log is longer than what an append speaks of acknowledges all of its log."""
    normalise = patch.original(guards, "normalise")

    def boastful(append: Append, log: Any, commit_index: int) -> Delivery:
        delivery: Delivery = normalise(append, log, commit_index)
        return delivery._replace(next_index_max=max(log.last_index + 1, delivery.next_index_max))

    patch.function(guards, "normalise", boastful)


@GROUP.mutant()
def a_follower_commits_what_was_not_compared(patch: Patch) -> None:
    """A follower takes the leader's commit index for its own log, also behind what an append speaks of."""
    normalise = patch.original(guards, "normalise")

    def hasty(append: Append, log: Any, commit_index: int) -> Delivery:
        delivery: Delivery = normalise(append, log, commit_index)
        return delivery._replace(commit_index=append.commit_index)

    patch.function(guards, "normalise", hasty)


@GROUP.mutant()
def acknowledgements_of_old_terms_count(patch: Patch) -> None:
    """Defect 2: a leader counts an acknowledgement that was meant for an earlier term."""
    on_ack = patch.original(RaftEngine, "_on_ack")

    def timeless(self: RaftEngine, sender: Any, ack: Ack) -> None:
        on_ack(self, sender, ack._replace(term=self._core.term))

    patch.method(RaftEngine, "_on_ack", timeless)


@GROUP.mutant()
def appends_of_old_terms_are_obeyed(patch: Patch) -> None:
    """A follower takes what a leader of an earlier term sends for the words of the present one."""
    on_append = patch.original(RaftEngine, "_on_append")

    def timeless(self: RaftEngine, sender: Any, append: Append) -> None:
        on_append(self, sender, append._replace(term=max(append.term, self._core.term)))

    patch.method(RaftEngine, "_on_append", timeless)


@GROUP.mutant()
def rejections_count_as_acknowledgements(patch: Patch) -> None:
    """A leader reads "this did not fit, go on from there" as "everything below is here"."""
    on_ack = patch.original(RaftEngine, "_on_ack")

    def hopeful(self: RaftEngine, sender: Any, ack: Ack) -> None:
        on_ack(self, sender, ack._replace(success=True, reset=False))

    patch.method(RaftEngine, "_on_ack", hopeful)


@GROUP.mutant()
def rejections_are_ignored(patch: Patch) -> None:
    """A leader does not go back when a follower misses something: the follower never catches up."""
    on_ack = patch.original(RaftEngine, "_on_ack")

    def deaf(self: RaftEngine, sender: Any, ack: Ack) -> None:
        if ack.success:
            on_ack(self, sender, ack)

    patch.method(RaftEngine, "_on_ack", deaf)


def _commits(patch: Patch, needed: Any) -> None:
    """Let leaders commit what ``needed(self)`` of the others have, whatever its term."""
    advance = patch.original(Core, "advance")

    def counting(self: Core) -> None:
        held = sorted(self.match_index.values(), reverse=True) if self.is_leader else []
        count = needed(len(held))
        if count > 0 and held[count - 1] > self.commit_index:
            self.committed_to(min(held[count - 1], self._log.last_index), applied=False)
        advance(self)

    patch.method(Core, "advance", counting)


@GROUP.mutant()
def entries_of_old_terms_are_committed_by_counting(patch: Patch) -> None:
    """A leader commits an earlier leader's entries once a majority has them (section 5.4.2, figure 8)."""
    _commits(patch, lambda others: (others + 1) // 2)


@GROUP.mutant()
def one_disk_too_few_commits(patch: Patch) -> None:
    """A leader commits with the acknowledgement of one follower less than a majority needs."""
    _commits(patch, lambda others: (others + 1) // 2 - 1)


@GROUP.mutant()
def even_clusters_need_only_half(patch: Patch) -> None:
    """In a cluster of an even number half of the disks are taken for a majority."""
    _commits(patch, lambda others: others // 2 if others % 2 else 0)


@GROUP.mutant()
def a_snapshot_counts_for_the_whole_log(patch: Patch) -> None:
    """A leader takes a follower that has its snapshot for one that has its whole log."""
    delivered = patch.original(Replication, "delivered")

    def generous(self: Replication, peer: Any, index: int) -> None:
        delivered(self, peer, index)
        self._core.match_index[peer] = self._log.last_index

    patch.method(Replication, "delivered", generous)


@GROUP.mutant()
def a_cut_off_leader_leads_on(patch: Patch) -> None:
    """Defect 12: a leader that hears from nobody goes on for as long as nobody tells it of another."""
    tick = patch.original(Core, "tick")

    def stubborn(self: Core) -> None:
        if self.is_leader:
            self.raft._SyncObj__lastResponseTime.update(dict.fromkeys(self.last_response, self.now))
        tick(self)

    patch.method(Core, "tick", stubborn)


@GROUP.mutant()
def an_old_leader_is_not_told(patch: Patch) -> None:
    """Nobody tells the leader of an older term that it is over, so who is in the newer one stays alone."""

    def silent(self: Elections, sender: Any) -> None:
        return

    patch.method(Elections, "on_stale_leader", silent)
