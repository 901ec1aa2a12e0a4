"""Elements, figures and times as text. Whatever comes from outside is escaped here and nowhere else."""

from __future__ import annotations

import math
from html import escape
from typing import Final

_STEPS: Final = (1.0, 2.0, 5.0)
_CLOCK_STEPS: Final = (10.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 900.0, 1800.0, 3600.0)


def text(value: object) -> str:
    """``value`` as text that no browser takes for markup."""
    return escape(str(value))


def element(name: str, *children: str, **attributes: object) -> str:
    """An element around ``children``, which are markup already. ``class_`` is ``class``, ``_`` is ``-``."""
    told = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(str(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    inside = "".join(children)
    return f"<{name}{told}>{inside}</{name}>"


def titled(name: str, title: str, **attributes: object) -> str:
    """An element of a picture that tells ``title`` when one points at it."""
    return element(name, element("title", text(title)), **attributes)


def seconds(value: float | None) -> str:
    """A duration with its unit and as many digits as a reader can use."""
    if value is None:
        return "never"
    if value < 0.0005:
        return f"{value * 1e6:.0f} µs" if value >= 1e-6 else "0"
    if value < 0.9995:
        return f"{value * 1000:.{1 if value < 0.00995 else 0}f} ms"
    return f"{value:.{2 if value < 9.995 else 1}f} s" if value < 120 else moment(value)


def power(exponent: int) -> str:
    """Ten to that power, as a duration on a scale."""
    for unit, least in (("s", 0), ("ms", -3), ("µs", -6)):
        if exponent >= least:
            return f"{10 ** (exponent - least)} {unit}"
    return f"1e{exponent} s"


def moment(value: float, step: float = 1.0) -> str:
    """A point in time: seconds, or minutes and seconds where the steps allow it."""
    if value >= 120 and step >= 1:
        return f"{int(value) // 60}:{int(value) % 60:02d} min"
    digits = 0 if step >= 1 else min(4, math.ceil(-math.log10(step)))
    return f"{value:.{digits}f} s"


def number(value: float) -> str:
    """A number that is easy to read: thousands apart, no more digits than count."""
    if value >= 9.95 or float(value).is_integer():
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 0.95 else f"{value:.2g}"


def step_of(length: float, count: int, *, clock: bool = False) -> float:
    """The round distance between ticks that makes at most ``count`` pieces of ``length``."""
    least = length / max(1, count)
    if clock and least > 5:
        return next((step for step in _CLOCK_STEPS if step >= least), _up(least))
    return _up(least)


def _up(least: float) -> float:
    if least <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(least))
    return next((step * power for step in _STEPS if step * power >= least * 0.999), 10 * power)


def ticks(begin: float, end: float, step: float) -> list[float]:
    """The multiples of ``step`` from ``begin`` to ``end``."""
    first, last = math.ceil(begin / step - 1e-9), math.floor(end / step + 1e-9)
    return [number_ * step for number_ in range(first, last + 1)]
