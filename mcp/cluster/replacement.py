"""Whether a voter that is dead is to be replaced, by whom, and what is the next step towards it. Pure.

*When.* A voter is taken for dead after ``after_s`` seconds in which the node that leads has itself, without
a break, had it as dead by gossip and heard nothing of it by consensus. Both, because each alone may be
mistaken: a blocked port or a gossip that stands still silences nobody who follows the log, and a link that
is cut between two nodes says nothing of who talks to all others. Itself, because a leader that has just taken
over knows only from when on it has looked. Without a break, because a machine that slept saw nothing in
between: looks that are further apart than :data:`LOOK_GAP_S_MAX` begin anew. Who said goodbye is not dead:
somebody has stopped it and knows about it.

*In which order.* An odd number of voters is brought up to an even one by a spare, and an even number
down to an odd one by taking the dead one out; each step is decided anew from what is so then. So nothing has
to be remembered from one leader to the next, and nobody is taken out before somebody counts in its place.
Taking a dead voter out of an even number is right also where no spare has come: the majority gets smaller by
one, and who is missing is not one of those that could make it up (four voters, of which one is dead, can
lose none; three can lose one). Taking it out of an odd number would gain nothing: the majority of the
others is as large as before, and the dead one could not even help by coming back. So that is left to people.

Only where there is no room for one more, at :data:`VOTERS_MAX`, the dead one goes first, and its place is
filled next. Should another node lead in between, then the place stays empty until somebody fills it.

*Never below a majority.* Nothing is done unless a majority of the voters is heard of now, and, with a spare,
unless it would be one with the spare, too. The log has its own guards against that and against two changes
at a time; here are those that have to hold for the step to be wise.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from mcp.cluster.gossip.updates import State

VOTERS_MAX: Final = 7
"""So many voters a cluster has at most."""
LOOK_GAP_S_MAX: Final = 2.0
"""Looks that are further apart are no observation of what was between them."""
SPARE_LAG_ENTRIES_MAX: Final = 256
"""A spare that lacks more of the log has not caught up."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A member as the node that leads sees it at one look; times by that node's clock, in seconds.

    ``journal`` is the number of its journal. ``state`` is what gossip has of it since ``state_since_s``;
    ``None``: nothing. ``contact_s``: when consensus heard of it last. ``lag_entries``: how much of the log it
    lacks; ``None``: it is not known to hold anything. ``willing``: whether it may be made a voter.
    """

    name: str
    journal: int
    votes: bool
    state: State | None
    state_since_s: float
    contact_s: float
    lag_entries: int | None = None
    willing: bool = True


class Action(enum.Enum):
    """What is to be done."""

    NOTHING = "nothing"
    PROMOTE = "promote"
    """Let the spare vote."""
    REMOVE = "remove"
    """Take the dead voter out."""


class Verdict(NamedTuple):
    """What is to be done: with the member ``node`` that has the ``journal``, for the sake of ``dead``.

    ``reason`` is for people. With :attr:`Action.NOTHING` it says what a voter that is due waits for; empty:
    none is due.
    """

    action: Action
    reason: str = ""
    node: str = ""
    journal: int = 0
    dead: str = ""


NOTHING: Final = Verdict(Action.NOTHING)


class Watch:
    """One node's watch over the others while it leads. ``heard_s``: who was heard within that is there."""

    def __init__(self, node: str, after_s: float, *, heard_s: float) -> None:
        self.after_s = after_s
        self._node = node
        self._heard_s = heard_s
        self._term = -1
        self._looked_s = float("-inf")
        self._silent: dict[tuple[str, int], float] = {}
        """Since when each voter has been dead without a break, by its name and journal."""
        self._vacated: tuple[str, int] | None = None
        """Who was to leave its place to a spare, where there was room for no more."""

    def forget(self) -> None:
        """This node does not lead: what it has seen does not count any more."""
        self._term, self._vacated = -1, None
        self._silent.clear()

    def dead(self, now: float) -> dict[str, float]:
        """For how long each voter that is dead has been so, in seconds, as far as this node has looked."""
        return {name: now - since for (name, _), since in sorted(self._silent.items())}

    def look(self, now: float, term: int, members: Sequence[Seen]) -> Verdict:
        """Take a look, as the leader of ``term``, at all ``members``; this node is one of them."""
        if term != self._term or not 0 <= now - self._looked_s <= LOOK_GAP_S_MAX:
            self.forget()
        self._term, self._looked_s = term, now
        voters = [member for member in members if member.votes]
        silent, self._silent = self._silent, {}
        for voter in voters:
            if voter.name != self._node and voter.state is State.DEAD:
                key = voter.name, voter.journal
                self._silent[key] = max(silent.get(key, now), voter.state_since_s, voter.contact_s)
        due = [v for v in voters if now - self._silent.get((v.name, v.journal), now) >= self.after_s]
        return self._decide(now, voters, due, self._spare(now, members))

    def _decide(self, now: float, voters: Sequence[Seen], due: Sequence[Seen], spare: Seen | None) -> Verdict:
        count, there = len(voters), sum(self._is_heard(voter, now) for voter in voters)
        vacated = self._vacated
        if vacated is not None and vacated not in {(v.name, v.journal) for v in voters}:
            if count < VOTERS_MAX and spare is not None and there > count // 2:
                return self._promotion(spare, vacated[0])
            if count >= VOTERS_MAX:
                self._vacated = None
        if not due:
            return NOTHING
        dead = due[0]
        told = f"{', '.join(voter.name for voter in due)} dead for {self.after_s:g} s or longer"
        if there <= count // 2:
            return Verdict(
                Action.NOTHING, f"{told}: only {there} of {count} voters are heard of, no majority"
            )
        if count % 2 == 0:
            reason = f"{dead.name} has been dead for {self.after_s:g} s: {count - 1} voters do without it"
            return Verdict(Action.REMOVE, reason, dead.name, dead.journal, dead.name)
        if spare is None:
            return Verdict(
                Action.NOTHING,
                f"{told}: no spare is there to take its place. Start a node with --join and --observer, or "
                f"take it out with 'mcpctl remove {dead.name}'",
            )
        if count >= VOTERS_MAX:
            self._vacated = dead.name, dead.journal
            reason = f"{dead.name} has been dead for {self.after_s:g} s: {spare.name} is to take its place"
            return Verdict(Action.REMOVE, reason, dead.name, dead.journal, dead.name)
        return self._promotion(spare, dead.name)

    def _promotion(self, spare: Seen, dead: str) -> Verdict:
        reason = f"{dead} has been dead for {self.after_s:g} s: {spare.name} takes its place"
        return Verdict(Action.PROMOTE, reason, spare.name, spare.journal, dead)

    def _is_heard(self, member: Seen, now: float) -> bool:
        return member.name == self._node or now - member.contact_s <= self._heard_s

    def _spare(self, now: float, members: Sequence[Seen]) -> Seen | None:
        """Of the observers that could vote at once the one that has most of the log."""
        able = [
            (member.lag_entries, member.name, member)
            for member in members
            if not member.votes
            and member.willing
            and member.state is State.ALIVE
            and member.lag_entries is not None
            and member.lag_entries <= SPARE_LAG_ENTRIES_MAX
            and self._is_heard(member, now)
        ]
        return min(able)[2] if able else None
