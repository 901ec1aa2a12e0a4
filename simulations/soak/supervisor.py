"""Real node processes: started, killed, stopped and continued, and all gone at the end.

Every process is reached by the handle that starting it gave, never by a name or a number that could by
now be somebody else's. A node stops by itself when the pipe to its supervisor closes.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final

from mcp.cli.demo.cluster import environment, free_ports
from mcp.clock import Clock
from mcp.errors import Unavailable
from simulations.soak.ailing_disk import used_bytes
from simulations.soak.controls import Controls
from simulations.soak.mesh import CLIENTS, Mesh
from simulations.soak.volume import VOLUMES, Volume

START_TIMEOUT_S: Final = 30.0
STOP_TIMEOUT_S: Final = 5.0
KEY_BYTES: Final = 32
LOG_BYTES_SHOWN: Final = 2000
LOOPBACK: Final = "127.0.0.1"


class NodeProcess:
    """One node's process, or none just now. The same settings start it again."""

    def __init__(
        self, node: str, address: str, command: Sequence[str], log: Path, controls: Controls
    ) -> None:
        self.node = node
        self.address = address
        self.log = log
        self.controls = controls
        self.starts = 0
        self.kills = 0
        self._command = tuple(command)
        self._process: Process | None = None
        self._stops = 0
        self._doomed = False
        self.volume: Volume | None = None

    @property
    def running(self) -> bool:
        """Whether the process was started and has not ended."""
        return self._process is not None and self._process.returncode is None

    @property
    def fell(self) -> bool:
        """Whether the process ended without being told to."""
        ended = self._process is not None and self._process.returncode is not None
        return ended and not self._doomed

    @property
    def paused(self) -> bool:
        """Whether somebody has it stand still."""
        return self._stops > 0

    async def start(self) -> bool:
        """Start the process; whether it became ready. ``False``: it was killed before it was.

        Raises :class:`~mcp.errors.Unavailable` with the end of its log when it ended by itself or hangs.
        """
        self._doomed = False
        self._stops = 0
        with self.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=PIPE,
                stdout=PIPE,
                stderr=log,
                cwd=self.log.parent,
                env=environment(),
                # Ctrl-C is for the supervisor, which then stops its nodes itself.
                start_new_session=True,
            )
        self.starts += 1
        return await self._ready(self._process)

    async def _ready(self, process: Process) -> bool:
        assert process.stdout is not None
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                line = await process.stdout.readline()
                if line.startswith(b"ready "):
                    return True
                await process.wait()
        except TimeoutError:
            raise Unavailable(
                f"node {self.node} was not ready in {START_TIMEOUT_S:.0f} s; {self.last_words()}"
            ) from None
        if self._doomed:
            return False
        raise Unavailable(f"node {self.node} ended instead of starting; {self.last_words()}")

    def last_words(self) -> str:
        """The last line of its log."""
        lines = self.log.read_bytes()[-LOG_BYTES_SHOWN:].decode(errors="replace").split("\n")
        words = [line.strip() for line in lines if line.strip()]
        return f"its last words: {words[-1]}" if words else "it logged nothing"

    async def kill(self) -> bool:
        """Send SIGKILL, which no process can prepare for, and wait until it is gone; whether it ran."""
        process = self._process
        if process is None or process.returncode is not None:
            return False
        self._doomed = True
        self.kills += 1
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        return True

    def pause(self) -> int:
        """Send SIGSTOP; several may: it goes on when all have resumed. 0 when it does not run.

        Otherwise the number to give to :meth:`resume`.
        """
        if not self.running:
            return 0
        self._stops += 1
        if self._stops == 1:
            self._signal(signal.SIGSTOP)
        return self.starts

    def resume(self, pause: int) -> None:
        """Send SIGCONT, if this was the last pause. Nothing happens to a process that was not paused."""
        if pause != self.starts or self._stops == 0:
            return
        self._stops -= 1
        if self._stops == 0:
            self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and self.running:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)

    async def stop(self) -> None:
        """Ask it to stop, and kill it when it takes too long."""
        if self._process is None or not self.running:
            return
        self._doomed = True
        self._signal(signal.SIGTERM)
        # One that stands still does not see that it was asked.
        self._stops = 0
        self._signal(signal.SIGCONT)
        try:
            async with asyncio.timeout(STOP_TIMEOUT_S):
                await self._process.wait()
        except TimeoutError:
            await self.kill()


class Supervisor:
    """``size`` voters on loopback behind a :class:`~simulations.soak.mesh.Mesh`, in ``folder``.

    ``volume_bytes`` gives each node a file system of its own, so large, that can be filled up. ``plain``
    starts ``mcpctl serve`` itself, without controls of its disk and with a log as long as in production;
    otherwise a snapshot is made every ``log_entries`` entries.
    """

    def __init__(
        self,
        size: int,
        folder: Path,
        clock: Clock,
        *,
        seed: int | str = 0,
        plain: bool = False,
        log_entries: int = 0,
        volume_bytes: int = 0,
    ) -> None:
        self.folder = folder
        self._volume_bytes = volume_bytes
        self.key = clock.entropy(KEY_BYTES).hex().encode()
        self._plain = plain
        self._log_entries = log_entries
        names = [f"n{number}" for number in range(1, size + 1)]
        pairs = Mesh.pairs_of(names)
        ports = free_ports(size + len(pairs), clock.random())
        real = {name: f"{LOOPBACK}:{port}" for name, port in zip(names, ports[:size], strict=True)}
        relayed = dict(zip(pairs, ports[size:], strict=True))
        self.mesh = Mesh(real, ports[size:], seed)
        self.addresses = [Mesh.address(relayed[CLIENTS, name]) for name in names]
        """Where clients find the nodes: through the relays."""
        self._key_file = self._write_key()
        self.nodes = {name: self._make_process(name, real, relayed) for name in names}

    def _write_key(self) -> Path:
        file = self.folder / "cluster-key"
        file.touch(mode=0o600)
        file.write_bytes(self.key)
        return file

    def _make_process(
        self, name: str, real: Mapping[str, str], relayed: Mapping[tuple[str, str], int]
    ) -> NodeProcess:
        # Its own entry is where it listens; each of the others is behind a relay of this node's own.
        peers = {
            other: address if other == name else Mesh.address(relayed[name, other])
            for other, address in real.items()
        }
        controls_file = self.folder / f"{name}.controls"
        controls = Controls.create(controls_file)
        serve = ["mcp", "serve"]
        if not self._plain:
            serve = ["simulations.soak.node", str(controls_file), str(self._log_entries)]
        options = [
            *("--node-id", name, "--peers", ",".join(f"{node}={at}" for node, at in peers.items())),
            *("--listen", real[name], "--advertise", Mesh.address(relayed[CLIENTS, name])),
            *("--cluster-key-file", str(self._key_file), "--data-dir", str(self.data_dir(name))),
            "--stop-on-eof",
        ]
        command = [sys.executable, "-m", *serve, *options]
        return NodeProcess(name, real[name], command, self.folder / f"{name}.log", controls)

    def data_dir(self, name: str) -> Path:
        """Where a node keeps its data."""
        return self.folder / VOLUMES / name / "data"

    def used_bytes(self, name: str) -> int:
        """What a node's data take on the disk."""
        return used_bytes(self.data_dir(name))

    async def __aenter__(self) -> Supervisor:
        """Start the relays, then every node. Raises what keeps one from starting."""
        try:
            self._mount()
            await self.mesh.__aenter__()
            await asyncio.gather(*(node.start() for node in self.nodes.values()))
        except BaseException:
            await self._end()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop every node and every relay, whatever happened. The folder stays."""
        await self._end()

    def _mount(self) -> None:
        for name, node in self.nodes.items():
            place = self.data_dir(name).parent
            if self._volume_bytes:
                volume = Volume(place, self._volume_bytes)
                volume.mount()
                node.volume = volume
            self.data_dir(name).mkdir(parents=True)

    async def _end(self) -> None:
        async with contextlib.AsyncExitStack() as stack:
            for node in self.nodes.values():
                stack.callback(node.controls.close)
                if node.volume is not None:
                    stack.callback(node.volume.unmount)
            stack.push_async_exit(self.mesh)
            stack.push_async_callback(self._stop)

    async def _stop(self) -> None:
        await asyncio.gather(*(node.stop() for node in self.nodes.values()))
