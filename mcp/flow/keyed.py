"""A limit for each of many: clients, models, whatever has a name that others choose.

At most ``keys_max`` names have a limiter of their own. Forgetting one must not be a way around its limit, so
two rules hold. A limiter is forgotten only when it is idle, that is as good as new; the least recently used
are looked at first. And when none of these is, the newcomer gets no limiter of its own: all such share one,
the *overflow*, of the same size. A limiter that is made later begins as a copy of the overflow, as if all of
that had been used by this one name. So whatever a flood of names does, each name is let in no more often
than its limit says; the flood can only make newcomers share one limit until the first names rest.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from itertools import islice
from typing import Final, Generic, TypeVar

from mcp.errors import ConfigInvalid
from mcp.flow.limiter import Limiter, Verdict

KEYS_MAX: Final = 10_000
"""Names with a limiter of their own, where nothing else is said."""
LOOKS_MAX: Final = 8
"""Of the least recently used limiters, so many are looked at for one that is idle."""

Key = TypeVar("Key", bound=Hashable)


class Keyed(Generic[Key]):
    """A table of limiters, all like ``fresh``, which must be unused. Raises :class:`ConfigInvalid`."""

    def __init__(self, fresh: Limiter, keys_max: int = KEYS_MAX) -> None:
        if keys_max < 1:
            raise ConfigInvalid(f"keys_max={keys_max!r}: a table has room for one name at least")
        self._overflow = fresh
        self._keys_max = keys_max
        self._limiters: OrderedDict[Key, Limiter] = OrderedDict()

    def __len__(self) -> int:
        return len(self._limiters)

    def of(self, key: Key, now: float) -> Limiter:
        """The limiter that ``key`` is to ask at ``now``: its own, or the one that is shared."""
        found = self._limiters.get(key)
        if found is not None:
            self._limiters.move_to_end(key)
            return found
        if len(self._limiters) >= self._keys_max and not self._forget_one(now):
            return self._overflow
        made = self._limiters[key] = self._overflow.copy()
        return made

    def _forget_one(self, now: float) -> bool:
        for key, limiter in islice(self._limiters.items(), LOOKS_MAX):
            if limiter.idle(now):
                del self._limiters[key]
                return True
        return False

    def admit(self, key: Key, now: float, cost: int = 1) -> Verdict:
        """Ask the limiter of ``key``; see :meth:`mcp.flow.limiter.Limiter.admit`."""
        return self.of(key, now).admit(now, cost)
