"""From a command to an entry: what this node proposes, and what other nodes forward to it.

On the leader everything that has gathered goes into as few entries as the limits allow, with one stamp
and one seed each. On a follower it goes to the leader in one message. What happened to a command is the
bookkeeping of `consensus.proposals`; this is who acts on it.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast

from consensus.batch import Batch, encode_batch
from consensus.channel import Forward, Refused
from consensus.errors import Busy, ConsensusError, NotLeader, OutcomeUnknown
from consensus.interface import Engine, Leadership, Role
from consensus.ports import Applied, Done, DriverLimits
from consensus.proposals import PREFIX_BYTES, Proposal, Proposals

FORWARDERS_MAX = 64
"""Of so many lives of other nodes the last attempt is remembered: more than ever have messages on the way."""

Tell = Callable[[str, Forward | Refused], None]


class Submission:
    """The commands of one node that are not resolved, and those that it was asked to append.

    ``wall`` gives seconds since the epoch for stamps, ``tell`` sends to a peer.
    """

    def __init__(
        self,
        engine: Engine,
        limits: DriverLimits,
        *,
        wall: Callable[[], float],
        generator: random.Random,
        tell: Tell,
        mishandled: Callable[[Exception], None],
    ) -> None:
        self._engine = engine
        self._limits = limits
        self._wall = wall
        self._random = generator
        self._tell = tell
        self._forwarders: set[str] = set()
        self._appended = 0
        self._mishandled = mishandled
        self._proposals = Proposals(
            generator.getrandbits(64).to_bytes(8, "big"),
            pending_max=limits.proposals_pending_max,
            command_bytes_max=limits.command_bytes_max,
        )
        self._batch: list[tuple[bytes, bytes]] = []
        self._denied: Leadership | None = None
        self._hold_until = math.inf
        self._appended_ids: set[bytes] = set()
        self._heard: dict[bytes, int] = {}
        self._stamp = 0.0

    def __len__(self) -> int:
        """How many commands of this node are not resolved."""
        return len(self._proposals)

    @property
    def idle(self) -> bool:
        """Whether there is nothing to hand over, to wait for or to give up."""
        return not (self._proposals or self._batch or self._denied)

    @property
    def due(self) -> bool:
        """Whether commands wait that :meth:`hand_over` can do something with now."""
        if not self._batch and not self._proposals.waiting:
            return False
        role, _, leader = self._engine.leadership()
        if role is Role.LEADER:
            return self._engine.transferring() is None
        return bool(self._batch) or (leader is not None and self._denied is None)

    def next_deadline(self) -> float:
        """When :meth:`expire` has something to do."""
        deadline = self._proposals.next_deadline()
        return min(deadline, self._hold_until) if self._proposals.waiting else deadline

    # -- this node's own ----------------------------------------------------------------------------

    def add(self, command: bytes, deadline: float, done: Done) -> None:
        """Take a command. Raises :class:`Busy` and :class:`EntryTooLarge`."""
        self._proposals.add(command, deadline, done)

    def wait_again(self) -> None:
        """Whoever was to append these may not have: they go to the next leader."""
        self._appended_ids.clear()
        self._proposals.wait_again()

    def hand_over(self, now: float) -> None:
        """Append what has gathered, or forward it to the leader."""
        role, _, leader = self._engine.leadership()
        if role is Role.LEADER:
            self._denied, self._hold_until = None, math.inf
            if self._engine.transferring() is not None:
                # They wait for the outcome: the successor's term, or this node's again.
                return
            if self._proposals.waiting:
                attempt, taken = self._proposals.take_waiting(now)
                left = self._append([(p.request_id, p.command) for p in taken], now)
                if left:
                    self._proposals.not_appended(attempt, [request_id for request_id, _ in left])
            if self._batch:
                pairs, self._batch = self._batch, []
                self._append(pairs, now)
                for peer in sorted(self._forwarders):
                    self._engine.hurry(peer, self._appended, now)
                self._forwarders.clear()
            return
        on_hold = self._is_on_hold(now)
        # Whoever forwarded these sends them again once it learns of the next leader.
        self._batch.clear()
        self._forwarders.clear()
        if leader is not None and not on_hold:
            self._proposals.wait_again(self._proposals.stale(now - self._limits.forward_retry_s))
            if self._proposals.waiting:
                attempt, taken = self._proposals.take_waiting(now)
                ids, commands = [p.request_id for p in taken], [p.command for p in taken]
                self._tell(leader, Forward(attempt, ids, commands))

    def _is_on_hold(self, now: float) -> bool:
        """Whether the node that is taken for the leader has just said that it is not.

        Until the next is known there is nobody else to ask, and asking again at once would go on at the
        speed of the network.
        """
        if self._denied != self._engine.leadership():
            self._denied, self._hold_until = None, math.inf
        elif self._hold_until == math.inf:
            self._hold_until = now + self._limits.forward_backoff_s
        return self._denied is not None

    def executed(self, index: int, results: Sequence[tuple[bytes, Any]]) -> None:
        """Commands of the entry at ``index`` were executed here; some may be this node's own."""
        resolve = self._proposals.resolve
        for request_id, result in results:
            proposal = resolve(request_id)
            if proposal is not None:
                self._resolve(proposal, Applied(index, result))

    def expire(self, now: float) -> None:
        """Resolve those whose deadline has passed, and ask again whoever denied to lead long enough ago."""
        if now >= self._hold_until:
            self._denied, self._hold_until = None, math.inf
        for proposal in self._proposals.expired(now):
            self._resolve(proposal, _unresolved(proposal, "its deadline passed"))

    def give_up(self, why: str, refusal: type[ConsensusError] | None = None) -> None:
        """Resolve all of them: unknown, or ``refusal`` where nothing can have been appended."""
        self._resolve_all(self._proposals.drain(), why, refusal)

    # -- other nodes' -------------------------------------------------------------------------------

    def take_forward(self, peer: str, forward: Forward, *, room: bool) -> None:
        """Append these with the next entry, or say that this was not done.

        A message that comes twice is answered once: a copy that is refused would deny the one that was
        taken. What is overtaken counts as lost, and is forwarded again.
        """
        if not forward.request_ids or not self._is_news(forward):
            return
        if self._engine.leadership().role is not Role.LEADER:
            self._tell(peer, Refused("NOT_LEADER", forward.attempt, forward.request_ids))
            return
        fits = all(len(c) <= self._limits.command_bytes_max for c in forward.commands)
        if not room or not fits or len(self._batch) + len(forward.commands) > self._room_max:
            self._tell(peer, Refused("BUSY", forward.attempt, forward.request_ids))
            return
        # A leader that is slow gets forwards again; appending them again would make it slower.
        known = self._appended_ids
        self._batch.extend(
            pair for pair in zip(forward.request_ids, forward.commands, strict=True) if pair[0] not in known
        )
        self._forwarders.add(peer)

    def _is_news(self, forward: Forward) -> bool:
        whose = forward.request_ids[0][:PREFIX_BYTES]
        if forward.attempt <= self._heard.get(whose, 0):
            return False
        self._heard.pop(whose, None)  # so that the oldest stands first
        self._heard[whose] = forward.attempt
        if len(self._heard) > FORWARDERS_MAX:
            del self._heard[next(iter(self._heard))]
        return True

    def take_refusal(self, refused: Refused) -> None:
        """A leader appended nothing of these."""
        again = self._proposals.not_appended(refused.attempt, refused.request_ids)
        if refused.code == NotLeader.code and again:
            self._denied = self._engine.leadership()
        if refused.code == "BUSY":
            for proposal in again:
                self._proposals.resolve(proposal.request_id)
            self._resolve_all(again, "the leader is at its limit", Busy)

    # -- entries ------------------------------------------------------------------------------------

    def committed(self, batch: Batch) -> None:
        """An entry is committed: the next one has no older stamp, and what is in it is on its way no more."""
        self._stamp = max(self._stamp, batch.time_s)
        if self._appended_ids:
            self._appended_ids.difference_update(batch.request_ids)

    @property
    def _room_max(self) -> int:
        return self._limits.proposals_pending_max

    def _append(self, pairs: list[tuple[bytes, bytes]], now: float) -> list[tuple[bytes, bytes]]:
        """Append in as few entries as the limits allow; gives back what was not appended."""
        at = 0
        while at < len(pairs):
            end = self._entry_end(pairs, at)
            self._stamp = max(self._stamp, self._wall())
            ids, commands = zip(*pairs[at:end], strict=True)
            try:
                _, self._appended = self._engine.propose(
                    encode_batch(Batch(self._stamp, self._random.getrandbits(64), ids, commands)), now
                )
            except (NotLeader, Busy):
                return pairs[at:]
            self._appended_ids.update(ids)
            at = end
        return []

    def _entry_end(self, pairs: list[tuple[bytes, bytes]], at: int) -> int:
        size, end = 0, at
        while end < len(pairs) and end - at < self._limits.commands_per_entry_max:
            size += len(pairs[end][1]) + 32
            if end > at and size > self._limits.batch_bytes_max:
                break
            end += 1
        return end

    def _resolve_all(
        self, proposals: Iterable[Proposal], why: str, refusal: type[ConsensusError] | None
    ) -> None:
        for proposal in proposals:
            self._resolve(proposal, _unresolved(proposal, why, refusal))

    def _resolve(self, proposal: Proposal, outcome: Applied | ConsensusError) -> None:
        try:
            cast(Done, proposal.waiter)(outcome)
        except Exception as error:  # a proposer's mistake must not stop the order
            self._mishandled(error)


def _unresolved(proposal: Proposal, why: str, refusal: type[ConsensusError] | None = None) -> ConsensusError:
    if proposal.maybe_logged:
        return OutcomeUnknown(f"{why} after the command was sent; retry with the same request id")
    return refusal(why) if refusal is not None else NotLeader(None)
