"""Streams through whole nodes and clients: over TCP, in memory, and in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mcp.client.client import Client
from mcp.client.sync import SyncClient
from mcp.errors import (
    Busy,
    DeadlineExceeded,
    InputInvalid,
    InvalidArgument,
    ModelNotFound,
    Unavailable,
)
from mcp.node.config import NodeConfig, NodeLimits
from mcp.node.node import Node
from simulations.in_process import until

MODELS = Path(__file__).parents[2] / "executor" / "models"
GUARD_S = 60.0
FIRST = [1, 2, 3, 5, 8, 13, 21, 34, 55, 89]
CARRY = {"next": "state"}


def start(limit: int = 10**18) -> dict[str, Any]:
    return {"state": np.array([[0, 1]]), "limit": np.array([[limit]])}


@asynccontextmanager
async def serving(path: Path, **settings: Any) -> AsyncIterator[tuple[Node, Client]]:
    config = NodeConfig(
        "n1", path / "n1", listen=("127.0.0.1:0",), engine="solo", **{"workers": 1, **settings}
    )
    async with Node(config) as node, Client([node.address], timeout_s=GUARD_S) as client:
        for name in ("fibonacci", "count"):
            await client.deploy(name, MODELS / f"{name}.onnx")
        yield node, client


def metrics(node: Node) -> dict[str, Any]:
    return dict(node.status()["metrics"])


def streams(node: Node) -> int:
    return int(metrics(node)["inference_streams"])


def steps(node: Node) -> int:
    return int(metrics(node)["inference_stream_steps_total"])


async def values(stream: AsyncIterator[Any]) -> list[int]:
    return [step.outputs["value"].item() async for step in stream]


def test_each_step_goes_on_from_the_last_and_is_told_as_it_is_done(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path) as (node, client):
            seen = []
            async for step in client.stream("fibonacci", start(), carry=CARRY, steps=10):
                seen.append((step.number, step.outputs["value"].item()))
            assert seen == list(enumerate(FIRST, 1))
            assert (step.model, step.version, step.node) == ("fibonacci", "1", "n1")
            assert set(step.outputs) == {"value", "over"}
            assert (streams(node), steps(node)) == (0, 10)
            limited = client.stream("fibonacci", start(50), carry=CARRY, steps=100, until="over")
            assert await values(limited) == FIRST[:9]
            chosen = client.stream("fibonacci", start(), carry=CARRY, steps=3, outputs=["next"])
            assert [step.output.tolist() async for step in chosen] == [[[1, 1]], [[1, 2]], [[2, 3]]]

    asyncio.run(scenario())


def test_streams_of_several_clients_share_runs_and_keep_their_states_apart(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path) as (node, client), Client([node.address], timeout_s=GUARD_S) as other:

            async def one(number: int) -> list[int]:
                state = {"state": np.array([[0, number]]), "limit": np.array([[10**18]])}
                return await values(
                    (client, other)[number % 2].stream("fibonacci", state, carry=CARRY, steps=40)
                )

            found = await asyncio.gather(*[one(number) for number in range(1, 21)])
            for number, each in enumerate(found, 1):
                assert each[:10] == [number * value for value in FIRST]
                assert len(each) == 40

    asyncio.run(scenario())


def test_a_loop_that_stops_taking_stops_the_node_at_the_end_of_its_credit(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path) as (node, client):
            stream = client.stream("fibonacci", start(), carry=CARRY, steps=80, ahead=4)
            assert (await anext(stream)).number == 1
            await until(lambda: steps(node) == 4)
            for _ in range(5):  # others go on meanwhile, over the same connection
                await client.infer("fibonacci", start())
            assert (steps(node), streams(node)) == (4, 1)
            rest = [step.number async for step in stream]
            assert rest == list(range(2, 81))

    asyncio.run(scenario())


@pytest.mark.parametrize("how", ["leave", "cancel", "close the client", "break the connection"])
def test_whoever_leaves_stops_the_node_within_a_step(tmp_path: Path, how: str) -> None:
    async def scenario() -> None:
        async with serving(tmp_path) as (node, client):
            if how == "leave":
                # A step that would take for ever is under way when the loop is left.
                counts = client.stream(
                    "count", {"x": np.array([[10**12]])}, carry={"y": "x"}, steps=9, ahead=2
                )
                first = asyncio.ensure_future(anext(counts))
                await until(lambda: metrics(node)["inference_running"] == 1)
                first.cancel()
                await asyncio.gather(first, return_exceptions=True)
            else:
                await stop_a_stream_that_runs(node, client, how)
            await until(lambda: streams(node) == 0 and metrics(node)["inference_running"] == 0)
            after = steps(node)
            async with Client([node.address]) as another:
                assert (await another.infer("fibonacci", start())).outputs["value"].item() == 1
            assert steps(node) == after

    asyncio.run(scenario())


async def stop_a_stream_that_runs(node: Node, client: Client, how: str) -> None:
    stream = client.stream("fibonacci", start(), carry=CARRY, steps=1_000_000)
    taking = asyncio.ensure_future(values(stream))
    await until(lambda: steps(node) > 50)
    if how == "cancel":
        taking.cancel()
    elif how == "close the client":
        await client.close()
    else:
        for connection in client._exchange._connections._open.values():
            connection.connection.abort()
    (ended,) = await asyncio.gather(taking, return_exceptions=True)
    if how == "cancel":
        assert isinstance(ended, asyncio.CancelledError)
    else:
        assert isinstance(ended, Unavailable)
        assert ended.details["steps"] >= 1
        assert "begin a new one" in ended.message


def test_a_loop_that_is_left_by_break_stops_the_node(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path) as (node, client):
            async with aclosing(client.stream("fibonacci", start(), carry=CARRY, steps=1_000_000)) as stream:
                async for step in stream:
                    if step.number == 3:
                        break
            await until(lambda: streams(node) == 0)
            assert steps(node) <= 3 + 16 + 1

    asyncio.run(scenario())


def test_the_loop_has_a_turn_between_two_steps_however_far_the_node_may_be_ahead(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path) as (node, client):
            while metrics(node)["inference_inline_total"] < 3:  # then its steps are run on the loop too
                await client.infer("fibonacci", start())
            stream = client.stream("fibonacci", start(), carry=CARRY, steps=60_000, ahead=60_000)
            assert (await anext(stream)).number == 1
            assert steps(node) < 40  # the client is on the same loop: it had its turns
            (running,) = node._parts.streamed.streams  # type: ignore[union-attr]
            await stream.aclose()
            await until(lambda: streams(node) == 0)
            assert running._timer.cancelled()  # or it would keep the state to the deadline

    asyncio.run(scenario())


def test_the_deadline_is_for_the_whole_stream_and_travels_with_it(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path) as (node, client):
            stream = client.stream("fibonacci", start(), carry=CARRY, steps=1_000_000, ahead=2, timeout_s=0.3)
            await anext(stream)
            # Nobody reads on, and the node gives up by itself: no word comes from this end.
            client._exchange._connections.at_hand(node.address).connection._sweeper.cancel()  # type: ignore[union-attr]
            await until(lambda: streams(node) == 0)
            with pytest.raises(DeadlineExceeded) as caught:
                await values(stream)
            assert caught.value.details["steps"] == 1 + 2

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("model", "how", "error"),
    [
        ("nothing", {}, ModelNotFound),
        ("fibonacci", {"carry": {"next": "limit"}}, InputInvalid),
        ("fibonacci", {"carry": {"missing": "state"}}, InputInvalid),
        ("fibonacci", {"carry": {"over": "state"}}, InputInvalid),
        ("fibonacci", {"until": "missing"}, InputInvalid),
        ("fibonacci", {"steps": 10**9}, InvalidArgument),
        ("fibonacci", {"inputs": {"state": np.array([[0, 1]])}}, InputInvalid),
    ],
)
def test_what_does_not_fit_is_refused_before_a_step_is_told(
    tmp_path: Path, model: str, how: dict[str, Any], error: type[Exception]
) -> None:
    async def scenario() -> None:
        async with serving(tmp_path) as (node, client):
            said: dict[str, Any] = {"carry": CARRY, "steps": 5, "inputs": start(), **how}
            with pytest.raises(error):
                await values(client.stream(model, said.pop("inputs"), **said))
            assert streams(node) == 0

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "how",
    [{"steps": 0}, {"steps": True}, {"carry": ["next"]}, {"ahead": 0}, {"ahead": 70_000}, {"until": ""}],
)
def test_what_no_node_would_take_is_refused_at_once(how: dict[str, Any]) -> None:
    async def scenario() -> None:
        async with Client(["127.0.0.1:1"]) as client:
            with pytest.raises(InvalidArgument):
                client.stream("m", start(), **{"carry": CARRY, "steps": 5, **how})

    asyncio.run(scenario())


def test_streams_and_what_they_keep_are_bounded(tmp_path: Path) -> None:
    async def scenario() -> None:
        limits = NodeLimits(inference_streams_max=2, stream_state_bytes_max=40)
        async with serving(tmp_path, limits=limits) as (node, client):
            kept = [client.stream("fibonacci", start(), carry=CARRY, steps=99, ahead=1) for _ in range(2)]
            for stream in kept:
                await anext(stream)
            with pytest.raises((Busy, DeadlineExceeded), match="streams_max=2"):
                await values(client.stream("fibonacci", start(), carry=CARRY, steps=5, timeout_s=0.3))
            await kept.pop().aclose()
            await until(lambda: streams(node) == 1)
            two_rows = {"state": np.array([[0, 1], [0, 1]]), "limit": np.array([[9], [9]])}
            with pytest.raises((Busy, DeadlineExceeded), match="stream_state_bytes_max is 40"):
                await values(client.stream("fibonacci", two_rows, carry=CARRY, steps=5, timeout_s=0.3))
            assert node._parts.streamed.state_bytes == 16
            await kept.pop().aclose()
            await until(lambda: streams(node) == 0)
            assert node._parts.streamed.state_bytes == 0

    asyncio.run(scenario())


def test_a_failing_step_ends_the_stream_after_those_that_were_done(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path) as (_, client):
            await client.deploy("element", MODELS / "element.onnx")
            inputs = {"data": np.arange(4, dtype=np.float32)[None], "index": np.array([[9]])}
            with pytest.raises(Exception, match="element version 1") as caught:
                [step async for step in client.stream("element", inputs, carry={}, steps=3)]
            assert caught.value.details["steps"] == 0

    asyncio.run(scenario())


def test_a_program_without_a_loop_takes_steps_too(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path) as (node, _):

            def take() -> list[int]:
                with SyncClient([node.address]) as client:
                    found = []
                    for step in client.stream("fibonacci", start(), carry=CARRY, steps=1000):
                        found.append(step.outputs["value"].item())
                        if step.number == 5:
                            break
                    return found

            assert await asyncio.to_thread(take) == FIRST[:5]
            await until(lambda: streams(node) == 0)

    asyncio.run(scenario())
