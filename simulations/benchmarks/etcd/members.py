"""Three members of etcd on loopback, with their data in one folder; each syncs its log, its default."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import grpc

from mcp.cli.demo.cluster import free_ports
from mcp.clock import SystemClock
from mcp.errors import Unavailable
from simulations.benchmarks.etcd.client import EtcdClient
from simulations.benchmarks.processor_time import tree_s
from simulations.benchmarks.workers import Program

MEMBERS: Final = 3
LEADER_WITHIN_S: Final = 30.0
POLL_S: Final = 0.05
TUNED: Final = ("--heartbeat-interval", "50", "--election-timeout", "250")
"""As close to a node's default settings as etcd allows: an election takes at least five heartbeats."""


@dataclass(slots=True)
class Member:
    """One member: its program, and where clients find it."""

    program: Program
    address: str
    client: EtcdClient = field(init=False)

    def __post_init__(self) -> None:
        self.client = EtcdClient(self.address)


@dataclass(frozen=True, slots=True)
class Etcd:
    """Members that run."""

    members: list[Member]

    async def leader(self) -> Member:
        """Whoever leads, once somebody does. Raises :class:`~mcp.errors.Unavailable`."""
        deadline = asyncio.get_running_loop().time() + LEADER_WITHIN_S
        while asyncio.get_running_loop().time() < deadline:
            for member in self.members:
                with suppress(grpc.aio.AioRpcError):
                    if member.program.running and await member.client.leads():
                        return member
            await asyncio.sleep(POLL_S)
        raise Unavailable(
            f"no member of etcd led within {LEADER_WITHIN_S:.0f} s; {self.members[0].program.last_words}"
        )

    def spent_s(self) -> float:
        """Processor seconds of all members up to now."""
        return sum(tree_s(member.program.pid) for member in self.members)


@asynccontextmanager
async def etcd(folder: Path, options: Sequence[str] = ()) -> AsyncIterator[Etcd]:
    """Start the members with further ``options``, and wait until one leads."""
    ports = free_ports(2 * MEMBERS, SystemClock().random())
    names = [f"etcd{number}" for number in range(MEMBERS)]
    peers = dict(zip(names, ports[:MEMBERS], strict=True))
    cluster = ",".join(f"{name}=http://127.0.0.1:{port}" for name, port in peers.items())
    async with AsyncExitStack() as stack:
        members = []
        for name, port in zip(names, ports[MEMBERS:], strict=True):
            peer, client = f"http://127.0.0.1:{peers[name]}", f"http://127.0.0.1:{port}"
            command = ["etcd", "--name", name, "--data-dir", str(folder / name), "--log-level", "error"]
            command += ["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer]
            command += ["--listen-client-urls", client, "--advertise-client-urls", client]
            command += ["--initial-cluster", cluster, *options]
            program = Program(name, command, folder)
            stack.push_async_callback(program.stop)
            await program.start()
            members.append(Member(program, f"127.0.0.1:{port}"))
            await stack.enter_async_context(members[-1].client)
        made = Etcd(members)
        await made.leader()
        yield made
