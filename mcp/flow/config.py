"""What is let in, as its owner declares it: one frozen value, from plain maps and back.

It is made to be part of the replicated state, so that all nodes have the same, and to be changed while nodes
run. :func:`from_plain` refuses what it does not know by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from mcp.errors import ConfigInvalid
from mcp.flow.breaker import BreakerConfig
from mcp.flow.buckets import LeakyBucket, LeakyQueue, TokenBucket
from mcp.flow.cache import CacheConfig
from mcp.flow.concurrency import IN_FLIGHT_MAX, ConcurrencyConfig
from mcp.flow.fallback import STEPS_MAX, FallbackStep
from mcp.flow.keyed import KEYS_MAX
from mcp.flow.leases import LIMITS_MAX, NAME_LETTERS_MAX, SharedLimit
from mcp.flow.limiter import Limiter, Rate
from mcp.flow.plain import plain, record
from mcp.flow.window import SlidingWindow

CLIENT_KEYS_MAX: Final = 100_000
"""The most clients that may be set to have a limiter of their own."""
CLUSTER_LIMITS_PER_MODEL_MAX: Final = 8
"""Cluster limits that one request has to pass."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitConfig:
    """A limit of ``amount`` per ``per_s`` seconds. Raises :class:`~mcp.errors.ConfigInvalid`.

    ``burst``: what a bucket holds, or how many wait in a queue; the amount, if it is not given. A sliding
    window has none: the amount is its burst.
    """

    kind: Literal["token_bucket", "leaky_bucket", "leaky_queue", "sliding_window"] = "token_bucket"
    amount: int
    per_s: float = 1.0
    burst: int | None = None

    def __post_init__(self) -> None:
        self.limiter()

    def limiter(self) -> Limiter:
        """A limiter as declared, unused."""
        rate = Rate(self.amount, self.per_s)
        if self.kind == "token_bucket":
            return TokenBucket(rate, self.burst)
        if self.kind == "leaky_bucket":
            return LeakyBucket(rate, self.burst)
        if self.kind == "leaky_queue":
            return LeakyQueue(rate, self.amount if self.burst is None else self.burst)
        if self.kind != "sliding_window":
            raise ConfigInvalid(f"kind={self.kind!r}: there is no such limit")
        if self.burst is not None:
            raise ConfigInvalid("a sliding window has no burst: its amount is the most at once")
        return SlidingWindow(rate)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientsConfig:
    """The limit of each client: ``default``, or one of its own ``by_name``; ``None``: no limit.

    ``keys_max``: clients that have a limiter of their own for the default (:mod:`mcp.flow.keyed`).
    """

    default: LimitConfig | None = None
    by_name: Mapping[str, LimitConfig] = field(default_factory=dict)
    keys_max: int = KEYS_MAX

    def __post_init__(self) -> None:
        if not 1 <= self.keys_max <= CLIENT_KEYS_MAX:
            raise ConfigInvalid(f"keys_max={self.keys_max!r} must be from 1 to {CLIENT_KEYS_MAX}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """What holds for one model at one node; ``None`` switches a part off."""

    limit: LimitConfig | None = None
    concurrency: ConcurrencyConfig | None = field(default_factory=ConcurrencyConfig)
    breaker: BreakerConfig | None = field(default_factory=BreakerConfig)
    fallbacks: tuple[FallbackStep, ...] = ()

    def __post_init__(self) -> None:
        if len(self.fallbacks) > STEPS_MAX:
            raise ConfigInvalid(f"{len(self.fallbacks)} fallbacks are more than {STEPS_MAX}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterLimitConfig:
    """A limit that all nodes share, for one model or (``None``) for everything.

    See :class:`~mcp.flow.leases.SharedLimit`. Raises :class:`~mcp.errors.ConfigInvalid`.
    """

    amount: int
    per_s: float = 1.0
    lease_s: float = 5.0
    skew_s: float = 1.0
    model: str | None = None

    def __post_init__(self) -> None:
        self.shared()

    def shared(self) -> SharedLimit:
        """The limit as the ledger and the nodes' shares know it."""
        return SharedLimit(Rate(self.amount, self.per_s), self.lease_s, self.skew_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowConfig:
    """All that decides what is let in. The default lets in what can be done well, and has no rates.

    ``default_model`` holds for every model that is not in ``models``; one that is there has nothing of it.
    ``cluster``: limits by their names. ``in_flight_max``: requests under way at one node, of all models.
    Raises :class:`~mcp.errors.ConfigInvalid`.
    """

    clients: ClientsConfig = field(default_factory=ClientsConfig)
    default_model: ModelConfig = field(default_factory=ModelConfig)
    models: Mapping[str, ModelConfig] = field(default_factory=dict)
    cluster: Mapping[str, ClusterLimitConfig] = field(default_factory=dict)
    cache: CacheConfig = field(default_factory=CacheConfig)
    in_flight_max: int = 1024

    def __post_init__(self) -> None:
        if not 1 <= self.in_flight_max <= IN_FLIGHT_MAX:
            raise ConfigInvalid(f"in_flight_max={self.in_flight_max!r} must be from 1 to {IN_FLIGHT_MAX}")
        if len(self.cluster) > LIMITS_MAX:
            raise ConfigInvalid(f"{len(self.cluster)} cluster limits are more than {LIMITS_MAX}")
        long = next((name for name in self.cluster if len(name) > NAME_LETTERS_MAX), None)
        if long is not None:
            raise ConfigInvalid(
                f"the name {long!r:.80} of a cluster limit is over {NAME_LETTERS_MAX} letters"
            )
        for name, model in self.models.items():
            if any(step.model == name for step in model.fallbacks):
                raise ConfigInvalid(f"model {name!r:.80} cannot be its own fallback")
        for model_name in {None, *(limit.model for limit in self.cluster.values())}:
            if len(self.cluster_limits(model_name)) > CLUSTER_LIMITS_PER_MODEL_MAX:
                raise ConfigInvalid(
                    f"more than {CLUSTER_LIMITS_PER_MODEL_MAX} cluster limits hold for one request "
                    f"(model {model_name or 'any'!r:.80})"
                )

    def model(self, name: str) -> ModelConfig:
        """What holds for the model ``name``."""
        return self.models.get(name, self.default_model)

    def cluster_limits(self, model: str | None) -> tuple[str, ...]:
        """The names of the cluster limits that a request for ``model`` has to pass, in order."""
        return tuple(name for name in sorted(self.cluster) if self.cluster[name].model in (None, model))


def from_plain(value: object) -> FlowConfig:
    """The configuration from plain maps. Raises :class:`~mcp.errors.ConfigInvalid`."""
    return record(FlowConfig, value, "")


def to_plain(config: FlowConfig) -> dict[str, Any]:
    """The plain maps from which :func:`from_plain` makes ``config`` again, all defaults included."""
    made: dict[str, Any] = plain(config)
    return made
