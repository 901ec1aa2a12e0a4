"""The demo itself, with real processes: it keeps its promises, and leaves nothing behind however it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

REPOSITORY = Path(__file__).resolve().parents[4]
KEYS = {
    *("nodes", "model", "requests", "answered", "accuracy", "acknowledged", "lost", "duplicated"),
    *("failover_ms", "p50_ms", "p99_ms", "states_equal"),
}


@pytest.fixture(autouse=True)
def _can_be_interrupted() -> Iterator[None]:
    """A shell makes what it runs in the background ignore SIGINT, and that is inherited."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def demo(scratch: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "mcp", "demo", *arguments],
        cwd=REPOSITORY,
        env={**os.environ, "TMPDIR": str(scratch)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_nothing_is_lost_when_the_leader_is_killed(tmp_path: Path) -> None:
    with demo(tmp_path, "--json") as process:
        out, err = process.communicate(timeout=120)
    report = json.loads(out)
    assert (process.returncode, err, report["failures"]) == (0, "", [])
    assert report.keys() >= KEYS
    assert (report["nodes"], report["model"]) == (3, "digits")
    assert report["answered"] == report["requests"] == 899
    assert report["direct"] > report["durable"] > report["replicated"] >= 20
    assert report["accuracy"] >= 0.97
    assert (report["lost"], report["duplicated"], report["differing"]) == (0, 0, 0)
    assert report["acknowledged"] > report["durable"] + report["replicated"]
    assert report["compared"] >= 2 * report["replicated"]
    assert report["states_equal"] is True
    assert report["killed"] != report["successor"]
    assert report["failover_ms"] > 0
    assert 0 < report["p50_ms"] <= report["p99_ms"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_no_node_outlives_a_demo_that_was_interrupted(tmp_path: Path, number: signal.Signals) -> None:
    with demo(tmp_path) as process:
        assert process.stderr is not None
        story = ""
        while "are up" not in story:
            line = process.stderr.readline()
            assert line, story
            story += line
        nodes = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(number)
        out, err = process.communicate(timeout=30)
    assert len(nodes) >= 3
    _, alive = psutil.wait_procs(nodes, timeout=20)
    assert alive == []
    assert out == ""
    assert "Traceback" not in err
    if number != signal.SIGKILL:
        assert process.returncode == 130
        assert list(tmp_path.iterdir()) == []
