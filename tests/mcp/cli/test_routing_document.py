"""docs/routing.md: every mcpctl command on the page, in order, does what the page says."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from mcp.cli import root

REPOSITORY = Path(__file__).resolve().parents[3]
PAGE = (REPOSITORY / "docs" / "routing.md").read_text()
LINES = [line for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()]
COMMANDS = [line for line in LINES if line.startswith("mcpctl ")]
KEY = "a-key-for-tests-0123456789"


def test_every_command_of_the_page_does_what_it_says(
    node_address: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MCP_CONNECT", node_address)
    monkeypatch.setenv("MCP_CLUSTER_KEY", KEY)
    monkeypatch.chdir(REPOSITORY)
    assert len(COMMANDS) > 20
    root.run(["undeploy", "digits"])  # other tests of this node may have left theirs
    for line in COMMANDS:
        command, refused, _ = line.partition("# refused")
        status = root.run(shlex.split(command)[1:])
        assert (status != 0) == bool(refused), (line, capsys.readouterr())
    capsys.readouterr()
    for name in ("digits", "words", "product-service"):
        assert root.run(["undeploy", name]) == 0
