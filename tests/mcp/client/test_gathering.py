"""Commands that begin in one turn go in one message, and each of them ends as if it had gone by itself."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from mcp.client.exchange import Request
from mcp.client.gathering import GATHERED_BYTES_MAX, all_short, is_short
from mcp.client.kinds import CallKind
from mcp.client.tracing import current_trace, traced
from mcp.clock import Clock
from mcp.errors import NotFound, OutcomeUnknown, SessionExpired, Unavailable, VersionConflict
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


def test_none_takes_time_from_others_that_have_much_more(cluster_of: Any, virtual: Any) -> None:
    async def main(clock: Clock) -> None:
        async with cluster_of(clock=clock) as cluster, cluster.client() as client:
            await client.put("first", 0)
            timeouts = [9.0, 9.0, 0.3, 0.4, 5.0, 0.05, 0.06, 1.5, 0.45]
            await asyncio.gather(
                *(client.put(f"k{n}", n, timeout_s=timeout_s) for n, timeout_s in enumerate(timeouts))
            )
            received = [each for node in cluster.nodes.values() for each in node.received]
            sent = {
                round(each.ttl.ms, -1): [args["key"] for _, _, args in each.payload["commands"]]
                for each in received
                if each.type == "COMMANDS"
            }
            # The first of all finds no other under way.
            assert sent == {1000: ["k1", "k4", "k7"], 300: ["k2", "k3", "k8"], 50: ["k5", "k6"]}

    virtual(main)


def test_who_gives_up_before_an_answer_leaves_the_others_their_numbers(cluster_of: Any, virtual: Any) -> None:
    async def main(clock: Clock) -> None:
        async with cluster_of(clock=clock) as cluster, cluster.client() as client:
            await client.put("first", 0)
            tasks = [asyncio.create_task(client.put(f"k{n}", n)) for n in range(5)]
            await asyncio.sleep(0)
            tasks[2].cancel()
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
            assert [type(outcome) for outcome in outcomes] == [int, int, asyncio.CancelledError, int, int]
            session = client._commands._admission.session
            assert session.in_flight == 0
            assert session.room == session.window_max

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


@pytest.mark.parametrize(
    "value", [b"x", "x" * GATHERED_BYTES_MAX, "x" * (GATHERED_BYTES_MAX + 1), 1, None, 2.5, True, [1], {}, ()]
)
@pytest.mark.parametrize("other", ["short", 7, b"x" * (GATHERED_BYTES_MAX + 1)])
def test_all_are_short_where_each_is(value: object, other: object) -> None:
    each = [{"key": "k", "value": other}, {"key": "k", "value": value}]
    assert all_short(each) is all(is_short(args) for args in each)
    assert all_short([])


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


@pytest.mark.parametrize("turns", range(1, 9))
@pytest.mark.parametrize("reads", [0, 700], ids=["alone", "all places taken"])
def test_commands_under_way_when_the_client_closes_end_at_once_and_tell_no_lie(
    turns: int, reads: int, cluster_of: Any, virtual: Any
) -> None:
    async def main(clock: Clock) -> None:
        async with cluster_of(clock=clock) as cluster:
            client = cluster.client()
            await client.put("first", 0)
            puts_ = [asyncio.ensure_future(client.put(f"k{n}", n, timeout_s=60)) for n in range(600)]
            gets = [asyncio.ensure_future(client.get("first", timeout_s=60)) for _ in range(reads)]
            for _ in range(turns):
                await asyncio.sleep(0)
            closing = asyncio.ensure_future(client.close())
            done, pending = await asyncio.wait([*puts_, *gets], timeout=20)
            assert not pending
            await closing
            written = set(cluster.state.read("keys", {"prefix": "k", "limit": 1000}))
            for n, put in enumerate(puts_):
                error = put.exception()
                if f"k{n}" in written:
                    assert error is None or isinstance(error, OutcomeUnknown), (n, error)
                else:
                    assert isinstance(error, OutcomeUnknown | Unavailable), (n, error)
            assert len(done) == 600 + reads
            assert clock.monotonic() < 10

    virtual(main)


def test_a_closed_client_says_so_at_once(cluster_of: Any, virtual: Any) -> None:
    async def main(clock: Clock) -> None:
        async with cluster_of(clock=clock) as cluster:
            client = cluster.client()
            await client.put("first", 0)
            await client.close()
            for outcome in await asyncio.gather(
                *(client.put(f"k{n}", 0) for n in range(3)), return_exceptions=True
            ):
                assert isinstance(outcome, Unavailable)
            assert clock.monotonic() < 1

    virtual(main)


def test_an_outcome_that_looks_like_an_expired_session_is_an_outcome(cluster_of: Any, virtual: Any) -> None:
    """A user's executor may refuse with any code; the command was executed, and is not sent again."""

    def refuses(args: dict[str, Any], moment: Any) -> None:
        raise SessionExpired("of the user's own")

    async def main(clock: Clock) -> None:
        async with cluster_of(clock=clock) as cluster, cluster.client() as client:
            await client.put("first", 0)
            cluster.state._quiet_operations["machine.execute"] = refuses
            for outcome in await asyncio.gather(
                *(client.execute("e", b"") for _ in range(3)), return_exceptions=True
            ):
                assert isinstance(outcome, SessionExpired)
            assert cluster.received("machine.execute") == 3

    virtual(main)


def test_the_time_that_opening_the_session_takes_counts(cluster_of: Any, fault: Any, virtual: Any) -> None:
    async def main(clock: Clock) -> None:
        async with cluster_of(clock=clock) as cluster, cluster.client() as client:
            for node in cluster.nodes.values():
                node.faults.append(fault("COMMAND", "delay", delay_s=0.6, op="session.open"))
                node.faults.append(fault("COMMAND", "hang", 999, op="key.put"))
            began = clock.monotonic()
            for outcome in await asyncio.gather(
                *(client.put(f"k{n}", 0, timeout_s=1.0) for n in range(5)), return_exceptions=True
            ):
                assert isinstance(outcome, OutcomeUnknown)
            assert clock.monotonic() - began < 1.05

    virtual(main)


def test_what_comes_of_a_message_belongs_to_its_trace_and_not_to_the_connections(cluster_of: Any) -> None:
    async def main() -> None:
        async with cluster_of(1, scheme="tcp") as cluster, cluster.client() as client:
            with traced("connection"):
                await client.put("first", 0)
            came = asyncio.get_running_loop().create_future()
            request = Request(CallKind.READ, "STATUS", {})
            with traced("message"):
                assert client._exchange.send_now(
                    request, cluster.nodes["n1"].address, 10.0, 1, lambda _: came.set_result(current_trace())
                )
            assert await came == "message"

    asyncio.run(main())
