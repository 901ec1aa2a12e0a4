"""Circuit breakers against a model that keeps everything and looks at all of it each time."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp.errors import ConfigInvalid
from mcp.flow.breaker import Breaker, BreakerConfig, Breakers, State
from mcp.flow.call_window import SLOTS, LastSeconds
from mcp.flow.limiter import Refused
from mcp.flow.outcome import Outcome

FAULTS = {Outcome.FAILED, Outcome.TIMED_OUT}
CONFIG = BreakerConfig(
    window_calls=6, calls_min=4, slow_after_s=1.0, open_s=2.0, open_max_s=10.0, jitter=0.0, probes=3,
    probe_timeout_s=5.0,
)  # fmt: skip


class Model:
    """The breaker's rules, on complete histories."""

    def __init__(self, config: BreakerConfig) -> None:
        self.config = config
        self.state = State.CLOSED
        self.history: list[tuple[float, bool, bool]] = []
        self.opened = 0
        self.open_until = 0.0
        self.probes: list[dict[str, Any]] = []
        self.generation = 0

    def latest(self, now: float) -> list[tuple[float, bool, bool]]:
        if self.config.window == "calls":
            return self.history[-self.config.window_calls :]
        slot_s = self.config.window_s / SLOTS
        return [call for call in self.history if call[0] // slot_s > now // slot_s - SLOTS]

    def settle(self, now: float) -> None:
        if self.state is State.OPEN and now >= self.open_until:
            self.state, self.probes = State.HALF_OPEN, []
        for probe in self.probes if self.state is State.HALF_OPEN else []:
            if probe["result"] is None and now - probe["begun"] >= self.config.probe_timeout_s:
                probe["result"] = (True, True)
                self.judge(now)

    def judge(self, now: float) -> None:
        if self.state is not State.HALF_OPEN:
            return
        results = [probe["result"] for probe in self.probes if probe["result"] is not None]
        failed, slow = sum(f for f, _ in results), sum(s for _, s in results)
        most = self.config.probes
        if failed / most >= self.config.failure_share or slow / most >= self.config.slow_share:
            self.open(now)
        elif len(results) == most:
            self.state, self.history, self.opened = State.CLOSED, [], 0
            self.generation += 1

    def open(self, now: float) -> None:
        config = self.config
        self.open_until = now + min(config.open_max_s, config.open_s * 2**self.opened)
        self.state, self.opened, self.probes = State.OPEN, self.opened + 1, []

    def admit(self, now: float) -> Any:
        self.settle(now)
        if self.state is State.CLOSED:
            return self.generation
        if self.state is State.OPEN or len(self.probes) == self.config.probes:
            return None
        self.probes.append({"begun": now, "result": None})
        return self.probes[-1]

    def done(self, permit: Any, outcome: Outcome, latency_s: float, now: float) -> None:
        self.settle(now)
        failed, slow = outcome in FAULTS, latency_s >= self.config.slow_after_s
        if isinstance(permit, dict):
            here = [probe is permit for probe in self.probes]
            if any(here) and permit["result"] is None:
                if outcome is Outcome.ABANDONED:
                    del self.probes[here.index(True)]
                else:
                    permit["result"] = (failed, slow)
                    self.judge(now)
        elif self.state is State.CLOSED and permit == self.generation and outcome is not Outcome.ABANDONED:
            self.history.append((now, failed, slow))
            calls = self.latest(now)
            if len(calls) >= self.config.calls_min and (
                sum(f for _, f, _ in calls) / len(calls) >= self.config.failure_share
                or sum(s for _, _, s in calls) / len(calls) >= self.config.slow_share
            ):
                self.open(now)


CONFIGS = st.builds(
    BreakerConfig,
    window=st.sampled_from(["calls", "time"]),
    window_calls=st.integers(4, 8),
    window_s=st.sampled_from([5.0, 10.0]),
    calls_min=st.integers(1, 4),
    failure_share=st.sampled_from([0.25, 0.5, 1.0]),
    slow_share=st.sampled_from([0.5, 1.0]),
    slow_after_s=st.just(1.0),
    open_s=st.just(2.0),
    open_max_s=st.sampled_from([2.0, 5.0, 60.0]),
    jitter=st.just(0.0),
    probes=st.integers(1, 4),
    probe_timeout_s=st.just(5.0),
)
OUTCOMES = st.sampled_from([Outcome.FAILED, *Outcome])
EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("wait"), st.integers(0, 12), st.just(False)),
        st.tuples(st.just("call"), OUTCOMES, st.booleans()),
        st.tuples(st.just("begin"), st.just(0), st.just(False)),
        st.tuples(st.integers(0, 3), OUTCOMES, st.booleans()),
    ),
    max_size=80,
)


@given(CONFIGS, EVENTS)
def test_a_breaker_does_what_its_rules_say(
    config: BreakerConfig, events: list[tuple[Any, Any, bool]]
) -> None:
    breaker, model, now = Breaker(config, random.Random(1)), Model(config), 100.0
    under_way: list[tuple[int, Any]] = []
    for what, detail, slow in events:
        if what == "wait":
            now += detail / 2
            model.settle(now)
        elif what in ("call", "begin"):
            permit, expected = breaker.admit(now), model.admit(now)
            assert isinstance(permit, Refused) == (expected is None)
            if isinstance(permit, Refused):
                check_retry(breaker, permit.retry_after_s, now)
            elif what == "begin":
                under_way.append((permit, expected))
            else:
                breaker.done(permit, detail, 1.0 * slow, now)
                model.done(expected, detail, 1.0 * slow, now)
        elif under_way:
            permit, expected = under_way.pop(what % len(under_way))
            breaker.done(permit, detail, 1.0 * slow, now)
            model.done(expected, detail, 1.0 * slow, now)
        assert breaker.state(now) is model.state


def check_retry(breaker: Breaker, retry_after_s: float, now: float) -> None:
    assert retry_after_s >= 0
    if breaker.state(now) is State.OPEN:
        assert 0 < retry_after_s <= breaker._config.open_max_s


def tripped(config: BreakerConfig = CONFIG, seed: int = 1, at: float = 0.0) -> Breaker:
    breaker = Breaker(config, random.Random(seed))
    for _ in range(config.calls_min):
        permit = breaker.admit(at)
        assert isinstance(permit, int)
        breaker.done(permit, Outcome.FAILED, 0.0, at)
    assert breaker.state(at) is State.OPEN
    return breaker


def test_too_few_calls_never_open_it() -> None:
    breaker = Breaker(CONFIG, random.Random(1))
    for _ in range(3):
        breaker.done(0, Outcome.FAILED, 0.0, 0.0)
    assert breaker.state(0.0) is State.CLOSED
    breaker.done(0, Outcome.SUCCEEDED, 0.0, 0.0)
    assert breaker.state(0.0) is State.OPEN, "three of four have failed"


def test_slow_calls_open_it_though_they_succeed() -> None:
    breaker = Breaker(replace(CONFIG, slow_share=0.5), random.Random(1))
    for latency_s in (0.1, 1.0, 0.99, 1.0):
        breaker.done(0, Outcome.SUCCEEDED, latency_s, 0.0)
    assert breaker.state(0.0) is State.OPEN


def test_half_open_lets_exactly_the_probes_through() -> None:
    breaker = tripped()
    assert breaker.admit(1.999) == Refused(pytest.approx(0.001))
    permits = [breaker.admit(2.0) for _ in range(10)]
    assert [isinstance(permit, int) for permit in permits] == [True] * 3 + [False] * 7
    for permit in permits[:3]:
        assert breaker.state(2.1) is State.HALF_OPEN
        assert isinstance(permit, int)
        breaker.done(permit, Outcome.SUCCEEDED, 0.0, 2.1)
    assert breaker.state(2.1) is State.CLOSED


def test_it_stays_open_twice_as_long_each_time_up_to_a_limit_and_begins_anew_once_closed() -> None:
    breaker, now, lengths = tripped(), 0.0, []
    for _ in range(5):
        refused = breaker.admit(now)
        assert isinstance(refused, Refused)
        lengths.append(refused.retry_after_s)
        now += refused.retry_after_s
        for _ in range(2):
            permit = breaker.admit(now)
            assert isinstance(permit, int)
            breaker.done(permit, Outcome.FAILED, 0.0, now)
    assert lengths == [2.0, 4.0, 8.0, 10.0, 10.0]
    now += 10.0
    for _ in range(3):
        permit = breaker.admit(now)
        assert isinstance(permit, int)
        breaker.done(permit, Outcome.SUCCEEDED, 0.0, now)
    for _ in range(4):
        permit = breaker.admit(now)
        assert isinstance(permit, int)
        breaker.done(permit, Outcome.FAILED, 0.0, now)
    assert breaker.admit(now) == Refused(2.0)


def test_jitter_takes_off_up_to_its_share_and_comes_from_the_generator() -> None:
    config = replace(CONFIG, jitter=0.5)
    waits = [tripped(config, seed).admit(0.0) for seed in range(50)]
    seconds = [wait.retry_after_s for wait in waits if isinstance(wait, Refused)]
    assert len(set(seconds)) > 40
    assert 1.0 <= min(seconds) < 1.3
    assert 1.7 < max(seconds) <= 2.0
    assert tripped(config, 7).admit(0.0) == waits[7]


def test_what_was_begun_before_it_changed_is_not_counted() -> None:
    breaker = Breaker(CONFIG, random.Random(1))
    old = [breaker.admit(0.0) for _ in range(20)]
    for permit in old[:4]:
        assert isinstance(permit, int)
        breaker.done(permit, Outcome.FAILED, 0.0, 0.0)
    for _ in range(3):
        probe = breaker.admit(2.0)
        assert isinstance(probe, int)
        breaker.done(probe, Outcome.SUCCEEDED, 0.0, 2.0)
    for permit in old[4:]:
        assert isinstance(permit, int)
        breaker.done(permit, Outcome.FAILED, 9.0, 2.0)
    assert breaker.state(2.0) is State.CLOSED


def test_a_probe_that_never_ends_does_not_keep_it_half_open() -> None:
    breaker = tripped()
    assert isinstance(breaker.admit(2.0), int)
    assert isinstance(breaker.admit(2.0), int)
    assert breaker.state(6.9) is State.HALF_OPEN
    assert breaker.state(7.0) is State.OPEN


def test_a_clock_that_goes_back_does_not_open_the_way() -> None:
    breaker = tripped(at=100.0)
    assert isinstance(breaker.admit(50.0), Refused)
    assert isinstance(breaker.admit(101.9), Refused)
    assert isinstance(breaker.admit(102.0), int)


def test_a_window_of_time_keeps_few_slots_however_many_calls_there_are() -> None:
    window = LastSeconds(10.0)
    for number in range(5000):
        window.add(number / 100, number % 4)
    assert len(window._slots) <= SLOTS
    assert 900 <= window.calls <= 1000
    assert window.failed == window.slow == window.calls // 2


def test_a_table_of_breakers_is_bounded_and_rather_forgets_one_that_is_closed() -> None:
    table = Breakers(lambda model: None if model == "free" else CONFIG, random.Random(1), 3)
    assert table.of("n1", "free", 0.0) is None
    broken = table.of("n1", "m", 0.0)
    assert broken is not None
    for _ in range(4):
        broken.done(0, Outcome.FAILED, 0.0, 0.0)
    for node in ("n2", "n3", "n4", "n5"):
        assert table.of(node, "m", 0.0) is not None
    assert len(table) == 3
    assert table.of("n1", "m", 0.0) is broken
    assert table.states(0.0)["n1", "m"] is State.OPEN
    table.forget("m")
    assert len(table) == 0


@pytest.mark.parametrize(
    "make",
    [
        lambda: BreakerConfig(window="days"),  # type: ignore[arg-type]
        lambda: BreakerConfig(window_calls=0),
        lambda: BreakerConfig(window_calls=10, calls_min=11),
        lambda: BreakerConfig(calls_min=0),
        lambda: BreakerConfig(failure_share=0.0),
        lambda: BreakerConfig(slow_share=1.1),
        lambda: BreakerConfig(slow_after_s=0.0),
        lambda: BreakerConfig(open_s=5.0, open_max_s=4.0),
        lambda: BreakerConfig(jitter=1.0),
        lambda: BreakerConfig(probes=0),
    ],
)
def test_a_configuration_that_makes_no_sense_is_refused(make: Callable[[], object]) -> None:
    with pytest.raises(ConfigInvalid):
        make()
