"""What a caller may pass: mistakes that no cluster would accept are found before anything is sent.

Every check returns the value or raises :class:`~mcp.errors.InvalidArgument`. Limits that the cluster
decides (sizes of keys and values, forms of names) are left to it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any, Final

from mcp.errors import InvalidArgument
from mcp.net.address import parse_address
from mcp.wire.codec import encode_map

ADDRESSES_MAX: Final = 64
"""Addresses that a client is given."""
_PLAIN: Final = frozenset({bytes, bool, float, type(None)})
"""Types all of whose values can travel. An integer may be too large, and a text no Unicode."""


def addresses(given: Sequence[str] | str) -> list[str]:
    """One address or several, each once, each of a form that can be dialled."""
    found = [given] if isinstance(given, str) else list(given)
    if not 1 <= len(found) <= ADDRESSES_MAX or not all(isinstance(a, str) and a for a in found):
        raise InvalidArgument(
            f"a client needs 1 to addresses_max={ADDRESSES_MAX} addresses like '10.0.0.1:7400',"
            f" not {given!r:.80}"
        )
    for address in found:
        parse_address(address)
    return list(dict.fromkeys(found))


def timeout(timeout_s: float | None, default_s: float) -> float:
    """Seconds above 0; ``default_s`` where none are given."""
    if timeout_s is None:
        return default_s
    valid = isinstance(timeout_s, int | float) and not isinstance(timeout_s, bool)
    if not valid or not 0 < timeout_s <= sys.float_info.max:  # an integer may be larger than any float
        raise InvalidArgument(f"timeout_s is a number of seconds above 0, not {_shown(timeout_s)}")
    return float(timeout_s)


def _shown(value: object) -> str:
    # Python refuses to write down an integer of thousands of digits.
    return "a larger one" if isinstance(value, int) and abs(value) > sys.float_info.max else f"{value!r:.40}"


def text(what: str, value: object) -> str:
    """A text that is not empty, and that UTF-8 can write. ``what`` names it in the error."""
    if not isinstance(value, str) or not value:
        raise InvalidArgument(f"{what} is a text that is not empty, not {value!r:.80}")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise InvalidArgument(f"{what} is not valid Unicode text: {value!r:.80}") from None
    return value


def texts(what: str, values: Sequence[str]) -> list[str]:
    """A list of texts that are not empty; not one text, whose letters it would be."""
    if isinstance(values, str):
        raise InvalidArgument(f"{what} are given as a list of texts, not as the text {values!r:.80}")
    return [text(f"each of {what}", value) for value in values]


def items(what: str, values: object) -> list[Any]:
    """A list, or what can be one; not a text. ``what`` names it in the error."""
    if isinstance(values, str | bytes | Mapping) or not isinstance(values, Iterable):
        raise InvalidArgument(f"{what} are given as a list, not as {type(values).__name__}")
    return list(values)


def mapping(what: str, value: object) -> dict[str, Any]:
    """A map of what can travel. ``what`` names it in the error."""
    if not isinstance(value, Mapping):
        raise InvalidArgument(f"{what} is given as a dict, not as {type(value).__name__}")
    found: dict[str, Any] = plain(dict(value))
    return found


def only(what: str, given: Mapping[str, Any], known: Set[str]) -> dict[str, Any]:
    """A map that has none but the known fields; ``what`` names it in the error."""
    unknown = sorted(str(name)[:40] for name in given if name not in known)
    if unknown:
        raise InvalidArgument(f"{what} have no {', '.join(unknown)}; there are {', '.join(sorted(known))}")
    return dict(given)


def expected_version(version: object) -> int:
    """A version that a key can have; 0: it must not exist."""
    if not isinstance(version, int) or isinstance(version, bool) or version < 0:
        raise InvalidArgument(f"expected_version is a number from 0 on (0: no such key), not {version!r:.40}")
    return version


def plain(value: Any) -> Any:
    """A value that can travel: None, bool, int of 64 bits, float, str, bytes, lists, dicts with text keys."""
    kind = type(value)
    if not (kind in _PLAIN or (kind is str and value.isascii())):
        encode_map({"value": value})
    return value
