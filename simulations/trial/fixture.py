"""What a test gets as ``cluster``: it says what is tried, and tries it under one seed."""

from __future__ import annotations

import inspect
import os
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, TypeVar

import pytest

from executor.interface import Executor
from simulations.faults import FaultPlan
from simulations.invariants import Violation
from simulations.levels import Level
from simulations.shrink import shrink, signature
from simulations.trial import repeat
from simulations.trial.cluster import Make, NodeView, Subject, Trial, run
from simulations.trial.scenario import Settings, draw
from simulations.verdict import Outcome, Verdict

F = TypeVar("F", bound=Callable[..., Any])

SHRINK_S: Final = 10.0
"""Making a failure small may take about so long, in seconds of processor time: else what it comes to would
hang on what the machine does besides."""
SHRINK_RUNS_MAX: Final = 40


class ClusterFailed(Exception):
    """A rule was broken under a seed; ``outcome`` has the story."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(f"cluster, seed {outcome.seed}: {outcome.reason}")
        self.outcome = outcome


class ClusterWarning(UserWarning):
    """Something was not looked at."""


@dataclass(frozen=True, slots=True)
class Run:
    """A clean run. ``nodes`` are as they were at the end, all equal; ``faults`` counts what happened."""

    seed: int
    nodes: tuple[NodeView, ...]
    executed: int
    calls: int
    faults: Mapping[str, int]
    virtual_seconds: float


@dataclass(frozen=True, slots=True)
class Replay:
    """What the command line asks for instead of what the seed stands for; ``None``: as it stands."""

    seconds: float | None = None
    faults: tuple[int, ...] | None = None


class ClusterFixture:
    """A cluster of whole nodes under the faults of one seed. A test runs it once.

    ``repeated`` are pytest's arguments that start this very test again, and the folder for that; ``None``: it
    is not to be repeated in another process.
    """

    def __init__(
        self,
        seed: int,
        settings: Settings,
        replay: Replay,
        repeated: tuple[Sequence[str], Path] | None,
    ) -> None:
        self.seed = seed
        self.outcome: Outcome | None = None
        """Of the latest run."""
        self._settings = settings
        self._replay = replay
        self._repeated = repeated
        self._plan: FaultPlan | None = None
        self._subject = Subject(pure=settings.pure)

    # -- what a test says ---------------------------------------------------------------------------

    def executors(self, make: Make) -> Make:
        """Take a function that makes new executors, by name, for one process of one node."""
        if not callable(make):
            raise TypeError(
                "cluster.executors takes a function that makes new executors, because every node needs its "
                f'own: cluster.executors(lambda: {{"accounts": Accounts()}}), not {make!r:.80}'
            )
        made = make()
        if not isinstance(made, Mapping) or not made:
            raise TypeError(f"cluster.executors: the function gives executors by name, not {made!r:.80}")
        for name, executor in made.items():
            _check_executor(name, executor)
        self._subject.make = make
        return make

    def client(self, function: F) -> F:
        """Take an async function of a client and a :class:`random.Random`: one thing that a client does.

        Every simulated client does one thing after another, each drawn from the functions given. An
        :class:`~mcp.errors.McpError` that it does not catch ends that thing and excuses it.
        """
        if not inspect.iscoroutinefunction(function):
            raise TypeError(f"cluster.client takes an async function (client, random), not {function!r:.80}")
        _check_takes(function, "cluster.client takes an async function (client, random)", 2)
        self._subject.clients.append(function)
        return function

    def invariant(self, check: F) -> F:
        """Take a function of a node that fails, or says ``False``, when what must always hold does not.

        It is called for a node after every command that the node executes and after every snapshot that it
        restores, and at the end for each; ``node["accounts"]`` is the node's own executor.
        """
        if not callable(check) or inspect.iscoroutinefunction(check):
            raise TypeError(f"cluster.invariant takes a plain function of a node, not {check!r:.80}")
        _check_takes(check, "cluster.invariant takes a plain function of a node", 1)
        self._subject.invariants.append(check)
        return check

    def run(self, *, seconds: float | None = None) -> Run:
        """Run it: ``seconds`` of virtual time under fire, then all is healed and has to come back.

        Fails the test with :class:`ClusterFailed` when a rule is broken.
        """
        subject, settings = self._subject, self._settings
        if subject.make is None:
            raise TypeError('say what is tried first: cluster.executors(lambda: {"accounts": Accounts()})')
        if path := os.environ.get(repeat.VARIABLE):
            self.outcome = self.outcome or _nothing(self.seed)
            repeat.answer(subject.make(), Path(path))
            pytest.skip("its commands were executed again")
        if not subject.clients:
            raise TypeError("say what clients do first: @cluster.client async def pay(client, random): ...")
        if self.outcome is not None:
            raise RuntimeError("cluster.run() runs once in a test: its seed decides one run")
        if seconds is not None:
            settings = replace(settings, seconds=Settings.of({"seconds": seconds}).seconds)
        return self._run(settings)

    def _run(self, settings: Settings) -> Run:
        self._settings = settings
        scenario = draw(self.seed, settings)
        plan, replay = scenario.plan, self._replay
        if replay.faults is not None:
            if beyond := [number for number in replay.faults if not 0 <= number < len(plan.faults)]:
                there = f"they are 0 to {len(plan.faults) - 1}" if plan.faults else "it has none"
                pytest.fail(
                    f"--cluster-faults: seed {self.seed} has no fault {beyond[0]}; {there}", pytrace=False
                )
            plan = plan.keep(replay.faults)
        shorter = settings.seconds if replay.seconds is None else replay.seconds
        outcome, trial = run(replace(scenario, seconds=shorter, plan=plan), self._subject)
        outcome.seconds, outcome.fault_numbers = replay.seconds, replay.faults
        self._plan, self.outcome = scenario.plan, outcome
        if outcome.verdict is Verdict.VOID:
            pytest.skip(f"seed {self.seed}: {outcome.reason}, so the run shows nothing")
        if outcome.verdict is not Verdict.CLEAN:
            raise ClusterFailed(outcome)
        self._repeat(trial, outcome)
        return Run(
            self.seed,
            tuple(trial.views[machine.name] for machine in trial._whole),
            len(trial.answers),
            len(trial.answers.calls),
            outcome.faults,
            outcome.virtual_seconds,
        )

    def _repeat(self, trial: Trial, outcome: Outcome) -> None:
        if self._repeated is None:
            return
        try:
            repeat.repeat(trial.replicas, *self._repeated)
        except repeat.NotRepeated as problem:
            warnings.warn(
                ClusterWarning(
                    f"the commands could not be executed again in another process ({problem}): use of hash() "
                    "or of the order of sets would not be found; @pytest.mark.cluster(repeat=False) leaves it"
                ),
                stacklevel=4,
            )
        except Violation as violation:
            outcome.verdict, outcome.reason = Verdict.SAFETY, str(violation)
            raise ClusterFailed(outcome) from None

    # -- making a failure small ---------------------------------------------------------------------

    def made_small(self, failing: Outcome, again: Callable[[], object]) -> tuple[Outcome, bool]:
        """The smallest outcome found that fails as ``failing`` does, and whether it fails again at all.

        ``again`` runs the whole test again, for a test may remember things between its functions.
        """
        assert self._plan is not None
        kept, settings, plan = (self._replay, self._repeated), self._settings, self._plan
        self._repeated = None

        def attempt(replay: Replay) -> Outcome:
            self._replay, self.outcome, self._subject = replay, None, Subject(pure=settings.pure)
            try:
                again()
            except ClusterFailed as failed:
                return failed.outcome
            except BaseException as error:
                if isinstance(error, KeyboardInterrupt | SystemExit):
                    raise
            return self.outcome or _nothing(self.seed)

        def numbers(of: FaultPlan) -> tuple[int, ...] | None:
            return None if len(of.faults) == len(plan.faults) else tuple(map(plan.faults.index, of.faults))

        level = Level(
            "pytest",
            "",
            failing.seconds or settings.seconds,
            lambda _seed: plan,
            lambda _seed, seconds, of, _chronicle: attempt(
                Replay(None if seconds == settings.seconds else seconds, numbers(of))
            ),
            lambda _seed: (),  # nobody makes a page of it
        )
        begun, small, same = time.process_time(), failing, True
        if failing.failed_at_s is not None:
            same = signature(attempt(self._replay)) == signature(failing)
            runs_max = min(SHRINK_RUNS_MAX, int(SHRINK_S / max(time.process_time() - begun, 0.001)))
            small = shrink(level, failing, runs_max=runs_max) if same else failing
        (self._replay, self._repeated), self.outcome = kept, small
        return small, same

    @property
    def planned(self) -> int:
        """How many faults the seed's whole plan has."""
        return 0 if self._plan is None else len(self._plan.faults)

    @property
    def seconds(self) -> float:
        """How long the run is under fire, if nothing else is said."""
        return self._settings.seconds


def _check_takes(function: Callable[..., Any], wanted: str, count: int) -> None:
    """Else it would be found out in the middle of a run, and look like something else."""
    try:
        signature = inspect.signature(function)
    except ValueError:  # one that is not Python's does not say
        return
    try:
        signature.bind(*range(count))
    except TypeError as error:
        name = getattr(function, "__name__", "it")
        raise TypeError(f"{wanted}, and {name}{signature} cannot be called so: {error}") from None


def _check_executor(name: object, executor: Executor) -> None:
    missing = [m for m in ("execute", "snapshot", "restore") if not callable(getattr(executor, m, None))]
    if not isinstance(name, str) or missing:
        raise TypeError(
            f"cluster.executors: {name!r} is a {type(executor).__name__} without {', '.join(missing)}; an "
            "executor has the three methods of executor.interface.Executor"
        )


def _nothing(seed: int) -> Outcome:
    return Outcome(seed, "pytest", Verdict.VOID, "it was not run", "", 0.0, None, 0, {}, {})
