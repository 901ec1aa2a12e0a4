"""The levels at which a seed can be run. Each gives the same kind of outcome from the same arguments."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from simulations.chronicle import SILENT, Chronicle
from simulations.engine.cluster import Cluster
from simulations.engine.scenario import SECONDS, Scenario
from simulations.faults import FaultPlan
from simulations.nodes import cluster as nodes
from simulations.nodes import scenario as nodes_scenario
from simulations.nodes import upgrade
from simulations.verdict import Outcome


@dataclass(frozen=True, slots=True)
class Level:
    """``plan(seed)`` is what the seed draws, ``run(seed, seconds, plan, chronicle)`` performs it, or another.

    ``seconds`` is how long a run is under fire, if nothing else is said; it does not change what is drawn.
    """

    name: str
    summary: str
    seconds: float
    plan: Callable[[int], FaultPlan]
    run: Callable[[int, float, FaultPlan, Chronicle], Outcome]
    nodes: Callable[[int], tuple[str, ...]]


def run_seed(
    level: Level,
    seed: int,
    *,
    seconds: float | None = None,
    fault_numbers: Sequence[int] | None = None,
    chronicle: Chronicle = SILENT,
) -> Outcome:
    """Run ``seed``, for a shorter time or with only some of its faults where that is asked for.

    ``chronicle`` is told what happens; the run is the same whether it listens or not.
    """
    plan = level.plan(seed)
    if fault_numbers is not None:
        plan = plan.keep(fault_numbers)
    outcome = level.run(seed, level.seconds if seconds is None else seconds, plan, chronicle)
    outcome.seconds = seconds
    outcome.fault_numbers = None if fault_numbers is None else tuple(fault_numbers)
    return outcome


def _run_engine(seed: int, seconds: float, plan: FaultPlan, chronicle: Chronicle) -> Outcome:
    return Cluster(replace(Scenario.draw(seed), seconds=seconds, plan=plan), chronicle).run()


def _run_nodes(seed: int, seconds: float, plan: FaultPlan, chronicle: Chronicle) -> Outcome:
    return nodes.run(replace(nodes_scenario.Scenario.draw(seed), seconds=seconds, plan=plan), chronicle)


def _run_upgrade(seed: int, seconds: float, plan: FaultPlan, chronicle: Chronicle) -> Outcome:
    scenario = replace(upgrade.scenario_of(seed), seconds=seconds, plan=plan)
    outcome = nodes.run(scenario, chronicle, upgrade.Upgrade)
    outcome.level = "upgrade"
    return outcome


LEVELS = {
    "engine": Level(
        "engine",
        "consensus alone: engine, journal, snapshots, transfer, on faulty disks and links",
        SECONDS,
        lambda seed: Scenario.draw(seed).plan,
        _run_engine,
        lambda seed: Scenario.draw(seed).nodes,
    ),
    "node": Level(
        "node",
        "whole nodes and their clients: state, sessions, inferences, models, on byte streams",
        nodes_scenario.SECONDS,
        lambda seed: nodes_scenario.Scenario.draw(seed).plan,
        _run_nodes,
        lambda seed: nodes_scenario.Scenario.draw(seed).nodes,
    ),
    "upgrade": Level(
        "upgrade",
        "the same during a rolling upgrade of the command schema, one node taken back on the way",
        nodes_scenario.SECONDS,
        lambda seed: upgrade.scenario_of(seed).plan,
        _run_upgrade,
        lambda seed: upgrade.scenario_of(seed).nodes,
    ),
}
