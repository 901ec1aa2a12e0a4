"""Reads of one node that wait for a log position, and those that it confirms for other nodes.

The leader knows the position and proves that it still leads (:meth:`consensus.interface.Engine.read_index`);
any other node asks it, with a number. Reads that come while a question is open share the next one, so that
a flood of them costs one question per round trip, and one alone never waits.

Numbers only grow, and a position that is confirmed for a number is good for every read that was there when
it was asked. So a question that may be lost is simply asked again under the next number, and whichever
answer comes first serves. Numbers begin at a random place: an answer to an earlier life of this
node, whose reads came earlier, is not taken for one to this.
"""

from __future__ import annotations

import heapq
import math
import random
from collections import deque
from collections.abc import Callable, Iterable

from consensus.channel import ReadAnswer, ReadAsk
from consensus.errors import Busy, ConsensusError, NotLeader, ReadUnconfirmed
from consensus.interface import Engine, Role
from consensus.ports import DriverLimits, ReadDone


class Reads:
    """One node's reads. ``tell`` sends to a peer."""

    def __init__(
        self,
        engine: Engine,
        limits: DriverLimits,
        *,
        generator: random.Random,
        tell: Callable[[str, ReadAsk | ReadAnswer], None],
        mishandled: Callable[[Exception], None],
    ) -> None:
        self._engine = engine
        self._limits = limits
        self._tell = tell
        self._mishandled = mishandled
        self._number = generator.getrandbits(62)
        self._count = 0
        self._pending: dict[int, ReadDone] = {}
        self._deadlines: list[tuple[float, int]] = []
        self._waiting: deque[int] = deque()
        self._asked: deque[tuple[int, int]] = deque()
        self._again = False
        self._again_at = math.inf
        self._asked_by: dict[str, int] = {}
        self._confirming: dict[int, dict[str, int]] = {}

    @property
    def due(self) -> bool:
        """Whether there is a leader to be asked something."""
        return (self._wanted or bool(self._asked_by)) and self._engine.leadership().leader is not None

    @property
    def _wanted(self) -> bool:
        return self._again if self._asked else bool(self._waiting)

    @property
    def idle(self) -> bool:
        """Whether nobody waits for anything, here or at another node."""
        return not (self._pending or self._asked_by or self._confirming)

    def next_deadline(self) -> float:
        """When :meth:`expire` has something to do."""
        while self._deadlines and self._deadlines[0][1] not in self._pending:
            heapq.heappop(self._deadlines)
        return self._deadlines[0][0] if self._deadlines else math.inf

    def next_asking(self) -> float:
        """When :meth:`hand_over` has something to do because an answer may be lost."""
        return self._again_at if self._asked else math.inf

    # -- this node's own ----------------------------------------------------------------------------

    def add(self, deadline: float, done: ReadDone) -> None:
        """Take a read. Raises :class:`Busy`."""
        if len(self._pending) >= self._limits.reads_pending_max:
            raise Busy(
                f"{len(self._pending)} reads are pending (reads_pending_max="
                f"{self._limits.reads_pending_max}); retry later"
            )
        self._count += 1
        self._pending[self._count] = done
        self._waiting.append(self._count)
        heapq.heappush(self._deadlines, (deadline, self._count))

    def expire(self, now: float) -> None:
        """Give up those whose deadline has passed."""
        expired = []
        while self._deadlines and self._deadlines[0][0] <= now:
            done = self._pending.pop(heapq.heappop(self._deadlines)[1], None)
            if done is not None:
                expired.append(done)
        if not expired:
            return
        self._waiting = deque(each for each in self._waiting if each in self._pending)
        self._asked = deque(asked for asked in self._asked if asked[1] in self._pending)
        for done in expired:
            self._resolve(done, ReadUnconfirmed(self._engine.leadership().leader))

    def give_up(self, error: ConsensusError) -> None:
        """Give up all of them."""
        pending, self._pending = self._pending, {}
        self._deadlines.clear()
        self._waiting.clear()
        self._asked.clear()
        for done in pending.values():
            self._resolve(done, error)

    # -- asking -------------------------------------------------------------------------------------

    def ask_again(self) -> None:
        """Whoever was asked may not answer any more: leadership moved, or a link broke."""
        self._again = True

    def hand_over(self, now: float) -> None:
        """Ask for what has gathered: the engine here, or the leader."""
        self._again = self._again or now >= self._again_at
        role, _, leader = self._engine.leadership()
        if role is not Role.LEADER:
            # Whoever asked this node asks again once it learns of the next leader.
            self._asked_by.clear()
            self._confirming.clear()
        if leader is None:
            self._again_at = math.inf
        elif self.due:
            self._ask(leader if role is not Role.LEADER else None, now)

    def _ask(self, leader: str | None, now: float) -> None:
        self._number += 1
        self._asked.extend((self._number, each) for each in self._waiting)
        self._waiting.clear()
        self._again = False
        self._again_at = now + self._limits.read_retry_s
        if leader is not None:
            self._tell(leader, ReadAsk(self._number))
            return
        self._confirming[self._number], self._asked_by = self._asked_by, {}
        try:
            self._engine.read_index(self._number, now)
        except (NotLeader, Busy):
            # Asked again after a while, here and by the others.
            del self._confirming[self._number]

    def take_ask(self, peer: str, ask: ReadAsk) -> None:
        """A peer asks. An answer to the last of its questions serves all its reads."""
        self._asked_by[peer] = max(ask.number, self._asked_by.get(peer, 0))

    # -- answers ------------------------------------------------------------------------------------

    def confirmed(self, reads: Iterable[tuple[int, int]]) -> None:
        """The engine confirms positions."""
        for number, index in reads:
            for peer, theirs in self._confirming.pop(number, {}).items():
                self._tell(peer, ReadAnswer(theirs, index))
            self._take(number, index)

    def refused(self, numbers: Iterable[int]) -> None:
        """The engine leads no more. Who waits is asked for again when there is a leader."""
        for number in numbers:
            self._confirming.pop(number, None)
            self._again = True

    def take_answer(self, answer: ReadAnswer) -> None:
        """A leader confirms a position."""
        self._take(answer.number, answer.index)

    def _take(self, number: int, index: int) -> None:
        if number > self._number:
            return
        while self._asked and self._asked[0][0] <= number:
            self._resolve(self._pending.pop(self._asked.popleft()[1]), index)
        if not self._asked:
            self._again_at = math.inf

    def _resolve(self, done: ReadDone, outcome: int | ConsensusError) -> None:
        try:
            done(outcome)
        except Exception as error:  # a reader's mistake must not stop the order
            self._mishandled(error)
