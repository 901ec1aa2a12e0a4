"""The sizes of journals under a seed: so small that segments and reserved room end within a short run."""

from __future__ import annotations

from consensus.journal import JournalLimits


def journal_limits(segment_bytes_max: int) -> JournalLimits:
    """Room is reserved about three times in a segment of that size."""
    return JournalLimits(segment_bytes_max=segment_bytes_max, reserve_bytes=segment_bytes_max // 3)
