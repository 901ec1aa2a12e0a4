"""Requests to change the members, on any node, and what becomes of them.

Only the leader can do it (:meth:`consensus.interface.Engine.change_membership`); any other node asks it, and
again whenever leadership has moved or an answer may be lost. That is harmless: what is so already is not
done twice, a question is for the leader of one term and for nobody after it, and one that is overtaken by a
later question of the same node is not taken. A leader that is to be removed hands leadership over first, and
whoever asked asks its successor.

A request may be bound to a term: what is decided by what one leader has seen is done by it and at once, or
not at all, for its successor may have seen something else.

Done means committed in the term of the leader that appended it. Whoever does not learn of it in time learns
that the outcome is unknown, and can look at the configuration or ask again.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass

from consensus.channel import ChangeAnswer, ChangeAsk
from consensus.configuration import Change, Remove
from consensus.errors import Busy, ConsensusError, MembershipRefused, NotCaughtUp, NotLeader, OutcomeUnknown
from consensus.interface import Engine, Role
from consensus.ports import ChangeDone, DriverLimits

REQUESTS_MAX = 64
"""So many changes wait at most on one node: its own, and on the leader those of others."""

LIVES_MAX = 64
"""Of so many lives of other nodes the last question is remembered: more than ever have one on the way."""

COUNT_BITS = 20
"""Of a question's number: the rest is the asking life's own."""

PROBLEM_CHARACTERS_MAX = 500
"""Of an error's text, so much travels."""

_REFUSALS = {error.code: error for error in (Busy, MembershipRefused, NotCaughtUp)}


@dataclass(slots=True)
class _Request:
    """``number`` is that of the last question, ``appended`` the leader's own term and index; 0: none.

    ``bound`` is the term that it is bound to.
    """

    change: Change
    deadline: float
    done: ChangeDone
    bound: int | None = None
    number: int = 0
    appended: tuple[int, int] = (0, 0)
    tried: bool = False
    refusal: ConsensusError | None = None


@dataclass(frozen=True, slots=True)
class _Asked:
    peer: str
    number: int
    term: int
    index: int


class Changes:
    """One node's requests, and those that it performs for others. ``tell`` sends to a peer."""

    def __init__(
        self,
        engine: Engine,
        limits: DriverLimits,
        *,
        generator: random.Random,
        tell: Callable[[str, ChangeAsk | ChangeAnswer], None],
        mishandled: Callable[[Exception], None],
    ) -> None:
        self._engine, self._limits = engine, limits
        self._tell, self._mishandled = tell, mishandled
        # Of this life of this node: neither its questions nor the answers are taken for those of another.
        self._number = generator.getrandbits(62 - COUNT_BITS) << COUNT_BITS
        self._requests: list[_Request] = []
        self._due = False
        self._again_at = math.inf
        self._asks: list[tuple[str, ChangeAsk]] = []
        self._heard: dict[int, tuple[int, int]] = {}
        self._asked: list[_Asked] = []

    @property
    def due(self) -> bool:
        """Whether :meth:`hand_over` has something to do now."""
        wanted = self._due and bool(self._requests)
        return bool(self._asks) or (wanted and self._engine.leadership().leader is not None)

    @property
    def idle(self) -> bool:
        """Whether nobody waits for anything here, as nearly always."""
        return not (self._requests or self._asks or self._asked)

    def next_deadline(self) -> float:
        """When :meth:`expire` has something to do."""
        return min((request.deadline for request in self._requests), default=math.inf)

    def next_asking(self) -> float:
        """When :meth:`hand_over` has something to do because an answer may be lost."""
        return self._again_at if self._requests else math.inf

    def add(self, change: Change, deadline: float, done: ChangeDone, bound: int | None = None) -> None:
        """Take a request; ``bound``: for this node alone, while it leads that term. Raises :class:`Busy`."""
        if len(self._requests) >= REQUESTS_MAX:
            raise Busy(f"{REQUESTS_MAX} changes of members are under way; wait for their outcome")
        self._requests.append(_Request(change, deadline, done, bound))
        self._due = True

    def ask_again(self) -> None:
        """Whoever was asked may not answer any more: leadership moved, or a link broke."""
        self._due = bool(self._requests)

    # -- asking -------------------------------------------------------------------------------------

    def hand_over(self, now: float) -> None:
        """Perform or ask for what has gathered."""
        asks, self._asks = self._asks, []
        for peer, ask in asks:
            self._perform_for(peer, ask, now)
        if now >= self._again_at:
            self._due = True
        role, term, leader = self._engine.leadership()
        if leader is None:
            # Asked again as soon as there is one.
            self._again_at = math.inf
        if not self._due or leader is None:
            return
        self._due = False
        self._again_at = now + self._limits.change_retry_s
        for request in list(self._requests):
            if request.bound is not None and (role is not Role.LEADER or term != request.bound):
                self._resolve(request, self._unresolved(request, f"the reign of term {request.bound} ended"))
            elif role is Role.LEADER:
                self._perform(request, now)
            else:
                self._number += 1
                request.number, request.tried = self._number, True
                self._tell(leader, ChangeAsk(term, self._number, request.change))

    def _perform(self, request: _Request, now: float) -> None:
        term = self._engine.leadership().term
        if request.appended[0] == term or self._must_hand_over(request.change, now):
            return
        try:
            index = self._engine.change_membership(request.change, now)
        except Busy as refusal:
            if request.bound is not None:
                self._resolve(request, refusal)
            request.refusal = refusal  # it is asked for again
        except ConsensusError as error:
            self._resolve(request, error)
        else:
            request.appended, request.tried = (term, index), True

    def _perform_for(self, peer: str, ask: ChangeAsk, now: float) -> None:
        role, term, _ = self._engine.leadership()
        if role is not Role.LEADER or term != ask.term or self._must_hand_over(ask.change, now):
            return
        try:
            index = self._engine.change_membership(ask.change, now)
        except ConsensusError as error:
            if error.code in _REFUSALS:
                problem = str(error)[:PROBLEM_CHARACTERS_MAX]
                self._tell(peer, ChangeAnswer(ask.number, 0, error.code, problem))
        else:
            if len(self._asked) < REQUESTS_MAX:
                self._asked.append(_Asked(peer, ask.number, term, index))

    def _must_hand_over(self, change: Change, now: float) -> bool:
        """Whether it is this leader that is to go, which then hands over."""
        configuration, leader = self._engine.configuration(), self._engine.leadership().leader
        me = None if leader is None else configuration.get(leader)
        if not isinstance(change, Remove) or me is None or change.name != me.name:
            return False
        if change.incarnation != me.incarnation or len(configuration.voters) < 2:
            return False
        try:
            if self._engine.transferring() is None:
                self._engine.transfer_leadership(None, now)
        except ConsensusError:
            pass  # nobody can take over now; whoever asked asks again
        return True

    # -- answers ------------------------------------------------------------------------------------

    def take_ask(self, peer: str, ask: ChangeAsk) -> None:
        """A peer asks. What is overtaken by a later question of it was answered, or is asked again."""
        life = ask.number >> COUNT_BITS
        heard = self._heard.pop(life, (-1, -1))  # so that the oldest stands first
        if (ask.term, ask.number) > heard and len(self._asks) < REQUESTS_MAX:
            heard = ask.term, ask.number
            self._asks.append((peer, ask))
        self._heard[life] = heard
        if len(self._heard) > LIVES_MAX:
            del self._heard[next(iter(self._heard))]

    def take_answer(self, answer: ChangeAnswer) -> None:
        """A leader answers."""
        for request in self._requests:
            if request.number == answer.number:
                if not answer.code:
                    self._resolve(request, answer.index)
                elif answer.code != Busy.code:
                    self._resolve(request, _REFUSALS.get(answer.code, MembershipRefused)(answer.problem))
                return

    def look(self) -> None:
        """See what has been committed."""
        if not self._asked and not self._requests:
            return
        status = self._engine.status()
        leads = status.role is Role.LEADER
        for request in list(self._requests):
            term, index = request.appended
            if leads and index and term == status.term and index <= status.commit_index:
                self._resolve(request, index)
        asked, self._asked = self._asked, []
        for each in asked:
            if not leads or each.term != status.term:
                continue
            if each.index <= status.commit_index:
                self._tell(each.peer, ChangeAnswer(each.number, each.index))
            else:
                self._asked.append(each)

    def expire(self, now: float) -> None:
        """Give up those whose deadline has passed."""
        for request in [request for request in self._requests if request.deadline <= now]:
            self._resolve(request, self._unresolved(request, "its deadline passed"))

    def give_up(self, why: str) -> None:
        """Give up all of them."""
        self._asks.clear()
        self._asked.clear()
        for request in list(self._requests):
            self._resolve(request, self._unresolved(request, why))

    def _unresolved(self, request: _Request, why: str) -> ConsensusError:
        if request.tried:
            return OutcomeUnknown(
                f"{why} before it was known what came of: {request.change}; look, or ask again"
            )
        return request.refusal or NotLeader(self._engine.leadership().leader)

    def _resolve(self, request: _Request, outcome: int | ConsensusError) -> None:
        self._requests.remove(request)
        try:
            request.done(outcome)
        except Exception as error:  # the asker's mistake must not stop the order
            self._mishandled(error)
