"""The cluster's time never goes back, and never stands still."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from mcp.clock import SystemClock
from mcp.node.config import NodeConfig
from mcp.node.node import Node
from mcp.node.stamps import CATCH_UP, Stamps
from mcp.node.surroundings import Surroundings

YEARS_S = 70 * 365 * 86400.0


class SetClock:
    """A clock whose times are set."""

    def __init__(self) -> None:
        self.monotonic_s, self.wall_s = 100.0, 1000.0

    def monotonic(self) -> float:
        return self.monotonic_s

    def wall(self) -> float:
        return self.wall_s

    def entropy(self, size: int) -> bytes:
        raise AssertionError("no stamp is random")

    def random(self) -> random.Random:
        raise AssertionError("no stamp is random")

    def passes(self, seconds: float) -> None:
        self.monotonic_s += seconds
        self.wall_s += seconds


def test_stamps_are_the_wall_clock_s_and_go_on_more_slowly_while_it_is_behind() -> None:
    clock, told = SetClock(), [0.0]
    stamps = Stamps(clock, lambda: told[0])
    assert stamps.now() == 1000.0
    clock.wall_s += 60.0
    assert stamps.now() == 1060.0
    clock.wall_s -= 60.0  # it was an error
    assert stamps.now() == 1060.0
    clock.passes(40.0)
    assert stamps.now() == 1060.0 + 40.0 * CATCH_UP
    clock.passes(80.0)
    assert stamps.now() == clock.wall_s, "it has caught up"


def test_time_goes_on_from_another_leader_s_stamps_and_from_those_of_a_snapshot() -> None:
    clock = SetClock()
    stamps = Stamps(clock, lambda: told)
    told = YEARS_S
    clock.passes(500.0)
    assert stamps.now() == told, "nobody knows how old it is"
    clock.passes(10.0)
    told = stamps.now()
    assert told == YEARS_S + 10.0 * CATCH_UP
    clock.passes(10.0)
    assert stamps.now() == YEARS_S + 20.0 * CATCH_UP, "its own stamps come back to it"


STEPS = st.tuples(st.floats(0, 100), st.floats(-1000, 1000), st.floats(-50, 50))


@given(st.lists(STEPS, max_size=30))
def test_whatever_the_clocks_do_no_stamp_is_older_than_one_before(
    steps: list[tuple[float, float, float]],
) -> None:
    clock, told = SetClock(), 0.0
    stamps = Stamps(clock, lambda: told)
    before = 0.0
    for passed, jump, other in steps:
        clock.passes(passed)
        clock.wall_s += jump
        told = max(told, before + other)
        stamp = stamps.now()
        assert stamp >= max(before, told)
        before = stamp


class JumpingClock(SystemClock):
    """The system's, but for what the wall clock is ahead."""

    ahead_s = 0.0

    def wall(self) -> float:
        return super().wall() + self.ahead_s


def test_the_time_of_a_cluster_whose_clock_was_wrong_by_years_goes_on(tmp_path: Path) -> None:
    async def scenario() -> None:
        clock = JumpingClock()
        config = NodeConfig("local", tmp_path, listen=(), engine="solo")
        for ahead_s in (YEARS_S, 0.0):
            clock.ahead_s = ahead_s
            # The second time from its disk, with the right clock.
            node = Node(config, surroundings=Surroundings(clock=clock))
            async with node, node.client() as client:
                seen = []
                for count in range(3):
                    await client.put("k", count)
                    seen.append(node._running().state.time_s)
                assert seen[0] < seen[1] < seen[2]

    asyncio.run(scenario())
