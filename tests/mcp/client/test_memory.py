"""What a call has sent is let go of with the call, also when it failed: nothing waits for the collector."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mcp.client.client import Client
from mcp.errors import McpError
from mcp.node.config import NodeConfig
from mcp.node.node import Node

MODELS = Path(__file__).parents[2] / "executor/models"


class Inputs(np.ndarray[Any, Any]):
    """An array that can be referred to weakly."""


def inputs(*shape: int) -> Any:
    return np.zeros(shape, np.float32).view(Inputs)


@contextmanager
def without_the_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@pytest.mark.parametrize(
    ("model", "name", "shape", "how"),
    [
        ("dense", "nope", (1, 64), {}),
        ("dense", "x", (1, 65), {}),
        ("ghost", "x", (1, 64), {}),
        ("dense", "x", (1, 65), {"session": "s"}),
    ],
)
def test_a_call_that_failed_keeps_nothing(
    model: str, name: str, shape: tuple[int, ...], how: dict[str, Any], tmp_path: Path
) -> None:
    async def scenario() -> None:
        config = NodeConfig("n1", tmp_path / "n1", listen=("127.0.0.1:0",), engine="solo")
        async with Node(config) as node, Client([node.addresses[0]]) as client:
            await client.deploy("dense", MODELS / "dense.onnx")
            with without_the_collector():
                sent = inputs(*shape)
                kept = weakref.ref(sent)
                given = {name: sent}
                del sent
                with pytest.raises(McpError) as told:
                    await client.infer(model, given, **how)
                del given, told
                for _ in range(3):
                    await asyncio.sleep(0)
                assert kept() is None

    asyncio.run(scenario())
