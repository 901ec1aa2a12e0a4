"""A worker that is a member of a bare PySyncObj cluster: ``python -m simulations.benchmarks.syncobj SPEC``.

PySyncObj as its documentation shows it, with its own transport, thread and pickles: memory only, for its
journal never syncs either. ``SPEC`` has ``own`` and ``others`` (addresses) and ``settings`` (of
``SyncObjConf``).

Orders: ``{"leader": true}`` is answered with whether this member leads; ``{"callers": n, "seconds": s,
"bytes": b}`` with a window; ``{"audit": true}`` with what is wrong; ``{"probe": s}`` writes until one write
that was begun now is acknowledged, and is answered with when (``time.monotonic``, one for all processes).
"""

from __future__ import annotations

import asyncio
import json
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, Final

from pysyncobj import SyncObj, SyncObjConf, replicated

from simulations.benchmarks.asking import KEPT_MAX
from simulations.benchmarks.windows import Latency, Window, counted
from simulations.benchmarks.workers import obey

READY_WITHIN_S: Final = 30.0
POLL_S: Final = 0.01
PROBE_EVERY_S: Final = 0.005
SETTINGS: Final[Mapping[str, Mapping[str, Any]]] = {
    "each on its own": {"appendEntriesUseBatch": False},
    "batches": {"appendEntriesUseBatch": True, "appendEntriesPeriod": 0.005, "autoTickPeriod": 0.001},
}
"""The two ways that it has; its defaults send a batch every 100 ms, which no lone command should wait for."""
Callback = Callable[[Any, Any], None]


class Keys(SyncObj):  # type: ignore[misc]
    """Keys that count their writes, replicated."""

    def __init__(self, own: str, others: list[str], settings: Mapping[str, Any]) -> None:
        self.versions: Counter[str] = Counter()
        self.values: dict[str, bytes] = {}
        super().__init__(own, others, SyncObjConf(**settings))

    @replicated  # type: ignore[untyped-decorator]
    def put(self, key: str, value: bytes) -> int:
        """Write; how often the key was written."""
        self.values[key] = value
        self.versions[key] += 1
        return self.versions[key]


class Load:
    """Callers whose next write begins in the callback of the last: on PySyncObj's own thread, with no hop."""

    def __init__(self, keys: Keys, callers: int, seconds: float, size: int) -> None:
        self._keys, self._callers, self._size = keys, callers, size
        self._begun, self._seconds = time.perf_counter(), seconds
        self._left = callers
        self.durations: list[float] = []
        self.failed: Counter[str] = Counter()
        self.acknowledged: Counter[str] = Counter()
        self.ended = threading.Event()

    def begin(self) -> None:
        """Let every caller write."""
        for caller in range(self._callers):
            self._put(f"bench/{caller:04d}", caller)

    def _put(self, key: str, number: int) -> None:
        begun = time.perf_counter()
        if begun - self._begun >= self._seconds:
            self._left -= 1
            if not self._left:
                self.ended.set()
            return

        def done(_version: int | None, error: int) -> None:
            if error:
                self.failed[f"PySyncObj's reason {error}"] += 1
            else:
                self.durations.append(time.perf_counter() - begun)
                self.acknowledged[key] += 1
            self._put(key, number + self._callers)

        self._keys.put(key, str(number).rjust(self._size, "0").encode(), callback=done)


class Member:
    """Carries out orders."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys
        self._acknowledged: Counter[str] = Counter()
        self._failures = 0

    async def carry_out(self, order: Mapping[str, Any]) -> Mapping[str, Any]:
        """One order."""
        if order.get("leader"):
            status = self._keys.getStatus()
            return {"leads": str(status["leader"]) == str(status["self"]), "ready": self._keys.isReady()}
        if order.get("audit"):
            return {"wrong": self.wrong(), "acknowledged": self._acknowledged.total()}
        if "probe" in order:
            return {"at": await asyncio.to_thread(self.probe, order["probe"])}
        return (await asyncio.to_thread(self.load, order)).to_plain()

    def load(self, order: Mapping[str, Any]) -> Window:
        """A closed loop."""
        load = Load(self._keys, order["callers"], order["seconds"], order["bytes"])
        begun, worked = time.perf_counter(), time.process_time()
        load.begin()
        load.ended.wait(order["seconds"] + READY_WITHIN_S)
        seconds, spent = time.perf_counter() - begun, time.process_time() - worked
        self._acknowledged += load.acknowledged
        self._failures += load.failed.total()
        latency = Latency.of(load.durations)
        return Window(seconds, len(load.durations), latency, spent, failed=counted(load.failed))

    def wrong(self) -> list[str]:
        """Keys that were written less often than was acknowledged, or more often than was asked for."""
        slack = self._failures
        return [
            f"{key} was written {self._keys.versions[key]} times, acknowledged {count}"
            for key, count in self._acknowledged.items()
            if not count <= self._keys.versions[key] <= count + slack
        ][:KEPT_MAX]

    def probe(self, within_s: float) -> float | None:
        """When the first of the writes that begin now was acknowledged; ``None``: none was."""
        answered = threading.Event()
        at: list[float] = []

        def done(_version: int | None, error: int) -> None:
            if not error:
                at.append(time.monotonic())
                answered.set()

        deadline, number = time.monotonic() + within_s, 0
        while not answered.wait(PROBE_EVERY_S) and time.monotonic() < deadline:
            self._keys.put("probe", str(number).encode(), callback=done)
            number += 1
        return at[0] if at else None


async def work(spec: Mapping[str, Any]) -> None:
    """Carry out orders until standard input ends."""
    keys = Keys(spec["own"], spec["others"], spec["settings"])
    await obey(Member(keys).carry_out)
    keys.destroy()


if __name__ == "__main__":
    asyncio.run(work(json.loads(sys.argv[1])))
