"""The README's own examples, run as they stand."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import io
import os
import re
import socket
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np

from mcp.node.config import NodeConfig
from mcp.node.node import Node

ROOT = Path(__file__).parents[1]
BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)


def run(code: str, folder: Path, **variables: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **variables}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def block(containing: str) -> str:
    (found,) = [code for code in BLOCKS if containing in code]
    return found


def test_the_embedding_example_runs_as_it_stands(tmp_path: Path) -> None:
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    assert run(block("Node.local"), tmp_path).strip() == "[6]"
    assert (tmp_path / "data" / "journal").is_dir()


def test_the_blocking_example_runs_against_a_node(tmp_path: Path) -> None:
    async def scenario() -> None:
        config = NodeConfig("n1", tmp_path / "n1", listen=("127.0.0.1:0",), engine="solo")
        async with Node(config) as node, node.client() as client:
            code = block("SyncClient").replace("127.0.0.1:7400", node.addresses[0])
            await asyncio.to_thread(run, code, tmp_path)
            read = await client.get("greeting", consistency="linearizable")
            assert read is not None
            assert read.value == "goodbye"

    asyncio.run(scenario())


def test_the_cluster_example_runs_as_three_processes(tmp_path: Path) -> None:
    code = block("VOTERS")
    with contextlib.ExitStack() as sockets:
        for port in (7401, 7402, 7403):
            free = sockets.enter_context(socket.socket())
            free.bind(("127.0.0.1", 0))
            code = code.replace(f"127.0.0.1:{port}", f"127.0.0.1:{free.getsockname()[1]}")
    with concurrent.futures.ThreadPoolExecutor() as pool:
        said = list(pool.map(lambda name: run(code, tmp_path, NODE=name), ("n1", "n2", "n3")))
    assert all(f"hello from {name}" in line for line in said for name in ("n1", "n2", "n3"))


def test_the_test_of_an_executor_is_the_example_that_is_run() -> None:
    # tests/simulations/trial/test_plugin.py runs it.
    assert block("cluster.invariant") in (ROOT / "examples" / "executors" / "test_accounts.py").read_text()


def test_every_python_block_is_run_by_a_test() -> None:
    assert len(BLOCKS) == 5


def test_the_example_of_many_and_of_steps_runs_as_it_stands(tmp_path: Path) -> None:
    fragment = textwrap.indent(block("client.infer_many"), "    ")
    scope: dict[str, Any] = {}
    exec(f"async def example(client, scans, start):\n{fragment}", scope)

    async def scenario() -> None:
        config = NodeConfig("n1", tmp_path / "n1", listen=("127.0.0.1:0",), engine="solo")
        async with Node(config) as node, node.client() as client:
            await client.deploy("digits", ROOT / "examples" / "digits" / "digits.onnx")
            model = ROOT / "tests" / "executor" / "models" / "fibonacci.onnx"
            await client.deploy("decoder", model)
            with np.load(ROOT / "examples" / "digits" / "held_out.npz") as held_out:
                scans = [held_out["images"][row : row + 1] for row in range(3)]
            start = {"state": np.array([[0, 1]]), "limit": np.array([[5]])}
            said = io.StringIO()
            with contextlib.redirect_stdout(said):
                await scope["example"](client, scans, start)
            lines = said.getvalue().splitlines()
            assert lines[0] == "0 [6]"
            assert lines[3:] == ["1 [[1]]", "2 [[2]]", "3 [[3]]", "4 [[5]]"]

    asyncio.run(scenario())
