"""Mistakes with reads that write nothing to the log (defect 13): they see all that was committed before."""

from __future__ import annotations

from typing import Any

from consensus.raft.reads import PendingReads
from consensus.raft.replication import Replication
from consensus.reads import Reads
from simulations.mutants.mutant import Group, Patch

GROUP = Group("reads")


@GROUP.mutant()
def reads_ask_no_quorum(patch: Patch) -> None:
    """A leader confirms a read without having asked whether it still leads."""

    def everybody(_self: Replication) -> float:
        return float("inf")

    patch.method(Replication, "answered", everybody)


@GROUP.mutant()
def reads_take_old_answers(patch: Patch) -> None:
    """Answers to messages that were sent before the read came confirm it."""
    add = patch.original(PendingReads, "add")

    def timeless(self: PendingReads, context: int) -> None:
        add(self, context)
        again, index, _ = self._waiting.pop()
        self._waiting.append((again, index, 0))

    patch.method(PendingReads, "add", timeless)


@GROUP.mutant()
def one_answer_too_few_confirms_reads(patch: Patch) -> None:
    """A leader takes the answer of one follower less than a majority needs for confirmation."""

    def generous(self: Replication) -> float:
        numbers = sorted((flow.answered for flow in self._flows.values()), reverse=True)
        return numbers[self._majority - 2] if self._majority > 1 else float("inf")

    patch.method(Replication, "answered", generous)


@GROUP.mutant()
def a_new_leader_reads_at_once(patch: Patch) -> None:
    """A leader confirms reads before it has committed an entry of its own term, at whatever it knows."""
    patch.value(Replication, "first_index", lambda _self: 0)


@GROUP.mutant()
def any_answer_serves_all_reads(patch: Patch) -> None:
    """A follower takes a position that was confirmed for an earlier question for the latest one."""
    take = patch.original(Reads, "take_answer")

    def timeless(self: Reads, answer: Any) -> None:
        take(self, answer)
        self._take(self._number, answer.index)

    patch.method(Reads, "take_answer", timeless)


@GROUP.mutant()
def reads_share_a_question_that_was_asked_before(patch: Patch) -> None:
    """A read that comes while a question is open is answered with that one's answer."""
    add = patch.original(Reads, "add")

    def sharing(self: Reads, deadline: float, done: Any) -> None:
        add(self, deadline, done)
        if self._asked:
            self._asked.append((self._asked[-1][0], self._waiting.pop()))

    patch.method(Reads, "add", sharing)


@GROUP.mutant()
def reads_have_no_deadline(patch: Patch) -> None:
    """A read whose deadline has passed goes on waiting."""

    def patient(_self: Reads, _now: float) -> None:
        return

    patch.method(Reads, "expire", patient)
