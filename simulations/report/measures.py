"""What faults did to the clients and to the nodes: latency, throughput, and how long until all was well.

All of it is measured on what was seen from outside: calls that began and ended, commit indexes that rose.
"""

from __future__ import annotations

import bisect
import itertools
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from simulations.chronicle import Call, Commit, Happening
from simulations.report.record import Run

AROUND_S: Final = 2.0
"""How long before a fault, and after it, is compared with the time of the fault."""
AFTERMATH_S: Final = 1.0
"""What happens so long after a fault is over may still be its doing."""


@dataclass(frozen=True, slots=True)
class Window:
    """The calls that ended within some time: successful ones a second, and the latency of these."""

    per_s: float
    p50_s: float | None
    p99_s: float | None


@dataclass(frozen=True, slots=True)
class Effect:
    """One fault and what was seen around it.

    ``gap_s``: the longest time without an acknowledged write while it was on or just over. ``fresh_s``:
    from its beginning to the first acknowledgement of a write that was begun after that. ``caught_up_s``:
    from its end until every node that it hit, and that is not lost, had committed what anybody had by then.
    ``None``: that never happened in the run.
    """

    fault: Happening
    before: Window
    during: Window
    after: Window
    gap_s: float
    fresh_s: float | None
    caught_up_s: float | None


@dataclass(frozen=True, slots=True)
class Typical:
    """The median and the largest of some values, and how many of them there never were."""

    count: int
    median: float | None
    largest: float | None
    never: int = 0


def percentile(values: Sequence[float], share: float) -> float | None:
    """The smallest of the sorted ``values`` that at least ``share`` of them do not exceed."""
    if not values:
        return None
    return values[max(0, math.ceil(share * len(values)) - 1)]


def typical(values: Iterable[float | None]) -> Typical:
    """Sum up."""
    told = list(values)
    there = [value for value in told if value is not None]
    if not there:
        return Typical(0, None, None, len(told))
    return Typical(len(there), statistics.median(there), max(there), len(told) - len(there))


class Calls:
    """The calls of a run, to be asked about times."""

    def __init__(self, calls: Sequence[Call]) -> None:
        ok = sorted(
            (call.ended_s, call.begun_s) for call in calls if call.ended == "ok" and call.ended_s is not None
        )
        self._ended = [ended_s for ended_s, _ in ok]
        self._took = [ended_s - begun_s for ended_s, begun_s in ok]
        writes = sorted(
            (call.begun_s, call.ended_s)
            for call in calls
            if call.write and call.ended == "ok" and call.ended_s is not None
        )
        self._write_begins = [begun_s for begun_s, _ in writes]
        self._write_ends = sorted(ended_s for _, ended_s in writes)
        # Of every write and all later ones, which is acknowledged first.
        self._first = list(itertools.accumulate((ended_s for _, ended_s in reversed(writes)), min))[::-1]

    def window(self, begun_s: float, ended_s: float) -> Window:
        """The calls that ended from ``begun_s`` to ``ended_s``."""
        first, last = bisect.bisect_left(self._ended, begun_s), bisect.bisect_left(self._ended, ended_s)
        took = sorted(self._took[first:last])
        length_s = ended_s - begun_s
        per_s = (last - first) / length_s if length_s > 0 else 0.0
        return Window(per_s, percentile(took, 0.5), percentile(took, 0.99))

    def gap_s(self, begun_s: float, ended_s: float) -> float:
        """The longest time without an acknowledged write that touches this time."""
        ends = self._write_ends
        first = max(0, bisect.bisect_left(ends, begun_s) - 1)
        last = bisect.bisect_right(ends, ended_s) + 1
        return max((b - a for a, b in itertools.pairwise(ends[first:last])), default=0.0)

    def fresh_s(self, begun_s: float) -> float | None:
        """From then to the first acknowledgement of a write that was begun then or later."""
        at = bisect.bisect_left(self._write_begins, begun_s)
        return self._first[at] - begun_s if at < len(self._first) else None

    @property
    def usual_gap_s(self) -> float:
        """So long, or less, nothing was acknowledged between 99 of 100 writes and the next."""
        return percentile(sorted(b - a for a, b in itertools.pairwise(self._write_ends)), 0.99) or 0.0

    @property
    def longest_gap_s(self) -> float:
        """The longest time without an acknowledged write."""
        return max((b - a for a, b in itertools.pairwise(self._write_ends)), default=0.0)


class Progress:
    """How far nodes had committed, to be asked about times."""

    def __init__(self, commits: Iterable[Commit]) -> None:
        self._at: dict[str, list[float]] = {}
        self._index: dict[str, list[int]] = {}
        ordered = sorted(commits, key=lambda commit: commit.at_s)
        for commit in ordered:
            self._at.setdefault(commit.node, []).append(commit.at_s)
            self._index.setdefault(commit.node, []).append(commit.index)
        self._times = [commit.at_s for commit in ordered]
        self._peaks = list(itertools.accumulate((commit.index for commit in ordered), max))

    @property
    def furthest(self) -> int:
        """How far anybody ever was."""
        return self._peaks[-1] if self._peaks else 0

    @property
    def peaks(self) -> list[tuple[float, int]]:
        """When somebody was further than all before."""
        return list(zip(self._times, self._peaks, strict=True))

    def of(self, node: str) -> list[tuple[float, int]]:
        """When ``node`` had which commit index."""
        return list(zip(self._at.get(node, ()), self._index.get(node, ()), strict=True))

    def furthest_at(self, at_s: float) -> int:
        """How far anybody had ever been by then."""
        last = bisect.bisect_right(self._times, at_s)
        return self._peaks[last - 1] if last else 0

    def caught_up_s(self, node: str, since_s: float) -> float | None:
        """From then until ``node`` had committed what anybody had by then."""
        goal = self.furthest_at(since_s)
        times, indexes = self._at.get(node, []), self._index.get(node, [])
        first = bisect.bisect_right(times, since_s)
        if first and indexes[first - 1] >= goal:
            return 0.0
        return next((times[i] - since_s for i in range(first, len(times)) if indexes[i] >= goal), None)


def effects(run: Run) -> tuple[Effect, ...]:
    """What was seen around every fault, in their order."""
    calls, progress = Calls(run.calls), Progress(run.commits)
    lost = {span.node for span in run.spans if span.state == "lost"}
    found = []
    for fault in run.faults:
        begun_s, ended_s = fault.begun_s, fault.ended_s
        hit = [node for node in (*fault.nodes, *fault.peers) if node in run.nodes and node not in lost]
        behind = [progress.caught_up_s(node, ended_s) for node in hit]
        found.append(
            Effect(
                fault,
                calls.window(max(0.0, begun_s - AROUND_S), begun_s),
                calls.window(begun_s, ended_s) if ended_s > begun_s else Window(0.0, None, None),
                calls.window(ended_s, min(ended_s + AROUND_S, run.ended_s)),
                calls.gap_s(begun_s, ended_s + AFTERMATH_S),
                calls.fresh_s(begun_s),
                None if None in behind else max((b for b in behind if b is not None), default=0.0),
            )
        )
    return tuple(found)


def by_kind(found: Iterable[Effect]) -> dict[str, list[Effect]]:
    """The same, by kind of fault, in the order of names."""
    kinds: dict[str, list[Effect]] = {}
    for effect in found:
        kinds.setdefault(effect.fault.kind, []).append(effect)
    return dict(sorted(kinds.items()))


@dataclass(frozen=True, slots=True)
class Bin:
    """What ended within one piece of time."""

    begun_s: float
    ended_s: float
    ended: Mapping[str, int]
    p50_s: float | None
    p99_s: float | None

    def per_s(self, how: str) -> float:
        """Calls a second that ended so."""
        return self.ended.get(how, 0) / (self.ended_s - self.begun_s)


def bins(calls: Iterable[Call], until_s: float, count: int) -> tuple[Bin, ...]:
    """The time from 0 to ``until_s`` in ``count`` pieces; calls that never ended are in none."""
    width = until_s / count
    ended: list[dict[str, int]] = [{} for _ in range(count)]
    took: list[list[float]] = [[] for _ in range(count)]
    for call in calls:
        if call.ended_s is None or not 0 <= call.ended_s <= until_s:
            continue
        at = min(count - 1, int(call.ended_s / width))
        ended[at][call.ended] = ended[at].get(call.ended, 0) + 1
        if call.ended == "ok":
            took[at].append(call.ended_s - call.begun_s)
    found = []
    for at in range(count):
        took[at].sort()
        p50_s, p99_s = percentile(took[at], 0.5), percentile(took[at], 0.99)
        found.append(Bin(at * width, (at + 1) * width, ended[at], p50_s, p99_s))
    return tuple(found)


@dataclass(frozen=True, slots=True)
class Moment:
    """One piece of time relative to the beginning of faults, over all faults of a kind."""

    offset_s: float
    width_s: float
    per_s: float
    p50_s: float | None
    p99_s: float | None


def superposed(
    calls: Sequence[Call],
    begins_s: Sequence[float],
    *,
    before_s: float,
    after_s: float,
    width_s: float,
    until_s: float,
) -> tuple[Moment, ...]:
    """Throughput and latency as faults of a kind see them: laid over each other at their beginnings.

    Pieces of time that lie outside the run are not counted.
    """
    ok = sorted(
        (c.ended_s, c.ended_s - c.begun_s) for c in calls if c.ended == "ok" and c.ended_s is not None
    )
    ends = [ended_s for ended_s, _ in ok]
    found = []
    for number in range(round((before_s + after_s) / width_s)):
        offset_s = -before_s + number * width_s
        took: list[float] = []
        seen = 0
        for begin_s in begins_s:
            since_s = begin_s + offset_s
            if since_s >= 0 and since_s + width_s <= until_s:
                seen += 1
                first, last = bisect.bisect_left(ends, since_s), bisect.bisect_left(ends, since_s + width_s)
                took += [took_s for _, took_s in ok[first:last]]
        if seen:
            took.sort()
            per_s = len(took) / (seen * width_s)
            found.append(Moment(offset_s, width_s, per_s, percentile(took, 0.5), percentile(took, 0.99)))
    return tuple(found)
