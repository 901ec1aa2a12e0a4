"""Inferences that begin in one turn go in one request, and each of them ends as if it had gone by itself."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mcp.client.client import Client
from mcp.client.hedging import Hedge
from mcp.client.stacking import APART_S, STACKED_BYTES_MAX
from mcp.clock import Clock
from mcp.errors import Busy, InferenceFailed, ModelNotFound, Unavailable, Unsupported

ROWS_MAX = 16

Scenario = Callable[[Any, Client], Awaitable[None]]


def row(number: int, width: int = 3) -> Any:
    return np.full((1, width), number, np.float32)


def payloads(cluster: Any) -> list[dict[str, Any]]:
    received = [message for node in cluster.nodes.values() for message in node.received]
    return [message.payload for message in received if message.type == "INFER_REQUEST"]


def requests(cluster: Any) -> list[list[int]]:
    """The rows of each inference in each request, in the order in which requests came to a node."""
    return [each["stacked"] if "stacked" in each else rows_of(each) for each in payloads(cluster)]


def rows_of(payload: dict[str, Any]) -> list[int]:
    """Of a request that is one inference; a text and a scalar count as one row."""
    (shape, *_) = [spec["shape"] for spec in payload.get("inputs", ())] or [[]]
    return shape[:1] or [1]


@pytest.fixture
def known(cluster_of: Any, virtual: Any) -> Callable[..., None]:
    """Run a scenario with one node, which said once that 16 rows of ``m`` may be joined."""

    def run(scenario: Scenario, *, rows_max: int = ROWS_MAX, size: int = 1, **how: Any) -> None:
        async def main(clock: Clock) -> None:
            options = {"clock": clock, "rows_max": rows_max, "size": size}
            async with cluster_of(**options) as cluster, cluster.client(**how) as client:
                await client.infer("m", row(0))
                for node in cluster.nodes.values():
                    node.received.clear()
                await scenario(cluster, client)

        virtual(main)

    return run


async def asked(client: Client, *inputs: Any, model: str = "m", **how: Any) -> list[Any]:
    calls = (client.infer(model, each, **how) for each in inputs)
    return await asyncio.gather(*calls, return_exceptions=True)


def test_those_of_one_turn_go_together_and_a_lone_one_by_itself(known: Any) -> None:
    async def scenario(cluster: Any, client: Client) -> None:
        answers = await asked(client, *(row(n) for n in range(10)))
        for number, answer in enumerate(answers):
            assert answer.output.tolist() == (2 * row(number)).tolist()
            assert (answer.model, answer.version, answer.node) == ("m", "1", "n1")
        # The first finds no other under way, and does not wait.
        assert requests(cluster) == [[1], [1] * 9]
        await client.infer("m", row(1))
        assert requests(cluster)[2:] == [[1]]

    known(scenario)


def test_a_request_has_no_more_rows_than_the_node_runs_at_once(known: Any) -> None:
    async def scenario(cluster: Any, client: Client) -> None:
        answers = await asked(client, *(row(n) for n in range(1 + 2 * ROWS_MAX + 5)))
        assert [int(answer.output[0, 0]) for answer in answers] == [
            2 * n for n in range(1 + 2 * ROWS_MAX + 5)
        ]
        assert requests(cluster) == [[1], [1] * ROWS_MAX, [1] * ROWS_MAX, [1] * 5]

    known(scenario)


def test_a_model_whose_rows_may_not_be_joined_has_a_request_for_each(known: Any) -> None:
    async def scenario(cluster: Any, client: Client) -> None:
        await asked(client, *(row(n) for n in range(5)))
        assert requests(cluster) == [[1]] * 5

    known(scenario, rows_max=0)
    known(scenario, hedge=Hedge())


def test_a_node_that_stops_joining_a_model_is_believed(known: Any) -> None:
    async def scenario(cluster: Any, client: Client) -> None:
        cluster.rows_max = 0
        await asked(client, row(0), row(1), row(2))
        assert requests(cluster) == [[1], [1, 1]]
        await asked(client, row(0), row(1), row(2))
        assert requests(cluster)[2:] == [[1]] * 3

    known(scenario)


def test_only_what_fits_is_joined(known: Any) -> None:
    async def scenario(cluster: Any, client: Client) -> None:
        wide = np.zeros((1, STACKED_BYTES_MAX // 4 + 1), np.float32)
        foreign = row(5).astype(">f4")
        inputs = [
            *(row(0), row(1), {"x": row(2)}, {"x": row(3)}, row(4, 4), row(4).astype(np.float64)),
            *("text", wide, foreign, np.float32(1), np.zeros((0, 3), np.float32)),
            *({"x": row(0), "y": np.zeros(2, np.int64)}, {"x": row(6), "y": np.zeros(1, np.int64)}),
            np.zeros((ROWS_MAX + 1, 3), np.float32),
        ]
        busy = asyncio.ensure_future(client.infer("m", row(9)))
        await asyncio.sleep(0)
        answers = await asked(client, *inputs)
        assert not [answer for answer in answers if isinstance(answer, Exception)]
        stacked = [rows for rows in requests(cluster) if len(rows) > 1]
        assert stacked == [[1, 1], [1, 1]]
        assert (answers[2].outputs["x twice"] == 2 * row(2)).all()
        await busy

    known(scenario)


def test_other_outputs_and_other_times_are_other_requests(known: Any) -> None:
    async def scenario(cluster: Any, client: Client) -> None:
        inputs = [client.infer("m", row(n), outputs=["only twice"]) for n in range(3)]
        inputs += [client.infer("m", row(n), timeout_s=7) for n in range(3)]
        await asyncio.gather(*inputs)
        assert requests(cluster) == [[1], [1, 1], [1] * 3]
        assert [p.get("outputs") for p in payloads(cluster)] == [["only twice"], ["only twice"], None]
        assert [p["timeout_ms"] for p in payloads(cluster)] == [10_000, 10_000, 7_000]

    known(scenario)


@pytest.mark.parametrize("what", ["lose answer", "lose request", Unavailable("it stops"), Busy("full")])
def test_those_whose_request_is_lost_are_asked_again_each_by_itself(
    what: Any, known: Any, fault: Any
) -> None:
    async def scenario(cluster: Any, client: Client) -> None:
        busy = asyncio.ensure_future(client.infer("m", row(0)))
        await asyncio.sleep(0.001)
        for node in cluster.nodes.values():
            node.faults.append(fault("INFER_REQUEST", what))
        answers = await asked(client, *(row(n) for n in range(6)))
        assert [int(answer.output[0, 0]) for answer in answers] == [2 * n for n in range(6)]
        await busy

    known(scenario, size=3)
    known(scenario)


@pytest.mark.parametrize("error", [InferenceFailed("one of them is bad"), Unsupported("not this model")])
def test_what_fails_together_is_tried_apart_and_goes_apart_for_a_while(
    error: Exception, known: Any, fault: Any
) -> None:
    async def scenario(cluster: Any, client: Client) -> None:
        node = cluster.nodes["n1"]
        busy = asyncio.ensure_future(client.infer("m", row(0)))
        await asyncio.sleep(0.001)
        await busy
        busy = asyncio.ensure_future(client.infer("m", row(0)))
        await asyncio.sleep(0)
        node.received.clear()
        node.faults.append(fault("INFER_REQUEST", "delay", delay_s=0.01))
        node.faults.append(fault("INFER_REQUEST", error))
        answers = await asked(client, *(row(n) for n in range(4)))
        assert [int(answer.output[0, 0]) for answer in answers] == [0, 2, 4, 6]
        await busy
        assert requests(cluster) == [[1], [1] * 4, [1], [1], [1], [1]]
        await asked(client, row(0), row(1), row(2))
        assert requests(cluster)[6:] == [[1]] * 3
        await asyncio.sleep(APART_S)
        await asked(client, row(0), row(1), row(2))
        assert requests(cluster)[9:] == [[1], [1, 1]]

    known(scenario)


def test_a_lone_one_has_its_own_error_at_once(known: Any, fault: Any) -> None:
    async def scenario(cluster: Any, client: Client) -> None:
        cluster.nodes["n1"].faults.append(fault("INFER_REQUEST", ModelNotFound("no m")))
        with pytest.raises(ModelNotFound, match="no m"):
            await client.infer("m", row(0))
        assert requests(cluster) == [[1]]
        await asked(client, row(0), row(1), row(2))
        assert requests(cluster)[1:] == [[1], [1, 1]]

    known(scenario)


def test_who_gives_up_before_the_turn_is_over_is_not_sent(known: Any) -> None:
    async def scenario(cluster: Any, client: Client) -> None:
        tasks = [asyncio.ensure_future(client.infer("m", row(n))) for n in range(6)]
        await asyncio.sleep(0)
        tasks[3].cancel()
        done = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(done[3], asyncio.CancelledError)
        assert requests(cluster) == [[1], [1] * 4]

    known(scenario)


def test_a_request_is_cancelled_when_all_of_its_callers_have_gone(known: Any, fault: Any) -> None:
    async def scenario(cluster: Any, client: Client) -> None:
        node = cluster.nodes["n1"]
        node.faults.append(fault("INFER_REQUEST", "hang", 2))
        tasks = [asyncio.ensure_future(client.infer("m", row(n))) for n in range(4)]
        await asyncio.sleep(0.01)
        for task in tasks[1:3]:
            task.cancel()
        await asyncio.sleep(0.01)
        assert (node.cancelled, requests(cluster)) == (0, [[1], [1] * 3])
        tasks[3].cancel()
        await asyncio.sleep(0.01)
        assert node.cancelled == 1
        tasks[0].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        # Nothing is left behind: the places of those that were cancelled are free.
        assert (await client.infer("m", row(7))).output[0, 0] == 14

    known(scenario)


def test_closing_the_client_ends_those_that_are_under_way(known: Any, fault: Any) -> None:
    async def scenario(cluster: Any, client: Client) -> None:
        cluster.nodes["n1"].faults.append(fault("INFER_REQUEST", "hang", 9))
        tasks = [asyncio.ensure_future(client.infer("m", row(n))) for n in range(4)]
        await asyncio.sleep(0.01)
        await client.close()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} == {Unavailable}
        assert len({id(outcome) for outcome in outcomes}) == 4

    known(scenario)


def test_a_node_that_hangs_is_left_for_another(known: Any, fault: Any) -> None:
    async def scenario(cluster: Any, client: Client) -> None:
        await asyncio.sleep(1)  # the others are connected by then
        for node in cluster.nodes.values():
            node.faults.append(fault("INFER_REQUEST", "hang", 1))
        answers = await asked(client, *(row(n) for n in range(5)), timeout_s=60)
        assert [int(answer.output[0, 0]) for answer in answers] == [0, 2, 4, 6, 8]

    known(scenario, size=3)


def test_answers_that_do_not_fit_are_not_parted(known: Any) -> None:
    async def scenario(cluster: Any, client: Client) -> None:
        node = cluster.nodes["n1"]
        whole = node._on_infer_request

        async def short(exchange: Any) -> Any:
            kind, answer, segments = await whole(exchange)
            if "stacked" in exchange.message.payload:
                answer["outputs"][0]["shape"][0] -= 1
                segments = [segments[0][: -3 * 4]]
            return kind, answer, segments

        node._on_infer_request = short
        answers = await asked(client, *(row(n) for n in range(4)))
        assert [int(answer.output[0, 0]) for answer in answers] == [0, 2, 4, 6]
        assert requests(cluster) == [[1], [1] * 3, [1], [1], [1]]

    known(scenario)


@given(
    st.lists(
        st.tuples(st.integers(1, 5), st.sampled_from(["m", "n"]), st.integers(1, 3), st.integers(0, 2)),
        max_size=40,
    )
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40, deadline=None)
def test_everybody_gets_the_rows_that_are_his(
    cluster_of: Any, virtual: Any, calls: list[tuple[int, str, int, int]]
) -> None:
    """Calls of any rows, models and widths, begun in three turns."""

    async def main(clock: Clock) -> None:
        async with cluster_of(clock=clock, rows_max=8) as cluster, cluster.client() as client:
            for model in ("m", "n"):
                await client.infer(model, row(0))

            async def one(number: int, rows: int, model: str, width: int, turn: int) -> None:
                for _ in range(turn):
                    await asyncio.sleep(0)
                given = np.random.default_rng(number).standard_normal((rows, width))
                answer = await client.infer(model, {"a": given, "b": given + 1})
                assert (answer.outputs["a twice"] == 2 * given).all()
                assert (answer.outputs["b twice"] == 2 * (given + 1)).all()
                assert answer.model == model

            await asyncio.gather(*(one(number, *call) for number, call in enumerate(calls)))
            assert all(sum(rows) <= 8 for rows in requests(cluster))

    virtual(main)
