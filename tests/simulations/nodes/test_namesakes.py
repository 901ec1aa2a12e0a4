"""Simulated whole nodes beside which a second process is started under a living one's name.

The copies are beside the machines of the scenario, and draw from streams of their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mcp.errors import McpError, NameTaken
from mcp.node import node as node_module
from mcp.node.links import PeerLinks
from mcp.node.node import Node
from simulations.chronicle import SILENT, Chronicle
from simulations.faults import Fault, FaultKind, FaultPlan
from simulations.invariants import Violation
from simulations.moves import Kind, Move
from simulations.nodes.cluster import Cluster, run
from simulations.nodes.machine import Machine, Process
from simulations.nodes.operator import configuration
from simulations.nodes.scenario import Scenario
from simulations.streams import HostNetwork
from simulations.verdict import Outcome, Verdict

COPIES_AT_S = (3.0, 4.0, 5.0, 6.0)
KEEPS_ITS_PLACE = "whoever is alive keeps its place"


class Reached(Machine):
    """A machine whose process listens as one with a port does, and so asks before it starts."""

    def _node(self, network: HostNetwork) -> Node:
        return node_of(super()._node(network), self.name)


class Copy(Machine):
    """A machine with an empty disk, on which a member's command is started once more, at another address."""

    def __init__(self, of: str, number: int, around: Cluster, joins: bool) -> None:
        super().__init__(f"{of}-copy-{number}", around)
        self.of = of
        self.error: McpError | None = None
        self.enlisted = True
        self.joins = joins
        self.seeds = tuple(name for name in around.scenario.nodes if name != of)

    def _node(self, network: HostNetwork) -> Node:
        begun = {} if self.joins else {name: f"memory://{name}" for name in self._around.scenario.nodes}
        return node_of(super()._node(network), self.of, self.name, begun)

    def _over(self, process: Process, error: McpError, what: str, rule: str) -> None:
        self.error = error
        self._end(f"{what}: {error}", tell=True)


def node_of(made: Node, name: str, place: str = "", begun: Mapping[str, str] | None = None) -> Node:
    """``made`` under this name, listening at that place; ``begun``: with these voters."""
    listens = f"memory://{place or name}"
    config = replace(made.config, node_id=name, listen=(listens,), advertise=listens)
    if begun:
        config = replace(config, voters=begun, join=())
    return Node(config, executors=made._executors, surroundings=made._around)


class Copied(Cluster):
    """A cluster beside whose members copies come."""

    joins = False

    def __init__(self, scenario: Scenario, path: Path, chronicle: Chronicle = SILENT) -> None:
        super().__init__(scenario, path, chronicle)
        for name in self.machines:
            self.machines[name] = Reached(name, self)
        self.copies: list[Copy] = []
        for number, at_s in enumerate(COPIES_AT_S):
            self.world.at(at_s, self._copy, number)

    def _copy(self, number: int) -> None:
        alive = [name for name, machine in self.machines.items() if machine.parts is not None]
        if alive:
            copy = Copy(alive[number % len(alive)], number, self, self.joins)
            self.copies.append(copy)
            copy.start()

    def _stop(self) -> None:
        self.done["copies refused"] = sum(isinstance(copy.error, NameTaken) for copy in self.copies)
        super()._stop()

    def _look_at_the_end(self) -> None:
        super()._look_at_the_end()
        known = configuration(self.machines)
        assert known is not None
        for member in known.members:
            if member.incarnation != self.machines[member.name].incarnation:
                self.fail(Violation(KEEPS_ITS_PLACE, f"{member.name} is another one now"))

    def _bury(self) -> None:
        for copy in self.copies:
            if copy.process is not None:
                copy.kill("the run is over")
        super()._bury()
        for loop in (loop for copy in self.copies for loop in copy.graves):
            loop.bury()


class Joined(Copied):
    joins = True


def three_nodes() -> Scenario:
    scenarios = (Scenario.draw_fixed(seed) for seed in range(100))
    return next(scenario for scenario in scenarios if len(scenario.nodes) == 3)


def calm(kind: type[Cluster], **changes: Any) -> Outcome:
    scenario = replace(
        three_nodes(), **{"plan": FaultPlan(), "moves": (), "replace_dead_after_s": None, **changes}
    )
    return run(scenario, kind=kind)


async def nobody_is_asked(*_: Any) -> None:
    """Whoever starts hears of nobody, as where both start at the same moment."""


@pytest.mark.parametrize("kind", [Copied, Joined])
@pytest.mark.parametrize("asked", [True, False], ids=["asked first", "came through"])
def test_whoever_is_alive_keeps_its_place(
    kind: type[Cluster], asked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not asked:
        monkeypatch.setattr(node_module, "refuse_to_be_a_second", nobody_is_asked)
    outcome = calm(kind)
    assert outcome.verdict is Verdict.CLEAN, outcome.reason
    assert outcome.counts["copies refused"] == len(COPIES_AT_S)
    assert outcome.counts["terms"] == 1, "nobody was disturbed"


def test_without_both_the_copies_are_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_module, "refuse_to_be_a_second", nobody_is_asked)
    monkeypatch.setattr(PeerLinks, "refuse_a_second", lambda *_: None)
    outcome = calm(Copied)
    assert (outcome.verdict, outcome.counts["terms"]) != (Verdict.CLEAN, 1)


def test_whoever_has_lost_its_disk_is_no_copy() -> None:
    moves = (Move(Kind.REPLACE, 3.0, 0.0), Move(Kind.REPLACE, 10.0, 0.9))
    faults = [Fault(FaultKind.KILL, at, 0.5, ("n1",)) for at in (5.0, 8.0)]
    outcome = calm(Recovering, plan=FaultPlan(tuple(faults)), moves=moves)
    assert outcome.verdict is Verdict.CLEAN, outcome.reason
    assert outcome.counts["replace done"] == 2


class Recovering(Copied):
    """Nobody comes who is none of the members, but disks are lost."""

    def _copy(self, number: int) -> None:
        return
