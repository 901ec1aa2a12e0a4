"""How a model's requests may be batched, and the bounds of what waits."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

MODES: Final = ("auto", "dynamic", "off")
ROWS_MAX_MOST: Final = 65_536
LATENCY_BOUND_S_MOST: Final = 60.0

Pad = int | float


@dataclass(frozen=True, slots=True)
class BatchOptions:
    """What a model's owner says about batching. Raises ``ValueError`` for what makes no sense.

    * ``mode``: "auto" batches a model that was seen to treat its rows independently (see
      :func:`executor.batching.proof.rows_are_independent`); "dynamic" takes the owner's word for that,
      and needs shapes that allow it; "off" never batches.
    * ``rows_max``: the most rows in one run. A request with more is not cut: it runs alone.
    * ``latency_bound_s``: nobody is kept waiting for others longer than this while there is a worker, and no
      batch is made so large that its run is expected to take longer (for a model that is slow with a single
      row: longer than two such runs).
    * ``pad``: pairs of an input and a number. The open sizes of these inputs, but for the first, are filled
      up to those of the longest request in the batch with that number. Only where the model gives the same
      results for padded inputs.
    """

    mode: str = "auto"
    rows_max: int = 64
    latency_bound_s: float = 0.01
    pad: tuple[tuple[str, Pad], ...] = ()

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ValueError(f"the mode of batching is one of {', '.join(MODES)}, not {self.mode!r:.40}")
        if not 1 <= self.rows_max <= ROWS_MAX_MOST:
            raise ValueError(f"rows_max is 1 to {ROWS_MAX_MOST} rows, not {self.rows_max}")
        if not 0 <= self.latency_bound_s <= LATENCY_BOUND_S_MOST:
            raise ValueError(
                f"latency_bound_s is 0 to {LATENCY_BOUND_S_MOST:g} seconds, not {self.latency_bound_s}"
            )
        for name, value in self.pad:
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                raise ValueError(f"{name!r:.80} is padded with a finite number, not {value!r:.40}")


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """Bounds of what waits and runs. Raises ``ValueError`` unless all are at least 1.

    ``queue_runs_max`` and ``queue_bytes_max`` (of inputs) bound what waits in all, ``runs_per_model_max`` and
    ``bytes_per_model_max`` what waits for one model, so that one that is overloaded leaves room for the
    others. A request that is larger than the bound of bytes may wait while nothing else does.
    ``workers`` is how many runs go on at once, ``workers_per_model_max`` how many of them are one model's,
    and ``cores_for_runs`` how many have a core of their own beside the event loop's.
    """

    queue_runs_max: int = 1024
    runs_per_model_max: int = 512
    queue_bytes_max: int = 512 * 2**20
    bytes_per_model_max: int = 256 * 2**20
    workers: int = 2
    workers_per_model_max: int = 2
    cores_for_runs: int = 1

    def __post_init__(self) -> None:
        for name in self.__slots__:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
