"""What this gateway answered, by model: Triton's statistics extension.

Counted here are this gateway's own requests, from their arrival in it to the cluster's answer. What
happens inside of a run (queue, input, output) a gateway does not see and reports as nothing; the nodes' own
figures are in their status. Pure: times are arguments.

Source: https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_statistics.md
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from mcp.client.results import ModelStatus
from mcp.gateway.exposition import Histogram
from mcp.gateway.limits import MODELS_COUNTED_MAX

_MILLISECONDS: Final = (0.5, 1, 2.5, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10_000, 30_000, 60_000)
DURATION_BOUNDS_S: Final = tuple(bound / 1000 for bound in _MILLISECONDS)
"""Upper bounds, in seconds, of the buckets in which durations are counted."""

_NOTHING: Final = {"count": 0, "ns": 0}
_UNSEEN: Final = ("queue", "compute_input", "compute_infer", "compute_output", "cache_hit", "cache_miss")


@dataclass(slots=True)
class Counts:
    """Requests of one model: how many, and their nanoseconds; ``last_ms`` since the epoch."""

    succeeded: int = 0
    succeeded_ns: int = 0
    failed: int = 0
    failed_ns: int = 0
    last_ms: int = 0
    durations: Histogram = field(default_factory=lambda: Histogram([0] * (len(DURATION_BOUNDS_S) + 1)))
    """Of those that succeeded."""

    def add(self, other: Counts) -> None:
        """Take another's counts in."""
        self.succeeded += other.succeeded
        self.succeeded_ns += other.succeeded_ns
        self.failed += other.failed
        self.failed_ns += other.failed_ns
        self.last_ms = max(self.last_ms, other.last_ms)


class Statistics:
    """Counts by model and version as they were asked for (version "": the active one)."""

    def __init__(self) -> None:
        self._counts: dict[tuple[str, str], Counts] = {}

    def succeeded(self, model: str, version: str, elapsed_s: float, wall_s: float) -> None:
        """An inference was answered by that version."""
        counts = self._of(model, version)
        if counts is not None:
            counts.succeeded += 1
            counts.succeeded_ns += _ns(elapsed_s)
            counts.last_ms = int(wall_s * 1000)
            counts.durations.counts[bisect.bisect_left(DURATION_BOUNDS_S, elapsed_s)] += 1
            counts.durations.total += elapsed_s

    def failed(self, model: str, version: str | None, elapsed_s: float, *, exists: bool) -> None:
        """An inference failed. ``exists``: the error says that there is this model; others may not be."""
        key = (model, version or "")
        counts = self._of(*key) if exists else self._counts.get(key)
        if counts is not None:
            counts.failed += 1
            counts.failed_ns += _ns(elapsed_s)

    def counts(self, most: int) -> Iterator[tuple[tuple[str, str], Counts]]:
        """The first ``most`` of the counts, by model and version."""
        return itertools.islice(self._counts.items(), most)

    def of(self, models: Sequence[ModelStatus], version: str | None = None) -> dict[str, Any]:
        """The answer to ``GET /v2/models/stats``: of all versions, or of the one that is named."""
        return {
            "model_stats": [
                self._entry(model, each)
                for model in models
                for each in model.versions
                if version in (None, each)
            ]
        }

    def _of(self, model: str, version: str) -> Counts | None:
        key = (model, version)
        if key not in self._counts and len(self._counts) >= MODELS_COUNTED_MAX:
            return None
        return self._counts.setdefault(key, Counts())

    def _entry(self, model: ModelStatus, version: str) -> dict[str, Any]:
        total = Counts()
        for name in (model.name, *model.aliases):
            for asked in (version, "") if version == model.version else (version,):
                total.add(self._counts.get((name, asked), Counts()))
        return {
            "name": model.name,
            "version": version,
            "last_inference": total.last_ms,
            "inference_count": total.succeeded,
            "execution_count": total.succeeded,
            "inference_stats": {
                "success": {"count": total.succeeded, "ns": total.succeeded_ns},
                "fail": {"count": total.failed, "ns": total.failed_ns},
                **{name: dict(_NOTHING) for name in _UNSEEN},
            },
            "batch_stats": [],
        }


def _ns(elapsed_s: float) -> int:
    return max(0, int(elapsed_s * 1e9))
