"""Reading a document's fields, each with its path, so that every refusal names one and nothing is ignored."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, TypeVar

from mcp.errors import InvalidArgument
from mcp.plain import is_number, is_whole, near, shown

T = TypeVar("T")

SECONDS_MAX: Final = 86_400.0
"""The longest duration in a route."""
TEXT_CHARS_MAX: Final = 256
"""The longest name, or value of a header, in a route."""
TOLD_MAX: Final = 8
"""So many fields are named in a refusal."""

_UNITS_S: Final = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_PART: Final = re.compile(r"([0-9]{1,12}(?:\.[0-9]{0,12})?|\.[0-9]{1,12})(ns|us|µs|ms|s|m|h)")
_PARTS_MAX: Final = 7
_REQUIRED: Final = object()


class _Wrong(Exception):
    """What was expected of a value; the field that has it adds its path."""


class Fields:
    """One map of a document. Every field is taken at most once; :meth:`done` refuses what is left.

    Whatever has a wrong type or value is refused with :class:`~mcp.errors.InvalidArgument`.
    """

    def __init__(self, values: object, path: str) -> None:
        self.path = path
        if not isinstance(values, Mapping) or not all(isinstance(name, str) for name in values):
            raise InvalidArgument(f"{path or 'the document'}: a map is expected, not {shown(values)}")
        self._left: dict[str, Any] = dict(values)
        self._known: dict[str, None] = {}  # in the order in which they were asked for

    def at(self, name: str) -> str:
        """Return the path of a field."""
        return f"{self.path}.{name:.60}" if self.path else f"{name:.60}"

    def names(self) -> list[str]:
        """Return the fields that were not taken yet."""
        return list(self._left)

    def rest(self) -> dict[str, Any]:
        """Return what was not taken yet."""
        return dict(self._left)

    def missing(self, name: str) -> bool:
        """Say whether a field is not there, null, or taken already."""
        self._known[name] = None
        return self._left.get(name) is None

    def refuse(self, name: str, why: str) -> InvalidArgument:
        """Return the refusal of a field, to be raised."""
        return InvalidArgument(f"{self.at(name)}: {why}", details={"path": self.at(name)})

    def done(self, reasons: Mapping[str, str] | None = None, known: Iterable[str] = ()) -> None:
        """Refuse the first field that nobody took: with its reason, where it has one, else as unknown.

        ``known``: the fields that there are beside those that were asked for.
        """
        for name in self._left:
            why = (reasons or {}).get(name)
            raise self.refuse(name, why or self._unknown(name, [*self._known, *known]))

    def _unknown(self, name: str, known: list[str]) -> str:
        meant = near(name, known)
        if meant is not None:
            return f"unknown field; did you mean {meant}?"
        return (
            f"unknown field: take it out; there are: {', '.join(known)}" if known else "unknown: take it out"
        )

    def take(self, name: str, read: Callable[[object], T], default: Any = _REQUIRED) -> T:
        """Read a field; one that is missing, or null, has its default, and is refused where there is none."""
        self._known[name] = None
        value = self._left.pop(name, None)
        if value is None:
            if default is _REQUIRED:
                misspelt = near(name, self._left)
                if misspelt is not None:
                    raise self.refuse(misspelt, f"unknown field; did you mean {name}?")
                others = ", ".join(f"{other:.40}" for other in list(self._left)[:TOLD_MAX])
                raise self.refuse(name, f"missing, and needed{f'; there is {others}' if others else ''}")
            return default  # type: ignore[no-any-return]
        try:
            return read(value)
        except _Wrong as wrong:
            raise self.refuse(name, str(wrong)) from None

    def fields(self, name: str) -> Fields:
        """Return a map inside this one, which has to be there."""
        return self.take(name, lambda value: Fields(value, self.at(name)))

    def each(
        self, name: str, limit: int, read: Callable[[Fields], T], *, needed: bool = False
    ) -> tuple[T, ...]:
        """Read a list of maps: at most ``limit``, and at least one if ``needed``."""
        values = self.take(name, lambda value: items(value, limit), *(() if needed else ([],)))
        if needed and not values:
            raise self.refuse(name, "at least one is needed")
        return tuple(read(Fields(value, f"{self.at(name)}[{place}]")) for place, value in enumerate(values))


def text(value: object, limit: int = TEXT_CHARS_MAX) -> str:
    """Return a text that is not empty, of at most ``limit`` characters."""
    if not isinstance(value, str) or not value:
        raise _Wrong(f"a text is expected, not {shown(value)}")
    if len(value) > limit:
        raise _Wrong(f"a text of {len(value)} characters is over the limit of {limit}")
    return value


def items(value: object, limit: int) -> list[Any]:
    """Return a list of at most ``limit`` items."""
    if not isinstance(value, list | tuple):
        raise _Wrong(f"a list is expected, not {shown(value)}")
    if len(value) > limit:
        raise _Wrong(f"{len(value)} items are over the limit of {limit}")
    return list(value)


def whole(least: int, most: int = 2**63 - 1) -> Callable[[object], int]:
    """Return a reader of integers in ``least..most``."""

    def read(value: object) -> int:
        if not is_whole(value, least, most):
            raise _Wrong(f"an integer in {least}..{most} is expected, not {shown(value)}")
        return value

    return read


def number(least: float, most: float) -> Callable[[object], float]:
    """Return a reader of finite numbers in ``least..most``."""

    def read(value: object) -> float:
        if not is_number(value, least, most):
            raise _Wrong(f"a number in {least:g}..{most:g} is expected, not {shown(value)}")
        return float(value)

    return read


def duration(value: object) -> float:
    """Return the seconds that a duration is, as Go writes it: ``100ms``, ``1h30m``, ``2.5s``. Above 0."""
    written = value if isinstance(value, str) and len(value) <= TEXT_CHARS_MAX else ""
    parts = _PART.findall(written)
    if not 0 < len(parts) <= _PARTS_MAX or "".join(amount + unit for amount, unit in parts) != written:
        raise _Wrong(f"{shown(value)} is no duration: write it as 100ms, 5s or 1h30m")
    seconds = math.fsum(float(amount) * _UNITS_S[unit] for amount, unit in parts)
    if not 0 < seconds <= SECONDS_MAX:
        raise _Wrong(f"{shown(value)} is not above 0 and at most {SECONDS_MAX:g} seconds")
    return seconds
