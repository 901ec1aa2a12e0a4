"""Who is measured, what each needs, and how each is started."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

from mcp.cli.demo.cluster import NodeProcess, free_ports
from mcp.client.client import Client
from mcp.clock import SystemClock
from mcp.errors import Unavailable
from simulations.benchmarks.in_process import InProcess
from simulations.benchmarks.needs import (
    H2LOAD,
    MLSERVER_PYTHON,
    WRK,
    Need,
    lacking,
    mlserver_python,
    modules,
)
from simulations.benchmarks.processor_time import tree_s
from simulations.benchmarks.serving.loaders import H2load, Replay, Wrk
from simulations.benchmarks.serving.mlserver import settings
from simulations.benchmarks.serving.servers import GRPC_PATH
from simulations.benchmarks.serving.subjects import Subject
from simulations.benchmarks.windows import Window
from simulations.benchmarks.workers import Program, Worker, worker

SERVERS: Final = "simulations.benchmarks.serving.servers"
CLIENT: Final = "simulations.benchmarks.serving.client"
REPLAY: Final = "simulations.benchmarks.serving.replay"
_HTTP: Final = modules("uvicorn", "uvloop", "httptools")


@dataclass(frozen=True, slots=True)
class Contender:
    """A server to measure. ``module`` is the program, ``arguments`` come after its model and port."""

    name: str
    protocol: str
    module: str = ""
    arguments: tuple[str, ...] = ()
    needs: tuple[Need, ...] = ()


OURS: Final = "mcp, TCP"
OURS_UNIX: Final = "mcp, Unix socket"
OURS_WATCHFUL: Final = "mcp, TCP, poll_s=0.002"
"""A client that looks for an answer for as long as a run of a millisecond takes, and pays for it."""
WATCHFUL_POLL_S: Final = 0.002
OURS_REPLAYED: Final = "mcp, TCP, bytes replayed"
"""The node without the product's client; see :mod:`simulations.benchmarks.serving.replay`."""
FASTAPI: Final = "FastAPI"
STARLETTE: Final = "Starlette + orjson"
BATCHED: Final = "Starlette + orjson + batching"
GRPC: Final = "grpc.aio"
MLSERVER: Final = "MLServer"
BARE: Final = "bare bytes, no product"
"""What Python at both ends can do at most, one request at a time; see the server."""
PEERS: Final = (
    Contender(BARE, "bare", "bare_bytes"),
    Contender(FASTAPI, "json", "fastapi_json", needs=(*modules("fastapi"), *_HTTP)),
    Contender(STARLETTE, "json", "starlette_orjson", needs=(*modules("starlette", "orjson"), *_HTTP)),
    Contender(
        BATCHED, "json", "starlette_orjson", ("batched",), needs=(*modules("starlette", "orjson"), *_HTTP)
    ),
    Contender(GRPC, "grpc", "grpc_bytes", needs=modules("grpc", "uvloop")),
)


@dataclass(frozen=True, slots=True)
class Running:
    """A server that runs, with its clients."""

    name: str
    pid: int
    client: Worker
    loader: Wrk | H2load | Replay | None

    @property
    def driver(self) -> str:
        """What drives its closed loops."""
        return "Python" if self.loader is None else self.loader.name

    async def closed(self, callers: int, seconds: float) -> Window:
        """A closed loop, from the fastest client that there is for it."""
        before = tree_s(self.pid)
        if self.loader is None:
            window = Window.from_plain(await self.client.order(callers=callers, seconds=seconds))
        else:
            window = await self.loader.window(callers, seconds)
        return replace(window, server_s=tree_s(self.pid) - before)

    async def opened(self, rate: float, seconds: float, seed: int) -> Window:
        """An open loop, from a client in Python."""
        before = tree_s(self.pid)
        plain = await self.client.order(rate=rate, seconds=seconds, seed=seed)
        return Window.from_plain(plain, server_s=tree_s(self.pid) - before)

    async def check(self) -> Window:
        """Every row once."""
        return Window.from_plain(await self.client.order(check=True))


def absent() -> list[str]:
    """What cannot be measured here, or not as well as it could be, and what to install."""
    lacks = [lacking(peer.name, peer.needs) for peer in PEERS]
    if mlserver_python() is None:
        lacks.append(
            f"{MLSERVER} was not measured, for mlserver is not installed: its requirements exclude a current"
            " FastAPI, so give it an environment of its own ('python -m venv DIR', 'DIR/bin/pip install"
            f" mlserver onnxruntime') and set {MLSERVER_PYTHON}=DIR/bin/python"
        )
    for tool, what in ((WRK, "HTTP servers"), (H2LOAD, "grpc.aio")):
        if not tool.met:
            lacks.append(
                f"{what} were driven by a Python client, for {tool.name} is not installed: {tool.how}"
            )
    return [lack for lack in lacks if lack is not None]


@asynccontextmanager
async def contenders(subject: Subject, folder: Path) -> AsyncIterator[tuple[list[Running], list[str]]]:
    """Start everybody that is installed here, with a client for each; and say who did not start."""
    async with AsyncExitStack() as stack:
        found, failed = await _ours(subject, folder, stack), []
        starts = {peer.name: partial(_peer, peer) for peer in PEERS if lacking(peer.name, peer.needs) is None}
        python = mlserver_python()
        if python is not None:
            starts[MLSERVER] = partial(_mlserver, python)
        for name, start in starts.items():
            try:
                found.append(await start(subject, folder, stack))
            except Unavailable as error:
                failed.append(f"{name} was not measured with {subject.name}: {error.message}")
        yield found, failed


async def _ours(subject: Subject, folder: Path, stack: AsyncExitStack) -> list[Running]:
    """One node, which listens on TCP and on a Unix socket."""
    (port,) = _ports(1)
    tcp, local = f"127.0.0.1:{port}", f"unix://{folder}/{subject.name}.sock"
    options = ["--node-id", "n1", "--listen", f"{tcp},{local}", "--stop-on-eof"]
    node = NodeProcess("n1", tcp, [*options, "--data-dir", str(folder / subject.name)], folder / "node.log")
    stack.push_async_callback(node.stop)
    await node.start()
    assert node.pid is not None
    async with Client([tcp]) as client:
        await client.deploy(subject.name, subject.model)
    found = []
    for name, address in ((OURS, tcp), (OURS_UNIX, local), (OURS_WATCHFUL, tcp), (OURS_REPLAYED, tcp)):
        target: dict[str, Any] = {"addresses": [address]}
        if name == OURS_WATCHFUL:
            target["poll_s"] = WATCHFUL_POLL_S
        asker = await _client(name, subject, "native", target, folder, stack)
        loader = None
        if name == OURS_REPLAYED:
            spec = {"subject": subject.save(), "target": tcp}
            loader = Replay(await stack.enter_async_context(worker(name, REPLAY, spec, folder)))
        found.append(Running(name, node.pid, asker, loader))
    return found


async def _peer(peer: Contender, subject: Subject, folder: Path, stack: AsyncExitStack) -> Running:
    (port,) = _ports(1)
    command = [
        sys.executable,
        "-m",
        f"{SERVERS}.{peer.module}",
        str(subject.model),
        str(port),
        *peer.arguments,
    ]
    program = await _program(f"{peer.name} {subject.name}", command, port, folder, stack)
    target: dict[str, Any] = {"host": "127.0.0.1", "port": port}
    loader: Wrk | H2load | None = None
    if peer.protocol == "grpc":
        target |= {"path": GRPC_PATH}
        loader = H2load(subject, target, folder) if H2LOAD.met else None
    elif peer.protocol == "json":
        target |= {"path": "/infer", "dialect": "plain"}
        loader = Wrk(subject, target, folder) if WRK.met else None
    client = await _client(peer.name, subject, peer.protocol, target, folder, stack)
    return Running(peer.name, program.pid, client, loader)


async def _mlserver(python: str, subject: Subject, folder: Path, stack: AsyncExitStack) -> Running:
    http, grpc, metrics = _ports(3)
    place = settings(subject, (http, grpc, metrics), folder)
    command = [python, "-c", "import mlserver.cli; mlserver.cli.main()", "start", str(place)]
    program = await _program(f"{MLSERVER} {subject.name}", command, http, folder, stack)
    target = {
        "host": "127.0.0.1",
        "port": http,
        "path": f"/v2/models/{subject.name}/infer",
        "dialect": "v2",
        "input": InProcess(subject.model).input,
    }
    client = await _client(MLSERVER, subject, "json", target, folder, stack)
    loader = Wrk(subject, target, folder) if WRK.met else None
    return Running(MLSERVER, program.pid, client, loader)


async def _program(
    name: str, command: Sequence[str], port: int, folder: Path, stack: AsyncExitStack
) -> Program:
    program = Program(name, command, folder)
    stack.push_async_callback(program.stop)
    await program.start()
    await program.listening(port)
    return program


async def _client(
    name: str,
    subject: Subject,
    protocol: str,
    target: Mapping[str, Any],
    folder: Path,
    stack: AsyncExitStack,
) -> Worker:
    spec = {"subject": subject.save(), "protocol": protocol, "target": target}
    return await stack.enter_async_context(worker(f"client of {name}", CLIENT, spec, folder))


def _ports(count: int) -> Sequence[int]:
    return free_ports(count, SystemClock().random())
