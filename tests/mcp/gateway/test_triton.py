"""Triton's own client, from PyPI, in a process and an environment of its own: its calls work unchanged.

It is no dependency of ours. To have these tests run::

    python -m venv DIR && DIR/bin/pip install 'tritonclient[http,grpc]' numpy
    TRITON_CLIENT_PYTHON=DIR/bin/python pytest tests/mcp/gateway
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from served_node import MODELS, Gateway, serving

VARIABLE = "TRITON_CLIENT_PYTHON"
CALLS = Path(__file__).parent / "triton_calls.py"

pytestmark = pytest.mark.skipif(
    shutil.which(os.environ.get(VARIABLE, "")) is None,
    reason=f"{VARIABLE} names no Python that has tritonclient; see {Path(__file__).name} for how to make one",
)

Arrays = dict[str, NDArray[Any]]


def inputs() -> Arrays:
    rng = np.random.default_rng(5)
    special = {"FLOAT16": np.float16, "FLOAT": np.float32, "DOUBLE": np.float64}
    typed: Arrays = {f"in_{name}": rng.standard_normal((2, 3)).astype(kind) for name, kind in special.items()}
    for name in ("INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64"):
        limits = np.iinfo(name.lower())
        typed[f"in_{name}"] = np.array([[limits.min, limits.max, 7]] * 2, name.lower())
    return {
        **typed,
        "in_BOOL": np.array([[True, False, True]] * 2),
        "in_STRING": np.array([["ä", "", "c"]] * 2),
        "x": rng.standard_normal((3, 64)).astype(np.float32),
        "large": rng.standard_normal((5000, 64)).astype(np.float32),
        "a": rng.standard_normal((2, 3)).astype(np.float32),
        "b": rng.standard_normal((2, 3)).astype(np.float32),
        "texts": np.array(["ä", "", "b" * 1000]),
        "for_ever": np.array([[10**12]]),
    }


async def called(kind: str, address: str, given: Arrays, path: Path) -> tuple[Arrays, dict[str, Any]]:
    np.savez(path / "inputs.npz", **given)  # type: ignore[arg-type]
    process = await asyncio.create_subprocess_exec(
        *(os.environ[VARIABLE], str(CALLS), kind, address),
        *(str(path / "inputs.npz"), str(path / "outputs.npz")),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={"PATH": os.environ["PATH"]},
    )
    out, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()
    with np.load(path / "outputs.npz", allow_pickle=False) as found:
        return dict(found), json.loads(out)


async def native(gateway: Gateway, given: Arrays) -> Arrays:
    """What our own client gets for the same."""
    client = gateway.client
    typed = {name: array for name, array in given.items() if name.startswith("in_")}
    added = await client.infer("add", {"a": given["a"], "b": given["b"]})
    return {
        "dense": (await client.infer("dense", {"x": given["x"]})).output,
        "dense_large": (await client.infer("dense", {"x": given["large"]})).output,
        **added.outputs,
        **(await client.infer("types", typed)).outputs,
    }


def compare(found: Arrays, told: dict[str, Any], wanted: Arrays) -> None:
    lengths = {"texts": [2, 0, 1000], "bytes": [3, 0, 70000]}
    for name, array in found.items():
        if name in lengths:
            assert array.tolist() == lengths[name]
            continue
        expected = wanted.get(name.removesuffix("_json"), wanted["dense"])
        assert (array.shape, array.dtype) == (expected.shape, expected.dtype), name
        assert array.tobytes() == expected.tobytes(), name
    strings = wanted["out_STRING"].reshape(-1).tolist()
    assert [bytes.fromhex(each).decode() for each in told["out_STRING"]] == strings
    assert told["bytes"][0] == "000a7f"
    assert bytes.fromhex(told["texts"][0]).decode() == "ä"


def test_the_http_client_gets_what_ours_does(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path) as gateway:
            await gateway.deploy("dense", "add", "strings", "count", "types")
            given = inputs()
            found, told = await called("http", gateway.address, given, tmp_path)
            compare(found, told, await native(gateway, given))
            assert len(found) > 30
            assert told["texts_json"] == ["ä", "", "b" * 1000]
            checked(told)
            assert told["no_model"][0] == told["no_model_metadata"][0] == "404"
            assert told["bad_input"][0] == told["sequence"][0] == "400"
            assert told["no_text"][0] == "400"
            assert "no UTF-8" in told["no_text"][1]
            assert told["deadline"][0] == "504"
            assert told["unload"][0] == "403"
            assert "name" not in told["server"] or told["server"]["name"] == "mcp"

    asyncio.run(scenario())


def test_the_grpc_client_gets_what_ours_does(tmp_path: Path) -> None:
    grpc_server = pytest.importorskip("mcp.gateway.grpc_server", reason="needs the extra grpc")

    async def scenario() -> None:
        async with serving(tmp_path) as gateway:
            server = grpc_server.GrpcServer(gateway.operations, "127.0.0.1:0")
            await server.start()
            try:
                await gateway.deploy("dense", "add", "strings", "count", "types")
                given = inputs()
                found, told = await called("grpc", server.address, given, tmp_path)
                compare(found, told, await native(gateway, given))
                assert len(found) > 20
                checked(told)
                for name, status in (
                    ("no_model", "NOT_FOUND"),
                    ("no_model_metadata", "NOT_FOUND"),
                    ("bad_input", "INVALID_ARGUMENT"),
                    ("no_text", "INVALID_ARGUMENT"),
                    ("sequence", "INVALID_ARGUMENT"),
                    ("deadline", "DEADLINE_EXCEEDED"),
                    ("unload", "PERMISSION_DENIED"),
                ):
                    assert told[name][0] == f"StatusCode.{status}", name
                assert told["stream"] == ["one", "two"]
            finally:
                await server.stop()

    asyncio.run(scenario())


def checked(told: dict[str, Any]) -> None:
    """What both forms of the protocol tell alike."""
    assert told["live"] is told["ready"] is told["model_ready"] is told["version_ready"] is True
    assert told["not_ready"] is False
    assert told["id"] == "seven"
    assert "binary_tensor_data" in told["server"]["extensions"]
    assert told["dense"]["platform"] == "onnxruntime_onnx"
    (stats,) = told["statistics"]["model_stats"]
    assert int(stats["inference_count"]) >= 5


def test_the_models_are_where_this_test_thinks() -> None:
    assert all((MODELS / f"{name}.onnx").is_file() for name in ("dense", "add", "strings", "types"))
