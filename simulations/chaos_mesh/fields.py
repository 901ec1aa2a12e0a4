"""Reading a document's fields, each with its path, so that every refusal names one."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Final, TypeVar

from simulations.soak.plan import PlanInvalid

T = TypeVar("T")

_UNITS_S: Final = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_PART: Final = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h)")
_RATES: Final = ("tbps", "gbps", "mbps", "kbps", "bps")
_REQUIRED: Final = object()
SECONDS_MAX: Final = 1e12
DIGITS_MAX: Final = 15
"""Of a bandwidth."""
TOLD_MAX: Final = 8
"""So many fields are named that stand where another is missed."""


class Fields:
    """One mapping of a document. Every field is taken at most once; :meth:`done` refuses what is left.

    Whatever has a wrong type or value is refused with :class:`~simulations.soak.plan.PlanInvalid`.
    """

    def __init__(self, values: object, path: str) -> None:
        self.path = path
        if not isinstance(values, Mapping) or not all(isinstance(name, str) for name in values):
            raise PlanInvalid(f"{path or 'the document'}: a mapping is expected, not {values!r:.60}")
        self._left: dict[str, Any] = dict(values)

    def at(self, name: str) -> str:
        """The path of a field."""
        return f"{self.path}.{name}" if self.path else name

    def has(self, name: str) -> bool:
        """Whether it is there and was not taken yet."""
        return name in self._left

    def refuse(self, name: str, why: str) -> PlanInvalid:
        """The refusal of a field, to be raised."""
        return PlanInvalid(f"{self.at(name)}: {why}")

    def done(self, reasons: Mapping[str, str] | None = None, *, known: Collection[str] = ()) -> None:
        """Refuse the first field that nobody took, with its reason where there is a particular one."""
        for name in self._left:
            why = (reasons or {}).get(name)
            if why is None:
                hint = f"; supported beside it: {', '.join(sorted(known))}" if known else ""
                why = f"not supported: take it out{hint}"
            raise self.refuse(name, why)

    def take(self, name: str, read: Callable[[object], T], default: Any = _REQUIRED) -> T:
        """Read a field. ``read`` raises ``ValueError`` with what was expected."""
        if name not in self._left:
            if default is _REQUIRED:
                others = ", ".join(f"{other:.40}" for other in list(self._left)[:TOLD_MAX])
                # Among them, mostly, is the one that was meant, with a slip in it.
                raise self.refuse(name, f"missing, and needed{f'; there is {others}' if others else ''}")
            return default  # type: ignore[no-any-return]
        value = self._left.pop(name)
        try:
            return read(value)
        except PlanInvalid:
            raise  # of a field below, which has named itself
        except ValueError as error:
            raise self.refuse(name, str(error)) from None

    def fields(self, name: str) -> Fields:
        """A mapping inside this one, which has to be there."""
        return self.take(name, lambda value: Fields(value, self.at(name)))

    def choice(self, name: str, choices: Mapping[str, str | None], default: Any = _REQUIRED) -> str:
        """One of some texts. ``choices`` with a reason are refused with it."""

        def read(value: object) -> str:
            if not isinstance(value, str) or value not in choices:
                possible = ", ".join(name for name, why in choices.items() if why is None)
                raise ValueError(f"{value!r:.40} is not supported: write one of {possible}")
            why = choices[value]
            if why is not None:
                raise ValueError(f"{value}: {why}")
            return value

        return self.take(name, read, default)


def text(value: object) -> str:
    """A text that is not empty."""
    if not isinstance(value, str) or not value:
        raise ValueError(f"a text is expected, not {value!r:.40}")
    return value


def items(value: object) -> tuple[object, ...]:
    """A list."""
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise ValueError(f"a list is expected, not {value!r:.40}")
    return tuple(value)


def texts(value: object) -> tuple[str, ...]:
    """A list of texts."""
    return tuple(map(text, items(value)))


def whole(least: int) -> Callable[[object], int]:
    """A whole number from ``least`` on."""

    def read(value: object) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise ValueError(f"a whole number from {least} on is expected, not {value!r:.40}")
        return value

    return read


def seconds(value: object) -> float:
    """A duration as Go writes it, such as ``100ms``, ``1h30m`` or ``5s``; not negative."""
    found = signed_seconds(value)
    if found < 0:
        raise ValueError(f"{value!r} is negative")
    return found


def signed_seconds(value: object) -> float:
    """A duration that may be negative, such as ``-10m``."""
    if value in ("0", 0):
        return 0.0
    written = value.strip() if isinstance(value, str) else ""
    sign = -1.0 if written.startswith("-") else 1.0
    body = written.lstrip("+-")
    if not body or len(written) - len(body) > 1 or not re.fullmatch(f"(?:{_PART.pattern})+", body):
        raise ValueError(f"{value!r:.40} is no duration: write it as 100ms, 5s or 1h30m")
    found = sum(float(number) * _UNITS_S[unit] for number, unit in _PART.findall(body))
    if found > SECONDS_MAX:
        raise ValueError(f"{value!r:.40} is longer than {SECONDS_MAX:.0e} seconds")
    return sign * found


def share(value: object) -> float:
    """A percentage, as a text or a number, as a part from 0 to 1."""
    try:
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise TypeError
        percent = float(value)
    except (TypeError, ValueError):
        raise ValueError(f'{value!r:.40} is no percentage: write it as "25"') from None
    if not 0 <= percent <= 100:
        raise ValueError(f"{value!r:.40} is not between 0 and 100")
    return percent / 100


def rate(value: object) -> float:
    """A bandwidth such as ``1mbps``, in bytes per second: Chaos Mesh's bps are bytes, its k is 1024."""
    written = value.strip().lower() if isinstance(value, str) else ""
    for power, unit in zip(range(4, -1, -1), _RATES, strict=True):
        if written.endswith(unit):
            number = written.removesuffix(unit).strip()
            if number.isdecimal() and len(number) <= DIGITS_MAX and int(number) > 0:
                return float(int(number) * 1024**power)
            break
    raise ValueError(f"{value!r:.40} is no bandwidth above 0: write it as 1mbps (units: {', '.join(_RATES)})")
