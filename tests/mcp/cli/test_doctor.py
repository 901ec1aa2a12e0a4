"""The doctor finds what it was made to find, says what to do, and fails only on what stops a node."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mcp.cli import environment, machine
from mcp.cli.environment import import_name, pysyncobj_version, python_version, runtimes, shadowing
from mcp.clock import SystemClock

REPOSITORY = Path(__file__).resolve().parents[3]


def doctor(*arguments: str, cwd: Path = REPOSITORY, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mcp", "doctor", *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), **variables},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.fixture
def taken() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


def test_a_healthy_machine_passes_and_a_taken_port_does_not(taken: str, tmp_path: Path) -> None:
    outcome = doctor("--json", "--listen", taken, "--data-dir", str(tmp_path))
    report = json.loads(outcome.stdout)
    findings = {finding["check"]: finding for finding in report["findings"]}
    failed = [check for check, finding in findings.items() if finding["verdict"] == "fail"]
    assert (outcome.returncode, report["ok"], failed) == (1, False, [f"address {taken}"])
    assert "--listen" in findings[f"address {taken}"]["advice"]
    assert {"Python", "packages", "providers", "disk sync", "disk room", "clock"} <= findings.keys()


def test_the_table_says_what_to_do(taken: str) -> None:
    outcome = doctor("--listen", taken)
    assert outcome.returncode == 1
    assert "-> stop what uses it" in outcome.stdout
    assert "1 to repair" in outcome.stdout
    assert "\x1b" not in outcome.stdout


def test_the_context_protocol_s_sdk_is_named_with_the_way_out(tmp_path: Path) -> None:
    """A real second distribution on the path, as pip would have left it."""
    info = tmp_path / "mcp-1.9.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mcp\nVersion: 1.9.0\n")
    (info / "top_level.txt").write_text("mcp\n")
    (info / "RECORD").write_text("mcp/__init__.py,,\n")
    outcome = doctor("--json", PYTHONPATH=f"{REPOSITORY}{os.pathsep}{tmp_path}")
    finding = next(f for f in json.loads(outcome.stdout)["findings"] if f["check"] == "import name 'mcp'")
    assert finding["verdict"] == "fail"
    assert "mcp (the Model Context Protocol SDK)" in finding["found"]
    assert "virtual environment" in finding["advice"]


def test_only_others_count_as_owners_of_the_name() -> None:
    assert import_name({"mcp": ["message-coordination-protocol"]}).verdict == "ok"
    assert import_name({"mcp": ["Message_Coordination.Protocol"]}).verdict == "ok"
    assert import_name({}).verdict == "ok"
    assert "fastmcp" in import_name({"mcp": ["message-coordination-protocol", "fastmcp"]}).found


def test_a_second_mcp_on_the_path_is_found(tmp_path: Path) -> None:
    own = Path(environment.__file__).resolve()
    assert shadowing(own, [str(REPOSITORY), str(tmp_path)]).verdict == "ok"
    (tmp_path / "mcp").mkdir()
    (tmp_path / "mcp" / "__init__.py").touch()
    found = shadowing(own, [str(REPOSITORY), str(tmp_path)])
    assert found.verdict == "fail"
    assert str(tmp_path) in found.found


def test_a_package_that_was_overwritten_says_so_instead_of_failing_obscurely(tmp_path: Path) -> None:
    """Our ``__main__`` beside a foreign ``mcp.cli``: what pip leaves when the SDK is installed second."""
    (tmp_path / "mcp" / "cli").mkdir(parents=True)
    (tmp_path / "mcp" / "__main__.py").write_text((REPOSITORY / "mcp" / "__main__.py").read_text())
    (tmp_path / "mcp" / "__init__.py").touch()
    (tmp_path / "mcp" / "cli" / "__init__.py").write_text("raise SystemExit('typer is required')")
    outcome = doctor(cwd=tmp_path, PYTHONPATH=str(tmp_path))
    assert outcome.returncode == 1
    assert outcome.stderr.startswith("mcpctl: DEPENDENCY_CONFLICT: ")
    assert "Model Context Protocol SDK" in outcome.stderr
    assert outcome.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("version", "verdict"),
    [
        ("0.3.17", "ok"),
        ("0.3.20", "ok"),
        ("0.3.16", "fail"),
        ("0.4.0", "fail"),
        ("1.0", "fail"),
        (None, "fail"),
    ],
)
def test_only_guarded_versions_of_the_engine_pass(version: str | None, verdict: str) -> None:
    assert pysyncobj_version(version).verdict == verdict


@pytest.mark.parametrize(
    ("installed", "verdict"),
    [
        (["onnxruntime"], "ok"),
        (["onnxruntime-gpu"], "ok"),
        (["onnxruntime", "onnxruntime-gpu"], "fail"),
        ([], "fail"),
    ],
)
def test_exactly_one_onnxruntime_passes(installed: list[str], verdict: str) -> None:
    finding = runtimes(installed)
    assert finding.verdict == verdict
    assert bool(finding.advice) == (verdict == "fail")


def test_an_old_python_is_refused() -> None:
    assert python_version((3, 10, 14)).verdict == "fail"
    assert python_version((3, 11, 0)).verdict == "ok"


def test_a_slow_disk_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class SlowClock(SystemClock):
        now = 0.0

        def monotonic(self) -> float:
            self.now += 0.02
            return self.now

    assert machine.disk_sync(tmp_path, SlowClock()).verdict == "warn"
    assert machine.disk_sync(tmp_path, SystemClock()).verdict in {"ok", "warn"}
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_a_failure(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert machine.disk_sync(tmp_path / "file", SystemClock()).verdict == "fail"


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="this machine has no memory file system")
def test_a_data_directory_in_memory_is_a_warning() -> None:
    assert machine.file_system(Path("/dev/shm")).verdict == "warn"


@pytest.mark.parametrize("address", ["nonsense", "127.0.0.1:99999", "host-that-is-not.invalid:1"])
def test_an_address_that_cannot_be_is_a_failure(address: str) -> None:
    assert machine.address_free(address).verdict == "fail"


def test_a_free_port_is_free_and_stays_free() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        assert machine.address_free(address).verdict == "fail"
    assert machine.address_free(address).verdict == "ok"
    assert machine.address_free(address).verdict == "ok"


def test_a_clock_that_was_never_set_is_a_warning() -> None:
    class UnsetClock(SystemClock):
        def wall(self) -> float:
            return 100.0

    assert machine.clock_sane(UnsetClock()).verdict == "warn"
    assert machine.clock_sane(SystemClock()).verdict == "ok"
