"""Bounds of a node that requests could pass, and work that must not hold up what is agreed."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import signal
import threading
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from consensus.driver import Driver
from executor.inspection import ModelInfo
from executor.interface import Pool
from executor.onnx import OnnxRuntime
from executor.runs import StopSignal
from mcp.client.sync import SyncClient
from mcp.clock import SystemClock
from mcp.errors import Busy, DeadlineExceeded, InvalidArgument, PermissionDenied, Unavailable
from mcp.node import order as order_module
from mcp.node import shelf as shelf_module
from mcp.node.artefacts import Artefacts
from mcp.node.blobs import BlobStatus, BlobStore
from mcp.node.links import PeerLinks
from mcp.node.node import Node
from mcp.node.order import Order
from mcp.node.shelf import Shelf
from simulations.in_process import in_process_cluster as nodes
from simulations.in_process import until

MODELS = Path(__file__).parents[2] / "executor" / "models"
INFO = ModelInfo(inputs=(), outputs=(), providers=("cpu",), fallback=(), outputs_unsupported=(), size_bytes=1)


def run(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(scenario())


# -- waiting for a position -------------------------------------------------------------------------


class _At:
    applied_index = 7

    def await_index(self, index: int) -> None:
        """There is no leader to ask."""


def _order() -> Order:
    order = Order()
    order.bind(cast(Driver, _At()))
    return order


def test_readers_that_gave_up_do_not_count_as_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(order_module, "WAITERS_MAX", 10)

    async def scenario() -> None:
        order = _order()
        for _ in range(50):
            with pytest.raises(DeadlineExceeded):
                await order.wait_applied(2**60, 0.001)
        waiting = [asyncio.ensure_future(order.wait_applied(8 + i, 30)) for i in range(10)]
        await asyncio.sleep(0)
        for task in waiting[::2]:
            task.cancel()
        await asyncio.sleep(0)
        order.advanced(100)
        outcomes = await asyncio.gather(*waiting, return_exceptions=True)
        assert [outcome is None for outcome in outcomes] == [False, True] * 5
        assert len(order._waiters) == 0

    run(scenario)


# -- uploads ----------------------------------------------------------------------------------------


def _artefacts(store: BlobStore) -> Artefacts:
    return Artefacts(store, cast(PeerLinks, None), SystemClock(), chunk_bytes_max=1024)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_uploads_that_are_never_finished_leave_nothing_in_memory(tmp_path: Path) -> None:
    async def scenario() -> None:
        artefacts = _artefacts(BlobStore(tmp_path, blob_bytes_max=100, uploads_max=4))
        with pytest.raises(InvalidArgument):
            await artefacts.put("no digest", 10, 0, memoryview(b"x"))
        for i in range(20):
            await artefacts.put(_digest(b"%d" % i), 10, 0, memoryview(b"x"))
        assert len(artefacts._writing) == 0

    run(scenario)


def test_uploads_that_begin_at_once_keep_the_bound(tmp_path: Path) -> None:
    store = BlobStore(tmp_path, blob_bytes_max=100, uploads_max=4)

    def begin() -> None:
        for _ in range(50):
            with contextlib.suppress(Busy):  # others took its place before it had begun
                store.put(os.urandom(32).hex(), 10, 0, b"x")

    threads = [threading.Thread(target=begin) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(list((tmp_path / "partial").iterdir())) <= 4


def test_a_chunk_that_is_sent_again_while_the_first_is_written_is_not_written_twice(tmp_path: Path) -> None:
    content = b"0123456789"
    entered, go_on = threading.Event(), threading.Event()

    class Slow(BlobStore):
        def put(self, digest: str, size: int, offset: int, chunk: bytes | memoryview) -> BlobStatus:
            if not entered.is_set():
                self.status(digest)
                entered.set()
                go_on.wait(10)
            return super().put(digest, size, offset, chunk)

    async def scenario() -> None:
        artefacts = _artefacts(Slow(tmp_path, blob_bytes_max=100, uploads_max=4))
        first = asyncio.ensure_future(artefacts.put(_digest(content), 10, 0, memoryview(content[:5])))
        await asyncio.to_thread(entered.wait, 10)
        first.cancel()
        again = asyncio.ensure_future(artefacts.put(_digest(content), 10, 0, memoryview(content[:5])))
        await asyncio.sleep(0.05)
        assert not again.done()
        go_on.set()
        assert (await again).received == 5
        assert (await artefacts.put(_digest(content), 10, 5, memoryview(content[5:]))).complete
        assert first.cancelled()

    run(scenario)


# -- models -----------------------------------------------------------------------------------------


class _StuckRuntime:
    """Loads and warms up until it is told to go on."""

    def __init__(self) -> None:
        self.go_on = threading.Event()
        self.signals: list[StopSignal | None] = []

    def load(self, key: str, model: Path) -> ModelInfo:
        self.go_on.wait(10)
        return INFO

    def warm_up(self, key: str, *, stop: StopSignal | None = None) -> bool:
        self.signals.append(stop)
        while stop is not None and stop.error is None:
            self.go_on.wait(0.01)
            time.sleep(0.001)
        return False


def test_models_that_do_not_finish_loading_take_no_thread_from_the_journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shelf_module, "WARM_UP_S_MAX", 0.1)

    async def scenario() -> None:
        store = BlobStore(tmp_path, blob_bytes_max=100, uploads_max=4)
        runtime = _StuckRuntime()
        shelf = Shelf(
            cast(OnnxRuntime, runtime), cast(Pool, None), _artefacts(store), on_ready=lambda digest: None
        )
        loading = [shelf.want(store.store(b"%d" % i), 1, ()) for i in range(64)]
        await asyncio.sleep(0.05)
        async with asyncio.timeout(5):
            await asyncio.gather(*(asyncio.to_thread(int) for _ in range(10)))
        runtime.go_on.set()
        await asyncio.gather(*(task for task in loading if task is not None))
        assert len(runtime.signals) == 64
        await shelf.close()

    run(scenario)


def test_a_model_that_is_undeployed_during_a_run_does_not_hold_up_the_node(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with nodes(tmp_path, 1) as cluster, cluster.client() as client:
            await client.deploy("slow", MODELS / "slow.onnx", timeout_s=30)
            (running,) = cluster.running.values()
            endless: dict[str, Any] = {"rounds": np.array(2**40, np.int64), "x": np.ones(4, np.float32)}
            work = asyncio.ensure_future(client.infer("slow", endless, timeout_s=4))
            await until(lambda: running.status()["metrics"]["inference_running"] > 0)
            loop = asyncio.get_running_loop()
            begun = loop.time()
            await client._command("model.undeploy", {"name": "slow", "version": None}, timeout_s=2)
            await client.put("key", "value", timeout_s=2)
            assert loop.time() - begun < 2
            assert not work.done()
            await client.deploy("slow", MODELS / "slow.onnx", timeout_s=30)
            with pytest.raises(DeadlineExceeded):
                await work

    run(scenario)


def test_a_client_deploys_only_with_deploy(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with nodes(tmp_path, 1) as cluster, cluster.client() as client:
            manifest = {"name": "ghost", "digest": "ab" * 32, "size": 1, "inputs": [], "outputs": []}
            with pytest.raises(PermissionDenied):
                await client._command("model.deploy", {"manifest": manifest, "holders": ["n1"]}, timeout_s=2)

    run(scenario)


def _ready(node: Any) -> list[bool]:
    return [model["ready"] for model in node.status()["models"]]


def test_a_blob_that_was_damaged_on_the_disk_is_not_served_but_fetched_again(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with nodes(tmp_path) as cluster, cluster.client() as client:
            deployed = await client.deploy("add", MODELS / "add.onnx", timeout_s=30)
            await until(lambda: all(_ready(n) == [True] for n in cluster.running.values()))
            victim = next(iter(cluster.names))
            blob = cluster.running[victim].config.data_dir / "blobs" / "whole" / deployed.digest
            right = blob.read_bytes()
            await cluster.stop(victim)
            blob.write_bytes(right[:-20] + bytes(20))
            node = await cluster.start(victim)
            await until(lambda: any(m["ready"] for m in node.status()["models"]))
            assert blob.read_bytes() == right

    run(scenario)


# -- starting and stopping --------------------------------------------------------------------------


def test_starting_twice_is_refused_and_the_node_goes_on(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with Node.local(tmp_path) as node, node.client() as client:
            with pytest.raises(InvalidArgument):
                await node.start()
            await client.put("key", "value", timeout_s=5)

    run(scenario)


def test_a_node_that_is_stopped_while_it_starts_stays_stopped(tmp_path: Path) -> None:
    async def scenario() -> None:
        node = Node.local(tmp_path)
        starting = asyncio.ensure_future(node.start())
        await asyncio.sleep(0)
        await node.stop()
        with pytest.raises(Unavailable):
            await starting
        async with Node.local(tmp_path) as again, again.client() as client:
            await client.put("key", "value", timeout_s=5)

    run(scenario)


def test_a_start_that_is_cancelled_gives_the_directory_back(tmp_path: Path) -> None:
    async def scenario() -> None:
        for turns in range(6):
            starting = asyncio.ensure_future(Node.local(tmp_path).start())
            for _ in range(turns):
                await asyncio.sleep(0)
            starting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await starting
            async with Node.local(tmp_path):
                pass

    run(scenario)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_blocking_client_in_a_forked_child_is_refused_and_does_not_hang() -> None:
    with SyncClient(["127.0.0.1:9"]) as client:
        child = os.fork()
        if child == 0:  # nothing of pytest may run in the child
            try:
                client.put("key", "value", timeout_s=1)
            except Unavailable:
                client.close()
                os._exit(7)
            finally:
                os._exit(8)
        ended = 0
        for _ in range(1000):
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                break
            time.sleep(0.01)
        else:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
    assert ended
    assert os.waitstatus_to_exitcode(status) == 7
