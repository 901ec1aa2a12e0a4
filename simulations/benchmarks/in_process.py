"""onnxruntime itself, with the options that a node gives its sessions: the yardstick of every inference."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnxruntime
from numpy.typing import NDArray

TOLERANCE: Final = 1e-5
SHORT_S: Final = 1e-3
"""A run that takes longer does not belong on an event loop."""
TRIED: Final = 20

Outputs = dict[str, NDArray[Any]]


class InProcess:
    """A model with one input in a session of this process, one thread for each run.

    The options are those of :class:`executor.onnx.OnnxRuntime`.
    """

    def __init__(self, model: Path, threads: int = 1) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.enable_mem_pattern = False
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.add_session_config_entry("session.inter_op.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        (only,) = self._session.get_inputs()
        self.input = str(only.name)
        self.width = int(only.shape[-1])
        self.outputs = [str(output.name) for output in self._session.get_outputs()]

    def run(self, rows: NDArray[np.float32]) -> list[NDArray[Any]]:
        """The outputs for FP32 ``rows`` [n, width], in the order of :attr:`outputs`."""
        values: list[NDArray[Any]] = self._session.run(self.outputs, {self.input: rows})
        return values

    def infer(self, rows: NDArray[np.float32]) -> Outputs:
        """The outputs by name."""
        return dict(zip(self.outputs, self.run(rows), strict=True))

    def is_short(self) -> bool:
        """Whether a run of one row may be made on an event loop; tries it."""
        row = np.zeros((1, self.width), np.float32)
        times = []
        for _ in range(TRIED):
            begun = time.perf_counter()
            self.run(row)
            times.append(time.perf_counter() - begun)
        return sorted(times)[TRIED // 2] < SHORT_S


def equal(answer: Outputs, expected: Outputs) -> bool:
    """Whether two answers have the same outputs, numbers within a small tolerance."""
    return answer.keys() == expected.keys() and all(
        answer[name].shape == value.shape and np.allclose(answer[name], value, rtol=TOLERANCE, atol=TOLERANCE)
        for name, value in expected.items()
    )


def split(outputs: Sequence[NDArray[Any]], row: int) -> list[NDArray[Any]]:
    """The outputs of one row of a batch, still [1, ...]."""
    return [output[row : row + 1] for output in outputs]
