"""What a rule's ``when`` may say: its shape, how it is printed, and how it is decided.

A comparison with something that the request does not have is false, and ``!=`` is the opposite of ``==``:
``length > 10`` and ``length <= 10`` are both false where the length is unknown, ``length != 10`` is true.
``dtype == FP16`` holds if any input has that type.
"""

from __future__ import annotations

import enum
import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from mcp.cluster.router.catalogue import Resolution
from mcp.cluster.router.features import Features
from mcp.cluster.router.tokens import in_quotes

HEADER: Final = "header."
"""What the feature of a request's header begins with; its name follows, in lower case."""

Test = Callable[[Features, Resolution], bool]


class Operator(enum.Enum):
    """A comparison. Only the first two are for texts."""

    EQUAL = "=="
    UNEQUAL = "!="
    AT_MOST = "<="
    AT_LEAST = ">="
    BELOW = "<"
    ABOVE = ">"


NUMBERS: Final[dict[str, Callable[[Features], int | None]]] = {
    "length": operator.attrgetter("length"),
    "batch": operator.attrgetter("batch"),
    "bytes": operator.attrgetter("size"),
    "priority": operator.attrgetter("priority"),
}
"""Features that are numbers: elements, rows, bytes, and the request's priority."""

_MEANT: Final[dict[str, Callable[[Resolution], str | None]]] = {
    "model": operator.attrgetter("model"),
    "family": operator.attrgetter("family"),
    "task": operator.attrgetter("task"),
    "hint": operator.attrgetter("hint"),
}
TEXTS: Final = (*_MEANT, "client")
"""Features that are texts. Model, family and task are what the hint's candidates have in common."""

DTYPE: Final = "dtype"

_OPERATIONS: Final[dict[Operator, Callable[[Any, Any], bool]]] = {
    Operator.EQUAL: operator.eq,
    Operator.UNEQUAL: operator.ne,
    Operator.AT_MOST: operator.le,
    Operator.AT_LEAST: operator.ge,
    Operator.BELOW: operator.lt,
    Operator.ABOVE: operator.gt,
}
_UNITS: Final = (("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10))


@dataclass(frozen=True, slots=True)
class Comparison:
    """``feature operator value``. The value's type is the feature's."""

    feature: str
    operator: Operator
    value: int | str

    def __str__(self) -> str:
        return f"{self.feature} {self.operator.value} {self._value()}"

    def _value(self) -> str:
        if isinstance(self.value, str):
            return in_quotes(self.value)
        if self.feature == "bytes" and self.value:
            for unit, size in _UNITS:
                if self.value % size == 0:
                    return f"{self.value // size}{unit}"
        return str(self.value)


@dataclass(frozen=True, slots=True)
class Not:
    """The opposite."""

    part: Condition

    def __str__(self) -> str:
        return f"not {_part(self.part)}"


@dataclass(frozen=True, slots=True)
class And:
    """All of two or more."""

    parts: tuple[Condition, ...]

    def __str__(self) -> str:
        return " and ".join(map(_part, self.parts))


@dataclass(frozen=True, slots=True)
class Or:
    """At least one of two or more."""

    parts: tuple[Condition, ...]

    def __str__(self) -> str:
        return " or ".join(str(part) if isinstance(part, And) else _part(part) for part in self.parts)


Condition = Comparison | Not | And | Or


def _part(condition: Condition) -> str:
    return f"({condition})" if isinstance(condition, And | Or) else str(condition)


def compiled(condition: Condition) -> Test:
    """Return a function that decides the condition for a request and what its hint was found to mean."""
    if isinstance(condition, Comparison):
        return _comparison(condition)
    if isinstance(condition, Not):
        part = compiled(condition.part)
        return lambda features, meant: not part(features, meant)
    tests = tuple(map(compiled, condition.parts))
    if isinstance(condition, And) and len(tests) == 2:
        one, other = tests
        return lambda features, meant: one(features, meant) and other(features, meant)
    if isinstance(condition, And):
        return lambda features, meant: _every(tests, features, meant)
    return lambda features, meant: _some(tests, features, meant)


def _every(tests: tuple[Test, ...], features: Features, meant: Resolution) -> bool:
    for test in tests:  # noqa: SIM110 (a generator costs three times as much, for every rule of every request)
        if not test(features, meant):
            return False
    return True


def _some(tests: tuple[Test, ...], features: Features, meant: Resolution) -> bool:
    for test in tests:  # noqa: SIM110
        if test(features, meant):
            return True
    return False


def _comparison(condition: Comparison) -> Test:
    compare, value, feature = _OPERATIONS[condition.operator], condition.value, condition.feature
    unequal = condition.operator is Operator.UNEQUAL
    if feature in NUMBERS:
        number = NUMBERS[feature]

        def of_number(features: Features, meant: Resolution) -> bool:
            found = number(features)
            return unequal if found is None else compare(found, value)

        return of_number
    if feature == DTYPE:
        return lambda features, meant: (
            any(tensor.dtype == value for tensor in features.tensors or ()) is not unequal
        )
    if feature in _MEANT:
        text = _MEANT[feature]
        return lambda features, meant: compare(text(meant), value)
    if feature == "client":
        return lambda features, meant: compare(features.client or None, value)
    name = feature.removeprefix(HEADER)
    return lambda features, meant: compare(features.headers.get(name), value)
