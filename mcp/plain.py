"""Plain values that others wrote: what every reader of them asks, and how one is shown in a message.

Readers differ in what they read and in the errors that they raise. What they share is here, so that it is
right once: a ``bool`` is no integer, not a number is in no range, and an integer of thousands of digits,
which Python refuses to write out, neither fails nor fills a message. A name that is nearly a known one is
told with that one.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Final, TypeGuard

SHOWN_CHARS_MAX: Final = 80
"""What a message shows of a value at most, in characters."""

_TEXT_CHARS_MAX: Final = 60
_INTEGER_BITS_MAX: Final = 64
_SCALARS: Final = frozenset({type(None), bool, int, float, str, bytes})


def shown(value: object) -> str:
    """Return a short account of any value for a message, whatever its size. Never raises."""
    if type(value) is int and value.bit_length() > _INTEGER_BITS_MAX:
        return f"an integer of {value.bit_length()} bits"
    if type(value) not in _SCALARS:
        return f"a value of type {type(value).__name__}"
    account = repr(value[:_TEXT_CHARS_MAX] if isinstance(value, str | bytes) else value)
    return account if len(account) <= SHOWN_CHARS_MAX else f"{account[: SHOWN_CHARS_MAX - 3]}..."


def near(name: str, known: Iterable[str]) -> str | None:
    """Return the one of the ``known`` names that a misspelt one is near to, whatever its case, if any is."""
    folded = {each.casefold(): each for each in known}
    close = difflib.get_close_matches(name[:_TEXT_CHARS_MAX].casefold(), folded, n=1)
    return folded[close[0]] if close else None


def meant(name: str, known: Iterable[str]) -> str:
    """Return ``; did you mean X?``, to be put behind what is told of a name; nothing where none is near."""
    found = near(name, known)
    return "" if found is None else f"; did you mean {found}?"


def is_whole(value: object, least: int, most: int) -> TypeGuard[int]:
    """Say whether a value is an integer in ``least..most``."""
    return type(value) is int and least <= value <= most


def is_number(value: object, least: float, most: float) -> TypeGuard[int | float]:
    """Say whether a value is an integer or a float in ``least..most``, which has to be finite."""
    # Not a number compares as false, and an integer of any length compares.
    return (type(value) is int or type(value) is float) and least <= value <= most
