"""Real processes, by the command line: one joins, one dies and is removed, one loses its disk."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mcp.cli import root
from mcp.cli.exits import UNAVAILABLE

REPOSITORY = Path(__file__).resolve().parents[3]
PATIENCE_S = 90.0


class Processes:
    """Nodes in processes of their own, at free ports of this machine."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        # All at once, or the system may give one of them twice.
        with contextlib.ExitStack() as taken:
            free = {name: taken.enter_context(socket.socket()) for name in ("n1", "n2", "n3", "n4")}
            for one in free.values():
                one.bind(("127.0.0.1", 0))
            self.ports = {name: one.getsockname()[1] for name, one in free.items()}
        self.running: dict[str, subprocess.Popen[str]] = {}

    def address(self, name: str) -> str:
        return f"127.0.0.1:{self.ports[name]}"

    def start(self, name: str, *settings: str) -> None:
        arguments = ["--node-id", name, "--listen", self.address(name), "--data-dir", str(self.folder / name)]
        self.running[name] = subprocess.Popen(
            [sys.executable, "-m", "mcp", "serve", "--stop-on-eof", *arguments, *settings],
            cwd=REPOSITORY,
            env={key: value for key, value in os.environ.items() if not key.startswith("MCP_")},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def kill(self, name: str) -> None:
        process = self.running.pop(name)
        process.kill()
        self._close(process)

    @staticmethod
    def _close(process: subprocess.Popen[str]) -> None:
        for stream in (process.stdin, process.stdout):
            assert stream is not None
            stream.close()
        process.wait(timeout=20)

    def close(self) -> None:
        for process in self.running.values():
            self._close(process)


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    with contextlib.closing(Processes(tmp_path)) as made:
        yield made


def test_a_node_joins_a_dead_one_is_replaced_and_a_lost_disk_is_refilled(
    processes: Processes, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ("n1", "n2", "n3")
    peers = ",".join(f"{name}={processes.address(name)}" for name in names)
    monkeypatch.setenv("MCP_CONNECT", ",".join(processes.address(name) for name in (*names, "n4")))

    def run(*arguments: str) -> tuple[int, Any]:
        status = root.run((*arguments, "--json"))
        return status, json.loads(capsys.readouterr().out)

    def members() -> dict[str, tuple[str, int]]:
        status, found = run("members")
        return {each["node"]: (each["role"], each["journal"]) for each in found} if status == 0 else {}

    def become(*, but_not: tuple[str, int] = ("", 0), **wanted: str) -> None:
        end = time.monotonic() + PATIENCE_S
        while True:
            found = members()
            if {name: role for name, (role, _) in found.items()} == wanted and but_not not in found.values():
                return
            assert time.monotonic() < end, found

    def be_seen(**wanted: str) -> None:
        end = time.monotonic() + PATIENCE_S
        while True:
            _, view = run("nodes")
            if {each["node"]: each["state"] for each in view["nodes"]} == wanted:
                return
            assert time.monotonic() < end, view

    for name in names:
        processes.start(name, "--peers", peers)
    become(n1="voter", n2="voter", n3="voter")
    assert run("put", "key", "value")[0] == 0

    processes.start("n4", "--join", processes.address("n2"), "--observer")
    become(n1="voter", n2="voter", n3="voter", n4="observer")
    end = time.monotonic() + PATIENCE_S
    while (status := run("promote", "n4")[0]) == UNAVAILABLE:  # it has not caught up yet: try again
        assert time.monotonic() < end
    assert status == 0
    become(n1="voter", n2="voter", n3="voter", n4="voter")
    be_seen(n1="alive", n2="alive", n3="alive", n4="alive")

    processes.kill("n3")
    be_seen(n1="alive", n2="alive", n3="dead", n4="alive")
    assert run("remove", "n3")[0] == 0
    become(n1="voter", n2="voter", n3="none", n4="voter")
    status, answer = run("remove", "n3")
    assert (status, answer["error"]["code"]) == (5, "NOT_FOUND")

    before = members()
    processes.kill("n2")
    shutil.rmtree(processes.folder / "n2")
    processes.start("n2", "--peers", peers)
    become(n1="voter", n2="voter", n3="none", n4="voter", but_not=before["n2"])
    processes.kill("n1")
    status, value = run("get", "key", "--linearizable", "--timeout", "20")
    assert (status, value["value"]) == (0, "value")
    assert members()["n4"] == before["n4"]


def test_a_dead_voter_is_replaced_by_itself_and_stays_out(
    processes: Processes, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ("n1", "n2", "n3")
    peers = ",".join(f"{name}={processes.address(name)}" for name in names)
    monkeypatch.setenv("MCP_CONNECT", ",".join(processes.address(name) for name in (*names, "n4")))

    def become(**wanted: str) -> None:
        end, found = time.monotonic() + PATIENCE_S, None
        while found != wanted:
            assert time.monotonic() < end, found
            status = root.run(("members", "--json"))
            told = capsys.readouterr().out
            found = {each["node"]: each["role"] for each in json.loads(told)} if status == 0 else None

    for name in names:
        processes.start(name, "--peers", peers, "--replace-dead-after", "5")
    processes.start("n4", "--join", processes.address("n2"), "--observer", "--replace-dead-after", "5")
    become(n1="voter", n2="voter", n3="voter", n4="observer")
    processes.kill("n3")
    become(n1="voter", n2="voter", n3="none", n4="voter")
    for command in ("members", "nodes", "status"):
        assert root.run((command,)) == 0
        told = capsys.readouterr().out
        assert "n3 was dead: remove n3 by n" in told, command
        assert [line.split()[0] for line in told.splitlines() if " none " in line] in (["n3"], []), command
    processes.start("n3", "--peers", peers, "--replace-dead-after", "5")
    assert root.run(("put", "key", "value")) == 0
    capsys.readouterr()
    become(n1="voter", n2="voter", n3="none", n4="voter")


@pytest.mark.parametrize("stdin", ["/dev/null", "a file"])
def test_a_standard_input_that_nobody_holds_has_ended(tmp_path: Path, stdin: str) -> None:
    (tmp_path / "a file").write_text("text")
    with (tmp_path / stdin).open() as given:
        done = subprocess.run(
            [sys.executable, "-m", "mcp", "serve", "--stop-on-eof", "--listen", "127.0.0.1:0"],
            cwd=tmp_path,
            env={key: value for key, value in os.environ.items() if not key.startswith("MCP_")}
            | {"PYTHONPATH": str(REPOSITORY)},
            stdin=given,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    assert "ready node=" in done.stdout
    assert "neither a pipe nor a terminal" in done.stderr
