"""Lines of the log as JSON: one object each, whatever is in it, with the node's position and the trace."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mcp.cli.logs import JsonLines
from mcp.client.tracing import traced

REPOSITORY = Path(__file__).resolve().parents[3]


def line(
    lines: JsonLines, message: str, *arguments: Any, error: BaseException | None = None
) -> dict[str, Any]:
    info = None if error is None else (type(error), error, error.__traceback__)
    record = logging.LogRecord("mcp.node", logging.WARNING, __file__, 1, message, arguments, info)
    record.created = 1_700_000_000.25
    written = lines.format(record)
    assert "\n" not in written
    told: dict[str, Any] = json.loads(written)
    return told


def test_a_line_has_what_is_known_when_it_is_written() -> None:
    lines = JsonLines()
    assert line(lines, "%s is %d", "this", 7) == {
        "time": "2023-11-14T22:13:20.250Z",
        "level": "warning",
        "logger": "mcp.node",
        "message": "this is 7",
    }
    lines.node, lines.position = "n1", lambda: (3, 42)
    with traced("0af7"):
        told = line(lines, 'a "line"\nbreak\x00 ä')
    assert (told["node"], told["term"], told["log_position"], told["trace_id"]) == ("n1", 3, 42, "0af7")
    assert told["message"] == 'a "line"\nbreak\x00 ä'
    assert "trace_id" not in line(lines, "after it")


def test_an_error_comes_with_its_traceback() -> None:
    with pytest.raises(ValueError, match="x") as error:
        raise ValueError("x")
    told = line(JsonLines(), "failed", error=error.value)
    assert told["error"].startswith("Traceback")
    assert told["error"].endswith("ValueError: x")


def test_a_node_writes_them(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "mcp", "serve", "--stop-on-eof", "--node-id", "t1"),
            *("--listen", "127.0.0.1:0", "--data-dir", str(tmp_path / "data"), "--log-format", "json"),
        ],
        cwd=REPOSITORY,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline().startswith("ready node=t1")
    _, errors = process.communicate(timeout=60)
    told = [json.loads(each) for each in errors.splitlines()]
    assert {each["node"] for each in told} == {"t1"}
    assert any(each["term"] == 1 and "are in force from log position" in each["message"] for each in told)
    positions = [each["log_position"] for each in told]
    assert positions == sorted(positions)
    assert positions[-1] > 0
