"""The REST gateway of a real node: routes, answers that are the native client's, and errors by status."""

from __future__ import annotations

import asyncio
import gzip
import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from served_node import MODELS, Gateway, gateway_of, serving

from mcp.gateway import rest
from mcp.gateway.requests import HEADER_LENGTH, read_request
from mcp.gateway.room import Room
from mcp.gateway.tensors import from_raw
from mcp.wire.json_tensors import from_json
from simulations.in_process import in_process_cluster, until

X = np.random.default_rng(1).standard_normal((3, 64)).astype(np.float32)
FOR_EVER = {"inputs": [{"name": "x", "datatype": "INT64", "shape": [1, 1], "data": [10**12]}]}


def as_json(name: str, array: Any, datatype: str, **parameters: Any) -> dict[str, Any]:
    tensor = {"name": name, "datatype": datatype, "shape": list(array.shape), "data": array.tolist()}
    return {"inputs": [tensor], "parameters": parameters}


def as_binary(name: str, array: Any, datatype: str, **fields: Any) -> tuple[bytes, dict[str, str]]:
    raw = array.tobytes()
    tensor = {
        "name": name,
        "datatype": datatype,
        "shape": list(array.shape),
        "parameters": {"binary_data_size": len(raw)},
    }
    head = json.dumps({"inputs": [tensor], **fields}).encode()
    return head + raw, {HEADER_LENGTH: str(len(head))}


def test_answers_are_those_of_the_native_client_in_either_form(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path) as gateway:
            await gateway.deploy("dense")
            wanted = (await gateway.client.infer("dense", {"x": X})).output
            plain = await gateway.post("/v2/models/dense/infer", {**as_json("x", X, "FP32"), "id": "7"})
            assert (plain.status, plain.headers["content-type"]) == (200, "application/json")
            assert HEADER_LENGTH.lower() not in plain.headers
            fields = plain.value
            assert (fields["model_name"], fields["model_version"], fields["id"]) == ("dense", "1", "7")
            (output,) = fields["outputs"]
            found = from_json("y", output["datatype"], tuple(output["shape"]), output["data"])
            assert found.tobytes() == wanted.tobytes()

            body, headers = as_binary("x", X, "FP32", parameters={"binary_data_output": True})
            for way in ({}, {"Content-Encoding": "gzip"}):
                sent = gzip.compress(body) if way else body
                answer = await gateway.post("/v2/models/dense/versions/1/infer", sent, headers | way)
                assert answer.status == 200, answer.body
                length = int(answer.headers[HEADER_LENGTH.lower()])
                (output,) = json.loads(answer.body[:length])["outputs"]
                assert output["parameters"] == {"binary_data_size": wanted.nbytes}
                raw = from_raw("y", "y", "FP32", tuple(output["shape"]), answer.body[length:])
                assert raw.tobytes() == wanted.tobytes()

    asyncio.run(scenario())


def test_strings_go_in_and_out(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path) as gateway:
            await gateway.deploy("strings")
            tensor = {"name": "text", "datatype": "BYTES", "shape": [2], "data": ["ä", ""]}
            answer = await gateway.post("/v2/models/strings/infer", {"inputs": [tensor]})
            assert answer.value["outputs"][0]["data"] == ["ä", ""]

    asyncio.run(scenario())


def test_server_models_and_the_repository_are_told(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path) as gateway:
            await gateway.client.deploy("org/dense", MODELS / "dense.onnx", version="a/1", aliases=["d"])
            assert (await gateway.get("/v2")).value["name"] == "mcp"
            assert (await gateway.get("/v2/health/live")).value == {"live": True}
            assert (await gateway.get("/v2/health/ready")).value == {"live": True, "ready": True}
            for path in ("org/dense", "d", "org/dense/versions/a/1"):
                answer = await gateway.get(f"/v2/models/{path}")
                assert answer.value["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 64]}]
                assert (await gateway.get(f"/v2/models/{path}/ready")).value["ready"] is True
            index = await gateway.post("/v2/repository/index", {"ready": True})
            assert index.value == [{"name": "org/dense", "version": "a/1", "state": "READY", "reason": ""}]
            await gateway.post("/v2/models/d/infer", as_json("x", X, "FP32"))
            await gateway.post("/v2/models/d/infer", as_json("x", X, "INT64"))
            await gateway.post("/v2/models/d/infer", as_json("wrong", X, "FP32"))
            for path in ("stats", "org/dense/stats", "org/dense/versions/a/1/stats"):
                (stats,) = (await gateway.get(f"/v2/models/{path}")).value["model_stats"]
                assert (stats["name"], stats["inference_count"]) == ("org/dense", 1)
                assert stats["inference_stats"]["fail"]["count"] == 1

    asyncio.run(scenario())


def test_models_are_unloaded_by_whoever_may(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path) as gateway:
            await gateway.deploy("dense")
            for action in ("load", "unload"):
                refused = await gateway.post(f"/v2/repository/models/dense/{action}")
                assert (refused.status, refused.headers["mcp-error-code"]) == (403, "PERMISSION_DENIED")
            async with gateway_of(gateway.node, control=True) as allowed:
                path = "/v2/repository/models/dense"
                assert (await allowed.post(f"{path}/load")).status == 200
                with_files = await allowed.post(f"{path}/load", {"parameters": {"config": "{}"}})
                assert (with_files.status, '"config"' in with_files.error) == (400, True)
                wish = {"parameters": {"unload_dependents": False}}
                assert (await allowed.post(f"{path}/unload", wish)).status == 200
                assert (await allowed.get("/v2/models/dense")).status == 404
                assert (await allowed.post(f"{path}/load")).status == 404

    asyncio.run(scenario())


def test_every_mistake_has_its_status_and_one_form(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path) as gateway:
            await gateway.deploy("dense", "pick", "count")
            infer = "/v2/models/dense/infer"
            broken = {
                "inputs": [
                    {"name": "data", "datatype": "FP32", "shape": [1], "data": [1]},
                    {"name": "index", "datatype": "INT64", "shape": [1], "data": [99]},
                ]
            }
            huge = {"Content-Length": str(10**12)}
            late = {**FOR_EVER, "parameters": {"timeout": 1000}}
            cases: list[tuple[str, Any, dict[str, str], int, str]] = [
                ("/v2/models/nope/infer", as_json("x", X, "FP32"), {}, 404, "MODEL_NOT_FOUND"),
                ("/v2/models/dense/versions/9/infer", as_json("x", X, "FP32"), {}, 404, "MODEL_NOT_FOUND"),
                (infer, as_json("x", X[:, :3], "FP32"), {}, 400, "INPUT_INVALID"),
                (infer, {**as_json("x", X, "FP32"), "outputs": [{"name": "z"}]}, {}, 400, "INPUT_INVALID"),
                (infer, b"{", {}, 400, "INVALID_ARGUMENT"),
                (infer, None, {}, 400, "INPUT_INVALID"),
                (infer, b"x", {HEADER_LENGTH: "5"}, 400, "INVALID_ARGUMENT"),
                (infer, b"", huge, 413, "TOO_LARGE"),
                ("/v2/models/pick/infer", broken, {}, 503, "INFERENCE_FAILED"),
                ("/v2/models/count/infer", late, {}, 504, "DEADLINE_EXCEEDED"),
                ("/v2/nope", b"", {}, 404, "NOT_FOUND"),
                ("/v2/health/live", b"", {}, 405, "NOT_FOUND"),
            ]
            for path, body, headers, status, code in cases:
                answer = await gateway.post(path, body, headers)
                assert (answer.status, answer.headers["mcp-error-code"]) == (status, code), (path, answer)
                assert list(answer.value) == ["error"]
                assert ("GET /openapi.json" in answer.error) == (path == "/v2/nope")
                assert "retry-after" not in answer.headers
            assert (await gateway.get("/v2/models/nope/ready")).status == 404

    asyncio.run(scenario())


def test_too_much_is_429_with_a_time_to_come_back_and_health_still_answers(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path, room=Room(requests_max=1)) as gateway:
            await gateway.deploy("count", "dense")
            _, busy = await opened(gateway)
            busy.write(posted("/v2/models/count/infer", json.dumps(FOR_EVER).encode()))
            await until(lambda: gateway.room.requests == 1)
            answer = await gateway.post("/v2/models/dense/infer", as_json("x", X, "FP32"))
            assert (answer.status, answer.headers["retry-after"]) == (429, "1")
            assert answer.headers["mcp-error-code"] == "BUSY"
            assert (await gateway.get("/v2/health/ready")).status == 200
            busy.close()

    asyncio.run(scenario())


def test_bodies_that_do_not_fit_beside_others_are_429(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path, room=Room(bytes_max=2000)) as gateway:
            answer = await gateway.post("/v2/models/dense/infer", b"x" * 2001)
            assert (answer.status, answer.headers["retry-after"]) == (429, "1")
            assert gateway.room.bytes == 0

    asyncio.run(scenario())


async def opened(gateway: Gateway) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, _, port = gateway.address.rpartition(":")
    return await asyncio.open_connection(host, int(port))


def posted(path: str, body: bytes, length: int | None = None) -> bytes:
    told = len(body) if length is None else length
    return f"POST {path} HTTP/1.1\r\nHost: h\r\nContent-Length: {told}\r\n\r\n".encode() + body


def test_who_goes_away_takes_the_run_along(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path) as gateway:
            await gateway.deploy("count")
            _, writer = await opened(gateway)
            writer.write(posted("/v2/models/count/infer", json.dumps(FOR_EVER).encode()))
            running = lambda: gateway.node.status()["metrics"]["inference_running"]  # noqa: E731
            await until(lambda: running() == 1)
            writer.close()
            await until(lambda: running() == 0)
            await until(lambda: gateway.room.requests == 0)

    asyncio.run(scenario())


def test_a_body_that_does_not_come_is_408(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path, body_timeout_s=0.05) as gateway:
            reader, writer = await opened(gateway)
            writer.write(posted("/v2/models/x/infer", b"{", length=10))
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 408 ")
            assert b"mcp-error-code: DEADLINE_EXCEEDED" in head
            assert b"connection: close" in head.lower()
            assert (await reader.read()).endswith(b"}")
            writer.close()

    asyncio.run(scenario())


def test_a_node_without_a_majority_lives_and_is_not_ready(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with in_process_cluster(tmp_path) as cluster, gateway_of(cluster.running["n1"]) as gateway:
            await until(lambda: cluster.leader() is not None)
            await gateway.deploy("dense")
            while (await gateway.get("/v2/health/ready")).status != 200:
                pass
            await cluster.stop("n2")
            await cluster.stop("n3")
            while (await gateway.get("/v2/health/ready")).status != 503:
                pass
            answer = await gateway.get("/v2/health/ready")
            assert (answer.value["live"], answer.value["ready"]) == (True, False)
            assert answer.error == "knows no leader"
            assert (await gateway.get("/v2/health/live")).status == 200

    asyncio.run(scenario())


def test_a_gateway_asks_the_other_nodes_when_its_own_cannot(tmp_path: Path) -> None:
    """The client of a gateway knows all nodes: it is answered also while its own node is stopped."""

    async def scenario() -> None:
        async with in_process_cluster(tmp_path) as cluster, gateway_of(cluster.running["n1"]) as gateway:
            await until(lambda: cluster.leader() is not None)
            await gateway.deploy("dense")
            wanted = (await gateway.client.infer("dense", {"x": X})).output
            await gateway.client.status()
            await cluster.stop("n1")
            answer = await gateway.post("/v2/models/dense/infer", as_json("x", X, "FP32"))
            assert answer.status == 200, answer.body
            (output,) = answer.value["outputs"]
            assert from_json("y", "FP32", (3, 10), output["data"]).tobytes() == wanted.tobytes()

    asyncio.run(scenario())


def test_large_json_is_read_in_a_thread_and_small_on_the_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[int] = []

    def reading(*arguments: Any) -> Any:
        threads.append(threading.get_ident())
        return read_request(*arguments)

    monkeypatch.setattr(rest, "read_request", reading)
    rows = 2_000
    x = [[0.25] * 64] * rows

    def asked(data: Any, count: int) -> dict[str, Any]:
        return {"inputs": [{"name": "x", "datatype": "FP32", "shape": [count, 64], "data": data}]}

    async def scenario() -> None:
        async with serving(tmp_path) as gateway:
            await gateway.deploy("dense")
            small = await gateway.post("/v2/models/dense/infer", asked(x[:1], 1))
            large = await gateway.post("/v2/models/dense/infer", asked(x, rows))
            wrong = await gateway.post("/v2/models/dense/infer", asked(x, rows + 1))
            assert (small.status, large.status, wrong.status) == (200, 200, 400)
            assert f"lists of {rows + 1}" in wrong.error
            one, many = (answer.value["outputs"][0]["data"] for answer in (small, large))
            assert np.allclose(np.reshape(many, (rows, -1)), one)
            here = threading.get_ident()
            assert [each == here for each in threads] == [True, False, False]

    asyncio.run(scenario())
