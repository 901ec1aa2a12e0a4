"""Running work in an agreed order, and ONNX models beside it.

:class:`CommandQueue` hands agreed commands to an :class:`Executor`, one at a time. :class:`OnnxRuntime`
loads and runs models in the calling thread; :class:`InferencePool` does it for an event loop.

The names below are loaded when they are first used: importing this package costs nothing, and
onnxruntime is imported only when a model is loaded.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from executor.compare import Comparison, compare_outputs
    from executor.errors import ExecutorError
    from executor.inspection import ModelInfo, TensorInfo
    from executor.interface import Command, Executor, Result
    from executor.onnx import OnnxRuntime, providers_available
    from executor.options import RuntimeOptions
    from executor.pool import InferencePool
    from executor.queue import EXECUTOR_DEFECT, CommandQueue
    from executor.runs import StopSignal

__all__ = [
    "EXECUTOR_DEFECT",
    "Command",
    "CommandQueue",
    "Comparison",
    "Executor",
    "ExecutorError",
    "InferencePool",
    "ModelInfo",
    "OnnxRuntime",
    "Result",
    "RuntimeOptions",
    "StopSignal",
    "TensorInfo",
    "compare_outputs",
    "providers_available",
]

_HOMES = {
    "EXECUTOR_DEFECT": "queue",
    "Command": "interface",
    "CommandQueue": "queue",
    "Comparison": "compare",
    "Executor": "interface",
    "ExecutorError": "errors",
    "InferencePool": "pool",
    "ModelInfo": "inspection",
    "OnnxRuntime": "onnx",
    "Result": "interface",
    "RuntimeOptions": "options",
    "StopSignal": "runs",
    "TensorInfo": "inspection",
    "compare_outputs": "compare",
    "providers_available": "onnx",
}


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(importlib.import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
