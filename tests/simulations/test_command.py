"""``python -m simulations``: what it prints, what it exits with, and how failing runs are made small."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from consensus.journal import Journal
from simulations.__main__ import simulations
from simulations.levels import LEVELS, run_seed
from simulations.shrink import minimal, shrink
from simulations.verdict import EXIT_CODES, Outcome, Verdict


def call(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(simulations, list(arguments))
    return result.exit_code, result.output


@pytest.fixture
def _broken(monkeypatch: pytest.MonkeyPatch) -> None:
    """The journal forgets to sync."""
    monkeypatch.setattr(Journal, "_sync_file", lambda _self: None)


def test_a_swarm_prints_one_object_per_run_and_the_totals() -> None:
    code, output = call("swarm", "--seeds", "3:5", "--seconds", "20", "--json")
    *runs, totals = [json.loads(line) for line in output.splitlines()]
    assert code == 0
    assert [run["seed"] for run in runs] == [3, 4]
    for run in runs:
        assert run["verdict"] == "clean"
        assert len(run["trace_hash"]) == 16
        assert run["virtual_seconds"] > 20
        assert isinstance(run["faults"], dict)
    assert totals["runs"] == 2
    assert totals["verdicts"] == {"clean": 2}
    assert totals["virtual_seconds"] == pytest.approx(sum(run["virtual_seconds"] for run in runs), abs=0.01)
    assert set(totals["never_fired"]).isdisjoint(totals["faults"])


def test_a_swarm_in_which_nothing_went_wrong_for_anybody_has_no_empty_table(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    void = Outcome(3, "engine", Verdict.VOID, "no fault fired", "", 1.0, None, 3, {}, {})
    monkeypatch.setattr("simulations.swarm.run_seed", lambda *_, **__: void)
    code, output = call("swarm", "--seeds", "3")
    assert code == EXIT_CODES[Verdict.VOID]
    assert "No fault had an effect." in output
    assert "in runs" not in output


def test_two_processes_give_what_one_gives() -> None:
    arguments = ("swarm", "--seeds", "3:7", "--seconds", "3", "--json")
    alone, together = call(*arguments), call(*arguments, "--jobs", "2")
    assert alone[1].splitlines()[:4] == together[1].splitlines()[:4]


def test_replay_tells_the_story() -> None:
    code, output = call("replay", "4", "--seconds", "5")
    assert code == 0
    assert re.search(r"leader in term \d", output)
    assert "everything is healed" in output
    assert "seed 4: clean" in output


@pytest.mark.usefixtures("_broken")
def test_a_failing_run_comes_small_with_the_command_that_shows_it_again() -> None:
    code, output = call("swarm", "--seeds", "4", "--json")
    run, totals = [json.loads(line) for line in output.splitlines()]
    assert code == EXIT_CODES[Verdict.SAFETY]
    assert totals["failed_seeds"] == [4]
    assert run["verdict"] == "safety"
    assert run["virtual_seconds"] < 60
    words = run["command"].split()
    assert words[:4] == ["python", "-m", "simulations", "replay"]
    assert "--faults" in words
    again = CliRunner().invoke(simulations, words[3:])
    assert again.exit_code == EXIT_CODES[Verdict.SAFETY]
    assert run["reason"] in again.output


@pytest.mark.usefixtures("_broken")
def test_shrinking_never_changes_what_failed() -> None:
    failing = run_seed(LEVELS["engine"], 4)
    small = shrink(LEVELS["engine"], failing, runs_max=5)
    assert small.verdict is failing.verdict
    assert small.reason.split(":")[0] == failing.reason.split(":")[0]
    assert small.virtual_seconds <= failing.virtual_seconds + 0.1


@pytest.mark.parametrize("needed", [[], [3], [0, 9], [2, 3, 7]])
def test_what_is_needed_is_all_that_is_left(needed: list[int]) -> None:
    assert minimal(list(range(10)), lambda some: set(needed) <= set(some)) == needed


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("swarm", "--seeds", "9:3"), "has no seeds"),
        (("swarm", "--seeds", "x"), "not a range of seeds"),
        (("swarm",), "--seeds"),
        (("replay", "1", "--faults", "a"), "no fault numbers"),
        (("replay", "4", "--faults", "0,999"), "seed 4 has no fault 999 at level engine; they are 0 to "),
        (("replay", "4", "--faults", "-1"), "no fault -1"),
        (("replay", "1", "--level", "cloud"), "cloud"),
        (("swarm", "--seeds", "0:99999999999999999999999"), "has more than 1,000,000,000 seeds"),
        (("swarm", "--seeds", "9" * 5000), "is not a range of seeds"),
    ],
)
def test_a_wrong_call_says_what_is_wrong(arguments: tuple[str, ...], complaint: str) -> None:
    code, output = call(*arguments)
    assert code == 2
    assert complaint in output


@pytest.mark.parametrize("command", [("soak",), ("swarm", "--seeds", "3"), ("replay", "3")])
@pytest.mark.parametrize("seconds", ["nan", "inf", "-inf", "1e308", "0", "604801", "a while"])
def test_a_time_that_never_ends_is_no_number_of_seconds(command: tuple[str, ...], seconds: str) -> None:
    code, output = call(*command, "--seconds", seconds)
    assert code == 2
    assert re.search(f"'?{seconds}'? is not from [0-9.]+ to 604,800 seconds", output)


@pytest.mark.parametrize(
    "command",
    [
        ("soak", "--keep"),
        ("soak", "--report"),
        ("swarm", "--seeds", "3", "--report"),
        ("replay", "3", "--report"),
    ],
)
def test_a_folder_that_takes_no_files_is_refused_before_anything_runs(
    command: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for runs in ("__main__.run_seed", "swarm.run_seed", "soak.command.run_soak"):
        monkeypatch.setattr(f"simulations.{runs}", lambda *_, **__: pytest.fail("it ran"))
    (tmp_path / "file").touch()
    for folder in ("/proc/x", str(tmp_path / "file" / "below")):
        code, output = call(*command, folder)
        assert code == 2, output
        *_, told = output.splitlines()
        assert told.startswith(
            f"Error: Invalid value for '{command[-1]}': {folder}: nothing can be written there: "
        )


@pytest.mark.parametrize("command", ["swarm", "replay"])
def test_help_has_examples_and_exit_codes(command: str) -> None:
    code, output = call(command, "--help")
    assert code == 0
    assert re.search(f"python -m simulations {command} .*--level node --report pages", output)
    for verdict, number in EXIT_CODES.items():
        assert f"{number}  " in output, verdict


def test_the_help_of_all_has_an_example_of_each_command_and_names_the_benchmarks() -> None:
    code, output = call("--help")
    assert code == 0
    for command in ("swarm", "replay", "soak", "mutants"):
        assert f"python -m simulations {command} " in output
    assert "python -m simulations.benchmarks" in output
