"""A rolling upgrade of the command schema by one version, under load and faults.

All nodes begin with the older version. One after the other is stopped in order and started with the newer
one; one of them is taken back on the way, and upgraded again. A client asks for a command of the newer
schema all the time: it must be refused until the last node is upgraded, and taken in the end. Where a seed
says so, one node is taken back after the newer schema came into force: it has to stop and say that it needs
the upgrade, and nothing else may suffer. All that the node level checks is checked here too.
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
from mcp.state.commands import Command
from mcp.state.events import SchemaRaised
from mcp.state.state import ReplicatedState
from simulations.checking.operations import Delete, Failed, Put, Unknown, Written
from simulations.checking.operations import Outcome as Done
from simulations.chronicle import SILENT, Chronicle
from simulations.faults import FaultKind
from simulations.invariants import Violation
from simulations.nodes.cluster import Cluster
from simulations.nodes.ledger import Ledger, Place
from simulations.nodes.machine import STARTS_AGAIN, STOPS_FOR_FAULTS, State
from simulations.nodes.scenario import Scenario
from simulations.nodes.workload import ClientTasks

OLD, NEW = 1, 2
WAITS_FOR_ALL: Final = "commands of a newer schema wait for the last node"
COMES_INTO_FORCE: Final = "a newer schema comes into force"
STOPS_WITH_ADVICE: Final = "an older version stops at what it cannot execute"

ASK_S = 0.15
"""Between two commands of the newer schema."""
DELETE_TIMEOUT_S = 2.0
PREFIX = "p/"


@dataclass(frozen=True, slots=True)
class Step:
    """At ``at_s`` the version that executes commands up to ``schema_max`` is installed on ``node``."""

    at_s: float
    node: str
    schema_max: int


def steps_of(scenario: Scenario) -> Iterator[Step]:
    """The upgrade that the seed stands for: over the middle of a run, in an order of its own."""
    draw = random.Random(f"{scenario.seed}/upgrade")
    order = draw.sample(scenario.nodes, len(scenario.nodes))
    between_s = 0.5 * scenario.seconds / len(order)
    for number, node in enumerate(order):
        at_s = 0.15 * scenario.seconds + number * between_s
        yield Step(at_s, node, NEW)
        if number == 0 and len(order) > 1:
            yield Step(at_s + between_s / 3, node, OLD)
            yield Step(at_s + between_s * 2 / 3, node, NEW)
    if draw.random() < 0.5:
        yield Step(0.85 * scenario.seconds, draw.choice(order), OLD)


class Upgrade(Cluster):
    """See the head of this module."""

    def __init__(self, scenario: Scenario, path: Path, chronicle: Chronicle = SILENT) -> None:
        super().__init__(scenario, path, chronicle)
        self._known_in_force = OLD
        self._said: dict[str, int] = {}
        """What the latest hello of each node in the log said that it executes."""
        self._key: str | None = None
        """The key that is to be deleted by its prefix."""
        self._taken_back: set[str] = set()
        self._too_late: set[str] = set()
        """Those of them that were taken back after the newer schema came into force."""
        for machine in self.machines.values():
            machine.schema_max = OLD
        for step in steps_of(scenario):
            self.world.at(step.at_s, self._install, step)

    # -- versions -----------------------------------------------------------------------------------

    def _install(self, step: Step) -> None:
        machine = self.machines[step.node]
        if self.over or machine.state is State.LOST:
            return
        if step.schema_max == OLD:
            self._taken_back.add(step.node)
            if self._in_force() == NEW:
                self._too_late.add(step.node)
        self.world.tell(step.node, f"gets the version with schema {step.schema_max}")
        machine.schema_max = step.schema_max
        machine.stop_in_order()

    def _in_force(self) -> int:
        """The highest that was seen in force anywhere."""
        for machine in self.machines.values():
            if machine.parts is not None:
                self._known_in_force = max(self._known_in_force, machine.parts.state.schema.in_force)
        return self._known_in_force

    def _behind(self) -> list[str]:
        """Who has the older version, and has had it all the time."""
        old = (name for name, machine in self.machines.items() if machine.schema_max == OLD)
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
        machine.schema_max = NEW
        machine.start_later()

    def _stopped_with_advice(self, error: Exception) -> str | None:
        if not isinstance(error, Violation) or error.rule not in (STARTS_AGAIN, STOPS_FOR_FAULTS):
            return None
        if self._in_force() == OLD or "upgrade" not in str(error):
            return None
        # Also one that was taken back in the moment before: what it had said last was the newer one.
        named = (name for name in self._taken_back if f": {name} " in str(error))
        return next((name for name in named if self.machines[name].schema_max == OLD), None)

    # -- the newer command --------------------------------------------------------------------------

    def _begin_client(self, name: str) -> None:
        super()._begin_client(name)
        if name == "c1":
            self._working.append(self._outside.create_task(self._ask(self._clients[-1])))

    async def _ask(self, tasks: ClientTasks) -> None:
        """Write a key, and have it deleted by its prefix, however often that takes."""
        while not tasks.stopping:
            if self._key is None:
                await self._put(tasks)
            await asyncio.sleep(ASK_S)
            await self._delete(tasks)

    async def _put(self, tasks: ClientTasks) -> None:
        mark = tasks._mark(self._who(tasks))
        key, value = f"{PREFIX}{mark}", tasks._value(mark)
        self._key = key
        await tasks.recorded(
            self._who(tasks),
            Put(key, value),
            lambda s: tasks.client.put(key, value, timeout_s=s),
            Written,
            request=mark,
        )

    async def _delete(self, tasks: ClientTasks) -> bool:
        """Delete all by prefix. For the history: the one that is there may be deleted from now on."""
        number = None
        if self._key is not None:
            number = self.history.invoke(
                self._who(tasks), Delete(self._key), self.world.now, session=tasks.name
            )
        outcome: Done = Unknown("which version it had is not told")
        try:
            await tasks._timed(DELETE_TIMEOUT_S, lambda s: tasks.client.delete_prefix(PREFIX, timeout_s=s))
        except McpError as error:
            if isinstance(error, Unsupported):
                self.done["refused for now"] += 1
            else:
                tasks._told(error, "delete prefix")
            if error.outcome_known:
                outcome = Failed(error.code)
        else:
            self.done["taken"] += 1
            if self._in_force() == OLD:
                self.fail(Violation(WAITS_FOR_ALL, "one was taken, and it is in force nowhere"))
        if number is not None:
            self.history.complete(number, outcome, self.world.now)
        taken = isinstance(outcome, Unknown)
        self._key = None if taken else self._key
        return taken

    @staticmethod
    def _who(tasks: ClientTasks) -> str:
        return f"{tasks.name}.p"

    # -- the log ------------------------------------------------------------------------------------

    def _make_ledger(self) -> Ledger:
        return _UpgradeLedger(self)

    def note(self, command: Command, applied: Applied) -> None:
        """The log has executed a command, and no replica had before."""
        if applied.error is not None:
            return
        if command.op == "member.hello":
            self._said[command.args["node"]] = command.args["schema"]
        elif any(isinstance(event, SchemaRaised) for event in applied.events):
            self._known_in_force = NEW
            self.done["in force"] += 1
            self.world.tell("log", "the newer schema is in force")
            old = [node for node in self.scenario.nodes if self._said.get(node, OLD) == OLD]
            if old:
                self.fail(Violation(WAITS_FOR_ALL, f"it is in force, and {', '.join(old)} said otherwise"))

    # -- the end ------------------------------------------------------------------------------------

    def _recover(self) -> None:
        for name in self._behind():
            self._install(Step(self.world.now, name, NEW))
        super()._recover()

    def _look_at_the_end(self) -> None:
        super()._look_at_the_end()
        if self._too_late:
            raise Violation(STOPS_WITH_ADVICE, f"{sorted(self._too_late)} went on")
        if not self._wait(self._delete(self._clients[0]), 10.0, "the last deletion has not ended"):
            raise Violation(COMES_INTO_FORCE, "every node is upgraded, and the command is refused")
        left = self._wait(self._clients[0].client.keys(PREFIX), 10.0, "the last read has not ended")
        if left:
            raise Violation(COMES_INTO_FORCE, f"deleted by prefix, and still there: {left[:5]}")

    def _missing(self, write: Any) -> str | None:
        return super()._missing(write) or (None if self._in_force() == NEW else "schema 2 is not in force")


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


def scenario_of(seed: int) -> Scenario:
    """The node level's scenario of ``seed``, with fixed members, and no disk that loses one for good."""
    drawn = Scenario.draw_fixed(seed)
    kept = [i for i, fault in enumerate(drawn.plan.faults) if fault.kind is not FaultKind.BIT_FLIP]
    # What is declared needs a newer schema still.
    return replace(drawn, plan=drawn.plan.keep(kept), declares=False)
