"""What a version takes in one request, and what it needs of a node: optional parts of a manifest (schema 4).

The router goes by them (:mod:`mcp.cluster.router.models`); nothing here does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgpack

from mcp.state.arguments import LABEL, integer, names

REQUIREMENT_FIELDS: Final = frozenset({"length_max", "batch_max", "size_max", "run_bytes", "providers"})
"""The fields of a manifest that are read here."""
ELEMENTS_MAX: Final = 2**40
"""The largest length, batch, size and memory that a manifest may name."""


@dataclass(frozen=True, slots=True)
class Requirements:
    """One version's. ``None``, 0 and an empty tuple: nothing is said.

    ``length_max`` (elements), ``batch_max`` (rows) and ``size_max`` (bytes): what one request may have.
    ``run_bytes``: memory that a run takes beside its inputs. ``providers``: execution providers that will do,
    by short name, any of them.
    """

    length_max: int | None = None
    batch_max: int | None = None
    size_max: int | None = None
    run_bytes: int = 0
    providers: tuple[str, ...] = ()

    def to_plain(self) -> dict[str, Any]:
        """Return it as a manifest has it."""
        return {
            "length_max": self.length_max,
            "batch_max": self.batch_max,
            "size_max": self.size_max,
            "run_bytes": self.run_bytes,
            "providers": list(self.providers),
        }

    def to_bytes(self) -> bytes:
        """Return it as msgpack; equal values give equal bytes."""
        packed: bytes = msgpack.packb(self.to_plain())
        return packed


NOTHING_REQUIRED: Final = Requirements()
"""Of a version whose manifest says nothing."""


def read_requirements(manifest: Mapping[str, Any], providers_max: int) -> Requirements:
    """Check those fields of a manifest. Raises :class:`~mcp.errors.InvalidArgument`, ``TooLarge``."""

    def bound(name: str) -> int | None:
        value = manifest.get(name)
        return None if value is None else integer(value, name, 1, ELEMENTS_MAX)

    run_bytes, providers = manifest.get("run_bytes"), manifest.get("providers")
    return Requirements(
        bound("length_max"),
        bound("batch_max"),
        bound("size_max"),
        0 if run_bytes is None else integer(run_bytes, "run_bytes", 0, ELEMENTS_MAX),
        () if providers is None else names(providers, "providers", LABEL, providers_max),
    )


def requirements_of(packed: bytes | None) -> Requirements:
    """Read what :meth:`Requirements.to_bytes` wrote; ``None`` is nothing."""
    if packed is None:
        return NOTHING_REQUIRED
    values = msgpack.unpackb(packed)
    return Requirements(**{**values, "providers": tuple(values["providers"])})
