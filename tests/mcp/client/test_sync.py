"""The blocking client, over real sockets and from several threads."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mcp.client.client import Client
from mcp.client.sync import SyncClient
from mcp.errors import DeadlineExceeded, InvalidArgument, Unavailable, VersionConflict

KEY = b"a cluster key of 32 random bytes"


@pytest.fixture
def cluster(cluster_of: Any, tmp_path: Path) -> Iterator[Any]:
    """Three stand-in nodes on loopback, on a loop of their own."""
    made = cluster_of(scheme="tcp", directory=tmp_path)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        asyncio.run_coroutine_threadsafe(made.__aenter__(), loop).result()
        yield made
        asyncio.run_coroutine_threadsafe(made.__aexit__(), loop).result()
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def connect(cluster: Any, **settings: Any) -> SyncClient:
    addresses = [node.address for node in cluster.nodes.values()]
    return SyncClient(addresses, cluster_id="test", cluster_key=KEY, **settings)


def test_every_call_of_the_asynchronous_client_is_there_and_the_same() -> None:
    """Same names, same parameters, same defaults, same results."""

    def calls(kind: type) -> dict[str, Any]:
        members = inspect.getmembers(kind, inspect.isfunction)
        return {name: call for name, call in members if not name.startswith("_")}

    ours, theirs = calls(SyncClient), calls(Client)
    assert ours.keys() == theirs.keys()
    for name, call in ours.items():
        own, other = inspect.signature(call), inspect.signature(theirs[name])
        if name in ("infer_many", "stream"):  # iterators instead of asynchronous ones
            assert [(p.name, p.kind, p.default) for p in own.parameters.values()] == [
                (p.name, p.kind, p.default) for p in other.parameters.values()
            ]
            continue
        assert own == other, name
        assert not inspect.iscoroutinefunction(call)
        assert call.__doc__


def test_the_calls_over_real_sockets(cluster: Any) -> None:
    with connect(cluster) as client:
        assert client.put("k", 1) == 1
        assert client.compare_and_set("k", 2, expected_version=1) == 2
        with pytest.raises(VersionConflict):
            client.compare_and_set("k", 2, expected_version=1)
        found = client.get("k")
        assert found is not None
        assert found.value == 2
        assert client.keys() == ["k"]
        assert len(client.conflicts("k")) == 1
        assert client.delete("k") == 2
        deployment = client.deploy("m", bytes(3_000_000))
        assert deployment.version == "1"
        assert [model.name for model in client.models()] == ["m"]
        assert len(client.members()) == 3
        assert client.infer("m", np.float32([[1.5]])).output.tolist() == [[3.0]]
        identifier = client.submit("m", {"x": np.float32([1])})
        assert client.result(identifier, wait=False).status == "assigned"
        with pytest.raises(DeadlineExceeded):
            client.result(identifier, timeout_s=0.05)
        status = client.status()
        assert status.leader == "n1"
        assert len(status.reachable) == 3


def test_several_threads_share_a_client(cluster: Any) -> None:
    with connect(cluster) as client, ThreadPoolExecutor(8) as pool:
        versions = list(pool.map(lambda number: client.put("k", number), range(200)))
        assert sorted(versions) == list(range(1, 201))
        images = [np.full((1, 64), number, np.float32) for number in range(100)]
        doubled = list(pool.map(lambda image: client.infer("m", image).output, images))
        assert all((two == 2 * one).all() for one, two in zip(images, doubled, strict=True))


def test_closing_ends_the_thread_and_the_calls_of_other_threads(cluster: Any, fault: Any) -> None:
    for node in cluster.nodes.values():
        node.faults.append(fault("INFER_REQUEST", "hang", 99))
    client = connect(cluster)
    client.get("k")
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(client.infer, "m", np.zeros(1))
        while not any("INFER_REQUEST" in node.types() for node in cluster.nodes.values()):
            client.get("k")
        client.close()
        with pytest.raises(Unavailable):
            call.result()
    client.close()
    assert not client._thread.is_alive()
    assert client._loop.is_closed()
    with pytest.raises(Unavailable, match="closed"):
        client.get("k")


def test_a_mistake_starts_no_thread() -> None:
    before = threading.active_count()
    with pytest.raises(InvalidArgument):
        SyncClient([])
    assert threading.active_count() == before


def test_a_node_that_restarts_at_its_address_is_found_again(cluster_of: Any) -> None:
    async def main() -> None:
        async with cluster_of(size=1, scheme="tcp") as cluster, cluster.client() as client:
            assert await client.put("k", 1) == 1
            await cluster.nodes["n1"].stop()
            write = asyncio.create_task(client.put("k", 2))
            await cluster.nodes["n1"].start()
            assert await write == 2

    asyncio.run(main())


def test_many_inferences_from_a_thread(cluster: Any) -> None:
    scans = [np.float32([[number, number]]) for number in range(40)]
    with connect(cluster) as client:
        alone = [client.infer("m", scan) for scan in scans]
        many = list(client.infer_many("m", iter(scans), in_flight=8))
        assert [number for number, _ in many] == list(range(40))
        for one, (_, each) in zip(alone, many, strict=True):
            assert all(np.array_equal(one.outputs[name], each.outputs[name]) for name in one.outputs)
        for number, _ in client.infer_many("m", scans, order="completion"):
            if number == 3:
                break
        mixed: list[Any] = [scans[0], np.zeros(1, complex)]
        found = [type(result) for _, result in client.infer_many("m", mixed, errors="return")]
        assert found[1] is InvalidArgument
        with pytest.raises(InvalidArgument):
            list(client.infer_many("m", mixed))
