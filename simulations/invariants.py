"""What must hold after every step, whatever happens. Each rule is a class, with the reason why it is a rule.

The rules see events as an observer who stands above the cluster: what each node wrote and synced, who
leads, what is committed where, what is promised in messages. None of them asks the code under test for its
opinion. A rule that is broken raises :class:`Violation` in the very step that broke it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from consensus.configuration import Configuration
from consensus.errors import ConsensusError, OutcomeUnknown
from consensus.interface import Entry, Recovered, SnapshotMeta
from simulations.shadow import Disks, Electorate, Server, Shadow


class Violation(Exception):
    """A rule is broken. ``rule`` is its stable name."""

    def __init__(self, rule: str, what: str) -> None:
        super().__init__(f"{rule}: {what}")
        self.rule = rule


class ElectionSafety:
    """At most one leader is elected in a term (Ongaro and Ousterhout 2014, section 5.2).

    A candidate needs the votes of a majority, a voter votes once per term and remembers it on its disk,
    and two majorities share a voter. Two leaders of one term would each accept entries for the same
    positions. The observer remembers who led each term, for ever, across restarts, and who voted for whom:
    a leader without the votes of a majority is wrong even if no second one turns up. The majority is one
    of the last configuration in the leader's log, and the vote of a server counts, not that of a name.
    """

    def __init__(self, voters: int) -> None:
        self.leaders: dict[int, str] = {}
        self._majority = voters // 2 + 1
        self._votes: dict[tuple[int, str], set[Server]] = {}
        self._began: dict[tuple[int, str], set[Server]] = {}
        self._electorates: dict[tuple[int, str], Electorate | None] = {}

    def voted(self, node: str, candidate: str, term: int, incarnation: int = 0) -> None:
        """A vote of ``node``, in that incarnation, has reached ``candidate``."""
        self._votes.setdefault((term, candidate), set()).add((node, incarnation))

    def has_begun(self, node: str, term: int) -> bool:
        """Whether ``node`` has written an entry of ``term``."""
        return (term, node) in self._began

    def wrote(self, node: str, term: int, electorate: Electorate | None = None) -> None:
        """``node`` writes an entry of ``term``, perhaps its first as a leader: those votes count."""
        if (term, node) not in self._began:
            self._began[term, node] = set(self._votes.get((term, node), ()))
            self._electorates[term, node] = electorate

    def led(self, node: str, term: int, electorate: Electorate | None = None, incarnation: int = 0) -> None:
        """``node`` says that it leads ``term``; ``electorate`` is what its log said (``None``: all nodes)."""
        known = self.leaders.setdefault(term, node)
        if known != node:
            raise Violation("election safety", f"term {term} is led by {known} and by {node}")
        votes = self._began.get((term, node)) or self._votes.get((term, node), set())
        if not self._enough(votes | {(node, incarnation)}, self._electorates.get((term, node)) or electorate):
            voters = sorted({name for name, _ in votes} | {node})
            raise Violation("election safety", f"{node} leads term {term} with votes of {voters} alone")

    def followed(self, node: str, leader: str, term: int, electorate: Electorate | None = None) -> None:
        """``node`` takes ``leader`` for the one that leads ``term``."""
        known = self.leaders.get(term, leader)
        if known != leader:
            raise Violation("election safety", f"{node} follows {leader} in term {term}, which {known} leads")
        votes = self._votes.get((term, leader), set())
        electorate = self._electorates.get((term, leader)) or electorate
        me = None if electorate is None else electorate.incarnations.get(leader)
        if not self._enough(votes | {(leader, me or 0)}, electorate):
            voters = sorted({name for name, _ in votes} | {leader})
            raise Violation(
                "election safety",
                f"{node} follows {leader} in term {term}, for which it has votes of {voters} alone",
            )

    def _enough(self, votes: set[Server], electorate: Electorate | None) -> bool:
        if electorate is not None:
            return electorate.decides(votes)
        return len({name for name, _ in votes}) >= self._majority


class ElectionsAreWanted:
    """Nobody calls an election that a majority does not want, and a leader wants none (Ongaro 2014, 9.6).

    A term that counts up deposes a leader that serves everybody else. So whoever asks for votes must have
    been told by a majority, itself included, that they would vote for it, in answer to its last asking; or
    the leader of the term before has told it to take over. A node that leads never tells anybody so.
    """

    def __init__(self, voters: int) -> None:
        self._majority = voters // 2 + 1
        self._asked: dict[str, tuple[int, int]] = {}
        self._consents: dict[str, set[str]] = {}
        self._successors: set[tuple[str, int]] = set()
        self._reigns: dict[str, int] = {}

    def asked(self, node: str, term: int, number: int) -> None:
        """``node`` asks whether it would win ``term``; ``number`` is that of the asking."""
        if self._asked.get(node) != (term, number):
            self._asked[node] = term, number
            self._consents[node] = {node}

    def consented(self, voter: str, node: str, term: int, number: int) -> None:
        """``voter``, which is in ``term``, says yes to ``node``."""
        if self._reigns.get(voter) == term:
            raise Violation("elections are wanted", f"{voter} leads term {term} and consents to an election")
        if number == self._asked.get(node, (0, 0))[1]:
            self._consents[node].add(voter)

    def told_to_take_over(self, node: str, term: int) -> None:
        """The leader of ``term`` asks ``node`` to call an election."""
        self._successors.add((node, term))

    def reigns(self, node: str, term: int | None) -> None:
        """``node`` leads ``term``, or leads no more."""
        self._reigns[node] = -1 if term is None else term

    def called(
        self, node: str, term: int, *, handed_over: bool, electorate: Electorate | None = None
    ) -> None:
        """``node`` asks for votes in ``term``."""
        rule = "elections are wanted"
        if handed_over:
            if (node, term - 1) not in self._successors:
                raise Violation(rule, f"{node} calls an election in term {term} as if it had been told to")
            return
        consents = self._consents[node] if self._asked.get(node, (0, 0))[0] == term else {node}
        enough = len(consents) >= self._majority
        if electorate is not None:
            # Whoever consents promises nothing, and so does not say which incarnation it is.
            enough = Electorate.first(electorate.incarnations, unanimous=electorate.unanimous).decides(
                (name, 0) for name in consents
            )
        if not enough:
            raise Violation(
                rule, f"{node} calls an election in term {term} with the consent of {sorted(consents)} alone"
            )


class ReadsAreFresh:
    """A read sees all that was committed before it came, and ends by its deadline (Ongaro 2014, 6.4).

    An acknowledged command is committed. So a position that is confirmed for a read must not lie before any
    entry that was committed anywhere when the read came: a leader that was deposed and does not know it would
    confirm such a one.
    """

    @staticmethod
    def confirmed(node: str, index: int, floor: int) -> None:
        """A read on ``node`` may be answered at ``index``; ``floor`` was committed when it was asked for."""
        if index < floor:
            raise Violation(
                "reads are fresh", f"{node} confirms {index} for a read that came when {floor} was committed"
            )

    @staticmethod
    def overdue(node: str, late_s: float) -> None:
        """A running node has not ended a read although its deadline was ``late_s`` ago."""
        raise Violation(
            "reads are fresh", f"a read on {node} has not ended {late_s:.3f} s after its deadline"
        )


class LogMatching:
    """If two logs have an entry of the same index and term, they are equal up to there (section 5.3).

    A leader makes one entry per index in its term, and a follower takes an entry only behind the same
    entry. So it is enough to remember, for every index and term that was ever written anywhere, the
    content and the term of the entry before it: if both are always the same, equality of the whole past
    follows by induction.
    """

    def __init__(self) -> None:
        self._seen: dict[tuple[int, int], tuple[bytes, int | None]] = {}

    @property
    def written(self) -> int:
        """How many entries, by index and term, were written anywhere."""
        return len(self._seen)

    def wrote(self, node: str, entry: Entry, previous_term: int | None) -> None:
        """``node`` writes ``entry`` behind one of ``previous_term`` (``None``: not known)."""
        key = (entry.index, entry.term)
        seen = self._seen.get(key)
        if seen is None or (seen[1] is None and seen[0] == entry.data):
            self._seen[key] = (entry.data, previous_term)
            return
        if seen[0] != entry.data:
            raise Violation(
                "log matching",
                f"{node} has another entry {entry.index} of term {entry.term} than others have",
            )
        if previous_term is not None and seen[1] != previous_term:
            raise Violation(
                "log matching",
                f"entry {entry.index} of term {entry.term} follows one of term {previous_term} on {node} and "
                f"one of term {seen[1]} elsewhere",
            )


class Agreement:
    """One history: what is committed at an index is the same everywhere and for ever.

    *State machine safety* (section 5.4.3): nodes apply the same entry at an index. *Committed never
    changes*: a node that starts again, or falls back to a snapshot, applies the same. The observer keeps
    the first that it saw of every index, and indexes come without gaps: a node applies in order, from
    where its snapshot ends, and nothing that no node has ever seen committed can be skipped.
    """

    def __init__(self) -> None:
        self.history: list[Entry] = []

    @property
    def tip(self) -> int:
        """The highest index known to be committed."""
        return len(self.history)

    def committed(self, node: str, entry: Entry, after: int) -> bool:
        """``node`` has ``entry`` committed, behind index ``after``. Returns whether nobody had before."""
        if entry.index != after + 1:
            raise Violation("state machine safety", f"{node} applies entry {entry.index} behind {after}")
        if entry.index > self.tip + 1:
            raise Violation(
                "state machine safety", f"{node} applies entry {entry.index}, the last known is {self.tip}"
            )
        if entry.index == self.tip + 1:
            self.history.append(entry)
            return True
        first = self.history[entry.index - 1]
        if (first.term, first.data) != (entry.term, entry.data):
            raise Violation(
                "committed never changes",
                f"entry {entry.index} is of term {entry.term} on {node}, was committed with {first.term}",
            )
        return False

    def restored(self, node: str, meta: SnapshotMeta) -> None:
        """``node`` goes on behind a snapshot."""
        if meta.index > self.tip:
            raise Violation(
                "committed never changes",
                f"{node} restores a snapshot of {meta.index}, the last known is {self.tip}",
            )
        if self.history[meta.index - 1].term != meta.term:
            raise Violation(
                "committed never changes",
                f"{node} restores a snapshot of {meta.index} with term {meta.term}, committed was "
                f"{self.history[meta.index - 1].term}",
            )


class LeaderCompleteness:
    """A leader has every entry that was committed in earlier terms (section 5.4.3).

    A committed entry is on a majority, a vote goes only to a candidate whose log is at least as up to
    date, and the two majorities share a node. By log matching the last committed entry stands for all
    before it. A leader without it would overwrite it.

    What counts is the term of the leader that committed an entry, not the entry's own: who was elected
    and then stood still, or had no room on its disk, is seen to lead when a later leader has committed more.
    """

    def __init__(self) -> None:
        self._committed: dict[int, int] = {}

    def committed(self, term: int, index: int) -> None:
        """The leader of ``term`` has everything up to ``index`` committed."""
        self._committed[term] = max(index, self._committed.get(term, 0))

    def led(self, node: str, term: int, log: Shadow, history: Sequence[Entry]) -> None:
        """``node`` has become the leader of ``term`` with ``log``."""
        before = (index for in_term, index in self._committed.items() if in_term < term)
        tip = min(max(before, default=0), len(history))
        if tip and not log.holds(tip, history[tip - 1].term):
            raise Violation(
                "leader completeness",
                f"{node} leads term {term} without the committed entry {tip} of term {history[tip - 1].term}",
            )


class QuorumDurability:
    """Committed means: on the synced disks of a majority of the voters. It stays there.

    That is what makes an acknowledgement survive the power loss of all machines at once. It is stronger
    than Raft's replication, which a node may claim from its memory. What counts is what the observer saw
    synced, or what a durable snapshot covers; a disk counts while its node is down. The voters are those of
    the last configuration at or before the entry; or of the one that follows it in some log, which is in
    force for the leader that has appended it and cannot be there before the other is committed.
    """

    @staticmethod
    def committed(index: int, term: int, disks: Disks, electorates: Sequence[Electorate]) -> None:
        """The entry is committed now, or was before; one of ``electorates`` decided it."""
        holders = disks.holders(index, term)
        if not any(electorate.decides(holders) for electorate in electorates):
            raise Violation(
                "quorum durability",
                f"entry {index} of term {term} is committed, but synced only on "
                f"{sorted({name for name, _ in holders})} of the voters "
                f"{' or '.join(str(sorted(each.incarnations)) for each in electorates)}",
            )


class OneMemberAtATime:
    """Configurations that follow one another in a log differ in one member (Ongaro 2014, section 4.1).

    Any majority of the one then shares a server with any majority of the other, so the two cannot decide
    against each other. And a snapshot has the last configuration that was committed at its index: one that
    is not might yet be truncated, and a node that begins with it would count with voters that never were.
    """

    @staticmethod
    def follows(node: str, before: Configuration, after: Configuration) -> None:
        """``node`` has ``after`` in its log behind ``before``."""
        old, new = ({(m.name, m.incarnation): m.votes for m in each.members} for each in (before, after))
        changed = [server for server in old.keys() | new.keys() if old.get(server) != new.get(server)]
        voting = [server for server in changed if old.get(server, False) != new.get(server, False)]
        if len(voting) > 1 or len({name for name, _ in changed}) > 1:
            raise Violation("one member at a time", f"{node} goes from {before} to {after}")

    @staticmethod
    def stored(node: str, meta: SnapshotMeta, committed: Configuration | None) -> None:
        """``node`` has a snapshot; ``committed`` is the configuration that was committed at its index."""
        if meta.configuration != (b"" if committed is None else committed.encode()):
            what = f"a snapshot of {meta.index} on {node} has other members than were committed there"
            raise Violation("one member at a time", what)


class CommitsAreCounted:
    """A leader commits an entry of its own term that a majority has acknowledged to it in that term.

    *Of its own term* (section 5.4.2, figure 8): an entry of an earlier one may be on a majority and still be
    overwritten by a leader that a majority without it elects; with an entry of the leader's term behind it
    that cannot be. *Acknowledged in that term* (figure 2): what was acknowledged earlier may be gone since.
    The observer counts what has reached the leader, in answers to entries and to snapshots.
    """

    def __init__(self, voters: int) -> None:
        self._others_needed = voters // 2
        self._reigns: dict[str, int] = {}
        self._acknowledged: dict[tuple[str, int], dict[str, int]] = {}
        self._told: dict[tuple[str, int], dict[Server, int]] = {}

    def acknowledged(self, leader: str, peer: str, term: int, index: int, incarnation: int = 0) -> None:
        """``leader`` is told by ``peer``, which is in ``term``, that everything up to ``index`` is there."""
        indexes = self._acknowledged.setdefault((leader, term), {})
        indexes[peer] = max(index, indexes.get(peer, 0))
        told, server = self._told.setdefault((leader, term), {}), (peer, incarnation)
        told[server] = max(index, told.get(server, 0))

    def believed(self, leader: str, term: int, match: Mapping[str, int]) -> None:
        """``leader`` believes that each peer has everything up to an index."""
        told = self._acknowledged.get((leader, term), {})
        for peer, index in match.items():
            if index > told.get(peer, 0):
                raise Violation(
                    "commits are counted",
                    f"{leader} believes in term {term} that {peer} has entry {index}, which it was told of "
                    f"{told.get(peer, 0)}",
                )

    def stepped(
        self,
        node: str,
        term: int,
        index: int,
        log: Shadow,
        *,
        leads: bool,
        moved: bool,
        electorates: Sequence[Electorate] = (),
        incarnation: int = 0,
    ) -> None:
        """``node`` is in ``term`` with everything up to ``index`` committed, which ``moved`` in this step.

        One of ``electorates`` has decided it, if any are given; otherwise a majority of all nodes.
        """
        led = self._reigns.get(node) == term
        self._reigns[node] = term if leads else -1
        if not (leads and led and moved):
            return
        alone = any(set(each.incarnations) == {node} for each in electorates)
        if alone or not (electorates or self._others_needed):
            return  # An only voter has nobody to wait for: all that is durable is committed.
        rule, found = "commits are counted", log.term_at(index)
        if found not in (None, term):
            raise Violation(rule, f"{node} commits entry {index} of term {found} in term {term}")
        told = sorted(p for p, upto in self._acknowledged.get((node, term), {}).items() if upto >= index)
        servers = {server for server, upto in self._told.get((node, term), {}).items() if upto >= index}
        servers.add((node, incarnation))
        counted = any(each.decides(servers) for each in electorates)
        if not counted and (electorates or len(told) < self._others_needed):
            raise Violation(rule, f"{node} commits entry {index} in term {term}, which {told} alone have")


class NothingGoesBack:
    """Terms, votes, promised entries and commit indexes never go back, restarts included (figure 2).

    A vote that is forgotten can be given twice, a term that falls lets an old leader speak, an entry that
    was synced and is gone was acknowledged in vain. A restart must bring back at least what a sync had
    covered; more may have survived. The commit index itself is volatile: it may start again from the
    snapshot, and never falls while the node runs.
    """

    @staticmethod
    def restarted(node: str, before: Shadow, after: Recovered, *, cut_pending: bool) -> None:
        """``node`` comes back with ``after``; a sync had covered ``before``."""
        rule, old, new = "nothing goes back", before.hard_state, after.hard_state
        if new.term < old.term or (new.term == old.term and old.voted_for not in (None, new.voted_for)):
            raise Violation(rule, f"{node} synced {old} and comes back with {new}")
        covered = after.snapshot.index if after.snapshot else 0
        if covered < before.covered:
            raise Violation(
                rule, f"{node} had a snapshot of {before.covered} and comes back with one of {covered}"
            )
        last = after.entries[-1].index if after.entries else covered
        if not cut_pending and max(last, covered) < before.last:
            raise Violation(rule, f"{node} synced entries up to {before.last} and comes back with {last}")

    @staticmethod
    def advanced(node: str, what: str, before: int, after: int) -> None:
        """A number of a running node."""
        if after < before:
            raise Violation("nothing goes back", f"{what} of {node} goes from {before} to {after}")


class PromisesAreDurable:
    """Persist, then send: a vote, a term or an acknowledgement leaves behind the sync that covers it.

    The receiver counts on it from then on, and power may fail between the two. So at the moment a message
    is handed to the network, what it promises has to be on the sender's synced disk. Messages are read as
    they are on the wire, not as the code under test understands them. An acknowledgement of an earlier
    term is exempt: the same sync may have covered that a later leader took the entry away again, and then
    it is as good as one that was sent before that and came late.
    """

    @staticmethod
    def synced(node: str, unsynced_bytes: int) -> None:
        """A sync of ``node``'s journal has returned, and the disk has so much of it only in its cache."""
        if unsynced_bytes:
            raise Violation(
                "promises are durable",
                f"{node} has synced its journal, without {unsynced_bytes} of its bytes",
            )

    @staticmethod
    def spoke(node: str, what: str, term: int, durable: Shadow) -> None:
        """``node`` sends a message of ``term``."""
        if term > durable.hard_state.term:
            raise Violation(
                "promises are durable",
                f"{node} sends {what} of term {term} with term {durable.hard_state.term} on its disk",
            )

    @staticmethod
    def voted(node: str, candidate: str, term: int, durable: Shadow) -> None:
        """``node`` votes for ``candidate`` in ``term``."""
        state = durable.hard_state
        if state.term == term and state.voted_for != candidate:
            raise Violation(
                "promises are durable",
                f"{node} votes for {candidate} in term {term} with a vote for {state.voted_for} on its disk",
            )

    @staticmethod
    def acknowledged(node: str, index: int, term: int, durable: Shadow) -> None:
        """``node`` says in ``term`` that it has everything up to ``index``."""
        if term == durable.hard_state.term and index > max(durable.last, durable.covered):
            raise Violation(
                "promises are durable",
                f"{node} acknowledges entry {index}; entries up to {durable.last} are on its disk",
            )


class AcknowledgementsAreTrue:
    """An acknowledgement says no more than the append that it answers (figure 2, ``AppendEntries``).

    What a follower has behind the last entry of an append may be another leader's: nobody has compared it.
    The observer writes down how far every numbered append went, for the answer to be held against.
    """

    def __init__(self) -> None:
        self._reach: dict[tuple[str, str, int, int], int] = {}

    def sent(self, leader: str, peer: str, term: int, number: int, last: int) -> None:
        """``leader`` sends an append that speaks of entries up to ``last``."""
        self._reach[leader, peer, term, number] = last

    def acknowledged(self, node: str, leader: str, term: int, number: int, index: int) -> None:
        """``node`` answers it: everything up to ``index`` is here, and as it is there."""
        reach = self._reach.get((leader, node, term, number))
        if reach is not None and index > reach:
            raise Violation(
                "acknowledgements are true",
                f"{node} acknowledges entry {index} to {leader}, which spoke of entries up to {reach}",
            )


class ProposalsResolveOnce:
    """Every proposal has exactly one outcome, by its deadline, and the outcome is true.

    Applied: the command stands in the history at that index. Refused: it never does, neither before nor
    after. Unknown: it may. A second outcome would settle somebody else's request, none would hang it, and
    a false refusal would make a client repeat what has happened.
    """

    def __init__(self) -> None:
        self._outcomes: dict[bytes, str] = {}
        self._committed: dict[bytes, int] = {}

    @property
    def ended(self) -> int:
        """How many proposals have an outcome."""
        return len(self._outcomes)

    def resolved(self, command: bytes, index: int | None, error: ConsensusError | None) -> None:
        """A proposal of ``command`` ends: executed at ``index``, or with ``error``."""
        rule = "proposals resolve once"
        outcome = (
            f"applied at {index}" if error is None else "unknown" if _unknown(error) else f"refused: {error}"
        )
        if command in self._outcomes:
            before = self._outcomes[command]
            raise Violation(rule, f"command {command[:16]!r} ends twice: {before}, then {outcome}")
        self._outcomes[command] = outcome
        stands_at = self._committed.get(command)
        if error is None and stands_at is None:
            raise Violation(rule, f"command {command[:16]!r} was {outcome}, where it is not")
        if error is not None and not _unknown(error) and stands_at is not None:
            raise Violation(rule, f"command {command[:16]!r} was {outcome}, and stands at {stands_at}")

    def committed(self, command: bytes, index: int) -> None:
        """A command stands in the history. It may do so twice: the state behind the log deduplicates."""
        self._committed.setdefault(command, index)
        outcome = self._outcomes.get(command, "")
        if outcome.startswith("refused"):
            raise Violation(
                "proposals resolve once", f"command {command[:16]!r} was {outcome}, and stands at {index}"
            )

    @staticmethod
    def overdue(command: bytes, node: str, late_s: float) -> None:
        """A running node has not resolved ``command`` although its deadline was ``late_s`` ago."""
        raise Violation(
            "proposals resolve once",
            f"command {command[:16]!r} has no outcome on {node} {late_s:.3f} s after its deadline",
        )


def _unknown(error: ConsensusError) -> bool:
    return isinstance(error, OutcomeUnknown)
