"""The pytest plugin: the fixture ``cluster``, its marker and its options.

It imports nothing of the product before a test asks for the fixture. ``docs/testing.md`` has the ten lines.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from simulations.trial.fixture import ClusterFixture, Replay
    from simulations.trial.scenario import Settings

_CLUSTER: pytest.StashKey[ClusterFixture] = pytest.StashKey()
MARKER = (
    "cluster(seeds=10, nodes=None, clients=None, faults=None, seconds=20, pure=True, repeat=True): what the "
    "fixture 'cluster' runs: seeds is how many, 'A:B' or a list; nodes, clients and faults (names) are the "
    "seed's choice unless given; seconds are virtual."
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options of the fixture ``cluster``."""
    group = parser.getgroup("cluster", "clusters under seeded faults (fixture 'cluster')")
    group.addoption("--cluster-seeds", metavar="A:B", help="run these seeds, from A up to but not B")
    group.addoption("--cluster-seed", metavar="N", type=int, help="run this seed only")
    group.addoption(
        "--cluster-seconds", metavar="S", type=float, help="stop the faults after so many virtual seconds"
    )
    group.addoption("--cluster-faults", metavar="I,J", help="only these faults of the seed's plan, or 'none'")


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known, and read the options: what is wrong with them is wrong for every test."""
    config.addinivalue_line("markers", MARKER)
    _replayed(config)
    if (seeds := _seeds(config)) is not None:
        from simulations.trial.scenario import SEEDS_MAX, seeds_of

        option, given = seeds
        try:
            seeds_of(given)
        except ValueError:
            wanted = f"A:B, from A up to but not B, {SEEDS_MAX:,} at most" if option[-1] == "s" else "one"
            raise pytest.UsageError(f"{option}: write {wanted}; seeds are from 0 on") from None


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test for each seed."""
    if "cluster_seed" in metafunc.fixturenames:
        try:
            seeds = _settings(metafunc.definition).seeds
        except pytest.UsageError as error:
            # Of one test among others; what pytest shows of this is the message alone.
            raise pytest.Collector.CollectError(str(error)) from None
        metafunc.parametrize("cluster_seed", seeds, indirect=True, ids=[f"seed={seed}" for seed in seeds])


@pytest.fixture
def cluster_seed(request: pytest.FixtureRequest) -> int:
    """The seed of this test's cluster."""
    seed: int = request.param
    return seed


@pytest.fixture
def cluster(request: pytest.FixtureRequest, cluster_seed: int) -> Iterator[ClusterFixture]:
    """A cluster of whole nodes in virtual time, for an executor of one's own, under the faults of a seed."""
    from simulations.trial.fixture import ClusterFixture

    item = request.node
    settings = _settings(item)
    wanted = settings.repeat and cluster_seed == settings.seeds[0] and "MCP_CLUSTER_REPEAT" not in os.environ
    repeated = (_arguments(item, cluster_seed), Path(item.config.invocation_params.dir)) if wanted else None
    subject = ClusterFixture(cluster_seed, settings, _replay(item.config), repeated)
    item.stash[_CLUSTER] = subject
    yield subject
    if subject.outcome is None and not item.stash.get(_FAILED, False):
        pytest.fail("the test has a cluster and never ran it: call cluster.run()", pytrace=False)


_FAILED: pytest.StashKey[bool] = pytest.StashKey()


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, object, object]:
    """Make a failure small, and tell it as a person reads it."""
    try:
        return (yield)
    except BaseException as error:
        subject = pyfuncitem.stash.get(_CLUSTER, None)
        if subject is None:
            raise
        pyfuncitem.stash[_FAILED] = True
        from simulations.trial.fixture import ClusterFailed

        if not isinstance(error, ClusterFailed):
            raise
        told = _told(pyfuncitem, subject, error)
    # Outside of the handler, so that only this is shown.
    pytest.fail(told, pytrace=False)


def _told(item: pytest.Function, subject: ClusterFixture, failed: Any) -> str:
    from simulations.trial.report import report

    arguments = {name: item.funcargs[name] for name in item._fixtureinfo.argnames}
    small, same = subject.made_small(failed.outcome, lambda: item.obj(**arguments))
    return report(small, _test(item), planned=subject.planned, seconds=subject.seconds, same=same)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Say under which seed a test of its own assertions failed."""
    made = yield
    subject = item.stash.get(_CLUSTER, None)
    if subject is None or call.when != "call" or not made.failed or subject.outcome is None:
        return made
    if "--cluster-seed" not in str(made.longrepr):
        from simulations.trial.report import command

        made.sections.append(("cluster", f"again: {command(subject.outcome, _test(item))}"))
    return made


# -- what a test and the command line say -------------------------------------------------------------------


def _settings(node: pytest.Item) -> Settings:
    from simulations.trial.scenario import Settings

    given: dict[str, Any] = {}
    for marker in reversed(list(node.iter_markers("cluster"))):
        if marker.args:
            raise pytest.UsageError(f"{node.nodeid}: the marker takes names: @pytest.mark.{MARKER}")
        given |= marker.kwargs
    if (seeds := _seeds(node.config)) is not None:
        given["seeds"] = seeds[1]
    try:
        return Settings.of(given)
    except ValueError as error:
        raise pytest.UsageError(f"{node.nodeid}: cluster: {error}") from None


def _seeds(config: pytest.Config) -> tuple[str, object] | None:
    """The option that says which seeds, and which."""
    seed, seeds = config.getoption("cluster_seed"), config.getoption("cluster_seeds")
    if seed is not None:
        return "--cluster-seed", (seed,)
    return None if seeds is None else ("--cluster-seeds", str(seeds))


def _replay(config: pytest.Config) -> Replay:
    from simulations.trial.fixture import Replay

    return Replay(*_replayed(config))


def _replayed(config: pytest.Config) -> tuple[float | None, tuple[int, ...] | None]:
    """For how long, and which faults, where that is not what the seed stands for."""
    seconds, faults = config.getoption("cluster_seconds"), config.getoption("cluster_faults")
    try:
        numbers = None if faults is None else _numbers(faults)
    except ValueError:
        raise pytest.UsageError(f"--cluster-faults {faults}: write 0,4,7, or none") from None
    if seconds is not None and not 0 < seconds <= 3600:
        raise pytest.UsageError(f"--cluster-seconds {seconds:g}: above 0, up to 3600")
    return seconds, numbers


def _numbers(text: str) -> tuple[int, ...]:
    return () if text == "none" else tuple(int(number) for number in text.split(","))


def _test(item: pytest.Item) -> str:
    """The test as one would name it at this folder; without its seed, which an option says."""
    path = os.path.relpath(item.path, item.config.invocation_params.dir)
    name = "::".join(item.nodeid.split("::")[1:])
    seed = item.callspec.id if isinstance(item, pytest.Function) else ""
    return (
        f"{path}::{name.removesuffix(f'[{seed}]') if seed.startswith('seed=') and '-' not in seed else name}"
    )


def _arguments(item: pytest.Item, seed: int) -> Sequence[str]:
    """What starts this test again in a process of its own, without what only the first run is for."""
    config = item.config
    name = "::".join([str(item.path), *item.nodeid.split("::")[1:]])
    arguments = [name, f"--cluster-seed={seed}", "-q", "-o", "addopts=", f"--rootdir={config.rootpath}"]
    arguments.append(f"--import-mode={config.getoption('importmode')}")
    if config.inipath is not None:
        arguments += ["-c", str(config.inipath)]
    for plugin in config.getoption("plugins"):
        arguments += ["-p", plugin]
    if config.pluginmanager.hasplugin("xdist"):
        arguments += ["-n0"]
    return arguments
