"""KServe's own client, from PyPI, in a process and an environment of its own: its calls work unchanged.

It is no dependency of ours. To have this test run::

    python -m venv DIR && DIR/bin/pip install kserve
    KSERVE_CLIENT_PYTHON=DIR/bin/python pytest tests/mcp/gateway
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
from served_node import serving

VARIABLE = "KSERVE_CLIENT_PYTHON"
CALLS = Path(__file__).parent / "kserve_calls.py"

pytestmark = pytest.mark.skipif(
    shutil.which(os.environ.get(VARIABLE, "")) is None,
    reason=f"{VARIABLE} names no Python that has kserve; see {Path(__file__).name} for how to make one",
)


def test_the_client_gets_what_ours_does(tmp_path: Path) -> None:
    grpc_server = pytest.importorskip("mcp.gateway.grpc_server", reason="needs the extra grpc")
    x = np.random.default_rng(3).standard_normal((3, 64)).astype(np.float32)
    np.savez(tmp_path / "inputs.npz", x=x)

    async def scenario() -> tuple[bytes, bytes]:
        async with serving(tmp_path) as gateway:
            await gateway.deploy("dense")
            server = grpc_server.GrpcServer(gateway.operations, "127.0.0.1:0")
            await server.start()
            process = await asyncio.create_subprocess_exec(
                *(os.environ[VARIABLE], str(CALLS), gateway.address, server.address),
                *(str(tmp_path / "inputs.npz"), str(tmp_path / "outputs.npz")),
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                env={"PATH": os.environ["PATH"]},
            )
            out, errors = await process.communicate()
            await server.stop()
            assert process.returncode == 0, errors.decode()
            return out, (await gateway.client.infer("dense", {"x": x})).output.tobytes()

    out, wanted = asyncio.run(scenario())
    told: dict[str, Any] = json.loads(out.splitlines()[-1])
    with np.load(tmp_path / "outputs.npz", allow_pickle=False) as found:
        assert len(found) == 6
        assert {name: array.tobytes() == wanted for name, array in found.items()} == dict.fromkeys(
            found, True
        )
    assert told["live"] is told["ready"] is told["model_ready"] is True
    assert told["grpc_live"] is told["grpc_ready"] is told["grpc_model_ready"] is True
    assert told["no_model_ready"] is False
    assert told["id"] == "seven"
    assert "there are: dense" not in told["no_model"]
    assert "404" in told["no_model"]
    assert "NOT_FOUND" in told["grpc_no_model"]
