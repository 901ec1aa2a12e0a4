"""Every limiter against its definition, checked by brute force; and what all of them promise."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from mcp.errors import ConfigInvalid, InvalidArgument
from mcp.flow.buckets import LeakyBucket, LeakyQueue, TokenBucket
from mcp.flow.limiter import ADMITTED, AMOUNT_MAX, TICKS_PER_S, Admitted, Limiter, Rate, Refused
from mcp.flow.window import LOG_ENTRIES_MAX, SlidingWindow

TICK_S = 1 / TICKS_PER_S
STEP = Fraction(1, 64)
"""A time that both floats and ticks have exactly."""

RATES = st.builds(Rate, st.integers(1, 12), st.sampled_from([0.25, 1.0, 3.0, 10.0]))
# Steps are 64ths of a second; some go back.
EVENTS = st.lists(
    st.tuples(st.one_of(st.integers(0, 40), st.just(0), st.integers(-60, -1)), st.integers(1, 5)),
    max_size=60,
)
EACH: dict[str, Callable[[], Limiter]] = {
    "token bucket": lambda: TokenBucket(Rate(5, 2.0), 8),
    "leaky bucket": lambda: LeakyBucket(Rate(5, 2.0), 8),
    "leaky queue": lambda: LeakyQueue(Rate(5, 2.0), 7),
    "sliding window": lambda: SlidingWindow(Rate(8, 2.0)),
}
every_limiter = pytest.mark.parametrize("make", EACH.values(), ids=EACH)


class Bounded:
    """Any bucket by its definition: no stretch of time ever has more than burst and rate allow."""

    def __init__(self, rate: Rate, burst: int) -> None:
        self.rate = Fraction(rate.amount) / Fraction(rate.per_s)
        self.burst = burst
        self.admitted: list[tuple[Fraction, int]] = []

    def admits(self, now: Fraction, cost: int) -> bool:
        total = cost
        fits = total <= self.burst
        for at, spent in reversed(self.admitted):
            total += spent
            fits = fits and total <= self.burst + self.rate * (now - at)
        if fits:
            self.admitted.append((now, cost))
        return fits


class Window:
    """The sliding window by its definition."""

    def __init__(self, rate: Rate) -> None:
        self.amount, self.per_s = rate.amount, Fraction(rate.per_s)
        self.admitted: list[tuple[Fraction, int]] = []

    def within(self, now: Fraction, length_s: Fraction) -> int:
        return sum(cost for at, cost in self.admitted if now - at < length_s)

    def admits(self, now: Fraction, cost: int) -> bool:
        fits = self.within(now, self.per_s) + cost <= self.amount
        if fits:
            self.admitted.append((now, cost))
        return fits


def check(limiter: Limiter, model: Any, events: list[tuple[int, int]]) -> None:
    now, latest = Fraction(100), Fraction(0)
    for steps, cost in events:
        now += steps * STEP
        latest = max(latest, now)
        before = limiter.copy()
        verdict = limiter.admit(float(now), cost)
        assert isinstance(verdict, Admitted) == model.admits(latest, cost)
        if isinstance(verdict, Refused):
            check_retry(before, float(now), cost, verdict.retry_after_s)


def check_retry(limiter: Limiter, now: float, cost: int, retry_after_s: float) -> None:
    """The time to retry is when it would be let in, and no earlier."""
    assert retry_after_s > 0
    if retry_after_s == math.inf:
        assert isinstance(limiter.admit(now + 1e9, cost), Refused)
        return
    assert isinstance(limiter.copy().admit(now + retry_after_s - 3 * TICK_S, cost), Refused)
    assert isinstance(limiter.copy().admit(now + retry_after_s, cost), Admitted)


@given(RATES, st.integers(1, 12), EVENTS)
def test_a_token_bucket_admits_exactly_what_rate_and_burst_allow(
    rate: Rate, burst: int, events: list[tuple[int, int]]
) -> None:
    check(TokenBucket(rate, burst), Bounded(rate, burst), events)


@given(RATES, st.integers(1, 12), EVENTS)
def test_a_leaky_bucket_admits_exactly_what_rate_and_capacity_allow(
    rate: Rate, capacity: int, events: list[tuple[int, int]]
) -> None:
    check(LeakyBucket(rate, capacity), Bounded(rate, capacity), events)


@given(RATES, EVENTS)
def test_a_sliding_window_admits_exactly_its_amount_in_any_window(
    rate: Rate, events: list[tuple[int, int]]
) -> None:
    check(SlidingWindow(rate), Window(rate), events)


@given(RATES, st.integers(0, 12), EVENTS)
def test_a_leaky_queue_gives_everybody_the_turn_that_a_queue_would(
    rate: Rate, waiting_max: int, events: list[tuple[int, int]]
) -> None:
    queue, now, latest, free_at = LeakyQueue(rate, waiting_max), Fraction(100), Fraction(0), Fraction(0)
    each_s = Fraction(rate.per_s) / rate.amount
    for steps, cost in events:
        now += steps * STEP
        latest = max(latest, now)
        turn = max(latest, free_at)
        verdict = queue.admit(float(now), cost)
        fits = (turn - latest) / each_s + cost <= waiting_max + 1
        assert isinstance(verdict, Admitted) == fits
        if isinstance(verdict, Admitted):
            free_at = turn + cost * each_s
            assert -1e-12 < Fraction(verdict.wait_s) - (turn - now) < 2 * TICK_S


@given(
    st.integers(LOG_ENTRIES_MAX + 1, 3 * LOG_ENTRIES_MAX),
    st.lists(
        st.tuples(st.one_of(st.integers(0, 4000), st.integers(1_990_000, 2_001_000)), st.integers(1, 1500)),
        max_size=80,
    ),
)
def test_a_large_window_never_holds_more_and_forgets_a_slot_late_at_most(
    amount: int, events: list[tuple[int, int]]
) -> None:
    rate, ticks = Rate(amount, 2.0), 0
    window, model = SlidingWindow(rate), Window(rate)
    slot_s = Fraction(2) / LOG_ENTRIES_MAX + Fraction(1, TICKS_PER_S)
    for steps, cost in events:
        ticks += steps
        now = Fraction(ticks, TICKS_PER_S)
        # In the middle of the tick, where no rounding of the float makes another of it.
        if isinstance(window.admit((ticks + 0.5) / TICKS_PER_S, cost), Admitted):
            assert model.admits(now, cost)
        else:
            assert model.within(now, model.per_s + slot_s) + cost > amount
        assert len(window._log) <= LOG_ENTRIES_MAX + 1


@every_limiter
@pytest.mark.parametrize("at", [0.0, 0.1, 12345.678, 1.7e9])
def test_a_burst_of_n_admits_exactly_n(make: Callable[[], Limiter], at: float) -> None:
    limiter = make()
    assert sum(isinstance(limiter.admit(at), Admitted) for _ in range(100)) == 8


@pytest.mark.parametrize("make", [TokenBucket, LeakyBucket])
def test_a_burst_is_exact_where_a_request_is_the_smallest_part(make: Callable[..., Limiter]) -> None:
    limiter = make(Rate(1, TICK_S), 8)
    assert sum(isinstance(limiter.admit(5.0), Admitted) for _ in range(100)) == 8


def test_what_was_let_in_counts_until_a_window_later_and_not_then() -> None:
    window = SlidingWindow(Rate(1, 2.0))
    assert [window.admit(at) is ADMITTED for at in (0.0, 1.999999, 2.0)] == [True, False, True]


@pytest.mark.parametrize("rate", [Rate(3), Rate(7, 0.3), Rate(1000), Rate(1, 3600.0), Rate(999_999)])
def test_no_rounding_adds_up(rate: Rate) -> None:
    """Asked at every time that it names, a bucket lets in exactly its rate in the long run."""
    bucket, now, count = TokenBucket(rate, 1), 1e6, 0
    until = now + 2000 * rate.per_s / rate.amount
    while now < until:
        verdict = bucket.admit(now)
        count += verdict is ADMITTED
        now += verdict.retry_after_s if isinstance(verdict, Refused) else 0.0
    # Each turn is found within two ticks, and none of them is found twice.
    slow = 2000 * (3 * TICK_S) / (rate.per_s / rate.amount + 3 * TICK_S)
    assert 2000 - slow <= count <= 2001


@every_limiter
@settings(max_examples=40)
@given(st.lists(st.tuples(st.floats(0, 5), st.integers(1, 3), st.booleans()), max_size=30))
def test_what_is_undone_was_never_admitted(
    make: Callable[[], Limiter], events: list[tuple[float, int, bool]]
) -> None:
    limiter, other, now = make(), make(), 10.0
    for pause_s, cost, undone in events:
        now += pause_s
        if not undone:
            assert limiter.admit(now, cost) == other.admit(now, cost)
        elif isinstance(limiter.admit(now, cost), Admitted):
            limiter.undo(cost)


@every_limiter
@settings(max_examples=40)
@given(st.lists(st.tuples(st.floats(0, 2), st.integers(1, 3)), max_size=20), st.floats(0, 5))
def test_an_idle_limiter_is_as_good_as_new(
    make: Callable[[], Limiter], events: list[tuple[float, int]], pause_s: float
) -> None:
    limiter, now = make(), 10.0
    assert limiter.idle(now)
    for wait_s, cost in events:
        now += wait_s
        limiter.admit(now, cost)
    now += pause_s
    assume(limiter.idle(now))
    fresh = make()
    for _ in range(12):
        assert limiter.admit(now) == fresh.admit(now)


@every_limiter
def test_a_used_limiter_is_not_idle_until_all_of_it_has_passed(make: Callable[[], Limiter]) -> None:
    limiter = make()
    for _ in range(8):
        limiter.admit(10.0)
    assert not limiter.idle(11.99)
    assert limiter.idle(13.3)
    assert not limiter.idle(0.0)


@every_limiter
def test_a_clock_that_goes_back_gives_nothing(make: Callable[[], Limiter]) -> None:
    limiter = make()
    while isinstance(limiter.admit(1000.0), Admitted):
        pass
    assert all(isinstance(limiter.admit(1000.0 - back), Refused) for back in range(1000))
    assert all(isinstance(limiter.admit(999.0 + s / 100), Refused) for s in range(100))


@every_limiter
@pytest.mark.parametrize("cost", [0, -1, -(10**9)])
def test_what_would_give_instead_of_take_is_refused(make: Callable[[], Limiter], cost: int) -> None:
    limiter = make()
    limiter.admit(1.0)
    with pytest.raises(InvalidArgument, match="costs 1 at least"):
        limiter.admit(1.0, cost)
    assert sum(isinstance(limiter.admit(1.0), Admitted) for _ in range(20)) == 7


@every_limiter
def test_a_copy_goes_its_own_way(make: Callable[[], Limiter]) -> None:
    limiter = make()
    limiter.admit(1.0, 3)
    other = limiter.copy()
    assert sum(isinstance(other.admit(1.0), Admitted) for _ in range(20)) == 5
    assert sum(isinstance(limiter.admit(1.0), Admitted) for _ in range(20)) == 5


@pytest.mark.parametrize(
    "make",
    [
        lambda: Rate(0),
        lambda: Rate(AMOUNT_MAX + 1),
        lambda: Rate(True),
        lambda: Rate(1, 0.0),
        lambda: Rate(1, -1.0),
        lambda: Rate(1, math.nan),
        lambda: Rate(1, math.inf),
        lambda: TokenBucket(Rate(1), 0),
        lambda: LeakyBucket(Rate(1), AMOUNT_MAX + 1),
        lambda: LeakyQueue(Rate(1), -1),
    ],
)
def test_what_is_no_limit_is_refused(make: Callable[[], object]) -> None:
    with pytest.raises(ConfigInvalid):
        make()
