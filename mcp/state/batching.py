"""What the owner of a model says about batching its requests: part of a version, and of the log."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgpack

from mcp.errors import InvalidArgument
from mcp.plain import shown
from mcp.state import arguments

MODES: Final = ("auto", "dynamic", "off")
ROWS_MAX: Final = 64
ROWS_MAX_MOST: Final = 65_536
LATENCY_BOUND_MS: Final = 10.0
LATENCY_BOUND_MS_MOST: Final = 60_000.0
PADS_MAX: Final = 64
"""Inputs that may be padded."""

_NAME_BYTES_MAX: Final = 1024
_NONE: Final[frozenset[str]] = frozenset()
_FIELDS: Final = frozenset({"mode", "rows_max", "latency_bound_ms", "pad"})


@dataclass(frozen=True, slots=True)
class Batching:
    """Batching of one version's direct inferences.

    ``mode``: "auto" (batch a model that was seen to treat its rows independently), "dynamic" (the owner
    knows that it does) or "off". ``rows_max``: rows in one run. ``latency_bound_ms``: how late an answer
    may be because of it. ``pad``: inputs whose open sizes after the first are filled up to those of the
    longest request, and with which number; only for a model to which that makes no difference.
    """

    mode: str
    rows_max: int
    latency_bound_ms: float
    pad: tuple[tuple[str, int | float], ...]

    def to_plain(self) -> dict[str, Any]:
        """Return it as a manifest has it."""
        return {
            "mode": self.mode,
            "rows_max": self.rows_max,
            "latency_bound_ms": self.latency_bound_ms,
            "pad": dict(self.pad),
        }

    def to_bytes(self) -> bytes:
        """Return it as msgpack; equal values give equal bytes."""
        packed: bytes = msgpack.packb(self.to_plain())
        return packed


def read_batching(value: object) -> Batching:
    """Check the ``batching`` of a manifest; what it leaves out has its default.

    Raises :class:`~mcp.errors.InvalidArgument`.
    """
    given = arguments.mapping(value, "batching")
    arguments.only(given, _NONE, _FIELDS)
    mode = given.get("mode", "auto")
    if mode not in MODES:
        raise InvalidArgument(f"batching's mode is one of {', '.join(MODES)}, not {shown(mode)}")
    rows = arguments.integer(given.get("rows_max", ROWS_MAX), "batching's rows_max", 1)
    if rows > ROWS_MAX_MOST:
        raise InvalidArgument(f"batching's rows_max is 1 to {ROWS_MAX_MOST} rows, not {rows}")
    bound_ms = _number(given.get("latency_bound_ms", LATENCY_BOUND_MS), "batching's latency_bound_ms")
    if not 0 <= bound_ms <= LATENCY_BOUND_MS_MOST:
        raise InvalidArgument(
            f"batching's latency_bound_ms is 0 to {LATENCY_BOUND_MS_MOST:g} milliseconds, not {bound_ms:g}"
        )
    return Batching(mode, rows, float(bound_ms), _pads(given.get("pad", {})))


def batching_of(packed: bytes) -> Batching:
    """Read what :meth:`Batching.to_bytes` wrote."""
    return read_batching(msgpack.unpackb(packed))


def _pads(value: object) -> tuple[tuple[str, int | float], ...]:
    pads: Mapping[str, Any] = arguments.mapping(value, "batching's pad")
    if len(pads) > PADS_MAX:
        raise InvalidArgument(f"batching's pad names {len(pads)} inputs, over pads_max={PADS_MAX}")
    names = [arguments.text(name, "an input to pad", _NAME_BYTES_MAX) for name in sorted(pads)]
    return tuple((name, _number(pads[name], f"the pad of {name!r:.80}")) for name in names)


def _number(value: object, what: str) -> int | float:
    if type(value) not in (int, float) or not math.isfinite(value):  # type: ignore[arg-type]
        raise InvalidArgument(f"{what} is a finite number, not {shown(value)}")
    return value  # type: ignore[return-value]
