"""Mistakes with commands: each proposal has one outcome, true and in time; each entry is applied once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from consensus.channel import Forward
from consensus.interface import Entry
from consensus.proposals import Proposal, Proposals
from consensus.pump import Pump
from consensus.submission import Submission
from simulations.mutants.mutant import Group, Patch

GROUP = Group("proposals and execution")


@GROUP.mutant()
def entries_are_executed_twice(patch: Patch) -> None:
    """Every committed entry is handed to the state a second time."""
    take = patch.original(Pump, "_take_committed")

    def twice(self: Pump, committed: Sequence[Entry]) -> None:
        take(self, [entry for entry in committed for _ in range(2)])

    patch.method(Pump, "_take_committed", twice)


@GROUP.mutant()
def the_last_of_many_entries_is_not_executed(patch: Patch) -> None:
    """When several entries are committed at once the last of them is left out."""
    take = patch.original(Pump, "_take_committed")

    def short(self: Pump, committed: Sequence[Entry]) -> None:
        take(self, committed[:-1] if len(committed) > 3 else committed)

    patch.method(Pump, "_take_committed", short)


@GROUP.mutant()
def commands_are_answered_when_they_are_appended(patch: Patch) -> None:
    """A leader answers a command as soon as it is in its own log, before anybody else has it."""
    append = patch.original(Submission, "_append")

    def early(self: Submission, pairs: list[tuple[bytes, bytes]], now: float) -> Any:
        left = append(self, pairs, now)
        for request_id, _ in pairs[: len(pairs) - len(left)]:
            self.executed(self._appended, [(request_id, None)])
        return left

    patch.method(Submission, "_append", early)


@GROUP.mutant()
def commands_are_answered_when_they_are_forwarded(patch: Patch) -> None:
    """A leader's answer to a forwarded command is not waited for: the command counts as executed."""
    hand_over = patch.original(Submission, "hand_over")

    def early(self: Submission, now: float) -> None:
        waiting = list(self._proposals._waiting)
        hand_over(self, now)
        role, _, _ = self._engine.leadership()
        for request_id in waiting:
            if request_id in self._proposals._sent and role != "leader":
                self.executed(self._appended + 1, [(request_id, None)])

    patch.method(Submission, "hand_over", early)


@GROUP.mutant()
def request_ids_are_the_same_on_all_nodes(patch: Patch) -> None:
    """Every life of every node numbers its commands from the same start: answers reach the wrong ones."""
    init = patch.original(Proposals, "__init__")

    def forgetful(self: Proposals, prefix: bytes, *, pending_max: int, command_bytes_max: int) -> None:
        init(self, bytes(len(prefix)), pending_max=pending_max, command_bytes_max=command_bytes_max)

    patch.method(Proposals, "__init__", forgetful)


@GROUP.mutant()
def what_was_sent_is_refused(patch: Patch) -> None:
    """A command that may be in a log is reported as refused, and not as unknown."""
    patch.value(Proposal, "maybe_logged", lambda _self: False)


@GROUP.mutant()
def a_refusal_settles_all_attempts(patch: Patch) -> None:
    """That one attempt was refused is taken for the fate of all, also of one that was appended before."""
    not_appended = patch.original(Proposals, "not_appended")

    def settling(self: Proposals, attempt: int, request_ids: Iterable[bytes]) -> Any:
        known = not_appended(self, attempt, request_ids)
        for proposal in known:
            proposal.open_attempts = 0
        return known

    patch.method(Proposals, "not_appended", settling)


@GROUP.mutant()
def a_refusal_of_another_attempt_counts(patch: Patch) -> None:
    """A refusal is not compared with the attempt that it answers."""
    not_appended = patch.original(Proposals, "not_appended")

    def timeless(self: Proposals, attempt: int, request_ids: Iterable[bytes]) -> Any:
        ids = list(request_ids)
        for proposal in filter(None, map(self._sent.get, ids)):
            proposal.attempt = attempt
        return not_appended(self, attempt, ids)

    patch.method(Proposals, "not_appended", timeless)


@GROUP.mutant()
def a_forward_is_taken_as_often_as_it_comes(patch: Patch) -> None:
    """A copy of a forward is answered like the first: refused, although the first was appended."""

    def always(_self: Submission, _forward: Forward) -> bool:
        return True

    patch.method(Submission, "_is_news", always)


@GROUP.mutant()
def deadlines_pass_unnoticed(patch: Patch) -> None:
    """A command whose deadline has passed stays pending."""

    def patient(_self: Submission, _now: float) -> None:
        return

    patch.method(Submission, "expire", patient)
