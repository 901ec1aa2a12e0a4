"""Reads everything back when all is well again: through the cluster, and from every node by itself."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from mcp.client.client import Client
from mcp.clock import Clock, new_id
from mcp.errors import Busy, McpError
from mcp.net.connection import Connection
from mcp.net.dial import connect
from mcp.wire.handshake import Identity, Role
from mcp.wire.messages import Message
from simulations.checking.operations import Absent, Found, Ok
from simulations.soak.supervisor import Supervisor
from simulations.soak.watch import Watch
from simulations.soak.workload import Record, Workload, get, put

READERS: Final = 8
READ_TIMEOUT_S: Final = 10.0
EQUAL_WITHIN_S: Final = 20.0
POLL_S: Final = 0.1


@dataclass(slots=True)
class Findings:
    """What is there, and what is not as it should be; the texts name the key or id and the node."""

    final: dict[str, Found | Absent] = field(default_factory=dict)
    digest: str | None = None
    """Of the state that all nodes have at the same log position; ``None``: they differ."""
    positions: dict[str, int] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    unresolved: list[str] = field(default_factory=list)
    """Acknowledged submissions that no node has finished."""


async def settled(supervisor: Supervisor, watch: Watch, within_s: float) -> bool:
    """Wait until all nodes are up, follow one leader and are equally far; whether that happened in time."""
    deadline = watch.now() + within_s
    since = watch.now()
    while watch.now() < deadline:
        seen = [watch.latest.get(node) for node in supervisor.nodes]
        if all(watch.well(node, since) for node in supervisor.nodes):
            leaders = {one.leader for one in seen if one is not None}
            applied = {one.applied_index for one in seen if one is not None}
            if len(leaders) == 1 and len(applied) == 1:
                return True
        await asyncio.sleep(POLL_S)
    return False


async def read_through(client: Client, workload: Workload, record: Record, findings: Findings) -> None:
    """Read every key and every record as a client, linearizably, into the same history; write once more."""
    keys = [*workload.keys.all, *workload.probes, workload.counter]

    async def read(process: str, mine: Iterable[str]) -> None:
        for key in mine:
            outcome = await record.ask(process, *get(client, key, "linearizable"))
            if isinstance(outcome, Ok) and isinstance(outcome.result, Found | Absent):
                findings.final[key] = outcome.result
            else:
                findings.wrong.append(f"{key} cannot be read although all is well: {outcome}")

    async def fetch(process: str, mine: Iterable[str]) -> None:
        for identifier in mine:
            await workload.fetch(process, client, identifier, READ_TIMEOUT_S)

    async with asyncio.TaskGroup() as group:
        for number in range(READERS):
            group.create_task(read(f"reader-{number}", keys[number::READERS]))
            promised = list(acknowledged(record))
            group.create_task(fetch(f"fetcher-{number}", promised[number::READERS]))
    outcome = await record.ask("last", *put(client, "last", "all is well"))
    if not isinstance(outcome, Ok):
        findings.wrong.append(f"a fresh write does not succeed although all is well: {outcome}")


def acknowledged(record: Record) -> Iterable[str]:
    """The submissions that were acknowledged."""
    for operation in record.history:
        if isinstance(operation.outcome, Ok) and type(operation.call).__name__ == "Submit":
            yield str(getattr(operation.call, "id", ""))


async def read_each(supervisor: Supervisor, clock: Clock, record: Record, findings: Findings) -> None:
    """Ask every node by itself for its whole state's digest, every key and every record."""
    promised = list(acknowledged(record))
    async with own_connections(supervisor, clock) as nodes:
        await compare_digests(nodes, clock, findings)
        for node in nodes:
            await node.compare(findings, promised)


async def compare_digests(nodes: Sequence[OwnAnswers], clock: Clock, findings: Findings) -> None:
    """Wait until all nodes tell the same log position with the same digest, and note what they told last."""
    deadline = clock.monotonic() + EQUAL_WITHIN_S
    while True:
        late = clock.monotonic() > deadline
        try:
            found = [await node.position() for node in nodes]
        except Busy:
            # A node that has just told a digest rests before it computes another, and is asked again.
            if late:
                raise
            await asyncio.sleep(POLL_S)
            continue
        findings.positions = {node.node: index for node, (index, _) in zip(nodes, found, strict=True)}
        if len(set(found)) == 1:
            findings.digest = found[0][1]
            return
        if late:
            told = ", ".join(
                f"{node.node} at {at}: {text[:12]}" for node, (at, text) in zip(nodes, found, strict=True)
            )
            findings.wrong.append(f"the nodes' states are not equal: {told}")
            return
        await asyncio.sleep(POLL_S)


class OwnAnswers:
    """One node, asked over a connection of its own, so that no other can answer for it."""

    def __init__(self, node: str, connection: Connection, clock: Clock) -> None:
        self.node = node
        self._connection = connection
        self._clock = clock
        self._turns = asyncio.Semaphore(READERS)

    async def position(self) -> tuple[int, str]:
        """How far it is in the log, and a digest of all that it holds there."""
        found = await self._ask("STATUS", {"digest": True})
        return found["applied_index"], found["state_digest"]

    async def compare(self, findings: Findings, promised: Sequence[str]) -> None:
        """Compare what it holds with what the cluster said, and see that it knows every result."""
        async with asyncio.TaskGroup() as group:
            for key, expected in findings.final.items():
                group.create_task(self._compare_key(key, expected, findings))
            for identifier in promised:
                group.create_task(self._compare_record(identifier, findings))

    async def _ask(self, kind: str, payload: Mapping[str, Any]) -> dict[str, Any]:
        async with self._turns:
            message = Message(kind, dict(payload), new_id(self._clock))
            reply = await self._connection.request(message, timeout_s=READ_TIMEOUT_S)
        return reply.message.payload

    async def _read(self, kind: str, args: dict[str, Any]) -> Mapping[str, Any] | None:
        # Stale on purpose: what this node has itself, with nobody asked to confirm it.
        try:
            answer = await self._ask("READ", {"kind": kind, "args": args, "consistency": "stale"})
        except McpError as error:
            return {"error": error.code}
        value = answer.get("value")
        return value if isinstance(value, dict) else None

    async def _compare_key(self, key: str, expected: Found | Absent, findings: Findings) -> None:
        value = await self._read("key", {"key": key})
        own = (
            Absent()
            if value is None
            else Found(value.get("value"), value.get("version", 0), value.get("index"))
        )
        if own != expected:
            findings.wrong.append(f"{self.node} holds {own} under {key}, and the cluster said {expected}")

    async def _compare_record(self, identifier: str, findings: Findings) -> None:
        value = await self._read("inference", {"id": identifier})
        status = None if value is None else value.get("status")
        if status not in ("done", "failed"):
            findings.unresolved.append(f"{identifier} on {self.node}: {status or 'not there'}")


@asynccontextmanager
async def own_connections(supervisor: Supervisor, clock: Clock) -> AsyncIterator[list[OwnAnswers]]:
    """Open one connection to each node, past the relays, and close them all afterwards."""
    opened: list[Connection] = []
    try:
        nodes = []
        for node in supervisor.nodes.values():
            identity = Identity("mcp", f"audit-{new_id(clock)}", supervisor.key, Role.CLIENT)
            connection = await connect(node.address, identity)
            opened.append(connection)
            nodes.append(OwnAnswers(node.node, connection, clock))
        yield nodes
    finally:
        for connection in opened:
            connection.close()
