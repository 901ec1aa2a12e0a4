"""What was seen of one version: requests, failures, and how long those took that succeeded."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from mcp.cluster.rollout.latency import COUNT_MAX, Latencies
from mcp.errors import InvalidArgument
from mcp.plain import is_whole, shown


@dataclass(slots=True)
class Figures:
    """Counts of the requests that have ended, and of streams that have begun to be answered.

    ``latencies`` are those of the ones that succeeded, of a stream that of its first step.
    """

    requests: int = 0
    failures: int = 0
    latencies: Latencies = field(default_factory=Latencies)

    def succeeded(self, seconds: float) -> None:
        """One was answered after so long."""
        self.requests += 1
        self.latencies.add(seconds)

    def failed(self) -> None:
        """One failed, for a reason that is not its caller's."""
        self.requests += 1
        self.failures += 1

    def failed_after_all(self) -> None:
        """One that was counted as answered has failed since: a stream, in a later step."""
        self.failures = min(self.requests, self.failures + 1)

    def merge(self, other: Figures) -> None:
        """Count what another node has counted, too."""
        self.requests += other.requests
        self.failures += other.failures
        self.latencies.merge(other.latencies)

    def to_plain(self) -> dict[str, Any]:
        """Return plain values, equal for equal figures."""
        return {
            "requests": self.requests,
            "failures": self.failures,
            "latencies": self.latencies.to_plain(),
        }

    @classmethod
    def from_plain(cls, plain: object) -> Figures:
        """Read what :meth:`to_plain` wrote. Raises :class:`~mcp.errors.InvalidArgument` for anything else."""
        fields = plain if type(plain) is dict else {}
        requests, failures = fields.get("requests"), fields.get("failures")
        if not is_whole(requests, 0, COUNT_MAX) or not is_whole(failures, 0, requests):
            raise InvalidArgument(
                f"figures are a map of requests, failures and latencies, not {shown(plain)}"
            )
        return cls(requests, failures, Latencies.from_plain(fields.get("latencies")))
