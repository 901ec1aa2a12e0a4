"""Many writes in one call: each of them a command of its own, whatever becomes of the others."""

from __future__ import annotations

import asyncio
import random
import re
from typing import Any

import pytest

from mcp.client.gathering import GATHERED_BYTES_MAX, TOGETHER_MAX
from mcp.client.one_call import CALLS_MAX
from mcp.client.session import WINDOW_COMMANDS_MAX
from mcp.clock import Clock
from mcp.errors import (
    DeadlineExceeded,
    InvalidArgument,
    McpError,
    OutcomeUnknown,
    SessionExpired,
    TooLarge,
    Unavailable,
)
from mcp.net.limits import Limits


def writes(count: int, size: int = 1) -> dict[str, Any]:
    return {f"k{number}": b"x" * size for number in range(count)}


def messages(cluster: Any) -> list[int]:
    received = [message for node in cluster.nodes.values() for message in node.received]
    return [len(message.payload["commands"]) for message in received if message.type == "COMMANDS"]


@pytest.mark.parametrize("count", [0, 1, 2, 300, TOGETHER_MAX, 2 * WINDOW_COMMANDS_MAX + 5])
def test_each_is_written_once_and_few_messages_are_sent(count: int, cluster_of: Any, virtual: Any) -> None:
    async def main(clock: Clock) -> None:
        async with cluster_of(clock=clock) as cluster, cluster.client() as client:
            assert await client.put_many(writes(count)) == dict.fromkeys(writes(count), 1)
            assert cluster.ops().count("key.put") == count
            assert len(messages(cluster)) <= count // 32 + 1
            assert await client.put_many(writes(count)) == dict.fromkeys(writes(count), 2)

    virtual(main)


@pytest.mark.parametrize("commands_max", [1, 2, 7])
def test_messages_are_as_the_node_takes_them(commands_max: int, cluster_of: Any, virtual: Any) -> None:
    async def main(clock: Clock) -> None:
        limits = Limits(commands_max=commands_max)
        async with cluster_of(clock=clock, limits=limits) as cluster, cluster.client() as client:
            assert await client.put_many(writes(300)) == dict.fromkeys(writes(300), 1)
            assert max(messages(cluster), default=1) == commands_max
            assert clock.monotonic() < 1  # none of them waits for another

    virtual(main)


def test_versions_belong_to_their_keys(cluster_of: Any, virtual: Any) -> None:
    async def main(clock: Clock) -> None:
        async with cluster_of(clock=clock) as cluster, cluster.client() as client:
            for _ in range(3):
                await client.put("k7", 0)
            found = await client.put_many(writes(20))
            assert found == {key: 4 if key == "k7" else 1 for key in writes(20)}
            assert list(found) == list(writes(20))
            value = await client.get("k7")
            assert value.value == b"x"

    virtual(main)


def test_what_is_large_goes_by_itself_among_the_others(cluster_of: Any, virtual: Any) -> None:
    async def main(clock: Clock) -> None:
        async with cluster_of(clock=clock) as cluster, cluster.client() as client:
            values = writes(10) | {"large": b"x" * (GATHERED_BYTES_MAX + 1), "nested": [1, {"two": 2}]}
            assert await client.put_many(values) == dict.fromkeys(values, 1)
            assert messages(cluster) == [10]

    virtual(main)


def test_one_that_is_refused_does_not_touch_the_others(cluster_of: Any, virtual: Any) -> None:
    async def main(clock: Clock) -> None:
        async with cluster_of(clock=clock) as cluster, cluster.client() as client:
            values = writes(5) | {"k" * 5000: 1}
            with pytest.raises(McpError) as caught:
                await client.put_many(values)
            assert isinstance(caught.value, InvalidArgument | TooLarge)
            assert caught.value.details["key"] == "k" * 5000
            found = await client.put_many(values, errors="return")
            assert [found[key] for key in writes(5)] == [2] * 5
            assert type(found["k" * 5000]) is type(caught.value)

    virtual(main)


@pytest.mark.parametrize("wrong", [{"": 1}, {"wrong": object()}, {"wrong": {b"a": 1}}, {7: 1}, {"\ud800": 1}])
def test_what_cannot_be_sent_has_its_error_in_its_place(wrong: Any, cluster_of: Any, virtual: Any) -> None:
    async def main(clock: Clock) -> None:
        async with cluster_of(clock=clock) as cluster, cluster.client() as client:
            values = {"before": 1} | wrong | {"after": 1}
            (key,) = wrong
            with pytest.raises(InvalidArgument, match=f"key {re.escape(repr(key))}: ") as caught:
                await client.put_many(values)
            assert caught.value.details == {"key": key}
            assert cluster.received("key.put") == 0
            found = await client.put_many(values, errors="return")
            assert list(found) == list(values)
            assert [type(each) for each in found.values()] == [int, InvalidArgument, int]
            assert await client.keys() == ["after", "before"]

    virtual(main)


def test_values_may_be_changed_once_the_call_has_begun(cluster_of: Any, virtual: Any) -> None:
    async def main(clock: Clock) -> None:
        async with cluster_of(clock=clock) as cluster, cluster.client() as client:
            values = writes(300)
            writing = asyncio.ensure_future(client.put_many(values))
            await asyncio.sleep(0)
            values.clear()
            assert await writing == dict.fromkeys(writes(300), 1)

    virtual(main)


@pytest.mark.parametrize("values", [[("k", 1)], "k", None, {1: 2}, {"": 1}, {"k": object()}])
def test_what_is_no_write_is_refused_before_anything_is_sent(
    values: Any, cluster_of: Any, virtual: Any
) -> None:
    async def main(clock: Clock) -> None:
        async with cluster_of(clock=clock) as cluster, cluster.client() as client:
            with pytest.raises(InvalidArgument):
                await client.put_many(values)
            with pytest.raises(InvalidArgument, match="errors is"):
                await client.put_many({"k": 1}, errors="ignore")
            with pytest.raises(InvalidArgument, match=f"up to {CALLS_MAX} keys"):
                await client.put_many(dict.fromkeys(map(str, range(CALLS_MAX + 1))))
            assert cluster.received("key.put") == 0

    virtual(main)


@pytest.mark.parametrize("what", ["lose answer", "lose request", "mute", "hang"])
def test_writes_whose_common_answer_is_lost_are_sent_again_and_applied_once(
    what: str, cluster_of: Any, fault: Any, virtual: Any
) -> None:
    async def main(clock: Clock) -> None:
        async with cluster_of(clock=clock) as cluster, cluster.client() as client:
            await client.put("first", 0)
            cluster.nodes["n1"].faults.append(fault("COMMANDS", what))
            assert await client.put_many(writes(700)) == dict.fromkeys(writes(700), 1)
            assert cluster.ops().count("key.put") == 701

    virtual(main)


def test_writes_of_a_session_that_was_forgotten_go_on_under_another(
    cluster_of: Any, fault: Any, virtual: Any
) -> None:
    async def main(clock: Clock) -> None:
        async with cluster_of(clock=clock) as cluster, cluster.client() as client:
            await client.put("first", 0)
            cluster.nodes["n1"].faults.append(fault("COMMANDS", SessionExpired("it is gone")))
            assert await client.put_many(writes(300)) == dict.fromkeys(writes(300), 1)
            assert cluster.received("session.open") == 2

    virtual(main)


def test_without_time_every_write_has_its_error_and_those_that_were_sent_are_in_doubt(
    cluster_of: Any, fault: Any, virtual: Any
) -> None:
    async def main(clock: Clock) -> None:
        async with cluster_of(clock=clock) as cluster, cluster.client() as client:
            await client.put("first", 0)
            for node in cluster.nodes.values():
                node.faults.append(fault("COMMAND", "hang", 10_000))
            count = 12 * TOGETHER_MAX + 10
            found = await client.put_many(writes(count), errors="return", timeout_s=3.0)
            assert clock.monotonic() < 5
            assert list(found) == list(writes(count))
            kinds = [type(each) for each in found.values()]
            assert kinds[0] is OutcomeUnknown
            assert kinds[-1] is DeadlineExceeded
            assert set(kinds) == {OutcomeUnknown, DeadlineExceeded}

    virtual(main)


def test_who_goes_away_leaves_room_for_others(cluster_of: Any, fault: Any, virtual: Any) -> None:
    async def main(clock: Clock) -> None:
        async with cluster_of(clock=clock) as cluster, cluster.client() as client:
            await client.put("first", 0)
            cluster.nodes["n1"].faults.append(fault("COMMANDS", "hang", 100))
            leaving = asyncio.ensure_future(client.put_many(writes(3 * WINDOW_COMMANDS_MAX)))
            await asyncio.sleep(0.1)
            leaving.cancel()
            with pytest.raises(asyncio.CancelledError):
                await leaving
            cluster.nodes["n1"].faults.clear()
            assert client._commands._admission.waiting == 0
            assert client._commands._admission.session.in_flight == 0
            assert await client.put("after", 0, timeout_s=5) == 1

    virtual(main)


def test_beside_callers_of_their_own(cluster_of: Any, virtual: Any) -> None:
    async def main(clock: Clock) -> None:
        limits = Limits(commands_max=16)
        async with cluster_of(clock=clock, limits=limits) as cluster, cluster.client() as client:
            drawn = random.Random(1)

            async def one(number: int) -> None:
                await asyncio.sleep(drawn.random() / 10)
                if number % 3:
                    await client.put(f"k{number}", 1)
                else:
                    await client.put_many({f"k{number}/{each}": 1 for each in range(drawn.randrange(200))})

            await asyncio.gather(*(one(number) for number in range(90)))
            ops, keys = cluster.ops().count("key.put"), len(cluster.state.keys)
            assert ops == keys > 1000

    virtual(main)


def test_a_closed_client_says_so(cluster_of: Any, virtual: Any) -> None:
    async def main(clock: Clock) -> None:
        async with cluster_of(clock=clock) as cluster:
            client = cluster.client()
            await client.put_many(writes(3))
            await client.close()
            with pytest.raises(Unavailable, match="closed"):
                await client.put_many(writes(3))

    virtual(main)
