"""Who votes, who counts, and how that changes while the cluster runs (Ongaro 2014, chapter 4).

*One at a time.* A configuration is in force on a node as soon as it stands in its log, committed or not, and
out of force when it is truncated. It differs from the one before in one member's place, so majorities of the
two overlap, and the next is appended only when this one is committed: there are never more than two about. A
leader appends none before an entry of its own term is committed, because until then an earlier leader's
configuration that it does not know of might still win: two changes made at once from the same base have
majorities without a common node (the mistake of 2015 in the dissertation's algorithm; Ongaro, raft-dev, "bug
in single-server membership changes").

*A leader counts.* It does not remove itself: it hands leadership over, and its successor removes it. So a
leader is always one of its voters, PySyncObj's counting of itself is right, and nobody ever needs a leader
that is outside (section 4.2.2). Whoever is removed gets no more of the log, so it never learns from its own
log that it is out; it is told (:class:`~consensus.raft.messages.NotMember`), and stands for no election
any more. Should it not hear that, PreVote and stickiness keep it from disturbing anybody (section 4.2.3).

*Caught up first.* An observer is promoted when it lacks no more than ``promotion_lag_entries_max`` entries,
and no change is made that would leave less than a majority within reach (section 4.2.1): a typing mistake
must not end a cluster.

*Votes and acknowledgements are those of an incarnation* (:mod:`consensus.configuration` says why). The list
that nodes are first started with cannot name any, so the first leader is elected by **all** of its voters,
and its second entry is a configuration with the incarnations that voted for it. Why that is enough: let L be
the first such leader and C its configuration. Whatever L has committed since is on a majority of those
incarnations, and each of them has C, which stands before it. A node that does not have C needs the vote of
every name on the list. Whoever has C does not give it, because its own log is longer. So as long as one disk
of that majority is whole, which is less than Raft asks for, there is no second beginning, whoever lost a
disk, and when. A node that has C, or any later configuration, counts only the incarnations that this one
names.

A journal from before there were incarnations has 0 for one, and needs a majority only: its first list names
it rightly.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from consensus.configuration import Change, Configuration, Promote, Remove, Standing, changed
from consensus.errors import Busy, MembershipRefused, NotCaughtUp
from consensus.interface import Entry, EntryKind
from consensus.raft.config import RaftConfig
from consensus.raft.log import MemoryLog
from consensus.raft.seams import Core, Peer

PEERS_KNOWN_MAX = 256
"""Of so many names this engine takes messages: more than any cluster has in its whole life."""


class Membership:
    """The configuration in force on one node, and what is derived from it in :meth:`follow`.

    ``initial`` is what the node was started with: in force until the log says something else.
    """

    def __init__(
        self,
        core: Core,
        log: MemoryLog,
        me: Peer,
        incarnation: int,
        initial: Configuration,
        known: Mapping[str, Peer],
        config: RaftConfig,
    ) -> None:
        self._core, self._log, self._config = core, log, config
        self._me, self._incarnation, self._initial = me, incarnation, initial
        self._known = dict(known)
        self._held: tuple[int, Configuration] | None = None
        self._dismissed_at = -1
        self.voters: Sequence[Peer] = ()
        """The other voters."""
        self.peers: Sequence[Peer] = ()
        """The other members: those who receive the log."""
        self.incarnations: Mapping[Peer, int] = {}
        """Of the other members: whose votes and answers count."""
        self._standing = Standing.OUTSIDER
        self.founding = False
        """Nobody has led yet, as far as this node knows: a leader needs the votes of all."""
        self._derive()

    @property
    def configuration(self) -> Configuration:
        """The configuration in force."""
        return self._initial if self._held is None else self._held[1]

    @property
    def index(self) -> int:
        """Where it stands in the log; 0: nowhere."""
        return 0 if self._held is None else self._held[0]

    @property
    def is_settled(self) -> bool:
        """Whether it is committed."""
        return self.index <= self._core.commit_index

    @property
    def is_dismissed(self) -> bool:
        """Whether another node has said that this one is no member."""
        return self._dismissed_at >= 0

    @property
    def standing(self) -> Standing:
        """What this node is, as far as it knows."""
        return Standing.OUTSIDER if self._dismissed_at >= 0 else self._standing

    @property
    def may_stand(self) -> bool:
        """Whether this node may call elections."""
        return self._standing is Standing.VOTER and self._dismissed_at < 0

    def peer(self, name: str) -> Peer | None:
        """The node of this name, member or not; ``None`` for this node itself, and for one name too many."""
        known = self._known.get(name)
        if known is not None:
            return None if known == self._me else known
        if len(self._known) >= PEERS_KNOWN_MAX:
            return None
        self._known[name] = peer = Peer(len(self._known) + 1, name)
        return peer

    # -- following the log -------------------------------------------------------------------------

    def follow(self) -> bool:
        """Put the log's last configuration in force; returns whether that changed anything."""
        if self._log.configuration is self._held:
            return False
        self._derive()
        if self.index >= self._dismissed_at:
            self._dismissed_at = -1
        return True

    def _derive(self) -> None:
        self._held = self._log.configuration
        configuration, before = self.configuration, self.incarnations
        self.incarnations = {
            peer: member.incarnation
            for member in configuration.members
            if (peer := self.peer(member.name)) is not None
        }
        for peer, incarnation in self.incarnations.items():
            if before.get(peer, incarnation) != incarnation:
                self._core.forget(peer)
        self.peers = list(self.incarnations)
        self.voters = [peer for peer in self.peers if peer.id in configuration.voters]
        self._core.reconfigure(self.voters, [peer for peer in self.peers if peer not in self.voters])
        self._standing = configuration.standing(self._me.id, self._incarnation)
        self.founding = self._held is None and self._incarnation != 0
        if self.founding and self._me.id in configuration.voters:
            self._standing = Standing.VOTER

    def counts(self, peer: Peer, incarnation: int) -> bool:
        """Whether what ``peer`` says in this incarnation is said by the member of that name."""
        return self.incarnations.get(peer) == incarnation

    def dismiss(self, index: int) -> bool:
        """Somebody says that the configuration at ``index`` is without this node. Whether that is news."""
        if index <= self.index or self.is_dismissed:
            return False
        self._dismissed_at = index
        return True

    # -- leading it --------------------------------------------------------------------------------

    def found(self, incarnations: Mapping[Peer, int]) -> None:
        """Append the first configuration: the voters, as those who have just elected this node."""
        named = {peer.id: incarnation for peer, incarnation in incarnations.items()}
        named[self._me.id] = self._incarnation
        bound = [replace(member, incarnation=named[member.name]) for member in self._initial.members]
        self._append(Configuration.of(bound))

    def change(self, change: Change, first_index: int) -> int:
        """Append the configuration after ``change``; ``first_index`` is that of this leader's first entry.

        Gives its index, or that of the one in force if it is so already. Raises as
        :meth:`consensus.interface.Engine.change_membership` does.
        """
        core = self._core
        after = changed(self.configuration, change)
        if after == self.configuration:
            return self.index
        if core.commit_index < first_index:
            raise Busy("this leader has committed nothing of its own term yet; ask again in a moment")
        if not self.is_settled:
            raise Busy(
                f"the change of members at entry {self.index} is not committed yet (commit index "
                f"{core.commit_index}), and there is one at a time; ask again when it is"
            )
        if isinstance(change, Remove) and change.name == self._me.id:
            raise MembershipRefused(f"{change.name} leads: hand leadership over first, then remove it")
        if isinstance(change, Promote):
            self._must_have_caught_up(change.name)
        self._must_leave_a_majority(change, after)
        return self._append(after)

    def _append(self, configuration: Configuration) -> int:
        data = configuration.encode()
        if len(data) > self._config.entry_bytes_max:
            raise MembershipRefused(
                f"the configuration has {len(data)} bytes, more than entry_bytes_max="
                f"{self._config.entry_bytes_max}; remove members, or give them shorter addresses"
            )
        index = self._log.last_index + 1
        self._log.append_entry(Entry(index, self._core.term, EntryKind.CONFIG, data))
        return index

    def _must_have_caught_up(self, name: str) -> None:
        core, last, most = self._core, self._log.last_index, self._config.promotion_lag_entries_max
        peer = self._known[name]
        held = core.match_index[peer]
        if last - held > most:
            raise NotCaughtUp(
                f"{name} has {held} of {last} entries, and at most promotion_lag_entries_max={most} may be "
                "missing; promote it when it has caught up"
            )
        # PySyncObj takes the moment in which it learns of a peer for an answer. A match is proof of one.
        if not held or not self._is_reachable(peer):
            raise NotCaughtUp(f"{name} has not answered lately; promote it when it does")

    def _must_leave_a_majority(self, change: Change, after: Configuration) -> None:
        reachable = [name for name in after.voters if self._is_reachable(self._known.get(name, self._me))]
        if 2 * len(reachable) <= len(after.voters):
            raise MembershipRefused(
                f"cannot {change}: of the voters {', '.join(after.voters)} only "
                f"{', '.join(reachable) or 'none'} can be reached, which is no majority; mend or remove the "
                "others first"
            )

    def _is_reachable(self, peer: Peer) -> bool:
        core = self._core
        if peer == self._me:
            return True
        silent_s = core.now - core.last_response.get(peer, float("-inf"))
        return peer in core.connected and silent_s < self._config.election_timeout_max_s
