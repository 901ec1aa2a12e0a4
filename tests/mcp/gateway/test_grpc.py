"""The gRPC form: messages of their own, requests read or refused, and statuses that fit those of HTTP."""

from __future__ import annotations

import asyncio
import gc
import random
import tracemalloc
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

grpc = pytest.importorskip("grpc", reason="needs the extra grpc")

from google.protobuf import descriptor_pool  # noqa: E402
from hypothesis import given  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from served_node import MODELS, Gateway, serving  # noqa: E402

from mcp.client.results import Inference  # noqa: E402
from mcp.errors import ConfigInvalid, McpError  # noqa: E402
from mcp.gateway.failures import STATUS, failure  # noqa: E402
from mcp.gateway.grpc_messages import inference_response, read_inference  # noqa: E402
from mcp.gateway.grpc_schema import SERVICE, messages  # noqa: E402
from mcp.gateway.grpc_server import CODES, GrpcServer  # noqa: E402
from mcp.gateway.limits import CALLS_PER_CONNECTION_MAX, OBJECTS_MAX  # noqa: E402
from mcp.gateway.observer import Observer, Seen  # noqa: E402
from mcp.gateway.room import Room  # noqa: E402
from simulations.in_process import until  # noqa: E402

M = messages()
X = np.random.default_rng(2).standard_normal((2, 64)).astype(np.float32)


def message(*inputs: dict[str, Any], **fields: Any) -> Any:
    return M["ModelInferRequest"](inputs=inputs, **fields)


def tensor(datatype: str, shape: list[int], **contents: Any) -> dict[str, Any]:
    return {"name": "x", "datatype": datatype, "shape": shape, "contents": contents}


DENSE = {"name": "x", "datatype": "FP32", "shape": [2, 64]}


def dense(**fields: Any) -> Any:
    return message(DENSE, raw_input_contents=[X.tobytes()], **{"model_name": "dense", **fields})


@pytest.mark.parametrize(
    ("datatype", "field", "values"),
    [
        ("BOOL", "bool_contents", [True, False]),
        ("INT8", "int_contents", [-128, 127]),
        ("INT16", "int_contents", [-(2**15), 1]),
        ("INT32", "int_contents", [-(2**31), 1]),
        ("INT64", "int64_contents", [-(2**63), 1]),
        ("UINT8", "uint_contents", [255, 0]),
        ("UINT64", "uint64_contents", [2**64 - 1, 0]),
        ("FP32", "fp32_contents", [1.5, float("inf")]),
        ("FP64", "fp64_contents", [0.1, -0.0]),
        ("BYTES", "bytes_contents", [b"\xff", b""]),
    ],
)
def test_typed_contents_are_their_elements(datatype: str, field: str, values: list[Any]) -> None:
    got = read_inference(message(tensor(datatype, [2, 1], **{field: values}))).inputs["x"]
    assert (got.shape, got.reshape(-1).tolist()) == ((2, 1), values)


def test_raw_contents_parameters_and_outputs_are_read() -> None:
    asked = dense(
        id="7",
        outputs=[{"name": "y"}],
        parameters={"timeout": {"int64_param": 5}, "priority": {"uint64_param": 2}},
    )
    got = read_inference(asked)
    assert got.inputs["x"].tobytes() == X.tobytes()
    assert (got.id, got.names, got.wishes.priority) == ("7", ["y"], 2)
    assert got.wishes.timeout_s == pytest.approx(5e-6)


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (message(), '"inputs" are 1 to'),
        (message(DENSE, DENSE, raw_input_contents=[X.tobytes()] * 2), "the name is there twice"),
        (message(DENSE, raw_input_contents=[b"", b""]), '"raw_input_contents" has 2 entries for 1'),
        (message(DENSE, raw_input_contents=[b""]), "takes 512 bytes, got 0"),
        (message({**DENSE, "datatype": "BF16"}), "BF16 cannot be carried"),
        (message(tensor("FP16", [0])), "FP16 has no field"),
        (message(tensor("INT8", [1], int_contents=[128])), "no INT8"),
        (message(tensor("INT64", [1], int_contents=[1])), 'is sent in "int64_contents", got "int_contents"'),
        (message(tensor("FP32", [3], fp32_contents=[1])), "must hold 3 elements"),
        (message(tensor("FP32", [-1], fp32_contents=[1])), '"shape" must hold integers from 0 on'),
        (
            message(tensor("BOOL", [OBJECTS_MAX + 1], bool_contents=[True] * (OBJECTS_MAX + 1))),
            "objects_max",
        ),
        (
            message(tensor("FP32", [1], fp32_contents=[1]), raw_input_contents=[bytes(4)]),
            'both "contents" and "raw_input_contents"',
        ),
        (dense(outputs=[{"name": "y"}, {"name": "y"}]), "outputs[1]: the name"),
        (dense(outputs=[{"name": ""}]), 'outputs[0]: "name"'),
        (dense(parameters={"sequence_id": {"int64_param": 1}}), '"sequence_id" cannot be honoured'),
        (dense(parameters={"timeout": {"string_param": "1"}}), '"timeout" must be an integer'),
        (dense(parameters={"a": {}}), 'the parameter "a" must be'),
    ],
)
def test_a_mistake_is_told_with_its_field(request_: Any, words: str) -> None:
    with pytest.raises(McpError) as refused:
        read_inference(request_)
    assert words in refused.value.message
    assert failure(refused.value).status in (400, 413)


@given(st.binary(max_size=120))
def test_whatever_parses_is_read_or_refused(data: bytes) -> None:
    asked = dense()
    try:
        asked.MergeFromString(data)
    except Exception:
        return
    try:
        read_inference(asked)
    except McpError as refusal:
        assert failure(refusal).status in (400, 413)  # noqa: PT017


def test_outputs_go_out_as_raw_bytes_in_the_order_that_was_asked_for() -> None:
    asked = read_inference(dense(outputs=[{"name": "b"}, {"name": "a"}]))
    answer = Inference({"a": X, "b": np.array(["ä"], object), "c": X}, "m", "3", "n1")
    told = inference_response(M["ModelInferResponse"], asked, answer)
    assert [(o.name, o.datatype, list(o.shape)) for o in told.outputs] == [
        ("b", "BYTES", [1]),
        ("a", "FP32", [2, 64]),
    ]
    assert list(told.raw_output_contents) == [b"\x02\0\0\0\xc3\xa4", X.tobytes()]


def test_the_default_pool_of_descriptors_stays_as_it_was() -> None:
    with pytest.raises(KeyError):
        descriptor_pool.Default().FindMessageTypeByName("inference.ModelInferRequest")
    assert messages()["ModelInferRequest"] is not M["ModelInferRequest"]


def test_every_status_of_http_has_one_of_grpc_and_too_much_is_not_broken() -> None:
    assert set(CODES) == set(STATUS.values())
    alike = [status for status, code in CODES.items() if code is CODES[429]]
    assert alike == [429]
    assert CODES[503] is grpc.StatusCode.UNAVAILABLE


@asynccontextmanager
async def called(
    gateway: Gateway, room: Room | None = None, **options: Any
) -> AsyncIterator[tuple[str, Any]]:
    """A server's address, and a function that calls an RPC of it."""
    server = GrpcServer(gateway.operations, "127.0.0.1:0", room=room, **options)
    await server.start()
    async with grpc.aio.insecure_channel(server.address) as channel:

        async def call(name: str, request: Any, answer: str, **how: Any) -> Any:
            rpc = channel.unary_unary(
                f"/{SERVICE}/{name}", lambda each: each.SerializeToString(), M[answer].FromString
            )
            return await rpc(request, **how)

        try:
            yield server.address, call
        finally:
            await server.stop()


def test_statuses_and_codes_of_a_real_server(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path) as gateway, called(gateway) as (_, call):
            await gateway.deploy("dense", "count")
            wanted = (await gateway.client.infer("dense", {"x": X})).output
            told = await call("ModelInfer", dense(), "ModelInferResponse")
            assert told.raw_output_contents[0] == wanted.tobytes()
            for_ever = message(tensor("INT64", [1, 1], int64_contents=[10**12]), model_name="count")
            cases = [
                (dense(model_name="nope"), "NOT_FOUND", "MODEL_NOT_FOUND", {}),
                (message(model_name="dense"), "INVALID_ARGUMENT", "INPUT_INVALID", {}),
                (dense(model_version="9"), "NOT_FOUND", "MODEL_NOT_FOUND", {}),
            ]
            for request, status, code, how in cases:
                with pytest.raises(grpc.aio.AioRpcError) as refused:
                    await call("ModelInfer", request, "ModelInferResponse", **how)
                assert refused.value.code().name == status
                assert dict(refused.value.trailing_metadata())["mcp-error-code"] == code
            for_ever.parameters["timeout"].int64_param = 1000
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await call("ModelInfer", for_ever, "ModelInferResponse")
            assert refused.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await call(
                    "RepositoryModelUnload",
                    M["RepositoryModelUnloadRequest"](model_name="dense"),
                    "RepositoryModelUnloadResponse",
                )
            assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED

    asyncio.run(scenario())


def test_too_much_is_resource_exhausted_and_who_gives_up_takes_the_run_along(tmp_path: Path) -> None:
    async def scenario() -> None:
        room = Room(requests_max=1)
        async with serving(tmp_path) as gateway, called(gateway, room) as (_, call):
            await gateway.deploy("dense", "count")
            for_ever = message(tensor("INT64", [1, 1], int64_contents=[10**12]), model_name="count")
            busy = asyncio.ensure_future(call("ModelInfer", for_ever, "ModelInferResponse"))
            running = lambda: gateway.node.status()["metrics"]["inference_running"]  # noqa: E731
            await until(lambda: running() == 1)
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await call("ModelInfer", dense(), "ModelInferResponse")
            assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert dict(refused.value.trailing_metadata())["grpc-retry-pushback-ms"] == "1000"
            busy.cancel()
            await until(lambda: running() == 0 and room.requests == 0)

    asyncio.run(scenario())


def test_connections_that_say_nothing_are_few(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with (
            serving(tmp_path) as gateway,
            called(gateway, connections_max=3) as (address, call),
        ):
            host, _, port = address.rpartition(":")
            silent = [await asyncio.open_connection(host, int(port)) for _ in range(12)]
            ended = [asyncio.ensure_future(reader.read()) for reader, _ in silent]
            await until(lambda: sum(each.done() for each in ended) >= 9)
            assert sum(each.done() for each in ended) == 9
            for _, writer in silent:
                writer.close()
            await asyncio.gather(*ended, return_exceptions=True)
            await call("ServerLive", M["ServerLiveRequest"](), "ServerLiveResponse", wait_for_ready=True)

    asyncio.run(scenario())


def test_random_bytes_at_the_port_and_in_messages_hurt_nobody(tmp_path: Path) -> None:
    generator = random.Random(7)

    async def scenario() -> None:
        async with serving(tmp_path) as gateway, called(gateway) as (address, call):
            await gateway.client.deploy("dense", MODELS / "dense.onnx")
            host, _, port = address.rpartition(":")
            for _ in range(20):
                _, writer = await asyncio.open_connection(host, int(port))
                writer.write(generator.randbytes(200))
                writer.close()
            async with grpc.aio.insecure_channel(address) as channel:
                raw = channel.unary_unary(f"/{SERVICE}/ModelInfer")
                whole, seen = dense().SerializeToString(), set()
                for _ in range(100):
                    data = bytearray(whole)
                    for _ in range(generator.randrange(1, 4)):
                        data[generator.randrange(60)] = generator.randrange(256)
                    try:
                        await raw(bytes(data))
                    except grpc.aio.AioRpcError as refusal:
                        seen.add(refusal.code().name)
            # A byte may have become a timeout of a microsecond; what was a model's name may be another's.
            assert seen <= {"INVALID_ARGUMENT", "NOT_FOUND", "DEADLINE_EXCEEDED"}
            assert "INVALID_ARGUMENT" in seen
            told = await call("ServerReady", M["ServerReadyRequest"](), "ServerReadyResponse")
            assert told.ready

    asyncio.run(scenario())


def test_a_stream_goes_on_after_a_request_that_failed(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path) as gateway, called(gateway) as (address, _):
            await gateway.deploy("dense")
            wanted = (await gateway.client.infer("dense", {"x": X})).output
            async with grpc.aio.insecure_channel(address) as channel:
                asked = [dense(id="1"), dense(id="2", model_name="nope"), dense(id="3")]
                sent = [*(each.SerializeToString() for each in asked), b"\xff", asked[0].SerializeToString()]
                answers = channel.stream_stream(
                    f"/{SERVICE}/ModelStreamInfer", None, M["ModelStreamInferResponse"].FromString
                )(iter(sent))
                found = [answer async for answer in answers]
        assert [each.infer_response.id for each in found] == ["1", "2", "3", "", "1"]
        assert [each.error_message.partition(":")[0] for each in found] == [
            *("", "MODEL_NOT_FOUND", "", "INVALID_ARGUMENT", "")
        ]
        for each in (found[0], found[2], found[4]):
            assert each.infer_response.raw_output_contents[0] == wanted.tobytes()

    asyncio.run(scenario())


def test_streams_that_rest_are_few_and_one_that_ends_makes_room(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with (
            serving(tmp_path) as gateway,
            called(gateway, streams_max=2) as (address, _),
            grpc.aio.insecure_channel(address) as channel,
        ):
            await gateway.deploy("dense")
            begin = channel.stream_stream(f"/{SERVICE}/ModelStreamInfer")

            async def used() -> Any:
                stream = begin()
                await stream.write(dense().SerializeToString())
                await stream.read()
                return stream

            first, second = await used(), await used()
            with pytest.raises(grpc.aio.AioRpcError, match="streams_max=2") as refused:
                await used()
            assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert dict(refused.value.trailing_metadata())["mcp-error-code"] == "BUSY"
            await second.done_writing()
            assert await second.read() is grpc.aio.EOF
            third = await used()
            for stream in (first, third):
                stream.cancel()

    asyncio.run(scenario())


def test_an_address_that_cannot_be_used_is_told(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path) as gateway, called(gateway) as (address, _):
            with pytest.raises(ConfigInvalid, match=r"cannot serve gRPC at 127.0.0.1"):
                await GrpcServer(gateway.operations, address).start()
            with pytest.raises(ConfigInvalid, match="host:port"):
                GrpcServer(gateway.operations, "unix:///tmp/x")

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("requests", "status", "words"),
    [
        ([], "INVALID_ARGUMENT", "the call ended without a request"),
        (None, "DEADLINE_EXCEEDED", "the request did not come within 0.05 s"),
    ],
)
def test_a_call_whose_request_does_not_come_is_ended(
    requests: list[bytes] | None, status: str, words: str, tmp_path: Path
) -> None:
    async def never() -> AsyncIterator[bytes]:
        await asyncio.Event().wait()
        yield b""

    async def scenario() -> None:
        async with (
            serving(tmp_path) as gateway,
            called(gateway, body_timeout_s=0.05) as (address, _),
            grpc.aio.insecure_channel(address) as channel,
        ):
            rpc = channel.stream_unary(f"/{SERVICE}/ModelInfer")
            with pytest.raises(grpc.aio.AioRpcError, match=words) as refused:
                await rpc(never() if requests is None else iter(requests))
        assert refused.value.code().name == status
        assert dict(refused.value.trailing_metadata())["mcp-error-code"] == status

    asyncio.run(scenario())


class Arriving(Observer):
    """Counts the calls that have come."""

    came = 0

    @contextmanager
    def request(self, protocol: str, operation: str, carrier: Mapping[str, str]) -> Iterator[Seen]:
        self.came += 1
        with super().request(protocol, operation, carrier) as seen:
            yield seen


def test_calls_without_requests_on_one_connection_leave_room_for_others(tmp_path: Path) -> None:
    async def scenario() -> None:
        observer = Arriving()
        async with serving(tmp_path) as gateway, called(gateway, observer=observer) as (address, call):
            options = [("grpc.use_local_subchannel_pool", 1)]
            async with grpc.aio.insecure_channel(address, options=options) as channel:
                rpc = channel.stream_unary(f"/{SERVICE}/ModelInfer")
                held = [rpc() for _ in range(CALLS_PER_CONNECTION_MAX)]
                await until(lambda: observer.came >= CALLS_PER_CONNECTION_MAX)
                await call("ServerLive", M["ServerLiveRequest"](), "ServerLiveResponse")
                for each in held:
                    each.cancel()

    asyncio.run(scenario())


def test_refused_requests_do_not_stay_in_memory_until_garbage_is_looked_for(tmp_path: Path) -> None:
    body = message(model_name="nope", raw_input_contents=[bytes(2 * 1024**2)])

    async def scenario() -> int:
        async with serving(tmp_path) as gateway, called(gateway) as (_, call):
            before, _ = tracemalloc.get_traced_memory()
            for _ in range(8):
                with pytest.raises(grpc.aio.AioRpcError, match="are 1 to 256 tensors"):
                    await call("ModelInfer", body, "ModelInferResponse")
            return tracemalloc.get_traced_memory()[0] - before

    gc.disable()
    tracemalloc.start()
    try:
        assert asyncio.run(scenario()) < 2 * len(body.SerializeToString())
    finally:
        tracemalloc.stop()
        gc.enable()
