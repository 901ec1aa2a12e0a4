"""The suites that compare run, in their smallest size: whoever is installed is asked and answers rightly.

Who is not installed is named, with what to install. No figure is judged here.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from simulations.benchmarks import guard, rivals_failover
from simulations.benchmarks.boundary import suite as boundary
from simulations.benchmarks.cluster import bench
from simulations.benchmarks.commit import lone
from simulations.benchmarks.commit import parties as commit_parties
from simulations.benchmarks.commit import suite as commit
from simulations.benchmarks.commit.callers import PREFIX
from simulations.benchmarks.etcd import ETCD_NEEDS
from simulations.benchmarks.needs import MLSERVER_PYTHON, lacking
from simulations.benchmarks.progress import Steps
from simulations.benchmarks.scale import memory, nodes
from simulations.benchmarks.scale import suite as scale
from simulations.benchmarks.serving import contenders
from simulations.benchmarks.serving import suite as serving
from simulations.benchmarks.workers import worker

SILENT = Steps(quiet=True)
OURS = {contenders.OURS, contenders.OURS_UNIX, contenders.OURS_WATCHFUL, contenders.OURS_REPLAYED}
EVERYBODY = {*OURS, contenders.MLSERVER, *(p.name for p in contenders.PEERS)}


def rows(report: Any, title: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = report.to_plain()["tables"][title]
    return found


def test_serving_asks_everybody_who_is_there_and_names_who_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(MLSERVER_PYTHON, "/nowhere/python")
    size = serving.Size(
        rounds=1, seconds=0.2, warm_up_s=0.05, subjects=("digits",), callers=(1, 3), shares=(0.5,)
    )
    report = asyncio.run(serving.measure(size, SILENT))
    assert report.wrong == []
    closed = rows(report, "Closed loops: each caller asks again when it has its answer")
    measured = {row["server"] for row in closed if row["callers"]}
    named = {name for name in EVERYBODY if any(line.startswith(f"{name} was not") for line in report.missing)}
    assert measured | named == EVERYBODY
    assert measured & named == set()
    assert measured >= OURS
    assert all(row["failed"] == 0 and row["answers/s"] > 0 for row in closed if row["callers"])
    assert len(report.details) == 2 * len(measured) + 2
    rivals = measured & {contenders.FASTAPI, contenders.GRPC}
    opened = rows(report, "Open loops: times from when a request was due")
    assert {row["server"] for row in opened} == (rivals | {contenders.OURS} if rivals else set())


def test_commit_loads_everybody_and_finds_every_write_again() -> None:
    size = commit.Size(lone.Size(1, 2, 2), rounds=1, seconds=0.1, callers=(1, 4), sizes=(20,))
    report = asyncio.run(commit.measure(size, SILENT))
    assert report.wrong == []
    found = rows(report, "Durable commands, three members")
    measured = {row["who"] for row in found}
    in_one_call = {
        name + commit_parties.IN_ONE_CALL for name in (commit_parties.OURS, commit_parties.OURS_EMBEDDED)
    }
    assert in_one_call < measured
    measured -= in_one_call
    assert len(found) == len(measured) * 2 + len(in_one_call)
    assert all(row["failed"] == 0 and row["commands/s"] > 0 for row in found)
    expected = {commit_parties.OURS, commit_parties.OURS_EMBEDDED, *commit_parties.SYNCOBJ.values()}
    if commit_parties.absent() is None:
        expected.add(commit_parties.ETCD)
    else:
        assert any("etcd" in line for line in report.missing)
    assert measured == expected


def test_a_write_that_the_callers_did_not_make_is_found() -> None:
    async def scenario() -> list[str]:
        async with bench(1) as made:
            spec = {"kind": "mcp", "addresses": made.cluster.addresses, "key": made.cluster.key.decode()}
            async with worker("callers", commit_parties.CALLERS, spec, made.cluster.folder) as callers:
                party = commit_parties.Party(callers, lambda: 0.0)
                await party.load(2, 60.0, 20, requests_max=6)
                assert await party.wrong() == []
                await made.client.put(f"{PREFIX}0001", "another")
                return await party.wrong()

    assert asyncio.run(scenario()) == [f"{PREFIX}0001 was written 4 times, acknowledged 3, in doubt 0"]


def test_the_failover_of_rivals_is_measured_where_they_are_installed() -> None:
    found, missing = asyncio.run(rivals_failover.measure(1, SILENT))
    assert all(len(trials) == 1 and trials[0] > 0 for trials in found.values())
    assert any(name.startswith("PySyncObj") for name in found)
    assert any(name.startswith("etcd") for name in found) == (lacking("etcd", ETCD_NEEDS) is None)
    assert bool(missing) == (lacking("etcd", ETCD_NEEDS) is not None)


def test_scale_measures_more_nodes_more_state_and_the_way_back() -> None:
    size = scale.Size(
        nodes.Size(rounds=1, seconds=0.1, nodes=(1, 2), commands_at_once=4, requests_at_once=2),
        memory.Size(commands=200, sessions=3, models=2),
        logs=(150,),
    )
    report = asyncio.run(scale.measure(size, SILENT))
    assert report.wrong == []
    grown = rows(report, "As the cluster grows")
    assert [row["nodes"] for row in grown] == [1, 2] * 3
    recovered = rows(report, "Killed and started again, one node")
    assert [row["commands written"] for row in recovered] == [150]
    assert all(0 < row["ready s"] <= row["first write acknowledged s"] for row in recovered)
    assert any("too few" in line for line in report.missing)


def test_memory_counts_from_the_first_compaction_on() -> None:
    made = memory.Results()
    for commands, resident, compacted in (
        (1, 50.0, False),
        (2, 100.0, True),
        (3, 95.0, True),
        (4, 120.0, True),
    ):
        made.points.append(memory.Point(commands, resident, compacted))
    assert made.growth == pytest.approx(1.2)
    made.points = made.points[:2]
    assert made.growth is None


def test_boundary_raises_the_load_and_draws_it(tmp_path: Path) -> None:
    size = boundary.Size(first=50.0, factor=1.5, steps_max=2, seconds=0.3, beyond=0)
    report = asyncio.run(boundary.measure(size, SILENT, tmp_path))
    assert report.wrong == []
    for kind in (boundary.INFERENCES, boundary.COMMANDS):
        assert 1 <= len(rows(report, kind)) <= 2
    drawn = list(tmp_path.glob("*.png"))
    assert [str(path) for path in drawn] == report.notes["pictures"]
    assert bool(drawn) != any("picture" in line for line in report.missing)


def test_the_guard_measures_everything_that_it_has_a_bound_for() -> None:
    report = asyncio.run(guard.measure(guard.Size(rounds=1, seconds=0.2), SILENT))
    assert report.wrong == []
    assert {figure.name for figure in report.figures} == set(guard.MEASURED)
    assert all(figure.median > 0 for figure in report.figures)
