"""What happened in one stretch of load: how much was done, how long it took, what it cost. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Self

from simulations.benchmarks.figures import percentile

REASONS_MAX: Final = 10
"""More kinds of failures than this are not told apart, but counted as others."""


@dataclass(frozen=True, slots=True)
class Latency:
    """Percentiles of durations, in seconds."""

    p10: float
    p50: float
    p90: float
    p99: float
    p999: float
    max: float

    @classmethod
    def of(cls, durations: Sequence[float]) -> Self | None:
        """The percentiles of ``durations``; ``None`` where there are none."""
        if not durations:
            return None
        ordered = sorted(durations)
        return cls(*(percentile(ordered, share) for share in (0.1, 0.5, 0.9, 0.99, 0.999, 1.0)))


@dataclass(frozen=True, slots=True)
class Window:
    """One stretch of load.

    ``done`` requests were answered within ``seconds``; ``failed`` counts the others by reason; ``wrong``
    tells which answers were not as expected. ``client_s`` and ``server_s`` are processor seconds of both
    sides' processes.
    """

    seconds: float
    done: int
    latency: Latency | None
    client_s: float
    server_s: float = 0.0
    failed: Mapping[str, int] = field(default_factory=dict)
    wrong: tuple[str, ...] = ()

    @property
    def rate(self) -> float:
        """Answers a second."""
        return self.done / self.seconds

    @property
    def failures(self) -> int:
        """How many were not answered."""
        return sum(self.failed.values())

    def per_request_us(self, spent_s: float) -> float | None:
        """Processor microseconds for each answer; ``None`` where there was none."""
        return spent_s / self.done * 1e6 if self.done else None

    def to_plain(self) -> dict[str, Any]:
        """The window as JSON values."""
        return asdict(self)

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any], **changes: Any) -> Self:
        """What :meth:`to_plain` gave, in another process."""
        latency = plain["latency"]
        values = {**plain, "latency": None if latency is None else Latency(**latency), **changes}
        return cls(**{**values, "wrong": tuple(values["wrong"])})


def counted(reasons: Counter[str]) -> dict[str, int]:
    """The most frequent reasons, the rest together."""
    found = dict(reasons.most_common(REASONS_MAX))
    rest = reasons.total() - sum(found.values())
    return found | {"others": rest} if rest else found
