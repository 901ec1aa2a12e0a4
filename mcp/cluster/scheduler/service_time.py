"""How long a node runs a model, as a function of the input's size: learned while it works.

The time is taken to be affine in the size: something for every call and something for every row. The fit is
recursive least squares with exponential forgetting, in the centred form, which updates a weighted mean and a
weighted covariance and so never inverts a matrix that forgetting has emptied (Åström and Wittenmark,
"Adaptive Control", 2nd edition, 1995, section 2.2, and chapter 11 on what goes wrong without excitation;
Finch, "Incremental Calculation of Weighted Mean and Variance", 2009).
A measurement weighs the less the longer it was expected to be. While all sizes are equal the slope is not
determined; a weak prior then says that half of the time depends on the size. Both parts are kept from being
negative, so that every estimate is positive whatever was measured. Costs that grow faster than the size are
taken to be proportional to it, with the proportion of the sizes seen lately.

Two things tell a disturbance from a change. How far a measurement is from what was expected is limited to a
few times what is usual (Huber, "Robust Estimation of a Location Parameter", 1964), so one outlier
moves the estimate by a few percent. But if several in a row are far off on the same side, the node has
changed: everything is scaled by their median, and what was learned before counts less.
"""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from typing import Final

TIME_MIN_S: Final = 1e-6
"""The shortest time; a measurement below it is taken for it."""

TIME_MAX_S: Final = 86_400.0
"""The longest time; a measurement above it is taken for it."""

GAIN_MIN: Final = 0.02
"""Every measurement counts at least so much, however light it is beside those before it."""

PRIOR_WEIGHT: Final = 0.01
"""How much the prior slope weighs, as a share of the squared mean size."""

DEVIATION_FIRST: Final = 0.5
"""The mean absolute deviation of the logarithm that is assumed after one measurement."""

DEVIATION_MIN: Final = 0.03
DEVIATION_MAX: Final = 2.0
"""What the deviation is kept between, so that neither steady nor wild times make the outlier bound absurd."""

_SIGMA: Final = 1.2533
"""The standard deviation of a normal distribution with a mean absolute deviation of 1: sqrt(pi / 2)."""


@dataclass(frozen=True, slots=True)
class EstimatorSettings:
    """How a :class:`ServiceTime` forgets, and what it takes for an outlier or for a change."""

    forgetting: float = 0.95
    """A measurement counts so much less with each one after it: 0.95 remembers about twenty."""
    deviation_gain: float = 0.1
    """How much one measurement counts in the usual deviation."""
    outlier_deviations: float = 3.0
    """What is further off than so many mean absolute deviations is limited to that,"""
    change_count: int = 3
    """and so many of them in a row, all on the same side, are a change."""
    change_memory: float = 0.25
    """How much of what was learned before a change is kept."""


DEFAULT_SETTINGS: Final = EstimatorSettings()


class ServiceTime:
    """The service time of one model at one node, in seconds. Begins with its first measurement."""

    __slots__ = (
        "_covariance",
        "_deviation",
        "_mean_s",
        "_mean_size",
        "_settings",
        "_suspects",
        "_variance",
        "_weight",
        "base_s",
        "slope_s",
    )

    def __init__(self, size: float, took_s: float, settings: EstimatorSettings = DEFAULT_SETTINGS) -> None:
        self._settings = settings
        self._mean_size = size
        self._mean_s = _within(took_s)
        self._variance = 0.0
        self._covariance = 0.0
        self._weight = 1.0 / self._mean_s
        self._deviation = DEVIATION_FIRST
        self._suspects: list[float] = []
        self.base_s = 0.0
        """What a request takes whatever its size, in seconds."""
        self.slope_s = 0.0
        """What each unit of size adds, in seconds."""
        self._solve()

    @property
    def mean_s(self) -> float:
        """What a request took lately, whatever its size."""
        return self._mean_s

    @property
    def relative_deviation(self) -> float:
        """The standard deviation of the time around the estimate, as a share of the estimate."""
        return self._deviation * _SIGMA

    def at(self, size: float) -> float:
        """The expected time of a request of ``size``, in seconds: positive and finite."""
        return min(TIME_MAX_S, max(TIME_MIN_S, self.base_s + self.slope_s * size))

    def measured(self, size: float, took_s: float) -> None:
        """A request of ``size`` ran for ``took_s``. What is not a number or is negative is no measurement."""
        if not took_s >= 0.0:
            return
        settings = self._settings
        expected_s = self.at(size)
        ratio = math.log(_within(took_s) / expected_s)
        bound = settings.outlier_deviations * self._deviation
        if abs(ratio) <= bound:
            self._suspects.clear()
        elif self._is_change(ratio):
            return
        ratio = max(-bound, min(bound, ratio))
        self._deviation += settings.deviation_gain * (abs(ratio) - self._deviation)
        self._deviation = max(DEVIATION_MIN, min(DEVIATION_MAX, self._deviation))
        self._fit(size, _within(expected_s * math.exp(ratio)), 1.0 / expected_s)

    def _is_change(self, ratio: float) -> bool:
        """Take in one that is far off; give whether it was the last that a change needed."""
        if self._suspects and (self._suspects[-1] > 0) != (ratio > 0):
            self._suspects.clear()
        self._suspects.append(ratio)
        if len(self._suspects) < self._settings.change_count:
            return False
        factor = math.exp(statistics.median(self._suspects))
        self._suspects.clear()
        scaled_s = _within(self._mean_s * factor)
        factor = scaled_s / self._mean_s
        self._mean_s = scaled_s
        self._covariance *= factor
        self._weight *= self._settings.change_memory / factor
        self._solve()
        return True

    def _fit(self, size: float, took_s: float, weight: float) -> None:
        total = self._settings.forgetting * self._weight + weight
        gain = max(GAIN_MIN, weight / total)
        self._weight = weight / gain
        from_size, from_s = size - self._mean_size, took_s - self._mean_s
        self._mean_size += gain * from_size
        self._mean_s += gain * from_s
        self._variance = (1.0 - gain) * (self._variance + gain * from_size * from_size)
        self._covariance = (1.0 - gain) * (self._covariance + gain * from_size * from_s)
        self._solve()

    def _solve(self) -> None:
        """The line through the means whose slope the covariance and the prior give."""
        if self._mean_size <= 0.0:
            self.base_s, self.slope_s = self._mean_s, 0.0
            return
        proportional = self._mean_s / self._mean_size
        prior = PRIOR_WEIGHT * self._mean_size * self._mean_size
        spread = self._variance + prior
        slope = (self._covariance + prior * proportional / 2) / spread if spread > 0.0 else 0.0
        self.slope_s = max(0.0, min(proportional, slope))
        self.base_s = max(0.0, self._mean_s - self.slope_s * self._mean_size)


def _within(time_s: float) -> float:
    return min(TIME_MAX_S, max(TIME_MIN_S, time_s))
