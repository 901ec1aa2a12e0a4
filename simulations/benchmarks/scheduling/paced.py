"""A node whose runs take a set time.

``python -m simulations.benchmarks.scheduling.paced PACE OPTION...`` is ``mcpctl serve OPTION...`` but for one
thing: after a model has run, the worker waits until the run has taken what :func:`run_s` says for this pace.
It waits without using the processor, so three nodes of different speeds fit on one machine, and a slow one
does not slow the others down. It is for measurements only.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from typing import Any, Final

from executor.onnx import OnnxRuntime

CALL_S: Final = 0.004
"""What each run takes on a node of pace 1, in seconds,"""
ROW_S: Final = 0.001
"""and what each row adds."""
PROGRAM: Final = ("-m", "simulations.benchmarks.scheduling.paced")


def run_s(rows: int, pace: float) -> float:
    """How long a run of so many rows takes, in seconds."""
    return pace * (CALL_S + ROW_S * rows)


def slow_down(pace: float) -> None:
    """Have every run of this process take its set time from now on."""
    execute = OnnxRuntime.execute

    def paced(runtime: OnnxRuntime, prepared: Any, **options: Any) -> Mapping[str, Any]:
        begun = time.perf_counter()
        outputs = execute(runtime, prepared, **options)
        rows = max((len(array) for array in prepared.inputs.values() if array.ndim), default=1)
        time.sleep(max(0.0, run_s(rows, pace) - (time.perf_counter() - begun)))
        return outputs

    OnnxRuntime.execute = paced  # type: ignore[assignment, method-assign]


def main() -> None:
    """Serve; leaves the process with its exit status."""
    from mcp.cli.root import run  # noqa: PLC0415 (the runtime is changed before anything has it)

    pace, *options = sys.argv[1:]
    slow_down(float(pace))
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    sys.exit(run(["serve", *options]))


if __name__ == "__main__":
    main()
