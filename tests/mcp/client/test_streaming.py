"""Streams in the client: where they begin, what is repeated, and what is given back at their end."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import Any

import numpy as np
import pytest

from mcp.clock import Clock
from mcp.errors import DeadlineExceeded, InferenceFailed, InvalidArgument, Unavailable
from mcp.net.limits import Limits

SCAN = np.float32([[1, 2]])


def stream(client: Any, steps: int = 5, **how: Any) -> Any:
    return client.stream("m", SCAN, **{"carry": {}, "steps": steps, **how})


def at_rest(client: Any) -> bool:
    """Whether nothing is in flight any more, by any account."""
    exchange = client._exchange
    loads = [load for node in exchange.routing._nodes.values() for load in node.loads.values()]
    nodes = exchange._connections._open.values()
    return (
        all(load.in_flight == 0 for load in loads)
        and all(node._others._free == node.connection.peer.limits.streams_max // 2 for node in nodes)
        and all(node.streams._free == node.connection.peer.limits.streams_max // 4 for node in nodes)
        and all(node.connection.requests_in_flight == 0 for node in nodes)
    )


@pytest.mark.parametrize("do", [Unavailable("it stops"), "hang", "lose request"])
def test_until_the_first_step_it_is_begun_elsewhere(
    cluster_of: Any, fault: Any, virtual: Any, do: Any
) -> None:
    async def main(clock: Clock) -> None:
        async with cluster_of(clock=clock) as cluster, cluster.client() as client:
            first, *_ = cluster.nodes.values()
            for node in cluster.nodes.values():
                node.faults = [fault("INFER_STREAM", do)] if node is first else []
            for _ in range(6):
                found = [step async for step in stream(client, timeout_s=9)]
                assert [step.output.tolist() for step in found] == [[[n, 2 * n]] for n in range(1, 6)]
            assert "INFER_STREAM" in first.types()
            assert not first.faults[0].times
            assert at_rest(client)

    virtual(main)


def test_after_the_first_step_it_is_not_repeated(cluster_of: Any, virtual: Any) -> None:
    async def main(clock: Clock) -> None:
        async with cluster_of(clock=clock) as cluster, cluster.client() as client:
            taken = []

            async def take() -> None:
                async for step in stream(client, steps=100):
                    taken.append(step.number)
                    if step.number == 3:
                        await cluster.nodes[step.node].stop()

            with pytest.raises(Unavailable, match="begin a new one") as caught:
                await take()
            # What had come by then is given first.
            assert taken == list(range(1, len(taken) + 1))
            assert 3 <= len(taken) < 100
            assert caught.value.details["steps"] == len(taken)
            assert sum(node.types().count("INFER_STREAM") for node in cluster.nodes.values()) == 1

    virtual(main)


def test_a_definite_error_is_raised_and_everything_is_given_back(
    cluster_of: Any, fault: Any, virtual: Any
) -> None:
    async def main(clock: Clock) -> None:
        async with cluster_of(clock=clock) as cluster, cluster.client() as client:
            for node in cluster.nodes.values():
                node.faults = [fault("INFER_STREAM", InferenceFailed("its input is bad"))]
            with pytest.raises(InferenceFailed):
                await anext(stream(client))
            assert at_rest(client)

    virtual(main)


@pytest.mark.parametrize("how", ["leave", "cancel before", "cancel after"])
def test_whoever_leaves_gives_everything_back(cluster_of: Any, fault: Any, virtual: Any, how: str) -> None:
    async def main(clock: Clock) -> None:
        async with cluster_of(clock=clock) as cluster, cluster.client() as client:
            await client.infer("m", SCAN)
            if how == "cancel before":
                for node in cluster.nodes.values():
                    node.faults = [fault("INFER_STREAM", "hang")]

            async def take() -> None:
                async with aclosing(stream(client, steps=1000, ahead=3)) as steps:
                    async for step in steps:
                        if step.number == 2:
                            if how == "leave":
                                return
                            await asyncio.sleep(60)

            taking = asyncio.ensure_future(take())
            await asyncio.sleep(0.1)
            if how != "leave":
                taking.cancel()
            await asyncio.gather(taking, return_exceptions=True)
            await asyncio.sleep(0.1)
            assert sum(node.cancelled for node in cluster.nodes.values()) == 1
            assert at_rest(client)

    virtual(main)


@pytest.mark.parametrize("ahead", [0, -1, True, 65_536, "8"])
def test_how_far_ahead_is_a_number(cluster_of: Any, virtual: Any, ahead: Any) -> None:
    async def main(clock: Clock) -> None:
        async with cluster_of(clock=clock) as cluster, cluster.client() as client:
            with pytest.raises(InvalidArgument, match="ahead"):
                stream(client, ahead=ahead)

    virtual(main)


def test_streams_that_nobody_reads_keep_only_other_streams_out(cluster_of: Any, virtual: Any) -> None:
    async def main(clock: Clock) -> None:
        limits = Limits(streams_max=16)
        async with cluster_of(size=1, clock=clock, limits=limits) as cluster, cluster.client() as client:
            begun = [stream(client, steps=1000, ahead=1) for _ in range(4)]
            for each in begun:
                await anext(each)
            with pytest.raises(DeadlineExceeded, match="as many streams are open"):
                await anext(stream(client, timeout_s=1.0))
            assert await client.put("key", 1) == 1
            answers = await asyncio.gather(*(client.infer("m", SCAN) for _ in range(20)))
            assert len(answers) == 20
            await begun.pop().aclose()
            assert (await anext(stream(client))).number == 1
            for each in begun:
                await each.aclose()

    virtual(main)
