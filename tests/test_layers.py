"""The house: arrows point down. The contracts are in setup.cfg; import-linter checks them here."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
LINT = (sys.executable, "-c", "from importlinter.cli import lint_imports_command; lint_imports_command()")


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*LINT, "--no-cache", "--config", "setup.cfg"],
        cwd=folder,
        env={"PYTHONPATH": str(folder), "PATH": "", "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_every_contract_of_the_house_is_kept() -> None:
    outcome = lint_imports(REPOSITORY)
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr
    assert "0 broken" in outcome.stdout


def test_an_arrow_that_points_up_is_found(tmp_path: Path) -> None:
    for package in ("mcp", "consensus", "executor", "simulations"):
        if (REPOSITORY / package).is_dir():
            shutil.copytree(
                REPOSITORY / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__")
            )
    shutil.copy(REPOSITORY / "setup.cfg", tmp_path)
    with (tmp_path / "mcp" / "clock.py").open("a") as clock:
        clock.write("\nimport mcp.cli\n")
    outcome = lint_imports(tmp_path)
    assert outcome.returncode == 1
    assert "mcp.clock -> mcp.cli" in outcome.stdout
