"""Keys with versions: put, compare-and-set, delete, and a log of who lost.

The version of a key is 1 when it is created and one more with every write. Deleting a key leaves nothing
behind, and yet a writer that still remembers the deleted key's version must not win against the key that
was created after it. So the state keeps one number for all keys, the highest version that was ever
deleted, and a key that is created starts above it. As long as nothing is deleted, keys start at 1.

The loser of a compare-and-set gets the winner's value and version, and the conflict log keeps what
the loser tried. A command without an expected version overwrites and conflicts with nobody.
"""

from __future__ import annotations

import functools
import hashlib
import heapq
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import msgpack

from mcp.errors import Busy, VersionConflict
from mcp.state.arguments import integer, only, packed, text
from mcp.state.commands import Moment, writer_of
from mcp.state.conflicts import Conflict, ConflictLog
from mcp.state.limits import StateLimits

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


class _Slot(NamedTuple):
    value: bytes
    version: int
    index: int  # type: ignore[assignment]
    writer: str


_slot: Final = functools.partial(tuple.__new__, _Slot)
"""A slot of its four fields, without the call that a named tuple's constructor is."""


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
        if len(args) != 2 or "key" not in args or "value" not in args:  # as below, at a third of the cost
            only(args, _PUT)
        key, limits = args["key"], self._limits
        if type(key) is not str or not key.isascii() or not 0 < len(key) <= limits.key_bytes_max:
            self._key(args)  # looks closer, and says what is wrong
        data = packed(args["value"], "value", limits.value_bytes_max, limits.value_depth_max)
        return self._write(key, data, moment)

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
        return {
            "key": key,
            "value": msgpack.unpackb(slot.value),
            "version": slot.version,
            "index": slot.index,
            "writer": slot.writer,
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
        slot = self._slots.pop(key)
        self._values_bytes -= len(slot.value)
        self._deleted_version = max(self._deleted_version, slot.version)
        return slot.version

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
            grown, version = self._values_bytes + len(value) - len(slot.value), 1 + slot.version
        if grown > limits.values_bytes_max and grown > self._values_bytes:
            raise Busy(f"values_bytes_max={limits.values_bytes_max} is reached; delete keys first")
        if slot is None and len(slots) >= limits.keys_max:
            raise Busy(f"keys_max={limits.keys_max} is reached; delete keys first")
        slots[key] = _slot((value, version, index, writer_of(moment.session)))
        self._values_bytes = grown
        return {"version": version, "index": index}

    def _check_version(self, key: str, expected: int, attempted: bytes, moment: Moment) -> None:
        slot = self._slots.get(key)
        version = 0 if slot is None else slot.version
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
                "value": None if slot is None else msgpack.unpackb(slot.value),
                "version": version,
                "writer": None if slot is None else slot.writer,
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
        keys._slots = {key: _Slot(*fields) for key, *fields in slots}
        keys._values_bytes = sum(len(slot.value) for slot in keys._slots.values())
        keys.conflicts = ConflictLog.from_plain(conflicts, limits)
        return keys
