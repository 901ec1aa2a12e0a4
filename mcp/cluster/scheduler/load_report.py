"""What a node says of itself: the measurements that a scheduler elsewhere can use.

A report travels with gossip and with answers, so it is read as something that a peer sent: every number has
a range, and how many models it may name is limited. Clocks of different machines do not agree, so a report
has no time but an age, to which everyone adds how long it lay with him.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from mcp.errors import InvalidArgument
from mcp.plain import is_number, is_whole, shown

MODELS_MAX: Final = 128
"""How many models a report may name."""

MODEL_NAME_CHARS_MAX: Final = 128
"""The length of a model's name."""

COUNT_MAX: Final = 1_000_000
"""The largest count of requests."""

CONCURRENCY_MAX: Final = 4096
"""How many requests a node may claim to run at once."""

SECONDS_MAX: Final = 86_400.0
"""The longest time: a day."""


@dataclass(frozen=True, slots=True)
class LoadReport:
    """How a node did when it looked. Build one from a peer's values with :meth:`from_plain` only.

    The constructor checks nothing, for a node makes its own reports from its own measurements.
    """

    cpu: float = 0.0
    """The share of the processors that is busy, 0 to 1."""
    memory_free: float = 1.0
    """The share of the memory that can still be had, 0 to 1."""
    device_memory_free: float | None = None
    """The same of the accelerator that has least; ``None`` where there is no accelerator."""
    concurrency: int = 1
    """How many requests run at once; more wait."""
    running: int = 0
    """Requests that run now, of all models."""
    queued: Mapping[str, int] = field(default_factory=dict)
    """Requests that wait, by model."""
    service_s: Mapping[str, float] = field(default_factory=dict)
    """How long a request of a model ran lately, without its wait, in seconds: the mean."""
    age_s: float = 0.0
    """How long ago the node looked, in seconds, as far as it is known here."""

    @property
    def in_system(self) -> int:
        """How many requests run or wait."""
        return self.running + sum(self.queued.values())

    def older_by(self, seconds: float) -> LoadReport:
        """The same report after it lay somewhere for ``seconds``."""
        return replace(self, age_s=min(SECONDS_MAX, self.age_s + max(0.0, seconds)))

    def to_plain(self) -> dict[str, Any]:
        """The report as plain values for any codec. What is as by default is left out."""
        values: dict[str, Any] = {
            "cpu": round(self.cpu, 3),
            "memory_free": round(self.memory_free, 3),
            "concurrency": self.concurrency,
            "running": self.running,
            "queued": {model: count for model, count in sorted(self.queued.items()) if count},
            "service_s": {model: _digits(time_s) for model, time_s in sorted(self.service_s.items())},
            "age_s": round(self.age_s, 3),
        }
        plain = {name: value for name, value in values.items() if value != _DEFAULTS[name]}
        if self.device_memory_free is not None:
            plain["device_memory_free"] = round(self.device_memory_free, 3)
        return plain

    @classmethod
    def from_plain(cls, plain: object) -> LoadReport:
        """Read what :meth:`to_plain` wrote, from a peer that may send anything.

        Fields that this version does not know are passed over. Raises
        :class:`~mcp.errors.InvalidArgument` for a value out of its range.
        """
        if not isinstance(plain, Mapping):
            raise InvalidArgument(f"a load report is a mapping, not {type(plain).__name__}")
        device = plain.get("device_memory_free")
        return cls(
            cpu=_number("cpu", plain.get("cpu", 0.0), 1.0),
            memory_free=_number("memory_free", plain.get("memory_free", 1.0), 1.0),
            device_memory_free=None if device is None else _number("device_memory_free", device, 1.0),
            concurrency=_count("concurrency", plain.get("concurrency", 1), 1, CONCURRENCY_MAX),
            running=_count("running", plain.get("running", 0), 0, COUNT_MAX),
            queued={
                model: _count("queued", count, 0, COUNT_MAX)
                for model, count in _by_model("queued", plain.get("queued", {})).items()
            },
            service_s={
                model: _number("service_s", time_s, SECONDS_MAX)
                for model, time_s in _by_model("service_s", plain.get("service_s", {})).items()
            },
            age_s=_number("age_s", plain.get("age_s", 0.0), SECONDS_MAX),
        )


_DEFAULTS: Final[Mapping[str, Any]] = {
    "cpu": 0.0,
    "memory_free": 1.0,
    "concurrency": 1,
    "running": 0,
    "queued": {},
    "service_s": {},
    "age_s": 0.0,
}


def _digits(value: float) -> float:
    """Four digits: more would say nothing and cost bytes in every datagram."""
    return float(f"{value:.4g}")


def _number(name: str, value: object, most: float) -> float:
    if is_number(value, 0, most):
        return float(value)
    raise InvalidArgument(f"{name} of a load report is a number from 0 to {most:g}, not {shown(value)}")


def _count(name: str, value: object, least: int, most: int) -> int:
    if not is_whole(value, least, most):
        raise InvalidArgument(
            f"{name} of a load report is an integer from {least} to {most}, not {shown(value)}"
        )
    return value


def _by_model(name: str, value: object) -> Mapping[str, object]:
    if not isinstance(value, Mapping):
        raise InvalidArgument(
            f"{name} of a load report maps models to numbers; it is not {type(value).__name__}"
        )
    if len(value) > MODELS_MAX:
        raise InvalidArgument(
            f"{name} of a load report names {len(value)} models, over the limit of {MODELS_MAX}"
        )
    for model in value:
        if not isinstance(model, str) or not 0 < len(model) <= MODEL_NAME_CHARS_MAX:
            raise InvalidArgument(
                f"{name} of a load report names a model {shown(model)}; "
                f"a name is a string of 1 to {MODEL_NAME_CHARS_MAX} characters"
            )
    return value
