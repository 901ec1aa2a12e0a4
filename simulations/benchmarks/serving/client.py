"""A worker that asks one server: ``python -m simulations.benchmarks.serving.client SPEC``.

Orders: ``{"check": true}`` asks for every row once; ``{"callers": n, "seconds": s}`` is a closed loop;
``{"rate": r, "seconds": s, "seed": n}`` an open one with Poisson arrivals. Each is answered with a window.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import sys
from collections.abc import Mapping
from typing import Any, Final, cast

from mcp.net.loop import loop_factory
from simulations.benchmarks.arrivals import poisson
from simulations.benchmarks.asking import closed_loop, open_loop
from simulations.benchmarks.in_process import equal
from simulations.benchmarks.serving.clients.interface import Asker
from simulations.benchmarks.serving.subjects import expected, load
from simulations.benchmarks.windows import Window
from simulations.benchmarks.workers import obey

# Imported when asked for: gRPC's is an extra.
ASKERS: Final = {
    "native": "native.NativeAsker",
    "bare": "bare_bytes.BareAsker",
    "json": "http.JsonAsker",
    "grpc": "grpc_bytes.GrpcAsker",
}


def asker(protocol: str, *arguments: Any) -> Asker:
    """A client that speaks ``protocol``."""
    module, _, name = ASKERS[protocol].partition(".")
    home = importlib.import_module(f"simulations.benchmarks.serving.clients.{module}")
    return cast(Asker, getattr(home, name)(*arguments))


async def work(spec: Mapping[str, Any]) -> None:
    """Carry out orders until standard input ends."""
    subject = load(spec["subject"])
    right, count = expected(subject), len(subject.rows)
    client = asker(spec["protocol"], subject, spec["target"])
    await client.connect()

    async def ask(number: int) -> Any:
        return await client.ask(number % count)

    def check(number: int, answer: Any) -> str | None:
        row = number % count
        if equal(client.read(answer, right[row]), right[row]):
            return None
        return f"{subject.name}: the answer to row {row} is another than in process"

    async def carry_out(order: Mapping[str, Any]) -> Mapping[str, Any]:
        if order.get("check"):
            window = await check_all(ask, check, count)
        elif "rate" in order:
            arrivals = poisson(order["rate"], order["seconds"], order["seed"])
            window = await open_loop(ask, check, arrivals)
        else:
            window = await closed_loop(ask, check, order["callers"], order["seconds"])
        return window.to_plain()

    await obey(carry_out)
    await client.close()


async def check_all(ask: Any, check: Any, count: int) -> Window:
    """Ask for every row once, several at a time."""
    return await open_loop(ask, check, [0.0] * count)


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(work(json.loads(sys.argv[1])))
