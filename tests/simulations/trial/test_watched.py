"""What is demanded of an executor: each kind of broken one is found, and told for what it is."""

from __future__ import annotations

import datetime
import json
import logging
import random
import time
from collections.abc import Callable
from typing import Any

import pytest

from executor.interface import Command, Executor, Result
from simulations.invariants import Violation
from simulations.trial.replicas import Replicas, Step, answer_of
from simulations.trial.watched import Watched


class Register:
    """Sound: it keeps what it was told, and how much that was."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.total = 0

    def execute(self, command: Command) -> Result:
        self.log.append(command.data.decode())
        self.total += len(command.data)
        return Result([len(self.log), self.total, random.Random(command.seed).random(), command.time_s])

    def snapshot(self) -> bytes:
        return json.dumps([self.log, self.total]).encode()

    def restore(self, snapshot: bytes) -> None:
        self.log, self.total = json.loads(snapshot)


class ReadsTheClock(Register):
    def execute(self, command: Command) -> Result:
        return Result([super().execute(command).value, time.time()])


class ReadsTheDate(Register):
    def execute(self, command: Command) -> Result:
        super().execute(command)
        return Result(datetime.date.today().isoformat())


class DrawsChance(Register):
    def execute(self, command: Command) -> Result:
        super().execute(command)
        return Result(random.choice(["a", "b"]))


class HasAGenerator(Register):
    def __init__(self) -> None:
        super().__init__()
        self.generator = random.Random()

    def execute(self, command: Command) -> Result:
        super().execute(command)
        return Result(self.generator.random())


class Shares(Register):
    shared: list[str] = []  # noqa: RUF012 - that is the defect

    def execute(self, command: Command) -> Result:
        super().execute(command)
        self.shared.append("")
        return Result(len(self.shared))


class ForgetsTheTotal(Register):
    def snapshot(self) -> bytes:
        return json.dumps([self.log, 0]).encode()


class AddsOnRestore(Register):
    def restore(self, snapshot: bytes) -> None:
        log, total = json.loads(snapshot)
        self.log += log
        self.total += total


class KeepsOnRestore(Register):
    def restore(self, snapshot: bytes) -> None:
        log, self.total = json.loads(snapshot)
        self.log = list(dict.fromkeys([*log, *self.log]))


class CannotRestore(Register):
    def restore(self, snapshot: bytes) -> None:
        self.log, self.total, _ = json.loads(snapshot)


class SnapshotsChange(Register):
    def snapshot(self) -> bytes:
        return json.dumps([self.log, self.total, random.random()]).encode()


class Raises(Register):
    def execute(self, command: Command) -> Result:
        if len(self.log) > 3:
            raise KeyError("nobody")
        return super().execute(command)


class ReturnsASet(Register):
    def execute(self, command: Command) -> Result:
        return Result({1, 2})


class ReturnsNoResult(Register):
    def execute(self, command: Command) -> Any:
        return 1


class Logs(Register):
    def execute(self, command: Command) -> Result:
        logging.getLogger("bank").error("executing %s", command.data)
        begun = time.monotonic()
        result = super().execute(command)
        assert time.monotonic() >= begun
        return result


def commands(count: int) -> list[Command]:
    return [Command(i, 0, 1, 1e9 + i, i, f"w{i}".encode()) for i in range(1, count + 1)]


class Bench:
    """Watched replicas that share what was seen."""

    def __init__(self, make: Callable[[], Executor], *, pure: bool = True) -> None:
        self.make, self.pure = make, pure
        self.replicas = Replicas("it")
        self.problems: list[Exception] = []
        self.executed: list[str] = []
        self.restored: list[str] = []

    def node(self, name: str) -> Watched:
        return Watched(
            self.make(),
            self.make,
            self.replicas,
            name,
            pure=self.pure,
            fail=self.problems.append,
            executed=self.executed.append,
            restored=lambda: self.restored.append(name),
        )

    def rule(self) -> str:
        problem = self.problems[0]
        assert isinstance(problem, Violation)
        return problem.rule


def first_problem(make: Callable[[], Executor], *, pure: bool = True) -> tuple[str, str]:
    bench = Bench(make, pure=pure)
    node = bench.node("n1")
    for command in commands(20):
        try:
            node.execute(command)
        except KeyError:
            assert bench.problems, "what is raised is told"
        if bench.problems:
            return bench.rule(), str(bench.problems[0])
    return "", ""


@pytest.mark.parametrize("make", [Register, Logs])
def test_a_sound_executor_is_let_pass(make: Callable[[], Executor]) -> None:
    bench = Bench(make)
    one, other = bench.node("n1"), bench.node("n2")
    for command in commands(15):
        one.execute(command)
    other.restore(one.snapshot())
    for command in commands(30)[15:]:
        assert one.execute(command) == other.execute(command)
    again = bench.node("n1")
    for command in commands(30):
        again.execute(command)
    assert bench.problems == []
    assert bench.restored == ["n2"]
    assert len(bench.executed) == 15 + 30 + 30


@pytest.mark.parametrize(
    ("make", "rule", "told"),
    [
        (ReadsTheClock, "executors are deterministic", r"time\.time\(\) at .*test_watched\.py:\d+"),
        (ReadsTheDate, "executors are deterministic", r"date\.today\(\) at .*test_watched\.py:\d+"),
        (DrawsChance, "executors are deterministic", r"the random module at .*test_watched\.py:\d+"),
        (HasAGenerator, "executors are deterministic", "executed again from the same snapshot"),
        (Shares, "executors are deterministic", "share nothing"),
        (ForgetsTheTotal, "snapshots are the whole state", "leaves something out"),
        (AddsOnRestore, "snapshots are the whole state", "replaces the whole state"),
        (KeepsOnRestore, "snapshots are the whole state", "an executor that had gone on"),
        (CannotRestore, "snapshots are the whole state", "a new executor cannot restore"),
        (SnapshotsChange, "executors are deterministic", "and at once"),
        (Raises, "executors never raise", r"KeyError: 'nobody' \(raised at .*test_watched\.py:\d+\)"),
        (ReturnsASet, "executors return plain results", r"\{1, 2\}, which cannot travel"),
        (ReturnsNoResult, "executors return plain results", "returned 1 instead of a Result"),
    ],
)
def test_a_broken_executor_is_told_for_what_it_is(make: Callable[[], Executor], rule: str, told: str) -> None:
    assert first_problem(make)[0] == rule
    with pytest.raises(Violation, match=told):
        raise Violation(*first_problem(make))


def test_who_may_read_the_clock_is_still_compared() -> None:
    rule, told = first_problem(ReadsTheClock, pure=False)
    assert rule == "executors are deterministic"
    assert "executed again from the same snapshot" in told


def test_replicas_that_differ_are_told_with_both_answers() -> None:
    bench = Bench(Register)
    one, other = bench.node("n1"), bench.node("n2")
    first, second = commands(2)
    one.execute(first)
    one.execute(second)
    # What no executor can do of itself: this replica has missed a command.
    other.execute(second)
    assert bench.rule() == "executors are deterministic"
    assert "n1" in str(bench.problems[0])
    assert "n2" in str(bench.problems[0])


def test_another_answer_is_found_where_the_states_are_equal() -> None:
    replicas, (command,) = Replicas("it"), commands(1)
    results = [Result(1), Result(1), Result(2)]
    steps = [Step(command, f"n{i}", "", answer_of(r), r, b"state") for i, r in enumerate(results)]
    assert [replicas.add(step) for step in steps[:2]] == [None, None]
    found = replicas.add(steps[2])
    assert found is not None
    assert "n0 () and n2 () answered 1 and 2" in str(found)


def test_a_replica_that_comes_from_a_snapshot_and_differs_blames_the_snapshot() -> None:
    bench = Bench(Register)
    one, other = bench.node("n1"), bench.node("n2")
    for command in commands(3):
        one.execute(command)
    other.restore(Register().snapshot())
    other.execute(commands(3)[-1])
    assert bench.rule() == "snapshots are the whole state"
    assert "restored from a snapshot" in str(bench.problems[0])
