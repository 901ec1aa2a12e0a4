"""Streams of steps beside the calls of a run: some are read to their end, some are left, some halt.

The digits model keeps nothing between two steps, so each step's answer is known. What may go wrong is the
stream itself: on its way, over a change of version, with the node that runs it. Of what a client was given
before a stream broke, all has to be right; and once all is well and nobody reads, no node runs one.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable, Sequence
from typing import Final

from mcp.client.results import Step
from mcp.errors import McpError
from mcp.node.assembly import Assembly
from simulations.invariants import Violation
from simulations.nodes import models
from simulations.nodes.workload import Around, ClientTasks, check_result

STREAMS_ARE_WHOLE: Final = "a stream's steps come in order, of one version"
STEPS_MAX: Final = 12
AHEAD_MAX: Final = 3
LEFT: Final = 0.3
"""So many streams are left before their end."""
SLOW, SLOW_S_MAX = 0.5, 0.15
"""In so many the reader stops once, for up to so many seconds: the node has to wait for it, too."""
PAUSE_S: Final = 0.5
"""Between two streams of one reader, on average."""


class StreamReader:
    """One task of a client that reads a stream, thinks, and reads another, until the client is stopped."""

    def __init__(self, tasks: ClientTasks, around: Around) -> None:
        self.checked = 0
        """Steps that were looked at."""
        self._tasks = tasks
        self._around = around
        self._random = around.world.stream(f"{tasks.name}/streams")

    async def run(self) -> None:
        """See the class."""
        while not self._tasks.stopping:
            await asyncio.sleep(self._random.expovariate(1 / PAUSE_S))
            if self._tasks.deployed is not None and not self._tasks.stopping:
                await self._read()

    async def _read(self) -> None:
        draw, done = self._random, self._around.done
        sample, steps = draw.randrange(models.SAMPLES), draw.randint(1, STEPS_MAX)
        wanted = draw.randint(1, steps) if draw.random() < LEFT else steps
        stops_at = draw.randint(1, steps) if draw.random() < SLOW else 0
        slow_s = draw.random() * SLOW_S_MAX
        seen: list[Step] = []

        async def read(timeout_s: float) -> None:
            stream = self._tasks.client.stream(
                models.NAME,
                models.inputs(sample),
                carry={},
                steps=steps,
                ahead=draw.randint(1, AHEAD_MAX),
                timeout_s=timeout_s,
            )
            async with contextlib.aclosing(stream):
                async for step in stream:
                    seen.append(step)
                    if len(seen) == wanted:
                        return
                    if len(seen) == stops_at:
                        await asyncio.sleep(slow_s)

        try:
            await self._tasks.timed(None, read)
        except McpError as error:
            self._tasks.told(error, "stream")
        else:
            done["streams left" if wanted < steps else "streams read"] += 1
            if len(seen) != wanted:
                self._around.fail(Violation(STREAMS_ARE_WHOLE, f"{len(seen)} steps came of {steps}"))
        self._check(seen, sample)

    def _check(self, seen: Sequence[Step], sample: int) -> None:
        numbers = [step.number for step in seen]
        origins = {(step.model, step.version, step.node) for step in seen}
        if numbers != list(range(1, len(seen) + 1)) or len(origins) > 1:
            told = f"the steps {numbers} came, of {sorted(origins)}"
            self._around.fail(Violation(STREAMS_ARE_WHOLE, told))
        for step in seen:
            check_result(self._around, "a step", step.version, sample, models.summary(step.outputs))
        self.checked += len(seen)


def unfinished(nodes: Iterable[Assembly | None]) -> str | None:
    """Say which node still runs or relays streams, once nobody reads any; ``None``: none."""
    held = {
        part.config.node_id: len(part.streamed.streams) + len(part.relaying.streams)
        for part in nodes
        if part is not None
    }
    told = [f"{name}: {count}" for name, count in sorted(held.items()) if count]
    return f"streams that nobody reads go on: {', '.join(told)}" if told else None
