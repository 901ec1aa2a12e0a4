"""A cluster of stand-in nodes: real connections, the real replicated state, and faults on demand.

The nodes share one state, as if agreeing took no time. What stands between the client and that state is
real: listeners, handshakes, frames. A fault decides what one node does with one kind of request.
"""

from __future__ import annotations

import asyncio
import random
import selectors
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pytest

from mcp.causality.vector import VersionVector
from mcp.client.client import Client
from mcp.clock import Clock, SystemClock
from mcp.errors import InvalidArgument, McpError, NoLeader, from_wire
from mcp.net.connection import Connection
from mcp.net.exchange import Exchange
from mcp.net.limits import DEFAULT_LIMITS, Limits
from mcp.net.listener import Listener
from mcp.net.memory import MemoryNetwork
from mcp.node.blobs import BlobStore
from mcp.state.applied import Applied
from mcp.state.commands import encode_command
from mcp.state.limits import StateLimits
from mcp.state.state import ReplicatedState
from mcp.wire.handshake import Identity
from mcp.wire.messages import Message
from mcp.wire.tensors import pack_all, unpack_all

T = TypeVar("T")
TURN_S = 1e-6
TIME_S_MAX = 7200.0
KEY = b"a cluster key of 32 random bytes"


# -- virtual time ---------------------------------------------------------------------------------


class VirtualSelector(selectors.DefaultSelector):
    """Instead of waiting for a timer, time jumps to it. For loops without sockets and threads.

    Every turn of the loop takes a moment, so that time goes on however busy it is.
    """

    now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready and timeout is None:
            raise RuntimeError("nothing will ever happen: every task waits, and no timer is set")
        self.now += TURN_S + (0 if ready or timeout is None else max(0, timeout))
        if self.now > TIME_S_MAX:
            raise RuntimeError("hours have passed, and the test still waits for something")
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop in virtual time."""

    def __init__(self) -> None:
        self.selector = VirtualSelector()
        super().__init__(self.selector)

    def time(self) -> float:
        return self.selector.now


class VirtualClock:
    """The virtual loop's time, and randomness from a seed."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()

    def wall(self) -> float:
        return 1.7e9 + self.monotonic()

    def entropy(self, size: int) -> bytes:
        return self._random.randbytes(size)

    def random(self) -> random.Random:
        return random.Random(self._random.getrandbits(64))


def run_virtual(main: Callable[[Clock], Coroutine[Any, Any, T]], *, seed: int = 0) -> T:
    """Run ``main`` in virtual time. The same seed gives the same run."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main(VirtualClock(seed)))


# -- faults ---------------------------------------------------------------------------------------

Handle = Callable[[Exchange], Awaitable[None]]


@dataclass
class Fault:
    """What to do with the next ``times`` requests of type ``kind`` (and, for commands, ``op``).

    ``do``: "lose answer" (done, and then the connection breaks), "lose request" (breaks first), "hang"
    (never answered), "mute" (done, never answered), "delay" (done after ``delay_s``, even if the connection
    is gone by then), or an error to answer with instead of doing it.
    """

    kind: str
    do: str | McpError
    times: int = 1
    op: str | None = None
    delay_s: float = 0.0

    def matches(self, message: Message) -> bool:
        """Commands are met in whatever message they come."""
        if message.type == "COMMANDS" and self.kind == "COMMAND":
            ops = [op for _, op, _ in message.payload["commands"]]
            return self.times > 0 and (self.op is None or self.op in ops)
        return self.times > 0 and message.type == self.kind and self.op in (None, message.payload.get("op"))


# -- nodes ----------------------------------------------------------------------------------------


class StandIn:
    """One node. Answers requests from the cluster's state, as its faults allow."""

    def __init__(self, cluster: Cluster, node_id: str, address: str) -> None:
        self.cluster = cluster
        self.node_id = node_id
        self.address = address
        self.faults: list[Fault] = []
        self.received: list[Message] = []
        self.cancelled = 0
        self.up = False
        self._listener: Listener | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._blobs: BlobStore | None = None

    @property
    def blobs(self) -> BlobStore:
        if self._blobs is None:
            assert self.cluster.directory is not None, "give the cluster a directory for artefacts"
            self._blobs = BlobStore(
                self.cluster.directory / self.node_id, blob_bytes_max=1 << 30, uploads_max=8
            )
        return self._blobs

    def types(self) -> list[str]:
        found = []
        for message in self.received:
            found += [op for _, op, _ in message.payload.get("commands", ())]
            found.append(message.payload.get("op") or message.type)
        return found

    async def start(self) -> None:
        identity = Identity(self.cluster.cluster_id, self.node_id, KEY)
        self._listener = Listener(
            self.address, identity, self, network=self.cluster.network, limits=self.cluster.limits
        )
        await self._listener.start()
        self.address = str(self._listener.bound_address)
        self.up = True

    async def stop(self) -> None:
        """Crash: every connection breaks. What was handed on before still happens, as in a cluster."""
        if not self.up or self._listener is None:
            return
        self.up = False
        self.break_connections()
        await self._listener.close()

    async def end(self) -> None:
        """Stop, and let nothing go on."""
        await self.stop()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def break_connections(self) -> None:
        assert self._listener is not None
        for connection in self._listener.connections:
            connection.abort()

    def on_connected(self, connection: Connection) -> None: ...

    def on_notice(self, connection: Connection, body: memoryview) -> None: ...

    def on_closed(self, connection: Connection, reason: McpError | None) -> None: ...

    def on_request(self, exchange: Exchange) -> None:
        self.received.append(exchange.message)
        self.cluster.notify()
        exchange.on_cancel(self._count_cancelled)
        task = asyncio.get_running_loop().create_task(self._serve(exchange))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _count_cancelled(self) -> None:
        self.cancelled += 1

    async def _serve(self, exchange: Exchange) -> None:
        fault = next((f for f in self.faults if f.matches(exchange.message)), None)
        if fault is None:
            await self._answer(exchange)
            return
        fault.times -= 1
        if isinstance(fault.do, McpError):
            exchange.fail(fault.do)
        elif fault.do == "lose request":
            exchange.connection.abort()
        elif fault.do == "lose answer":
            await self._answer(Muted(exchange))
            exchange.connection.abort()
        elif fault.do == "mute":
            await self._answer(Muted(exchange))
        elif fault.do == "delay":
            await asyncio.sleep(fault.delay_s)
            await self._answer(exchange)
        else:
            assert fault.do == "hang", fault.do

    async def _answer(self, exchange: Any) -> None:
        try:
            reply = await getattr(self, f"_on_{exchange.message.type.lower()}")(exchange)
        except McpError as error:
            exchange.fail(error)
            return
        kind, payload, *segments = reply
        vector = VersionVector.from_mapping({"log": self.cluster.state.applied_index})
        exchange.reply(exchange.message.reply(kind, payload, vector), *segments)

    async def _on_command(self, exchange: Any) -> tuple[Any, ...]:
        p = exchange.message.payload
        index, value = self.cluster.commit(p["op"], p["args"], p["session"], p["seq"], p["ack"])
        return "COMMAND_RESULT", {"index": index, "value": value, "leader": self.cluster.leader}

    async def _on_commands(self, exchange: Any) -> tuple[Any, ...]:
        p = exchange.message.payload
        results: list[Any] = []
        for seq, op, args in p["commands"]:
            try:
                results.append(list(self.cluster.commit(op, args, p["session"], seq, p["ack"])))
            except McpError as error:
                results.append(error.to_wire())
        return "COMMANDS_RESULT", {"results": results, "leader": self.cluster.leader}

    async def _on_read(self, exchange: Any) -> tuple[Any, ...]:
        p = exchange.message.payload
        state = self.cluster.state
        if p["consistency"] == "linearizable":
            self.cluster.need_leader()
        if p["consistency"] == "session":
            assert exchange.message.vector.get("log") <= state.applied_index
        value = state.read(p["kind"], p["args"])
        leader = self.cluster.leader
        return "READ_RESULT", {"index": state.applied_index, "value": value, "leader": leader}

    async def _on_inference_wait(self, exchange: Any) -> tuple[Any, ...]:
        state, identifier = self.cluster.state, exchange.message.payload["id"]
        while True:
            value = state.read("inference", {"id": identifier})
            if value is None or value["status"] in ("done", "failed"):
                return "READ_RESULT", {"index": state.applied_index, "value": value, "leader": None}
            await self.cluster.changed()

    async def _on_infer_request(self, exchange: Any) -> tuple[Any, ...]:
        p = exchange.message.payload
        if "data_chunk" in p:
            outputs = {"text": [p["data_chunk"]]}
        else:
            arrays = unpack_all(p["inputs"], exchange.segments)
            outputs = {f"{name or 'only'} twice": array * 2 for name, array in arrays.items()}
        specs, segments = pack_all(outputs)  # type: ignore[arg-type]
        answer = {
            "model": p["model_hint"],
            "version": "1",
            "node": self.node_id,
            "outputs": specs,
            "rows_max": self.cluster.rows_max,
        }
        return "INFER_RESPONSE", answer, segments

    async def _on_infer_stream(self, exchange: Any) -> tuple[Any, ...]:
        """Count on from the only input, by itself."""
        p = exchange.message.payload
        (array,) = unpack_all(p["inputs"], exchange.segments).values()
        origin = {"model": p["model_hint"], "version": "1", "node": self.node_id}
        for number in range(1, p["steps"] + 1):
            room = asyncio.get_running_loop().create_future()
            exchange.on_room(lambda room=room: room.set_result(None))
            await room
            specs, segments = pack_all({"sum": array * number})
            exchange.part({"step": number, "outputs": specs, **origin}, segments)
        return "INFER_STREAM_END", {**origin, "steps": p["steps"], "reason": "steps"}

    async def _on_blob_stat(self, exchange: Any) -> tuple[Any, ...]:
        return self._blob_status(self.blobs.status(exchange.message.payload["digest"]))

    async def _on_blob_put(self, exchange: Any) -> tuple[Any, ...]:
        p = exchange.message.payload
        (chunk,) = exchange.segments
        return self._blob_status(self.blobs.put(p["digest"], p["size"], p["offset"], chunk))

    async def _on_blob_get(self, exchange: Any) -> tuple[Any, ...]:
        p = exchange.message.payload
        chunk = self.blobs.read(p["digest"], p["offset"], p["length"])
        answer = {"digest": p["digest"], "offset": p["offset"], "size": len(chunk)}
        return "BLOB_CHUNK", answer, [chunk]

    def _blob_status(self, status: Any) -> tuple[Any, ...]:
        fields = ("digest", "size", "received", "complete")
        return "BLOB_STATUS", {name: getattr(status, name) for name in fields}

    async def _on_deploy(self, exchange: Any) -> tuple[Any, ...]:
        p = exchange.message.payload
        manifest = p["manifest"]
        if not self.blobs.status(manifest["digest"]).complete:
            raise InvalidArgument("the blob is not whole here")
        args = {"manifest": manifest, "holders": [self.node_id]}
        index, value = self.cluster.commit("model.deploy", args, p["session"], p["seq"], p["ack"])
        answer = {**value, "size": manifest["size"], "holders": [self.node_id], "index": index}
        return "DEPLOYED", answer

    async def _on_status(self, exchange: Any) -> tuple[Any, ...]:
        cluster = self.cluster
        leader = cluster.nodes.get(cluster.leader or "")
        return "STATUS_RESULT", {
            "node": self.node_id,
            "address": self.address,
            "role": "leader" if leader is self else "follower",
            "term": 1,
            "leader": cluster.leader,
            "leader_address": leader.address if leader else None,
            "applied_index": cluster.state.applied_index,
            "voters": sorted(cluster.nodes),
            "members": [
                {"node": n.node_id, "address": n.address, "state": "up"} for n in cluster.nodes.values()
            ],
            "a field of a later version": 1,
        }


class Muted:
    """An exchange whose answer is lost."""

    def __init__(self, exchange: Exchange) -> None:
        self.message, self.segments = exchange.message, exchange.segments

    def reply(self, message: Message, segments: Sequence[Any] = ()) -> None: ...

    def fail(self, error: McpError) -> None: ...


@dataclass
class Cluster:
    """Stand-in nodes ``n1``.. around one replicated state; ``n1`` leads until it is told otherwise."""

    size: int = 3
    scheme: str = "memory"
    clock: Clock = field(default_factory=SystemClock)
    cluster_id: str = "test"
    directory: Path | None = None
    limits: Limits = DEFAULT_LIMITS
    state_limits: StateLimits = field(default_factory=StateLimits)
    rows_max: int = 0
    """What nodes say of models' rows."""

    def __post_init__(self) -> None:
        self.network = MemoryNetwork()
        self.state = ReplicatedState(self.state_limits)
        self.leader: str | None = "n1"
        self.committed: list[tuple[str, str, int]] = []
        self._change = asyncio.Event()
        self._stack = AsyncExitStack()
        names = [f"n{number + 1}" for number in range(self.size)]
        address = "127.0.0.1:0" if self.scheme == "tcp" else "memory://{}"
        self.nodes = {name: StandIn(self, name, address.format(name)) for name in names}

    async def __aenter__(self) -> Cluster:
        for node in self.nodes.values():
            await node.start()
            self._stack.push_async_callback(node.end)
        for node in self.nodes.values():
            args = {"node": node.node_id, "address": node.address, "incarnation": 1, "providers": []}
            self.commit("member.hello", args)
        self.committed.clear()
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._stack.aclose()

    def client(self, *seeds: str, **settings: Any) -> Client:
        addresses = [self.nodes[name].address for name in (seeds or self.nodes)]
        settings = {"cluster_id": self.cluster_id, "cluster_key": KEY, "clock": self.clock, **settings}
        return Client(addresses, network=self.network, **settings)

    def need_leader(self) -> None:
        if self.leader is None or not self.nodes[self.leader].up:
            raise NoLeader("an election is under way")

    def commit(
        self, op: str, args: dict[str, Any], session: str = "", seq: int = 0, ack: int = 0
    ) -> tuple[int, Any]:
        """Apply a command, as a quorum would have it. Raises its error, with the log index."""
        self.need_leader()
        index = self.state.applied_index + 1
        applied: Applied = self.state.apply(
            encode_command(op, args, session=session, seq=seq, ack=ack),
            index=index,
            position=0,
            term=1,
            time_s=self.clock.wall(),
            seed=0,
        )
        if applied.executed and session:
            self.committed.append((op, session, seq))
        self.notify()
        if applied.error is not None:
            code, message, details = applied.error
            recorded = {"index": index} if applied.executed else {}
            raise from_wire({"code": code, "message": message, "details": {**details, **recorded}})
        return index, applied.value

    def forget_sessions(self) -> None:
        """End every session, as idleness would."""
        for session in list(self.state.sessions):
            self.commit("session.close", {}, session, 1, 1)

    def notify(self) -> None:
        self._change.set()
        self._change = asyncio.Event()

    async def changed(self) -> None:
        """Wait until a request came or something was committed."""
        await self._change.wait()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until something that comes or is committed makes ``condition`` true."""
        while not condition():
            await self.changed()

    def ops(self) -> list[str]:
        """What took effect or gave an error, in order, without the sessions' own."""
        return [op for op, _, _ in self.committed if not op.startswith("session.")]

    def received(self, kind: str) -> int:
        """How many requests of a type, or commands of an operation, all nodes got."""
        return sum(node.types().count(kind) for node in self.nodes.values())


@pytest.fixture
def cluster_of() -> type[Cluster]:
    return Cluster


@pytest.fixture
def fault() -> type[Fault]:
    return Fault


@pytest.fixture
def virtual() -> Callable[..., Any]:
    """``virtual(main, seed=0)`` runs ``main(clock)`` in virtual time."""
    return run_virtual
