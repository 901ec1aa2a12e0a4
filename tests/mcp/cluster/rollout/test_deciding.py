"""The decision, by cases, against exact probabilities, and in whole simulated rollouts."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcp.cluster.rollout.deciding import (
    CHANCE_MAX,
    COMPARED_MIN,
    Action,
    Plan,
    decide,
    is_certain,
    relative_entropy,
)
from mcp.cluster.rollout.figures import Figures

PLAN = Plan((5, 20, 50, 100), 0.01, 1.5, 30.0, 50)
STEPS = len(PLAN.steps)


def figures(succeeded: int = 0, failed: int = 0, *, seconds: float = 0.01, slow: int = 0) -> Figures:
    found = Figures()
    for place in range(succeeded):
        found.succeeded(1.0 if place < slow else seconds)
    for _ in range(failed):
        found.failed()
    return found


def decided(new: Figures, old: Figures | None = None, *, step: int = 1, passed_s: float = 31.0) -> Action:
    return decide(PLAN, step, 100.0, 100.0 + passed_s, new, old or figures(200)).action


# -- cases --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("new", "action"),
    [
        (figures(), Action.WAIT),
        (figures(49), Action.WAIT),
        (figures(50), Action.ADVANCE),
        # One failure of three proves nothing, and three of fifteen do.
        (figures(2, 1), Action.WAIT),
        (figures(12, 3), Action.ROLL_BACK),
        # One of fifty is too much, but may be chance; one of a hundred is what is allowed.
        (figures(49, 1), Action.WAIT),
        (figures(99, 1), Action.ADVANCE),
        (figures(1000, 100), Action.ROLL_BACK),
        # The old version's 99th percentile is 10 ms.
        (figures(50, slow=1), Action.WAIT),
        (figures(100, slow=1), Action.ADVANCE),
        (figures(50, slow=10), Action.ROLL_BACK),
        (figures(30, slow=10), Action.WAIT),
        (figures(60, seconds=0.014), Action.ADVANCE),
        (figures(60, seconds=0.02), Action.ROLL_BACK),
    ],
)
def test_what_is_decided(new: Figures, action: Action) -> None:
    assert decided(new) is action


def test_it_says_what_it_waits_for() -> None:
    nothing = decide(PLAN, 1, 0.0, 1e6, figures(), figures(1000))
    assert nothing.for_requests
    assert nothing.reason == "no requests yet: it waits for traffic"
    early = decide(PLAN, 1, 100.0, 110.5, figures(60), figures(1000))
    assert (early.action, early.for_requests) == (Action.WAIT, False)
    assert early.reason == "all is well; the step takes 20 s more"
    assert decide(PLAN, 1, 0.0, 1e6, figures(49), figures(1000)).reason == "49 of min_requests=50 requests"


def test_the_trial_has_no_interval_and_the_last_step_ends_it() -> None:
    assert decided(figures(60), step=0, passed_s=0.0) is Action.ADVANCE
    assert decided(figures(60), step=1, passed_s=0.0) is Action.WAIT
    assert decided(figures(60), step=STEPS - 1) is Action.ADVANCE
    assert decided(figures(60), step=STEPS) is Action.FINISH
    assert decided(figures(60), step=STEPS, passed_s=29.0) is Action.WAIT


def test_latencies_are_compared_with_enough_of_the_old_ones_only() -> None:
    slow = figures(60, seconds=5.0)
    assert decided(slow, figures(COMPARED_MIN - 1)) is Action.ADVANCE
    assert decided(slow, figures(COMPARED_MIN)) is Action.ROLL_BACK
    # How long failures took says nothing: a version that fails at once is not quick.
    assert decided(figures(60), figures(0, COMPARED_MIN)) is Action.ADVANCE


def test_no_failure_at_all_may_be_wanted() -> None:
    strict = replace(PLAN, max_error=0.0)
    assert decide(strict, 1, 0.0, 1.0, figures(500, 1), figures()).action is Action.ROLL_BACK
    lenient = replace(PLAN, max_error=1.0)
    assert decide(lenient, 1, 0.0, 31.0, figures(0, 500), figures()).action is Action.ADVANCE


# -- certainty ----------------------------------------------------------------------------------------------


def tail(events: int, of: int, share: float) -> float:
    """The exact probability of so many events or more."""
    return math.fsum(math.comb(of, k) * share**k * (1 - share) ** (of - k) for k in range(events, of + 1))


@given(st.integers(1, 200), st.integers(0, 200), st.floats(0.001, 0.5))
def test_what_is_certain_is_improbable_and_what_is_not_is_not_much_less(
    of: int, events: int, share: float
) -> None:
    events = min(events, of)
    exact = tail(events, of, share)
    if is_certain(events, of, share):
        assert exact <= CHANCE_MAX * (1 + 1e-9)
    elif events > share * of:
        # The bound is above the exact value by a factor that grows with the root of the number only.
        assert exact >= CHANCE_MAX / (10 * math.sqrt(of) + 10)


@given(st.integers(1, 1000), st.integers(0, 1000), st.floats(0.0, 0.99))
def test_more_events_are_no_less_certain_and_more_requests_no_more(
    of: int, events: int, share: float
) -> None:
    events = min(events, of)
    if is_certain(events, of, share):
        assert is_certain(min(of, events + 1), of, share)
    else:
        assert not is_certain(events, of + 1, share)


@given(st.floats(0.0, 1.0), st.floats(0.001, 0.999))
def test_the_relative_entropy_is_above_the_square_of_the_difference(seen: float, expected: float) -> None:
    # Pinsker's inequality, which the bound is an improvement of.
    assert relative_entropy(seen, expected) >= 2 * (seen - expected) ** 2 - 1e-12


# -- whole rollouts -----------------------------------------------------------------------------------------


def rolled_out(seed: int, *, fails: float, slower: float = 1.0, per_look: int = 40) -> tuple[str, int, int]:
    """Simulate a rollout request by request: how it ended, how many requests there were, how many hit it."""
    draw = random.Random(seed)
    step, now, since, requests, hit = 0, 0.0, 0.0, 0, 0
    new, old = Figures(), Figures()
    plan = replace(PLAN, interval_s=2.0)
    for _ in range(5000):
        share = plan.steps[0] / 2 if step == 0 else plan.steps[step - 1]
        for _ in range(per_look):
            requests += 1
            seconds = draw.lognormvariate(-4.6, 0.2)
            if draw.random() * 100 >= share:
                old.succeeded(seconds)
                continue
            hit += 1
            if draw.random() < fails:
                new.failed()
            else:
                new.succeeded(seconds * slower)
        now += 0.5
        verdict = decide(plan, step, since, now, new, old)
        if verdict.action is Action.ADVANCE:
            step, since, new = step + 1, now, Figures()
        elif verdict.action is not Action.WAIT:
            return verdict.action.value, requests, hit
    return f"step {step}", requests, hit


def test_a_version_that_fails_one_of_five_is_found_out_before_a_twentieth_has_hit_it() -> None:
    ended = [rolled_out(seed, fails=0.2) for seed in range(300)]
    assert {how for how, _, _ in ended} == {"roll_back"}
    shares = [hit / requests for _, requests, hit in ended]
    assert sum(share > 0.05 for share in shares) <= 0.05 * len(shares)
    assert sum(hit for _, _, hit in ended) <= 0.03 * sum(requests for _, requests, _ in ended)


def test_a_version_that_fails_half_as_often_as_it_may_is_not_rolled_back() -> None:
    ended = [rolled_out(seed, fails=0.005, per_look=200)[0] for seed in range(60)]
    assert ended.count("finish") >= 57


def test_a_slower_version_is_found_out_and_an_equal_one_is_not() -> None:
    assert {rolled_out(seed, fails=0.0, slower=2.0)[0] for seed in range(40)} == {"roll_back"}
    ended = [rolled_out(seed, fails=0.0)[0] for seed in range(60)]
    assert ended.count("finish") >= 58


@settings(max_examples=30)
@given(st.integers(0, 2**32), st.sampled_from((0.0, 0.002, 0.05, 0.5, 1.0)), st.integers(20, 200))
def test_a_rollout_with_traffic_ends(seed: int, fails: float, per_look: int) -> None:
    how, _, _ = rolled_out(seed, fails=fails, per_look=per_look)
    assert how in ("finish", "roll_back")
    assert how == "roll_back" or fails < 0.5
