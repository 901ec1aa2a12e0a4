"""The named limits of the replicated state.

A limit decides whether a command is taken, so every node of a cluster must have the same ones: they are
part of the state, travel in its snapshots and count in its digest.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Final

from mcp.errors import ConfigInvalid
from mcp.state.packing import reader


@dataclass(frozen=True, slots=True, kw_only=True)
class StateLimits:
    """How much the replicated state holds. Raises :class:`~mcp.errors.ConfigInvalid` for what is below 1."""

    sessions_max: int = 10_000
    """Open sessions. One more evicts the longest idle."""
    session_idle_s: float = 3600.0
    """A session that was not used for longer ends."""
    session_evict_idle_s: float = 60.0
    """A session that was used within this time is never evicted: opening another is refused instead."""
    session_results_max: int = 1024
    """Results that one session keeps until they are acknowledged."""
    session_results_bytes_max: int = 1 << 20
    """The same in bytes."""
    results_bytes_max: int = 64 << 20
    """The same for all sessions together."""
    ended_sessions_max: int = 4096
    """Ids of ended sessions that are remembered, so that a late duplicate cannot open them again."""

    key_bytes_max: int = 512
    """A key in UTF-8."""
    value_bytes_max: int = 64 << 10
    """A value as msgpack."""
    value_depth_max: int = 64
    """How deep arrays and maps are nested in a value."""
    keys_max: int = 100_000
    values_bytes_max: int = 256 << 20
    """All values together."""
    conflicts_per_key_max: int = 32
    conflicts_max: int = 4096
    conflict_value_bytes_max: int = 1024
    """A losing value over this is kept in the conflict log as its digest."""

    models_max: int = 1000
    model_versions_max: int = 64
    model_aliases_max: int = 16
    model_tags_max: int = 32
    model_tensors_max: int = 256
    """Inputs, or outputs, that a manifest declares."""
    manifest_bytes_max: int = 64 << 10
    holders_max: int = 64
    """Nodes that hold one model."""

    members_max: int = 64
    providers_max: int = 16

    inferences_max: int = 10_000
    """Inferences that are not finished."""
    inferences_bytes_max: int = 128 << 20
    """The inputs of those together."""
    finished_max: int = 10_000
    """Finished inferences that are kept. The one that finished first goes first."""
    finished_bytes_max: int = 128 << 20
    """The results of those together."""
    inference_tensors_max: int = 256
    """Inputs, or outputs, of one inference."""
    inline_bytes_max: int = 64 << 10
    """The tensors that travel within one command."""
    attempts_max: int = 5
    """How often one inference is assigned before it fails."""

    def to_plain(self) -> tuple[int | float, ...]:
        """Return the limits in their order: they are a part of the state."""
        return _values(self)

    def __post_init__(self) -> None:
        wrong = sorted(name for name, limit in asdict(self).items() if not limit > 0)
        if wrong:
            raise ConfigInvalid(f"every limit of the state is above 0, and these are not: {', '.join(wrong)}")


_values: Final = reader(StateLimits)
