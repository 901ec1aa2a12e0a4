"""The conflict log: who lost a compare-and-set, when, with what, and to which version.

Bounded per key and in total; the oldest entry goes first.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Any, NamedTuple

import msgpack

from mcp.state.limits import StateLimits


class Conflict(NamedTuple):
    """One lost update. ``attempted`` is msgpack: the value, or ``{"sha256", "size"}`` of a large one."""

    key: str
    session: str
    time_s: float
    expected_version: int
    attempted: bytes
    winner_version: int
    index: int  # type: ignore[assignment]

    def to_wire(self) -> dict[str, Any]:
        """Return the entry as a client reads it."""
        return {
            "key": self.key,
            "session": self.session,
            "time_s": self.time_s,
            "expected_version": self.expected_version,
            "attempted": msgpack.unpackb(self.attempted),
            "winner_version": self.winner_version,
            "index": self.index,
        }


class ConflictLog:
    """The latest conflicts, in the order in which they came about."""

    def __init__(self, limits: StateLimits) -> None:
        self._limits = limits
        self._entries: OrderedDict[int, Conflict] = OrderedDict()
        self._of_key: dict[str, deque[int]] = {}
        self._serial = 0

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, conflict: Conflict) -> None:
        """Append an entry; drop the oldest of its key, or of all, when there are too many."""
        self._serial += 1
        self._entries[self._serial] = conflict
        serials = self._of_key.setdefault(conflict.key, deque())
        serials.append(self._serial)
        if len(serials) > self._limits.conflicts_per_key_max:
            self._drop(serials[0])
        elif len(self._entries) > self._limits.conflicts_max:
            self._drop(next(iter(self._entries)))

    def of(self, key: str) -> list[Conflict]:
        """Return the conflicts over ``key``, the oldest first."""
        return [self._entries[serial] for serial in self._of_key.get(key, ())]

    def _drop(self, serial: int) -> None:
        key = self._entries.pop(serial).key
        serials = self._of_key[key]
        serials.popleft()
        if not serials:
            del self._of_key[key]

    def to_plain(self) -> list[Any]:
        """Return plain values, equal for equal logs."""
        return self.frozen()()

    def frozen(self) -> Callable[[], list[Any]]:
        """What :meth:`to_plain` gives, of now. The call may come later, and from another thread."""
        conflicts = tuple(self._entries.values())
        return lambda: [tuple(conflict) for conflict in conflicts]

    @classmethod
    def from_plain(cls, plain: list[Any], limits: StateLimits) -> ConflictLog:
        """Rebuild what :meth:`to_plain` wrote."""
        log = cls(limits)
        for fields in plain:
            log.add(Conflict(*fields))
        return log
