"""Declared limits and fallbacks of a real node, as HTTP and gRPC tell them."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from served_node import Answer, Gateway, serving

from mcp.wire.json_codec import message_from_json

X = np.ones((1, 64), np.float32)
ASKED = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 64], "data": X.tolist()}]}
INFER = "/v2/models/dense/infer"
NOTHING = {"concurrency": None, "breaker": None}
ONE = {**NOTHING, "limit": {"kind": "sliding_window", "amount": 1, "per_s": 600}}
CACHED = {"kind": "cached", "max_age_s": 600}
MESSAGE = {
    "mcp_version": "1.0",
    "type": "INFER_REQUEST",
    "payload": {
        "model_hint": "dense",
        "inputs": [{"name": "x", "dtype": "FP32", "shape": [1, 64], "data": X.tolist()}],
    },
}
STREAM = {
    "mcp_version": "1.0",
    "type": "INFER_STREAM",
    "payload": {
        "model_hint": "fibonacci",
        "inputs": [
            {"name": "state", "dtype": "INT64", "shape": [1, 2], "data": [0, 1]},
            {"name": "limit", "dtype": "INT64", "shape": [1, 1], "data": [10**15]},
        ],
        "carry": {"next": "state"},
        "steps": 3,
        "timeout_ms": 300,
    },
}


async def fallbacks_of(gateway: Gateway, name: str, *fallbacks: dict[str, Any]) -> None:
    await gateway.client.set_limits({"models": {name: {**ONE, "fallbacks": list(fallbacks)}}})


def events(answer: Answer) -> list[tuple[str, Any]]:
    found = []
    for event in answer.body.decode().strip().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in event.split("\n"))
        found.append((fields["event"], json.loads(fields["data"])))
    return found


def test_http_says_that_an_answer_is_a_fallback_and_how_old(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path) as gateway:
            await gateway.deploy("dense")
            await fallbacks_of(gateway, "dense", CACHED)
            fresh = (await gateway.post(INFER, ASKED)).value
            assert "parameters" not in fresh
            again = (await gateway.post(INFER, ASKED)).value
            assert again["outputs"] == fresh["outputs"]
            assert again["parameters"]["fallback"] == "cached"
            assert 0 <= again["parameters"]["age_s"] < 60
            told = message_from_json((await gateway.post("/mcp/v1/messages", MESSAGE)).body, new_id="x")
            assert told.payload["fallback"] == "cached"
            assert 0 <= told.payload["age_s"] < 60
            other = {
                "inputs": [{**ASKED["inputs"][0], "data": [2.0] * 64}],
                "parameters": {"timeout": 200_000},
            }
            refused = await gateway.post(INFER, other)
            assert (refused.status, refused.headers["mcp-error-code"]) == (429, "RESOURCE_EXHAUSTED")
            assert 500 < int(refused.headers["retry-after"]) <= 601

    asyncio.run(scenario())


def test_grpc_says_that_an_answer_is_a_fallback(tmp_path: Path) -> None:
    grpc = pytest.importorskip("grpc", reason="needs the extra grpc")
    from mcp.gateway.grpc_schema import SERVICE, messages
    from mcp.gateway.grpc_server import GrpcServer

    made = messages()

    async def scenario() -> None:
        async with serving(tmp_path) as gateway:
            await gateway.deploy("dense")
            await fallbacks_of(gateway, "dense", CACHED)
            server = GrpcServer(gateway.operations, "127.0.0.1:0", observer=gateway.observer)
            await server.start()
            tensor = {"name": "x", "datatype": "FP32", "shape": [1, 64]}
            request = made["ModelInferRequest"](
                model_name="dense", inputs=[tensor], raw_input_contents=[X.tobytes()]
            )
            try:
                async with grpc.aio.insecure_channel(server.address) as channel:
                    rpc = channel.unary_unary(
                        f"/{SERVICE}/ModelInfer",
                        lambda each: each.SerializeToString(),
                        made["ModelInferResponse"].FromString,
                    )
                    fresh, again = await rpc(request, timeout=30), await rpc(request, timeout=30)
            finally:
                await server.stop()
            assert dict(fresh.parameters) == {}
            assert again.raw_output_contents == fresh.raw_output_contents
            assert again.parameters["fallback"].string_param == "cached"
            assert 0 <= again.parameters["age_s"].double_param < 60

    asyncio.run(scenario())


def test_streams_and_submissions_are_refused_before_anything_is_sent(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path) as gateway:
            await gateway.deploy("fibonacci", "dense")
            await gateway.client.deploy("twin", Path(__file__).parents[2] / "executor/models/fibonacci.onnx")
            await gateway.client.set_limits({"models": {"fibonacci": ONE, "dense": ONE}})
            first = await gateway.post("/mcp/v1/messages", STREAM)
            assert [name for name, _ in events(first)] == ["step"] * 3 + ["end"]
            refused = await gateway.post("/mcp/v1/messages", STREAM)
            assert (refused.status, refused.headers["mcp-error-code"]) == (429, "RESOURCE_EXHAUSTED")
            assert int(refused.headers["retry-after"]) > 500
            short = {**MESSAGE, "payload": {**MESSAGE["payload"], "timeout_ms": 300}}  # type: ignore[dict-item]
            assert (await gateway.post("/mcp/v1/inferences", {**short, "id": "a"})).status == 202
            refused = await gateway.post("/mcp/v1/inferences", {**short, "id": "b"})
            assert (refused.status, refused.headers["mcp-error-code"]) == (429, "RESOURCE_EXHAUSTED")
            assert int(refused.headers["retry-after"]) > 500
            await fallbacks_of(gateway, "fibonacci", {"kind": "model", "model": "twin"})
            told = events(await gateway.post("/mcp/v1/messages", STREAM))
            assert [data.get("fallback") for name, data in told if name == "step"] == ["model"] * 3

    asyncio.run(scenario())


def test_a_model_that_is_broken_is_503_with_when_to_come_back(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path) as gateway:
            await gateway.deploy("pick")
            breaker = {"calls_min": 2, "open_s": 30.0}
            await gateway.client.set_limits({"default_model": {"concurrency": None, "breaker": breaker}})
            tensors = [
                {"name": "data", "datatype": "FP32", "shape": [1], "data": [1.0]},
                {"name": "index", "datatype": "INT64", "shape": [1], "data": [9]},
            ]
            asked = {"inputs": tensors, "parameters": {"timeout": 300_000}}
            told = [await gateway.post("/v2/models/pick/infer", asked) for _ in range(4)]
            assert [each.status for each in told] == [503] * 4
            assert [each.headers["mcp-error-code"] for each in told[:2]] == ["INFERENCE_FAILED"] * 2
            assert told[-1].headers["mcp-error-code"] == "CIRCUIT_OPEN"
            assert 10 < int(told[-1].headers["retry-after"]) <= 30

    asyncio.run(scenario())
