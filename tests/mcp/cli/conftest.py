"""A real node in a process of its own, for the tests that talk to one; and no settings from the shell."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[3]
KEY = "a-key-for-tests-0123456789"


def is_ours(variable: str) -> bool:
    """Whether it is a setting of this product, such as the README has a user export."""
    return variable.startswith("MCP_")


@pytest.fixture(autouse=True)
def no_settings_of_this_shell(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in filter(is_ours, list(os.environ)):
        monkeypatch.delenv(variable)


@pytest.fixture(scope="session")
def node_address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a node with the solo engine, which ends when the tests do."""
    folder = tmp_path_factory.mktemp("node")
    (folder / "key").write_text(KEY)
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "mcp", "serve", "--stop-on-eof", "--node-id", "t1"),
            *("--listen", "127.0.0.1:0", "--data-dir", str(folder / "data")),
            *("--cluster-key-file", str(folder / "key")),
        ],
        cwd=REPOSITORY,
        env={name: value for name, value in os.environ.items() if not is_ours(name)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        ready = process.stdout.readline()
        assert ready.startswith("ready node=t1 "), ready
        yield next(word for word in ready.split() if word.startswith("address=")).removeprefix("address=")
    finally:
        process.stdin.close()
        assert process.wait(timeout=20) == 0, "the node did not stop in order when its input ended"
        process.stdout.close()
