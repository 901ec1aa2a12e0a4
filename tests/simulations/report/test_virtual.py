"""A simulated run, clean or not, becomes a page with its rules, its reasons and its command."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import simulations
from consensus.journal import Journal
from simulations.__main__ import simulations as command
from simulations.checking import causal, exactly_once, fencing, sessions
from simulations.chronicle import Checked, Recording
from simulations.levels import LEVELS, run_seed
from simulations.nodes import cluster, executed, ledger, machine, owner, replacing, rollouts, views, workload
from simulations.report.theories import THEORIES
from simulations.report.virtual import COMES_BACK, checks, virtual_run
from simulations.verdict import EXIT_CODES, Outcome, Verdict


def outcome(verdict: Verdict, reason: str) -> Outcome:
    return Outcome(1, "engine", verdict, reason, "", 9.0, 9.0, 3, {}, {})


def call(*arguments: str) -> Result:
    return CliRunner().invoke(command, list(arguments))


LONG_ENTRIES = 250


@pytest.fixture
def _broken(monkeypatch: pytest.MonkeyPatch) -> None:
    """A journal that has grown long forgets to sync: not every seed comes so far."""
    sync = Journal._sync_file
    monkeypatch.setattr(
        Journal, "_sync_file", lambda self: None if self.next_index > LONG_ENTRIES else sync(self)
    )


def test_every_rule_that_can_be_broken_has_a_theory() -> None:
    root = Path(next(iter(simulations.__path__)))
    sources = [root / "invariants.py", root / "contact.py", *(root / "engine").glob("*.py")]
    rules = {
        rule
        for source in sources
        for rule in re.findall(r'(?:Violation\(\s*|rule, .* = |rule = )"([^"]+)"', source.read_text())
    }
    assert {"election safety", "quorum durability", "nothing goes back", "proposals resolve once"} <= rules
    rules |= {exactly_once.EXACTLY_ONCE, exactly_once.COUNTS, exactly_once.COUNTERS}
    rules |= {fencing.FENCING, fencing.RECORDS, causal.CAUSAL}
    rules |= {*sessions.GUARANTEES, sessions.READS_OF_WRITES, "linearizability"}
    rules |= {cluster.ONE_LEADER, cluster.NO_SPINNING, cluster.DEPLOYED_ON_A_QUORUM, executed.EXECUTED}
    rules |= {ledger.SAME_COMMANDS, ledger.SAME_STATES, ledger.NO_DEFECTS, workload.NO_DEFECTS}
    rules |= {
        workload.CALLS_END,
        workload.RESULTS_ARE_RIGHT,
        workload.DEPLOYS_ARE_SEEN,
        workload.INSTEAD_IS_TOLD,
    }
    rules |= {machine.STOPS_FOR_FAULTS, machine.STARTS_AGAIN}
    rules |= {owner.DECIDE_ALIKE, owner.SHARES_FIT, ledger.GRANTS_FIT}
    rules |= {views.SAME_VIEWS, rollouts.ONE_STATE, replacing.AFTER_THE_TIME}
    assert rules - set(THEORIES) == set()


@pytest.mark.parametrize(("level", "seed", "seconds"), [("engine", 4, 20.0), ("node", 7, 6.0)])
def test_a_clean_run_has_everything_that_its_page_needs(level: str, seed: int, seconds: float) -> None:
    recording = Recording()
    ended = run_seed(LEVELS[level], seed, seconds=seconds, chronicle=recording)
    run = virtual_run(ended, recording, LEVELS[level].nodes(seed), LEVELS[level].plan(seed))
    assert run.verdict == "clean"
    assert (
        run.command
        == f"python -m simulations replay {seed}"
        + ("" if level == "engine" else " --level node")
        + f" --seconds {seconds:g}"
    )
    assert {span.node for span in run.spans} == set(run.nodes)
    assert any(span.state == "leader" for span in run.spans)
    assert {check.status for check in run.checks} == {"ok"}
    assert all(check.theory for check in run.checks)
    assert COMES_BACK in {check.rule for check in run.checks}
    assert run.healed_s == pytest.approx(seconds)
    assert run.calls
    assert all(call.begun_s <= run.ended_s for call in run.calls)


def test_a_broken_rule_is_told_and_the_others_are_not_taken_for_proved() -> None:
    recording = Recording(
        rules=[Checked("log matching", 5), Checked("fencing", 2, "too long"), Checked(COMES_BACK, 0)]
    )
    found = checks(outcome(Verdict.SAFETY, "quorum durability: entry 7: is lost"), recording)
    assert {check.rule: (check.status, check.violations) for check in found} == {
        "log matching": ("ok", ()),
        "fencing": ("inconclusive", ()),
        COMES_BACK: ("not reached", ()),
        "quorum durability": ("violation", ("entry 7: is lost",)),
    }


def test_a_cluster_that_does_not_come_back_has_broken_that_rule() -> None:
    recording = Recording(rules=[Checked(COMES_BACK, 0)])
    (found,) = checks(outcome(Verdict.LIVENESS, "there is no leader"), recording)
    assert (found.status, found.violations) == ("violation", ("there is no leader",))


def test_replay_writes_a_page_and_says_where(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "pages"
    silent = call("replay", "4", "--seconds", "5", "--json")
    told = call("replay", "4", "--seconds", "5", "--json", "--report", str(folder))
    assert told.exit_code == silent.exit_code == 0
    assert told.stdout == silent.stdout
    (page,) = folder.iterdir()
    assert page.name == "engine-4.html"
    assert str(page) in told.stderr
    assert "python -m simulations replay 4 --seconds 5" in page.read_text()


@pytest.mark.usefixtures("_broken")
def test_a_swarm_writes_a_page_of_each_run_that_failed_and_of_no_other(tmp_path: Path) -> None:
    told = call("swarm", "--seeds", "4:9", "--json", "--no-shrink", "--report", str(tmp_path))
    assert told.exit_code == EXIT_CODES[Verdict.SAFETY]
    *runs, _ = map(json.loads, told.stdout.splitlines())
    failed = {f"engine-{run['seed']}.html" for run in runs if run["verdict"] != "clean"}
    assert 0 < len(failed) < len(runs)
    assert {page.name for page in tmp_path.iterdir()} == failed
    text = (tmp_path / min(failed)).read_text()
    assert "SAFETY" in text
    assert "✗ broken" in text


def test_a_folder_that_cannot_be_is_told_by_its_option(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for arguments in (("replay", "4", "--seconds", "1"), ("soak", "--seconds", "1", "--only", "kill")):
        told = call(*arguments, "--report", str(tmp_path / "file" / "pages"))
        assert told.exit_code in (1, 2)
        assert "--report" in told.output
        assert "Traceback" not in told.output
