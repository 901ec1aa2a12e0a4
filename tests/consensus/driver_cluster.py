"""Drivers around real engines, real journals and real snapshots, joined by a network in memory."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from consensus.batch import Batch
from consensus.driver import Applied, Driver, DriverLimits
from consensus.errors import (
    DiskFull,
    StorageFailed,
)
from consensus.interface import Engine, Entry, Record, Role, SnapshotMeta
from consensus.journal import Journal
from consensus.raft.config import RaftConfig
from consensus.raft.engine import RaftEngine
from consensus.recovery import recover
from consensus.snapshots import SnapshotStore
from consensus.solo import SoloEngine
from consensus.storage import RealDisk
from consensus.transfer import TransferLimits

SMALL = DriverLimits(
    log_entries_max=20,
    log_entries_retained=5,
    transfer=TransferLimits(chunk_bytes=64, window_chunks=2, resend_s=0.1),
)


class Register:
    """A sink that appends every command to a list: the whole state."""

    def __init__(self) -> None:
        self.applied: list[bytes] = []
        self.restored = 0
        self.room = 10_000
        self.held: list[tuple[Entry, Batch]] = []
        self.hold = False
        self.driver: Driver | None = None

    def free(self) -> int:
        return self.room - sum(len(batch.commands) for _, batch in self.held)

    def push(self, entry: Entry, batch: Batch) -> None:
        self.held.append((entry, batch))
        if not self.hold:
            self.run()

    def run(self) -> None:
        assert self.driver is not None
        while self.held:
            entry, batch = self.held.pop(0)
            results = []
            for request_id, command in zip(batch.request_ids, batch.commands, strict=True):
                self.applied.append(command)
                results.append((request_id, len(self.applied)))
            self.driver.applied(entry.index, results)

    def snapshot(self) -> Callable[[], bytes]:
        content = b"\n".join(self.applied)
        return lambda: content

    def restore(self, meta: SnapshotMeta, content: bytes) -> None:
        self.restored += 1
        self.held.clear()
        self.applied = content.split(b"\n") if content else []


class Switchboard:
    """Delivers on the next turn of the loop between those that are up and not cut off."""

    def __init__(self) -> None:
        self.drivers: dict[str, Driver] = {}
        self.cut: set[frozenset[str]] = set()
        self.drop: Callable[[str, str, bytes], bool] = lambda source, target, message: False

    def send(self, source: str, target: str, message: bytes) -> None:
        driver = self.drivers.get(target)
        if driver is None or frozenset((source, target)) in self.cut or self.drop(source, target, message):
            return
        asyncio.get_running_loop().call_soon(driver.on_message, source, message)


class Port:
    def __init__(self, board: Switchboard, node: str) -> None:
        self.board, self.node = board, node

    def send(self, peer: str, message: bytes) -> None:
        self.board.send(self.node, peer, message)

    def flush(self) -> None:
        """The switchboard holds nothing back."""


class Member:
    """One node: files, engine, sink, driver."""

    def __init__(self, cluster: Cluster, name: str) -> None:
        self.cluster, self.name = cluster, name
        self.sink = Register()
        disk = RealDisk(cluster.path / name)
        self.store = SnapshotStore.open(disk, "snapshots")
        self.journal = Journal.open(disk, "journal", incarnation=cluster.generation + 1)
        recovered = recover(self.journal, self.store)
        generator = random.Random(f"{name}{cluster.generation}")
        cluster.generation += 1
        loop = asyncio.get_running_loop()
        engine: Engine
        if len(cluster.names) == 1:
            engine = SoloEngine(name, recovered)
        else:
            timing = RaftConfig(
                election_timeout_min_s=0.1,
                election_timeout_max_s=0.2,
                heartbeat_s=0.02,
                leader_fallback_s=0.2,
            )
            voters = cluster.names if name in cluster.names else ()
            engine = RaftEngine(name, voters, recovered, now=loop.time(), random=generator, config=timing)
        self.failures: list[Exception] = []
        self.disk = FullJournal(self.journal)
        self.driver = Driver(
            engine,
            self.disk,
            self.store,
            self.sink,
            Port(cluster.board, name),
            wall=lambda: 1.7e9,
            generator=generator,
            limits=cluster.limits,
            on_failure=self.failures.append,
        )
        self.sink.driver = self.driver
        cluster.board.drivers[name] = self.driver
        self.driver.start()
        for other in cluster.members.values():
            other.driver.on_connected(name)
            self.driver.on_connected(other.name)
        cluster.members[name] = self

    def crash(self) -> None:
        self.driver.stop()
        self.journal.close()
        del self.cluster.board.drivers[self.name], self.cluster.members[self.name]
        for other in self.cluster.members.values():
            other.driver.on_disconnected(self.name)


class Cluster:
    def __init__(self, path: Path, size: int, limits: DriverLimits = SMALL) -> None:
        self.path, self.limits = path, limits
        self.names = [f"n{i}" for i in range(1, size + 1)]
        self.board = Switchboard()
        self.members: dict[str, Member] = {}
        self.generation = 0
        for name in self.names:
            (path / name).mkdir(parents=True)
            Member(self, name)

    async def leader(self) -> Member:
        def leading() -> list[Member]:
            found = [m for m in self.members.values() if m.driver.status().role is Role.LEADER]
            return found if len(found) == 1 and agreed(found[0]) else []

        def agreed(member: Member) -> bool:
            status = member.driver.status()
            return status.commit_index == status.last_index

        await until(lambda: bool(leading()))
        return leading()[0]

    async def equal(self, count: int) -> None:
        def executed() -> list[list[bytes]]:
            return [m.sink.applied for m in self.members.values()]

        # A command that moved to another leader may stand in the log twice, so more than count may come.
        await until(lambda: all(len(a) >= count and a == executed()[0] for a in executed()))

    def stop(self) -> None:
        for member in list(self.members.values()):
            member.driver.stop()
            member.journal.close()


async def until(condition: Callable[[], bool]) -> None:
    """Give the loop turns until something is so; the bound is there to fail rather than to hang."""
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - nothing signals what a test waits for
            await asyncio.sleep(0.002)


async def settled(cluster: Cluster, commands: Sequence[bytes], via: Member | None = None) -> list[Applied]:
    member = via or await cluster.leader()
    return await asyncio.gather(*(member.driver.propose(c, timeout_s=10.0) for c in commands))


def run(scenario: Callable[[], Awaitable[Any]]) -> None:
    asyncio.run(scenario())  # type: ignore[arg-type]


class FullJournal:
    """A journal on a disk that is full for a while."""

    def __init__(self, journal: Journal) -> None:
        self.journal, self.full, self.broken = journal, False, False

    def append(self, records: Sequence[Record]) -> None:
        if self.full:
            raise DiskFull("no room")
        self.journal.append(records)

    @property
    def unsynced_bytes(self) -> int:
        return self.journal.unsynced_bytes

    def sync(self) -> None:
        if self.broken:
            raise StorageFailed("the disk failed")
        self.journal.sync()

    def seal(self) -> None:
        self.journal.seal()

    def compact(self, first_index_kept: int) -> None:
        self.journal.compact(first_index_kept)
