"""Random bytes at the three ports of one node: no answer is 500, nothing breaks, and nothing is left of them.

Some begin like the protocol, so that what comes behind is read at all. The seed decides all of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import random
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from served_node import Gateway, gateway_of

from mcp.client.client import Client
from mcp.node.config import NodeConfig
from mcp.node.node import Node
from simulations.in_process import until

MODELS = Path(__file__).parents[2] / "executor" / "models"
KEY = b"k" * 32
ATTEMPTS_EACH = 120
AT_ONCE = 12
ANSWER_S = 0.05
"""How long an answer to one of them is listened for; none has to come."""

Begin = Callable[[random.Random], bytes]


def _http(draw: random.Random) -> bytes:
    paths = [
        "/v2/models/dense/infer",
        "/mcp/v1/messages",
        "/mcp/v1/inferences",
        "/metrics",
        "/%ff%00",
        "/v2/" * 99,
    ]
    lines = [
        f"{draw.choice(['POST', 'GET', 'HEAD', 'PUT', 'OPTIONS', 'TRACE'])} {draw.choice(paths)} HTTP/1.1",
        "Host: x",
    ]
    body = draw.randbytes(draw.randrange(200))
    extra = {
        "Content-Length": draw.choice([str(len(body)), str(len(body)), "0", "-1", "9" * 20]),
        "Inference-Header-Content-Length": draw.choice(["0", "5", "-1", "x", str(len(body))]),
        "Content-Encoding": draw.choice(["gzip", "deflate", "br"]),
        "Transfer-Encoding": "chunked",
        "traceparent": draw.choice(["00-" + "0" * 32, "\xff" * 9, "00-" + "a" * 32 + "-" + "b" * 16 + "-01"]),
        "Expect": "100-continue",
    }
    lines += [f"{name}: {value}" for name, value in extra.items() if draw.random() < 0.4]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def _grpc(draw: random.Random) -> bytes:
    """HTTP/2's preface and settings, and frames whose heads make sense."""
    frames = b""
    for _ in range(draw.randrange(1, 6)):
        content = draw.randbytes(draw.randrange(60))
        head = struct.pack(">I", len(content))[1:] + bytes([draw.randrange(11), draw.randrange(256)])
        frames += head + struct.pack(">I", draw.choice([0, 1, 1, 3, 2**31])) + content
    return b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]) + frames


def _native(draw: random.Random) -> bytes:
    """A frame's head with a length that fits, or does not."""
    content = draw.randbytes(draw.randrange(200))
    told = draw.choice([len(content), 0, 2**31 - 1])
    return struct.pack(draw.choice([">I", "<I"]), told) + content


BEGINS: dict[str, Begin] = {"http": _http, "grpc": _grpc, "native": _native}


async def _send(address: str, data: bytes) -> bytes:
    """Send, listen for a moment, and go away without a word."""
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    answer = b""
    try:
        with contextlib.suppress(OSError):
            writer.write(data)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(ANSWER_S):
                    answer = await reader.read(4096)
    finally:
        writer.transport.abort()
    return answer


async def _bombard(port: str, address: str) -> set[bytes]:
    """The first lines of what came back."""
    draw = random.Random(f"{port} 1")
    found: set[bytes] = set()
    for _ in range(ATTEMPTS_EACH // AT_ONCE):
        pieces = [
            BEGINS[port](draw) if draw.random() < 0.8 else draw.randbytes(draw.randrange(1, 400))
            for _ in range(AT_ONCE)
        ]
        answers = await asyncio.gather(*(_send(address, data) for data in pieces))
        found |= {answer.partition(b"\r\n")[0] for answer in answers}
    return found


def _files() -> int:
    return len(os.listdir("/proc/self/fd"))


async def _still_well(gateway: Gateway, grpc_address: str, native: Client) -> None:
    grpc = pytest.importorskip("grpc", reason="needs the extra grpc")
    x = np.ones((1, 64), np.float32)
    assert (await native.infer("dense", {"x": x})).output.shape == (
        await gateway.client.infer("dense", {"x": x})
    ).output.shape
    assert (await gateway.get("/readyz")).value["ready"] is True
    async with grpc.aio.insecure_channel(grpc_address) as channel:
        live = channel.unary_unary("/inference.GRPCInferenceService/ServerLive")
        assert await live(b"", timeout=30) == b"\x08\x01"


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="open files are counted in /proc")
def test_a_node_outlives_random_bytes_at_each_port_and_forgets_them(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    grpc_server = pytest.importorskip("mcp.gateway.grpc_server", reason="needs the extra grpc")

    async def scenario() -> None:
        config = NodeConfig(
            "n1", tmp_path / "n1", listen=("127.0.0.1:0",), engine="solo", cluster_key=KEY, workers=1
        )
        async with Node(config) as node, gateway_of(node) as gateway:
            server = grpc_server.GrpcServer(
                gateway.operations, "127.0.0.1:0", room=gateway.room, observer=gateway.observer
            )
            await server.start()
            parts = node._parts
            assert parts is not None
            async with Client([node.address], cluster_key=KEY) as native:
                await native.deploy("dense", MODELS / "dense.onnx")
                await _still_well(gateway, server.address, native)
                connections = sum(listener.open for listener in parts.listeners)
                tasks, files = len(asyncio.all_tasks()), _files()
                lines = await _bombard("http", gateway.address)
                assert not any(line.startswith(b"HTTP/1.1 5") for line in lines), lines
                assert any(line.startswith(b"HTTP/1.1 400") for line in lines), lines
                await _bombard("grpc", server.address)
                await _bombard("native", node.address)
                await until(lambda: gateway.room.requests == gateway.room.bytes == 0)
                await until(lambda: gateway.observer.figures.connections["http"]() == 0)
                await until(lambda: sum(listener.open for listener in parts.listeners) <= connections)
                await _still_well(gateway, server.address, native)
                gc.collect()
                await until(lambda: len(asyncio.all_tasks()) <= tasks + 1)
                # gRPC's own threads close theirs when they come to it.
                await until(lambda: _files() <= files + 8)
            await server.stop()
            statuses = {key[2] for key in gateway.observer.figures._requests}
            assert not statuses & {"500", "INTERNAL"}

    asyncio.run(scenario())
    assert [record for record in caplog.records if record.levelname in ("ERROR", "CRITICAL")] == []
