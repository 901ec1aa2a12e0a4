"""Work in several processes, and commands that are told to stop in the middle of it."""

from __future__ import annotations

import contextlib
import json
import math
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from click.testing import CliRunner

from simulations.__main__ import simulations
from simulations.interruption import INTERRUPTED, interrupted, interruptible, interruption_wanted, undisturbed
from simulations.mutants.catalogue import MUTANTS
from simulations.processes import AHEAD_MAX, ONE_GONE, spread
from simulations.progress import APART_S, in_lines
from simulations.swarm import Totals, timed
from simulations.verdict import Outcome, Verdict

ROOT = Path(__file__).resolve().parents[2]
FOR_EVER_S = 1e6
WITHIN_S = 120.0


def test_everything_comes_in_order_and_no_process_is_left() -> None:
    before = set(multiprocessing.active_children())
    count = AHEAD_MAX + 10
    assert list(spread(math.sqrt, (n * n for n in range(count)), 2)) == list(range(count))
    assert set(multiprocessing.active_children()) == before


def test_whoever_stops_listening_does_not_wait_for_what_is_under_way() -> None:
    before = set(multiprocessing.active_children())
    done = spread(time.sleep, [0.0, 0.0, FOR_EVER_S, FOR_EVER_S, FOR_EVER_S], 2)
    next(done)
    next(done)
    assert set(multiprocessing.active_children()) > before
    done.close()
    assert set(multiprocessing.active_children()) == before


def test_what_a_piece_raises_ends_the_others() -> None:
    before = set(multiprocessing.active_children())
    done = spread(time.sleep, [-1.0, FOR_EVER_S, FOR_EVER_S], 2)
    with pytest.raises(ValueError, match="non-negative"):
        next(done)
    assert set(multiprocessing.active_children()) == before


# -- commands ------------------------------------------------------------------------------------------------

SWARM = ("swarm", "--seeds", "0:1000", "--seconds", "604800", "--jobs", "2")
SURVIVORS = [mutant.name for mutant in MUTANTS.values() if mutant.survives is not None][:2]
HUNT = ("mutants", *SURVIVORS, "--seeds", "1000000", "--jobs", "2")


@contextlib.contextmanager
def started(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], list[psutil.Process]]]:
    """A command, in a session of its own, and the two processes that work for it."""
    process = subprocess.Popen(
        [sys.executable, "-m", "simulations", *arguments],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield process, workers_of(process)
    finally:
        process.kill()
        process.communicate()


def workers_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    deadline = time.monotonic() + WITHIN_S
    while time.monotonic() < deadline and process.poll() is None:
        found = []
        for child in psutil.Process(process.pid).children():
            with contextlib.suppress(psutil.NoSuchProcess):
                if "spawn_main" in " ".join(child.cmdline()):
                    found.append(child)
        if len(found) == 2:
            return found
        time.sleep(0.05)
    raise AssertionError(f"no two processes work: {process.communicate()}")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_swarm_that_is_told_to_stop_ends_in_the_middle_of_its_seeds(number: signal.Signals) -> None:
    with started(*SWARM, "--json") as (process, workers):
        process.send_signal(number)
        out, told = process.communicate(timeout=WITHIN_S)
        assert process.returncode == INTERRUPTED
        assert told == "interrupted before the first of 1,000 seeds was done\n"
        totals = json.loads(out)
        assert (totals["runs"], totals["interrupted"]) == (0, True)
        assert psutil.wait_procs(workers, timeout=WITHIN_S)[1] == []


def test_processes_of_a_swarm_that_is_killed_do_not_stay() -> None:
    with started(*SWARM) as (process, workers):
        process.kill()
        assert psutil.wait_procs(workers, timeout=WITHIN_S)[1] == []


def test_a_swarm_one_of_whose_processes_is_killed_ends_with_a_line() -> None:
    with started(*SWARM) as (process, workers):
        workers[0].kill()
        _, told = process.communicate(timeout=WITHIN_S)
        assert process.returncode == 1
        assert told.splitlines()[-1] == f"Error: {ONE_GONE}"
        assert "Traceback" not in told
        assert psutil.wait_procs(workers, timeout=WITHIN_S)[1] == []


def test_mutants_that_are_told_to_stop_end_in_the_middle_of_a_hunt() -> None:
    with started(*HUNT) as (process, workers):
        process.send_signal(signal.SIGTERM)
        _, told = process.communicate(timeout=WITHIN_S)
        assert process.returncode == INTERRUPTED
        assert told == "interrupted before the first of 2 mutants was done\n"
        assert psutil.wait_procs(workers, timeout=WITHIN_S)[1] == []


@pytest.fixture
def _hook(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that was interrupted is to end, and this one goes on."""
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)


@pytest.mark.usefixtures("_hook")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_that_got_lost_comes_again(number: signal.Signals) -> None:
    def work() -> None:
        with interruptible():
            with contextlib.suppress(KeyboardInterrupt):
                signal.raise_signal(number)
            signal.pause()

    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt):
        work()
    assert signal.getsignal(number) == before
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


@pytest.mark.usefixtures("_hook")
def test_an_interruption_waits_for_the_end_of_what_must_not_be_disturbed() -> None:
    seen: list[bool] = []

    def work() -> None:
        with interruptible():
            with undisturbed(), undisturbed():
                seen.append(interruption_wanted())
                signal.raise_signal(signal.SIGTERM)
                seen.append(interruption_wanted())
            seen.append(True)

    with pytest.raises(KeyboardInterrupt):
        work()
    assert seen == [False, True]
    assert not interruption_wanted()


@pytest.mark.usefixtures("_hook")
def test_a_swarm_in_this_process_tells_what_it_has_when_it_is_told_to_stop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def run(_level: object, seed: int, **_more: object) -> Outcome:
        if seed == 2:
            signal.raise_signal(signal.SIGTERM)
        return outcome(seed)

    monkeypatch.setattr("simulations.swarm.run_seed", run)
    result = CliRunner().invoke(simulations, ["swarm", "--seeds", "0:1000"])
    assert result.exit_code == INTERRUPTED
    assert "interrupted after 2 of 1,000 seeds, clean so far" in result.stderr
    assert "2 runs: 2 clean" in result.stdout


# -- how far it is -------------------------------------------------------------------------------------------


def outcome(seed: int, verdict: Verdict = Verdict.CLEAN) -> Outcome:
    return Outcome(seed, "engine", verdict, "", "", 1.0, None, 3, {}, {})


def test_an_interruption_says_how_far_it_came() -> None:
    totals = Totals()
    list(timed([outcome(0), outcome(1)], totals))
    assert interrupted(totals.runs, 1000, "seeds", totals.found) == (
        "interrupted after 2 of 1,000 seeds, clean so far"
    )
    list(timed([outcome(2, Verdict.SAFETY)], totals))
    assert interrupted(totals.runs, 1000, "seeds", totals.found) == (
        "interrupted after 3 of 1,000 seeds, 2 clean, 1 safety so far"
    )


def test_a_swarm_that_takes_long_says_now_and_then_how_far_it_is() -> None:
    totals, said = Totals(), list[str]()
    times = iter([0.0, 1.0, APART_S + 1.0, APART_S + 2.0, 3 * APART_S])
    outcomes = timed(map(outcome, range(4)), totals)
    assert len(list(in_lines(outcomes, totals, 4, said.append, lambda: next(times)))) == 4
    assert said == ["[2/4] clean so far, 16 s", "[4/4] clean so far, 45 s"]
