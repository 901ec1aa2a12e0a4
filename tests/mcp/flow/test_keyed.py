"""Limits per name: bounded in memory, and no way around them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp.errors import ConfigInvalid
from mcp.flow.buckets import LeakyBucket, TokenBucket
from mcp.flow.keyed import LOOKS_MAX, Keyed
from mcp.flow.limiter import Admitted, Limiter, Rate, Refused
from mcp.flow.window import SlidingWindow

RATE = Rate(4, 2.0)
KINDS: list[Callable[[], Limiter]] = [
    lambda: TokenBucket(RATE),
    lambda: LeakyBucket(RATE),
    lambda: SlidingWindow(RATE),
]


@pytest.mark.parametrize("make", KINDS, ids=["token bucket", "leaky bucket", "sliding window"])
@given(
    st.integers(1, 3),
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 60), st.integers(1, 3)), max_size=120),
)
def test_no_name_gets_more_than_its_limit_whatever_the_others_do(
    make: Callable[[], Limiter], keys_max: int, events: list[tuple[int, int, int]]
) -> None:
    """By the definition of each limit, on what was really let in under each name."""
    table: Keyed[int] = Keyed(make(), keys_max)
    admitted: dict[int, list[tuple[Fraction, int]]] = defaultdict(list)
    now, window = Fraction(0), isinstance(make(), SlidingWindow)
    for key, steps, cost in events:
        now += Fraction(steps, 64)
        if isinstance(table.admit(key, float(now), cost), Admitted):
            admitted[key].append((now, cost))
            for begin, (at, _) in enumerate(admitted[key]):
                total = sum(spent for _, spent in admitted[key][begin:])
                if window:
                    assert now - at >= 2 or total <= 4
                else:
                    assert total <= 4 + 2 * (now - at)
        assert len(table) <= keys_max


@given(st.lists(st.tuples(st.integers(0, 5), st.floats(0, 1), st.integers(1, 3)), max_size=60))
def test_with_room_every_name_has_a_limiter_of_its_own(events: list[tuple[int, float, int]]) -> None:
    table: Keyed[int] = Keyed(TokenBucket(RATE), 6)
    own = {key: TokenBucket(RATE) for key in range(6)}
    now = 0.0
    for key, pause_s, cost in events:
        now += pause_s
        assert table.admit(key, now, cost) == own[key].admit(now, cost)


def test_a_flood_of_names_shares_one_limit_and_leaves_the_first_ones_alone() -> None:
    table: Keyed[str] = Keyed(TokenBucket(RATE), 2)
    assert isinstance(table.admit("a", 0.0, 3), Admitted)
    assert isinstance(table.admit("b", 0.0, 1), Admitted)
    flood = [table.admit(f"x{n}", 0.0) for n in range(10_000)]
    assert sum(isinstance(verdict, Admitted) for verdict in flood) == 4
    assert isinstance(table.admit("a", 0.0), Admitted)
    assert isinstance(table.admit("a", 0.0), Refused), "it was not forgotten, so its limit still holds"
    assert len(table) == 2


def test_a_newcomer_takes_the_place_of_one_that_rests() -> None:
    table: Keyed[str] = Keyed(TokenBucket(RATE), LOOKS_MAX)
    for number in range(LOOKS_MAX):
        table.admit(f"n{number}", 0.0)
    for number in range(LOOKS_MAX - 1):
        table.admit(f"n{number}", 0.9, 2)
    assert isinstance(table.admit("new", 0.9), Admitted)
    assert table.of("new", 0.9) is not table.of("other", 0.9), (
        "it has the place of n7, which rests since 0.5 s"
    )
    assert table.of("other", 0.9) is table.of("another", 0.9), "nobody else rests"
    assert len(table) == LOOKS_MAX


def test_a_table_without_room_is_refused() -> None:
    with pytest.raises(ConfigInvalid, match="one name at least"):
        Keyed(TokenBucket(RATE), 0)
