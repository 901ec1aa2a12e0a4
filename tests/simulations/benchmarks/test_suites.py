"""The benchmarks run, in their smallest size: what they report is whole, and what they time is right.

No figure is compared with a bar here: on a busy machine that would say nothing about the code.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path
from subprocess import PIPE
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from executor.onnx import providers_available
from mcp.cli.demo.workload import Write
from simulations.benchmarks import direct, disturbance, failover, in_process, overload
from simulations.benchmarks.__main__ import (
    SUITES,
    Suite,
    benchmarks,
    figures_table,
    run_one,
    tables,
    verdicts,
)
from simulations.benchmarks.cluster import bench, timed_write
from simulations.benchmarks.commit import lone
from simulations.benchmarks.device import suite as device
from simulations.benchmarks.device.runs import Parity
from simulations.benchmarks.disk import measure_syncs
from simulations.benchmarks.echo import echo_process
from simulations.benchmarks.figures import Bar, Figure, Grid, Report, percentile
from simulations.benchmarks.machine import describe, times
from simulations.benchmarks.processor_time import process_s, tree_s
from simulations.benchmarks.progress import Steps
from simulations.benchmarks.scheduling import suite as scheduling
from simulations.benchmarks.scheduling.paced import run_s
from simulations.benchmarks.windows import Window

REPOSITORY = Path(__file__).resolve().parents[3]
SILENT = Steps(quiet=True)
DURATIONS = st.lists(st.floats(1e-7, 10.0), min_size=1, max_size=40)


def check_figures(report: Report, rounds: int) -> None:
    """Every figure is there for every round, positive, and in order."""
    for figure in report.figures:
        assert len(figure.rounds) == rounds, figure
        assert all(math.isfinite(value) and value > 0 for value in figure.rounds), figure
        assert min(figure.rounds) <= figure.median <= max(figure.rounds)
        assert figure.unit == "x" or (figure.p99 is not None and figure.p99 >= min(figure.rounds))
    assert {bar.figure.name for bar in report.bars} <= {figure.name for figure in report.figures}


def test_a_lone_command_is_measured_beside_disk_and_network_in_every_round() -> None:
    report = asyncio.run(lone.measure(lone.Size(rounds=2, samples=3, warm_up=2), SILENT))
    check_figures(report, rounds=2)
    assert report.wrong == []
    assert report.notes["acknowledged"] == 2 + 2 * 3
    command, sync, trip, chain, *ratios = report.figures[:6]
    assert [figure.samples for figure in (command, sync, trip, chain)] == [6, 6, 6, 6]
    for whole, ratio in zip((command, chain), ratios[:2], strict=True):
        expected = [c / (s + t) for c, s, t in zip(whole.rounds, sync.rounds, trip.rounds, strict=True)]
        assert ratio.rounds == pytest.approx(expected)
    *works, share = report.figures[6:]
    cores = os.cpu_count() or 1
    together = [sum(each) / cores for each in zip(*(work.rounds for work in works), strict=True)]
    assert len(works) == 3
    assert share.rounds == pytest.approx(together)


def test_scheduling_offers_all_strategies_the_same_and_compares_every_answer() -> None:
    size = scheduling.Size(rounds=1, seconds=0.4, factors=(1.1,))
    report = asyncio.run(scheduling.measure(size, SILENT))
    assert report.correct, report.wrong
    (table,) = (grid.rows for grid in report.grids)
    assert [row[0] for row in table] == [scheduling.name(each) for each in scheduling.STRATEGIES]
    assert all(isinstance(row[2], float) and row[2] >= 1e3 * run_s(1, 1.0) for row in table)
    # By turns, every node gets its third, however slow it is.
    shares = [row[3] for row in table if row[0] == "round robin"]
    assert isinstance(shares[0], float)
    assert 15 < shares[0] < 50
    assert [bar.at_least for bar in report.bars] == [True, True]


def test_overload_offers_more_than_can_be_done_and_names_what_was_refused_otherwise() -> None:
    report = asyncio.run(overload.measure(overload.Size(rounds=1, seconds=0.3), SILENT))
    if report.missing:
        assert "onnx" in report.missing[0]
        return
    assert report.correct, report.wrong
    assert [row[0] for row in report.grids[0].rows] == ["0.8 x", "1.2 x", "5 x"]
    assert report.figures[0].median > 1
    assert [bar.at_least for bar in report.bars] == [True, False]


def test_a_failure_that_is_no_refusal_is_seen() -> None:
    refused = "ResourceExhausted: as many requests are under way as can be; retry after # s"
    told = {refused: 7, "others": 3, "Unavailable: gone": 1, "ResourceExhausted: too much": 1}
    window = Window(1.0, 1, None, 0.0, failed=told)
    assert overload.unfit(window) == ["others", "Unavailable: gone", "ResourceExhausted: too much"]


def test_direct_compares_every_answer_with_the_model_in_process() -> None:
    report = asyncio.run(direct.measure(direct.Size(rounds=2, samples=4, warm_up=1), SILENT))
    check_figures(report, rounds=2)
    assert report.wrong == []
    native, own, overhead, share = report.figures
    assert native.samples == own.samples == 8
    assert overhead.rounds == pytest.approx([n - o for n, o in zip(native.rounds, own.rounds, strict=True)])
    expected = [n / (2 * o + 500) for n, o in zip(native.rounds, own.rounds, strict=True)]
    assert share.rounds == pytest.approx(expected)


def test_a_device_is_compared_with_the_processor_and_one_that_is_not_there_is_named() -> None:
    small: dict[str, Any] = {"rounds": 1, "seconds": 0.1, "runs": 2, "models": ("digits",), "callers": (1, 4)}
    size = device.Size(**small, batches=(1, 16), device=("cpu",))  # the processor stands in for it
    report = asyncio.run(device.measure(size, SILENT))
    assert (report.wrong, report.missing) == ([], [])
    assert report.notes["compared"] > 4
    assert [len(grid.rows) for grid in report.grids] == [2, 2]
    assert all(cell > 0 for grid in report.grids for row in grid.rows for cell in row[1:])
    if "cuda" not in providers_available():
        (told,) = asyncio.run(device.measure(device.Size(**small), SILENT)).missing
        assert "the device was not measured: providers ['cuda'] are not usable here" in told


def test_an_answer_of_a_device_that_is_too_far_off_is_seen() -> None:
    parity, right = Parity(), {"y": np.array([[1.0, 2.0]], np.float32)}
    parity.compare("near", right, {"y": right["y"] + np.float32(1e-5)})
    assert parity.wrong == []
    parity.compare("far", right, {"y": right["y"] + np.float32(1e-2)})
    assert len(parity.wrong) == 1
    assert parity.compared == 2


def test_failover_kills_a_leader_and_loses_nothing() -> None:
    report = asyncio.run(failover.measure(failover.Size(trials=1), SILENT))
    check_figures(report, rounds=1)
    assert report.wrong == []
    assert report.notes["acknowledged"] > 0


def test_the_command_prints_one_object_with_every_figure() -> None:
    command = [sys.executable, "-m", "simulations.benchmarks", "direct", "--quick", "--json"]
    outcome = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True, timeout=120)
    found = json.loads(outcome.stdout)
    assert found["quick"] is True
    assert found["machine"]["cores"] >= 1
    assert set(found["suites"]) == {"direct"}
    suite = found["suites"]["direct"]
    assert suite["correct"] is True
    assert 0 <= suite["others_share"] <= 1
    assert set(suite["bars"][0]) == {"figure", "unit", "median", "bound", "relation", "met", "why"}
    for figure in suite["figures"].values():
        assert figure["min"] <= figure["median"] <= figure["max"]
        assert len(figure["rounds"]) == direct.QUICK.rounds
    assert outcome.stderr == ""  # there is no terminal to show progress on


def test_the_help_names_every_suite() -> None:
    shown = CliRunner().invoke(benchmarks, ["--help"]).output
    assert all(name in shown and suite.summary in shown for name, suite in SUITES.items())


def test_an_unknown_suite_is_refused_before_anything_starts() -> None:
    outcome = CliRunner().invoke(benchmarks, ["nonesuch"])
    assert outcome.exit_code == 2
    assert "nonesuch" in outcome.output


def test_a_value_that_differs_a_lost_key_and_a_second_write_are_found() -> None:
    async def scenario() -> list[str]:
        async with bench(1) as made:
            writes: list[Write] = []
            for key in ("good", "changed", "twice"):
                await timed_write(made, writes, key, "value")
            await made.client.put("twice", "value")
            writes[1].value = "another"
            writes.append(Write("never", "value", 0.0, acknowledged_at=1.0))
            return await made.wrong(writes)

    found = asyncio.run(scenario())
    assert sorted(line.split(" on ")[0] for line in found) == [
        "another value: changed",
        "applied twice: twice",
        "lost: never",
    ]


def test_an_answer_that_differs_is_seen() -> None:
    expected: dict[str, Any] = {"label": np.array([3]), "probabilities": np.array([[0.25, 0.75]])}
    assert in_process.equal({**expected, "probabilities": np.array([[0.25, 0.75 + 1e-9]])}, expected)
    assert not in_process.equal({**expected, "label": np.array([4])}, expected)
    assert not in_process.equal({"label": expected["label"]}, expected)
    assert not in_process.equal({**expected, "label": np.array([[3]])}, expected)


def test_the_yardsticks_give_as_many_durations_as_were_asked_for(tmp_path: Path) -> None:
    async def trips() -> list[float]:
        async with echo_process() as other:
            return await other.measure(5)

    for durations in (asyncio.run(trips()), measure_syncs(tmp_path, 5)):
        assert len(durations) == 5
        assert all(duration > 0 for duration in durations)
    assert list(tmp_path.iterdir()) == []


@given(DURATIONS, st.floats(0.01, 1.0))
def test_a_percentile_is_the_least_that_enough_do_not_exceed(samples: list[float], share: float) -> None:
    found = percentile(samples, share)
    assert sum(sample <= found for sample in samples) >= share * len(samples)
    lower = [sample for sample in samples if sample < found]
    assert not lower or sum(sample <= max(lower) for sample in samples) < share * len(samples)


@given(st.lists(DURATIONS, min_size=1, max_size=7))
def test_a_figure_lies_between_its_rounds(rounds: list[list[float]]) -> None:
    figure = Figure.of_rounds("x", rounds)
    assert min(figure.rounds) <= figure.median <= max(figure.rounds)
    assert figure.samples == sum(map(len, rounds))
    assert json.loads(json.dumps(figure.to_plain()))["samples"] == figure.samples


def test_a_bar_is_met_below_it_only() -> None:
    figure = Figure.of_ratios("ratio", [1.0, 2.0, 3.0])
    assert Bar(figure, 2.1, "why").met
    assert not Bar(figure, 2.0, "why").met


def test_a_bar_for_more_is_met_at_it_and_above() -> None:
    figure = Figure.of_ratios("ratio", [1.0, 2.0, 3.0])
    assert Bar(figure, 2.0, "why", at_least=True).met
    assert not Bar(figure, 2.1, "why", at_least=True).met
    lines = verdicts(Report("s", [figure], [Bar(figure, 2.1, "a", at_least=True)]))
    assert lines[0].startswith("bar NOT MET: a: 2 x, bound >= 2.1 x")


def test_a_suite_that_is_told_to_stop_stops_what_it_has_started(tmp_path: Path) -> None:
    stopped = False

    async def measure(_steps: Steps, _pictures: Path) -> Report:
        nonlocal stopped
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            await asyncio.wait_for(asyncio.Event().wait(), 10)
            raise AssertionError("it went on")
        finally:
            stopped = True

    with pytest.raises(KeyboardInterrupt):
        run_one(Suite("", 1, measure, measure), SILENT, tmp_path, quick=True)
    assert stopped


def test_only_a_guard_fails_for_a_bar_that_is_not_met() -> None:
    figure = Figure.of_ratios("ratio", [2.0])
    missed, met = Bar(figure, 1.0, "a"), Bar(figure, 3.0, "b")
    assert Report("s", [figure], [missed]).passed
    assert Report("s", [figure], [met], guard=True).passed
    assert not Report("s", [figure], [missed, met], guard=True).passed
    assert not Report("s", [figure], [met], ["lost: k"]).passed


def test_a_grid_is_shown_to_people_and_given_to_programs() -> None:
    grid = Grid("side by side", ("who", "rate#"), (("ours", 12345.678), ("theirs", None)))
    report = Report("s", grids=[grid], missing=["theirs was not measured"])
    assert report.to_plain()["tables"] == {
        "side by side": [{"who": "ours", "rate": 12350.0}, {"who": "theirs", "rate": None}]
    }
    assert [part.row_count for part in tables(report) if part] == [2]
    assert "theirs was not measured" in verdicts(report)


def test_a_report_tells_people_what_was_wrong_and_which_bar_was_missed() -> None:
    slow, fast = Figure.of_trials("slow", [0.7] * 5), Figure.of_trials("fast", [0.1])
    report = Report("s", [slow, fast], [Bar(slow, 600.0, "a"), Bar(fast, 600.0, "b")], ["lost: k"])
    lines = verdicts(report)
    assert lines[0] == "bar NOT MET: a: 700 ms, bound < 600 ms"
    assert lines[1] == "bar met: b: 100 ms, bound < 600 ms (too few rounds to mean anything)"
    assert "lost: k" in lines[-1]
    assert not report.correct
    assert figures_table(report).row_count == 2


def test_figures_from_a_busy_machine_say_so() -> None:
    figure = Figure.of_ratios("ratio", [1.0] * 5)
    busy = Report("s", [figure], [Bar(figure, 5.0, "a")], others_share=0.5)
    quiet = Report("s", [figure], [Bar(figure, 5.0, "a")], others_share=0.01)
    assert any("others used 50%" in line for line in verdicts(busy))
    assert not any("others" in line for line in verdicts(quiet))


def test_a_busy_machine_decides_no_bar_that_it_makes_easier() -> None:
    figure = Figure.of_ratios("ratio", [1.0] * 5)
    easier, harder = Bar(figure, 5.0, "a", needs_quiet=True), Bar(figure, 5.0, "b")
    busy = Report("s", [figure], [easier, harder], others_share=0.5)
    quiet = Report("s", [figure], [easier, harder], others_share=0.05)
    assert [bar["met"] for bar in busy.to_plain()["bars"]] == [None, True]
    assert [bar["met"] for bar in quiet.to_plain()["bars"]] == [True, True]
    assert verdicts(busy)[0].startswith("bar UNDECIDED: a:")
    assert "only a quiet machine says" in verdicts(busy)[0]


def test_what_a_busy_machine_does_not_decide_fails_no_guard() -> None:
    figure = Figure.of_ratios("ratio", [9.0] * 5)
    for needs_quiet, others_share, passed in ((True, 0.5, True), (True, 0.05, False), (False, 0.5, False)):
        bar = Bar(figure, 5.0, "a", needs_quiet=needs_quiet)
        assert Report("s", [figure], [bar], guard=True, others_share=others_share).passed is passed


def test_what_this_process_and_its_children_use_is_not_others() -> None:
    passed, others = times()
    burnt = -sum(os.times()[:4])
    for _ in range(2):
        subprocess.run([sys.executable, "-c", "sum(range(10_000_000))"], check=True)
        sum(range(10_000_000))
    burnt += sum(os.times()[:4])
    passed, others = (now - then for now, then in zip(times(), (passed, others), strict=True))
    ticks_s = 0.1  # the system counts in hundredths of a second, for each core on its own
    assert burnt > ticks_s
    assert others <= passed - burnt + ticks_s


def test_the_processor_time_of_another_process_is_its_own_and_that_of_its_children() -> None:
    code = "import subprocess, sys, time; sum(range(3_000_000)); "
    child = "import time; sum(range(3_000_000)); print(time.process_time(), flush=True); input()"
    parent = f"{code} c = subprocess.Popen([sys.executable, '-c', {child!r}]); c.wait()"
    with subprocess.Popen([sys.executable, "-c", parent], stdin=PIPE, stdout=PIPE, text=True) as process:
        assert process.stdout is not None
        of_child = float(process.stdout.readline())
        alone, together = process_s(process.pid), tree_s(process.pid)
        process.communicate("\n")
    assert together >= alone + of_child
    assert alone > 0


def test_the_machine_is_described(tmp_path: Path) -> None:
    told = describe(tmp_path)
    assert told["cores"] >= 1
    assert told["file_system"] != "unknown"
    assert told["onnxruntime"][0].isdigit()


def test_a_node_is_killed_under_clients_and_every_one_of_them_is_answered() -> None:
    size = disturbance.Size(trials=1, clients=4, after_s=0.3)
    report = asyncio.run(disturbance.measure(size, SILENT))
    check_figures(report, rounds=1)
    assert report.wrong == []
    assert report.notes["answered"] > 8


def test_the_longest_wait_is_of_what_was_not_over_at_the_kill() -> None:
    watch = disturbance.Watch([(0.0, 0.4), (0.5, 0.1), (0.9, 0.3), (1.1, 0.2)])
    assert (watch.longest_before(1.0), watch.longest_after(1.0)) == (0.4, 0.3)
