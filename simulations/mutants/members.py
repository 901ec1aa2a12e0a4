"""Mistakes with members: who counts, one change at a time, and who is nobody."""

from __future__ import annotations

from typing import Any

from consensus.configuration import Change, Configuration, Promote
from consensus.raft.elections import Elections
from consensus.raft.log import MemoryLog
from consensus.raft.membership import Membership
from consensus.raft.seams import Peer
from simulations.mutants.mutant import Group, Patch

GROUP = Group("members")


@GROUP.mutant()
def whoever_has_the_name_counts(patch: Patch) -> None:
    """Votes and acknowledgements of a disk that was emptied count as those of the member of that name."""

    def by_name(self: Membership, peer: Peer, incarnation: int) -> bool:
        return peer in self.incarnations

    patch.method(Membership, "counts", by_name)


@GROUP.mutant()
def a_majority_founds_a_cluster(patch: Patch) -> None:
    """The first leader is elected without all voters, and names those that it knows."""

    def enough(self: Elections, others: int) -> bool:
        return others + 1 > (len(self._membership.voters) + 1) // 2

    def found(self: Membership, incarnations: Any) -> None:
        named = {peer.id: number for peer, number in incarnations.items()} | {self._me.id: self._incarnation}
        members = [m for m in self._initial.members if m.name in named]
        self._append(Configuration.of(type(m)(m.name, named[m.name], m.address) for m in members))

    patch.method(Elections, "_has_enough", enough)
    patch.method(Membership, "found", found)


@GROUP.mutant()
def observers_count(patch: Patch) -> None:
    """Observers are asked for votes and counted like voters."""
    derive = patch.original(Membership, "_derive")

    def generous(self: Membership) -> None:
        derive(self)
        self.voters = self.peers
        self._core.reconfigure(self.voters, ())

    patch.method(Membership, "_derive", generous)


@GROUP.mutant()
def a_snapshot_has_the_latest_members(patch: Patch) -> None:
    """A snapshot says who the members are, and not who they were at its index: they may not be committed."""

    def latest(self: MemoryLog, index: int) -> Configuration | None:
        return None if self.configuration is None else self.configuration[1]

    patch.method(MemoryLog, "configuration_at", latest)


@GROUP.mutant()
def a_truncated_configuration_stays_in_force(patch: Patch) -> None:
    """Members that were never committed stay members on the node whose log had them."""
    delete = patch.original(MemoryLog, "deleteEntriesFrom")

    def faithful(self: MemoryLog, entryFrom: int) -> None:  # noqa: N803 (PySyncObj's name)
        held = list(self._configurations)
        delete(self, entryFrom)
        self._configurations = held

    patch.method(MemoryLog, "deleteEntriesFrom", faithful)


@GROUP.mutant()
def an_observer_is_promoted_at_once(patch: Patch) -> None:
    """Nobody asks whether an observer has caught up before it may vote."""

    def willing(self: Membership, name: str) -> None:
        pass

    patch.method(Membership, "_must_have_caught_up", willing)


@GROUP.mutant()
def two_members_change_at_once(patch: Patch) -> None:
    """Whoever promotes an observer promotes all of them."""
    make = patch.original(Membership, "change")

    def hasty(self: Membership, change: Change, first_index: int) -> int:
        index: int = make(self, change, first_index)
        others = self.configuration.observers if isinstance(change, Promote) else ()
        if others and index == self._log.last_index and len(self.configuration.voters) < 7:
            last = self._log.configuration
            assert last is not None
            more = [type(m)(m.name, m.incarnation, m.address, votes=True) for m in last[1].members]
            index = self._append(Configuration.of(more[:7]))
        return index

    patch.method(Membership, "change", hasty)
