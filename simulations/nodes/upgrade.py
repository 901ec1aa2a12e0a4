"""A rolling upgrade of the command schema by one version, under load and faults.

The seed says from which schema to which. All nodes begin with the older version. One after the other is
stopped in order and started with the newer one; one of them is taken back on the way, and upgraded again. A
client asks for what only the newer schema has all the time (:mod:`simulations.nodes.newer`): it must be
refused until the last node is upgraded, and taken in the end; and nothing of it stands in the log before.
Where a seed says so, one node is taken back after the newer schema came into force: it has to stop and say
that it needs the upgrade, and nothing else may suffer. All that the node level checks is checked here too.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from mcp.errors import McpError, Unsupported, VersionMismatch
from mcp.state.applied import Applied
from mcp.state.commands import SCHEMA_MAX, Command
from mcp.state.events import SchemaRaised
from mcp.state.state import ReplicatedState
from simulations.chronicle import SILENT, Chronicle
from simulations.faults import FaultKind
from simulations.invariants import Violation
from simulations.nodes.cluster import Cluster
from simulations.nodes.ledger import Ledger, Place
from simulations.nodes.machine import STARTS_AGAIN, STOPS_FOR_FAULTS, State
from simulations.nodes.newer import NEWER
from simulations.nodes.scenario import Scenario
from simulations.nodes.workload import ClientTasks

WAITS_FOR_ALL: Final = "commands of a newer schema wait for the last node"
COMES_INTO_FORCE: Final = "a newer schema comes into force"
STOPS_WITH_ADVICE: Final = "an older version stops at what it cannot execute"

ASK_S = 0.15
"""Between two calls for what the newer schema has."""
LAST_S: Final = 30.0
"""When all is well, so long at most until it is seen that what is newer works."""
DECLARES: Final = 4
"""The schema with which rules, routes, limits and rollouts came."""
PAIRS: Final = tuple((new - 1, new) for new in range(2, SCHEMA_MAX + 1))
"""The upgrades that there are: from which schema to which."""


@dataclass(frozen=True, slots=True)
class Step:
    """At ``at_s`` the newer version is installed on ``node``, or it is taken ``back``."""

    at_s: float
    node: str
    back: bool = False


def steps_of(scenario: Scenario) -> Iterator[Step]:
    """The upgrade that the seed stands for: over the middle of a run, in an order of its own."""
    draw = random.Random(f"{scenario.seed}/upgrade")
    order = draw.sample(scenario.nodes, len(scenario.nodes))
    between_s = 0.5 * scenario.seconds / len(order)
    for number, node in enumerate(order):
        at_s = 0.15 * scenario.seconds + number * between_s
        yield Step(at_s, node)
        if number == 0 and len(order) > 1:
            yield Step(at_s + between_s / 3, node, back=True)
            yield Step(at_s + between_s * 2 / 3, node)
    if draw.random() < 0.5:
        yield Step(0.85 * scenario.seconds, draw.choice(order), back=True)


def pair_of(seed: int) -> tuple[int, int]:
    """From which schema to which the upgrade goes that the seed stands for."""
    return random.Random(f"{seed}/upgrade of schemas").choice(PAIRS)


class Upgrade(Cluster):
    """See the head of this module. ``pair``: from which schema to which, if not as the seed says."""

    def __init__(
        self,
        scenario: Scenario,
        path: Path,
        chronicle: Chronicle = SILENT,
        *,
        pair: tuple[int, int] | None = None,
    ) -> None:
        super().__init__(scenario, path, chronicle)
        self.old, self.new = pair or pair_of(scenario.seed)
        self._newer = NEWER[self.new](self)
        self._known_in_force = 1
        self._raised = 1
        """What is in force by the log."""
        self._said: dict[str, int] = {}
        """What the latest hello of each node in the log said that it executes."""
        self._taken_back: set[str] = set()
        self._too_late: set[str] = set()
        """Those of them that were taken back after the newer schema came into force."""
        for machine in self.machines.values():
            machine.schema_max = self.old
        for step in steps_of(scenario):
            self.world.at(step.at_s, self._install, step)

    # -- versions -----------------------------------------------------------------------------------

    def _install(self, step: Step) -> None:
        machine = self.machines[step.node]
        if self.over or machine.state is State.LOST:
            return
        if step.back:
            self._taken_back.add(step.node)
            if self._in_force() == self.new:
                self._too_late.add(step.node)
        machine.schema_max = self.old if step.back else self.new
        self.world.tell(step.node, f"gets the version with schema {machine.schema_max}")
        machine.stop_in_order()

    def _in_force(self) -> int:
        """The highest that was seen in force anywhere."""
        for machine in self.machines.values():
            if machine.parts is not None:
                self._known_in_force = max(self._known_in_force, machine.parts.state.schema.in_force)
        return self._known_in_force

    def _behind(self) -> list[str]:
        """Who has the older version, and has had it all the time."""
        old = (name for name, machine in self.machines.items() if machine.schema_max == self.old)
        return [name for name in old if name not in self._too_late]

    def fail(self, error: Exception) -> None:
        """The run has failed, unless it is a node that was taken back too late and says so."""
        stopped = self._stopped_with_advice(error)
        if stopped is None:
            super().fail(error)
            return
        self._too_late.discard(stopped)
        self.done["stopped with advice"] += 1
        self.world.tell(stopped, f"{error}")
        machine = self.machines[stopped]
        machine.kill("is upgraded, as it says")
        machine.schema_max = self.new
        machine.start_later()

    def _stopped_with_advice(self, error: Exception) -> str | None:
        if not isinstance(error, Violation) or error.rule not in (STARTS_AGAIN, STOPS_FOR_FAULTS):
            return None
        if self._in_force() < self.new or "upgrade" not in str(error):
            return None
        # Also one that was taken back in the moment before: what it had said last was the newer one.
        named = (name for name in self._taken_back if f": {name} " in str(error))
        return next((name for name in named if self._runs_old(name)), None)

    def _runs_old(self, name: str) -> bool:
        """Whether the process that runs has the older version: one that is told to stop may be the last."""
        process = self.machines[name].process
        return process is not None and process.node.config.schema_max == self.old

    # -- the newer command --------------------------------------------------------------------------

    def _begin_client(self, name: str) -> None:
        super()._begin_client(name)
        if name == "c1":
            self._working.append(self._outside.create_task(self._ask(self._clients[-1])))

    async def _ask(self, tasks: ClientTasks) -> None:
        while not tasks.stopping:
            await asyncio.sleep(ASK_S)
            await self._newer.ask(tasks)

    def refused(self, tasks: ClientTasks, error: McpError, what: str) -> None:
        """A call for what is newer has failed."""
        if isinstance(error, Unsupported):
            self.done["refused for now"] += 1
        else:
            tasks.told(error, what)

    def taken(self) -> None:
        """A call for what is newer was answered."""
        self.done["taken"] += 1
        if self._in_force() < self.new:
            self.fail(Violation(WAITS_FOR_ALL, "one was taken, and it is in force nowhere"))

    # -- the log ------------------------------------------------------------------------------------

    def _make_ledger(self) -> Ledger:
        return _UpgradeLedger(self)

    def note(self, command: Command, applied: Applied) -> None:
        """The log has executed a command, and no replica had before."""
        if command.schema > self._raised:
            told = (
                f"{command.op} of schema {command.schema} stands in the log, and {self._raised} is in force"
            )
            self.fail(Violation(WAITS_FOR_ALL, told))
        self.done["newer commands"] += command.schema == self.new
        if applied.error is not None:
            return
        if command.op == "member.hello":
            self._said[command.args["node"]] = command.args["schema"]
        for event in applied.events:
            if isinstance(event, SchemaRaised):
                self._note_raised(event.schema)

    def _note_raised(self, schema: int) -> None:
        self._raised = schema
        self._known_in_force = max(self._known_in_force, schema)
        self.world.tell("log", f"schema {schema} is in force")
        behind = [node for node in self.scenario.nodes if self._said.get(node, 1) < schema]
        if behind:
            self.fail(Violation(WAITS_FOR_ALL, f"it is in force, and {', '.join(behind)} said otherwise"))
        self.done["in force"] += schema == self.new

    # -- the end ------------------------------------------------------------------------------------

    def _recover(self) -> None:
        for name in self._behind():
            self._install(Step(self.world.now, name))
        super()._recover()

    def _look_at_the_end(self) -> None:
        super()._look_at_the_end()
        if self._too_late:
            raise Violation(STOPS_WITH_ADVICE, f"{sorted(self._too_late)} went on")
        problem = self._wait(self._newer.last(self._clients[0]), LAST_S, "the last call has not ended")
        if problem is not None:
            raise Violation(COMES_INTO_FORCE, problem)

    def _missing(self, write: Any) -> str | None:
        in_force = self._in_force() == self.new
        return super()._missing(write) or (None if in_force else f"schema {self.new} is not in force")


class _UpgradeLedger(Ledger):
    """Tells the upgrade what is executed, too."""

    def __init__(self, upgrade: Upgrade) -> None:
        super().__init__(upgrade.scenario.digest_every, upgrade.fail)
        self._upgrade = upgrade

    def _applied(
        self, name: str, place: Place, data: bytes, applied: Applied, state: ReplicatedState
    ) -> None:
        stops = applied.error is not None and applied.error[0] == VersionMismatch.code
        if not stops or applied.recorded:
            super()._applied(name, place, data, applied, state)

    def _note(self, command: Command, applied: Applied, state: ReplicatedState) -> None:
        super()._note(command, applied, state)
        self._upgrade.note(command, applied)


def scenario_of(seed: int, pair: tuple[int, int] | None = None) -> Scenario:
    """The node level's scenario of ``seed``, with fixed members, and no disk that loses one for good.

    Where what can be declared is what the newer schema brings (``pair``), it is declared meanwhile.
    """
    drawn = Scenario.draw_fixed(seed)
    kept = [i for i, fault in enumerate(drawn.plan.faults) if fault.kind is not FaultKind.BIT_FLIP]
    _, new = pair or pair_of(seed)
    return replace(drawn, plan=drawn.plan.keep(kept), declares=drawn.declares and new >= DECLARES)
