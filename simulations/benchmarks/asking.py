"""Load from many callers in one process: closed loops, and an open loop that never waits for answers."""

from __future__ import annotations

import asyncio
import math
import re
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from simulations.benchmarks.pacing import Alarm
from simulations.benchmarks.windows import Latency, Window, counted

Ask = Callable[[int], Awaitable[Any]]
"""Asks for the number of a request, and returns the answer or raises."""
Check = Callable[[int, Any], str | None]
"""What is wrong with the answer to a request of that number; ``None``: nothing."""

REASON_CHARS_MAX: Final = 120
"""So much of a failure's text is kept, without its numbers: one reason has other seconds each time."""
KEPT_MAX: Final = 4096
"""So many answers of a window are kept, and checked when it is over; checking must not be timed."""
IN_FLIGHT_MAX: Final = 4096
"""An open loop with more requests unanswered than this fails further ones itself."""
PAUSE_AFTER_FAILURE_S: Final = 0.01
DRAIN_S: Final = 10.0
"""How long answers are waited for when an open loop has sent everything."""
_NUMBER: Final = re.compile(r"\d+(?:\.\d+)?")


@dataclass(slots=True)
class _Tally:
    durations: list[float] = field(default_factory=list)
    failed: Counter[str] = field(default_factory=Counter)
    kept: list[tuple[int, Any]] = field(default_factory=list)

    async def time(self, ask: Ask, number: int, since: float) -> None:
        try:
            answer = await ask(number)
        except Exception as error:
            self.fail(error)
        else:
            self.answer(number, answer, since)

    def answer(self, number: int, answer: object, since: float) -> None:
        self.durations.append(time.perf_counter() - since)
        if len(self.kept) < KEPT_MAX:
            self.kept.append((number, answer))

    def fail(self, error: Exception) -> None:
        self.failed[_NUMBER.sub("#", f"{type(error).__name__}: {error}")[:REASON_CHARS_MAX]] += 1

    def window(self, seconds: float, client_s: float, check: Check) -> Window:
        wrong = [told for number, answer in self.kept if (told := check(number, answer)) is not None]
        return Window(
            seconds,
            len(self.durations),
            Latency.of(self.durations),
            client_s,
            failed=counted(self.failed),
            wrong=tuple(wrong[:10]),
        )


async def closed_loop(
    ask: Ask, check: Check, callers: int, seconds: float, requests_max: float = math.inf
) -> Window:
    """``callers`` ask, each again as soon as it has its answer, for ``seconds`` or until enough was asked."""
    tally = _Tally()
    begun, worked = time.perf_counter(), time.process_time()
    ends = begun + seconds

    async def caller(number: int) -> None:
        while number < requests_max and (since := time.perf_counter()) < ends:
            try:
                answer = await ask(number)  # here, for another coroutine around it costs what others measure
            except Exception as error:
                tally.fail(error)
                await asyncio.sleep(PAUSE_AFTER_FAILURE_S)
            else:
                tally.answer(number, answer, since)
            number += callers

    async with asyncio.TaskGroup() as group:
        for first in range(callers):
            group.create_task(caller(first))
    return tally.window(time.perf_counter() - begun, time.process_time() - worked, check)


async def open_loop(ask: Ask, check: Check, arrivals: Sequence[float]) -> Window:
    """Ask when each request is due (offsets in seconds), and count its time from then.

    ``seconds`` of the window end with the last answer, or :data:`DRAIN_S` after the last arrival.
    """
    tally, loop = _Tally(), asyncio.get_running_loop()
    tasks: set[asyncio.Task[None]] = set()
    finished = asyncio.Event()
    begun, worked = time.perf_counter() + 0.01, time.process_time()
    sent = 0

    def send(number: int) -> None:
        if len(tasks) >= IN_FLIGHT_MAX:
            tally.failed[f"{IN_FLIGHT_MAX} requests were unanswered"] += 1
            return
        task = loop.create_task(tally.time(ask, number, begun + arrivals[number]))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    def those_due() -> None:
        nonlocal sent
        now = time.perf_counter() - begun
        while sent < len(arrivals) and arrivals[sent] <= now:
            send(sent)
            sent += 1
        if sent < len(arrivals):
            alarm.set(begun + arrivals[sent])
        else:
            finished.set()

    alarm = Alarm(those_due)
    alarm.set(begun)
    try:
        await finished.wait()
    finally:
        alarm.close()
    late = (await asyncio.wait(tasks, timeout=DRAIN_S))[1] if tasks else ()
    seconds, spent = time.perf_counter() - begun, time.process_time() - worked
    for task in list(late):
        task.cancel()
        tally.failed[f"no answer {DRAIN_S:.0f} s after the last request"] += 1
    await asyncio.gather(*late, return_exceptions=True)
    return tally.window(seconds, spent, check)
