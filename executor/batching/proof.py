"""Whether a model treats its rows independently: tried, before it is relied on.

Open first axes do not make a batch: they may be time steps, or points of one cloud. Then a row's
result depends on the other rows, and joining requests would give wrong answers without a sign of it. So
two small requests are run one by one and as one, and their results compared. A model that mixes rows
(recurrence or attention along the first axis, a softmax over it, statistics of the batch, an index into
other rows) gives other results, because the values differ from row to row. That is a test and no proof;
an owner who knows better says so with the mode "off" or "dynamic".
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np

from executor.batching.rows import Joint, RowsChanged
from executor.compare import compare_outputs
from executor.errors import InferenceFailed, InputInvalid
from executor.inspection import NUMPY_TYPES, TensorInfo

Array = np.ndarray[Any, Any]
Run = Callable[[Mapping[str, Array]], Mapping[str, Array]]

ROWS: Final = (1, 3)
"""The rows of the two requests."""
OPEN_SIZE: Final = 2
"""What stands for an open size after the first."""
RTOL: Final = 1e-3
ATOL: Final = 1e-4
"""How far results of one row may differ between batch sizes: other kernels round differently."""


def rows_are_independent(
    run: Run, inputs: Sequence[TensorInfo], outputs: Sequence[TensorInfo], *, bytes_max: int
) -> str | None:
    """Run a model whose shapes allow joining; ``None``, or what shows that its rows must not be joined.

    ``run`` may raise what a run raises. A model that cannot be tried (it refuses the made-up values, or
    they would take more than ``bytes_max``) is not taken for independent.
    """
    try:
        requests = [_made(inputs, rows, phase, bytes_max) for phase, rows in enumerate(ROWS)]
        joint = Joint(inputs, outputs)
        alone = [run(request) for request in requests]
        together = joint.parted(run(joint.joined(requests)), requests)
    except ValueError as error:
        return str(error)
    except RowsChanged as error:
        return f"it does not give a row for each row: {error}"
    except (InferenceFailed, InputInvalid) as error:
        return f"it could not be tried with made-up values: {error}"
    for expected, got in zip(alone, together, strict=True):
        if not compare_outputs(expected, got, rtol=RTOL, atol=ATOL).equal:
            return "a row's result depends on the other rows of the run"
    return None


def _made(inputs: Sequence[TensorInfo], rows: int, phase: int, bytes_max: int) -> dict[str, Array]:
    made: dict[str, Array] = {}
    for info in inputs:
        sizes = [size if isinstance(size, int) else OPEN_SIZE for size in (info.shape or ())[1:]]
        shape = (rows, *sizes)
        bytes_max -= math.prod(shape) * 8
        if bytes_max < 0:
            raise ValueError("values to try it with would take more than warm_up_bytes_max")
        made[info.name] = _values(shape, info.dtype, 1.0 + 7.0 * phase)
    return made


def _values(shape: tuple[int, ...], dtype: str, phase: float) -> Array:
    # No two elements alike, no period, and fit for an index or a token where whole numbers are wanted.
    waves = np.sin(np.arange(math.prod(shape), dtype=np.float64) ** 1.3 + phase).reshape(shape)
    if dtype == "BYTES":
        words: Array = np.array([f"word {value:.3f}" for value in waves.flat], dtype=object)
        return words.reshape(shape)
    if dtype == "BOOL":
        flags: Array = waves > 0
        return flags
    kind = NUMPY_TYPES[dtype]
    return (waves if kind.kind == "f" else waves > 0).astype(kind)
