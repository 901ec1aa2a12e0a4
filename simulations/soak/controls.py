"""What is wrong with one node's disk and clock: a few numbers in memory that two processes share.

The supervisor writes, the node reads before every operation; the node counts what it did in consequence,
and the supervisor reads that. The file outlives the node, so a restarted one finds its disk no better.
"""

from __future__ import annotations

import enum
import errno
import mmap
import struct
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Final


class Operation(enum.IntFlag):
    """Operations of a node's disk, for faults that happen to some of them only."""

    OPEN = enum.auto()
    CREATE = enum.auto()
    READ = enum.auto()
    WRITE = enum.auto()
    TRUNCATE = enum.auto()
    FSYNC = enum.auto()
    FSYNCDIR = enum.auto()
    RENAME = enum.auto()
    UNLINK = enum.auto()
    MKDIR = enum.auto()
    READDIR = enum.auto()
    STATFS = enum.auto()


EVERY: Final = ~Operation(0)
ERRNOS: Final = (errno.EIO, errno.ENOSPC, errno.EDQUOT)
"""Errors that a disk can be told to have: it is broken, or there is no room."""


@dataclass(frozen=True, slots=True)
class Ailments:
    """What is wrong. Probabilities are for each operation; nothing is wrong by default.

    ``room_bytes``: room that is left from now on, negative: no bound. ``wall_offset_s`` is added to the
    wall clock.
    """

    delay_s: float = 0.0
    delay_chance: float = 1.0
    delayed: Operation = EVERY
    errno: int = 0
    error_chance: float = 1.0
    failing: Operation = EVERY
    room_bytes: float = -1.0
    wall_offset_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Hits:
    """How often a node suffered from it, since its file was made."""

    delays: int = 0
    errors: int = 0
    refusals: int = 0
    clock_reads: int = 0


_AILMENTS: Final = struct.Struct("<8d")
_HITS: Final = struct.Struct("<4q")
_SIZE: Final = _AILMENTS.size + _HITS.size


class Controls:
    """The shared numbers. Made by the supervisor (:meth:`create`), found by the node (:meth:`open`)."""

    def __init__(self, shared: mmap.mmap) -> None:
        self._shared = shared

    @classmethod
    def create(cls, path: Path) -> Controls:
        """A new file, in which nothing is wrong."""
        path.write_bytes(bytes(_SIZE))
        controls = cls.open(path)
        controls.set(Ailments())
        return controls

    @classmethod
    def open(cls, path: Path) -> Controls:
        """What the file at ``path`` says, also when it changes later."""
        with path.open("r+b") as file:
            return cls(mmap.mmap(file.fileno(), _SIZE))

    def close(self) -> None:
        """Let go of the file."""
        self._shared.close()

    def set(self, ailments: Ailments) -> None:
        """This is wrong from now on."""
        _AILMENTS.pack_into(self._shared, 0, *map(float, astuple(ailments)))

    def get(self) -> Ailments:
        """What is wrong now."""
        delay_s, delay_chance, delayed, number, error_chance, failing, room_bytes, wall_offset_s = (
            _AILMENTS.unpack_from(self._shared, 0)
        )
        return Ailments(
            delay_s,
            delay_chance,
            Operation(int(delayed)),
            int(number),
            error_chance,
            Operation(int(failing)),
            room_bytes,
            wall_offset_s,
        )

    def hits(self) -> Hits:
        """What has happened."""
        return Hits(*_HITS.unpack_from(self._shared, _AILMENTS.size))

    def count(self, *, delays: int = 0, errors: int = 0, refusals: int = 0, clock_reads: int = 0) -> None:
        """It has happened again. Called by the node only."""
        found = self.hits()
        _HITS.pack_into(
            self._shared,
            _AILMENTS.size,
            found.delays + delays,
            found.errors + errors,
            found.refusals + refusals,
            found.clock_reads + clock_reads,
        )
