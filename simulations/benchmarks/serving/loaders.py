"""Programs in C that drive a server harder than a Python client can: wrk for HTTP/1.1, h2load for gRPC."""

from __future__ import annotations

import asyncio
import json
import resource
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from mcp.errors import Unavailable
from simulations.benchmarks.serving.clients.http import bodies
from simulations.benchmarks.serving.subjects import Subject
from simulations.benchmarks.windows import Latency, Window
from simulations.benchmarks.workers import Worker

WITHIN_S: Final = 60.0
_LUA: Final = """
local requests, number = {}, 0
init = function()
  for body in io.lines("%s") do
    requests[#requests + 1] = wrk.format("POST", "%s", {["Content-Type"] = "application/json"}, body)
  end
end
request = function()
  number = number %% #requests + 1
  return requests[number]
end
done = function(summary, latency)
  local e = summary.errors
  io.write(string.format(
    '\\n{"us":%%d,"done":%%d,"status":%%d,"socket":%%d,"latency":[%%f,%%f,%%f,%%f,%%f,%%f]}\\n',
    summary.duration, summary.requests, e.status, e.connect + e.read + e.write + e.timeout,
    latency:percentile(10), latency:percentile(50), latency:percentile(90), latency:percentile(99),
    latency:percentile(99.9), latency.max))
end
"""


class Wrk:
    """wrk, which posts the rows in turn, with a connection for each caller, from one thread."""

    name = "wrk"

    def __init__(self, subject: Subject, target: Mapping[str, Any], folder: Path) -> None:
        self._url = f"http://{target['host']}:{target['port']}"
        rows = folder / f"{subject.name}-{target['dialect']}.jsonl"
        rows.write_bytes(b"\n".join(bodies(subject, target)) + b"\n")
        self._script = folder / f"{subject.name}-{target['port']}.lua"
        self._script.write_text(_LUA % (rows, target["path"]))

    async def window(self, callers: int, seconds: float) -> Window:
        """A closed loop; wrk's seconds are whole, so they are rounded up."""
        command = ["wrk", "-t1", f"-c{callers}", f"-d{-(-seconds // 1):.0f}s", "--timeout", "10s"]
        out, spent = await run([*command, "-s", str(self._script), self._url])
        return wrk_window(out, spent)


def wrk_window(out: str, client_s: float) -> Window:
    """What wrk's script said in its last line."""
    told = json.loads(out.strip().splitlines()[-1])
    failed = {"another status than 2xx": told["status"], "socket errors": told["socket"]}
    latency = Latency(*(each / 1e6 for each in told["latency"])) if told["done"] else None
    done = told["done"] - told["status"]
    return Window(
        told["us"] / 1e6, done, latency, client_s, failed={why: n for why, n in failed.items() if n}
    )


class H2load:
    """h2load, which sends one row as a gRPC message on one connection with a stream for each caller."""

    name = "h2load"

    def __init__(self, subject: Subject, target: Mapping[str, Any], folder: Path) -> None:
        self._url = f"http://{target['host']}:{target['port']}{target['path']}"
        self._log = folder / f"{subject.name}-h2load.log"
        self._message = folder / f"{subject.name}-message"
        body = subject.rows[0].tobytes()
        self._message.write_bytes(b"\0" + len(body).to_bytes(4, "big") + body)

    async def window(self, callers: int, seconds: float) -> Window:
        """A closed loop."""
        self._log.unlink(missing_ok=True)
        command = [
            "h2load",
            "-t1",
            "-c1",
            f"-m{callers}",
            f"-D{-(-seconds // 1):.0f}",
            "-d",
            str(self._message),
        ]
        command += ["-H", "content-type: application/grpc", "-H", "te: trailers"]
        out, spent = await run([*command, f"--log-file={self._log}", self._url])
        if not self._log.exists():
            raise Unavailable(f"h2load wrote no log: {out[-200:]}")
        return h2load_window(self._log.read_text(), spent)


def h2load_window(log: str, client_s: float) -> Window:
    """What a log of h2load says: per line, when a request began (us), its status, and its time (us)."""
    lines = [tuple(map(int, line.split("\t"))) for line in log.splitlines()]
    good = [(begun, took) for begun, status, took in lines if status == 200]
    ends = [begun + took for begun, took in good]
    seconds = (max(ends) - min(begun for begun, _ in good)) / 1e6 if good else 1.0
    failed = {"another status than 200": len(lines) - len(good)} if len(lines) > len(good) else {}
    return Window(seconds, len(good), Latency.of([took / 1e6 for _, took in good]), client_s, failed=failed)


class Replay:
    """A worker of ours that does to a node what those do to the others."""

    name = "replayed bytes"

    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    async def window(self, callers: int, seconds: float) -> Window:
        """A closed loop."""
        return Window.from_plain(await self._worker.order(callers=callers, seconds=seconds))


async def run(command: Sequence[str]) -> tuple[str, float]:
    """Run a program; its output and its processor seconds. Nothing else that we started may end meanwhile."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    begun = time.monotonic()
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    try:
        async with asyncio.timeout(WITHIN_S):
            out, _ = await process.communicate()
    except TimeoutError:
        process.kill()
        await process.wait()
        raise Unavailable(f"{command[0]} did not end in {time.monotonic() - begun:.0f} s") from None
    if process.returncode:
        raise Unavailable(f"{command[0]} failed: {out.decode(errors='replace')[-300:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return out.decode(), after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
