"""The suite: who is asked, how often, in which order, and what follows from it.

Everybody's server runs all the time, with clients in processes of their own that are connected; only one is
asked at a time, in turns within each round. First closed loops (so many callers, each asking again as soon as
it has its answer), which give the rates; then open loops at a share of a peer's capacity, which give the
latencies that a user would see.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from simulations.benchmarks.figures import Report
from simulations.benchmarks.progress import Steps
from simulations.benchmarks.serving.ceiling import BATCHES
from simulations.benchmarks.serving.contenders import (
    FASTAPI,
    GRPC,
    OURS,
    Running,
    absent,
    contenders,
)
from simulations.benchmarks.serving.results import Results, report
from simulations.benchmarks.serving.subjects import NAMES, Subject, subjects
from simulations.benchmarks.workers import Worker, worker

CEILING: Final = "simulations.benchmarks.serving.ceiling"
SEED: Final = 4


@dataclass(frozen=True, slots=True)
class Size:
    """What is measured, and for how long each."""

    rounds: int
    seconds: float
    warm_up_s: float
    subjects: tuple[str, ...] = NAMES
    callers: tuple[int, ...] = (1, 16, 100)
    shares: tuple[float, ...] = (0.5, 0.8)
    """Shares of a peer's capacity at which requests arrive in the open loops."""


FULL: Final = Size(rounds=5, seconds=2.0, warm_up_s=1.0)
QUICK: Final = Size(rounds=1, seconds=0.5, warm_up_s=0.2, subjects=("tiny", "digits"), callers=(1, 16))


async def measure(size: Size, steps: Steps) -> Report:
    """Run the suite."""
    results = Results(size.callers, size.shares)
    with tempfile.TemporaryDirectory(prefix="mcp-bench-") as name:
        folder = Path(name)
        made, missing = subjects(size.subjects, folder)
        for subject in made:
            await one_subject(subject, size, folder, results, steps)
    return report(results, [*missing, *absent(), *results.missing])


async def one_subject(subject: Subject, size: Size, folder: Path, results: Results, steps: Steps) -> None:
    """Everything about one model."""
    async with AsyncExitStack() as stack:
        ceiling = await stack.enter_async_context(
            worker("ceiling", CEILING, {"subject": subject.save()}, folder)
        )
        running, failed = await stack.enter_async_context(contenders(subject, folder))
        results.missing += failed
        rivals = [each.name for each in running if each.name in (FASTAPI, GRPC)]
        turns = len(running) * (len(size.callers) + 1) + len(rivals) * len(size.shares) * 2
        steps.begin(f"serving {subject.name}", size.rounds * turns)
        await checked(subject, running, results)
        batch = await best_batch(ceiling, size.warm_up_s)
        for each in running:
            results.drivers[each.name] = each.driver
            await each.closed(max(size.callers), size.warm_up_s)
        for _ in range(size.rounds):
            await closed_round(subject, running, size, results, steps)
            for rows in (1, batch):
                answer = await ceiling.order(rows=rows, seconds=size.seconds)
                results.ceilings[subject.name, rows].append(answer["rate"])
        capacity = {name: results.capacity(subject.name, name) for name in rivals}
        for number in range(size.rounds):
            await open_round(subject, running, capacity, size, SEED + number, results, steps)
        await checked(subject, running, results)


async def checked(subject: Subject, running: list[Running], results: Results) -> None:
    """Ask everybody for every row; whatever is not answered as in process is wrong."""
    for each in running:
        results.judge(subject.name, each.name, await each.check(), strict=True)


async def best_batch(ceiling: Worker, seconds: float) -> int:
    """The size of batch at which the model itself is fastest."""
    rates = {rows: (await ceiling.order(rows=rows, seconds=seconds))["rate"] for rows in BATCHES}
    return max(rates, key=lambda rows: float(rates[rows]))


async def closed_round(
    subject: Subject, running: list[Running], size: Size, results: Results, steps: Steps
) -> None:
    """Everybody in turn, for each number of callers."""
    for callers in size.callers:
        for each in running:
            window = await each.closed(callers, size.seconds)
            results.judge(subject.name, each.name, window)
            results.closed[subject.name, callers, each.name].append(window)
            steps.done()


async def open_round(
    subject: Subject,
    running: list[Running],
    capacity: Mapping[str, float],
    size: Size,
    seed: int,
    results: Results,
    steps: Steps,
) -> None:
    """Each rival at shares of its capacity, and the product under the very same arrivals."""
    by_name = {each.name: each for each in running}
    for rival, most in capacity.items():
        for share in size.shares:
            for name in (rival, OURS):
                window = await by_name[name].opened(share * most, size.seconds, seed)
                results.judge(subject.name, name, window)
                results.opened[subject.name, rival, share, name].append(window)
                steps.done()
