"""Artefacts: what is sent and when, resumed uploads, another node taking over, verified downloads."""

from __future__ import annotations

import asyncio
import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp.client.artefacts import CHUNK_BYTES_MAX, Artefact, UploadPlan
from mcp.errors import InvalidArgument, NotFound, ProtocolError, StorageCorrupt, Unavailable
from mcp.wire.codec import encode_map
from mcp.wire.tensors import pack_inline

MODEL = bytes(range(256)) * 20_000  # 5.1 MB: five chunks, the last one short
DIGEST = hashlib.sha256(MODEL).hexdigest()


class InOrder:
    """A receiver as a node is: takes what continues what it has, and says how far that is."""

    def __init__(self, size: int, received: int) -> None:
        self.size, self.received = size, received

    def put(self, offset: int, length: int) -> tuple[int, bool]:
        if offset == self.received:
            self.received += length
        return self.received, self.received == self.size


@given(st.data(), st.integers(1, 60), st.integers(1, 16), st.integers(1, 5))
def test_an_upload_ends_whatever_overtakes_what(
    data: st.DataObject, size: int, chunk: int, in_flight: int
) -> None:
    """Chunks arrive, and their answers come back, in any order; the node may also lose what it had."""
    node = InOrder(size, data.draw(st.integers(0, size - 1)))
    plan = UploadPlan(size, node.received, chunk_bytes=chunk, in_flight_max=in_flight, stalls_max=3)
    travelling: list[tuple[int, int]] = []
    answers: list[tuple[int, int, int, bool]] = []
    losses = 1
    while not plan.complete:
        while piece := plan.next_chunk():
            assert 0 <= piece[0] < piece[0] + piece[1] <= size
            assert piece[1] <= chunk
            travelling.append(piece)
        assert len(travelling) + len(answers) == plan.in_flight <= in_flight
        assert travelling or answers, "nothing is under way, and nothing is to be sent"
        if losses and node.received < size and data.draw(st.integers(0, 20)) == 0:
            node.received, losses = 0, 0
        if travelling and (not answers or data.draw(st.booleans())):
            piece = travelling.pop(data.draw(st.integers(0, len(travelling) - 1)))
            answers.append((*piece, *node.put(*piece)))
        else:
            offset, length, received, complete = answers.pop(data.draw(st.integers(0, len(answers) - 1)))
            plan.answered(offset, length, received=received, complete=complete)
    assert node.received == size


def test_chunks_in_order_are_each_sent_once() -> None:
    node, plan, sent = InOrder(100, 30), UploadPlan(100, 30, chunk_bytes=8, in_flight_max=4), []
    while not plan.complete:
        pieces = []
        while piece := plan.next_chunk():
            pieces.append(piece)
        sent += pieces
        for piece in pieces:
            received, complete = node.put(*piece)
            plan.answered(*piece, received=received, complete=complete)
    assert [offset for offset, _ in sent] == list(range(30, 100, 8))


def test_a_node_that_takes_nothing_is_given_up() -> None:
    plan = UploadPlan(100, chunk_bytes=10, in_flight_max=4, stalls_max=3)

    def a_round() -> int:
        pieces = []
        while piece := plan.next_chunk():
            pieces.append(piece)
        for piece in pieces:
            plan.answered(*piece, received=0, complete=False)
        return len(pieces)

    assert [a_round() for _ in range(3)] == [4, 1, 1]
    with pytest.raises(Unavailable):
        a_round()


def test_an_artefact_is_the_same_from_bytes_and_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(MODEL)
    for source in (MODEL, bytearray(MODEL), path):
        artefact = Artefact.open(source)
        assert (artefact.size, artefact.digest) == (len(MODEL), DIGEST)
        assert bytes(artefact.read(1000, 2000)) == MODEL[1000:3000]
        artefact.close()


def test_what_is_no_model_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").write_bytes(b"")
    for wrong in (b"", tmp_path / "empty", tmp_path / "missing", tmp_path, 3):
        with pytest.raises(InvalidArgument):
            Artefact.open(wrong)  # type: ignore[arg-type]


# -- with nodes; on a real loop, because files are read in threads --------------------------------------


def test_what_has_no_end_is_no_model_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero"), tmp_path):
        with pytest.raises(InvalidArgument, match="is no file"):
            Artefact.open(path)


def test_a_model_is_uploaded_and_deployed(cluster_of: Any, tmp_path: Path) -> None:
    async def main() -> None:
        async with cluster_of(directory=tmp_path) as cluster, cluster.client() as client:
            await client.status()  # tells who leads
            path = tmp_path / "model.onnx"
            path.write_bytes(MODEL)
            told: list[tuple[int, int]] = []
            deployment = await client.deploy(
                "digits", path, aliases=["d"], tags=["a"], on_progress=lambda *step: told.append(step)
            )
            assert (deployment.name, deployment.version) == ("digits", "1")
            assert (deployment.digest, deployment.size) == (DIGEST, len(MODEL))
            assert deployment.holders == ["n1"]
            assert told[-1] == (len(MODEL), len(MODEL))
            assert told == sorted(told)
            assert cluster.received("BLOB_PUT") == 5
            assert cluster.nodes["n1"].blobs.path(DIGEST).read_bytes() == MODEL
            again = await client.deploy("other", MODEL, version="v7")
            assert again.version == "v7"
            assert cluster.received("BLOB_PUT") == 5
            (model, other) = await client.models()
            assert (model.name, model.size, model.aliases, model.tags) == ("digits", len(MODEL), ["d"], ["a"])
            assert other.name == "other"

    asyncio.run(main())


def test_a_broken_upload_goes_on_where_it_stopped(cluster_of: Any, fault: Any, tmp_path: Path) -> None:
    async def main() -> None:
        async with cluster_of(size=1, directory=tmp_path) as cluster, cluster.client() as client:
            node = cluster.nodes["n1"]
            node.blobs.put(DIGEST, len(MODEL), 0, MODEL[: 2 * CHUNK_BYTES_MAX])
            node.faults.append(fault("BLOB_PUT", "lose answer"))
            await client.deploy("digits", MODEL)
            offsets = [m.payload["offset"] for m in node.received if m.type == "BLOB_PUT"]
            assert min(offsets) == 2 * CHUNK_BYTES_MAX
            assert node.blobs.path(DIGEST).read_bytes() == MODEL
            assert cluster.ops() == ["model.deploy"]

    asyncio.run(main())


def test_when_the_node_dies_another_gets_the_model_and_the_same_command(
    cluster_of: Any, fault: Any, tmp_path: Path
) -> None:
    async def main() -> None:
        async with cluster_of(directory=tmp_path) as cluster, cluster.client() as client:
            await client.status()  # tells who leads
            await client.put("k", 1)
            cluster.nodes["n1"].faults.append(fault("DEPLOY", "lose answer"))
            deploying = asyncio.create_task(client.deploy("digits", MODEL))
            await cluster.until(lambda: "DEPLOY" in cluster.nodes["n1"].types())
            cluster.leader = "n2"
            await cluster.nodes["n1"].stop()
            deployment = await deploying
            assert deployment.version == "1"
            assert cluster.ops() == ["key.put", "model.deploy"]
            holders = [n.node_id for n in cluster.nodes.values() if n.up and n.blobs.status(DIGEST).complete]
            assert holders
            sent = [m.payload for n in cluster.nodes.values() for m in n.received if m.type == "DEPLOY"]
            assert len({(p["session"], p["seq"]) for p in sent}) == 1
            assert len(sent) == 2

    asyncio.run(main())


def test_an_election_does_not_move_an_upload_to_another_node(cluster_of: Any, tmp_path: Path) -> None:
    async def main() -> None:
        async with cluster_of(directory=tmp_path) as cluster, cluster.client() as client:
            await client.deploy("first", b"first")
            cluster.leader = None
            deploying = asyncio.create_task(client.deploy("digits", MODEL))
            await cluster.until(lambda: cluster.received("DEPLOY") >= 4)
            cluster.leader = "n3"
            await deploying
            assert cluster.received("BLOB_PUT") == 6

    asyncio.run(main())


def test_a_damaged_rest_of_an_earlier_upload_is_replaced(cluster_of: Any, tmp_path: Path) -> None:
    async def main() -> None:
        async with cluster_of(size=1, directory=tmp_path) as cluster, cluster.client() as client:
            node = cluster.nodes["n1"]
            node.blobs.put(DIGEST, len(MODEL), 0, b"damaged")
            await client.deploy("digits", MODEL)
            assert node.blobs.path(DIGEST).read_bytes() == MODEL

    asyncio.run(main())


def test_a_file_that_shrinks_during_the_upload_is_noticed(cluster_of: Any, tmp_path: Path) -> None:
    async def main() -> None:
        async with cluster_of(size=1, directory=tmp_path) as cluster, cluster.client() as client:
            path = tmp_path / "model.onnx"
            path.write_bytes(MODEL)

            def cut(done: int, total: int) -> None:
                path.write_bytes(b"short")

            with pytest.raises(InvalidArgument, match="shorter"):
                await client.deploy("digits", path, on_progress=cut)
            assert cluster.ops() == []

    asyncio.run(main())


def finished_with_a_blob(cluster: Any, content: bytes) -> None:
    manifest = {"name": "m", "digest": "d" * 64, "size": 1}
    cluster.commit("model.deploy", {"manifest": manifest, "holders": ["n1"]})
    inputs = [pack_inline("x", np.zeros(1))]
    submitted = {"id": "big", "model_hint": "m", "inputs": inputs, "mode": "durable"}
    cluster.commit("inference.submit", submitted)
    token = cluster.state.inferences.get("big").token
    outcome = {"digest": hashlib.sha256(content).hexdigest(), "size": len(content), "node": "n1"}
    args = {"id": "big", "node": "n1", "token": token, "outcome": outcome}
    cluster.commit("inference.complete", args)


def test_a_large_result_is_fetched_from_its_node_or_from_any_other(
    cluster_of: Any, tmp_path: Path, virtual: Any
) -> None:
    array = np.arange(700_000, dtype=np.float64)
    content = encode_map({"outputs": [pack_inline("y", array)]})

    async def main(clock: Any) -> None:
        async with cluster_of(directory=tmp_path, clock=clock) as cluster, cluster.client() as client:
            finished_with_a_blob(cluster, content)
            for node in ("n1", "n3"):
                cluster.nodes[node].blobs.store(content)
            first = await client.result("big")
            assert np.array_equal(first.outputs["y"], array)
            assert "BLOB_GET" in cluster.nodes["n1"].types()
            assert "BLOB_GET" not in cluster.nodes["n3"].types()
            cluster.leader = "n2"
            await cluster.nodes["n1"].stop()
            second = await client.result("big")
            assert np.array_equal(second.outputs["y"], array)

    virtual(main)


def test_a_result_that_nobody_holds_or_that_is_damaged_is_an_error(
    cluster_of: Any, tmp_path: Path, virtual: Any
) -> None:
    content = encode_map({"outputs": [pack_inline("y", np.zeros(10))]})

    async def main(clock: Any) -> None:
        async with cluster_of(size=1, directory=tmp_path, clock=clock) as cluster, cluster.client() as client:
            finished_with_a_blob(cluster, content)
            with pytest.raises(NotFound):
                await client.result("big")
            digest = cluster.nodes["n1"].blobs.store(content)
            path = cluster.nodes["n1"].blobs.path(digest)
            path.write_bytes(content[:-1] + b"x")
            with pytest.raises(StorageCorrupt):
                await client.result("big")

    virtual(main)


def test_a_node_that_gives_no_blob_status_is_named(cluster_of: Any, tmp_path: Path) -> None:
    from mcp.client.artefacts import _blob_status

    with pytest.raises(ProtocolError, match="received"):
        _blob_status({"complete": True})
