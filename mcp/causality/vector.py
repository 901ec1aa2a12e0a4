"""Version vectors: what somebody has seen, as one counter per component.

A vector is a point in a lattice. Merging takes the larger count of every component (the least upper
bound), and one vector is *before* another when it is no larger anywhere and smaller somewhere. For
vectors that were taken along an execution this order is exactly "happened before": the vector of an
event is before another's if and only if the one could have influenced the other. Vectors that are
neither equal nor ordered were taken concurrently.

Sources: Parker et al., "Detection of Mutual Inconsistency in Distributed Systems", 1983, section III;
Fidge, "Timestamps in Message-Passing Systems That Preserve the Partial Ordering", 1988; Mattern,
"Virtual Time and Global States of Distributed Systems", 1989, theorem 10.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping
from typing import Final

from mcp.errors import InvalidArgument

COMPONENTS_MAX: Final = 256
"""How many components a vector may have when it is read from a mapping, unless told otherwise."""

COMPONENT_BYTES_MAX: Final = 256
"""The length of a component's name in UTF-8."""

COUNT_MAX: Final = 2**63 - 1
"""The largest count: what a signed 64-bit integer holds, so that every codec carries it."""


class Order(enum.Enum):
    """How one vector stands to another."""

    BEFORE = "before"
    AFTER = "after"
    EQUAL = "equal"
    CONCURRENT = "concurrent"


class VersionVector:
    """An immutable, hashable version vector. ``VersionVector()`` has seen nothing.

    A component that is not there counts 0, and a count of 0 is not kept, so that equal knowledge is an
    equal vector.
    """

    __slots__ = ("_counts",)

    _counts: dict[str, int]

    def __init__(self) -> None:
        self._counts = {}

    @classmethod
    def _of(cls, counts: dict[str, int]) -> VersionVector:
        """Make a vector that owns ``counts``, which are known to be valid and above 0."""
        vector = cls.__new__(cls)
        vector._counts = counts
        return vector

    @classmethod
    def from_mapping(cls, mapping: object, *, components_max: int = COMPONENTS_MAX) -> VersionVector:
        """Read what :meth:`to_mapping` wrote: component names to counts.

        Takes any value, for it is what a peer sent: raises :class:`~mcp.errors.InvalidArgument` unless
        it is a mapping of at most ``components_max`` strings (1 to 256 bytes of UTF-8) to integers in
        0..2**63-1.
        """
        if not isinstance(mapping, Mapping):
            raise InvalidArgument(
                f"a version vector is a mapping of names to counts, not {type(mapping).__name__}; "
                "send an empty mapping for a vector that has seen nothing"
            )
        if len(mapping) > components_max:
            raise InvalidArgument(
                f"a version vector of {len(mapping)} components is over components_max={components_max}; "
                "send only the components that the receiver needs"
            )
        if len(mapping) == 1 and (only := _plain_item(mapping)):
            return cls._of(only)
        counts: dict[str, int] = {}
        for component, count in mapping.items():
            _check_component(component)
            if _checked_count(count):
                counts[component] = count
        return cls._of(counts)

    def to_mapping(self) -> dict[str, int]:
        """Return a new dictionary of the counts above 0, in the order of their names."""
        return dict(sorted(self._counts.items())) if len(self._counts) > 1 else dict(self._counts)

    def get(self, component: str) -> int:
        """Return the count of ``component``; 0 where there is none."""
        return self._counts.get(component, 0)

    def increment(self, component: str) -> VersionVector:
        """Return a vector that has seen one more event of ``component``.

        Raises :class:`~mcp.errors.InvalidArgument` for a name that no vector may have, or past 2**63-1.
        """
        return self.advance(component, self.get(component) + 1)

    def advance(self, component: str, count: int) -> VersionVector:
        """Return a vector that has seen at least ``count`` events of ``component``. Never goes back.

        Raises :class:`~mcp.errors.InvalidArgument` for a name or a count that no vector may have.
        """
        known = self._counts.get(component, 0)
        if not known:
            _check_component(component)
        if _checked_count(count) <= known:
            return self
        return self._of({**self._counts, component: count})

    def merge(self, other: VersionVector) -> VersionVector:
        """Return the least vector that dominates both: the larger count of every component."""
        if self.dominates(other):
            return self
        if other.dominates(self):
            return other
        merged = dict(self._counts)
        for component, count in other._counts.items():
            if count > merged.get(component, 0):
                merged[component] = count
        return self._of(merged)

    def dominates(self, other: VersionVector) -> bool:
        """Whether this vector has seen everything that ``other`` has: it is equal to it or after it."""
        mine = self._counts
        for component, count in other._counts.items():  # noqa: SIM110 (a generator costs more than this)
            if count > mine.get(component, 0):
                return False
        return True

    def compare(self, other: VersionVector) -> Order:
        """Say how this vector stands to ``other``: BEFORE when ``other`` has seen more."""
        if self._counts == other._counts:
            return Order.EQUAL
        if other.dominates(self):
            return Order.BEFORE
        return Order.AFTER if self.dominates(other) else Order.CONCURRENT

    def __iter__(self) -> Iterator[str]:
        """Go through the components that count above 0, in the order of their names."""
        return iter(sorted(self._counts))

    def __len__(self) -> int:
        return len(self._counts)

    def __bool__(self) -> bool:
        return bool(self._counts)

    def __eq__(self, other: object) -> bool:
        return self._counts == other._counts if isinstance(other, VersionVector) else NotImplemented

    def __hash__(self) -> int:
        return hash(frozenset(self._counts.items()))

    def __repr__(self) -> str:
        return f"VersionVector({self.to_mapping()})"


def _plain_item(mapping: Mapping[object, object]) -> dict[str, int] | None:
    """What most vectors are: one short name in ASCII and a count above 0. Anything else is looked at."""
    [(component, count)] = mapping.items()
    if (
        type(component) is str
        and type(count) is int
        and 0 < len(component) <= COMPONENT_BYTES_MAX
        and component.isascii()
        and 0 < count <= COUNT_MAX
    ):
        return {component: count}
    return None


def _check_component(component: object) -> None:
    if not isinstance(component, str) or not component:
        raise InvalidArgument(
            f"a version vector's component is named by a string that is not empty, not by {component!r:.80}"
        )
    try:
        size = len(component.encode())
    except UnicodeEncodeError:
        raise InvalidArgument(f"the component {component!r:.80} is not valid Unicode text") from None
    if size > COMPONENT_BYTES_MAX:
        raise InvalidArgument(
            f"the component {component!r:.80} has {size} bytes, over the limit of {COMPONENT_BYTES_MAX}"
        )


def _checked_count(count: object) -> int:
    if not isinstance(count, int) or isinstance(count, bool) or not 0 <= count <= COUNT_MAX:
        raise InvalidArgument(f"a count of a version vector is an integer in 0..2**63-1, not {count!r:.80}")
    return count
