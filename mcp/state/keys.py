"""Keys with versions: put, compare-and-set, delete, and a log of who lost.

The version of a key is 1 when it is created and one more with every write. Deleting a key leaves nothing
behind, and yet a writer that still remembers the deleted key's version must not win against the key that
was created after it. So the state keeps one number for all keys, the highest version that was ever
deleted, and a key that is created starts above it. As long as nothing is deleted, keys start at 1.

The loser of a compare-and-set gets the winner's value and version, and the conflict log keeps what
the loser tried. A command without an expected version overwrites and conflicts with nobody.
"""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgpack

from mcp.errors import Busy, VersionConflict
from mcp.state.arguments import SCALARS, integer, only, packed, text
from mcp.state.commands import Moment, writer_of
from mcp.state.conflicts import Conflict, ConflictLog
from mcp.state.limits import StateLimits
from mcp.state.packing import pack

LIST_MAX: Final = 1000
"""How many keys one read lists at most."""
LIST_DEFAULT: Final = 100
DELETED_MAX: Final = 1000
"""How many keys one command deletes at most."""

_PUT: Final = frozenset({"key", "value"})
_CAS: Final = frozenset({"key", "expected_version", "value"})
_KEY: Final = frozenset({"key"})
_EXPECTED: Final = frozenset({"expected_version"})
_PREFIX: Final = frozenset({"prefix"})
_LIST: Final = frozenset({"prefix", "limit", "after"})
_NIL: Final = b"\xc0"
_MISSING: Final = object()


_Slot = tuple[bytes, int, int, str]
"""A key's value, version, index and writer. Plain, so that Python's collector need not look at a million."""


def written(version: int, index: int) -> dict[str, Any]:
    """What a write gives."""
    return {"version": version, "index": index}


class Keys:
    """All keys.

    The operations raise :class:`~mcp.errors.InvalidArgument` and :class:`~mcp.errors.TooLarge` for bad
    arguments, and :class:`~mcp.errors.Busy` at ``keys_max`` and ``values_bytes_max``.
    """

    def __init__(self, limits: StateLimits) -> None:
        self._limits = limits
        self._slots: dict[str, _Slot] = {}
        self._deleted_version = 0
        self._values_bytes = 0
        self.conflicts = ConflictLog(limits)

    def __len__(self) -> int:
        return len(self._slots)

    def put(self, args: dict[str, Any], moment: Moment) -> dict[str, Any]:
        """``{key, value}``: write whatever is there. Return the new version and the log index."""
        only(args, _PUT)
        return self._write(self._key(args), self._value(args["value"]), moment)

    def put_run(self, each: Sequence[dict[str, Any]], moment: Moment) -> list[int]:
        """Do what :meth:`put` does to these in their order, as long as nothing is special about one.

        Gives the new versions of those that it has done. The next one is for :meth:`put`, which looks
        closer: its key may not be ASCII, its value no scalar, or it is to be refused. Groups of commands
        have hundreds of these, and every node executes all.
        """
        slots, limits, index, writer = self._slots, self._limits, moment.index, writer_of(moment.session)
        key_max, value_max, keys_max = limits.key_bytes_max, limits.value_bytes_max, limits.keys_max
        held_max, held, created = limits.values_bytes_max, self._values_bytes, 1 + self._deleted_version
        versions: list[int] = []
        for args in each:
            key, value = args.get("key"), args.get("value", _MISSING)
            if type(key) is not str or type(value) not in SCALARS or len(args) != 2:
                break
            data, slot = pack(value), slots.get(key)
            size = len(data)
            if slot is None:
                if not key.isascii() or not 0 < len(key) <= key_max or len(slots) >= keys_max:
                    break
                grown, version = held + size, created
            else:
                grown, version = held + size - len(slot[0]), slot[1] + 1
            if size > value_max or grown > held_max:
                break
            slots[key] = (data, version, index, writer)
            held = grown
            versions.append(version)
        self._values_bytes = held
        return versions

    def cas(self, args: dict[str, Any], moment: Moment) -> dict[str, Any]:
        """``{key, expected_version, value}``: write if the version is the expected one; 0: no such key.

        Raises :class:`~mcp.errors.VersionConflict` with the winner's value, version and writer.
        """
        only(args, _CAS)
        key = self._key(args)
        expected = integer(args["expected_version"], "expected_version")
        value = self._value(args["value"])
        self._check_version(key, expected, value, moment)
        return self._write(key, value, moment)

    def delete(self, args: dict[str, Any], moment: Moment) -> dict[str, Any]:
        """``{key, expected_version?}``: remove the key. Return the version that it had; 0: there was none.

        Raises :class:`~mcp.errors.VersionConflict` when a version is expected and it is another.
        """
        only(args, _KEY, _EXPECTED)
        key = self._key(args)
        expected = args.get("expected_version")
        if expected is not None:
            self._check_version(key, integer(expected, "expected_version"), _NIL, moment)
        return {"version": self._remove(key) if key in self._slots else 0}

    def delete_prefix(self, args: dict[str, Any], moment: Moment) -> dict[str, Any]:
        """``{prefix}``: remove the first ``DELETED_MAX`` keys, in order, that start with the prefix.

        Return how many these were, and whether more are left. The empty prefix is refused. Since schema 2.
        """
        only(args, _PREFIX)
        prefix = text(args["prefix"], "prefix", self._limits.key_bytes_max, bytes_min=1)
        found = heapq.nsmallest(DELETED_MAX + 1, (key for key in self._slots if key.startswith(prefix)))
        for key in found[:DELETED_MAX]:
            self._remove(key)
        return {"deleted": min(len(found), DELETED_MAX), "more": len(found) > DELETED_MAX}

    def read(self, args: dict[str, Any]) -> dict[str, Any] | None:
        """``{key}``: return the key's value, version, index and writer, or ``None``."""
        only(args, _KEY)
        key = self._key(args)
        slot = self._slots.get(key)
        if slot is None:
            return None
        value, version, index, writer = slot
        return {
            "key": key,
            "value": msgpack.unpackb(value),
            "version": version,
            "index": index,
            "writer": writer,
        }

    def read_conflicts(self, args: dict[str, Any]) -> list[dict[str, Any]]:
        """``{key}``: return the conflicts over the key, the oldest first."""
        only(args, _KEY)
        return [conflict.to_wire() for conflict in self.conflicts.of(self._key(args))]

    def read_list(self, args: dict[str, Any]) -> list[str]:
        """``{prefix?, limit?, after?}``: return the first keys, in order, that start with the prefix.

        Only those that come after ``after``, so that a long list can be read in pieces.
        """
        only(args, frozenset(), _LIST)
        prefix = text(args.get("prefix", ""), "prefix", self._limits.key_bytes_max)
        limit = integer(args.get("limit", LIST_DEFAULT), "limit", 1, LIST_MAX)
        after = text(args.get("after", ""), "after", self._limits.key_bytes_max)
        return heapq.nsmallest(limit, (key for key in self._slots if key > after and key.startswith(prefix)))

    def _remove(self, key: str) -> int:
        value, version, _, _ = self._slots.pop(key)
        self._values_bytes -= len(value)
        self._deleted_version = max(self._deleted_version, version)
        return version

    def _key(self, args: dict[str, Any]) -> str:
        return text(args["key"], "key", self._limits.key_bytes_max, bytes_min=1)

    def _value(self, value: object) -> bytes:
        return packed(value, "value", self._limits.value_bytes_max, self._limits.value_depth_max)

    def _write(self, key: str, value: bytes, moment: Moment) -> dict[str, Any]:
        slots, limits, index = self._slots, self._limits, moment.index
        slot = slots.get(key)
        if slot is None:
            grown, version = self._values_bytes + len(value), 1 + self._deleted_version
        else:
            grown, version = self._values_bytes + len(value) - len(slot[0]), 1 + slot[1]
        if grown > limits.values_bytes_max and grown > self._values_bytes:
            raise Busy(f"values_bytes_max={limits.values_bytes_max} is reached; delete keys first")
        if slot is None and len(slots) >= limits.keys_max:
            raise Busy(f"keys_max={limits.keys_max} is reached; delete keys first")
        slots[key] = (value, version, index, writer_of(moment.session))
        self._values_bytes = grown
        return written(version, index)

    def _check_version(self, key: str, expected: int, attempted: bytes, moment: Moment) -> None:
        slot = self._slots.get(key)
        value, version, _, writer = slot or (_NIL, 0, 0, None)
        if version == expected:
            return
        if len(attempted) > self._limits.conflict_value_bytes_max:
            digest = hashlib.sha256(attempted).hexdigest()
            attempted = msgpack.packb({"sha256": digest, "size": len(attempted)})
        self.conflicts.add(
            Conflict(
                key, writer_of(moment.session), moment.time_s, expected, attempted, version, moment.index
            )
        )
        found = (
            "there is no such key; to create it, expect version 0"
            if slot is None
            else f"it is at version {version}; look at the winner's value, decide again and use its version"
        )
        raise VersionConflict(
            f"version {expected} of {key!r:.80} was expected, and {found}",
            details={
                "key": key,
                "value": msgpack.unpackb(value),
                "version": version,
                "writer": writer,
            },
        )

    def to_plain(self) -> list[Any]:
        """Return plain values, equal for equal keys. The conflict log is written by itself."""
        return self.frozen()()

    def frozen(self) -> Callable[[], list[Any]]:
        """What :meth:`to_plain` gives, of now. The call may come later, and from another thread."""
        slots, deleted = tuple(self._slots.items()), self._deleted_version
        return lambda: [sorted((key, *slot) for key, slot in slots), deleted]

    @classmethod
    def from_plain(cls, plain: list[Any], conflicts: list[Any], limits: StateLimits) -> Keys:
        """Rebuild what :meth:`to_plain` of the keys and of their conflict log wrote."""
        keys = cls(limits)
        slots, keys._deleted_version = plain
        keys._slots = {key: (value, version, index, writer) for key, value, version, index, writer in slots}
        keys._values_bytes = sum(len(value) for value, *_ in keys._slots.values())
        keys.conflicts = ConflictLog.from_plain(conflicts, limits)
        return keys
