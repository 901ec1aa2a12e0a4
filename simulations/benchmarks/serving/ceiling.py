"""A worker that runs a model in process: what no server can exceed on one thread.

Orders: ``{"rows": n, "seconds": s}`` runs batches of ``n`` rows, one after the other; answered with ``rate``
in rows a second.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from simulations.benchmarks.in_process import InProcess
from simulations.benchmarks.serving.subjects import load
from simulations.benchmarks.workers import obey

BATCHES: Final = (8, 16, 32, 64, 128)
"""Sizes of batches of which the best counts."""


async def work(spec: Mapping[str, Any]) -> None:
    """Carry out orders until standard input ends."""
    subject = load(spec["subject"])
    own = InProcess(subject.model)

    async def carry_out(order: Mapping[str, Any]) -> Mapping[str, Any]:
        repeats = -(-order["rows"] // len(subject.rows))
        rows = np.concatenate([subject.rows] * repeats)[: order["rows"]]
        done, begun = 0, time.perf_counter()
        while (passed := time.perf_counter() - begun) < order["seconds"]:
            own.run(rows)
            done += len(rows)
        return {"rate": done / passed}

    await obey(carry_out)


if __name__ == "__main__":
    asyncio.run(work(json.loads(sys.argv[1])))
