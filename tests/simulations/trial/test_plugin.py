"""The pytest plugin as a user meets it: tests in a folder of their own, run by pytest."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

# So that pytest in pytest finds what can be imported but once in a process.
import simulations.trial.fixture  # noqa: F401
from simulations.trial.scenario import KINDS, Settings

pytest_plugins = "pytester"

ROOT = Path(__file__).parents[3]
EXAMPLE = ROOT / "examples" / "executors"
PLUGIN = "simulations.pytest_plugin"

REGISTER = """
import json, pytest
from executor.interface import Command, Result

class Register:
    def __init__(self):
        self.log = []
    def execute(self, command):
        self.log.append(command.data.decode())
        return Result(len(self.log))
    def snapshot(self):
        return json.dumps(self.log).encode()
    def restore(self, snapshot):
        self.log = json.loads(snapshot)

def tried(cluster, make=Register):
    cluster.executors(lambda: {"log": make()})
    @cluster.client
    async def write(client, random):
        await client.execute("log", f"w{random.randrange(1000)}".encode())
    return cluster
"""


def run(pytester: pytest.Pytester, code: str, *arguments: str) -> pytest.RunResult:
    pytester.makepyfile(register=REGISTER, test_it=f"from register import *\n{code}")
    return pytester.runpytest_inprocess("-p", PLUGIN, "-q", *arguments)


def test_the_entry_point_is_named_like_the_module() -> None:
    (found,) = importlib.metadata.entry_points(group="pytest11", name=PLUGIN)
    assert found.value == PLUGIN


def test_the_example_passes_as_it_stands_as_a_user_runs_it(pytester: pytest.Pytester) -> None:
    for path in EXAMPLE.glob("*.py"):
        shutil.copy(path, pytester.path)
    result = pytester.runpytest_subprocess("-p", PLUGIN, "-q", "--cluster-seeds", "0:3")
    result.assert_outcomes(passed=3)


def pytest_as_typed(folder: Path, *arguments: str) -> None:
    """What ``pytest ...`` does in ``folder``: it does not put that on the path, as ``python -m`` does."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    done = subprocess.run(
        [sys.executable, "-P", "-m", "pytest", "-p", "no:cacheprovider", *arguments],
        cwd=folder,
        env=kept | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout


def test_the_example_passes_where_it_stands_with_the_commands_that_are_told() -> None:
    documented = '"""The bank under seeded faults: ten lines. Run it with ``pytest examples/executors``."""'
    assert documented in (EXAMPLE / "test_accounts.py").read_text()
    short = ("--cluster-seeds", "0:1", "--cluster-seconds", "1")
    pytest_as_typed(ROOT, "examples/executors", *short)
    pytest_as_typed(EXAMPLE, "test_accounts.py", *short)


def test_the_commands_that_show_a_failure_again_can_be_typed() -> None:
    told = re.findall(r"again +pytest (.*)", (ROOT / "docs" / "testing.md").read_text())
    assert told
    for line in told:
        pytest_as_typed(EXAMPLE, *shlex.split(line))
    pytest_as_typed(ROOT, *shlex.split(f"{EXAMPLE.relative_to(ROOT)}/{told[0]}"))


def test_the_documented_pytest_is_the_one_that_it_is_tested_with() -> None:
    (documented,) = re.findall(r"pytest, (\d+) or later", (ROOT / "docs" / "testing.md").read_text())
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert f"pytest>={documented}" in extras["test"]


def test_it_costs_nothing_where_it_is_not_used(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import sys
        def test_light():
            heavy = {"numpy", "msgpack", "mcp", "consensus", "executor", "simulations.trial", "click"}
            assert heavy & set(sys.modules) == set()
        """
    )
    pytester.runpytest_subprocess("-p", PLUGIN, "-q").assert_outcomes(passed=1)


def test_every_seed_is_a_test_and_options_choose_them(pytester: pytest.Pytester) -> None:
    code = """
        @pytest.mark.cluster(seeds=3)
        def test_it(cluster, cluster_seed, tmp_path):
            print(f"<{cluster_seed}>")
            assert cluster.seed == cluster_seed
            with pytest.raises(TypeError):
                cluster.run()
            tried(cluster).run(seconds=0.5)
    """
    code = "\n".join(line[8:] for line in code.splitlines())
    pytester.makepyfile(register=REGISTER, test_it=f"from register import *\n{code}")
    for arguments, seeds in (
        ([], ["0", "1", "2"]),
        (["--cluster-seeds", "7:9"], ["7", "8"]),
        (["--cluster-seed", "41"], ["41"]),
    ):
        result = pytester.runpytest_inprocess("-p", PLUGIN, "--collect-only", "-q", *arguments)
        assert re.findall(r"\[seed=(\d+)\]", result.stdout.str()) == seeds


FAILING = """
@pytest.mark.cluster(seeds=2, seconds=8, nodes=3, repeat=False)
def test_it(cluster):
    remembered = []
    tried(cluster)
    @cluster.invariant
    def few(node):
        remembered.append(len(node["log"].log))
        assert len(remembered) == len(set(remembered)) or len(node["log"].log) < 12, "too many"
    cluster.run()
"""


def test_a_failure_tells_the_rule_the_story_and_a_command_that_shows_it_again(
    pytester: pytest.Pytester,
) -> None:
    result = run(pytester, FAILING, "--cluster-seed", "1")
    result.assert_outcomes(failed=1)
    text = result.stdout.str()
    assert re.search(r"cluster, seed 1: few: on n\d, after log, b'w\d+' at \d+\.\d+: too many", text)
    assert re.search(r"too many \(test_it\.py:\d+\)", text)
    assert "Traceback" not in text
    assert "faults   none; 0 of" in text, "no fault is needed for it, and shrinking finds that"
    assert re.search(r"\d s +n1 +starts", text)
    at, last = re.findall(r"on n\d, after log, (b'w\d+' at \d+\.\d+)", text)[0], text.splitlines()
    assert any("verdict" in line and at in line for line in last), "the story says when"
    assert re.search(r"\d s +\d+\.\d+ +log b'w\d+': \d+", text)
    (again,) = set(re.findall(r"again +(pytest .*)", text))  # pytest's summary repeats it where CI is set
    assert again.startswith("pytest test_it.py::test_it --cluster-seed 1 --cluster-seconds ")
    assert again.endswith("--cluster-faults none")
    rerun = pytester.runpytest_inprocess("-p", PLUGIN, *shlex.split(again)[1:])
    rerun.assert_outcomes(failed=1)
    wrong = pytester.runpytest_inprocess("-p", PLUGIN, "--cluster-seed", "1", "--cluster-faults", "999")
    wrong.assert_outcomes(failed=1)
    wrong.stdout.re_match_lines([r"--cluster-faults: seed 1 has no fault 999; they are 0 to \d+"])

    def rule(output: str) -> str:
        return re.findall(r"cluster, seed 1: .*", output)[0]

    assert rule(rerun.stdout.str()) == rule(text)


BROKEN = """
import os, time

class SetOrder(Register):
    def execute(self, command):
        super().execute(command)
        return Result(list({"a", "b", "c", "d", "e"} | set(self.log))[:3])

class Clock(Register):
    def execute(self, command):
        super().execute(command)
        return Result(time.time())

class Forgets(Register):
    def __init__(self):
        super().__init__()
        self.count = 0
    def execute(self, command):
        self.count += 1
        super().execute(command)
        return Result(self.count)

class Raises(Register):
    def execute(self, command):
        return Result(self.nothing)

@pytest.mark.cluster(seeds=1, seconds=4, nodes=3)
@pytest.mark.parametrize("make", [SetOrder, Clock, Forgets, Raises])
def test_it(cluster, make):
    tried(cluster, make).run()
"""


def test_broken_executors_are_found_and_told_for_what_they_are(pytester: pytest.Pytester) -> None:
    result = run(pytester, BROKEN)
    result.assert_outcomes(failed=4)
    text = result.stdout.str()
    told = re.findall(r"^cluster, seed 0: (.*)", text, re.MULTILINE)
    for (rule, detail), line in zip(
        [
            ("executors are deterministic", "in another process, with another hash seed"),
            ("executors are deterministic", r"used time\.time\(\) at test_it\.py:\d+"),
            ("snapshots are the whole state", "leaves something out"),
            ("executors never raise", "AttributeError"),
        ],
        told,
        strict=True,
    ):
        assert line.startswith(rule)
        assert re.search(detail, line)
    # A name that pytest needs in full: the test has other parameters.
    assert "again    pytest 'test_it.py::test_it[seed=0-SetOrder]' --cluster-seed 0" in text


MISUSED = """
def quick(test):
    return pytest.mark.cluster(seeds=1, seconds=2, nodes=1, faults=[], repeat=False)(test)

@quick
def test_never_run(cluster):
    tried(cluster)

@quick
def test_no_executors(cluster):
    cluster.run()

@quick
def test_an_object_instead_of_a_function(cluster):
    cluster.executors({"log": Register()})

@quick
def test_something_else_than_an_executor(cluster):
    cluster.executors(lambda: {"log": object()})

@quick
def test_one_executor_for_all(cluster):
    one = Register()
    tried(cluster, lambda: one).run()

@quick
def test_no_clients(cluster):
    cluster.executors(lambda: {"log": Register()})
    cluster.run()

@quick
def test_a_client_that_is_not_async(cluster):
    @cluster.client
    def write(client, random): ...

@quick
def test_a_client_that_takes_something_else(cluster):
    @cluster.client
    async def write(client): ...

@quick
def test_an_invariant_that_takes_something_else(cluster):
    @cluster.invariant
    def holds(node, other): ...

@quick
def test_a_client_that_does_nothing(cluster):
    cluster.executors(lambda: {"log": Register()})
    @cluster.client
    async def write(client, random): ...
    cluster.run()

@quick
def test_a_name_that_is_wrong(cluster):
    cluster.executors(lambda: {"log": Register()})
    @cluster.client
    async def write(client, random):
        await client.execute("lag", b"")
    cluster.run()

@quick
def test_a_client_that_fails(cluster):
    tried(cluster)
    @cluster.client
    async def look(client, random):
        assert await client.execute("log", b"") == -1, "not so"
    cluster.run()

@quick
def test_run_twice(cluster):
    tried(cluster).run()
    cluster.run()

@quick
def test_its_own_assertion(cluster):
    run = tried(cluster).run()
    assert run.executed == run.calls == len(run.nodes[0]["log"].log)
    assert run.executed == 0
"""


def test_what_a_test_cannot_mean_is_told(pytester: pytest.Pytester) -> None:
    result = run(pytester, MISUSED, "-v")
    text = result.stdout.str()
    result.assert_outcomes(failed=13, passed=1, errors=1)
    for told in (
        "ran it: call cluster.run()",
        "say what is tried first: cluster.executors(",
        "takes a function that makes new executors",
        "'log' is a object without execute, snapshot, restore",
        "was given the executor log a second time",
        "say what clients do first",
        "cluster.client takes an async function",
        "async function (client, random), and write(client) cannot be called so: too many positional",
        "plain function of a node, and holds(node, other) cannot be called so: missing a required argument",
        "no command was executed in 2 virtual seconds: 0 calls",
        "client.execute('lag', ...): the cluster has the executors log",
        r"look, of client c\d: not so \(test_it\.py:\d+\)",
        "runs once in a test",
        r"again: pytest test_it.py::test_its_own_assertion --cluster-seed 0",
    ):
        assert re.search(told if "\\" in told else re.escape(told), text), told


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"sedes": 1}, "sedes: unknown; there are seeds, nodes"),
        ({"seeds": 0}, "seeds=0: how many"),
        ({"seeds": "3:1"}, "seeds='3:1'"),
        ({"seeds": 10**30}, "more than 1,000,000, and each is a test"),
        ({"seeds": range(10**30)}, "more than 1,000,000, and each is a test"),
        ({"seeds": [1, -1]}, "or a list"),
        ({"nodes": 9}, "nodes=9: a number from 1 to 7"),
        ({"faults": "kill"}, "a list of names"),
        ({"faults": ["kill", "duplicate"]}, "duplicate cannot happen here"),
        ({"seconds": 0}, "seconds=0: a number from 0.5"),
    ],
)
def test_a_marker_that_is_wrong_says_what_is_right(given: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=re.escape(told)):
        Settings.of(given)


def test_a_marker_is_read() -> None:
    settings = Settings.of({"seeds": "3:5", "nodes": 5, "faults": ["kill", "kill", "pause"], "seconds": 1})
    assert settings.seeds == (3, 4)
    assert list(map(str, settings.faults or ())) == ["kill", "pause"]
    assert Settings.of({"faults": KINDS}).faults == KINDS


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("nodes=9", "cluster: nodes=9: a number from 1 to 7"),
        ("node=3", "cluster: node: unknown; there are seeds, nodes"),
        ("faults=['kil']", "cluster: faults=['kil']: kil cannot happen here; there are"),
        ("3", "the marker takes names: @pytest.mark.cluster(seeds=10"),
    ],
)
def test_a_wrong_marker_ends_the_collection_with_a_line_that_names_the_test(
    pytester: pytest.Pytester, given: str, told: str
) -> None:
    result = run(pytester, f"@pytest.mark.cluster({given})\ndef test_it(cluster): ...")
    assert result.ret == pytest.ExitCode.INTERRUPTED
    (line,) = [line for line in result.stdout.lines if told in line]
    assert line.startswith(f"test_it.py::test_it: {told}")
    assert "pluggy" not in result.stdout.str()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--cluster-seeds", "5:3"), "ERROR: --cluster-seeds: write A:B, from A up to but not B"),
        (("--cluster-seeds", "0:99999999999999999999"), "ERROR: --cluster-seeds: write A:B, from A up to"),
        (("--cluster-seed=-1",), "ERROR: --cluster-seed: write one; seeds are from 0 on"),
        (("--cluster-faults", "x"), "ERROR: --cluster-faults x: write 0,4,7, or none"),
        (("--cluster-seconds", "nan"), "ERROR: --cluster-seconds nan: above 0, up to 3600"),
    ],
)
def test_a_wrong_option_is_told_of_in_a_line_before_anything_is_collected(
    pytester: pytest.Pytester, arguments: tuple[str, ...], told: str
) -> None:
    pytester.makepyfile(test_it="raise AssertionError('it was collected')")
    result = pytester.runpytest_subprocess("-p", PLUGIN, "-q", *arguments)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    (line,) = [line for line in result.stderr.lines if line]
    assert line.startswith(told)
    assert not any(result.stdout.lines)


def test_another_fixture_of_that_name_is_left_alone(pytester: pytest.Pytester) -> None:
    code = """
@pytest.fixture
def cluster():
    return 17
def test_it(cluster):
    assert cluster == 17
"""
    run(pytester, code).assert_outcomes(passed=1)


def test_faults_that_had_no_effect_make_no_passing_test(pytester: pytest.Pytester) -> None:
    code = """
@pytest.mark.cluster(seeds=1, seconds=2, nodes=3, faults=["bit_flip"], repeat=False)
def test_it(cluster):
    tried(cluster).run()
"""
    # A bit that flips is noticed when the disk is read, and here nothing makes a node start again.
    result = run(pytester, code, "-rs")
    result.assert_outcomes(skipped=1)
    assert "none of the planned faults had an effect" in result.stdout.str()


def test_it_runs_beside_xdist(pytester: pytest.Pytester) -> None:
    code = """
@pytest.mark.cluster(seeds=2, seconds=2, nodes=3, faults=["kill"])
def test_it(cluster):
    tried(cluster).run()
"""
    run(pytester, code, "-p", "xdist", "-n2").assert_outcomes(passed=2)
