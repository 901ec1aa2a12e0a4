"""Weighted choices: in proportion, always the same, and moving no more than they must."""

from __future__ import annotations

import math
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcp.cluster.router.hashing import WeightedChoice, digest, mix, unit

IDS = 100_000
SIGMAS = 5.0
"""A share further away from its weight than this is one in two million."""

KEYS = [mix(number) for number in range(2000)]


def within(count: int, share: float, of: int) -> bool:
    """The binomial bound."""
    return abs(count - share * of) <= SIGMAS * math.sqrt(of * share * (1 - share))


@pytest.mark.parametrize(
    "weights",
    [{"v1": 80, "v2": 20}, {"v1": 1, "v2": 1, "v3": 1}, {"v1": 95, "v2": 5, "v3": 0}, {"v1": 1, "v2": 999}],
)
def test_ids_are_shared_out_by_weight(weights: dict[str, int]) -> None:
    choice = WeightedChoice((f"product-service@{name}", weight) for name, weight in weights.items())
    found = Counter(choice.place(digest(f"session-{number}")) for number in range(IDS))
    for place, weight in enumerate(weights.values()):
        assert within(found[place], weight / sum(weights.values()), IDS)


def test_two_services_choose_independently() -> None:
    """Whoever gets the new version of one gets that of another no more often than others do."""
    one, other = (WeightedChoice([(f"{name}@1", 80), (f"{name}@2", 20)]) for name in "ab")
    keys = [digest(f"session-{number}") for number in range(IDS)]
    both = sum(one.place(key) == 1 and other.place(key) == 1 for key in keys)
    assert within(both, 0.04, IDS)


WEIGHTS = st.dictionaries(st.sampled_from("abcde"), st.integers(0, 100), min_size=1).filter(
    lambda weights: any(weights.values())
)


def owners(weights: dict[str, int], scale: float = 1.0) -> list[str]:
    names = list(weights)
    choice = WeightedChoice((name, weight * scale) for name, weight in weights.items())
    return [names[choice.place(key)] for key in KEYS]


@settings(max_examples=40)
@given(WEIGHTS, st.data())
def test_an_id_moves_only_to_what_grew_or_from_what_shrank(
    weights: dict[str, int], data: st.DataObject
) -> None:
    """By more than its own weight changes, nobody's share moves: what others have among them stays."""
    name = data.draw(st.sampled_from("abcde"))
    before = weights.get(name, 0)
    after = {**weights, name: data.draw(st.integers(0, 100))}
    if not any(after.values()):
        return
    for old, new in zip(owners(weights), owners(after), strict=True):
        if old != new:
            assert name == (new if after[name] > before else old)


@settings(max_examples=40)
@given(WEIGHTS, st.permutations("abcde"), st.sampled_from([0.5, 2.0, 1024.0]))
def test_neither_the_order_nor_the_sum_of_the_weights_matters(
    weights: dict[str, int], order: list[str], scale: float
) -> None:
    shuffled = {name: weights[name] for name in order if name in weights}
    assert owners(shuffled, scale) == owners(weights)


def test_the_steps_of_a_rollout_move_what_is_needed_and_nothing_back() -> None:
    keys = [digest(f"session-{number}") for number in range(20_000)]
    moved: set[int] = set()
    for percent in (0, 5, 20, 50, 100):
        choice = WeightedChoice([("v1", 100 - percent), ("v2", percent)])
        new = {key for key in keys if choice.place(key) == 1}
        assert moved <= new
        assert within(len(new), percent / 100, len(keys))
        moved = new


def test_what_has_no_weight_gets_nobody() -> None:
    assert set(owners({"a": 0, "b": 1, "c": 0})) == {"b"}


def test_draws_are_the_same_in_every_process() -> None:
    """Fixed for ever: another value here moves every session of every cluster."""
    assert digest("session-1") == 0xACE763D42CBD49AE
    assert mix(0) == 0xE220A8397B1DCDAF  # SplitMix64's first output for the seed 0
    choice = WeightedChoice([("v1", 80), ("v2", 20)])
    assert (
        "".join(str(choice.place(digest(f"s{number}"))) for number in range(24)) == "101010001010101000000100"
    )


@given(st.integers(0, 2**64 - 1))
def test_a_unit_is_never_0_nor_1(bits: int) -> None:
    assert 0 < unit(bits) < 1


def test_the_ends_of_a_unit() -> None:
    assert 0 < unit(0) < unit(2**64 - 1) < 1


@given(st.text())
def test_any_text_has_a_digest(text: str) -> None:
    assert 0 <= digest(text) < 2**64
    assert digest("\ud800") >= 0
