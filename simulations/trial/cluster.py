"""One run of a trial: whole nodes with a user's executors, under the faults of a seed and a user's clients.

What `simulations.nodes.cluster` looks at is looked at here too: one leader a term, replicas that apply the
same and hold the same, no node that stops without a fault, no loop that spins, no task left, and a cluster
that comes back once everything is healed. Besides: what :mod:`simulations.trial.watched` demands of an
executor, :mod:`simulations.trial.answers` of the answers, and the user's own invariants on every node
after every command.
"""

from __future__ import annotations

import asyncio
import functools
import random
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from executor.interface import Executor
from mcp.errors import McpError
from mcp.state.applied import Applied
from mcp.state.commands import Command as StateCommand
from mcp.state.state import ReplicatedState
from simulations.checking.verdict import Status
from simulations.invariants import Violation
from simulations.nodes.cluster import Cluster
from simulations.nodes.hearing import Crash
from simulations.nodes.ledger import Ledger
from simulations.nodes.scenario import Scenario
from simulations.nodes.workload import CALLS_END
from simulations.streams import HostNetwork
from simulations.trial.answers import Answers
from simulations.trial.clients import ClientFunction, Misuse, TrialClient, WatchedClient
from simulations.trial.purity import shown_path
from simulations.trial.replicas import Replicas, shown
from simulations.trial.watched import Watched
from simulations.verdict import Outcome
from simulations.virtual_time import VirtualClock

_PACKAGES = tuple(
    str(Path(__file__).parents[2] / name) for name in ("mcp", "consensus", "executor", "simulations")
)

Make = Callable[[], Mapping[str, Executor]]


@dataclass(frozen=True, slots=True)
class NodeView:
    """What an invariant sees of one node: ``node["accounts"]`` is that node's own executor."""

    name: str
    executors: Mapping[str, Any]

    def __getitem__(self, executor: str) -> Any:
        return self.executors[executor]

    def __iter__(self) -> Iterator[str]:
        return iter(self.executors)


@dataclass(slots=True)
class Subject:
    """What a user brings. ``make`` gives new executors by name, for one process of one node."""

    make: Make | None = None
    clients: list[ClientFunction] = field(default_factory=list)
    invariants: list[Callable[[NodeView], object]] = field(default_factory=list)
    pure: bool = True


class Trial(Cluster):
    """See the head of this module. ``path`` is where blobs lie."""

    def __init__(self, scenario: Scenario, path: Path, subject: Subject) -> None:
        self.subject = subject
        self.answers = Answers()
        self.views: dict[str, NodeView] = {}
        """Of every node the latest process's."""
        self.replicas: dict[str, Replicas] = {}
        self._made: list[Executor] = []
        super().__init__(scenario, path)
        self._timeouts = self.world.stream("timeouts")

    def fail(self, error: Exception) -> None:
        """The run has failed: it ends soon, and what follows from the first thing wrong is not told."""
        if not self.problems:
            super().fail(error)

    # -- executors ----------------------------------------------------------------------------------

    def executors(self, name: str) -> Mapping[str, Executor]:
        """New executors for a process that starts on the machine ``name``, watched."""
        made = self._make()
        view = self.views[name] = NodeView(name, made)
        return {
            key: Watched(
                inner,
                functools.partial(self._make_one, key),
                self.replicas.setdefault(key, Replicas(key)),
                name,
                pure=self.subject.pure,
                fail=self.fail,
                executed=functools.partial(self._look_at, view),
                restored=functools.partial(self._restored, view),
            )
            for key, inner in made.items()
        }

    def _make(self) -> Mapping[str, Executor]:
        assert self.subject.make is not None
        made = dict(self.subject.make())
        for name, inner in made.items():
            if any(inner is other for other in self._made):
                raise Misuse(
                    f"cluster.executors was given the executor {name} a second time: every process of every "
                    "node needs its own, so make a new one in each call, as in lambda: {...: Accounts()}"
                )
            self._made.append(inner)
        return made

    def _make_one(self, name: str) -> Executor:
        try:
            return self._make()[name]
        except Misuse as misuse:
            self.fail(misuse)  # whoever asked is an executor to its node, and its text is not passed on
            raise

    def _restored(self, view: NodeView) -> None:
        # Not before all executors of the node have restored theirs.
        self.world.soon(self._look_at, view, "restoring a snapshot")

    def _look_at(self, view: NodeView, what: str) -> None:
        """Ask every invariant about one node."""
        if self.over or self.problems or self.views.get(view.name) is not view:
            return
        for invariant in self.subject.invariants:
            name = getattr(invariant, "__name__", "invariant")
            try:
                holds = invariant(view)
            except Exception as error:
                told = _told(error)
            else:
                if holds is not False:
                    continue
                told = "it said False"
            self.fail(Violation(name, f"on {view.name}, after {what}: {told}"))

    # -- clients ------------------------------------------------------------------------------------

    def _client(self, name: str) -> WatchedClient:
        network = HostNetwork(self.streams, self.streams.host(name), self._outside)
        return WatchedClient(
            name,
            self,
            [f"memory://{node}" for node in self.scenario.nodes],
            self.views["n1"],
            timeout_s=self._timeouts.choice(self.scenario.load.timeouts_s),
            clock=VirtualClock(self._clock, self.world.stream(f"{name}/entropy")),
            network=network,
        )

    def _begin_client(self, name: str) -> None:
        client = TrialClient(name, self._client(name))
        cast(list[TrialClient], self._clients).append(client)
        for worker in range(1, self.scenario.load.workers + 1):
            generator = self.world.stream(f"{name}.{worker}/workload")
            self._working.append(self._outside.create_task(self._work(client, generator)))

    async def _work(self, client: TrialClient, generator: random.Random) -> None:
        """Do one thing, think, do another."""
        while not client.stopping:
            await asyncio.sleep(generator.expovariate(1 / self.scenario.load.pause_s))
            if client.stopping:
                return
            function = generator.choice(self.subject.clients)
            name = getattr(function, "__name__", "client")
            try:
                await function(client.client, generator)
            except McpError as error:
                problem = client.note(error)
                if problem is not None:
                    self.fail(problem)
            except Misuse as misuse:
                self.fail(misuse)
            except Exception as error:
                self.fail(Crash(f"{name}, of client {client.name}: {_told(error)}"))

    async def _fresh_write(self, tasks: Any) -> Any:
        try:
            return await tasks.client.put("fresh", round(self.world.now, 6), timeout_s=1.0)
        except McpError:
            return None

    def _longest_call_s(self) -> float:
        left_s = [call.deadline_s - self.world.now for call in self.answers.calls if call.ended is None]
        return max(*self.scenario.load.timeouts_s, *left_s)

    async def _all_done(self) -> None:
        """Let calls end by their deadlines; what a client only sleeps or waits for is cut short."""
        _, sleeping = await asyncio.wait(self._working, timeout=self._longest_call_s() + 1.0)
        for call in self.answers.calls:
            if call.ended is None and self.world.now > call.deadline_s + 1.0:
                self.fail(Violation(CALLS_END, f"{call} has not ended"))
        for task in sleeping:
            task.cancel()
        await asyncio.gather(*self._working, return_exceptions=True)

    # -- the log ------------------------------------------------------------------------------------

    def _make_ledger(self) -> Ledger:
        return _TrialLedger(self)

    def note_execution(self, command: StateCommand, applied: Applied, at: tuple[int, int]) -> None:
        """The log has executed a command of an executor, and no replica had before."""
        told = applied.error[:2] if applied.error else applied.value
        args = command.args
        self.world.tell(f"{at[0]}.{at[1]}", f"{args.get('machine')} {shown(args.get('data'))}: {shown(told)}")
        wrong = self.answers.executed(
            (command.session, command.seq), at, applied.value, failed=applied.error is not None
        )
        if wrong is not None:
            self.fail(Violation("every command has exactly one effect", str(wrong)))

    # -- the end ------------------------------------------------------------------------------------

    def _look_at_the_end(self) -> None:
        """Everything is healed, and all nodes hold the same: the invariants once more, on each."""
        for machine in self._whole:
            self._look_at(self.views[machine.name], "everything was healed")
        if self.problems:
            raise self.problems[0]

    def _marks(self) -> list[str]:
        return []

    def _check(self) -> None:
        checked = self.answers.check()
        if checked.status is Status.VIOLATION:
            raise Violation(checked.rule, "\n".join(map(str, checked.violations)))
        if not len(self.answers):
            told: Counter[str] = Counter()
            for client in cast(list[TrialClient], self._clients):
                told.update(client.told)
            ends = ", ".join(f"{code} {count}" for code, count in sorted(told.items())) or "no error"
            raise Misuse(
                f"no command was executed in {self.scenario.seconds:g} virtual seconds: "
                f"{len(self.answers.calls)} calls of client.execute, which ended with: {ends}"
            )

    def _outcome(self, *verdict: Any) -> Outcome:
        outcome = super()._outcome(*verdict)
        outcome.counts["calls"] = len(self.answers.calls)
        outcome.counts["executed"] = len(self.answers)
        return outcome


class _TrialLedger(Ledger):
    """Writes down which commands of executors the log executes; others are not the user's."""

    def __init__(self, trial: Trial) -> None:
        super().__init__(trial.scenario.digest_every, trial.fail)
        self._trial = trial

    def _note(self, command: StateCommand, applied: Applied, state: ReplicatedState) -> None:
        self.counts["commands"] += 1
        if not applied.executed:
            self.counts["repeated"] += 1
        elif command.op == "machine.execute":
            self._trial.note_execution(command, applied, self._last)


def _told(error: Exception) -> str:
    """An error of the user's code, with the innermost line of theirs that it went through."""
    first, *more = (str(error) or "the assertion failed").splitlines()
    kind = "" if isinstance(error, AssertionError) else f"{type(error).__name__}: "
    return "\n".join([f"{kind}{first} ({_where(error)})", *more])


def _where(error: Exception) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not frame.filename.startswith(_PACKAGES)]
    chosen = (own or frames)[-1]
    return f"{shown_path(chosen.filename)}:{chosen.lineno}"


def run(scenario: Scenario, subject: Subject) -> tuple[Outcome, Trial]:
    """Run ``scenario`` to its end; the same one with the same subject gives the same outcome."""
    shared = Path("/dev/shm")  # noqa: S108
    folder = functools.partial(tempfile.TemporaryDirectory, dir=shared if shared.is_dir() else None)
    with folder(prefix="mcp-trial-") as path:
        trial = Trial(scenario, Path(path), subject)
        return trial.run(), trial
