"""Direct inferences that share runs, through a whole node and clients over TCP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from executor.compare import compare_outputs
from mcp.client.client import Client
from mcp.client.exchange import Request
from mcp.client.kinds import CallKind
from mcp.errors import (
    DeadlineExceeded,
    InferenceFailed,
    InputInvalid,
    InvalidArgument,
    ModelNotFound,
    Unsupported,
)
from mcp.node.config import NodeConfig
from mcp.node.node import Node
from mcp.wire.tensors import pack_all
from simulations.in_process import in_process_cluster, until

MODELS = Path(__file__).parents[2] / "executor" / "models"
FOR_EVER = {"x": np.array([[10**12]])}
GUARD_S = 60.0


@asynccontextmanager
async def serving(path: Path, **settings: Any) -> AsyncIterator[tuple[Node, Client]]:
    """A node with one worker, which serves ``count``, ``dense`` and ``element`` over TCP, and a client."""
    config = NodeConfig(
        "n1", path / "n1", listen=("127.0.0.1:0",), engine="solo", **{"workers": 1, **settings}
    )
    async with Node(config) as node, Client([node.address]) as client:
        for name in ("count", "dense", "element"):
            await client.deploy(name, MODELS / f"{name}.onnx")
        yield node, client


def row(number: int) -> NDArray[np.float32]:
    return np.random.default_rng(number).standard_normal((1, 64)).astype(np.float32)


def figures(node: Node, name: str) -> dict[str, Any]:
    (found,) = [model["inference"] for model in node.status()["models"] if model["name"] == name]
    return dict(found)


def queued(node: Node) -> int:
    return int(node.status()["metrics"]["inference_queued"])


async def occupied(node: Node, client: Client) -> asyncio.Task[Any]:
    """A run without an end in the only worker."""
    busy = asyncio.ensure_future(client.infer("count", FOR_EVER, timeout_s=GUARD_S))
    await until(lambda: node.status()["metrics"]["inference_running"] == 1)
    return busy


def asked(client: Client, model: str, inputs: Any, **how: Any) -> asyncio.Task[Any]:
    return asyncio.ensure_future(client.infer(model, inputs, **{"timeout_s": GUARD_S, **how}))


def test_requests_of_several_clients_share_a_run_and_each_gets_its_own_rows(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path) as (node, client), Client([node.address]) as other:
            busy = await occupied(node, client)
            tasks = [asked((client, other)[n % 2], "dense", row(n)) for n in range(20)]
            await until(lambda: queued(node) == 20)
            busy.cancel()  # travels to the node, which stops the run
            together = [(await task).outputs for task in tasks]
            after = figures(node, "dense")
            assert (after["batched"], after["batch_rows"]) == (True, {"32": 1})
            assert (after["requests_total"], after["runs_total"]) == (20, 1)
            assert (await client.status()).nodes[0].models[1].inference == after
            for number, outputs in enumerate(together):
                alone = (await client.infer("dense", row(number))).outputs
                assert compare_outputs(alone, outputs).equal

    asyncio.run(scenario())


def test_a_bad_a_cancelled_and_a_hasty_request_do_not_take_the_others_down(tmp_path: Path) -> None:
    data = np.arange(4, dtype=np.float32)[None]

    async def scenario() -> None:
        async with serving(tmp_path) as (node, client):
            busy = await occupied(node, client)
            tasks = [asked(client, "element", {"data": data, "index": np.array([[n]])}) for n in (0, 9, 2, 3)]
            hasty = asked(client, "dense", row(0), timeout_s=0.05)
            with pytest.raises(DeadlineExceeded):
                await hasty
            with pytest.raises(InputInvalid):
                await client.infer("dense", np.zeros((1, 63), np.float32))
            await until(lambda: queued(node) == 4)
            tasks[3].cancel()
            await until(lambda: queued(node) == 3)
            busy.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
            assert isinstance(results[1], InferenceFailed)
            assert "element version 1" in results[1].message
            assert isinstance(results[3], asyncio.CancelledError)
            assert [results[n].outputs["picked"].item() for n in (0, 2)] == [0, 2]
            await until(lambda: figures(node, "element")["batches_failed_total"] == 1)
            assert figures(node, "element")["cancelled_total"] == 1

    asyncio.run(scenario())


def test_a_node_can_be_told_not_to_batch(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path, batching=False) as (node, client):
            busy = await occupied(node, client)
            tasks = [asked(client, "dense", row(n)) for n in range(5)]
            await until(lambda: queued(node) == 5)
            busy.cancel()
            await asyncio.gather(*tasks)
            found = figures(node, "dense")
            assert (found["batched"], found["batch_rows"]) == (False, {"1": 5})

    asyncio.run(scenario())


def test_durable_inferences_are_runs_of_their_own(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path) as (node, client):
            busy = await occupied(node, client)
            ids = [await client.submit("dense", row(n)) for n in range(3)]
            await until(lambda: queued(node) == 3)
            busy.cancel()
            records = [await client.result(each, timeout_s=GUARD_S) for each in ids]
            assert [record.status for record in records] == ["done"] * 3
            assert figures(node, "dense")["batch_rows"] == {"1": 3}

    asyncio.run(scenario())


# -- what a manifest says -----------------------------------------------------------------------------


def test_what_the_owner_says_is_kept_and_followed(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path) as (node, client):
            said = {"mode": "dynamic", "rows_max": 2, "latency_bound_ms": 3}
            await client.deploy("dense", MODELS / "dense.onnx", batching=said)
            (model,) = [each for each in await client.models() if each.name == "dense"]
            assert model.batching == {**said, "pad": {}}
            busy = await occupied(node, client)
            tasks = [asked(client, "dense", row(n)) for n in range(6)]
            await until(lambda: queued(node) == 6)
            busy.cancel()
            await asyncio.gather(*tasks)
            assert figures(node, "dense")["batch_rows"] == {"2": 3}

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("model", "said", "why"),
    [
        ("add", {"mode": "dynamic"}, "the first axis of the input 'a' has the fixed size 2"),
        ("dense", {"mode": "dynamic", "pad": {"x": 0}}, "'x' has no open size after the first"),
        ("dense", {"mode": "auto", "pad": {"z": 0}}, "no input 'z' to pad"),
        ("dense", {"mode": "always"}, "mode is one of auto, dynamic, off"),
        ("dense", {"rows_max": 0}, "rows_max"),
        ("dense", {"latency_bound_ms": -1}, "latency_bound_ms is 0 to 60000"),
        ("dense", {"often": True}, "'often'"),
    ],
)
def test_what_the_model_cannot_do_is_refused_when_it_is_deployed(
    tmp_path: Path, model: str, said: dict[str, Any], why: str
) -> None:
    async def scenario() -> None:
        async with serving(tmp_path) as (_, client):
            with pytest.raises(InvalidArgument, match=why):
                await client.deploy("other", MODELS / f"{model}.onnx", batching=said)
            with pytest.raises(ModelNotFound):
                await client.infer("other", row(0))

    asyncio.run(scenario())


def test_a_cluster_that_does_not_know_it_yet_says_so(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with in_process_cluster(tmp_path, 1, schema_max=1) as cluster, cluster.client() as client:
            with pytest.raises(Unsupported, match=r"model\.deploy with these arguments needs schema 2"):
                await client.deploy("m", MODELS / "dense.onnx", batching={"mode": "off"})
            await client.deploy("m", MODELS / "dense.onnx")

    asyncio.run(scenario())


# -- inferences that a client joined ------------------------------------------------------------------


def asked_for(node: Node) -> int:
    return int(node.status()["metrics"]["requests"]["INFER_REQUEST"])


async def sent(client: Client, model: str, inputs: Any, stacked: Any) -> Any:
    """An ``INFER_REQUEST`` as any client may send it."""
    specs, segments = pack_all(inputs)
    payload = {"model_hint": model, "inputs": specs, "stacked": stacked}
    request = Request(CallKind.INFER, "INFER_REQUEST", payload, segments)
    return await client._exchange.call(request, client._exchange.attempts(CallKind.INFER, GUARD_S))


def test_callers_of_one_client_share_requests_and_each_gets_its_own_rows(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path) as (node, client):
            # However slow the machine is just now, no run of so few rows takes longer than is allowed.
            await client.deploy("joined", MODELS / "dense.onnx", batching={"latency_bound_ms": 60_000})
            alone = [(await client.infer("joined", row(n))).outputs for n in range(40)]
            before = asked_for(node)
            together = await asyncio.gather(*(client.infer("joined", row(n)) for n in range(40)))
            assert asked_for(node) - before == 2
            for expected, answer in zip(alone, together, strict=True):
                assert (answer.node, answer.version) == ("n1", "1")
                assert compare_outputs(expected, answer.outputs).equal

    asyncio.run(scenario())


def test_a_joined_request_counts_as_so_many_inferences(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path) as (node, client):
            busy = await occupied(node, client)
            inputs = {"x": np.concatenate([row(1)] * 6)}
            task = asyncio.ensure_future(sent(client, "dense", inputs, [1, 2, 3]))
            await until(lambda: queued(node) == 1)
            busy.cancel()
            answer = await task
            assert answer.payload["rows_max"] == 64
            found = figures(node, "dense")
            assert (found["requests_total"], found["batch_rows"]) == (3, {"8": 1})

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("stacked", "rows", "error"),
    [
        ([1, 1], 3, InputInvalid),
        ([2, 2], 3, InputInvalid),
        ([], 1, InvalidArgument),
        ([0, 1], 1, InvalidArgument),
        ([True], 1, InvalidArgument),
        (3, 3, InvalidArgument),
        ([-1, 2], 1, InvalidArgument),
        ([2**64 - 1], 1, InvalidArgument),
        ([1] * 65, 65, InvalidArgument),
        ([1] * 100_000, 1, InvalidArgument),
        ([33, 32], 65, InvalidArgument),
    ],
)
def test_rows_that_are_not_what_they_are_said_to_be_are_refused(
    stacked: Any, rows: int, error: type[Exception], tmp_path: Path
) -> None:
    async def scenario() -> None:
        async with serving(tmp_path) as (_, client):
            inputs = {"x": np.zeros((rows, 64), np.float32)}
            with pytest.raises(error, match="stacked"):
                await sent(client, "dense", inputs, stacked)
            assert (await client.infer("dense", inputs)).output.shape == (rows, 10)

    asyncio.run(scenario())


def test_a_model_that_is_not_batched_takes_no_joined_request(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path, batching=False) as (node, client):
            with pytest.raises(Unsupported, match="may not be joined"):
                await sent(client, "dense", {"x": np.concatenate([row(1), row(2)])}, [1, 1])
            before = asked_for(node)
            await asyncio.gather(*(client.infer("dense", row(n)) for n in range(5)))
            assert asked_for(node) - before == 5

    asyncio.run(scenario())


def test_a_model_that_changes_rows_is_found_out_by_a_joined_request(tmp_path: Path) -> None:
    """Its owner says that its rows are independent, and they are not even as many."""

    async def scenario() -> None:
        async with serving(tmp_path) as (node, client):
            said = {"mode": "dynamic"}
            await client.deploy("positive", MODELS / "positive.onnx", batching=said)
            inputs = {"x": np.repeat(np.array([[1], [-1], [2]], np.float32), 4, axis=1)}
            assert (await client.infer("positive", inputs)).output[:, 0].tolist() == [1, 2]
            with pytest.raises(Unsupported, match="a row for each row"):
                await sent(client, "positive", inputs, [1, 2])
            assert "does not give a row for each row" in str(figures(node, "positive")["not_batched"])
            answers = await asyncio.gather(*(client.infer("positive", inputs) for _ in range(4)))
            assert [answer.output[:, 0].tolist() for answer in answers] == [[1, 2]] * 4

    asyncio.run(scenario())
