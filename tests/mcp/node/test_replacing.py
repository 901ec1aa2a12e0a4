"""Whole nodes of which one is dead for long: a spare takes its place, and where none is, somebody is told."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from mcp.cluster.gossip.updates import State
from mcp.errors import ConfigInvalid
from mcp.node import NodeConfig, config
from mcp.node.config import REPLACE_DEAD_AFTER_S_MAX, REPLACE_DEAD_AFTER_S_MIN
from simulations.in_process import UNTIL_S, InProcessCluster, until
from simulations.in_process import in_process_cluster as nodes

AFTER_S = 2.0
LOOKS = 8


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests wait for no longer than they have to."""
    monkeypatch.setattr(config, "REPLACE_DEAD_AFTER_S_MIN", AFTER_S)


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(scenario())  # type: ignore[arg-type]


async def crash(cluster: InProcessCluster, name: str) -> None:
    """Stop a node that does not say goodbye."""
    parts = cluster.running[name]._parts
    assert parts is not None
    parts.gossiping._core = None
    await cluster.stop(name)


async def voters_are(cluster: InProcessCluster, *names: str) -> None:
    await until(lambda: voters(cluster) == {names})


def voters(cluster: InProcessCluster) -> set[tuple[str, ...]]:
    told = [node.status() for node in cluster.running.values()]
    return {tuple(status["voters"]) for status in told if status["standing"] != "outsider"}


def told(cluster: InProcessCluster, node: str) -> dict[str, Any]:
    found: dict[str, Any] = cluster.running[node].status(with_digest=False)["replacing"]
    return found


def test_a_dead_voter_is_replaced_by_a_spare_and_stays_out_when_it_is_back(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        async with nodes(tmp_path, replace_dead_after_s=AFTER_S) as cluster, cluster.client() as client:
            await client.put("key", 1)
            await cluster.join("n4", "n1", observer=True)
            await until(lambda: cluster.running["n4"].status()["standing"] == "observer")
            leader = await cluster.elected()
            dead, alive = (name for name in cluster.names if name != leader)
            await crash(cluster, dead)
            rest = sorted({leader, alive, "n4"})
            await voters_are(cluster, *rest)
            await until(lambda: len(told(cluster, leader)["steps"]) == 2)
            promoted, removed = told(cluster, leader)["steps"]
            assert (promoted["action"], promoted["node"], promoted["dead"]) == ("promote", "n4", dead)
            assert (removed["action"], removed["node"]) == ("remove", dead)
            assert promoted["index"] < removed["index"]
            status = cluster.running[leader].status()
            assert status["metrics"]["voters_replaced_total"] == 1
            await until(lambda: told(cluster, leader)["dead"] == {})
            assert not told(cluster, leader)["waits_for"]
            term = status["term"]

            await cluster.start(dead)
            await until(lambda: cluster.running[dead].status()["standing"] == "outsider")
            assert voters(cluster) == {tuple(rest)}
            assert cluster.running[leader].status()["term"] == term, "it disturbs nobody"
            await cluster.stop(alive)
            await client.put("key", 2, timeout_s=20)

    with caplog.at_level(logging.WARNING, "mcp.node"):
        run(scenario)
    said = [record.getMessage() for record in caplog.records]
    assert any("takes its place; promote n4" in text for text in said)
    assert sum("done by" in text for text in said) == 2


def test_without_a_spare_nobody_goes_and_it_is_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        async with nodes(tmp_path, replace_dead_after_s=AFTER_S) as cluster:
            leader = await cluster.elected()
            dead, alive = (name for name in cluster.names if name != leader)
            cluster.settings["labels"] = {"spare": "no"}
            await cluster.join("n4", leader, observer=True)
            await crash(cluster, dead)
            await until(lambda: "no spare is there" in told(cluster, leader)["waits_for"])
            await until(lambda: told(cluster, leader)["dead"][dead] >= AFTER_S + 1.0)
            assert voters(cluster) == {("n1", "n2", "n3")}
            async with cluster.client() as client, asyncio.timeout(UNTIL_S):
                said = ""
                while f"mcpctl remove {dead}" not in said:
                    status = await client.status()
                    said = next(node for node in status.nodes if node.node == leader).replacing["waits_for"]
            cluster.settings["labels"] = {}
            await cluster.join("n5", leader, observer=True)
            await voters_are(cluster, *sorted({leader, alive, "n5"}))

    with caplog.at_level(logging.WARNING, "mcp.node"):
        run(scenario)
    assert sum("not replaced: " in record.getMessage() for record in caplog.records) == 1


def test_whom_consensus_hears_is_not_replaced_whatever_gossip_says(tmp_path: Path) -> None:
    """As where its port is blocked for datagrams, and its gossip stands still."""

    async def scenario() -> None:
        async with nodes(tmp_path, replace_dead_after_s=AFTER_S) as cluster:
            await cluster.join("n4", "n1", observer=True)
            await until(lambda: cluster.running["n4"].status()["standing"] == "observer")
            leader = await cluster.elected()
            silent = next(name for name in cluster.names if name != leader)
            parts, its = cluster.running[leader]._parts, cluster.running[silent]._parts
            assert parts is not None
            assert its is not None
            replacing = parts.replacing
            core, its.gossiping._core = its.gossiping._core, None
            watch = replacing._watch
            assert watch is not None
            watch.after_s = AFTER_S / 4
            looks = 0

            def looked() -> bool:
                nonlocal looks
                seen = {member.name: member.state for member in parts.gossiping.members()}
                looks += seen.get(silent) is State.DEAD and watch._looked_s != before[0]
                before[0] = watch._looked_s
                return looks >= LOOKS

            before = [0.0]
            await until(looked)
            assert told(cluster, leader)["dead"][silent] < watch.after_s
            assert not replacing.steps
            assert voters(cluster) == {("n1", "n2", "n3")}
            its.gossiping._core = core

    run(scenario)


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"replace_dead_after_s": 1.0}, "that is 5 s at least, and 1800 s at most"),
        ({"replace_dead_after_s": REPLACE_DEAD_AFTER_S_MAX + 1}, "at most"),
        ({"replace_dead_after_s": 5.0, "election_timeout_max_s": 1.0}, "that is 10 s at least"),
        ({"replace_dead_after_s": 5.0, "engine": "solo", "voters": {}}, "a node alone"),
    ],
)
def test_times_that_make_no_sense_are_refused(
    tmp_path: Path, settings: dict[str, Any], problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(config, "REPLACE_DEAD_AFTER_S_MIN", REPLACE_DEAD_AFTER_S_MIN)
    given = {"voters": {"n1": "127.0.0.1:1", "n2": "127.0.0.1:2"}, **settings}
    with pytest.raises(ConfigInvalid, match=problem):
        NodeConfig("n1", tmp_path, **given)
