"""Whether requests that could be run on the spot should be gathered first."""

from __future__ import annotations


class Turns:
    """Decides for one model whether a quick run waits until the event loop's turn is over.

    What comes in one turn of the loop can run as one, and waiting for the end of the turn costs a lone
    request some ten microseconds for nothing. So requests are gathered while more than ``GATHERED_MIN`` at
    a time were found in the mean; otherwise only one in about thirty is, to find out. The distances between
    these change, so that they do not fall on the last request of every turn.
    """

    GATHERED_MIN = 1.25
    PROBE_AFTER = (23, 29, 31, 37)
    WEIGHT = 0.125

    __slots__ = ("_gathered", "_left", "_probes")

    def __init__(self) -> None:
        self._gathered = 1.0
        self._probes = 0
        self._left = self.PROBE_AFTER[0]

    def gather(self) -> bool:
        """Whether to let the next request wait for the end of the turn."""
        if self._gathered > self.GATHERED_MIN:
            return True
        self._left -= 1
        if self._left:
            return False
        self._probes = (self._probes + 1) % len(self.PROBE_AFTER)
        self._left = self.PROBE_AFTER[self._probes]
        return True

    def note(self, gathered: int) -> None:
        """So many had gathered when a turn was over."""
        self._gathered += (min(gathered, 8) - self._gathered) * self.WEIGHT
