"""``guard``: whether the work of an inference or a command has doubled. For continuous integration.

What is compared is processor time: of the node, of the client, for each request, in units of a bare request
(:mod:`simulations.benchmarks.bare`) with as many callers, measured in the same rounds. It hardly depends on
what else the machine does. A stall costs no processor time, so the fastest tenth of lone requests is compared
with the fastest tenth of bare ones too. The data directories are in memory where the system has a folder for
that, because the disk is not what is guarded.

One request after another wakes everybody up cold, and beside other work each of these wakes costs more: what
is said of lone requests counts on a quiet machine only.

A bound is what was measured when it was last set, times :data:`SLACK`: twice the work is over it, noise is
not. Who makes something slower for a good reason, or much faster, sets the bounds anew (:data:`MEASURED`).
"""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

from simulations.benchmarks.cluster import bench
from simulations.benchmarks.commit.parties import CALLERS, NODES, Party, nodes_s
from simulations.benchmarks.figures import Bar, Figure, Report
from simulations.benchmarks.processor_time import process_s
from simulations.benchmarks.progress import Steps
from simulations.benchmarks.scale.nodes import asked, deployed
from simulations.benchmarks.serving.contenders import CLIENT
from simulations.benchmarks.windows import Window
from simulations.benchmarks.workers import Worker, worker

BARE: Final = "simulations.benchmarks.bare"
AT_ONCE: Final = 16
COMMAND_BYTES: Final = 20
SLACK: Final = 1.6
MEMORY: Final = Path("/dev/shm")  # noqa: S108 (the files are in a folder of their own)
MEASURED: Final = {
    "node's work for an inference": 0.9,
    "client's work for an inference": 0.9,
    "nodes' work for a command": 5.2,
    "client's work for a command": 1.4,
    "nodes' work for a lone command": 14.5,
    "client's work for a lone command": 3.0,
    "time of a lone inference": 9.5,
    "time of a lone command": 21.5,
}
"""About the medians on the machines on which they were set, against a bare request.

The times of lone calls are from the slower of them: how long a wake-up takes differs between machines by as
much, so that it is their work that shows whether they have become twice as dear.
"""


@dataclass(frozen=True, slots=True)
class Size:
    """Rounds, and seconds of each kind of load in a round."""

    rounds: int
    seconds: float


FULL: Final = Size(rounds=9, seconds=1.5)
QUICK: Final = Size(rounds=5, seconds=0.5)


@dataclass(slots=True)
class Results:
    """Ratios by name, one a round."""

    ratios: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    wrong: list[str] = field(default_factory=list)

    def work(self, of_nodes: str, of_client: str, unit: Window, window: Window) -> None:
        """Processor time for each request, against that of both processes for a bare one."""
        self.judge(window)
        unit_s = (unit.server_s + unit.client_s) / unit.done
        self.ratios[of_nodes].append(window.server_s / window.done / unit_s)
        self.ratios[of_client].append(window.client_s / window.done / unit_s)

    def time(self, name: str, unit: Window, window: Window) -> None:
        """What the fastest tenth took at most, against bare requests."""
        self.judge(window)
        assert unit.latency is not None
        assert window.latency is not None
        self.ratios[name].append(window.latency.p10 / unit.latency.p10)

    def judge(self, window: Window) -> None:
        """Note what was wrong."""
        self.wrong += [*window.wrong, *(f"failed: {reason}" for reason in window.failed)]


Load = Callable[[int, float], Awaitable[Window]]
"""A closed loop of so many callers, for so many seconds."""


@dataclass(frozen=True, slots=True)
class Loads:
    """What is measured."""

    bare: Load
    infer: Load
    party: Party


async def measure(size: Size, steps: Steps) -> Report:
    """Run the suite."""
    results = Results()
    async with AsyncExitStack() as stack:
        loads = await started(stack, stack.enter_context(in_memory()))
        steps.begin("guard", size.rounds + 1)
        for number in range(size.rounds + 1):
            # The first round is to warm up.
            await one_round(size, loads, results if number else Results())
            steps.done()
        results.wrong += await loads.party.wrong()
    return report(results)


async def started(stack: AsyncExitStack, folder: Path) -> Loads:
    """One node and its client, a cluster and its callers, and the bare pair."""
    one = await stack.enter_async_context(bench(1))
    target = {"addresses": one.cluster.addresses, "key": one.cluster.key.decode()}
    asking = {"subject": await deployed(one, folder), "protocol": "native", "target": target}
    client = await stack.enter_async_context(worker("client", CLIENT, asking, folder))
    three = await stack.enter_async_context(bench(NODES))
    spec = {"kind": "mcp", "addresses": three.cluster.addresses, "key": three.cluster.key.decode()}
    callers = await stack.enter_async_context(worker("callers", CALLERS, spec, folder))
    server = await stack.enter_async_context(worker("bare server", BARE, {"serve": True}, folder))
    bare_client = await stack.enter_async_context(worker("bare client", BARE, dict(server.greeting), folder))
    return Loads(
        partial(bare, server, bare_client),
        partial(asked, one, client),
        Party(callers, partial(nodes_s, three.cluster)),
    )


async def bare(server: Worker, client: Worker, callers: int, seconds: float) -> Window:
    """A closed loop of bare requests."""
    before = process_s(server.pid)
    plain = await client.order(callers=callers, seconds=seconds)
    return Window.from_plain(plain, server_s=process_s(server.pid) - before)


async def one_round(size: Size, loads: Loads, results: Results) -> None:
    """Every kind of load once, each right after bare requests of as many callers."""
    unit = await loads.bare(AT_ONCE, size.seconds)
    results.work(
        "node's work for an inference",
        "client's work for an inference",
        unit,
        await loads.infer(AT_ONCE, size.seconds),
    )
    results.work(
        "nodes' work for a command",
        "client's work for a command",
        unit,
        await loads.party.load(AT_ONCE, size.seconds, COMMAND_BYTES),
    )
    unit = await loads.bare(1, size.seconds)
    command = await loads.party.load(1, size.seconds, COMMAND_BYTES)
    results.work("nodes' work for a lone command", "client's work for a lone command", unit, command)
    results.time("time of a lone command", unit, command)
    results.time("time of a lone inference", unit, await loads.infer(1, size.seconds))


def report(results: Results) -> Report:
    """Every ratio against its bound; one that is over it fails the run."""
    figures = [Figure.of_ratios(name, ratios) for name, ratios in results.ratios.items()]
    bars = [
        Bar(figure, SLACK * MEASURED[figure.name], figure.name, needs_quiet="lone" in figure.name)
        for figure in figures
    ]
    remark = (
        f"a bound is {SLACK:g} times what was measured when it was set: twice the work fails, noise does not"
    )
    return Report("guard", figures, bars, results.wrong, remarks=[remark], guard=True)


@contextmanager
def in_memory() -> Iterator[Path]:
    """Have temporary folders in memory, where the system has a place for that; gives one of them."""
    before = tempfile.tempdir
    if MEMORY.is_dir():
        tempfile.tempdir = str(MEMORY)
    try:
        with tempfile.TemporaryDirectory(prefix="mcp-bench-") as name:
            yield Path(name)
    finally:
        tempfile.tempdir = before
