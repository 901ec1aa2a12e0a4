"""The metrics of Triton's names, for dashboards that know no others: those that are known here. Pure.

Requests are those of this gateway, wherever they ran; runs and what waits are this node's.

Source: https://github.com/triton-inference-server/server/blob/main/docs/user_guide/metrics.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from mcp.gateway.exposition import Exposition, Family, Kind
from mcp.gateway.limits import MODELS_TOLD_MAX
from mcp.gateway.node_metrics import versions_told
from mcp.gateway.statistics import Statistics

_LABELS: Final = ("model", "version")


def _counter(name: str, unit: str, meaning: str) -> Family:
    return Family(f"nv_inference_{name}", Kind.COUNTER, unit, meaning, _LABELS)


SUCCESS: Final = _counter("request_success", "requests", "Inferences that this gateway answered.")
FAILURE: Final = _counter("request_failure", "requests", "Inferences that failed.")
DURATION: Final = _counter("request_duration_us", "microseconds", "Time of the requests, cumulative.")
COUNT: Final = _counter("count", "requests", "Inferences that were done.")
EXECUTIONS: Final = _counter("exec_count", "runs", "Runs of the model on this node.")
COMPUTE: Final = _counter("compute_infer_duration_us", "microseconds", "Time of these runs, cumulative.")
PENDING: Final = Family(
    "nv_inference_pending_request_count", Kind.GAUGE, "requests", "Requests that wait on this node.", _LABELS
)
FAMILIES: Final = (SUCCESS, FAILURE, DURATION, COUNT, EXECUTIONS, COMPUTE, PENDING)


def tell_triton(into: Exposition, statistics: Statistics, status: Mapping[str, Any] | None) -> None:
    """Tell what the gateway's ``statistics`` and the node's ``status`` say."""
    for labels, counts in statistics.counts(MODELS_TOLD_MAX):
        into.sample(SUCCESS, counts.succeeded, *labels)
        into.sample(FAILURE, counts.failed, *labels)
        into.sample(DURATION, (counts.succeeded_ns + counts.failed_ns) // 1000, *labels)
        into.sample(COUNT, counts.succeeded, *labels)
    for labels, _, version in [] if status is None else versions_told(status):
        figures = version["inference"]
        if figures is not None:
            into.sample(EXECUTIONS, figures["executions_total"], *labels)
            into.sample(COMPUTE, int(figures["execution_seconds_total"] * 1e6), *labels)
            into.sample(PENDING, figures["queued"], *labels)
