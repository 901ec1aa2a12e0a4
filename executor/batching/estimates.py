"""What a model's runs take and how often it is asked: moving estimates, from what was measured."""

from __future__ import annotations

from typing import Final

SAMPLES_MIN: Final = 3
"""So many runs are seen before an estimate says anything."""


class ServiceTimes:
    """How long a run takes by its number of rows: ``fixed + per_row * rows``, fitted as runs come.

    A least-squares line over exponentially weighted samples (Finch 2009, "Incremental calculation of weighted
    mean and variance", section 9, has the recurrences). A sample that is much longer than expected counts as
    ``OUTLIER_FACTOR`` times what was: one interruption by the operating system does not make a model slow.
    While all runs had about the same size there is no line to fit: then fewer rows are expected to take as
    long, and more rows in proportion.
    """

    WEIGHT = 0.05
    OUTLIER_FACTOR = 4.0
    SPREAD_MIN = 0.01
    """The least variance of the sizes, in squares of their mean, for which a line is fitted."""

    __slots__ = ("_covariance", "_rows", "_seconds", "_variance", "count", "known", "line")

    def __init__(self) -> None:
        self.count = 0
        self.known = False
        """Whether enough runs were seen."""
        self.line: tuple[float, float] | None = None
        """Seconds that every run takes, and seconds per row; ``None`` while that cannot be told apart."""
        self._rows = 0.0
        self._seconds = 0.0
        self._variance = 0.0
        self._covariance = 0.0

    def note(self, rows: int, elapsed_s: float) -> None:
        """A run of so many rows took so long."""
        if self.count >= SAMPLES_MIN:
            elapsed_s = min(elapsed_s, self.OUTLIER_FACTOR * self.expected_s(rows))
        self.count += 1
        weight = max(self.WEIGHT, 1 / self.count)
        off_rows, off_s = rows - self._rows, elapsed_s - self._seconds
        self._rows += weight * off_rows
        self._seconds += weight * off_s
        self._variance = (1 - weight) * (self._variance + weight * off_rows * off_rows)
        self._covariance = (1 - weight) * (self._covariance + weight * off_rows * off_s)

        self.known = self.count >= SAMPLES_MIN
        if self.known and self._variance >= self.SPREAD_MIN * self._rows * self._rows:
            per_row = min(max(self._covariance / self._variance, 0.0), self._seconds / self._rows)
            self.line = (self._seconds - per_row * self._rows, per_row)
        else:
            self.line = None

    def expected_s(self, rows: int) -> float:
        """How long a run of so many rows takes; 0 while nothing is known."""
        if not self.known:
            return 0.0
        if self.line is None:
            return self._seconds * max(1.0, rows / self._rows)
        fixed, per_row = self.line
        return fixed + per_row * rows

    def rows_within(self, seconds: float) -> float:
        """How many rows a run has that takes so long; infinity while nothing is known."""
        if not self.known:
            return float("inf")
        if self.line is None:
            return self._rows * max(0.0, seconds / self._seconds) if self._seconds else float("inf")
        fixed, per_row = self.line
        return (seconds - fixed) / per_row if per_row else float("inf")


class Arrivals:
    """How long it takes until the next request, in the mean. Pauses count up to ``pause_s_max``."""

    WEIGHT = 0.05

    __slots__ = ("_count", "_gap_s", "_pause_s_max", "last_s")

    def __init__(self, pause_s_max: float) -> None:
        self._pause_s_max = pause_s_max
        self._gap_s = pause_s_max
        self._count = 0
        self.last_s: float | None = None
        """When the last one came."""

    def note(self, now: float) -> None:
        """A request came."""
        if self.last_s is not None:
            gap_s = min(max(now - self.last_s, 0.0), self._pause_s_max)
            self._count += 1
            self._gap_s += max(self.WEIGHT, 1 / self._count) * (gap_s - self._gap_s)
        self.last_s = now

    @property
    def gap_s(self) -> float | None:
        """The mean time between two requests; ``None`` while too few have come."""
        return self._gap_s if self._count >= SAMPLES_MIN else None
