"""Loads: when requests are due, how long they took, and that nobody's waiting is left out."""

from __future__ import annotations

import asyncio
import json
import statistics
import time
from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulations.benchmarks import asking
from simulations.benchmarks.arrivals import poisson
from simulations.benchmarks.asking import closed_loop, open_loop
from simulations.benchmarks.windows import REASONS_MAX, Latency, Window, counted


def right(_number: int, _answer: object) -> None:
    return None


@given(st.floats(1.0, 500.0), st.floats(0.1, 5.0), st.integers(0, 2**32))
def test_arrivals_are_in_order_within_their_time_and_the_same_for_a_seed(
    rate: float, seconds: float, seed: int
) -> None:
    due = poisson(rate, seconds, seed)
    assert due == sorted(due)
    assert all(0 <= offset < seconds for offset in due)
    assert due == poisson(rate, seconds, seed)


def test_arrivals_come_at_their_rate_and_as_irregularly_as_those_of_independent_callers() -> None:
    due = poisson(1000.0, 20.0, seed=1)
    gaps = [later - earlier for earlier, later in pairwise(due)]
    assert len(due) == pytest.approx(20_000, rel=0.03)
    # An exponential distribution's deviation is its mean; evenly spaced arrivals would have none.
    assert statistics.pstdev(gaps) == pytest.approx(statistics.fmean(gaps), rel=0.05)


def test_an_open_loop_asks_when_requests_are_due_and_counts_their_time_from_then() -> None:
    """The server stalls until the last request has come: a closed loop would never send that one."""
    arrivals = [0.0, 0.01, 0.02, 0.03, 0.05]

    async def scenario() -> Window:
        asked, all_there = Counter[int](), asyncio.Event()

        async def ask(number: int) -> None:
            asked[number] += 1
            if len(asked) == len(arrivals):
                all_there.set()
            await all_there.wait()

        return await open_loop(ask, right, arrivals)

    window = asyncio.run(scenario())
    assert (window.done, window.failures) == (5, 0)
    assert window.latency is not None
    # The first one waited at least until the last was due.
    assert window.latency.max >= arrivals[-1]
    # The one before the last no less than from its own turn on: nobody's wait is left out.
    assert window.latency.p50 >= arrivals[-1] - arrivals[2]


def test_a_request_that_is_sent_late_because_the_client_stalled_has_waited_since_it_was_due() -> None:
    async def ask(number: int) -> None:
        stall = time.perf_counter() + 0.05
        while number == 0 and time.perf_counter() < stall:
            pass

    window = asyncio.run(open_loop(ask, right, [0.0, 0.01, 0.02, 0.03]))
    assert window.latency is not None
    # The last was due 0.03 s after the first, which held everybody up for 0.05 s.
    assert window.latency.p10 >= 0.05 - 0.03


def test_an_open_loop_counts_what_failed_and_what_it_would_not_send(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "IN_FLIGHT_MAX", 2)

    async def scenario() -> Window:
        refused = asyncio.Event()

        async def ask(number: int) -> None:
            if number == 0:
                raise ValueError("no; again in 0.25 s, after 3 others")
            await refused.wait()

        def check(_number: int, _answer: object) -> None:
            return None

        loop = asyncio.get_running_loop()
        running = loop.create_task(open_loop(ask, check, [0.0, 0.02, 0.02, 0.03, 0.04]))
        loop.call_later(0.3, refused.set)
        return await running

    window = asyncio.run(scenario())
    assert window.done == 2
    # The same reason with other numbers is the same reason.
    reason = "ValueError: no; again in # s, after # others"
    assert window.failed == {"2 requests were unanswered": 2, reason: 1}


def test_a_closed_loop_has_as_many_requests_under_way_as_callers_and_ends_at_its_count() -> None:
    async def scenario() -> tuple[Window, int, Counter[int]]:
        under_way = most = 0
        asked = Counter[int]()

        async def ask(number: int) -> int:
            nonlocal under_way, most
            asked[number] += 1
            under_way += 1
            most = max(most, under_way)
            await asyncio.sleep(0)
            under_way -= 1
            return number

        window = await closed_loop(ask, right, callers=7, seconds=3600.0, requests_max=50)
        return window, most, asked

    window, most, asked = asyncio.run(scenario())
    assert most == 7
    assert (window.done, window.failures) == (50, 0)
    assert asked == Counter(range(50))


def test_answers_that_are_wrong_are_told() -> None:
    async def ask(number: int) -> int:
        return number * 2

    def check(number: int, answer: object) -> str | None:
        return None if answer == number * 2 and number != 3 else f"{number} was answered {answer}"

    window = asyncio.run(closed_loop(ask, check, callers=1, seconds=60.0, requests_max=6))
    assert window.wrong == ("3 was answered 6",)


@given(st.lists(st.floats(1e-6, 10.0), min_size=1))
def test_percentiles_rise_and_are_among_the_durations(durations: list[float]) -> None:
    latency = Latency.of(durations)
    assert latency is not None
    values = [latency.p10, latency.p50, latency.p90, latency.p99, latency.p999, latency.max]
    assert values == sorted(values)
    assert set(values) <= set(durations)
    assert latency.max == max(durations)


def test_nothing_has_no_percentiles() -> None:
    assert Latency.of([]) is None


@given(st.lists(st.floats(1e-6, 10.0)), st.integers(0, 9))
def test_a_window_survives_the_way_from_another_process(durations: list[float], failed: int) -> None:
    window = Window(
        2.0, len(durations), Latency.of(durations), 0.5, 0.25, {"lost": failed}, ("row 3 is another",)
    )
    assert Window.from_plain(json.loads(json.dumps(window.to_plain()))) == window
    assert window.rate == len(durations) / 2
    assert window.failures == failed
    assert window.per_request_us(1.0) == (pytest.approx(1e6 / len(durations)) if durations else None)


def test_rare_reasons_are_counted_together() -> None:
    reasons = Counter({f"reason {number}": 100 - number for number in range(REASONS_MAX + 5)})
    told = counted(reasons)
    assert len(told) == REASONS_MAX + 1
    assert sum(told.values()) == reasons.total()
    assert counted(Counter({"one": 3})) == {"one": 3}
