"""Where a run goes, onto the loop or into a thread: moving estimates of run times. Pure bookkeeping."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Hashable


class _RunTime:
    __slots__ = ("count", "inline_s", "runs", "runs_s", "threaded_s")

    def __init__(self) -> None:
        self.runs = 0
        self.runs_s = 0.0
        self.count = 0
        self.threaded_s = float("inf")
        self.inline_s: float | None = None


class RunTimes:
    """Decides which runs are so short that handing them to a thread costs more than running them.

    Kept per model and power of two of the input's bytes. What a thread measures is an upper bound: when
    the event loop is busy, the thread waits for the interpreter lock up to its switch interval (5 ms)
    before it can read the clock. So the least of recent threaded times counts, and when that could be
    nothing but waiting (below ``probe_s_max``), one run is tried inline; from then on inline times decide.
    A time that is much longer than the estimate counts as four times the estimate: one interruption
    by the operating system does not send a model back to the threads.
    """

    SAMPLES_MIN = 3
    WEIGHT = 0.25
    OUTLIER_FACTOR = 4.0
    FORGETTING = 1.05
    SIZES_MAX = 8
    """So many powers of two are looked at, from the input's own on."""

    def __init__(self, *, inline_s_max: float, probe_s_max: float = 0.008, entries_max: int = 4096) -> None:
        self.inline_s_max = inline_s_max
        self.probe_s_max = probe_s_max
        self.entries_max = entries_max
        self._entries: OrderedDict[tuple[str, int], _RunTime] = OrderedDict()

    def inline(self, key: str, size_bytes: int, at_most_s: float | None = None) -> bool:
        """Whether to run it inline. A size that was not seen yet is as quick as one a little larger.

        ``at_most_s`` stands for ``inline_s_max`` unless that is 0, which switches it all off.
        """
        if self.inline_s_max <= 0:
            return False
        if at_most_s is None:
            at_most_s = self.inline_s_max
        bits = size_bytes.bit_length()
        for size in range(bits, bits + self.SIZES_MAX):
            entry = self._entries.get((key, size))
            if entry is None:
                continue
            if entry.inline_s is not None:
                return entry.inline_s < at_most_s
            if entry.count >= self.SAMPLES_MIN:
                return entry.threaded_s < self.probe_s_max
        return False

    def threaded(self, key: str, size_bytes: int, elapsed_s: float) -> None:
        """Note how long a run took in a worker thread."""
        entry = self._entry(key, size_bytes)
        entry.runs += 1
        entry.runs_s += elapsed_s
        entry.count += 1
        entry.threaded_s = min(elapsed_s, entry.threaded_s * self.FORGETTING)
        if entry.inline_s is not None and elapsed_s < entry.inline_s:
            entry.inline_s += (elapsed_s - entry.inline_s) * self.WEIGHT

    def inlined(self, key: str, size_bytes: int, elapsed_s: float) -> None:
        """Note how long a run took inline."""
        entry = self._entry(key, size_bytes)
        entry.runs += 1
        entry.runs_s += elapsed_s
        if entry.inline_s is None:
            entry.inline_s = min(elapsed_s, entry.threaded_s)
        else:
            bounded = min(elapsed_s, entry.inline_s * self.OUTLIER_FACTOR)
            entry.inline_s += (bounded - entry.inline_s) * self.WEIGHT

    def overran(self, key: str, size_bytes: int, elapsed_s: float) -> None:
        """Note that an inline run had to be stopped after ``elapsed_s``: not inline again soon."""
        self._entry(key, size_bytes).inline_s = max(elapsed_s, 2 * self.inline_s_max)

    def totals(self) -> dict[str, tuple[int, float]]:
        """By model how many runs were noted, and how many seconds they took together.

        A size that made room for others (``entries_max``) is not in it any more.
        """
        totals: dict[str, tuple[int, float]] = {}
        for (key, _), entry in self._entries.items():
            runs, runs_s = totals.get(key, (0, 0.0))
            totals[key] = (runs + entry.runs, runs_s + entry.runs_s)
        return totals

    def forget(self, key: str) -> None:
        """Drop what is known about a model."""
        for known in [known for known in self._entries if known[0] == key]:
            del self._entries[known]

    def _entry(self, key: str, size_bytes: int) -> _RunTime:
        place = (key, size_bytes.bit_length())
        entry = self._entries.get(place)
        if entry is None:
            entry = self._entries[place] = _RunTime()
            if len(self._entries) > self.entries_max:
                self._entries.popitem(last=False)
        return entry


class Company:
    """Tells whether a request is the only one about, as far as a pool can see.

    A run of half a millisecond that is alone is answered sooner on the loop than from a thread; with others
    about it would keep them from being read, joined and run side by side. Company are requests of another
    client within ``RECENT_S``, and more than one in a turn of the loop, which is what several callers of one
    client look like; it is then expected to last for ``KEPT_S``.
    """

    RECENT_S = 0.01
    KEPT_S = 0.1

    __slots__ = ("_client", "_in_turn", "_seen_s", "_until_s")

    def __init__(self) -> None:
        self._client: Hashable = None
        self._seen_s = -math.inf
        self._until_s = -math.inf
        self._in_turn = False

    def alone(self, client: Hashable, now: float) -> bool:
        """Note a request of ``client`` at ``now`` (seconds); whether it is alone."""
        if self._in_turn or (client != self._client and now - self._seen_s < self.RECENT_S):
            self._until_s = now + self.KEPT_S
        self._client = client
        self._seen_s = now
        return now >= self._until_s

    def turn_begins(self) -> None:
        """A run was made on the loop for being alone: whatever comes before the turn is over is company."""
        self._in_turn = True

    def turn_over(self) -> None:
        """The loop's turn has ended."""
        self._in_turn = False
