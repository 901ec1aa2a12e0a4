"""When a Schedule's experiments begin: ``@every 10s``, or cron's five fields for minutes and hours.

A run begins at midnight: minute 0 of hour 0 is its beginning, and passed when the load starts.
"""

from __future__ import annotations

from typing import Final

from simulations.chaos_mesh.fields import seconds

EVERY: Final = "@every"
_SHORT: Final = {"@hourly": "0 * * * *"}
_RANGES: Final = (("minute", 0, 59), ("hour", 0, 23))
_MINUTE_S: Final = 60.0
TIMES_MAX: Final = 10_000
"""How many beginnings one schedule may have within a run."""


def times(written: object, until_s: float) -> list[float]:
    """When, in seconds from the beginning, before ``until_s``. Raises ``ValueError`` with what is wrong."""
    if not isinstance(written, str):
        raise ValueError(f"a text is expected, not {written!r:.40}")
    if written.startswith(EVERY):
        period_s = seconds(written.removeprefix(EVERY).strip())
        if period_s <= 0:
            raise ValueError("@every needs a duration above 0, such as @every 10s")
        found = _every(period_s, until_s)
    else:
        found = _cron(_SHORT.get(written, written), until_s)
    if not found:
        raise ValueError(f"{written!r} never comes within {until_s:g} s: run longer, or write it more often")
    return found


def _every(period_s: float, until_s: float) -> list[float]:
    count = int(until_s / period_s)
    if count > TIMES_MAX:
        raise ValueError(f"{count} times within {until_s:g} s are too many; {TIMES_MAX} at most")
    return [n * period_s for n in range(1, count + 1) if n * period_s < until_s]


def _cron(written: str, until_s: float) -> list[float]:
    parts = written.split()
    if len(parts) != 5:
        raise ValueError(f"{written!r:.40} is neither '@every 10s' nor cron's five fields")
    if parts[2:] != ["*", "*", "*"]:
        raise ValueError(f"{written!r}: a run knows minutes and hours; write * for day, month and weekday")
    minutes, hours = (_field(part, *bounds) for part, bounds in zip(parts[:2], _RANGES, strict=True))
    return [
        minute * _MINUTE_S
        for minute in range(1, int(until_s / _MINUTE_S) + 1)
        if minute % 60 in minutes and minute // 60 % 24 in hours and minute * _MINUTE_S < until_s
    ]


def _field(written: str, name: str, least: int, most: int) -> set[int]:
    found: set[int] = set()
    for part in written.split(","):
        span, _, step = part.partition("/")
        first, _, last = span.partition("-")
        try:
            begin, end = (
                (least, most) if span == "*" else (int(first), int(last or (most if step else first)))
            )
            pace = int(step or 1)
        except ValueError:
            raise ValueError(
                f"{part!r} is no {name}: write a number, *, 1-5, */2 or a list of these"
            ) from None
        if not least <= begin <= end <= most or pace < 1:
            raise ValueError(f"{part!r} is out of range: a {name} is {least} to {most}")
        found.update(range(begin, end + 1, pace))
    return found
