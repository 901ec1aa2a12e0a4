"""Too much and broken, each with its status and when to come back: from a node's refusal to both protocols.

The node refuses on the wire, as its limiter or breaker would; what is between it and the caller is real.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from served_node import Gateway, serving

from mcp import errors

grpc = pytest.importorskip("grpc", reason="needs the extra grpc")

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory  # noqa: E402

from mcp.gateway.grpc_details import STATUS_DETAILS, retry_info  # noqa: E402
from mcp.gateway.grpc_schema import SERVICE, messages  # noqa: E402
from mcp.gateway.grpc_server import GrpcServer  # noqa: E402

M = messages()
X = np.ones((1, 64), np.float32)
HTTP = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 64], "data": X.tolist()}]}
FIELD = descriptor_pb2.FieldDescriptorProto


def google_rpc() -> dict[str, Any]:
    """Google's messages by their published numbers and types, read by protobuf itself."""
    file = descriptor_pb2.FileDescriptorProto(name="rpc.proto", package="google.rpc", syntax="proto3")
    table: dict[str, list[tuple[int, str, int, str]]] = {
        "Any": [(1, "type_url", FIELD.TYPE_STRING, ""), (2, "value", FIELD.TYPE_BYTES, "")],
        "Duration": [(1, "seconds", FIELD.TYPE_INT64, ""), (2, "nanos", FIELD.TYPE_INT32, "")],
        "RetryInfo": [(1, "retry_delay", FIELD.TYPE_MESSAGE, "Duration")],
        "Status": [
            (1, "code", FIELD.TYPE_INT32, ""),
            (2, "message", FIELD.TYPE_STRING, ""),
            (3, "details", FIELD.TYPE_MESSAGE, "Any"),
        ],
    }
    for name, fields in table.items():
        made = file.message_type.add(name=name)
        for number, field, kind, of in fields:
            label = FIELD.LABEL_REPEATED if field == "details" else FIELD.LABEL_OPTIONAL
            added = made.field.add(name=field, number=number, type=kind, label=label)
            if of:
                added.type_name = f".google.rpc.{of}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    find = pool.FindMessageTypeByName
    return {name: message_factory.GetMessageClass(find(f"google.rpc.{name}")) for name in table}


GOOGLE = google_rpc()


def delay_s(data: bytes) -> tuple[int, str, float]:
    status = GOOGLE["Status"].FromString(data)
    (detail,) = status.details
    assert detail.type_url == "type.googleapis.com/google.rpc.RetryInfo"
    delay = GOOGLE["RetryInfo"].FromString(detail.value).retry_delay
    return status.code, status.message, delay.seconds + delay.nanos / 1e9


@pytest.mark.parametrize("seconds", [0.001, 1.0, 2.5, 300.0, 3599.999])
def test_the_detail_is_what_protobuf_reads(seconds: float) -> None:
    assert delay_s(retry_info(8, "too müch" * 100, seconds)) == (8, "too müch" * 100, pytest.approx(seconds))


def refuse_with(gateway: Gateway, error: errors.McpError) -> None:
    """Have the node refuse every inference so."""
    parts = gateway.node._parts
    assert parts is not None
    answering = parts.dispatch.on_request

    def on_request(exchange: Any) -> None:
        if exchange.message.type == "INFER_REQUEST":
            exchange.fail(error)
        else:
            answering(exchange)

    parts.dispatch.on_request = on_request  # type: ignore[method-assign]


OVERLOADED = errors.ResourceExhausted("the rate is reached", details={"retry_after_s": 7.5})
BROKEN = errors.CircuitOpen("it failed lately", details={"retry_after_s": 7.5})


@pytest.mark.parametrize(
    ("error", "status", "code", "retry_after"),
    [
        (OVERLOADED, 429, "RESOURCE_EXHAUSTED", "8"),
        (BROKEN, 503, "UNAVAILABLE", "8"),
        (errors.Busy("full"), 429, "RESOURCE_EXHAUSTED", "1"),
        (errors.Unavailable("gone"), 503, "UNAVAILABLE", None),
        (errors.InferenceFailed("no"), 503, "UNAVAILABLE", None),
        (errors.InputInvalid("no", details={"retry_after_s": 7.5}), 400, "INVALID_ARGUMENT", None),
    ],
    ids=lambda value: getattr(value, "code", None),
)
def test_both_protocols_say_when_to_come_back(
    tmp_path: Path, error: errors.McpError, status: int, code: str, retry_after: str | None
) -> None:
    async def scenario() -> None:
        async with serving(tmp_path) as gateway:
            await gateway.deploy("dense")
            refuse_with(gateway, error)
            asked = {**HTTP, "parameters": {"timeout": 200_000}}
            answer = await gateway.post("/v2/models/dense/infer", asked)
            assert (answer.status, answer.headers.get("retry-after")) == (status, retry_after)
            assert answer.headers["mcp-error-code"] == error.code
            refused = await called(gateway)
            assert refused.code().name == code
            trailing = dict(refused.trailing_metadata())
            assert (trailing["mcp-error-code"], trailing.get("retry-after")) == (error.code, retry_after)
            assert (STATUS_DETAILS in trailing) == (retry_after is not None)
            if retry_after is not None:
                told, words, wait_s = delay_s(trailing[STATUS_DETAILS])
                assert (told, words) == (refused.code().value[0], refused.details())
                assert int(trailing["grpc-retry-pushback-ms"]) == round(wait_s * 1000)
                assert wait_s == pytest.approx(error.details.get("retry_after_s", 1.0))

    asyncio.run(scenario())


async def called(gateway: Gateway) -> Any:
    server = GrpcServer(gateway.operations, "127.0.0.1:0", observer=gateway.observer)
    await server.start()
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, 64]}
    request = M["ModelInferRequest"](model_name="dense", inputs=[tensor], raw_input_contents=[X.tobytes()])
    request.parameters["timeout"].int64_param = 200_000
    try:
        async with grpc.aio.insecure_channel(server.address) as channel:
            rpc = channel.unary_unary(
                f"/{SERVICE}/ModelInfer",
                lambda each: each.SerializeToString(),
                M["ModelInferResponse"].FromString,
            )
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await rpc(request, timeout=30)
            return refused.value
    finally:
        await server.stop()


def test_grpc_takes_a_trace_in_gives_it_out_and_is_counted(tmp_path: Path) -> None:
    trace = "0af7651916cd43dd8448eb211c80319c"

    async def scenario() -> None:
        async with serving(tmp_path) as gateway:
            server = GrpcServer(gateway.operations, "127.0.0.1:0", observer=gateway.observer)
            await server.start()
            async with grpc.aio.insecure_channel(server.address) as channel:
                parent = f"00-{trace}-b7ad6b7169203331-01"
                metadata = (("traceparent", parent), ("tracestate", "a=1"), ("x-bin", b"\xff"))
                for name, status in (("ServerLive", "OK"), ("ModelMetadata", "NOT_FOUND")):
                    call = channel.unary_unary(f"/{SERVICE}/{name}")(b"", timeout=30, metadata=metadata)
                    assert (await call.code()).name == status
                    trailing = dict(await call.trailing_metadata())
                    assert trailing["traceparent"].startswith(f"00-{trace}-")
                    assert trailing["tracestate"] == "a=1"
            await server.stop()
            text = (await gateway.get("/metrics")).body.decode()
            for operation, status in (("ServerLive", "OK"), ("ModelMetadata", "NOT_FOUND")):
                labels = f'protocol="grpc",operation="{operation}",status="{status}"'
                assert f"mcp_gateway_requests_total{{{labels}}} 1\n" in text
            assert 'mcp_gateway_errors_total{protocol="grpc",code="MODEL_NOT_FOUND"} 1\n' in text

    asyncio.run(scenario())
