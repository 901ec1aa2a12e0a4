"""A large JSON text, read in pieces, so that whoever waits for the interpreter gets it between two of them.

``json.loads`` is one call: 4 MiB of numbers hold every thread of the process for 60 ms and more. Almost
all of such a text is one list of numbers, flat or nested. A stretch without quotes and braces that is a
list is cut at commas; each piece gets the brackets that it lacks, is read by itself, and joined to the
one before. What is left of the text has ``NaN`` in its place, which is no JSON otherwise, and which the
reader asks about: once for each list, or a stretch was inside a text of the body, and then all is read at
once, as is everything in doubt.

The value, and the error, are those of ``json.loads`` with ``parse_constant``. Pure.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any, Final

PIECE_CHARS: Final = 64 * 1024
"""About so much is read at once."""
DEPTH_MAX: Final = 32
"""Lists in lists, of those that are read in pieces."""

_STRETCH: Final = re.compile(rf'[^{{}}"]{{{2 * PIECE_CHARS},}}')
_STAND_IN: Final = "NaN"


class _Doubt(Exception):
    """It is not certain that the pieces mean what the text does."""


def loads_in_pieces(text: str, parse_constant: Callable[[str], Any]) -> Any:
    """As ``json.loads``, with the same value, and the same ``ValueError`` or ``RecursionError``."""
    try:
        return _loads(text)
    except (_Doubt, ValueError, RecursionError):
        return json.loads(text, parse_constant=parse_constant)


def _loads(text: str) -> Any:
    if len(text) <= 2 * PIECE_CHARS or _STAND_IN in text:
        raise _Doubt
    rest: list[str] = []
    lists: list[list[Any]] = []
    end = 0
    for stretch in _STRETCH.finditer(text):
        begin, until = text.find("[", *stretch.span()), text.rfind("]", *stretch.span()) + 1
        if 0 <= begin < until:
            lists.append(_read(text, begin, until))
            rest += (text[end:begin], _STAND_IN)
            end = until
    found = iter(lists)
    value = json.loads("".join([*rest, text[end:]]), parse_constant=lambda word: _next(found, word))
    if next(found, None) is not None:
        raise _Doubt
    return value


def _next(lists: Iterator[list[Any]], word: str) -> list[Any]:
    found = next(lists, None) if word == _STAND_IN else None
    if found is None:
        raise _Doubt
    return found


def _read(text: str, begin: int, end: int) -> list[Any]:
    """The list that ``text[begin:end]`` is, which has no texts and no objects."""
    whole: list[Any] = []
    depth = 0
    while begin < end:
        comma = text.find(",", begin + PIECE_CHARS, end)
        until = end if comma < 0 else comma
        piece = text[begin:until]
        before, depth = depth, depth + piece.count("[") - piece.count("]")
        if not (depth == 0 if until == end else 0 < depth <= DEPTH_MAX):
            raise _Doubt
        part = json.loads("[" * before + piece + "]" * depth)
        if before == 0:
            whole = part
        else:
            _join(whole, part, before)
        begin = until + 1
    return whole


def _join(whole: list[Any], part: list[Any], depth: int) -> None:
    """Put ``part`` behind ``whole``, which was cut at a comma so many lists deep."""
    for _ in range(depth - 1):
        if not whole or not part or type(whole[-1]) is not list or type(part[0]) is not list:
            raise _Doubt
        inner, nested = whole[-1], part[0]
        whole.extend(part[1:])
        whole, part = inner, nested
    if not whole or not part:
        raise _Doubt  # a comma with nothing before or behind it, which is no JSON
    whole.extend(part)
