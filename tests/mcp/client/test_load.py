"""How long a node is expected to take, which nodes are spared, and what comes of choosing by that."""

from __future__ import annotations

import heapq
import random
import statistics
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp.client.kinds import CallKind
from mcp.client.load import Faults, Load, LoadLimits, Standing, outliers
from mcp.client.routing import Routing
from mcp.clock import Clock
from mcp.cluster.outcome import Outcome
from mcp.errors import InferenceFailed

LIMITS = LoadLimits()
SCAN = np.float32([[1, 2]])


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 0.5), st.integers(0, 100)), max_size=60))
def test_no_fewer_calls_are_ahead_than_ones_own_and_no_more_than_were_told_of(
    events: list[tuple[bool, float, int]],
) -> None:
    load, now, most_told, sent = Load(LIMITS), 0.0, 0, 0
    for send, pause_s, queue in events:
        now += pause_s
        if send or not load.in_flight:
            before = load.ahead(now)
            assert load.sent(now) == before
            sent += 1
        else:
            load.ended()
            load.answered(now, 0.01, 0.0, queue)
            most_told = max(most_told, queue)
        assert load.in_flight <= load.ahead(now) <= most_told + sent


def test_what_a_node_says_of_its_queue_counts_and_is_soon_forgotten() -> None:
    load = Load(LIMITS)
    load.answered(1.0, 0.01, 0.0, 8)
    assert load.ahead(1.0) == 8
    assert load.sent(1.0) == 8
    assert load.ahead(1.0) == 9
    assert load.ahead(1.1) == pytest.approx(8 / 2 + 1)
    assert load.ahead(3.0) == pytest.approx(1, abs=0.001)
    load.answered(3.0, 0.01, 0.0, 0)
    assert load.ahead(3.0) == load.in_flight == 1


@given(st.integers(0, 50), st.floats(0.001, 1.0))
def test_a_place_in_the_queue_is_what_is_measured(ahead: int, time_s: float) -> None:
    load = Load(LIMITS)
    for _ in range(3):
        load.answered(0.0, time_s * (ahead + 1), ahead)
    assert load.time_s(0.0) == pytest.approx(time_s)
    assert load.time_s(LIMITS.half_life_s) == pytest.approx(max(LIMITS.time_min_s, time_s / 2))
    assert Load(LIMITS).time_s(0.0) is None


standings = st.builds(Standing, st.one_of(st.none(), st.floats(0, 10)), st.floats(0, 1))


@given(st.dictionaries(st.integers(0, 9), standings, max_size=7))
def test_never_more_than_half_are_spared_and_never_the_best(nodes: dict[int, Standing]) -> None:
    spared = outliers(nodes, LIMITS)
    assert len(spared) <= len(nodes) // 2
    known = {node: each.time_s for node, each in nodes.items() if each.time_s is not None}
    if known and not any(each.faults for each in nodes.values()):
        assert min(known, key=lambda node: known[node]) not in spared


@pytest.mark.parametrize(
    ("nodes", "spared"),
    [
        ({"a": (0.01, 0), "b": (0.012, 0), "c": (0.1, 0)}, {"c"}),
        ({"a": (0.01, 0), "b": (0.012, 0), "c": (0.04, 0)}, set()),
        ({"a": (0.0001, 0), "b": (0.0001, 0), "c": (0.01, 0)}, set()),  # what is that quick may differ
        ({"a": (0.01, 0), "b": (0.0001, 1.0)}, {"b"}),  # it fails, and fast
        ({"a": (0.01, 0.9), "b": (0.01, 0.9), "c": (0.01, 0.9)}, set()),  # the requests are at fault
        ({"a": (0.01, 0), "b": (0.1, 0), "c": (0.01, 0.9), "d": (0.01, 0)}, {"b", "c"}),
        ({"a": (0.01, 0), "b": (0.1, 0), "c": (0.01, 0.9)}, {"c"}),
        ({"a": (9.0, 0.9)}, set()),
        ({}, set()),
    ],
)
def test_who_is_spared(nodes: dict[str, Any], spared: set[str]) -> None:
    assert outliers({name: Standing(*each) for name, each in nodes.items()}, LIMITS) == spared


def test_faults_are_forgotten() -> None:
    faults = Faults(LIMITS)
    for _ in range(20):
        faults.answered(0.0, fault=True)
    assert faults.share(0.0) > 0.9
    assert faults.share(2 * LIMITS.half_life_s) < 0.25
    for _ in range(20):
        faults.answered(1.0, fault=False)
    assert faults.share(1.0) < 0.02


# -- what comes of it -----------------------------------------------------------------------------

Choose = Callable[[Routing, random.Random, float], str]


def by_routing(routing: Routing, _: random.Random, now: float) -> str:
    return routing.pick(CallKind.INFER, now)


def at_random(routing: Routing, generator: random.Random, _: float) -> str:
    return generator.choice(routing.addresses)


def simulated(
    choose: Choose,
    service_s: dict[str, float],
    *,
    rate: float,
    seed: int,
    others: float = 0.0,
    told: bool = True,
) -> tuple[float, float]:
    """Mean and 99th percentile of the answers of first-come first-served nodes, in seconds.

    ``others``: requests a second of other clients at one node at a time, another one every fifth of a
    second, of which this client learns only by the answers. ``told``: they say how long the queue is.
    """
    generator = random.Random(seed)
    routing = Routing(list(service_s), random.Random(seed + 1))
    for address in service_s:
        routing.connected(address, address)
    arrivals = [(generator.expovariate(rate), 0, "")]
    arrivals += [(generator.expovariate(others), 1, address) for address in service_s if others]
    heapq.heapify(arrivals)
    ends: dict[str, list[float]] = {address: [] for address in service_s}
    answers: list[tuple[float, str, float, float]] = []
    took: list[float] = []
    while len(took) < 4000:
        now, foreign, address = heapq.heappop(arrivals)
        while answers and answers[0][0] <= now:
            done, node, sent, ahead = heapq.heappop(answers)
            queue = sum(end > done for end in ends[node])
            routing.finished(
                CallKind.INFER,
                node,
                Outcome.ANSWERED,
                done,
                done - sent,
                ahead=ahead,
                queue=queue if told else None,
            )
        each = others if foreign else rate
        heapq.heappush(arrivals, (now + generator.expovariate(each), foreign, address))
        if not foreign:
            address = choose(routing, generator, now)
        elif list(service_s)[int(now / 0.2) % len(service_s)] != address:
            continue
        waiting = ends[address] = [end for end in ends[address] if end > now - 1.0]
        begins = max([now, *waiting[-1:]])
        ended = begins + generator.expovariate(1 / service_s[address])
        waiting.append(ended)
        if not foreign:
            took.append(ended - now)
            heapq.heappush(answers, (ended, address, now, routing.started(CallKind.INFER, address, now)))
    took.sort()
    return statistics.mean(took), took[int(0.99 * len(took))]


EQUAL = dict.fromkeys("abc", 0.01)


@pytest.mark.parametrize("seed", range(3))
def test_equal_nodes_answer_sooner_than_if_chosen_at_random(seed: int) -> None:
    ours = simulated(by_routing, EQUAL, rate=240, seed=seed)
    theirs = simulated(at_random, EQUAL, rate=240, seed=seed)
    assert ours[0] < 0.7 * theirs[0]
    assert ours[1] < 0.7 * theirs[1]


@pytest.mark.parametrize("seed", range(3))
def test_a_slow_node_gets_what_it_can_do(seed: int) -> None:
    nodes = {"a": 0.005, "b": 0.005, "c": 0.015}
    ours = simulated(by_routing, nodes, rate=320, seed=seed)
    assert ours[0] < 0.03  # an even split would be more than the slow node can do, and grow for ever


def test_what_others_do_to_a_node_is_seen_sooner_where_answers_tell_of_it() -> None:
    def mean(choose: Choose, *, told: bool) -> float:
        runs = [simulated(choose, EQUAL, rate=120, seed=seed, others=90, told=told) for seed in range(6)]
        return statistics.mean(run[0] for run in runs)

    told, untold = mean(by_routing, told=True), mean(by_routing, told=False)
    assert told < 0.93 * untold
    assert untold < 0.7 * mean(at_random, told=False)


# -- in the client --------------------------------------------------------------------------------


def test_a_node_that_fails_at_once_draws_no_calls(cluster_of: Any, fault: Any, virtual: Any) -> None:
    async def main(clock: Clock) -> None:
        async with cluster_of(clock=clock) as cluster, cluster.client() as client:
            for _ in range(30):
                await client.infer("m", SCAN)
            first, *others = cluster.nodes.values()
            first.faults = [fault("INFER_REQUEST", InferenceFailed("its disk is full of holes"), times=1000)]
            for node in others:
                node.faults = [fault("INFER_REQUEST", "delay", delay_s=0.01, times=1000)]
            failed = 0
            for _ in range(200):
                try:
                    await client.infer("m", SCAN)
                except InferenceFailed:
                    failed += 1
            assert 1 <= failed <= 8
            first.faults = []
            received = len(first.received)
            for _ in range(2000):
                await client.infer("m", SCAN)
            assert len(first.received) > received + 100

    virtual(main)
