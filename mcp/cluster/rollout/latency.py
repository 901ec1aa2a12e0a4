"""Latencies, counted in buckets whose bounds grow by one factor: bounded memory, bounded relative error.

A bucket is ``2 ** (1 / 8)`` times as wide as the one before, so what is read off is at most 9.1 % above what
was put in, whatever the scale (Masson, Rim and Lee, "DDSketch: A Fast and Fully-Mergeable Quantile Sketch
with Relative-Error Guarantees", VLDB 2019, section 2). Equal buckets add up, so nodes' counts can be put
together.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

from mcp.errors import InvalidArgument
from mcp.plain import is_whole, shown

LEAST_S: Final = 1e-5
"""What takes no longer is in the first bucket, in seconds."""
BUCKETS_PER_OCTAVE: Final = 8
"""So many buckets reach from a latency to twice as much."""
BUCKETS_MAX: Final = 256
"""Buckets, of which the last has everything above its lower bound: 39,000 s."""
COUNT_MAX: Final = 2**62
"""What is read as a count at most."""

_MOST_S: Final = LEAST_S * math.exp2(BUCKETS_MAX / BUCKETS_PER_OCTAVE)


class Latencies:
    """How many requests took how long."""

    __slots__ = ("_buckets", "count")

    def __init__(self, buckets: Mapping[int, int] | None = None) -> None:
        self._buckets: dict[int, int] = dict(buckets or {})
        self.count = sum(self._buckets.values())

    def add(self, seconds: float) -> None:
        """Count one."""
        bucket = _bucket(seconds)
        self._buckets[bucket] = self._buckets.get(bucket, 0) + 1
        self.count += 1

    def merge(self, other: Latencies) -> None:
        """Count what another has counted, too."""
        for bucket, count in other._buckets.items():
            self._buckets[bucket] = self._buckets.get(bucket, 0) + count
        self.count += other.count

    def quantile_s(self, share: float) -> float:
        """Return how long that share of the requests took at most, in seconds; 0 where there are none.

        It is the upper bound of the bucket in which the request of that rank is.
        """
        left = math.ceil(share * self.count)
        for bucket in sorted(self._buckets):
            left -= self._buckets[bucket]
            if left <= 0:
                return upper_s(bucket)
        return 0.0

    def above(self, seconds: float) -> int:
        """Return how many are in buckets that are wholly above these seconds."""
        return sum(
            count for bucket, count in self._buckets.items() if bucket and upper_s(bucket - 1) >= seconds
        )

    def to_plain(self) -> list[list[int]]:
        """Return ``[bucket, count]`` each, in order: equal for equal counts."""
        return [[bucket, self._buckets[bucket]] for bucket in sorted(self._buckets)]

    @classmethod
    def from_plain(cls, plain: object) -> Latencies:
        """Read what :meth:`to_plain` wrote. Raises :class:`~mcp.errors.InvalidArgument` for anything else."""
        if type(plain) is not list or len(plain) > BUCKETS_MAX:
            raise InvalidArgument(f"latencies are a list of at most {BUCKETS_MAX} pairs, not {shown(plain)}")
        buckets: dict[int, int] = {}
        for pair in plain:
            match pair:
                case [bucket, count] if is_whole(bucket, 0, BUCKETS_MAX - 1) and is_whole(
                    count, 0, COUNT_MAX
                ):
                    buckets[bucket] = count
                case _:
                    raise InvalidArgument(
                        f"a pair of latencies is a bucket in 0..{BUCKETS_MAX - 1} and a count"
                    )
        return cls(buckets)


def upper_s(bucket: int) -> float:
    """Return the upper bound of a bucket, in seconds."""
    return LEAST_S * math.exp2(bucket / BUCKETS_PER_OCTAVE)


def _bucket(seconds: float) -> int:
    if not seconds > LEAST_S:
        return 0
    if seconds > _MOST_S:
        return BUCKETS_MAX - 1
    return min(BUCKETS_MAX - 1, math.ceil(BUCKETS_PER_OCTAVE * math.log2(seconds / LEAST_S)))
