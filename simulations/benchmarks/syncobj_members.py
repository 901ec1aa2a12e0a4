"""Three members of bare PySyncObj on loopback."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from mcp.cli.demo.cluster import free_ports
from mcp.clock import SystemClock
from mcp.errors import Unavailable
from simulations.benchmarks.processor_time import tree_s
from simulations.benchmarks.syncobj import POLL_S, READY_WITHIN_S, SETTINGS
from simulations.benchmarks.workers import Worker, worker

MEMBERS: Final = 3
MODULE: Final = "simulations.benchmarks.syncobj"


@dataclass(frozen=True, slots=True)
class SyncObjs:
    """Members that run."""

    members: list[Worker]

    @property
    def running(self) -> list[Worker]:
        """Those whose process has not ended."""
        return [member for member in self.members if member.program.running]

    async def leader(self) -> Worker:
        """Whoever leads, once every running member is ready. Raises :class:`~mcp.errors.Unavailable`."""
        deadline = asyncio.get_running_loop().time() + READY_WITHIN_S
        while asyncio.get_running_loop().time() < deadline:
            told: list[Any] = [await member.order(leader=True) for member in self.running]
            leaders = [member for member, each in zip(self.running, told, strict=True) if each["leads"]]
            if len(leaders) == 1 and all(each["ready"] for each in told):
                return leaders[0]
            await asyncio.sleep(POLL_S)
        raise Unavailable(f"no member of PySyncObj led within {READY_WITHIN_S:.0f} s")

    def spent_s(self, but: Worker | None = None) -> float:
        """Processor seconds of all members ``but`` one, up to now."""
        return sum(tree_s(member.pid) for member in self.running if member is not but)


@asynccontextmanager
async def syncobjs(folder: Path, way: str) -> AsyncIterator[SyncObjs]:
    """Start the members with the settings of ``way``, and wait until one leads."""
    addresses = [f"127.0.0.1:{port}" for port in free_ports(MEMBERS, SystemClock().random())]
    async with AsyncExitStack() as stack:
        members = []
        for number, own in enumerate(addresses):
            others = [address for address in addresses if address != own]
            spec = {"own": own, "others": others, "settings": dict(SETTINGS[way])}
            member = await stack.enter_async_context(worker(f"syncobj{number}", MODULE, spec, folder))
            members.append(member)
        made = SyncObjs(members)
        await made.leader()
        yield made
