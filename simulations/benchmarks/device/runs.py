"""A model run in process by the executor, on either provider: what a batch costs, and whether they agree."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from executor.compare import compare_outputs
from executor.errors import ExecutorError
from executor.onnx import OnnxRuntime
from executor.options import RuntimeOptions
from simulations.benchmarks.in_process import Outputs
from simulations.benchmarks.serving.subjects import Subject

BATCHES: Final = (1, 16, 64, 256)
LIMIT_BYTES: Final = 16 * 2**20
"""A limit on the device's memory that the large model's weights (100 MB) do not fit into."""


@dataclass(slots=True)
class Parity:
    """How far apart the providers' outputs were; ``wrong`` lists what was out of the tolerance."""

    max_abs_diff: float = 0.0
    compared: int = 0
    wrong: list[str] = field(default_factory=list)

    def compare(self, what: str, reference: Outputs, other: Outputs) -> None:
        """Note the difference of one answer from the processor's."""
        found = compare_outputs(reference, other)
        self.compared += 1
        self.max_abs_diff = max(self.max_abs_diff, found.max_abs_diff)
        if not found.equal:
            self.wrong.append(f"{what}: {found.problem}")


@contextmanager
def loaded(subject: Subject, providers: tuple[str, ...]) -> Iterator[OnnxRuntime]:
    """A runtime that has the model under its name, warmed up."""
    with OnnxRuntime(RuntimeOptions(providers=providers), monotonic=time.monotonic) as runtime:
        runtime.load(subject.name, subject.model)
        runtime.warm_up(subject.name)
        yield runtime


def timed(
    runtime: OnnxRuntime, subject: Subject, rows: NDArray[Any], runs: int
) -> tuple[list[float], Outputs]:
    """Durations in seconds of ``runs`` runs of one batch, host memory to host memory, and the outputs."""
    durations = []
    (only,) = runtime.info(subject.name).inputs
    outputs: Outputs = runtime.run(subject.name, {only.name: rows})
    for _ in range(runs):
        begun = time.perf_counter()
        outputs = runtime.run(subject.name, {only.name: rows})
        durations.append(time.perf_counter() - begun)
    return durations, outputs


def batch_of(subject: Subject, rows: int) -> NDArray[np.float32]:
    """So many of the subject's rows, from the first on again when they are used up."""
    repeats = -(-rows // len(subject.rows))
    batch: NDArray[np.float32] = np.concatenate([subject.rows] * repeats)[:rows]
    return batch


def limit_is_kept(subject: Subject, providers: tuple[str, ...]) -> str | None:
    """What is wrong with how a model that exceeds the device's memory limit is refused; ``None``: nothing."""
    options = RuntimeOptions(providers=providers, device_memory_bytes_max=LIMIT_BYTES)
    with OnnxRuntime(options, monotonic=time.monotonic) as runtime:
        try:
            runtime.load(subject.name, subject.model)
        except ExecutorError:
            return None if runtime.models() == {} else "a model that was refused is loaded"
        return f"{subject.name} was loaded in {LIMIT_BYTES} bytes of the device's memory"
