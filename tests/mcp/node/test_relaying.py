"""Streams that another node answers, by a strategy or a rule: passed on with credit, to every kind of end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mcp.client.client import Client
from mcp.client.results import Step
from mcp.clock import SystemClock, new_id
from mcp.cluster.router.decision import Decision
from mcp.cluster.router.features import Features
from mcp.cluster.scheduler.strategies import STRATEGIES
from mcp.errors import Busy, DeadlineExceeded, InputInvalid, McpError, ModelNotReady, Unavailable
from mcp.net.connection import Connection
from mcp.net.dial import connect
from mcp.net.exchange import Exchange
from mcp.net.parts import Parts
from mcp.node.assembly import Assembly
from mcp.node.config import NodeLimits
from mcp.node.relaying import RELAYED_PARTS_MAX
from mcp.wire.handshake import Identity, Role
from mcp.wire.messages import Message, Ttl
from simulations.in_process import InProcessCluster, in_process_cluster, until
from tests.mcp.node.test_routing import caught_up

MODELS = Path(__file__).parents[2] / "executor" / "models"
NODES = ("n1", "n2", "n3")
FIRST = [1, 2, 3, 5, 8, 13, 21, 34, 55, 89]
CARRY = {"next": "state"}
FOREVER = 1_000_000
LIMITS = NodeLimits(node_dead_after_s=0.3, peer_backoff_s_max=0.05, relayed_streams_max=4)


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(scenario())  # type: ignore[arg-type]


def start() -> dict[str, Any]:
    return {"state": np.array([[0, 1]]), "limit": np.array([[10**18]])}


def value(step: Step) -> int:
    return int(step.outputs["value"].item())


class Three:
    """Three nodes that hold the model, and a client of the first one, through that node itself."""

    def __init__(self, cluster: InProcessCluster, client: Client) -> None:
        self.cluster = cluster
        self.client = client

    def parts(self, name: str) -> Assembly:
        return self.cluster.running[name]._running()

    def stream(self, steps: int = 10, **how: Any) -> Any:
        return self.client.stream("fibonacci", start(), carry=CARRY, steps=steps, **how)

    async def begun(self, node: str | None = None, **how: Any) -> tuple[Any, Step]:
        """A stream on that node, or on any but the first, with its first step. Others are left again."""
        for _ in range(12):
            stream = self.stream(**how)
            step = await anext(stream)
            if step.node == node or (node is None and step.node != "n1"):
                return stream, step
            await stream.aclose()
        raise AssertionError(f"no stream began at {node}")

    def steps(self, name: str) -> int:
        return self.parts(name).streamed.steps_total

    async def settled(self) -> None:
        """Wait until no node has a stream, and no account has a place."""

        def idle(parts: Assembly) -> bool:
            return not (parts.streamed.streams or parts.relaying.streams or parts.scheduling.held())

        await until(lambda: all(idle(self.parts(name)) for name in self.cluster.running))


@asynccontextmanager
async def three(path: Path, strategy: str | None = "round_robin") -> AsyncIterator[Three]:
    async with in_process_cluster(path, 3, limits=LIMITS) as cluster, cluster.client() as client:
        await client.deploy("fibonacci", MODELS / "fibonacci.onnx", timeout_s=30)

        def ready(name: str) -> bool:
            view = cluster.running[name]._running().routing.view()
            return [node.node for node in view.nodes if node.load and "fibonacci@1" in node.ready] == [*NODES]

        await until(lambda: all(ready(name) for name in NODES))
        if strategy is not None:
            await client.set_strategy("fibonacci", strategy)
        async with cluster.running["n1"].client() as one:
            # It knows of no other node, and so asks none.
            one._exchange.learn = lambda _: None  # type: ignore[method-assign,assignment]
            await caught_up(one)
            yield Three(cluster, one)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_stream_begins_at_the_node_that_the_strategy_chooses(tmp_path: Path, strategy: str) -> None:
    async def scenario() -> None:
        async with three(tmp_path, strategy) as nodes:

            async def one(number: int) -> tuple[str, list[int]]:
                state = {"state": np.array([[0, number]]), "limit": np.array([[10**18]])}
                told = nodes.client.stream("fibonacci", state, carry=CARRY, steps=10, timeout_s=30)
                steps = [step async for step in told]
                assert [step.number for step in steps] == list(range(1, 11))
                (origin,) = {(step.model, step.version, step.node) for step in steps}
                return origin[2], [value(step) for step in steps]

            told = []
            for first in (1, 4, 7):
                told += await asyncio.gather(*(one(number) for number in range(first, first + 3)))
            assert [values for _, values in told] == [[n * each for each in FIRST] for n in range(1, 10)]
            answered = [node for node, _ in told]
            passed_on = nodes.parts("n1").relaying.total
            assert passed_on == len([node for node in answered if node != "n1"]) > 0
            await nodes.settled()
            # Who got one that was passed on has run it: a stream makes one hop and no second.
            asked = [nodes.parts(name).dispatch.counts.get("INFER_STREAM", 0) for name in NODES]
            assert sum(asked) == len(told) + passed_on
            metrics = nodes.cluster.running["n1"].status()["metrics"]
            assert metrics["inference_streams_relayed"] == 0
            assert metrics["inference_streams_passed_on_total"] == passed_on

    run(scenario)


@pytest.mark.parametrize("how", ["leave", "close the client", "break the connection"])
def test_whoever_leaves_stops_the_other_node_within_a_step(tmp_path: Path, how: str) -> None:
    async def scenario() -> None:
        async with three(tmp_path) as nodes:
            stream, step = await nodes.begun(steps=FOREVER, ahead=4)
            parts = nodes.parts(step.node)
            assert len(parts.streamed.streams) == 1
            cancelled: list[int] = []
            (running,) = parts.streamed.streams
            running._exchange.on_cancel(lambda: cancelled.append(parts.streamed.steps_total))
            if how == "leave":
                await stream.aclose()
            elif how == "close the client":
                await nodes.client.close()
            else:
                (relayed,) = nodes.parts("n1").relaying.streams
                relayed.connection.abort()
            await nodes.settled()
            assert cancelled == [parts.streamed.steps_total]

    run(scenario)


def test_a_reader_that_stops_stops_the_other_node_at_its_own_credit_and_nobody_else(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with three(tmp_path) as nodes:
            stream, first = await nodes.begun(steps=80, ahead=4)
            before = nodes.steps(first.node)
            # No further than if it had been asked itself: the four that the reader allows.
            (running,) = nodes.parts(first.node).streamed.streams
            await until(lambda: running._steps.number == 4)
            other, _ = await nodes.begun(first.node, steps=30)
            assert [step.number async for step in other] == list(range(2, 31))
            for _ in range(6):
                assert (await nodes.client.infer("fibonacci", start())).outputs["value"].item() == 1
            assert running._steps.number == 4
            assert nodes.steps(first.node) >= before + 30
            assert [step.number async for step in stream] == list(range(2, 81))
            await nodes.settled()

    run(scenario)


def test_no_more_than_so_many_parts_are_held_for_a_reader_that_allows_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        async with three(tmp_path) as nodes:
            stream, first = await nodes.begun(steps=2_000, ahead=3_000)
            (relayed,) = nodes.parts("n1").relaying.streams
            (running,) = nodes.parts(first.node).streamed.streams
            # The reader's connection takes nothing more now.
            stuck = relayed.connection
            with monkeypatch.context() as patch:
                patch.setattr(Connection, "_clogged", property(lambda self: self is stuck))
                passed = 3_000 - relayed.parts_allowed
                await asyncio.sleep(0.2)
                made = running._steps.number
                # More is allowed by the half, so between the half and all of it is here.
                assert passed + RELAYED_PARTS_MAX // 2 <= made <= passed + RELAYED_PARTS_MAX < 2_000
                await asyncio.sleep(0.1)
                assert running._steps.number == made
                assert 3_000 - relayed.parts_allowed == passed
            stuck._flushed()
            assert [step.number async for step in stream] == list(range(2, 2_001))
            await nodes.settled()

    run(scenario)


@pytest.mark.parametrize("how", ["stop", "lose the link"])
def test_a_node_that_is_lost_before_the_first_step_leaves_the_stream_to_the_next(
    tmp_path: Path, how: str
) -> None:
    async def scenario() -> None:
        async with three(tmp_path) as nodes:
            silent: list[Exchange] = []
            nodes.parts("n2").dispatch._at_once["INFER_STREAM"] = silent.append
            running = [asyncio.ensure_future(collected(nodes.stream(timeout_s=20))) for _ in range(3)]
            await until(lambda: len(silent) == 1)
            if how == "stop":
                await nodes.cluster.stop("n2")
            else:
                link = nodes.parts("n1").links.connection("n2")
                assert link is not None
                link.abort()
            for steps in await asyncio.gather(*running):
                assert [value(step) for step in steps] == FIRST
                assert steps[0].node in ("n1", "n3")
            await nodes.settled()
            account = nodes.parts("n1").scheduling._strategies.account.node("n2")
            assert account is not None
            assert account.failures == 1

    run(scenario)


async def collected(stream: Any) -> list[Step]:
    return [step async for step in stream]


@pytest.mark.parametrize("how", ["stop", "lose the link"])
def test_a_node_that_is_lost_after_the_first_step_ends_it_with_how_far_it_came(
    tmp_path: Path, how: str
) -> None:
    async def scenario() -> None:
        async with three(tmp_path) as nodes:
            stream, first = await nodes.begun(steps=FOREVER, ahead=4)
            (relayed,) = nodes.parts("n1").relaying.streams
            await until(lambda: relayed.parts_allowed == 0)
            failed: list[McpError | None] = []
            relayed.on_end(failed.append)
            if how == "stop":
                await nodes.cluster.stop(first.node)
            else:
                link = nodes.parts("n1").links.connection(first.node)
                assert link is not None
                link.abort()
            # At once, though its reader takes nothing.
            await until(lambda: len(failed) == 1)
            (error,) = failed
            assert isinstance(error, Unavailable)
            assert error.details == {"steps": 4}
            assert f"node {first.node} was lost after 4 steps" in error.message
            assert [(await anext(stream)).number for _ in range(3)] == [2, 3, 4]
            with pytest.raises(Unavailable, match="broke after 4 steps") as caught:
                await anext(stream)
            assert caught.value.details == {"steps": 4}
            await nodes.settled()

    run(scenario)


def test_the_other_node_s_errors_are_passed_on_with_their_details(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with three(tmp_path) as nodes:
            for _ in range(3):
                with pytest.raises(InputInvalid):
                    await anext(nodes.client.stream("fibonacci", start(), carry={"no": "state"}, steps=3))
            stream, first = await nodes.begun(steps=9, ahead=3)
            (running,) = nodes.parts(first.node).streamed.streams
            await until(lambda: running._steps.number == 3)
            running._fail(InputInvalid("the fourth does not fit", details={"row": 7}))
            with pytest.raises(InputInvalid, match="the fourth does not fit") as caught:
                await collected(stream)
            assert caught.value.details == {"row": 7, "steps": 3}
            await nodes.settled()

    run(scenario)


def test_the_deadline_is_for_all_of_it_however_it_is_read(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with three(tmp_path) as nodes:
            stream, first = await nodes.begun(steps=FOREVER, ahead=2, timeout_s=0.5)
            await until(lambda: nodes.parts(first.node).streamed.streams == set())
            with pytest.raises(DeadlineExceeded):
                await collected(stream)
            await nodes.settled()
            # And one whose node never begins.
            for name in ("n2", "n3"):
                nodes.parts(name).dispatch._at_once["INFER_STREAM"] = lambda _: None
            ends = await asyncio.gather(
                *(collected(nodes.stream(timeout_s=0.3)) for _ in range(3)), return_exceptions=True
            )
            late = [end for end in ends if not isinstance(end, list)]
            assert len(late) == 2
            assert all(isinstance(end, DeadlineExceeded | Unavailable) for end in late)
            await nodes.settled()

    run(scenario)


def test_a_node_that_cannot_make_it_ready_leaves_it_to_the_others_as_any_inference(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with three(tmp_path, None) as nodes, nodes.cluster.running["n1"].client() as client:
            shelf = nodes.parts("n1").shelf
            (digest,) = shelf._ready
            del shelf._ready[digest]
            shelf.problems[digest] = ModelNotReady("its copy is damaged")
            shelf._failures[digest] = (9, float("inf"))
            # Without a strategy it is the client that goes on; the gateway's is such a one.
            assert (await client.infer("fibonacci", start())).node != "n1"
            steps = await collected(client.stream("fibonacci", start(), carry=CARRY, steps=10))
            assert [value(step) for step in steps] == FIRST
            assert {step.node for step in steps} <= {"n2", "n3"}

    run(scenario)


@asynccontextmanager
async def raw(nodes: Three, role: Role, name: str = "n1") -> AsyncIterator[Connection]:
    """A connection that asks that node and no other."""
    identity = Identity("mcp", "someone", b"", role)
    node = nodes.cluster.running[name]
    connection = await connect(node._memory_address, identity, network=node._memory)
    try:
        yield connection
    finally:
        connection.close()
        await connection.wait_closed()


def asked(**more: Any) -> tuple[Message, list[bytes]]:
    names = {"state": [1, 2], "limit": [1, 1]}
    specs = [
        {"name": name, "dtype": "INT64", "shape": shape, "segment": place}
        for place, (name, shape) in enumerate(names.items())
    ]
    payload = {"model_hint": "fibonacci", "inputs": specs, "carry": CARRY, "steps": FOREVER, **more}
    segments = [start()[name].astype("<i8").tobytes() for name in names]
    ttl = Ttl(more.pop("hops", 8), 20_000)
    return Message("INFER_STREAM", payload, new_id(SystemClock()), ttl=ttl, credit=2), segments


def test_streams_that_are_passed_on_are_bounded(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with three(tmp_path) as nodes, raw(nodes, Role.CLIENT) as connection:
            opened: list[Parts] = []

            async def open_many() -> None:
                for _ in range(12):
                    opened.append(connection.stream(*asked(), timeout_s=20))
                    await anext(opened[-1])

            with pytest.raises(Busy, match="relayed_streams_max=4 streams are passed on by this node"):
                await open_many()
            assert len(nodes.parts("n1").relaying.streams) == 4
            # A node is not to blame for what was not asked of it.
            account = nodes.parts("n1").scheduling._strategies.account
            assert not any(account.node(name).failures for name in account.nodes)  # type: ignore[union-attr]
            assert nodes.parts("n1").scheduling.held() == len(opened) - 1
            for parts in opened:
                parts.close()
            await nodes.settled()

    run(scenario)


def test_a_stream_that_is_for_another_node_by_a_rule_is_passed_on_once(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with three(tmp_path, None) as nodes:
            await nodes.client.set_rules(["when model == fibonacci use fibonacci@1 on node:n3"])
            await caught_up(nodes.client)
            steps = await collected(nodes.stream())
            assert [value(step) for step in steps] == FIRST
            assert {step.node for step in steps} == {"n3"}
            assert nodes.parts("n1").relaying.total == 1
            async with raw(nodes, Role.CLIENT) as connection:
                message, segments = asked()
                message.ttl = Ttl(0, 20_000)
                with pytest.raises(McpError, match="hop limit"):
                    await anext(connection.stream(message, segments, timeout_s=20))
            # A node's own stream goes no further, whatever the rules here say of it.
            link = nodes.parts("n1").links.connection("n2")
            assert link is not None
            with pytest.raises(Unavailable, match="fibonacci@1 is for node n3 to answer; ask that one"):
                await anext(link.stream(*asked(), timeout_s=20))
            await nodes.settled()

    run(scenario)


def test_the_next_is_tried_also_where_a_rule_leaves_several(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        async with three(tmp_path, None) as nodes:
            await nodes.client.set_rules(["when model == fibonacci use fibonacci@1"])
            await caught_up(nodes.client)
            routing = nodes.parts("n1").routing
            decide = routing.decide

            def among_the_others(features: Features) -> Decision:
                decision = decide(features)
                return decision._replace(nodes=decision.eligible[1:])

            monkeypatch.setattr(routing, "decide", among_the_others)

            def refuse(exchange: Exchange) -> None:
                exchange.fail(Busy("no place"))

            nodes.parts("n2").dispatch._at_once["INFER_STREAM"] = refuse
            for _ in range(4):
                assert {step.node for step in await collected(nodes.stream())} == {"n3"}

    run(scenario)
