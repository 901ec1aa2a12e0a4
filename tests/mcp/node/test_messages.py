"""What a user is told when something is wrong: by name, with the cause, and with what to do."""

from __future__ import annotations

import asyncio
import enum
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mcp.client.client import Client
from mcp.errors import (
    AuthenticationFailed,
    ConfigInvalid,
    DeadlineExceeded,
    FrameTooLarge,
    InputInvalid,
    InvariantViolated,
)
from mcp.node.config import NodeConfig
from mcp.node.node import Node
from mcp.node.translation import translated
from mcp.wire.frame import FRAME_BYTES_MAX
from simulations.in_process import in_process_cluster, until

ROOT = Path(__file__).parents[3]
DIGITS = ROOT / "examples" / "digits" / "digits.onnx"
STRINGS = ROOT / "tests" / "executor" / "models" / "strings.onnx"


class Named(enum.StrEnum):
    """A text of a subclass, as callers have for their models."""

    MODEL = "strings"
    TEXT = "some text"


def test_what_does_not_fit_is_said_of_the_model_by_name(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with Node.local(tmp_path) as node, node.client() as client:
            await client.deploy("digits", DIGITS, version="rc-7")
            for wrong in ({"image": np.zeros((1, 3), np.float32)}, {"picture": np.zeros(1)}):
                with pytest.raises(InputInvalid, match=r"model digits version rc-7: ") as direct:
                    await client.infer("digits", wrong)
                with pytest.raises(InputInvalid) as submitted:
                    await client.submit("digits", wrong)
                assert submitted.value.message == direct.value.message

    asyncio.run(scenario())


@pytest.mark.parametrize("where", ["/proc/nowhere", "{file}/below", "{file}"])
def test_a_data_directory_that_cannot_be_is_a_setting_to_change(tmp_path: Path, where: str) -> None:
    (tmp_path / "file").touch()
    path = where.format(file=tmp_path / "file")

    async def scenario() -> None:
        with pytest.raises(ConfigInvalid, match="choose a folder") as error:
            await Node.local(path).start()
        assert path in error.value.message

    asyncio.run(scenario())


def test_two_voters_at_one_address_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigInvalid, match="'n1' and 'n2' have one address"):
        NodeConfig("n1", tmp_path, voters={"n1": "127.0.0.1:7401", "n2": "tcp://127.0.0.1:7401"})


def test_a_node_s_log_says_that_a_client_has_another_key(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        listen = ("127.0.0.1:0",)
        config = NodeConfig("n1", tmp_path, listen, engine="solo", cluster_key=b"0123456789abcdef")
        async with Node(config) as node, Client(node.addresses, cluster_key=b"fedcba9876543210") as client:
            with pytest.raises(AuthenticationFailed):
                await client.get("key")
            await until(lambda: any("cluster key" in record.message for record in caplog.records))

    with caplog.at_level(logging.INFO, "mcp.net"):
        asyncio.run(scenario())


def test_a_linearizable_read_without_a_quorum_is_never_of_unknown_outcome(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with in_process_cluster(tmp_path) as cluster:
            leader = await cluster.elected()
            async with cluster.client(leader) as client:
                await client.put("key", 1)
                for name in set(cluster.names) - {leader}:
                    await cluster.stop(name)
                with pytest.raises(DeadlineExceeded, match="Nothing was changed") as error:
                    await client.get("key", consistency="linearizable", timeout_s=1.5)
                assert "OUTCOME_UNKNOWN" not in error.value.message
                assert "request id" not in error.value.message

    asyncio.run(scenario())


def test_a_broken_invariant_keeps_its_code() -> None:
    from consensus import errors

    kept: Any = translated(errors.InvariantViolated("two leaders in one term"))
    assert isinstance(kept, InvariantViolated)
    assert kept.message == "two leaders in one term"


def test_a_text_of_a_subclass_is_a_text_to_a_node_whose_own_client_sends_it(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with Node.local(tmp_path) as node, node.client() as client:
            await client.deploy("strings", STRINGS, version="1")
            for model, text in ((Named.MODEL, "some text"), ("strings", Named.TEXT)):
                answer = await client.infer(model, text)
                assert answer.outputs["same"].tolist() == ["some text"]

    asyncio.run(scenario())


def test_a_node_s_own_client_is_held_to_the_size_of_a_frame(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with Node.local(tmp_path) as node, node.client() as client:
            with pytest.raises(FrameTooLarge):
                await client.infer("nowhere", "x" * FRAME_BYTES_MAX)

    asyncio.run(scenario())
