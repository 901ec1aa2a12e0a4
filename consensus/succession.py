"""Requests to hand leadership over, and what becomes of them.

The engine does it (:meth:`consensus.interface.Engine.transfer_leadership`); here is who asked, and how they
learn of the outcome: another node leads, or this one leads on because nobody took over in time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from consensus.errors import Busy, ConsensusError, NotLeader
from consensus.interface import Engine, Role
from consensus.ports import HandoverDone

REQUESTS_MAX = 16
"""So many requests to hand leadership over wait at most for their outcome."""


@dataclass(frozen=True, slots=True)
class _Request:
    target: str | None
    deadline: float
    done: HandoverDone


class Succession:
    """One node's requests to hand over."""

    def __init__(self, engine: Engine, *, mishandled: Callable[[Exception], None]) -> None:
        self._engine = engine
        self._mishandled = mishandled
        self.busy = False
        """Whether a request has no outcome yet."""
        self._waiting: list[_Request] = []
        self._begun: list[_Request] = []

    def next_deadline(self) -> float:
        """When :meth:`expire` has something to do."""
        if not self._waiting and not self._begun:
            return math.inf
        return min(each.deadline for each in (*self._waiting, *self._begun))

    def add(self, target: str | None, deadline: float, done: HandoverDone) -> None:
        """Take a request. Raises :class:`ValueError` for a target that is no voter, and :class:`Busy`."""
        voters = self._engine.status().voters
        if target is not None and target not in voters:
            raise ValueError(f"{target!r} is no voter; the voters are {', '.join(voters)}")
        if len(self._waiting) + len(self._begun) >= REQUESTS_MAX:
            raise Busy(
                f"{REQUESTS_MAX} requests to hand leadership over are under way; wait for their outcome"
            )
        self._waiting.append(_Request(target, deadline, done))
        self.busy = True

    def begin(self, now: float) -> None:
        """Hand over, if somebody asked for it: what has gathered before is on its way by now."""
        waiting, self._waiting = self._waiting, []
        for request in waiting:
            leading = self._engine.leadership()
            under_way = self._engine.transferring()
            if request.target == leading.leader:
                self._resolve([request], request.target or NotLeader(None))
                continue
            try:
                if under_way is None or request.target not in (None, under_way):
                    self._engine.transfer_leadership(request.target, now)
            except ConsensusError as error:
                self._resolve([request], error)
            else:
                self._begun.append(request)
        self.busy = bool(self._begun)

    def look(self) -> None:
        """See what became of those that have begun."""
        if not self._begun:
            return
        role, _, leader = self._engine.leadership()
        if role is not Role.LEADER and leader is None:
            return
        if role is Role.LEADER and self._engine.transferring() is not None:
            return
        begun, self._begun = self._begun, []
        failed = Busy("nobody took over in time: this node leads on; retry when its peers answer")
        self._resolve(begun, failed if role is Role.LEADER or leader is None else leader)

    def expire(self, now: float) -> None:
        """Give up those whose deadline has passed."""
        if self.next_deadline() <= now:
            gone = [each for each in (*self._waiting, *self._begun) if each.deadline <= now]
            self._waiting = [each for each in self._waiting if each.deadline > now]
            self._begun = [each for each in self._begun if each.deadline > now]
            self._resolve(gone, NotLeader(self._engine.leadership().leader))

    def give_up(self, error: ConsensusError) -> None:
        """Give up all of them."""
        gone, self._waiting, self._begun = [*self._waiting, *self._begun], [], []
        self._resolve(gone, error)

    def _resolve(self, requests: Iterable[_Request], outcome: str | ConsensusError) -> None:
        self.busy = bool(self._waiting or self._begun)
        for request in requests:
            try:
                request.done(outcome)
            except Exception as error:  # the asker's mistake must not stop the order
                self._mishandled(error)
