"""Standard streams that are closed, and arguments that are no text."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[3]


def started(*command: str, closed: str) -> subprocess.CompletedProcess[bytes]:
    """Run a command of Python's with those of the three streams closed."""
    shell = f'exec "$0" "$@" {closed}'
    arguments = ["sh", "-c", shell, sys.executable, *command]
    return subprocess.run(arguments, cwd=REPOSITORY, capture_output=True, timeout=60, check=False)


def test_what_is_opened_has_no_number_of_a_standard_stream(tmp_path: Path) -> None:
    told = tmp_path / "told"
    look = (
        "import os, sys\n"
        "from mcp.cli import root\n"
        "status = root.run(['--version'])\n"
        "with open(sys.argv[1], 'w') as file:\n"
        "    streams = [os.fstat(number).st_rdev for number in (0, 1, 2)]\n"
        "    file.write(repr((status, file.fileno() > 2, streams)))\n"
    )
    started("-c", look, str(told), closed="<&- >&- 2>&-")
    nothing = os.stat(os.devnull).st_rdev
    assert told.read_text() == repr((0, True, [nothing] * 3))


@pytest.mark.parametrize(
    ("arguments", "closed", "status", "words"),
    [
        (("--version",), ">&-", 0, ""),
        (("limits", "apply", "-"), "<&-", 2, "- says nothing"),
        (("infer", "digits", "--json-input", "-"), "<&-", 2, "- is not JSON"),
    ],
)
def test_a_closed_stream_is_an_empty_one(
    arguments: tuple[str, ...], closed: str, status: int, words: str
) -> None:
    done = started("-m", "mcp", *arguments, closed=closed)
    assert done.returncode == status
    assert words in done.stderr.decode()
    assert "INTERNAL" not in done.stderr.decode()


def test_what_is_no_unicode_is_told_in_json_all_the_same() -> None:
    command = [sys.executable, "-m", "mcp", "limits", "apply", b"no-\xff.json", "--json"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, timeout=60, check=False)
    assert done.returncode == 2
    assert json.loads(done.stdout.decode())["error"]["message"].startswith("no-\udcff.json: ")
