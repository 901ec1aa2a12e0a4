"""Reads that a gateway makes for others: one version of a model, and how far the log is."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from mcp.client.client import Client
from mcp.errors import InvalidArgument, ModelNotFound, TooLarge, Unsupported
from mcp.node.node import Node
from simulations.in_process import in_process_cluster

MODELS = Path(__file__).parents[2] / "executor" / "models"


def test_a_version_that_is_not_active_is_told_with_its_own_tensors(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with Node.local(tmp_path) as node, node.client() as client:
            await client.deploy("m", MODELS / "dense.onnx", aliases=["a"])
            await client.deploy("m", MODELS / "count.onnx")
            first, second = await client.model("m@1"), await client.model("m")
            assert (first.version, second.version) == ("1", "2")
            assert first.versions == second.versions == ["1", "2"]
            assert first.digest != second.digest
            assert [spec["dtype"] for spec in first.inputs or ()] == ["FP32"]
            assert [spec["dtype"] for spec in second.inputs or ()] == ["INT64"]
            assert await client.model("a") == await client.model("m:2") == second
            (told,) = await client.models()
            assert told == second
            for wrong, error in (("m@3", ModelNotFound), ("x", ModelNotFound), ("", InvalidArgument)):
                with pytest.raises(error):
                    await client.model(wrong)
            with pytest.raises(TooLarge, match="hint"):
                await client.model("m" * 1000)

    asyncio.run(scenario())


def test_a_node_that_knows_no_such_read_is_told_for_what_it_is(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with Node.local(tmp_path) as node, node.client() as client:
            assert node._parts is not None
            del node._parts.state._views["model"]
            with pytest.raises(Unsupported, match="upgrade"):
                await client.model("m")

    asyncio.run(scenario())


def test_the_position_is_behind_what_others_wrote_and_later_reads_are_too(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with (
            in_process_cluster(tmp_path, 3) as cluster,
            cluster.client("n1") as writer,
            cluster.client("n2") as reader,
        ):
            for number in range(10):
                await writer.put("k", number)
                written = await writer.get("k")
                assert written is not None
                assert await reader.position() >= written.index
                found = await _read(reader)
                assert found == number

    asyncio.run(scenario())


async def _read(client: Client) -> object:
    found = await client.get("k")
    return None if found is None else found.value
