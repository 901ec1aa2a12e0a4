"""Commands that begin in one turn go in one message, and each of them ends as if it had gone by itself."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from mcp.client.gathering import GATHERED_BYTES_MAX, is_short
from mcp.clock import Clock
from mcp.errors import NotFound, OutcomeUnknown, VersionConflict
from mcp.net.limits import Limits


async def puts(client: Any, count: int, size: int = 1) -> list[int]:
    return await asyncio.gather(*(client.put(f"k{number}", b"x" * size) for number in range(count)))


def messages(cluster: Any) -> list[int]:
    """How many commands each message of many had."""
    received = [message for node in cluster.nodes.values() for message in node.received]
    return [len(message.payload["commands"]) for message in received if message.type == "COMMANDS"]


def test_commands_of_one_turn_go_together_and_a_lone_one_by_itself(cluster_of: Any, virtual: Any) -> None:
    async def main(clock: Clock) -> None:
        async with cluster_of(clock=clock) as cluster, cluster.client() as client:
            await client.put("first", 0)
            assert messages(cluster) == []
            assert await puts(client, 20) == [1] * 20
            # The first of them finds no other under way, and does not wait.
            assert messages(cluster) == [19]
            assert cluster.received("key.put") == 21
            await client.put("last", 0)
            assert messages(cluster) == [19]

    virtual(main)


def test_a_message_has_no_more_commands_than_the_node_takes(cluster_of: Any, virtual: Any) -> None:
    async def main(clock: Clock) -> None:
        limits = Limits(commands_max=8)
        async with cluster_of(clock=clock, limits=limits) as cluster, cluster.client() as client:
            await client.put("first", 0)
            await puts(client, 21)
            assert sorted(messages(cluster)) == [4, 8, 8]

    virtual(main)


def test_a_node_that_knows_no_such_messages_gets_none(cluster_of: Any, virtual: Any) -> None:
    async def main(clock: Clock) -> None:
        limits = Limits(commands_max=1)
        async with cluster_of(clock=clock, limits=limits) as cluster, cluster.client() as client:
            await client.put("first", 0)
            assert await puts(client, 20) == [1] * 20
            assert messages(cluster) == []
            assert cluster.received("key.put") == 21

    virtual(main)


def test_large_values_go_by_themselves(cluster_of: Any, virtual: Any) -> None:
    async def main(clock: Clock) -> None:
        async with cluster_of(clock=clock) as cluster, cluster.client() as client:
            await client.put("first", 0)
            await puts(client, 5, GATHERED_BYTES_MAX + 1)
            assert messages(cluster) == []

    virtual(main)
    assert is_short({"key": "k", "value": b"x" * GATHERED_BYTES_MAX, "n": 2**40, "gone": None})
    assert not is_short({"value": {"nested": 1}})
    assert not is_short({"value": [1]})


def test_each_has_an_outcome_of_its_own(cluster_of: Any, virtual: Any) -> None:
    async def main(clock: Clock) -> None:
        async with cluster_of(clock=clock) as cluster, cluster.client() as client:
            await client.put("taken", 0)
            outcomes = await asyncio.gather(
                client.put("a", 1),
                client.put("b", 1),
                client.compare_and_set("taken", 1, expected_version=7),
                client.execute("nobody", b""),
                client.put("c", 1),
                return_exceptions=True,
            )
            assert messages(cluster) == [4]
            kinds = [type(outcome) for outcome in outcomes]
            assert kinds == [int, int, VersionConflict, NotFound, int]

    virtual(main)


@pytest.mark.parametrize("what", ["lose answer", "lose request", "mute", "hang"])
def test_commands_whose_common_answer_is_lost_are_sent_again_and_applied_once(
    what: str, cluster_of: Any, fault: Any, virtual: Any
) -> None:
    async def main(clock: Clock) -> None:
        async with cluster_of(clock=clock) as cluster, cluster.client() as client:
            await client.put("first", 0)
            cluster.nodes["n1"].faults.append(fault("COMMANDS", what))
            assert await puts(client, 10) == [1] * 10
            assert cluster.ops().count("key.put") == 11
            # Once together, and then each by itself, where it may have been taken already.
            assert messages(cluster) == [9]
            assert cluster.received("key.put") == 1 + 10 + 9

    virtual(main)


def test_commands_in_doubt_end_as_unknown_and_each_is_told_so(
    cluster_of: Any, fault: Any, virtual: Any
) -> None:
    async def main(clock: Clock) -> None:
        async with cluster_of(clock=clock) as cluster, cluster.client() as client:
            await client.put("first", 0)
            for node in cluster.nodes.values():
                node.faults.append(fault("COMMAND", "mute", 999, op="key.cas"))
            outcomes = await asyncio.gather(
                *(client.compare_and_set(f"c{n}", 1, expected_version=0, timeout_s=3) for n in range(5)),
                return_exceptions=True,
            )
            assert {type(outcome) for outcome in outcomes} == {OutcomeUnknown}
            assert len({id(outcome) for outcome in outcomes}) == 5

    virtual(main)


def test_who_gives_up_before_the_turn_is_over_sends_nothing(cluster_of: Any, virtual: Any) -> None:
    async def main(clock: Clock) -> None:
        async with cluster_of(clock=clock) as cluster, cluster.client() as client:
            await client.put("first", 0)
            tasks = [asyncio.ensure_future(client.put(f"k{n}", 0)) for n in range(6)]
            await asyncio.sleep(0)
            tasks[3].cancel()
            await asyncio.wait(tasks)
            assert messages(cluster) == [4]
            assert await client.get("k3") is None
            assert [task.cancelled() for task in tasks] == [n == 3 for n in range(6)]

    virtual(main)
