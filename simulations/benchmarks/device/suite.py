"""The suite: two nodes that differ in their provider, asked in turns, and the executor without a node.

Both node processes, the client (this process) and the device are on one machine; only one node is asked
at a time. Every answer is compared with the processor's, within the tolerance that replicas are compared
with (:func:`executor.compare.compare_outputs`).
"""

from __future__ import annotations

import importlib
import statistics
import tempfile
import time
from collections import defaultdict
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from executor.errors import ExecutorError
from executor.onnx import OnnxRuntime
from executor.options import RuntimeOptions
from mcp.client.client import Client
from simulations.benchmarks.asking import closed_loop
from simulations.benchmarks.cluster import bench
from simulations.benchmarks.device.runs import BATCHES, Parity, batch_of, limit_is_kept, loaded, timed
from simulations.benchmarks.figures import Figure, Grid, Report
from simulations.benchmarks.in_process import Outputs
from simulations.benchmarks.progress import Steps
from simulations.benchmarks.serving.subjects import Subject, subjects
from simulations.benchmarks.windows import Window

CPU: Final = ("cpu",)
CUDA: Final = ("cuda", "cpu")
LARGEST: Final = "large"
"""Its weights exceed the memory limit that is tried."""


@dataclass(frozen=True, slots=True)
class Size:
    """What is measured, and for how long each. ``device`` are the providers beside the processor's."""

    rounds: int
    seconds: float
    runs: int
    models: tuple[str, ...] = ("tiny", "medium", "large")
    callers: tuple[int, ...] = (1, 16, 100)
    batches: tuple[int, ...] = BATCHES
    device: tuple[str, ...] = CUDA


FULL: Final = Size(rounds=5, seconds=1.5, runs=50)
QUICK: Final = Size(rounds=1, seconds=0.3, runs=5)


_Row = tuple[str | float | None, ...]


@dataclass(slots=True)
class _Found:
    runs: dict[tuple[str, int, str], list[list[float]]] = field(default_factory=lambda: defaultdict(list))
    windows: dict[tuple[str, int, str], list[Window]] = field(default_factory=lambda: defaultdict(list))
    parity: Parity = field(default_factory=Parity)
    wrong: list[str] = field(default_factory=list)


async def measure(size: Size, steps: Steps) -> Report:
    """Run the suite; without a device it says so and measures nothing."""
    with tempfile.TemporaryDirectory(prefix="mcp-bench-") as name:
        made, missing = subjects(size.models, Path(name))
        lack = no_device(made[0], size.device) if made else None
        if lack is not None:
            return Report("device", missing=[*missing, lack])
        found = _Found()
        for subject in made:
            in_process(subject, size, found, steps)
            await over_the_wire(subject, size, found, steps)
        for subject in made:
            if subject.name == LARGEST and (wrong := limit_is_kept(subject, size.device)):
                found.wrong.append(wrong)
        return report(size, found, missing)


def no_device(subject: Subject, providers: tuple[str, ...]) -> str | None:
    """Why the providers cannot be used here; ``None``: they can."""
    try:
        with OnnxRuntime(RuntimeOptions(providers=providers), monotonic=time.monotonic) as runtime:
            runtime.load(subject.name, subject.model)
    except ExecutorError as error:
        return f"the device was not measured: {error}"
    return None


def in_process(subject: Subject, size: Size, found: _Found, steps: Steps) -> None:
    """Batches of several sizes, on both providers in turn."""
    steps.begin(f"{subject.name} in process", size.rounds * len(size.batches))
    with loaded(subject, CPU) as processor, loaded(subject, size.device) as device:
        for _ in range(size.rounds):
            for rows in size.batches:
                batch = batch_of(subject, rows)
                own, reference = timed(processor, subject, batch, size.runs)
                other, outputs = timed(device, subject, batch, size.runs)
                found.runs[subject.name, rows, "cpu"].append(own)
                found.runs[subject.name, rows, "device"].append(other)
                found.parity.compare(f"{subject.name}, a batch of {rows}", reference, outputs)
                steps.done()


async def over_the_wire(subject: Subject, size: Size, found: _Found, steps: Steps) -> None:
    """A node with the device and one without, each asked by so many callers at once."""
    with loaded(subject, CPU) as own:
        (only,) = own.info(subject.name).inputs
        references = [own.run(subject.name, {only.name: row[np.newaxis]}) for row in subject.rows]
    steps.begin(f"{subject.name} over the wire", size.rounds * len(size.callers) * 2)
    async with AsyncExitStack() as stack:
        nodes = {}
        for name, providers in (("cpu", CPU), ("device", size.device)):
            made = await stack.enter_async_context(bench(1, ("--providers", ",".join(providers))))
            await made.client.deploy(subject.name, subject.model)
            nodes[name] = made.client
            await asked(subject, made.client, references, found, max(size.callers), size.seconds)
        for _ in range(size.rounds):
            for callers in size.callers:
                for name, client in nodes.items():
                    window = await asked(subject, client, references, found, callers, size.seconds)
                    found.windows[subject.name, callers, name].append(window)
                    steps.done()


async def asked(
    subject: Subject, client: Client, references: list[Outputs], found: _Found, callers: int, seconds: float
) -> Window:
    """One window of load; what was not answered or wrongly is noted."""

    async def ask(number: int) -> Any:
        return await client.infer(subject.name, subject.rows[number % len(subject.rows)][np.newaxis])

    def check(number: int, answer: Any) -> str | None:
        before = len(found.parity.wrong)
        what = f"{subject.name}, a request of {callers} at once"
        found.parity.compare(what, references[number % len(references)], answer.outputs)
        return None if len(found.parity.wrong) == before else found.parity.wrong[-1]

    window = await closed_loop(ask, check, callers, seconds)
    if window.failures or not window.done:
        found.wrong.append(f"{subject.name}: not answered: {dict(window.failed)}")
    return window


def report(size: Size, found: _Found, missing: list[str]) -> Report:
    """Figures and tables of what was found."""
    figures: list[Figure] = []
    run_rows: list[_Row] = []
    wire_rows: list[_Row] = []
    for (model, rows, where), rounds in found.runs.items():
        if where == "device":
            own = found.runs[model, rows, "cpu"]
            ratios = [statistics.median(a) / statistics.median(b) for a, b in zip(own, rounds, strict=True)]
            figures.append(Figure.of_ratios(f"{model}, a batch of {rows}: cpu / device", ratios))
            cells = [Figure.of_rounds("", each).median for each in (own, rounds)]
            run_rows.append((model, rows, *cells, statistics.median(ratios)))
    for (model, callers, where), windows in found.windows.items():
        if where == "device":
            processor = found.windows[model, callers, "cpu"]
            gains = [b.rate / a.rate for a, b in zip(processor, windows, strict=True)]
            figures.append(Figure.of_ratios(f"{model}, {callers} at once: device / cpu", gains))
            rates = [statistics.median(each.rate for each in side) for side in (processor, windows)]
            wire_rows.append((model, callers, *rates, statistics.median(gains)))
    notes = {
        "device": ",".join(size.device),
        "device_name": device_name(),
        "max_abs_diff": found.parity.max_abs_diff,
        "compared": found.parity.compared,
    }
    columns = ("model", "rows#", "cpu us#", "device us#", "cpu / device#")
    over_wire = ("model", "callers#", "cpu /s#", "device /s#", "device / cpu#")
    return Report(
        "device",
        wrong=[*found.wrong, *found.parity.wrong],
        notes=notes,
        grids=[
            Grid("a run in process, from host memory to host memory", columns, tuple(run_rows)),
            Grid("answers a second from a node, one row a request", over_wire, tuple(wire_rows)),
        ],
        details=figures,
        missing=missing,
        remarks=[
            f"{found.parity.compared} answers compared; they differ by up to {found.parity.max_abs_diff:.2g}",
            f"the device is {notes['device_name'] or 'unknown (nvidia-ml-py is not installed)'}",
        ],
    )


def device_name() -> str | None:
    """The first device's name, as NVML gives it; ``None`` where there is none."""
    try:
        nvml: Any = importlib.import_module("pynvml")
        nvml.nvmlInit()
        return str(nvml.nvmlDeviceGetName(nvml.nvmlDeviceGetHandleByIndex(0)))
    except Exception:  # of no device, no driver, no package
        return None
