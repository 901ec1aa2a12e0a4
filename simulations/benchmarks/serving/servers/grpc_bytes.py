"""grpc.aio with the tensor's bytes as the message: no protobuf to encode, which flatters it.

The answer is the bytes of all outputs, one behind the other.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import uvloop

from simulations.benchmarks.in_process import InProcess
from simulations.benchmarks.serving.servers import GRPC_METHOD, GRPC_SERVICE


async def serve(model: InProcess, port: int) -> None:
    """Serve on ``port`` of loopback until the process ends."""
    short, loop = model.is_short(), asyncio.get_running_loop()

    def run(request: bytes) -> bytes:
        rows = np.frombuffer(request, np.float32).reshape(-1, model.width)
        return b"".join(output.tobytes() for output in model.run(rows))

    async def infer(request: bytes, _context: Any) -> bytes:
        return run(request) if short else await loop.run_in_executor(None, run, request)

    server = grpc.aio.server()
    handler = grpc.method_handlers_generic_handler(
        GRPC_SERVICE, {GRPC_METHOD: grpc.unary_unary_rpc_method_handler(infer)}
    )
    server.add_generic_rpc_handlers((handler,))
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(InProcess(Path(sys.argv[1])), int(sys.argv[2])))
