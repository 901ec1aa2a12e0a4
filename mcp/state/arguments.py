"""What an operation demands of its arguments: exactly these names, these types, these sizes.

Every check raises :class:`~mcp.errors.InvalidArgument` or :class:`~mcp.errors.TooLarge` and says which
argument it was. A ``bool`` is no integer here, although Python thinks so.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Set
from typing import Any, Final

from mcp.errors import InvalidArgument, TooLarge
from mcp.plain import is_whole, shown
from mcp.state.packing import pack

ID: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
"""Ids that clients choose: sessions and inferences."""
NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,127}")
"""Models and aliases. Neither ``@`` nor ``:``, which part a name from a version."""
LABEL: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,63}")
"""Versions, families, tasks, tags, providers."""
NODE: Final = re.compile(r"[!-~]{1,128}")
"""Node ids and addresses: printable ASCII without spaces."""
DIGEST: Final = re.compile(r"[0-9a-f]{64}")
"""SHA-256 in hexadecimal."""

INTEGER_MAX: Final = 2**63 - 1

_NOTHING: Final[frozenset[str]] = frozenset()
SCALARS: Final = frozenset({type(None), bool, int, float, str, bytes})
"""The types of plain values that hold no others."""
_TEXT: Final = frozenset({str})


def only(args: Mapping[str, Any], required: Set[str], optional: Set[str] = _NOTHING) -> None:
    """Demand every required argument, and none that is neither required nor optional."""
    given = args.keys()
    if given == required or (optional and required <= given <= required | optional):
        return
    missing = ", ".join(sorted(required - given)) or "none"
    unknown = ", ".join(sorted(f"{name!r:.40}" for name in given - required - optional)) or "none"
    raise InvalidArgument(f"arguments that are missing: {missing}; arguments that are unknown: {unknown}")


def matching(value: object, what: str, pattern: re.Pattern[str]) -> str:
    """Return ``value`` if it is a string that ``pattern`` matches wholly."""
    if type(value) is not str or not pattern.fullmatch(value):
        raise InvalidArgument(f"{what} is a string that matches {pattern.pattern}, not {shown(value)}")
    return value


def matching_or_none(value: object, what: str, pattern: re.Pattern[str]) -> str | None:
    """Return ``value`` if it is ``None`` or a string that ``pattern`` matches wholly."""
    return None if value is None else matching(value, what, pattern)


def text(value: object, what: str, bytes_max: int, *, bytes_min: int = 0) -> str:
    """Return ``value`` if it is a string of ``bytes_min`` to ``bytes_max`` bytes in UTF-8."""
    if type(value) is not str:
        raise InvalidArgument(f"{what} is a string, not {shown(value)}")
    size = len(value) if value.isascii() else _encoded_size(value, what)
    if size > bytes_max:
        raise TooLarge(f"{what} has {size} bytes in UTF-8, over the limit of {bytes_max}")
    if size < bytes_min:
        raise InvalidArgument(f"{what} has {size} bytes in UTF-8, and {bytes_min} are the least")
    return value


def integer(value: object, what: str, low: int = 0, high: int = INTEGER_MAX) -> int:
    """Return ``value`` if it is an integer in ``low..high``."""
    if not is_whole(value, low, high):
        raise InvalidArgument(f"{what} is an integer in {low}..{high}, not {shown(value)}")
    return value


def sequence(value: object, what: str, items_max: int) -> list[Any]:
    """Return ``value`` if it is an array of at most ``items_max`` items."""
    if type(value) is not list:
        raise InvalidArgument(f"{what} is an array, not {shown(value)}")
    if len(value) > items_max:
        raise TooLarge(f"{what} has {len(value)} items, over the limit of {items_max}")
    return value


def names(value: object, what: str, pattern: re.Pattern[str], items_max: int) -> tuple[str, ...]:
    """Return the array ``value`` of strings that ``pattern`` matches, sorted, each once."""
    return tuple(
        sorted({matching(item, f"an item of {what}", pattern) for item in sequence(value, what, items_max)})
    )


def mapping(value: object, what: str) -> dict[str, Any]:
    """Return ``value`` if it is a map with string keys."""
    if type(value) is not dict or not all(type(key) is str for key in value):
        raise InvalidArgument(f"{what} is a map with string keys, not {shown(value)}")
    return value


def packed(value: object, what: str, bytes_max: int, depth_max: int = 64) -> bytes:
    """Return any plain value as msgpack: how the state keeps what it does not look into.

    Bytes cannot be changed by whoever reads them, and their length is the size that is limited.
    """
    if type(value) not in SCALARS:
        _check_plain(value, what, depth_max)
    data = pack(value)
    if len(data) > bytes_max:
        raise TooLarge(f"{what} has {len(data)} bytes as msgpack, over the limit of {bytes_max}")
    return data


def _check_plain(value: object, what: str, depth_max: int) -> None:
    """Walk level by level, so that depth costs no recursion."""
    level: list[Any] = [value]
    for _ in range(depth_max + 1):
        deeper: list[Any] = []
        for item in level:
            kind = type(item)
            if kind is list:
                deeper += item
            elif kind is dict:
                if not _TEXT.issuperset(map(type, item)):
                    raise InvalidArgument(f"{what} holds a map with a key that is no string: {shown(item)}")
                deeper += item.values()
            elif kind not in SCALARS:
                raise InvalidArgument(f"{what} holds {shown(item)}, which is no plain value")
        if not deeper:
            return
        level = deeper
    raise TooLarge(f"{what} is nested deeper than {depth_max}")


def _encoded_size(value: str, what: str) -> int:
    try:
        return len(value.encode())
    except UnicodeEncodeError:
        raise InvalidArgument(f"{what} is not valid Unicode text") from None
