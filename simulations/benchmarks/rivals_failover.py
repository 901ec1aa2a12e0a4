"""The failover of etcd and of bare PySyncObj: from the SIGKILL of the leader to the first new commit.

As for the product, a write is begun at once after the kill, at every member that is left, and the first one
that is acknowledged ends the trial. The member that was killed is started again before the next.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from mcp.errors import DeadlineExceeded
from simulations.benchmarks.etcd import ETCD_NEEDS
from simulations.benchmarks.needs import lacking
from simulations.benchmarks.progress import Steps
from simulations.benchmarks.syncobj_members import SyncObjs, syncobjs
from simulations.benchmarks.workers import Worker

if TYPE_CHECKING:
    from simulations.benchmarks.etcd.members import Etcd, Member

PROBE_WITHIN_S: Final = 20.0
PROBE_EVERY_S: Final = 0.005
ATTEMPT_S: Final = 1.0
PROBES_MAX: Final = 200
SETTLED_S: Final = 1.0
"""Between trials, so that whoever came back has caught up and heard of the leader."""
WAY: Final = "each on its own"

Trial = Callable[[], Awaitable[float]]


async def measure(trials: int, steps: Steps) -> tuple[dict[str, list[float]], list[str]]:
    """Durations in seconds by rival and its settings, and what cannot be measured here."""
    if not trials:
        return {}, []
    found: dict[str, list[float]] = {}
    lack = lacking("etcd", ETCD_NEEDS)
    with tempfile.TemporaryDirectory(prefix="mcp-bench-") as name:
        rivals: dict[str, Callable[[Path], AbstractAsyncContextManager[Trial]]] = {}
        if lack is None:
            rivals |= {
                "etcd, its defaults": partial(etcd_trials, tuned=False),
                "etcd, heartbeat 50 ms, election 250 ms": partial(etcd_trials, tuned=True),
            }
        rivals["PySyncObj, its defaults, no sync"] = syncobj_trials
        for number, (rival, start) in enumerate(rivals.items()):
            steps.begin(f"failover of {rival}", trials)
            folder = Path(name) / str(number)
            folder.mkdir()
            async with start(folder) as trial:
                found[rival] = []
                for _ in range(trials):
                    found[rival].append(await trial())
                    steps.done()
    return found, [] if lack is None else [lack]


@asynccontextmanager
async def etcd_trials(folder: Path, *, tuned: bool) -> AsyncIterator[Trial]:
    """Trials on members of etcd."""
    # Imported where it is used: gRPC is an extra.
    from simulations.benchmarks.etcd.members import TUNED, etcd  # noqa: PLC0415

    async with etcd(folder, TUNED if tuned else ()) as members:
        yield partial(etcd_trial, members)


async def etcd_trial(members: Etcd) -> float:
    """Kill the leader; the seconds until a put that was begun afterwards is acknowledged."""
    victim = await members.leader()
    await asyncio.sleep(SETTLED_S)
    begun = time.monotonic()
    await victim.program.kill()
    left = [member for member in members.members if member is not victim]
    at = await first_of([etcd_probe(member) for member in left])
    await victim.program.start()
    await members.leader()
    return at - begun


async def etcd_probe(member: Member) -> float:
    """When the first of many puts through ``member``, begun one after the other, was acknowledged.

    A member that knows no leader may keep a put until it is too late, so that none is waited for.
    """
    acknowledged = asyncio.get_running_loop().create_future()

    async def put(number: int) -> None:
        with suppress(Exception):
            await member.client.put("probe", str(number).encode(), ATTEMPT_S)
            if not acknowledged.done():
                acknowledged.set_result(time.monotonic())

    tasks: set[asyncio.Task[None]] = set()
    number = 0
    while not acknowledged.done():
        if len(tasks) < PROBES_MAX:
            task = asyncio.create_task(put(number))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            number += 1
        await asyncio.sleep(PROBE_EVERY_S)
    for task in list(tasks):
        task.cancel()
    at: float = acknowledged.result()
    return at


@asynccontextmanager
async def syncobj_trials(folder: Path) -> AsyncIterator[Trial]:
    """Trials on members of PySyncObj."""
    async with syncobjs(folder, WAY) as members:
        yield partial(syncobj_trial, members)


async def syncobj_trial(members: SyncObjs) -> float:
    """Kill the leader; the seconds until a write that was begun afterwards is acknowledged."""
    victim = await members.leader()
    await asyncio.sleep(SETTLED_S)
    begun = time.monotonic()
    await victim.program.kill()
    at = await first_of([syncobj_probe(member) for member in members.running])
    await victim.greet()
    await members.leader()
    return at - begun


async def syncobj_probe(member: Worker) -> float:
    """When the first write through ``member`` was acknowledged."""
    answer = await member.order(probe=PROBE_WITHIN_S)
    if answer["at"] is None:
        raise DeadlineExceeded(f"{member.name} acknowledged nothing in {PROBE_WITHIN_S:.0f} s")
    return float(answer["at"])


async def first_of(probes: list[Any]) -> float:
    """The earliest moment that the probes tell; all are waited for."""
    async with asyncio.timeout(2 * PROBE_WITHIN_S):
        found: list[float] = await asyncio.gather(*probes)
    return min(found)
