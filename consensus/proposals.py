"""Every proposal resolves: done, refused, or unknown.

A proposal *waits* until it is handed to a leader (this node's own engine, or another node), and is
then *sent*. What was sent may be in the log; whether it is committed is known only when it is applied
here, and it is recognised by its request id. When leadership moves, what was sent waits again and goes
to the next leader: the same command may then stand in the log twice, which is why the state behind the
log deduplicates. At its deadline a proposal that was never sent is refused (nothing happened), one that
was sent is unknown.

Pure bookkeeping: the driver does the sending.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterable
from dataclasses import dataclass

from consensus.batch import REQUEST_ID_BYTES
from consensus.errors import Busy, EntryTooLarge

PREFIX_BYTES = REQUEST_ID_BYTES - 8
"""A request id begins with bytes that stand for one life of one node."""


@dataclass(slots=True)
class Proposal:
    """One command on its way. ``deadline`` is on the driver's clock, in seconds.

    ``attempt`` is the one under way (0: waiting), ``open_attempts`` counts those of which nobody has
    said that they appended nothing: above zero, the command may be in the log.
    """

    request_id: bytes
    command: bytes
    deadline: float
    waiter: object
    attempt: int = 0
    open_attempts: int = 0
    sent_at: float = 0.0

    @property
    def maybe_logged(self) -> bool:
        """Whether the command may stand in the log."""
        return self.open_attempts > 0


class Proposals:
    """The proposals of this node that are not resolved yet.

    ``pending_max`` bounds their number, ``command_bytes_max`` each one's size.
    """

    def __init__(self, prefix: bytes, *, pending_max: int, command_bytes_max: int) -> None:
        if len(prefix) != PREFIX_BYTES:
            raise ValueError(f"a prefix of {PREFIX_BYTES} bytes makes request ids unique")
        self._prefix = prefix
        self._count = 0
        self._attempt = 0
        self._pending_max = pending_max
        self._command_bytes_max = command_bytes_max
        self._waiting: dict[bytes, Proposal] = {}
        self._sent: dict[bytes, Proposal] = {}
        self._deadlines: list[tuple[float, bytes]] = []

    def __len__(self) -> int:
        return len(self._waiting) + len(self._sent)

    def __bool__(self) -> bool:
        """Whether any is pending."""
        return bool(self._sent or self._waiting)

    @property
    def waiting(self) -> int:
        """How many have not been handed to a leader."""
        return len(self._waiting)

    def add(self, command: bytes, deadline: float, waiter: object) -> Proposal:
        """Take a command. Raises :class:`Busy` or :class:`EntryTooLarge`; nothing is kept then."""
        if len(command) > self._command_bytes_max:
            raise EntryTooLarge(
                f"a command of {len(command)} bytes is over command_bytes_max={self._command_bytes_max}; "
                "send bulk by content hash and put the hash into the command"
            )
        if len(self) >= self._pending_max:
            raise Busy(f"{len(self)} proposals are pending (pending_max={self._pending_max}); retry later")
        self._count += 1
        request_id = self._prefix + self._count.to_bytes(8, "big")
        proposal = Proposal(request_id, command, deadline, waiter)
        self._waiting[request_id] = proposal
        heapq.heappush(self._deadlines, (deadline, request_id))
        return proposal

    def take_waiting(self, now: float) -> tuple[int, list[Proposal]]:
        """A fresh attempt number and all that wait, oldest first; they count as sent from now on."""
        taken = list(self._waiting.values())
        self._waiting.clear()
        self._attempt += 1
        for proposal in taken:
            proposal.attempt = self._attempt
            proposal.open_attempts += 1
            proposal.sent_at = now
            self._sent[proposal.request_id] = proposal
        return self._attempt, taken

    def wait_again(self, request_ids: Iterable[bytes] | None = None) -> None:
        """What was sent (all of it, or these) waits for the next leader, and may still be in the log."""
        ids = list(self._sent) if request_ids is None else request_ids
        self._requeue([p for i in ids if (p := self._sent.pop(i, None)) is not None])

    def not_appended(self, attempt: int, request_ids: Iterable[bytes]) -> list[Proposal]:
        """Whoever got that attempt says that it appended nothing of it: they wait again."""
        known = [p for i in request_ids if (p := self._sent.get(i)) and p.attempt == attempt]
        for proposal in known:
            proposal.open_attempts -= 1
            del self._sent[proposal.request_id]
        self._requeue(known)
        return known

    def _requeue(self, again: list[Proposal]) -> None:
        if not again:
            return
        for proposal in again:
            proposal.attempt = 0
        merged = {p.request_id: p for p in again} | self._waiting
        self._waiting = dict(sorted(merged.items()))

    def resolve(self, request_id: bytes) -> Proposal | None:
        """Forget a proposal because its outcome is known; ``None`` when it is not (or no more) ours."""
        return self._sent.pop(request_id, None) or self._waiting.pop(request_id, None)

    def expired(self, now: float) -> list[Proposal]:
        """Those whose deadline has passed; they are forgotten."""
        gone: list[Proposal] = []
        while self._deadlines and self._deadlines[0][0] <= now:
            proposal = self.resolve(heapq.heappop(self._deadlines)[1])
            if proposal is not None:
                gone.append(proposal)
        return gone

    def stale(self, sent_before: float) -> list[bytes]:
        """Request ids of those that were sent before that time and are not resolved."""
        # In the order of sending, so the first that is not stale ends the search.
        return [
            i for i, _ in itertools.takewhile(lambda sent: sent[1].sent_at < sent_before, self._sent.items())
        ]

    def next_deadline(self) -> float:
        """When :meth:`expired` has something to say; infinity when nothing is pending."""
        while self._deadlines and not self._knows(self._deadlines[0][1]):
            heapq.heappop(self._deadlines)
        return self._deadlines[0][0] if self._deadlines else float("inf")

    def _knows(self, request_id: bytes) -> bool:
        return request_id in self._sent or request_id in self._waiting

    def drain(self) -> list[Proposal]:
        """All of them; the table is empty afterwards."""
        everything = [*self._sent.values(), *self._waiting.values()]
        self._sent.clear()
        self._waiting.clear()
        self._deadlines.clear()
        return everything
