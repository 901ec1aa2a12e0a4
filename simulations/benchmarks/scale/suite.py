"""The suite: more nodes, more commands, more sessions, more models, and the way back after a kill."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from simulations.benchmarks.figures import Bar, Figure, Grid, Report
from simulations.benchmarks.progress import Steps
from simulations.benchmarks.scale import memory, nodes, recovery

GROWTH_MAX: Final = 1.1
RESTART_S_MAX: Final = 3.0
POINTS_SHOWN_MAX: Final = 20


@dataclass(frozen=True, slots=True)
class Size:
    """The sizes of the parts."""

    nodes: nodes.Size
    memory: memory.Size
    logs: tuple[int, ...]
    """After how many commands a node is killed."""


FULL: Final = Size(
    nodes.Size(rounds=5, seconds=2.0),
    memory.Size(commands=1_000_000, sessions=300, models=50),
    logs=(1, 1_000, 10_000, 100_000),
)
QUICK: Final = Size(
    nodes.Size(rounds=1, seconds=0.5, nodes=(1, 3), commands_at_once=16),
    memory.Size(commands=2_000, sessions=20, models=5),
    logs=(1, 1_000),
)


async def measure(size: Size, steps: Steps) -> Report:
    """Run the suite."""
    grown, remembered, recovered = nodes.Results(), memory.Results(), recovery.Results()
    steps.begin("scale: nodes", size.nodes.rounds * len(size.nodes.nodes))
    for _ in range(size.nodes.rounds):
        for count in size.nodes.nodes:
            await nodes.one_cluster(count, size.nodes, grown)
            steps.done()
    await memory.commands(size.memory, remembered, steps)
    await memory.sessions(size.memory, remembered)
    await memory.models(size.memory, remembered)
    await recovery.measure(size.logs, recovered, steps)
    return report(size, grown, remembered, recovered)


def report(
    size: Size, grown: nodes.Results, remembered: memory.Results, recovered: recovery.Results
) -> Report:
    """Everything that was found."""
    restart = Figure.of_trials("restart of a node after all commands", [remembered.restart_s], "s")
    figures = [
        restart,
        Figure.of_values("memory of a session with its connection", "kB", [remembered.session_kb]),
        Figure.of_values("memory of a model", "MB", [remembered.model_mb]),
        Figure.of_values("the model's file", "MB", [remembered.model_file_mb]),
    ]
    what = f"{remembered.points[-1].commands:,} commands" if remembered.points else "no commands"
    bars = [Bar(restart, RESTART_S_MAX, f"restart after {what}")]
    missing = []
    if remembered.growth is None:
        missing.append(f"growth after the first compaction was not measured: {what} are too few for one")
    else:
        growth = Figure.of_ratios("memory after the first compaction, most / first", [remembered.growth])
        figures.append(growth)
        bars.append(Bar(growth, GROWTH_MAX, f"resident memory while {what} are written"))
    return Report(
        "scale",
        figures,
        bars,
        [*grown.wrong, *remembered.wrong, *recovered.wrong],
        grids=[nodes.grid(grown, size.nodes), points_grid(remembered.points), recovery.grid(recovered)],
        missing=missing,
    )


def points_grid(points: list[memory.Point]) -> Grid:
    """Memory against commands, thinned out to what a person reads; the last point is kept."""
    every = max(1, len(points) // POINTS_SHOWN_MAX)
    shown = [
        point for number, point in enumerate(points, start=1) if number % every == 0 or number == len(points)
    ]
    rows = tuple((point.commands, point.resident_mb, "yes" if point.compacted else "no") for point in shown)
    return Grid("Memory as the log grows", ("commands#", "largest node MB#", "compacted"), rows)
