"""What is done instead, answers that are kept, and the errors of those who are refused."""

from __future__ import annotations

import math
from collections import OrderedDict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp.errors import (
    Busy,
    CircuitOpen,
    ConfigInvalid,
    DeadlineExceeded,
    ResourceExhausted,
    TooLarge,
    Unavailable,
    from_wire,
)
from mcp.flow.cache import AnswerCache, CacheConfig, CachedAnswer
from mcp.flow.fallback import Decision, FallbackStep, decide
from mcp.flow.refusal import BROKEN, Reason, Refusal

SMALL = FallbackStep(kind="model", model="small")
KEPT = FallbackStep(kind="cached", max_age_s=60.0)
FIXED = FallbackStep(kind="fixed", answer="sorry")


def refusal(reason: Reason = Reason.BREAKER, retry_after_s: float = 1.5) -> Refusal:
    return Refusal(reason, retry_after_s, "c", "m", "n1", "all")


def decided(
    *steps: FallbackStep,
    reason: Reason = Reason.BREAKER,
    small: str | Refusal = "ticket",
    kept: CachedAnswer | None = None,
) -> Decision[str]:
    return decide(
        steps, reason, admit=lambda _: small, cached=lambda age: kept if kept and kept.age_s <= age else None
    )


def test_the_first_step_that_can_be_done_is_done() -> None:
    assert decided(SMALL, KEPT, FIXED) == Decision(SMALL, ("1. model: small takes it",), "ticket")
    kept = decided(SMALL, KEPT, FIXED, small=refusal(Reason.CONCURRENCY), kept=CachedAnswer("a", 5.0))
    assert (kept.step, kept.answer, kept.age_s) == (KEPT, "a", 5.0)
    assert kept.reasons == ("1. model: small refuses it too (concurrency)", "2. cached: an answer of 5 s ago")
    old = decided(KEPT, FIXED, kept=CachedAnswer("a", 61.0))
    assert (old.step, old.answer) == (FIXED, "sorry")
    assert old.reasons[0] == "1. cached: none that is younger than 60 s"


def test_where_nothing_can_be_done_the_refusal_stands() -> None:
    assert decided() == Decision(None, ("no fallback is declared",))
    assert decided(SMALL, small=refusal()).step is None


@pytest.mark.parametrize("reason", [Reason.CLIENT_RATE, Reason.CLUSTER_RATE])
def test_who_asks_too_much_is_not_helped_around_the_limit(reason: Reason) -> None:
    assert decided(SMALL, KEPT, FIXED, reason=reason).step is None
    said = FallbackStep(kind="fixed", answer="x", when=("client_rate", "cluster_rate"))
    assert decided(said, reason=reason).step is said


@pytest.mark.parametrize(
    "fields",
    [
        {"kind": "model"},
        {"kind": "cached", "model": "m"},
        {"kind": "fixed", "answer": "x", "max_age_s": 1.0},
        {"kind": "cached", "max_age_s": 0.0},
        {"kind": "cached", "max_age_s": math.inf},
        {"kind": "none"},
        {"kind": "fixed", "answer": "x", "when": ()},
    ],
)
def test_a_step_that_makes_no_sense_is_refused(fields: dict[str, object]) -> None:
    with pytest.raises(ConfigInvalid):
        FallbackStep(**fields)  # type: ignore[arg-type]


# -- answers that are kept ------------------------------------------------------------------------

STEPS = st.lists(
    st.tuples(st.sampled_from(["put", "get"]), st.integers(0, 5), st.integers(0, 6), st.floats(0, 3)),
    max_size=60,
)


@given(st.integers(0, 4), st.integers(0, 12), STEPS)
def test_a_cache_keeps_the_latest_used_and_no_more_than_it_may(
    entries_max: int, bytes_max: int, steps: list[tuple[str, int, int, float]]
) -> None:
    cache, now = AnswerCache(CacheConfig(entries_max=entries_max, bytes_max=bytes_max)), 0.0
    model: OrderedDict[int, tuple[float, int, float]] = OrderedDict()
    for what, key, size, pause_s in steps:
        now += pause_s
        if what == "put":
            cache.put("m", "1", bytes([key]), now, size, now)
            model.pop(key, None)
            if size <= bytes_max and entries_max:
                model[key] = (now, size, now)
            while len(model) > entries_max or sum(size for _, size, _ in model.values()) > bytes_max:
                model.popitem(last=False)
        else:
            found = cache.get("m", "1", bytes([key]), now, 4.0)
            if key in model and now - model[key][2] <= 4.0:
                assert found == CachedAnswer(model[key][0], now - model[key][2])
                model.move_to_end(key)
            else:
                assert found is None
        assert len(cache) == len(model) <= entries_max
        assert cache.size_bytes == sum(size for _, size, _ in model.values()) <= bytes_max


def test_an_answer_is_that_to_the_same_question_only() -> None:
    cache = AnswerCache(CacheConfig())
    cache.put("m", "1", b"x", "answer", 6, 10.0)
    assert cache.get("m", "1", b"x", 10.0, 1.0) == CachedAnswer("answer", 0.0)
    assert cache.get("m", "1", b"x", 5.0, 1.0) == CachedAnswer("answer", 0.0), "a clock that went back"
    assert [cache.get(*key, 10.0, 1.0) for key in (("n", "1", b"x"), ("m", "2", b"x"), ("m", "1", b"y"))] == [
        None
    ] * 3
    cache.put("n", "1", b"x", "other", 5, 10.0)
    cache.forget("m")
    assert (len(cache), cache.size_bytes) == (1, 5)


def test_what_is_used_stays_and_what_is_not_makes_room() -> None:
    cache = AnswerCache(CacheConfig(entries_max=2))
    for digest in (b"a", b"b"):
        cache.put("m", "1", digest, digest, 1, 0.0)
    assert cache.get("m", "1", b"a", 0.0, 1.0) is not None
    cache.put("m", "1", b"c", b"c", 1, 0.0)
    assert cache.get("m", "1", b"b", 0.0, 1.0) is None
    assert cache.get("m", "1", b"a", 0.0, 1.0) is not None


def test_a_cache_of_less_than_nothing_is_refused() -> None:
    with pytest.raises(ConfigInvalid):
        CacheConfig(bytes_max=-1)


# -- errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("reason", [reason for reason in Reason if reason is not Reason.FAILED])
def test_too_much_and_broken_are_never_mixed(reason: Reason) -> None:
    error = from_wire(refusal(reason).error.to_wire())
    assert error.details["reason"] == reason.value
    if reason is Reason.TOO_LATE:
        assert isinstance(error, DeadlineExceeded)
        return
    assert isinstance(error, Unavailable) == (reason in BROKEN)
    assert isinstance(error, ResourceExhausted) == (reason not in BROKEN)
    assert error.details["retry_after_s"] == 1.5
    assert error.retryable


def test_an_open_breaker_says_whose_it_is() -> None:
    error = refusal().error
    assert isinstance(error, CircuitOpen)
    assert (error.code, error.details["node"], error.details["model"]) == ("CIRCUIT_OPEN", "n1", "m")


def test_what_can_never_be_let_in_is_not_to_be_retried() -> None:
    error = refusal(Reason.CLIENT_RATE, math.inf).error
    assert isinstance(error, TooLarge)
    assert "retry_after_s" not in error.details, "infinity has no place on any wire"


def test_clients_treat_too_much_as_a_node_that_is_busy() -> None:
    assert issubclass(ResourceExhausted, Busy)
    assert not issubclass(ResourceExhausted, Unavailable)
    assert not issubclass(CircuitOpen, Busy)
