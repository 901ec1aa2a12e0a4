"""A node on a real port under strangers, wrong keys, wrong versions and garbage: it survives and says why."""

from __future__ import annotations

import asyncio
import random
import shutil
import struct
import zlib
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from mcp.client.client import Client
from mcp.client.exchange import Request
from mcp.client.kinds import CallKind
from mcp.errors import (
    AuthenticationFailed,
    ConfigInvalid,
    InvalidArgument,
    McpError,
    ProviderUnavailable,
    StorageCorrupt,
    StorageLocked,
    TooLarge,
)
from mcp.gateway.limits import CONNECTIONS_MAX, connections_fitting
from mcp.net.limits import DEFAULT_LIMITS, FILES_ENOUGH, FILES_KEPT, fitting
from mcp.node.config import NodeConfig
from mcp.node.node import Node
from simulations.in_process import until

KEY = b"the key of this cluster, and no other"


def run(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(scenario())


@asynccontextmanager
async def listening(path: Path, **settings: Any) -> AsyncIterator[tuple[Node, str, int]]:
    config = NodeConfig(
        "n1", path, listen=("127.0.0.1:0",), engine="solo", **{"cluster_key": KEY, **settings}
    )
    async with Node(config) as node:
        host, _, port = node.addresses[0].rpartition(":")
        yield node, host.removeprefix("tcp://"), int(port)


async def assert_serves(node: Node) -> None:
    async with Client([node.addresses[0]], cluster_key=KEY) as client:
        version = await client.put("alive", True)
        read = await client.get("alive")
        assert read is not None
        assert (read.value, read.version) == (True, version)


async def exchange(host: str, port: int, data: bytes) -> bytes:
    """Send bytes, and give what comes back until the node closes."""
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(data)
    writer.write_eof()
    async with asyncio.timeout(10):
        answer = await reader.read()
    writer.close()
    return answer


def test_random_bytes_at_the_port_do_no_harm(tmp_path: Path) -> None:
    async def scenario() -> None:
        generator = random.Random(7)
        async with listening(tmp_path) as (node, host, port):
            await asyncio.gather(
                *(exchange(host, port, generator.randbytes(generator.randrange(1, 5000))) for _ in range(200))
            )
            await assert_serves(node)

    run(scenario)


def test_a_frame_that_announces_gigabytes_costs_no_memory(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with listening(tmp_path) as (node, host, port):
            before = psutil.Process().memory_info().rss
            header = struct.pack("<IBBHIII", 2**31, 1, 0, 0, 0, 2**31 - 64, 0)
            header += struct.pack("<I", zlib.crc32(header))
            await asyncio.gather(*(exchange(host, port, header + b"x" * 1000) for _ in range(50)))
            assert psutil.Process().memory_info().rss - before < 64 * 1024**2
            await assert_serves(node)

    run(scenario)


@pytest.mark.parametrize(
    ("cluster", "key"), [("mcp", b"another key altogether, and wrong"), ("other", KEY), ("mcp", None)]
)
def test_a_stranger_is_refused_with_a_reason(tmp_path: Path, cluster: str, key: bytes | None) -> None:
    async def scenario() -> None:
        async with listening(tmp_path) as (node, _, _):
            async with Client([node.addresses[0]], cluster_id=cluster, cluster_key=key) as client:
                with pytest.raises(AuthenticationFailed):
                    await client.put("key", 1, timeout_s=3)
            await assert_serves(node)

    run(scenario)


def test_a_value_over_the_limit_is_refused_and_the_session_goes_on(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with listening(tmp_path) as (node, _, _):
            async with Client([node.addresses[0]], cluster_key=KEY) as client:
                with pytest.raises(TooLarge):
                    await client.put("big", "x" * 100_000)
                assert await client.put("small", "x") > 0
            await assert_serves(node)

    run(scenario)


def test_two_nodes_cannot_share_a_data_directory(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with listening(tmp_path) as (node, _, _):
            second = Node(NodeConfig("n1", tmp_path, listen=(), engine="solo"))
            with pytest.raises(StorageLocked, match="in use"):
                await second.start()
            await assert_serves(node)

    run(scenario)


def test_a_taken_port_is_an_error_that_names_it(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with listening(tmp_path / "a") as (node, host, port):
            settings = {"listen": (f"{host}:{port}",), "engine": "solo"}
            with pytest.raises(McpError, match=str(port)):
                await Node(NodeConfig("n2", tmp_path / "b", **settings)).start()  # type: ignore[arg-type]
            await assert_serves(node)

    run(scenario)


def test_an_exposed_port_without_a_key_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigInvalid, match="cluster key"):
        NodeConfig("n1", tmp_path, listen=("0.0.0.0:7400",), engine="solo")


def test_many_connections_that_say_nothing_do_not_keep_others_out(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with listening(tmp_path) as (node, host, port):
            silent = [await asyncio.open_connection(host, port) for _ in range(100)]
            await assert_serves(node)
            for _, writer in silent:
                writer.close()

    run(scenario)


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"node_id": "n9", "voters": {"n9": "memory://n9"}}, "node_id"),
        ({"cluster_id": "another"}, "cluster_id"),
        ({"engine": "solo", "voters": {}}, "engine"),
        ({"voters": {"n1": "memory://n1", "n2": "memory://n2"}}, "voters"),
    ],
)
def test_a_data_directory_is_started_only_as_what_it_was(
    tmp_path: Path, changed: dict[str, Any], says: str
) -> None:
    async def scenario() -> None:
        own: dict[str, Any] = {"node_id": "n1", "voters": {"n1": "memory://n1"}, "listen": ()}
        async with Node(NodeConfig(data_dir=tmp_path, **own)):
            pass
        with pytest.raises(ConfigInvalid, match=f"belongs to {says}"):
            await Node(NodeConfig(data_dir=tmp_path, **{**own, **changed})).start()
        async with Node(NodeConfig(data_dir=tmp_path, **own)) as node, node.client() as client:
            assert await client.put("still", "mine") > 0

    run(scenario)


def test_a_provider_that_is_not_there_keeps_the_node_from_starting(tmp_path: Path) -> None:
    async def scenario() -> None:
        settings: dict[str, Any] = {"listen": (), "engine": "solo", "providers": ("cuda", "cpu")}
        with pytest.raises(ProviderUnavailable, match="cuda"):
            await Node(NodeConfig("n1", tmp_path / "a", **settings)).start()
        allowed = NodeConfig("n1", tmp_path / "b", allow_provider_fallback=True, **settings)
        async with Node(allowed) as node:
            status = node.status()
            assert (status["providers"], status["providers_missing"]) == (["cpu"], ["cuda"])

    run(scenario)


def test_an_authority_without_a_certificate_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigInvalid, match="without TLS"):
        NodeConfig("n1", tmp_path, listen=("127.0.0.1:0",), engine="solo", tls_ca=tmp_path / "ca.pem")


def test_requests_that_there_are_not_are_counted_as_one(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with listening(tmp_path) as (node, _, _), node.client() as client:
            await client.put("first", 0)
            for number in range(20):
                request = Request(CallKind.READ, f"NO_SUCH_{number}", {})
                with pytest.raises(InvalidArgument, match="is unknown"):
                    await client._exchange.attempt(request, node._memory_address, 5.0)
            counts = node.status()["metrics"]["requests"]
            assert counts["unknown"] == 20
            assert not any("NO_SUCH" in kind for kind in counts)

    run(scenario)


def test_maintenance_goes_on_after_whatever_went_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        monkeypatch.setattr("mcp.node.node.SWEEP_S", 0.0)
        async with listening(tmp_path) as (node, _, _):
            sweeps: list[set[str]] = []

            async def broken(used: set[str]) -> None:
                sweeps.append(used)
                raise OSError(24, "Too many open files")

            monkeypatch.setattr(node._parts.artefacts, "sweep", broken)
            await until(lambda: len(sweeps) >= 3)
            assert sum("Too many open files" in record.message for record in caplog.records) == 1

    run(scenario)


def test_a_start_that_failed_claims_nothing(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with listening(tmp_path / "first") as (taken, _, _):
            wrong: dict[str, Any] = {"listen": (taken.addresses[0],), "cluster_key": KEY}
            with pytest.raises(ConfigInvalid, match="cannot listen"):
                await Node(NodeConfig("n2", tmp_path / "second", engine="solo", **wrong)).start()
            right = NodeConfig("n3", tmp_path / "second", listen=(), voters={"n3": "memory://n3"})
            async with Node(right) as node, node.client() as client:
                assert await client.put("key", 1) == 1

    run(scenario)


@pytest.mark.parametrize("engine", ["solo", "raft"])
def test_a_journal_that_is_gone_is_no_new_beginning(tmp_path: Path, engine: str) -> None:
    async def scenario() -> None:
        voters = {"n1": "memory://n1"} if engine == "raft" else {}
        config = NodeConfig("n1", tmp_path, listen=(), engine=engine, voters=voters)
        async with Node(config) as node, node.client() as client:
            await client.put("key", 1)
        journal = tmp_path / "journal"
        journal.rename(tmp_path / "unmounted")
        with pytest.raises(StorageCorrupt, match="is gone: there is another in its place"):
            await Node(config).start()
        shutil.rmtree(journal)
        (tmp_path / "unmounted").rename(journal)
        async with Node(config) as node, node.client() as client:
            found = await client.get("key", timeout_s=10)
            assert found is not None
            assert found.value == 1

    run(scenario)


def test_whoever_connects_cannot_take_the_files_that_a_node_needs() -> None:
    few, many = fitting(1024, 2), fitting(FILES_ENOUGH, 2)
    assert 2 * (few.connections_max + few.handshakes_max) + FILES_KEPT <= 1024
    assert many == DEFAULT_LIMITS
    assert fitting(10, 1).connections_max > 0
    alone, port = fitting(1024, 1), connections_fitting(1024)
    strangers = alone.connections_max + alone.handshakes_max + alone.tls_handshakes_max
    assert strangers + 2 * port + port // 2 + FILES_KEPT <= 1024, "of the nodes' port and both of the gateway"
    assert connections_fitting(FILES_ENOUGH) == CONNECTIONS_MAX
