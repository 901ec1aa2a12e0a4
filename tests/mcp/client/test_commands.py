"""The lane of one session: turns are taken in order, and none is lost."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from mcp.client.admission import LaneLimits
from mcp.client.commands import CommandLane
from mcp.client.kinds import CallKind
from mcp.clock import Clock
from mcp.errors import Busy, DeadlineExceeded, Unavailable


def lane_of(client: Any, **limits: Any) -> tuple[CommandLane, Any]:
    names = iter(f"session{number}" for number in range(100))
    exchange = client._exchange
    lane = CommandLane(exchange, lambda: next(names), LaneLimits(**limits))
    return lane, lambda timeout_s=10.0: exchange.attempts(CallKind.COMMAND, timeout_s)


def test_a_ticket_that_a_cancelled_caller_was_just_given_goes_to_the_next(
    cluster_of: Any, virtual: Any
) -> None:
    async def main(clock: Clock) -> None:
        async with cluster_of(clock=clock) as cluster, cluster.client() as client:
            lane, attempts = lane_of(client, window_max=1)
            first = await lane._admission.acquire(attempts())
            cancelled = asyncio.create_task(lane._admission.acquire(attempts()))
            waiting = asyncio.create_task(lane._admission.acquire(attempts()))
            await asyncio.sleep(0.01)
            lane._admission.resolve(first)
            cancelled.cancel()  # in the same turn of the loop: it has the ticket and never sees it
            with pytest.raises(asyncio.CancelledError):
                await cancelled
            assert (await waiting).seq == first.seq + 2

    virtual(main)


def test_callers_get_their_turn_in_the_order_in_which_they_came(cluster_of: Any, virtual: Any) -> None:
    async def main(clock: Clock) -> None:
        async with cluster_of(clock=clock) as cluster, cluster.client() as client:
            lane, attempts = lane_of(client, window_max=2)
            done: list[int] = []

            async def write(number: int) -> None:
                fields = {"op": "key.put", "args": {"key": "k", "value": number}}
                done.append((await lane.send("COMMAND", fields, attempts())).payload["value"]["version"])

            await asyncio.gather(*(write(number) for number in range(50)))
            assert done == list(range(1, 51))

    virtual(main)


def test_there_is_a_limit_to_who_waits_and_to_how_long(cluster_of: Any, virtual: Any) -> None:
    async def main(clock: Clock) -> None:
        async with cluster_of(clock=clock) as cluster, cluster.client() as client:
            lane, attempts = lane_of(client, window_max=1, waiting_max=2)
            held = await lane._admission.acquire(attempts())
            waiting = [asyncio.create_task(lane._admission.acquire(attempts(3.0))) for _ in range(2)]
            await asyncio.sleep(0.01)
            with pytest.raises(Busy, match="waiting_max"):
                await lane._admission.acquire(attempts())
            for error in await asyncio.gather(*waiting, return_exceptions=True):
                assert isinstance(error, DeadlineExceeded)
            assert 2.9 < clock.monotonic() < 3.1
            lane._admission.resolve(held)
            assert (await lane._admission.acquire(attempts())).seq == held.seq + 1

    virtual(main)


@pytest.mark.parametrize("window_max", [2, 512])
def test_a_lane_that_is_being_closed_opens_no_other_session(
    window_max: int, cluster_of: Any, fault: Any, virtual: Any
) -> None:
    async def main(clock: Clock) -> None:
        async with cluster_of(clock=clock) as cluster, cluster.client() as client:
            lane, attempts = lane_of(client, window_max=window_max)
            held = await lane._admission.acquire(attempts())
            cluster.nodes["n1"].faults.append(fault("COMMAND", "delay", op="session.close", delay_s=0.2))
            closing = asyncio.create_task(lane.close())
            await cluster.until(lambda: cluster.received("session.close") == 1)
            with pytest.raises(Unavailable, match="closed"):
                await lane.command("key.put", {"key": "k", "value": 1}, 10.0)
            await closing
            lane._admission.resolve(held)
            assert cluster.received("session.open") == 1

    virtual(main)
