"""A cluster of whole nodes and its clients under one scenario: load and faults, then peace, then the proof.

Under fire: replicas apply the same commands with the same outcomes and hold the same states, a term has one
leader, no node stops without a fault, nothing is raised that nobody awaits, no client is told of a defect or
waits beyond its deadline. Then everything is healed, and in time there is one leader, a fresh write
succeeds, states are equal, every node that runs sees the same nodes alive, every acknowledged inference has
ended. Then every node and client stops, and no
task is left. Then the histories of all clients are checked with what was seen inside.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any, cast

from consensus.interface import Role
from executor.interface import Executor
from mcp.client.client import Client
from simulations.chaos import Chaos
from simulations.checking.check import Evidence, check
from simulations.checking.history import History
from simulations.checking.operations import Absent, Found, Put, Written
from simulations.checking.verdict import Status
from simulations.chronicle import SILENT, Chronicle
from simulations.collector import collected_by_hand
from simulations.engine.cluster import COMES_BACK, NotRecovered
from simulations.faults import FaultKind
from simulations.invariants import Violation
from simulations.network import Network
from simulations.nodes import tally, views
from simulations.nodes.executed import Executed
from simulations.nodes.hearing import Crash, heard
from simulations.nodes.ledger import GRANTS_FIT, SAME_COMMANDS, SAME_STATES, Ledger
from simulations.nodes.machine import STARTS_AGAIN, STOPS_FOR_FAULTS, Machine, State
from simulations.nodes.operator import SETTLED_S, Operator, configuration
from simulations.nodes.owner import DECIDE_ALIKE, RETURNED_S, Owner, scheduled, unreturned
from simulations.nodes.relocation import Relocations, unknown
from simulations.nodes.replacing import AFTER_THE_TIME, Replacements
from simulations.nodes.rollouts import ENDED_S, ONE_STATE, unended
from simulations.nodes.scenario import Scenario
from simulations.nodes.streamed import STREAMS_ARE_WHOLE, StreamReader, unfinished
from simulations.nodes.workload import CALLS_END, NO_DEFECTS, ClientTasks
from simulations.streams import HostNetwork, Streams
from simulations.verdict import Outcome, Verdict
from simulations.virtual_time import VirtualClock, VirtualLoop
from simulations.world import Clock, World

ONE_LEADER = "election safety"
NO_SPINNING = "no loop spins"
DEPLOYED_ON_A_QUORUM = "an acknowledged deploy is on a quorum"

LOOK_S = 0.1
"""So often the run looks at the cluster."""
TURNS_PER_LOOK_MAX = 1500
"""A loop that turns more often in that time spins: whatever it does, it does it again at once."""
RECOVERY_S = 8.0
"""Once healed, the cluster has so long, beside ten of its longest election timeouts, to come back.

Links that were silent are given up after 2 s and dialled again within 2.5 s, and a restart takes up to 1.5 s.
"""
MEMBERS_S = 20.0
"""Once the cluster is back, so long until whoever was started to join has joined, and votes: a node asks
every half second, and waits 5 s for an answer."""
VIEWS_S = 15.0
"""Once the members are back, so long until every node that runs sees the same ones, alive: a crash is known
after 3 s, and who was cut off is found back by a link or, after 5 s on average, by a knock."""
TASKS_S = 150.0
"""Once the cluster is back, so long until every acknowledged inference has ended: nodes try to load a model
again after up to 60 s."""
STOP_S = 30.0
NO_VERSION = "0"
"""Before all others: a client that knows only that there is a model."""
COLLECT_S = 5.0
"""So often memory is tidied up. Left to itself that would happen at another point in every process."""


class Undecided(Exception):
    """A rule could not be decided: the run shows nothing."""


class Cluster:
    """One run of one scenario. ``path`` is where blobs lie; ``chronicle`` is told what happens."""

    def __init__(self, scenario: Scenario, path: Path, chronicle: Chronicle = SILENT) -> None:
        self.scenario = scenario
        self.path = path
        self.world = World(scenario.seed, chronicle)
        self.done: Counter[str] = Counter()
        self.faults: Counter[FaultKind] = Counter()
        self.problems: list[Exception] = []
        self.over = False
        """Nobody looks any more."""
        self.recovery_s = 0.0
        self.views_s = 0.0
        self.history = History()
        self.executed = Executed()
        self.streams = Streams(
            self.world, self.fired, delay_s=scenario.habits.delay_s, near=scenario.load.near
        )
        self.ledger = self._make_ledger()
        self.replacements = Replacements(scenario.replace_dead_after_s, self.fail, self.done)
        self.machines = {name: Machine(name, self) for name in (*scenario.nodes, *scenario.fresh)}
        self.relocations = Relocations(self, scenario.relocations, stays=scenario.nodes[0])
        self.chaos = Chaos(self.world, cast(Network, self.streams), self.machines, scenario.plan, self.fired)
        self._leaders: dict[int, str] = {}
        self._turns_most = 0
        self._clock = Clock(self.world)
        self._outside = VirtualLoop(
            self.world, self._clock, report=lambda context: self.reported("clients", context)
        )
        self._clients: list[ClientTasks] = []
        self.operator: Operator | None = None
        """Where the seed has members come and go."""
        self.declares = scenario.declares
        self.owner: Owner | None = None
        """Where the seed has rules, routes and limits declared."""
        self._readers: list[StreamReader] = []
        self._working: list[asyncio.Task[None]] = []

    # -- what machines and clients tell -------------------------------------------------------------

    def fired(self, kind: FaultKind) -> None:
        """A fault had an effect."""
        self.faults[kind] += 1

    def fail(self, error: Exception) -> None:
        """The run has failed: it ends soon."""
        self.world.tell("verdict", f"{error}")
        self.problems.append(error)

    def reported(self, who: str, context: dict[str, Any]) -> None:
        """Something was raised that nobody awaits, as asyncio tells it."""
        error = context.get("exception")
        if isinstance(error, Violation):
            self.fail(error)
            return
        where = traceback.extract_tb(error.__traceback__)[-1] if error and error.__traceback__ else None
        at = f" ({where.filename.rpartition('/')[2]}:{where.lineno})" if where else ""
        self.fail(Crash(f"{type(error).__name__} in {who}: {context.get('message')}: {error}{at}"))

    def _hear(self, text: str) -> None:
        if not self.over:
            self.world.tell("log", text)

    def _fail_unless_over(self, error: Exception) -> None:
        if not self.over:
            self.fail(error)

    def executors(self, name: str) -> Mapping[str, Executor]:
        """New executors for a process that starts on the machine ``name``."""
        return {tally.NAME: tally.Tally()}

    def _make_ledger(self) -> Ledger:
        return Ledger(self.scenario.digest_every, self.fail)

    # -- the run ------------------------------------------------------------------------------------

    def run(self) -> Outcome:
        """Run it to its end, or to the first thing that is wrong."""
        with collected_by_hand(), heard(self._hear, self._fail_unless_over):
            outcome = self._outcome(*self._verdict())
            self._bury()
        return outcome

    def _verdict(self) -> tuple[Verdict, str, float | None]:
        verdict, reason = Verdict.CLEAN, ""
        try:
            self._run()
        except Violation as violation:
            verdict, reason = Verdict.SAFETY, str(violation)
        except NotRecovered as problem:
            verdict, reason = Verdict.LIVENESS, str(problem)
        except Undecided as problem:
            verdict, reason = Verdict.VOID, str(problem)
        except Crash as problem:
            verdict, reason = Verdict.CRASH, str(problem)
        except Exception as error:
            last = traceback.extract_tb(error.__traceback__)[-1]
            verdict = Verdict.CRASH
            reason = f"{type(error).__name__} in {last.name} ({last.filename}:{last.lineno}): {error}"
        planned = any(fault.at_s < self.scenario.seconds for fault in self.scenario.plan.faults)
        if verdict is Verdict.CLEAN and planned and not self.faults:
            verdict, reason = Verdict.VOID, "none of the planned faults had an effect"
        failed_at_s = None if verdict in (Verdict.CLEAN, Verdict.VOID) else self.world.now
        if failed_at_s is not None:
            self.world.tell("verdict", f"{verdict}: {reason}")
        return verdict, reason, failed_at_s

    def _run(self) -> None:
        for machine in self.machines.values():
            machine.start()
        self.chaos.unleash()
        for number in range(1, self.scenario.load.clients + 1):
            self._outside.call_soon(self._begin_client, f"c{number}")
        if self.scenario.moves:
            self._outside.call_soon(self._begin_operator)
        if self.declares:
            self._outside.call_soon(self._begin_owner)
        self._advance(self.scenario.seconds, self.relocations.look)
        self._recover()
        self._look_at_the_end()
        self._stop()
        self._check()

    def _advance(self, until: float, also: Callable[[], None] = lambda: None) -> None:
        """Let time pass, and look now and then; ``also`` is called after each look."""
        world = self.world
        while world.now < until:
            if int(world.now / COLLECT_S) != int((world.now + LOOK_S) / COLLECT_S):
                gc.collect()
            world.run(min(until, world.now + LOOK_S))
            self._look()
            also()
            if self.problems:
                raise self.problems[0]

    def _look(self) -> None:
        for name, machine in self.machines.items():
            if machine.process is not None:
                self._look_at_turns(name, machine.process.loop)
            parts = machine.parts
            if parts is None:
                continue
            status = parts.driver.status()
            self.world.chronicle.role(self.world.now, name, str(status.role), status.term, status.leader)
            self.world.chronicle.commit(self.world.now, name, status.commit_index)
            if status.role is Role.LEADER:
                other = self._leaders.setdefault(status.term, name)
                if other != name:
                    self.fail(Violation(ONE_LEADER, f"{other} and {name} both lead term {status.term}"))
        self.replacements.look(self.machines)
        if self.operator is not None:
            self.operator.look()
        if self.owner is not None:
            self.owner.look(self.machines, self.scenario.plan)

    def _look_at_turns(self, name: str, loop: VirtualLoop) -> None:
        turns, loop.turns = loop.turns, 0
        self._turns_most = max(self._turns_most, turns)
        if turns > TURNS_PER_LOOK_MAX:
            self.fail(Violation(NO_SPINNING, f"{name} turned {turns} times within {LOOK_S} s"))

    # -- clients ------------------------------------------------------------------------------------

    def _client(self, name: str) -> Client:
        network = HostNetwork(self.streams, self.streams.host(name), self._outside)
        clock = VirtualClock(self._clock, self.world.stream(f"{name}/entropy"))
        return Client([f"memory://{n}" for n in self.scenario.nodes], clock=clock, network=network)

    def _begin_client(self, name: str) -> None:
        load = self.scenario.load
        tasks = ClientTasks(name, self._client(name), load, self, self.history, self.executed, self._deployed)
        self._clients.append(tasks)
        for worker in range(1, load.workers + 1):
            self._working.append(self._outside.create_task(tasks.work(worker)))
        if self.scenario.streams:
            self._readers.append(StreamReader(tasks, self))
            self._working.append(self._outside.create_task(self._readers[-1].run()))
        first = self._outside.create_task(tasks.deploy("1")) if name == "c1" else None
        if first is not None:
            self._working += [first, self._outside.create_task(self._upgrade(tasks, first))]

    def _begin_operator(self) -> None:
        self.operator = Operator(self, self._client("operator"))
        self._working.append(self._outside.create_task(self.operator.run()))

    def _begin_owner(self) -> None:
        self.owner = Owner(self, self._client("owner"))
        self._working.append(self._outside.create_task(self.owner.run()))

    async def _upgrade(self, tasks: ClientTasks, first: asyncio.Task[None]) -> None:
        """Once there is a model everybody uses it; later a second version comes."""
        await first
        for other in self._clients:
            # The others were not told, so any version is right for them.
            other.deployed = other.deployed or NO_VERSION
        await tasks.deploy("2", at_s=self.scenario.load.deploy_at_s * self.scenario.seconds)

    def _deployed(self, digest: str) -> None:
        """A deploy was acknowledged just now: the bytes are where they survive.

        Whoever has come, gone or lost its disk meanwhile may be one less than the quorum that was counted.
        """
        voters = self._voters()
        holders = [n for n in voters if (self.path / n / "blobs" / "whole" / digest).is_file()]
        moved = self.operator.upheavals(self.world.now - SETTLED_S) if self.operator else 0
        if 2 * (len(holders) + moved) <= len(voters):
            self.fail(Violation(DEPLOYED_ON_A_QUORUM, f"{digest[:12]} is on {holders} of {voters}"))

    def _voters(self) -> list[str]:
        known = configuration(self.machines) if self.operator else None
        return list(self.scenario.nodes if known is None else known.voters)

    def _wait(self, work: Coroutine[Any, Any, Any], seconds: float, what: str) -> Any:
        """Let time pass until a client's ``work`` is done."""
        task = self._outside.create_task(work)
        end = self.world.now + seconds
        while not task.done():
            if self.world.now >= end:
                task.cancel()
                raise NotRecovered(f"{what}: not within {seconds:g} s")
            self._advance(min(end, self.world.now + LOOK_S))
        return task.result()

    # -- recovery -----------------------------------------------------------------------------------

    @property
    def _whole(self) -> list[Machine]:
        return [machine for machine in self._members() if machine.state is not State.LOST]

    def _members(self) -> list[Machine]:
        """The machines that the leader takes for members; the founders, while nobody leads."""
        known = configuration(self.machines) if self.operator else None
        if known is None:
            return [self.machines[name] for name in self.scenario.nodes]
        members = [(self.machines[member.name], member.incarnation) for member in known.members]
        return [machine for machine, number in members if number in (0, machine.incarnation)]

    def _recover(self) -> None:
        self.world.tell("chaos", "everything is healed")
        healed_at = self.world.now
        self.chaos.heal()
        for tasks in self._clients:
            tasks.stopping = True
        if self.operator is not None:
            self.operator.stopping = True
        if self.owner is not None:
            self.owner.stopping = True
        bound_s = RECOVERY_S + 10 * self.scenario.patience_s
        end = healed_at + bound_s
        tasks, write = self._clients[0], None
        while (missing := self._missing(write)) is not None:
            if self.world.now >= end:
                raise NotRecovered(f"{missing}, {bound_s:.1f} s after everything was healed")
            if write is None or (write.done() and write.result() is None):
                write = self._outside.create_task(self._fresh_write(tasks))
            self._advance(min(end, self.world.now + LOOK_S))
        self.recovery_s = self.world.now - healed_at
        self.world.tell("verdict", f"recovered in {self.recovery_s:.3f} s")
        late = "calls that were under way have not ended"
        self._wait(self._all_done(), self._longest_call_s() + 11.0, late)
        operator = self.operator
        if operator is not None:
            self._wait_while(lambda: operator.waiting() or self._differing(), MEMBERS_S)
        if self.scenario.relocations:
            self._wait_while(lambda: unknown(self.machines), MEMBERS_S)
        self.views_s = self._wait_while(lambda: views.differing(self.machines.values()), VIEWS_S)
        self._wait_while(lambda: unended(machine.parts for machine in self._whole), ENDED_S)
        self._wait_while(lambda: unfinished(machine.parts for machine in self._whole), ENDED_S)
        self._wait_while(lambda: unreturned(machine.parts for machine in self._whole), RETURNED_S)
        self.done.update(scheduled(machine.parts for machine in self._whole))

    def _wait_while(self, missing: Callable[[], str | None], limit_s: float) -> float:
        """Let time pass until nothing is missing any more; gives how long that took."""
        begun = self.world.now
        while (told := missing()) is not None:
            if self.world.now >= begun + limit_s:
                raise NotRecovered(f"{told}, {limit_s:g} s after the cluster was back")
            self._advance(self.world.now + LOOK_S)
        return self.world.now - begun

    def _longest_call_s(self) -> float:
        return max(self.scenario.load.timeouts_s)

    async def _fresh_write(self, tasks: ClientTasks) -> Any:
        mark = tasks._mark(f"{tasks.name}.0")
        value = tasks._value(mark)
        return await tasks.recorded(
            f"{tasks.name}.0",
            Put("fresh", value),
            lambda s: tasks.client.put("fresh", value, timeout_s=s),
            Written,
            request=mark,
            timeout_s=1.0,
        )

    async def _all_done(self) -> None:
        await asyncio.wait(self._working)
        for task in self._working:
            task.result()

    def _missing(self, write: asyncio.Task[Any] | None) -> str | None:
        up = [machine for machine in self._whole if machine.parts is not None]
        if len(up) < len(self._whole):
            return "not every node runs"
        statuses = [machine.parts.driver.status() for machine in up if machine.parts is not None]
        leaders = {status.leader for status in statuses}
        if len(leaders) != 1 or leaders == {None}:
            return "there is no leader that all agree on"
        if write is None or not write.done() or write.result() is None:
            return "a fresh write has not succeeded"
        return self._differing()

    def _differing(self) -> str | None:
        up = [(m.name, m.parts.state) for m in self._whole if m.parts is not None]
        states = sorted((name, state.applied_index, state.digest()) for name, state in up)
        if len({state[1:] for state in states}) > 1:
            return f"states differ: applied indexes are {[(name, index) for name, index, _ in states]}"
        return None

    # -- the end ------------------------------------------------------------------------------------

    def _look_at_the_end(self) -> None:
        """Read everything once more; wait for what was promised to end."""
        last = self._clients[0]
        acknowledged = {
            operation.call.id: tasks  # type: ignore[union-attr]
            for tasks in self._clients
            for operation in self.history
            if operation.request in tasks.submitted and not operation.failed
        }

        async def settle() -> None:
            await asyncio.gather(
                *(
                    tasks.fetch(f"{tasks.name}.0", task, wait=True, timeout_s=TASKS_S)
                    for task, tasks in acknowledged.items()
                )
            )

        self._wait(settle(), TASKS_S + 1.0, "acknowledged inferences have not ended")
        self._final = self._wait(self._read_all(last), 10.0, "the final reads have not ended")

    async def _read_all(self, tasks: ClientTasks) -> dict[str, Found | Absent]:
        final: dict[str, Found | Absent] = {}
        for key in await tasks.client.keys("", 1000):
            found = await tasks.get(f"{tasks.name}.0", key, "linearizable", 5.0)
            final[key] = Absent() if found is None else Found(found.value, found.version, found.index)
        return final

    def _marks(self) -> list[str]:
        machine = next(machine for machine in self._whole if machine.parts is not None)
        assert machine.process is not None
        return list(cast(tally.Tally, machine.process.node._executors[tally.NAME]).marks)

    def _stop(self) -> None:
        """Stop all in good order: nothing may be left that runs."""
        self._tally = self._marks()
        loops = {"clients": self._outside}
        clients = [tasks.client for tasks in self._clients]
        clients += [each.client for each in (self.operator, self.owner) if each]
        stopping = [self._outside.create_task(client.close()) for client in clients]
        for machine in self.machines.values():
            if machine.process is not None:
                loops[machine.name] = machine.process.loop
                stopping.append(machine.process.loop.create_task(machine.process.node.stop()))
        end = self.world.now + STOP_S
        while not all(task.done() for task in stopping):
            if self.world.now >= end:
                raise NotRecovered(f"nodes and clients have not stopped within {STOP_S:g} s")
            self.world.run(self.world.now + LOOK_S)
        self.world.run(self.world.now + 1.0)
        for task in stopping:
            task.result()
        for name, loop in loops.items():
            left = [task for task in asyncio.all_tasks(loop) if not task.done()]
            alive = [t for t in left if t.get_coro().__qualname__ != "Machine._live"]  # type: ignore[union-attr]
            if alive:
                raise Crash(f"tasks left in {name}: {sorted(t.get_coro().__qualname__ for t in alive)}")  # type: ignore[union-attr]
        gc.collect()
        if self.problems:
            raise self.problems[0]

    def _check(self) -> None:
        """Hold the histories against each other and against what was seen inside."""
        counters = {k: f.value["n"] for k, f in self._final.items() if k[0] == "n" and isinstance(f, Found)}
        evidence = Evidence(
            applied={"the log": [r for r in self.ledger.requests if r not in self.executed]},
            final={key: found for key, found in self._final.items() if key[0] in "kn"},
            counters=counters,
            steps={"the log": self.ledger.steps},
            settled=True,
        )
        verdicts = [*check(self.history, evidence), self.executed.check(self._tally)]
        for verdict in verdicts:
            self.done[f"checked {verdict.rule}"] += verdict.checked
            self.world.chronicle.checked(verdict.rule, verdict.checked, verdict.note)
            if verdict.status is Status.VIOLATION:
                raise Violation(verdict.rule, str(verdict))
        undecided = [verdict for verdict in verdicts if not verdict.ok]
        if undecided:
            raise Undecided("; ".join(f"{verdict.rule}: {verdict.note}" for verdict in undecided))

    # -- afterwards ---------------------------------------------------------------------------------

    def _outcome(self, verdict: Verdict, reason: str, failed_at_s: float | None) -> Outcome:
        counts: dict[str, float] = dict(sorted((self.done + self.ledger.counts).items()))
        counts["operations"] = len(self.history) + len(self.executed)
        counts |= {f"rollouts {state}": count for state, count in self.ledger.rollouts.ended.items()}
        counts["log positions"] = self.ledger._last[0]
        counts["terms"] = len(self._leaders)
        counts["starts"] = sum(machine.lives for machine in self.machines.values())
        counts["events"] = self.world.events
        counts["bytes"] = self.streams.bytes_sent
        counts["most turns"] = self._turns_most
        counts["recovery_s"] = round(self.recovery_s, 6)
        counts["views_s"] = round(self.views_s, 6)
        self.world.chronicle.calls(self.history)
        for rule, checked in self._checked_under_fire(counts).items():
            self.world.chronicle.checked(rule, checked)
        return Outcome(
            self.scenario.seed,
            "node",
            verdict,
            reason,
            self.world.trace_hash,
            self.world.now,
            failed_at_s,
            len(self.machines),
            {str(kind): count for kind, count in self.faults.items()},
            counts,
            story=self.world.story,
        )

    def _checked_under_fire(self, counts: Mapping[str, float]) -> dict[str, int]:
        """How many things each rule was held against that is looked at all the time."""
        calls, starts = int(counts["operations"]), int(counts["starts"])
        return {
            ONE_LEADER: len(self._leaders),
            SAME_COMMANDS: self.ledger.counts["commands"],
            SAME_STATES: self.ledger.compared,
            STOPS_FOR_FAULTS: starts,
            STARTS_AGAIN: starts,
            NO_SPINNING: int(self.world.now / LOOK_S),
            CALLS_END: calls,
            NO_DEFECTS: calls,
            COMES_BACK: int(self.recovery_s > 0),
            DECIDE_ALIKE: self.owner.compared if self.owner else 0,
            GRANTS_FIT: self.ledger.counts["shares granted"],
            views.SAME_VIEWS: sum(machine.parts is not None for machine in self.machines.values()),
            STREAMS_ARE_WHOLE: sum(reader.checked for reader in self._readers),
            ONE_STATE: self.ledger.rollouts.changes,
            AFTER_THE_TIME: self.replacements.checked,
        }

    def _bury(self) -> None:
        """Free what dead processes hold, and whatever still waits in living ones."""
        self.over = True
        for machine in self.machines.values():
            if machine.process is not None:
                machine.kill("the run is over")
        self._outside.end()
        with warnings.catch_warnings():
            # Of coroutines that were waiting for their task's first turn.
            warnings.simplefilter("ignore", RuntimeWarning)
            for loop in (self._outside, *(loop for m in self.machines.values() for loop in m.graves)):
                loop.bury()
            gc.collect()


def run(
    scenario: Scenario,
    chronicle: Chronicle = SILENT,
    kind: Callable[[Scenario, Path, Chronicle], Cluster] = Cluster,
) -> Outcome:
    """Run ``scenario`` to its end. The same scenario gives the same outcome, in any process."""
    shared = Path("/dev/shm")  # noqa: S108
    folder = functools.partial(tempfile.TemporaryDirectory, dir=shared if shared.is_dir() else None)
    with folder(prefix="mcp-simulation-") as path:
        return kind(scenario, Path(path), chronicle).run()
