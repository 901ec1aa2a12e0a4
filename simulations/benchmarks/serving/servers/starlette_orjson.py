"""Starlette with orjson, which reads and writes arrays itself: the handler that experts write.

With ``batched`` as the third argument the rows of concurrent requests go through a batching queue, so that
what batching gains and what the protocol gains can be told apart.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from simulations.benchmarks.in_process import InProcess
from simulations.benchmarks.serving.servers.batching import Batches
from simulations.benchmarks.serving.servers.http import run

Run = Callable[[NDArray[np.float32]], Awaitable[list[NDArray[Any]]]]


def application(model: InProcess, infer: Run) -> Starlette:
    """The application."""

    async def answer(request: Request) -> Response:
        rows = np.array(orjson.loads(await request.body())["inputs"], np.float32)
        outputs = dict(zip(model.outputs, await infer(rows), strict=True))
        body = orjson.dumps({"outputs": outputs}, option=orjson.OPT_SERIALIZE_NUMPY)
        return Response(body, media_type="application/json")

    return Starlette(routes=[Route("/infer", answer, methods=["POST"])])


def alone(model: InProcess) -> Run:
    """Every request is a run of its own."""
    short = model.is_short()

    async def infer(rows: NDArray[np.float32]) -> list[NDArray[Any]]:
        if short:
            return model.run(rows)
        return await asyncio.get_running_loop().run_in_executor(None, model.run, rows)

    return infer


if __name__ == "__main__":
    served = InProcess(Path(sys.argv[1]))
    way = Batches(served).infer if sys.argv[3:] == ["batched"] else alone(served)
    run(application(served, way), int(sys.argv[2]))
