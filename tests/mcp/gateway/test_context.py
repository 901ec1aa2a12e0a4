"""What a request says beside its inputs reaches routes and rules, by each protocol."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from served_node import MODELS, Gateway, serving

from mcp.cluster.router.requests import HEADER_CHARS_MAX, HEADERS_MAX
from mcp.cluster.scheduler.interface import PRIORITY_MAX
from mcp.errors import InvalidArgument
from mcp.gateway.context import Context, read_context, urgency

X = np.ones((1, 64), np.float32)
ASKED: dict[str, Any] = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 64], "data": X.tolist()}]}
MESSAGE: dict[str, Any] = {
    "mcp_version": "1.0",
    "type": "INFER_REQUEST",
    "payload": {
        "model_hint": "dense",
        "inputs": [{"name": "x", "dtype": "FP32", "shape": [1, 64], "data": X.tolist()}],
    },
}
BY_HEADER = {
    "host": "dense",
    "entries": [
        {
            "matches": [{"headers": {"x-tester": {"exact": "yes"}}}],
            "destinations": [{"model": "dense", "version": "2", "weight": 1}],
        },
        {"destinations": [{"model": "dense", "version": "1", "weight": 1}]},
    ],
}
HALVES = {
    "host": "dense",
    "entries": [
        {"destinations": [{"model": "dense", "version": version, "weight": 1} for version in "12"]},
    ],
}


async def two_versions(gateway: Gateway, route: dict[str, Any]) -> None:
    for version in "12":
        await gateway.client.deploy("dense", MODELS / "dense.onnx", version=version)
    await gateway.client.apply_routes([route])


def test_a_client_s_own_headers_and_session_count_and_what_proxies_add_does_not() -> None:
    told = read_context(
        [
            ("X-Tester", "yes"),
            ("x-forwarded-for", "10.0.0.1"),
            ("X-Request-Id", "7"),
            ("content-type", "application/json"),
            ("authorization", "secret"),
            ("x-long", "a" * (HEADER_CHARS_MAX + 1)),
            ("x-raw-bin", b"bytes"),
            ("MCP-Session", "s1"),
        ]
    )
    assert told == Context("s1", {"x-tester": "yes"}, 0)
    many = read_context([(f"x-{number}", "v") for number in range(HEADERS_MAX + 9)])
    assert len(many.headers) == HEADERS_MAX
    assert read_context([("user-agent", "a client")]) == Context()
    with pytest.raises(InvalidArgument, match="mcp-session"):
        read_context([("mcp-session", "s" * 129)])


def test_the_most_urgent_is_1_outside_and_the_largest_inside() -> None:
    assert [urgency(each) for each in (0, 1, 2, PRIORITY_MAX, PRIORITY_MAX + 1, 2**64 - 1)] == [
        0,
        PRIORITY_MAX,
        PRIORITY_MAX - 1,
        1,
        0,
        0,
    ]


@pytest.mark.parametrize(("headers", "version"), [({}, "1"), ({"x-tester": "yes"}, "2")])
def test_a_route_looks_at_the_headers_of_a_stock_client(
    headers: dict[str, str], version: str, tmp_path: Path
) -> None:
    async def scenario() -> None:
        async with serving(tmp_path) as gateway:
            await two_versions(gateway, BY_HEADER)
            answer = await gateway.post("/v2/models/dense/infer", ASKED, headers)
            assert (answer.status, answer.value["model_version"]) == (200, version)
            payload = {**MESSAGE["payload"], "headers": headers}
            native = await gateway.post("/mcp/v1/messages", {**MESSAGE, "payload": payload})
            assert native.value["payload"]["version"] == version

    asyncio.run(scenario())


def test_a_route_looks_at_the_metadata_of_a_grpc_client(tmp_path: Path) -> None:
    grpc = pytest.importorskip("grpc", reason="needs the extra grpc")
    from mcp.gateway.grpc_schema import SERVICE, messages
    from mcp.gateway.grpc_server import GrpcServer

    made = messages()
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, 64]}
    request = made["ModelInferRequest"](model_name="dense", inputs=[tensor], raw_input_contents=[X.tobytes()])

    async def scenario() -> None:
        async with serving(tmp_path) as gateway:
            await two_versions(gateway, BY_HEADER)
            server = GrpcServer(gateway.operations, "127.0.0.1:0", observer=gateway.observer)
            await server.start()
            try:
                async with grpc.aio.insecure_channel(server.address) as channel:
                    rpc = channel.unary_unary(
                        f"/{SERVICE}/ModelInfer",
                        lambda each: each.SerializeToString(),
                        made["ModelInferResponse"].FromString,
                    )
                    plain = await rpc(request, timeout=30)
                    metadata = (("x-tester", "yes"), ("x-raw-bin", b"bytes"))
                    tester = await rpc(request, timeout=30, metadata=metadata)
            finally:
                await server.stop()
            assert (plain.model_version, tester.model_version) == ("1", "2")

    asyncio.run(scenario())


def test_a_session_gets_one_version(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path) as gateway:
            await two_versions(gateway, HALVES)
            of_each = []
            for session in map(str, range(8)):
                told = set()
                for _ in range(4):
                    headers = {"MCP-Session": session}
                    answer = await gateway.post("/v2/models/dense/infer", ASKED, headers)
                    told.add(answer.value["model_version"])
                payload = {**MESSAGE["payload"], "session": session}
                native = await gateway.post("/mcp/v1/messages", {**MESSAGE, "payload": payload})
                told.add(native.value["payload"]["version"])
                of_each.append(told)
            assert all(len(told) == 1 for told in of_each)
            assert set().union(*of_each) == {"1", "2"}

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"headers": ["x"]}, "headers"),
        ({"headers": {"x-a": 1}}, "headers"),
        ({"priority": "high"}, "priority"),
        ({"session": 7}, "session"),
        ({"session": "s" * 200}, "session"),
        ({"headers": {f"x-{number}": "v" for number in range(HEADERS_MAX + 1)}}, "headers"),
        ({"headers": {"x-a": "v" * (HEADER_CHARS_MAX + 1)}}, "headers"),
        ({"priority": 2**40}, "priority"),
    ],
)
def test_what_is_none_of_it_is_refused_by_name(fields: dict[str, Any], told: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path) as gateway:
            await gateway.deploy("dense")
            payload = {**MESSAGE["payload"], **fields}
            answer = await gateway.post("/mcp/v1/messages", {**MESSAGE, "payload": payload})
            assert answer.status == 400
            assert told in answer.value["error"]

    asyncio.run(scenario())
