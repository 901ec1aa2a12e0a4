"""Answers that are kept for the time when nobody can give a fresh one.

An answer is found under the model, its version and the digest of the input, so it is the answer to exactly
that question. It is given out with its age, and never when it is older than whoever asks accepts.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mcp.errors import ConfigInvalid


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheConfig:
    """How much one node keeps, least recently used first to go. Raises :class:`ConfigInvalid`.

    ``entries_max``: answers; 0 keeps none. ``bytes_max``: all together, as their keepers count them.
    """

    entries_max: int = 1024
    bytes_max: int = 64 << 20

    def __post_init__(self) -> None:
        if self.entries_max < 0 or self.bytes_max < 0:
            raise ConfigInvalid(
                f"entries_max={self.entries_max!r} and bytes_max={self.bytes_max!r} must not be below 0"
            )


@dataclass(frozen=True, slots=True)
class CachedAnswer:
    """An answer of ``age_s`` seconds ago."""

    answer: Any
    age_s: float


class AnswerCache:
    """The answers that one node keeps."""

    def __init__(self, config: CacheConfig) -> None:
        self._config = config
        self._kept: OrderedDict[tuple[str, str, bytes], tuple[Any, int, float]] = OrderedDict()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def size_bytes(self) -> int:
        """All answers together."""
        return self._bytes

    def put(self, model: str, version: str, digest: bytes, answer: Any, size: int, now: float) -> None:
        """Keep an answer of ``size`` bytes, given now. One that is larger than the cache is not kept."""
        key = (model, version, digest)
        self._drop(key)
        if not self._config.entries_max or size > self._config.bytes_max:
            return
        self._kept[key] = (answer, size, now)
        self._bytes += size
        while len(self._kept) > self._config.entries_max or self._bytes > self._config.bytes_max:
            self._drop(next(iter(self._kept)))

    def get(
        self, model: str, version: str, digest: bytes, now: float, max_age_s: float
    ) -> CachedAnswer | None:
        """The answer that was kept, if it is no older than ``max_age_s``."""
        key = (model, version, digest)
        kept = self._kept.get(key)
        if kept is None:
            return None
        answer, _, at = kept
        age_s = max(0.0, now - at)
        if age_s > max_age_s:
            return None
        self._kept.move_to_end(key)
        return CachedAnswer(answer, age_s)

    def forget(self, model: str) -> None:
        """Drop all answers of ``model``."""
        self.keep_only(lambda name, _: name != model)

    def keep_only(self, wanted: Callable[[str, str], bool]) -> None:
        """Drop the answers of every model and version for which ``wanted(model, version)`` is false."""
        for key in [key for key in self._kept if not wanted(key[0], key[1])]:
            self._drop(key)

    def _drop(self, key: tuple[str, str, bytes]) -> None:
        dropped = self._kept.pop(key, None)
        if dropped is not None:
            self._bytes -= dropped[1]
