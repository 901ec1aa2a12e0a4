"""One short soak of real processes: killed under load, audited, and all of them gone afterwards."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from click.testing import CliRunner

from simulations import checking
from simulations.chronicle import Recording
from simulations.faults import FaultKind
from simulations.interruption import INTERRUPTED
from simulations.report.page import page
from simulations.report.record import Run
from simulations.soak.command import command_line, read_plan
from simulations.soak.command import soak as soak_command
from simulations.soak.inject import Injector
from simulations.soak.mesh import CLIENTS
from simulations.soak.plan import LEADER, LiveFault, LivePlan, PlanInvalid
from simulations.soak.recorded import checks, soak_run
from simulations.soak.report import Report
from simulations.soak.run import Settings, Soak, check_settings, plan_json, soak
from simulations.verdict import EXIT_CODES, Verdict

KILL = {"kind": FaultKind.KILL, "duration_s": 0.3}
PLAN = LivePlan(
    (
        LiveFault(at_s=0.5, nodes=(LEADER,), **KILL),  # type: ignore[arg-type]
        LiveFault(FaultKind.ONE_WAY, 2.0, 0.7, ("n2",), ("n1", "n3", CLIENTS), direction="to"),
        LiveFault(at_s=3.5, nodes=(LEADER,), **KILL),  # type: ignore[arg-type]
        LiveFault(at_s=6.0, nodes=("n1",), **KILL),  # type: ignore[arg-type]
    )
)
SECONDS = 8.0
ROOT = Path(__file__).resolve().parents[3]
WITHIN_S = 120.0


def test_three_kills_lose_nothing_double_nothing_and_leave_nothing_unanswered(tmp_path: Path) -> None:
    seen: list[Soak] = []
    settings = Settings(PLAN, SECONDS, seed=1, log_entries=100)
    recording = Recording()
    report = asyncio.run(soak(settings, tmp_path, seen.append, recording))
    (run,) = seen

    assert report.findings == {}
    assert report.verdict is Verdict.CLEAN
    assert (report.lost, report.doubled, report.unanswered) == (0, 0, 0)
    assert report.fired == {"kill": 3, "one_way": 1}
    assert report.kills == 3
    assert report.snapshots > 0
    assert report.settled_s is not None
    led = [kill for kill in run.injector.kills if kill.led]
    assert len(report.failovers) == len(led) >= 1
    assert all(failover.seconds is not None for failover in report.failovers)

    rules = {verdict.rule: verdict for verdict in report.checkers}
    assert {"linearizability", "read your writes", "monotonic reads", "one recorded result"} <= set(rules)
    assert all(verdict.ok and verdict.checked for verdict in rules.values())
    sorts = report.operations
    assert all(sorts[sort]["ok"] for sort in ("put", "get (linearizable)", "submit (durable)", "infer"))

    kept = checking.History.load((tmp_path / "history.jsonl").open())
    assert [str(operation) for operation in kept] == [str(operation) for operation in run.record.history]
    plain = json.loads((tmp_path / "report.json").read_text())
    assert plain["verdict"] == "clean"
    assert plain["kills"]["total"] == 3
    assert read_plan(tmp_path / "plan.json", seed=0, seconds=1.0, nodes=3) == PLAN

    has_all_that_a_page_needs(soak_run(run, recording))

    below = str(tmp_path)
    left = [p.pid for p in psutil.process_iter(["cmdline"]) if below in " ".join(p.info["cmdline"] or ())]
    assert left == []
    assert below not in Path("/proc/mounts").read_text() if Path("/proc/mounts").exists() else True


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_of_a_soak_that_is_interrupted_there_is_a_page_as_well(
    tmp_path: Path, number: signal.Signals
) -> None:
    kept, pages = tmp_path / "kept", tmp_path / "pages"
    command = [sys.executable, "-m", "simulations", "soak", "--only", "kill", "--nodes", "1"]
    command += ["--seconds", "600", "--keep", str(kept), "--report", str(pages)]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, start_new_session=True)
    try:
        history = kept / "history.jsonl"
        deadline = time.monotonic() + WITHIN_S
        while not (history.exists() and history.stat().st_size):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(number)
        _, told = process.communicate(timeout=WITHIN_S)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == INTERRUPTED
    assert told.splitlines()[-1] == "interrupted; every node is stopped"
    shown = (pages / "soak-1.html").read_text()
    assert "the history was not checked" in shown
    assert "the healed cluster settles" in shown
    report = json.loads((kept / "report.json").read_text())
    assert report["verdict"] == "void"
    assert report["operations"]["put"]["ok"]


def test_what_was_not_judged_is_not_called_well() -> None:
    report = Report(1, 60.0, 3, "", LivePlan())
    run: Any = SimpleNamespace(report=report)
    assert {check.status for check in checks(run)} == {"not reached"}
    assert len(checks(run)) == 5


def has_all_that_a_page_needs(run: Run) -> None:
    assert (run.verdict, run.reasons, run.real) == ("clean", (), True)
    (cut,) = (fault for fault in run.faults if fault.kind == "one_way")
    assert 2 <= cut.begun_s < cut.ended_s
    assert sorted(fault.kind for fault in run.faults) == ["kill", "kill", "kill", "one_way"]
    downs = [span for span in run.spans if span.state == "down"]
    assert len(downs) == 3
    for span in downs:
        # As long as it was held down, and then until it was ready; in the lane of the node that was killed.
        assert span.ended_s - span.begun_s >= 0.3
        assert any(f.nodes == (span.node,) and f.begun_s <= span.begun_s <= f.ended_s for f in run.faults)
    assert len({span.term for span in run.spans if span.state == "leader"}) >= 2
    assert {commit.node for commit in run.commits} == set(run.nodes)
    assert run.healed_s is not None
    assert SECONDS <= run.healed_s <= run.ended_s
    assert all(0 <= span.begun_s < span.ended_s <= run.ended_s for span in run.spans)
    assert all(0 <= call.begun_s <= run.ended_s for call in run.calls)
    assert {check.status for check in run.checks} == {"ok"}
    assert all(check.theory and check.checked for check in run.checks)
    assert {"every node holds the same", "every call comes back in time"} <= {c.rule for c in run.checks}
    assert len(run.failovers) >= 1
    assert "3 real nodes" in page(run)


def test_nobody_waits_for_faults_for_which_there_is_no_time() -> None:
    async def scenario() -> int:
        supervisor: Any = SimpleNamespace(nodes={"n1": None, "n2": None, "n3": None})
        plan = LivePlan(tuple(LiveFault(at_s=at, nodes=("n1",), **KILL) for at in (1.0, 100.0, 1000.0)))  # type: ignore[arg-type]
        watch: Any = SimpleNamespace(leader=lambda: None)
        injector = Injector(supervisor, watch, plan, lambda: 20.0, seconds=20.0)
        await asyncio.wait_for(injector.run(), 30.0)
        return injector.skipped

    assert asyncio.run(scenario()) == 3


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (Settings(PLAN, 5.0), "kill begins after 6 s and the run ends after 5 s"),
        (Settings(PLAN, 9.0, nodes=1), "there is no 'n2'"),
        (
            Settings(LivePlan((LiveFault(FaultKind.SLOW_SYNC, 0.0, 1.0, ("n1",)),)), 9.0, plain=True),
            "slow_sync: a plain node's disk and clock cannot be made ill",
        ),
    ],
)
def test_a_plan_that_cannot_be_run_so_is_refused_before_anything_starts(
    settings: Settings, told: str, tmp_path: Path
) -> None:
    with pytest.raises(PlanInvalid, match=told):
        check_settings(settings, tmp_path)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--only", "duplicate"], "duplicate: not on real processes: TCP never delivers a byte twice"),
        (["--only", "explode"], "there is no fault 'explode'"),
        (["--nodes", "9"], "9 is not in the range 1<=x<=7"),
        (["--plan", "/nowhere"], "does not exist"),
        (["--plain", "--log-entries", "5"], "--log-entries: a plain node has its log as in production"),
        (["--plan", __file__, "--only", "kill"], "--only is for faults from the seed: --plan says by itself"),
        (["--only", "kill,blackout", "--keep-quorum"], "--only blackout: it takes all nodes"),
        (["--only", "kill,partition", "--nodes", "1"], "--only partition: it happens between nodes"),
        (["--only", "kill,disk_loss", "--nodes", "2"], "--only disk_loss: a quorum has to outlive it"),
    ],
)
def test_calls_that_are_wrong_end_with_2(arguments: list[str], told: str) -> None:
    outcome = CliRunner().invoke(soak_command, arguments)
    assert outcome.exit_code == 2
    assert told in " ".join(outcome.output.replace("│", " ").split())


def test_a_plan_that_is_refused_names_its_field_and_ends_with_2(tmp_path: Path) -> None:
    file = tmp_path / "plan.yaml"
    file.write_text("apiVersion: chaos-mesh.org/v1alpha1\nkind: DNSChaos\n")
    outcome = CliRunner().invoke(soak_command, ["--plan", str(file)])
    assert outcome.exit_code == 2
    assert "kind: DNSChaos: nodes are found by address" in outcome.output


@pytest.mark.parametrize(
    ("written", "told"),
    [
        ('{"faults": 5}', "faults: a list is expected, not 5"),
        ('{"faults": [5]}', "fault 1: a mapping of fields is expected, not 5"),
        ("[" * 5000, "this is not YAML"),
        ('{"faults": [' * 5000, "this is not YAML"),
    ],
)
def test_a_plan_that_makes_no_sense_is_told_of_in_a_line(tmp_path: Path, written: str, told: str) -> None:
    file = tmp_path / "plan.json"
    file.write_text(written)
    outcome = CliRunner().invoke(soak_command, ["--plan", str(file)])
    assert outcome.exit_code == 2
    assert outcome.output.splitlines()[-1].startswith(f"Error: {told}")


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="no such device here")
def test_of_a_plan_that_never_ends_no_more_is_read_than_is_allowed() -> None:
    with pytest.raises(PlanInvalid, match="/dev/zero is longer than 1048576 bytes"):
        read_plan(Path("/dev/zero"), seed=0, seconds=1.0, nodes=3)


def test_a_folder_that_is_not_empty_is_not_written_into(tmp_path: Path) -> None:
    (tmp_path / "precious").touch()
    outcome = CliRunner().invoke(soak_command, ["--keep", str(tmp_path), "--only", "kill"])
    assert outcome.exit_code == 2
    assert [path.name for path in tmp_path.iterdir()] == ["precious"]


def test_a_machine_that_does_not_start_processes_is_told_of_in_a_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "gone"))
    outcome = CliRunner().invoke(soak_command, ["--keep", str(tmp_path / "kept"), "--only", "kill"])
    assert outcome.exit_code == EXIT_CODES[Verdict.CRASH]
    assert "this machine does not let the soak run" in outcome.output
    assert isinstance(outcome.exception, SystemExit)


def test_a_kept_plan_is_read_again(tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text(plan_json(PLAN))
    assert read_plan(tmp_path / "plan.json", seed=5, seconds=1.0, nodes=3) == PLAN


def test_the_command_is_told_as_it_can_be_typed() -> None:
    assert command_line(["soak", "--keep", "a b"]) == "python -m simulations soak --keep 'a b'"
    assert command_line(["--seed", "1"]) == "python -m simulations soak --seed 1"


def test_every_verdict_has_a_status_of_its_own() -> None:
    assert len({EXIT_CODES[verdict] for verdict in Verdict}) == len(Verdict)
    assert EXIT_CODES[Verdict.CLEAN] == 0
