"""The timer of open loops: finer than a loop's own, in the loop's own thread."""

from __future__ import annotations

import asyncio
import threading
import time
from itertools import pairwise

from simulations.benchmarks.pacing import Alarm


def test_an_alarm_rings_when_its_time_has_come_and_again_when_it_is_set_anew() -> None:
    rung: list[float] = []

    async def scenario() -> None:
        over = asyncio.Event()

        def ring() -> None:
            rung.append(time.perf_counter())
            if len(rung) == 3:
                over.set()
            else:
                alarm.set(rung[-1] + 0.0002)

        alarm = Alarm(ring)
        begun = time.perf_counter()
        alarm.set(begun + 0.01)
        await over.wait()
        alarm.close()
        assert rung[0] >= begun + 0.01
        assert all(later - earlier >= 0.0002 for earlier, later in pairwise(rung))

    asyncio.run(scenario())


def test_an_alarm_for_what_is_over_rings_at_once_and_in_the_thread_of_the_loop() -> None:
    async def scenario() -> int:
        rung: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        alarm = Alarm(lambda: rung.set_result(threading.get_ident()))
        alarm.set(time.perf_counter() - 5)
        try:
            return await rung
        finally:
            alarm.close()

    assert asyncio.run(scenario()) == threading.get_ident()


def test_an_alarm_that_was_closed_is_silent() -> None:
    rung: list[None] = []

    async def scenario() -> None:
        alarm = Alarm(lambda: rung.append(None))
        alarm.set(time.perf_counter() - 5)
        alarm.close()
        other = asyncio.Event()
        later = Alarm(other.set)
        later.set(time.perf_counter())
        await other.wait()
        later.close()

    asyncio.run(scenario())
    assert not rung
