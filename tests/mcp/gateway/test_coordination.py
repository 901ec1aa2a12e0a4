"""What is below ``/mcp/v1``, on real nodes: messages, submitted inferences, streams, the cluster."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import http.client
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from served_node import Answer, Gateway, gateway_of, serving

from mcp.errors import NotFound
from simulations.in_process import in_process_cluster, until

EXAMPLE = (Path(__file__).parents[3] / "examples" / "infer_request.json").read_bytes()
X = np.random.default_rng(1).standard_normal((3, 64)).astype(np.float32)
MESSAGES, INFERENCES = "/mcp/v1/messages", "/mcp/v1/inferences"


def message(payload: dict[str, Any], kind: str = "INFER_REQUEST", **fields: Any) -> dict[str, Any]:
    return {"mcp_version": "1.0", "type": kind, "payload": payload, **fields}


def tensor(array: Any, dtype: str, name: str = "x", *, raw: bool = False) -> dict[str, Any]:
    encoded = {"$bytes": base64.b64encode(array.tobytes()).decode()}
    data = encoded if raw else array.reshape(-1).tolist()
    return {"name": name, "dtype": dtype, "shape": list(array.shape), "data": data}


def dense(**fields: Any) -> dict[str, Any]:
    return message({"model_hint": "dense", "inputs": [tensor(X, "FP32")], **fields})


def stream(model: str, start: int, **fields: Any) -> dict[str, Any]:
    inputs = [tensor(np.array([[start]]), "INT64")]
    return message({"model_hint": model, "inputs": inputs, **fields}, "INFER_STREAM")


def array_of(told: dict[str, Any], dtype: Any) -> Any:
    data = told["data"]
    if isinstance(data, dict):
        return np.frombuffer(base64.b64decode(data["$bytes"]), dtype).reshape(told["shape"])
    return np.array(data, dtype).reshape(told["shape"])


ENDLESS = stream("count", 1, steps=10**6, carry={"y": "x"}, outputs=["y"])


def events(answer: Answer) -> list[tuple[str, Any]]:
    """What a browser makes of a stream of events."""
    found = []
    for block in answer.body.decode().split("\n\n")[:-1]:
        fields = dict(line.split(": ", 1) for line in block.split("\n"))
        found.append((fields["event"], json.loads(fields["data"])))
    return found


def test_the_example_is_answered_as_it_stands(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path) as gateway:
            await gateway.client.deploy("strings", path("strings"), aliases=["glm-large"])
            answer = await gateway.post(MESSAGES, EXAMPLE)
            told = answer.value
            assert (answer.status, told["type"], told["trace_id"]) == (200, "INFER_RESPONSE", "req-7a8b9c0d")
            assert told["payload"]["node"] == "local"
            assert told["payload"]["outputs"][0]["data"] == [json.loads(EXAMPLE)["payload"]["data_chunk"]]
            submitted = await gateway.post(INFERENCES, EXAMPLE)
            assert (submitted.status, submitted.headers["location"]) == (202, submitted.value["url"])
            record = (await gateway.get(submitted.value["url"] + "?wait_s=30")).value
            assert (record["status"], record["model"]) == ("done", "strings")
            assert record["outputs"][0]["data"] == told["payload"]["outputs"][0]["data"]

    asyncio.run(scenario())


def path(model: str) -> Path:
    return Path(__file__).parents[2] / "executor" / "models" / f"{model}.onnx"


def test_tensors_come_and_go_as_lists_or_as_bytes(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path) as gateway:
            await gateway.deploy("dense")
            wanted = (await gateway.client.infer("dense", {"x": X})).output
            unnamed = {**tensor(X, "FP32", raw=True)}
            del unnamed["name"]
            for body in (
                dense(),
                dense(encoding="base64", outputs=["y"]),
                message({"model_hint": "dense@1", "inputs": [tensor(X, "FP32", raw=True)]}, id="seven"),
                message({"model_hint": "dense", "inputs": [unnamed]}, ttl={"hops": 1, "ms": 5000}),
            ):
                answer = await gateway.post(MESSAGES, body)
                assert answer.status == 200, answer.body
                (output,) = answer.value["payload"]["outputs"]
                assert array_of(output, np.float32).tobytes() == wanted.tobytes()
                assert answer.value["id"] == body.get("id", answer.value["id"])

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (b"", 400, "no JSON message"),
        (b"[" * 10_000, 400, "no JSON message"),
        (b"[" * 300_000, 413, "containers_max"),
        (b'"' + b"x" * 2**22 + b'"', 413, "json_bytes_max"),
        (b"\xff", 400, "no UTF-8"),
        ({"type": "INFER_REQUEST", "payload": {}}, 400, '"mcp_version" is missing'),
        ({**dense(), "mcp_version": "2.0"}, 400, "version"),
        (message({}, "COMMAND"), 400, '"type" must be INFER_REQUEST or INFER_STREAM'),
        (message({"model_hint": "dense"}), 400, 'either a text in "data_chunk"'),
        (message({"model_hint": "", "data_chunk": "x"}), 400, '"model_hint"'),
        (message({"model_hint": "dense", "inputs": [{}]}), 400, '"dtype" must be one of'),
        (message({"model_hint": "dense", "inputs": []}), 400, '"inputs" must be a list of 1 to'),
        (dense(encoding="hex"), 400, '"encoding" must be one of'),
        (dense(timeout_ms=0), 400, '"timeout_ms"'),
        (dense(timeout_ms="1"), 400, '"timeout_ms"'),
        (dense(timeout_ms=True), 400, '"timeout_ms"'),
        (dense(outputs="y"), 400, '"outputs" must be a list'),
        (message({"model_hint": "nope", "data_chunk": "x"}), 404, "no model answers"),
        ({**dense(), "ttl": {"ms": 0}}, 400, "expired before it could be forwarded"),
        ({**dense(), "ttl": {"hops": 0}}, 400, "hop limit"),
        ({**dense(), "vector": {"log": 10**9}}, 400, "another cluster's"),
        (stream("dense", 1, steps=0), 400, '"steps"'),
        (stream("dense", 1, steps=1, carry=[]), 400, '"carry"'),
        (stream("dense", 1, steps=1, until=7), 400, '"until"'),
        (stream("nope", 1, steps=1), 404, "no model answers"),
    ],
)
def test_every_mistake_is_told(served: Gateway, body: Any, status: int, words: str) -> None:
    answer = asyncio.run_coroutine_threadsafe(served.post(MESSAGES, body), LOOP[0]).result(60)
    assert (answer.status, words in answer.error) == (status, True), answer.body
    assert answer.headers["mcp-error-code"]


LOOP: list[asyncio.AbstractEventLoop] = []


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """One node for all mistakes: none of them changes anything."""
    import threading

    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    LOOP[:] = [loop]
    stack = contextlib.AsyncExitStack()

    async def begin() -> Gateway:
        gateway = await stack.enter_async_context(serving(tmp_path_factory.mktemp("served")))
        await gateway.deploy("dense")
        return gateway

    try:
        yield asyncio.run_coroutine_threadsafe(begin(), loop).result(60)
    finally:
        asyncio.run_coroutine_threadsafe(stack.aclose(), loop).result(60)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def test_a_submission_is_repeated_under_its_id_and_its_record_is_read(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path) as gateway:
            await gateway.deploy("dense")
            wanted = (await gateway.client.infer("dense", {"x": X})).output
            body = {**dense(encoding="base64"), "id": "mine", "trace_id": "t"}
            first, again = await gateway.post(INFERENCES, body), await gateway.post(INFERENCES, body)
            assert first.value == again.value == {"id": "mine", "url": f"{INFERENCES}/mine"}
            record = (await gateway.get(f"{INFERENCES}/mine?wait_s=30&encoding=base64")).value
            assert array_of(record["outputs"][0], np.float32).tobytes() == wanted.tobytes()
            assert (record["mode"], record["attempts"], record["error"]) == ("durable", 1, None)
            parts = gateway.node._parts
            assert parts is not None
            kept = parts.state.inferences.get("mine")
            assert kept is not None
            assert kept.trace_id == "t"
            replicated = {**dense(mode="replicated"), "id": "all"}
            assert (await gateway.post(INFERENCES, replicated)).status == 202
            assert (await gateway.get(f"{INFERENCES}/all?wait_s=30")).value["replicas"]["local"]["equal"]

            other = message({"model_hint": "dense", "inputs": [tensor(X[:1], "FP32")]}, id="mine")
            for wrong, status in (
                (other, 400),
                ({**dense(), "id": "no good id"}, 400),
                (dense(mode="twice"), 400),
                (dense(mode=7), 400),
                (dense(outputs=["y"]), 400),
                (stream("dense", 1, steps=1), 400),
                (message({"model_hint": "nope", "data_chunk": "x"}), 404),
                (message({"model_hint": "dense", "data_chunk": "x" * 70_000}), 413),
            ):
                assert (await gateway.post(INFERENCES, wrong)).status == status, wrong
            for where, status in (
                ("nobody", 404),
                ("mine?wait_s=-1", 400),
                ("mine?wait_s=nan", 400),
                ("mine?wait_s=1e9", 400),
                ("mine?encoding=x", 400),
                ("no%20id", 400),
                ("nobody?wait_s=5", 404),
            ):
                assert (await gateway.get(f"{INFERENCES}/{where}")).status == status, where

    asyncio.run(scenario())


def test_a_record_that_a_node_has_not_heard_of_is_looked_for_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The node is behind until it is made to look how far the log is."""

    async def scenario() -> None:
        async with serving(tmp_path) as gateway:
            await gateway.deploy("dense")
            assert (await gateway.post(INFERENCES, {**dense(), "id": "mine"})).status == 202
            client, behind = gateway.client, [True]
            result, position = client.result, client.position

            async def lagging(*wanted: Any, **how: Any) -> Any:
                if behind[0]:
                    raise NotFound("not heard of")
                return await result(*wanted, **how)

            async def looked() -> int:
                behind[0] = False
                return await position()

            monkeypatch.setattr(client, "result", lagging)
            monkeypatch.setattr(client, "position", looked)
            for query in ("", "?wait_s=1"):
                behind[0] = True
                assert (await gateway.get(f"{INFERENCES}/mine{query}")).status == 200

    asyncio.run(scenario())


def test_a_record_that_is_not_finished_is_told_as_it_is(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path) as gateway:
            await gateway.deploy("count")
            for_ever = message(
                {"model_hint": "count", "inputs": [tensor(np.array([[10**12]]), "INT64")]}, id="long"
            )
            await gateway.post(INFERENCES, for_ever)
            record = (await gateway.get(f"{INFERENCES}/long?wait_s=0.01")).value
            assert (record["status"], record["outputs"]) == ("assigned", None)

    asyncio.run(scenario())


def test_steps_come_as_events_and_what_breaks_off_says_why(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path) as gateway:
            await gateway.deploy("count", "dense")
            asked = stream("count", 5, steps=3, carry={"y": "x"}, outputs=["y"])
            answer = await gateway.post(MESSAGES, asked)
            assert (answer.status, answer.headers["content-type"]) == (200, "text/event-stream")
            found = events(answer)
            assert [name for name, _ in found] == ["step", "step", "step", "end"]
            native = [
                step.output.tolist()
                async for step in gateway.client.stream(
                    "count", {"x": np.array([[5]])}, carry={"y": "x"}, steps=3, outputs=["y"]
                )
            ]
            told = [array_of(data["outputs"][0], np.int64).tolist() for _, data in found[:-1]]
            assert told == native
            assert found[-1][1] == {"steps": 3}
            wrong = await gateway.post(MESSAGES, stream("count", 5, steps=3, carry={"z": "x"}))
            assert (wrong.status, wrong.headers["content-type"]) == (400, "application/json")

    asyncio.run(scenario())


def test_a_stream_that_breaks_off_ends_with_why(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path) as gateway:
            await gateway.deploy("count")
            found = events(await gateway.post(MESSAGES, {**ENDLESS, "ttl": {"ms": 300}}))
            assert found[0][0] == "step"
            assert found[-1][0] == "error"
            assert found[-1][1]["code"] == "DEADLINE_EXCEEDED"

    asyncio.run(scenario())


def test_who_leaves_a_stream_stops_the_node(tmp_path: Path) -> None:
    def leave(address: str, body: bytes) -> None:
        host, _, port = address.rpartition(":")
        connection = http.client.HTTPConnection(host, int(port), timeout=30)
        connection.request("POST", MESSAGES, body)
        answer = connection.getresponse()
        assert answer.read(20).startswith(b"event: step")
        connection.close()

    async def scenario() -> None:
        async with serving(tmp_path) as gateway:
            await gateway.deploy("count")
            body = json.dumps(ENDLESS).encode()
            await asyncio.to_thread(leave, gateway.address, body)
            parts = gateway.node._parts
            assert parts is not None
            await until(lambda: not parts.streamed.streams)
            await until(lambda: gateway.room.requests == gateway.room.bytes == 0)

    asyncio.run(scenario())


def test_any_node_answers_for_any_model_and_submission(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with in_process_cluster(tmp_path, 3) as cluster, contextlib.AsyncExitStack() as stack:
            nodes = list(cluster.running.values())
            gateways = [await stack.enter_async_context(gateway_of(node)) for node in nodes]
            await gateways[0].deploy("dense")
            wanted = (await gateways[0].client.infer("dense", {"x": X})).output
            for gateway in gateways:
                answer = await gateway.post(MESSAGES, dense(encoding="base64"))
                (output,) = answer.value["payload"]["outputs"]
                assert array_of(output, np.float32).tobytes() == wanted.tobytes()
            for number, gateway in enumerate(gateways):
                assert (await gateway.post(INFERENCES, {**dense(), "id": f"i{number}"})).status == 202
                # At once, at nodes that may not have heard of it.
                for other in gateways:
                    assert (await other.get(f"{INFERENCES}/i{number}")).status == 200
            status = (await gateways[1].get("/mcp/v1/cluster")).value
            assert (status["serves"], sorted(status["voters"])) == (True, ["n1", "n2", "n3"])
            assert [node["problem"] for node in status["nodes"]] == [None] * 3
            assert status["models"][0]["name"] == "dense"

    asyncio.run(scenario())
