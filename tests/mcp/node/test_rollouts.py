"""Rollouts on whole nodes: a bad version is rolled back by itself, and a good one survives the leader's loss."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mcp.client.client import Client
from mcp.client.exchange import Request
from mcp.client.kinds import CallKind
from mcp.client.traffic import Rollout
from mcp.errors import (
    InvalidArgument,
    McpError,
    ModelNotFound,
    NotFound,
    PermissionDenied,
    VersionConflict,
)
from mcp.node import rollouts
from mcp.node.rollouts import check_begin
from simulations.in_process import InProcessCluster, in_process_cluster
from simulations.nodes import models

MODELS = Path(__file__).parents[2] / "executor" / "models"
GOOD, BAD = (MODELS / f"table_of_{size}.onnx" for size in ("five", "four"))
REQUESTS_MAX = 20_000
AT_ONCE = 16
QUICK: dict[str, Any] = {"interval_s": 0.0, "min_requests": 20, "max_p99_ratio": 1000.0}
"""Other tests run beside these: how long requests take says nothing here."""


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(scenario())  # type: ignore[arg-type]


@asynccontextmanager
async def serving(
    path: Path, size: int, new: Path, **settings: Any
) -> AsyncIterator[tuple[InProcessCluster, Client]]:
    async with in_process_cluster(path, size, **settings) as cluster, cluster.client() as client:
        await client.deploy("table", GOOD, version="1", timeout_s=30)
        await client.deploy("table", new, version="2", activate=False, timeout_s=30)
        assert (await client.infer("table", np.array([4]))).version == "1"
        yield cluster, client


async def rollout_of(client: Client, model: str = "table") -> Rollout:
    (found,) = [each for each in await client.rollouts() if each.model == model]
    return found


class Traffic:
    """Requests for one of five numbers each, some at a time, until there is no more need; what became of them."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.answers: Counter[str] = Counter()
        """By version; those that failed, which only the new one does, under "failed"."""
        self.errors: Counter[str] = Counter()
        self._numbers = itertools.cycle(range(5))

    async def run(self, wanted: Callable[[Rollout], bool]) -> Rollout:
        for _ in range(REQUESTS_MAX // AT_ONCE):
            await asyncio.gather(*(self._one(number) for number in itertools.islice(self._numbers, AT_ONCE)))
            rollout = await rollout_of(self.client)
            if wanted(rollout):
                return rollout
        raise AssertionError(f"{rollout} after {self.answers} and {self.errors}")

    async def _one(self, number: int) -> None:
        try:
            answer = await self.client.infer("table", np.array([number]), timeout_s=10)
        except McpError as error:
            self.answers["failed"] += 1
            self.errors[error.code] += 1
        else:
            self.answers[answer.version] += 1


def test_a_version_that_fails_is_rolled_back_by_itself_before_much_has_hit_it(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path, 3, BAD) as (cluster, client):
            begun = await client.begin_rollout("table", "2", **QUICK)
            assert (begun.step, begun.percent, begun.state) == (0, 2.5, "going")
            traffic = Traffic(client)
            ended = await traffic.run(lambda rollout: not rollout.going)
            assert (ended.state, ended.step) == ("rolled back", 0)
            assert "requests failed, and 0.01 of them may" in ended.reason
            assert traffic.errors == {"INFERENCE_FAILED": traffic.answers["failed"]}
            hit = traffic.answers["failed"] + traffic.answers["2"]
            assert 0 < hit <= 0.05 * traffic.answers.total(), traffic.answers
            # And that is the end of it, on every node.
            assert (await client.routes()).routes == []
            for name in cluster.names:
                async with cluster.client(name) as other:
                    await other.get("nothing", consistency="linearizable")
                    assert (await other.infer("table", np.array([4]))).version == "1"
                    assert (await rollout_of(other)) == ended

    run(scenario)


def test_a_good_version_gets_all_requests_though_the_leader_is_lost_in_the_middle(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path, 3, GOOD) as (cluster, client):
            await client.begin_rollout("table", "2", **QUICK, steps=(10, 50, 100))
            traffic = Traffic(client)
            before = await traffic.run(lambda rollout: rollout.step == 2)
            assert (before.percent, before.state) == (50, "going")
            leader = await cluster.elected()
            await cluster.stop(leader)
            after = await traffic.run(lambda rollout: not rollout.going)
            assert (after.state, after.step, after.percent) == ("done", 3, 100)
            assert traffic.answers["failed"] == 0, traffic.errors
            assert (await client.infer("table", np.array([4]))).version == "2"
            assert (await client.routes()).routes == []
            assert [model.version for model in await client.models()] == ["2"]

    run(scenario)
