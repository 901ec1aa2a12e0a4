"""A user's executor, watched: what :class:`executor.interface.Executor` demands of it, at every command.

Faults make nodes restart and take snapshots from each other, but not after every command. So each executor
has a twin: one of the same make that was restored from its snapshot a few commands ago and executes the same
commands since. If both go different ways, the snapshot is not the whole state, or the executor is not a
function of its commands; which of the two is found by rebuilding the twin three more times. Now and then the
twin is set back to an older snapshot, which has to replace everything that it holds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from executor.interface import Command, Executor, Result
from simulations.invariants import Violation
from simulations.trial.purity import noticing, place
from simulations.trial.replicas import (
    ADVICE,
    DETERMINISTIC,
    WHOLE_SNAPSHOTS,
    Replicas,
    Step,
    answer_of,
    described,
    digest_of,
    shown,
)

NEVER_RAISES: Final = "executors never raise"
PLAIN_RESULTS: Final = "executors return plain results"

TWIN_COMMANDS: Final = 6
"""So many commands a twin executes before it is made anew."""
REBUILT: Final = 3
"""So often a twin that went another way is rebuilt, to see whether it always does."""
BEGUN_EMPTY: Final = "executed every command"


class Watched:
    """The executor of one process. ``make`` gives another of the same make; ``fail`` takes what is wrong.

    ``executed`` is called after every command, with what it was, and ``restored`` after a restore. Where
    ``pure`` is false nobody looks at what the executor calls.
    """

    def __init__(
        self,
        inner: Executor,
        make: Callable[[], Executor],
        replicas: Replicas,
        node: str,
        *,
        pure: bool,
        fail: Callable[[Exception], None],
        executed: Callable[[str], None],
        restored: Callable[[], None],
    ) -> None:
        self.inner = inner
        self._make = make
        self._replicas = replicas
        self._name = replicas.name
        self._node = node
        self._pure = pure
        self._fail = fail
        self._executed = executed
        self._restored = restored
        self._origin = BEGUN_EMPTY
        self._saved: bytes | None = None
        """The snapshot from which the twin was made."""
        self._twin: Executor | None = None
        self._since: list[Command] = []
        """What the twin has executed."""

    # -- executor.interface.Executor ----------------------------------------------------------------

    def execute(self, command: Command) -> Result:
        """Execute one command, and look at what it did."""
        if self._twin is None:
            self._renew_twin(self._snapshot())
        what = described(self._name, command)
        result = self._run(command, what)
        problem = self._unfit(result, what)
        if problem is not None:
            self._fail(problem)
            return result
        snapshot = self._snapshot()
        step = Step(command, self._node, self._origin, answer_of(result), result, snapshot)
        problem = self._compare_twin(step, what) or self._replicas.add(step)
        if problem is not None:
            self._fail(problem)
        elif len(self._since) >= TWIN_COMMANDS:
            self._set_back_twin()
            self._renew_twin(snapshot)
        self._executed(what)
        return result

    def snapshot(self) -> bytes:
        """See :class:`executor.interface.Executor`."""
        return self.inner.snapshot()

    def restore(self, snapshot: bytes) -> None:
        """Restore, and look whether that is what was saved."""
        self._restore(self.inner, snapshot, "a running executor")
        self._origin = "restored from a snapshot"
        self._twin = None
        self._restored()

    # -- what is demanded ---------------------------------------------------------------------------

    def _run(self, command: Command, what: str) -> Result:
        calls: list[str] = []
        try:
            if not self._pure:
                return self.inner.execute(command)
            with noticing(calls):
                result = self.inner.execute(command)
        except Exception as error:
            at = error.__traceback__
            while at is not None and at.tb_next is not None:
                at = at.tb_next
            where = f" (raised at {place(at.tb_frame)})" if at else ""
            self._fail(
                Violation(
                    NEVER_RAISES,
                    f"{what} raised {type(error).__name__}: {error}{where}; whatever goes wrong is a "
                    "Result(error=(code, message))",
                )
            )
            raise
        if calls:
            self._fail(
                Violation(
                    DETERMINISTIC,
                    f"{what} used {' and '.join(calls)}: another replica, or this one after a restart, gets "
                    f"something else; {ADVICE}. (Where it is for logs or metrics only: "
                    "@pytest.mark.cluster(pure=False))",
                )
            )
        return result

    def _unfit(self, result: Result, what: str) -> Violation | None:
        if not isinstance(result, Result):
            return Violation(PLAIN_RESULTS, f"{what} returned {shown(result)} instead of a Result")
        try:
            answer_of(result)
        except (TypeError, ValueError, OverflowError) as error:
            return Violation(
                PLAIN_RESULTS,
                f"{what} gave {shown(result.value)}, which cannot travel ({error}); use None, bool, int, "
                "float, str, bytes, list and dict with str keys",
            )
        return None

    def _snapshot(self) -> bytes:
        first, second = self.inner.snapshot(), self.inner.snapshot()
        if not isinstance(first, bytes):
            self._fail(Violation(WHOLE_SNAPSHOTS, f"{self._name}.snapshot() gave {shown(first)}, not bytes"))
            return b""
        if first != second:
            self._fail(
                Violation(
                    DETERMINISTIC,
                    f"{self._name}.snapshot() gave {shown(first)}, and at once {shown(second)}; equal states "
                    f"give equal bytes: {ADVICE}",
                )
            )
        return first

    def _restore(self, executor: Executor, snapshot: bytes, whom: str) -> None:
        try:
            executor.restore(snapshot)
        except Exception as error:
            self._fail(
                Violation(
                    WHOLE_SNAPSHOTS,
                    f"{self._name}: {whom} cannot restore {shown(snapshot)}, which its own kind wrote: "
                    f"{type(error).__name__}: {error}",
                )
            )
            return
        again = executor.snapshot()
        if again != snapshot:
            self._fail(
                Violation(
                    WHOLE_SNAPSHOTS,
                    f"{self._name}: {whom} that restored {shown(snapshot)} holds {shown(again)}; restore() "
                    "replaces the whole state, whatever was there before",
                )
            )

    # -- the twin -----------------------------------------------------------------------------------

    def _renew_twin(self, snapshot: bytes) -> None:
        self._twin, self._saved, self._since = self._make(), snapshot, []
        self._restore(self._twin, snapshot, "a new executor")

    def _set_back_twin(self) -> None:
        assert self._twin is not None
        assert self._saved is not None
        self._restore(self._twin, self._saved, "an executor that had gone on")

    def _compare_twin(self, step: Step, what: str) -> Violation | None:
        assert self._twin is not None
        self._since.append(step.command)
        try:
            told = self._state_after(self._twin, [step.command])
        except Exception as error:
            told = (repr(error).encode(), b"", shown(error))
        mine = step.answer, digest_of(step.snapshot)
        if told[:2] == mine:
            return None
        ways = {self._rebuilt() for _ in range(REBUILT)}
        both = f"{what}: gave {shown(step.result.error or step.result.value)}, state {shown(step.snapshot)}"
        if len(ways) > 1 or mine in ways:
            return Violation(
                DETERMINISTIC, f"{both}; executed again from the same snapshot, {told[2]}; {ADVICE}"
            )
        return Violation(
            WHOLE_SNAPSHOTS,
            f"{both}; an executor restored from its snapshot {len(self._since)} commands before, "
            f"{told[2]}: snapshot() leaves something out that execute() needs",
        )

    def _rebuilt(self) -> tuple[bytes, bytes]:
        assert self._saved is not None
        twin = self._make()
        try:
            twin.restore(self._saved)
            return self._state_after(twin, self._since)[:2]
        except Exception as error:
            return repr(error).encode(), b""

    @staticmethod
    def _state_after(executor: Executor, commands: list[Command]) -> tuple[bytes, bytes, str]:
        result = Result()
        for command in commands:
            result = executor.execute(command)
        snapshot = executor.snapshot()
        text = f"{shown(result.error or result.value)}, state {shown(snapshot)}"
        return answer_of(result), digest_of(snapshot), text
