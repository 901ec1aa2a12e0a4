"""When the requests of an open loop are due. Pure.

Callers who wait for an answer before they ask again slow down with the server, and so hide how long others
would have waited: coordinated omission (Gil Tene, "How NOT to Measure Latency", 2013). An open loop asks when
a request is due, whatever became of those before it, and counts its time from then.
"""

from __future__ import annotations

from itertools import accumulate
from random import Random


def poisson(rate: float, seconds: float, seed: int) -> list[float]:
    """Offsets in seconds at which independent callers ask, ``rate`` a second on average.

    The same seed gives the same arrivals, so that all contenders get the same bursts.
    """
    generator = Random(seed)
    gaps = (generator.expovariate(rate) for _ in range(_enough(rate, seconds)))
    return [due for due in accumulate(gaps) if due < seconds]


def _enough(rate: float, seconds: float) -> int:
    # Six standard deviations above what is expected, and some for tiny counts.
    expected = rate * seconds
    return int(expected + 6 * expected**0.5) + 10
