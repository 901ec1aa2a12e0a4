"""Nodes as real operating-system processes on loopback, in a folder that is removed afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import shutil
import socket
import sys
import tempfile
from asyncio.subprocess import PIPE, Process
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Final

from mcp.clock import Clock
from mcp.errors import Unavailable

START_TIMEOUT_S: Final = 30.0
STOP_TIMEOUT_S: Final = 3.0
KEY_BYTES: Final = 32
LOG_BYTES_SHOWN: Final = 2000
PORT_ATTEMPTS_MAX: Final = 200
PORT_MIN: Final = 10_000


class NodeProcess:
    """One ``mcpctl serve`` process. The same settings start it again after it was killed."""

    def __init__(self, node: str, address: str, arguments: list[str], log: Path) -> None:
        self.node = node
        self.address = address
        self.program: tuple[str, ...] = ("-m", "mcp", "serve")
        """What the interpreter runs; the node's options follow."""
        self._arguments = arguments
        self._log = log
        self._process: Process | None = None

    @property
    def running(self) -> bool:
        """Whether the process was started and has not ended."""
        return self._process is not None and self._process.returncode is None

    @property
    def pid(self) -> int | None:
        """The number of the process; ``None`` before it is started."""
        return None if self._process is None else self._process.pid

    async def start(self) -> None:
        """Start the process and return when it says that it is ready.

        Raises :class:`~mcp.errors.Unavailable` with the end of its log when it does not.
        """
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                *self.program,
                *self._arguments,
                # The node stops when this pipe closes, so that it cannot outlive a killed demo.
                stdin=PIPE,
                stdout=PIPE,
                stderr=log,
                cwd=self._log.parent,
                env=environment(),
                # Ctrl-C is for the demo, which then stops its nodes itself.
                start_new_session=True,
            )
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                await self._ready_line()
        except TimeoutError:
            raise Unavailable(
                f"node {self.node} was not ready in {START_TIMEOUT_S:.0f} s; {self._last_words()}"
            ) from None

    async def _ready_line(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        line = await self._process.stdout.readline()
        if not line.startswith(b"ready "):
            raise Unavailable(f"node {self.node} ended instead of starting; {self._last_words()}")

    def _last_words(self) -> str:
        text = self._log.read_bytes()[-LOG_BYTES_SHOWN:].decode(errors="replace").strip()
        return f"its last words: {text}" if text else "it logged nothing"

    async def kill(self) -> None:
        """Send SIGKILL, which no process can prepare for, and wait until it is gone."""
        if self._process is not None and self.running:
            self._process.kill()
            await self._process.wait()

    async def stop(self) -> None:
        """Ask it to stop, and kill it when it takes too long."""
        if self._process is None or not self.running:
            return
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()
        try:
            async with asyncio.timeout(STOP_TIMEOUT_S):
                await self._process.wait()
        except TimeoutError:
            await self.kill()


class LocalCluster:
    """Voters on loopback with data directories, a key and logs in one temporary folder.

    ``options`` are further ones of ``mcpctl serve``.
    """

    def __init__(self, node_count: int, clock: Clock, options: Sequence[str] = ()) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="mcpctl-demo-"))
        self.key = clock.entropy(KEY_BYTES).hex().encode()
        key_file = self.folder / "cluster-key"
        key_file.touch(mode=0o600)
        key_file.write_bytes(self.key)
        ports = free_ports(node_count, clock.random())
        addresses = {f"n{i}": f"127.0.0.1:{port}" for i, port in enumerate(ports, start=1)}
        peers = ",".join(f"{node}={address}" for node, address in addresses.items())
        self.nodes = {
            node: NodeProcess(
                node,
                address,
                [
                    *("--node-id", node, "--peers", peers, "--stop-on-eof"),
                    *("--cluster-key-file", str(key_file), "--data-dir", str(self.folder / node)),
                    *options,
                ],
                self.folder / f"{node}.log",
            )
            for node, address in addresses.items()
        }

    @property
    def addresses(self) -> list[str]:
        """Where the nodes listen, running or not."""
        return [node.address for node in self.nodes.values()]

    async def __aenter__(self) -> LocalCluster:
        """Start every node."""
        try:
            await asyncio.gather(*(node.start() for node in self.nodes.values()))
        except BaseException:
            await self._end()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop every node and remove the folder, whatever happened."""
        await self._end()

    async def _end(self) -> None:
        try:
            await asyncio.gather(*(node.stop() for node in self.nodes.values()))
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)


def environment() -> dict[str, str]:
    """Return this process's environment, with nothing in it that would set a node's options.

    The nodes run the very code that runs the demo, from whatever folder either was started.
    """
    own = {name: value for name, value in os.environ.items() if not name.startswith("MCP_")}
    code = str(Path(__file__).resolve().parents[3])
    # onnxruntime 1.32 reports its use to its makers, and leaves a file in the temporary folder for that.
    own.setdefault("ORT_DISABLE_TELEMETRY", "1")
    own["PYTHONPATH"] = os.pathsep.join(filter(None, (code, own.get("PYTHONPATH"))))
    return own


def free_ports(count: int, generator: random.Random) -> list[int]:
    """Return ports of loopback that are free, and that the system gives to no outgoing connection.

    A port of the ephemeral range could be taken by a peer's outgoing connection while its node is down,
    even by one to that very port, and the node could not come back.
    """
    below = ephemeral_ports_begin()
    found: set[int] = set()
    for _ in range(PORT_ATTEMPTS_MAX):
        port = generator.randrange(PORT_MIN, below)
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            found.add(port)
        if len(found) == count:
            return sorted(found)
    raise Unavailable(f"no {count} free ports between {PORT_MIN} and {below} on loopback")


def ephemeral_ports_begin() -> int:
    """Return the first port that the system hands out itself; Linux's default where it cannot be read."""
    try:
        first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return 32_768
    return first if first > PORT_MIN + PORT_ATTEMPTS_MAX else 65_536
