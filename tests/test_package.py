"""The package as a user meets it: light to import, whole when installed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
# Each costs more than the whole of the package's own import, or starts something.
HEAVY = ("onnxruntime", "pysyncobj", "asyncio", "ssl", "cryptography", "rich", "psutil", "uvloop")


def modules_after(statement: str) -> set[str]:
    """The names in ``sys.modules`` once a fresh interpreter has run the statement."""
    program = f"{statement}\nimport json, sys\nprint(json.dumps(sorted(sys.modules)))"
    outcome = subprocess.run(
        [sys.executable, "-c", program],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return set(json.loads(outcome.stdout.splitlines()[-1]))


@pytest.mark.parametrize("module", ["mcp", "mcp.errors", "mcp.clock", "mcp.cli", "consensus", "executor"])
def test_importing_a_package_starts_nothing_heavy(module: str) -> None:
    assert modules_after(f"import {module}") & set(HEAVY) == set()


def test_the_measurement_would_notice_a_heavy_import() -> None:
    assert "asyncio" in modules_after("import mcp, asyncio")


def test_using_the_client_needs_neither_engine() -> None:
    assert modules_after("from mcp import Client") & {"onnxruntime", "pysyncobj"} == set()


def test_help_is_answered_without_the_engines() -> None:
    outcome = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "mcp", "--help"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    imported = {line.rsplit("|", 1)[-1].strip() for line in outcome.stderr.splitlines() if "|" in line}
    assert imported & {"onnxruntime", "pysyncobj", "numpy", "asyncio"} == set()
    assert "demo" in outcome.stdout


def test_every_import_package_says_that_it_is_typed() -> None:
    for package in ("mcp", "consensus", "executor"):
        assert (REPOSITORY / package / "py.typed").is_file()
