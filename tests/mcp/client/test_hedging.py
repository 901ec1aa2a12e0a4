"""Hedged requests: when a second node is asked too, how often, and what becomes of the slower one."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp.client.hedging import BUDGET_MAX, KINDS_MAX, SAMPLES_MIN, SAMPLES_PER_LOOK, Hedge, Hedging
from mcp.clock import Clock
from mcp.errors import InferenceFailed, InvalidArgument, Unavailable


def taught(latencies_s: list[float], hedge: Hedge | None = None) -> Hedging:
    hedging = Hedging(hedge or Hedge())
    for latency_s in latencies_s:
        hedging.begun("m")
        hedging.answered("m", latency_s)
    return hedging


def test_nothing_is_hedged_before_enough_is_known() -> None:
    hedging = taught([0.01] * (SAMPLES_MIN - 1))
    assert hedging.begun("m") is None
    hedging.answered("m", 0.01)
    assert hedging.begun("m") == 0.01
    assert hedging.begun("another") is None


@given(st.lists(st.floats(0.002, 5.0), min_size=64, max_size=64), st.sampled_from([0.5, 0.9, 0.95, 0.99]))
def test_the_delay_is_that_quantile_of_the_latencies(latencies_s: list[float], quantile: float) -> None:
    delay_s = taught(latencies_s, Hedge(quantile=quantile)).begun("m")
    assert delay_s in latencies_s
    assert sum(each <= delay_s for each in latencies_s) >= quantile * 64
    assert sum(each < delay_s for each in latencies_s) < quantile * 64


def test_the_delay_follows_the_latest_latencies() -> None:
    hedging = taught([0.01] * 512)
    for _ in range(512 + SAMPLES_PER_LOOK):
        hedging.answered("m", 0.2)
    assert hedging.begun("m") == 0.2


@given(st.lists(st.booleans(), max_size=300), st.sampled_from([0.01, 0.05, 0.5, 1.0]))
def test_the_budget_is_kept_whatever_is_asked(wishes: list[bool], share: float) -> None:
    hedging = Hedging(Hedge(share=share))
    for number, wish in enumerate(wishes, 1):
        hedging.begun("m")
        if wish:
            hedging.spend()
        assert hedging.hedges <= share * number + 1e-6
    assert hedging.requests == len(wishes)


def test_what_is_saved_up_is_bounded() -> None:
    hedging = taught([0.01] * 1000, Hedge(share=1.0))
    assert sum(hedging.spend() for _ in range(1000)) == BUDGET_MAX


def test_models_that_are_not_asked_for_are_forgotten() -> None:
    hedging = taught([0.01] * SAMPLES_MIN)
    for number in range(KINDS_MAX):
        hedging.answered(f"other {number}", 1.0)
    assert hedging.begun("m") is None


@pytest.mark.parametrize(
    "settings",
    [
        *({"quantile": 0}, {"quantile": 1}, {"quantile": float("nan")}),
        *({"share": 0}, {"share": 1.5}),
        *({"delay_min_s": -1}, {"delay_min_s": float("inf")}),
    ],
)
def test_what_makes_no_sense_is_refused(settings: dict[str, float]) -> None:
    with pytest.raises(InvalidArgument):
        Hedge(**settings)


HANGS = "hang"
SCAN = np.float32([[1, 2]])


async def warmed(client: Any) -> None:
    """Enough answers that the next may be hedged, and a budget."""
    for _ in range(100):
        await client.infer("m", SCAN)


def test_a_node_that_hangs_is_overtaken_and_told(cluster_of: Any, fault: Any, virtual: Any) -> None:
    async def main(clock: Clock) -> None:
        async with cluster_of(clock=clock) as cluster, cluster.client(hedge=Hedge()) as client:
            await warmed(client)
            for node in cluster.nodes.values():
                node.faults = [fault("INFER_REQUEST", HANGS)]
            # Whoever is asked first hangs, and so does the second: the third attempt is a retry.
            begun, asked = clock.monotonic(), client.hedging.hedges
            for node in list(cluster.nodes.values())[1:]:
                node.faults = []
            while client.hedging.won == 0:
                await client.infer("m", SCAN)
                assert clock.monotonic() - begun < 5
            assert client.hedging.hedges == asked + 1
            await asyncio.sleep(0.1)
            assert sum(node.cancelled for node in cluster.nodes.values()) == 1

    virtual(main)


def test_without_the_option_nothing_is_asked_twice(cluster_of: Any, fault: Any, virtual: Any) -> None:
    async def main(clock: Clock) -> None:
        async with cluster_of(clock=clock) as cluster, cluster.client() as client:
            await warmed(client)
            next(iter(cluster.nodes.values())).faults = [fault("INFER_REQUEST", "delay", delay_s=0.3)]
            for _ in range(30):
                await client.infer("m", SCAN)
            received = [m for n in cluster.nodes.values() for m in n.received if m.type == "INFER_REQUEST"]
            assert len(received) == 130
            assert client.hedging is None

    virtual(main)


def test_a_definite_error_is_no_reason_to_wait_for_the_other(
    cluster_of: Any, fault: Any, virtual: Any
) -> None:
    async def main(clock: Clock) -> None:
        async with cluster_of(clock=clock) as cluster, cluster.client(hedge=Hedge(share=1.0)) as client:
            await warmed(client)
            first, *others = cluster.nodes.values()
            first.faults = [fault("INFER_REQUEST", HANGS, times=1000)]
            for node in others:
                node.faults = [fault("INFER_REQUEST", InferenceFailed("its input is bad"), times=1000)]
            begun = clock.monotonic()
            with pytest.raises(InferenceFailed):
                await client.infer("m", SCAN)
            assert clock.monotonic() - begun < 1

    virtual(main)


def test_one_that_fails_leaves_it_to_the_other(cluster_of: Any, fault: Any, virtual: Any) -> None:
    async def main(clock: Clock) -> None:
        async with cluster_of(clock=clock) as cluster, cluster.client(hedge=Hedge(share=1.0)) as client:
            await warmed(client)
            for node in cluster.nodes.values():
                node.faults = [fault("INFER_REQUEST", "delay", delay_s=0.05)]
            for node in list(cluster.nodes.values())[1:]:
                node.faults = [fault("INFER_REQUEST", Unavailable("it stops"))]
            for _ in range(4):
                answer = await client.infer("m", SCAN)
                assert answer.outputs["only twice"].tolist() == [[2, 4]]

    virtual(main)


def test_who_cancels_cancels_both(cluster_of: Any, fault: Any, virtual: Any) -> None:
    async def main(clock: Clock) -> None:
        async with cluster_of(clock=clock) as cluster, cluster.client(hedge=Hedge(share=1.0)) as client:
            await warmed(client)
            for node in cluster.nodes.values():
                node.faults = [fault("INFER_REQUEST", HANGS, times=10)]
            call = asyncio.ensure_future(client.infer("m", SCAN))
            await asyncio.sleep(0.5)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            await asyncio.sleep(0.1)
            assert sum(node.cancelled for node in cluster.nodes.values()) == 2

    virtual(main)
