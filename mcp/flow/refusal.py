"""Why a request is not let in, and the error that its caller gets.

Two kinds that are never mixed. *Too much* is asked: :class:`~mcp.errors.ResourceExhausted`, with the time
after which there is room (HTTP 429). Something is *broken*: :class:`~mcp.errors.Unavailable`, with the time
after which it is tried again (HTTP 503). What no waiting can help has neither: a deadline that is too short
for the work itself, and a cost above what a limit holds.

A refusal is cheap; the error, with its sentences, is made when it is asked for.
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass
from typing import Any

from mcp.errors import (
    CircuitOpen,
    DeadlineExceeded,
    McpError,
    ResourceExhausted,
    TooLarge,
    Unavailable,
)


class Reason(enum.Enum):
    """What refused. Its value stands in the error's details."""

    CLIENT_RATE = "client_rate"
    MODEL_RATE = "model_rate"
    CLUSTER_RATE = "cluster_rate"
    CONCURRENCY = "concurrency"
    NODE = "node"
    """All requests of the node together."""
    DEADLINE = "deadline"
    """It would wait for too long to be answered in time."""
    TOO_LATE = "too_late"
    """The deadline has passed, or is nearer than the work alone takes."""
    BREAKER = "breaker"
    LEASE = "lease"
    """The node has no share of a cluster's limit, and cannot ask for one."""
    FAILED = "failed"
    """It was let in, and failed: never a refusal, but a reason for a fallback."""


BROKEN = frozenset({Reason.BREAKER, Reason.LEASE})
"""Nobody asks too much: something does not work."""

_REASONS = frozenset(reason.value for reason in Reason if reason is not Reason.FAILED)

_SAID = {
    Reason.CLIENT_RATE: "client {client!r:.80} sends more than its limit lets in",
    Reason.MODEL_RATE: "model {model!r:.80} is asked for more than its limit lets in",
    Reason.CLUSTER_RATE: "more is asked for than this node's share of the cluster's limit {limit!r:.80}",
    Reason.CONCURRENCY: "as many requests of model {model!r:.80} are under way as node {node!r:.80} can do",
    Reason.NODE: "as many requests are under way at node {node!r:.80} as it takes (in_flight_max)",
    Reason.DEADLINE: "model {model!r:.80} has so much to do that the answer would come after the deadline",
}


@dataclass(frozen=True, slots=True)
class Refusal:
    """Not let in by ``reason``; the same may be after ``retry_after_s``. Nothing was done, nothing taken."""

    reason: Reason
    retry_after_s: float
    client: str
    model: str
    node: str
    limit: str = ""
    """The cluster's limit, where it is one."""

    @property
    def error(self) -> McpError:
        """What the caller is told."""
        names = {"client": self.client, "model": self.model, "node": self.node, "limit": self.limit}
        details: dict[str, Any] = {"reason": self.reason.value}
        if self.reason is Reason.TOO_LATE:
            return DeadlineExceeded(
                f"model {self.model!r:.80} cannot answer before the deadline, however idle node "
                f"{self.node!r:.80} is; nothing was done. Allow more time (timeout_s).",
                details=details,
            )
        if self.retry_after_s == math.inf:
            return TooLarge(
                f"{_SAID[self.reason].format(**names)}: the request costs more than the limit ever holds. "
                "Make it smaller, or have the limit raised.",
                details=details,
            )
        details["retry_after_s"] = self.retry_after_s
        if self.reason is Reason.BREAKER:
            return CircuitOpen(
                f"calls of model {self.model!r:.80} at node {self.node!r:.80} failed or were too slow "
                f"lately, so none is made for now; ask another node, or retry after "
                f"{self.retry_after_s:.3g} s",
                details={**details, "node": self.node, "model": self.model},
            )
        if self.reason is Reason.LEASE:
            return Unavailable(
                f"the cluster does not answer, so node {self.node!r:.80} has no share of its limit "
                f"{self.limit!r:.80}; ask another node, or retry after {self.retry_after_s:.3g} s",
                details=details,
            )
        return ResourceExhausted(
            f"{_SAID[self.reason].format(**names)}; retry after {self.retry_after_s:.3g} s",
            details=details,
        )


def is_refusal(error: McpError) -> bool:
    """Whether an error, wherever it comes from, is that of a :class:`Refusal`: nothing was done."""
    reason = error.details.get("reason")
    return type(reason) is str and reason in _REASONS
