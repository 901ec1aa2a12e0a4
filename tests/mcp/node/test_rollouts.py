"""Rollouts on whole nodes: a bad version is rolled back by itself, a good one survives the leader's loss."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import re
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mcp.client.client import Client
from mcp.client.exchange import Request
from mcp.client.kinds import CallKind
from mcp.client.traffic import Rollout
from mcp.cluster.rollout.figures import Figures
from mcp.errors import (
    Cancelled,
    CircuitOpen,
    DeadlineExceeded,
    InferenceFailed,
    InputInvalid,
    InvalidArgument,
    McpError,
    ModelNotFound,
    ModelNotReady,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    Unavailable,
    VersionConflict,
)
from mcp.net.exchange import Exchange
from mcp.node import rollouts
from mcp.node.rollouts import Counting
from simulations.in_process import InProcessCluster, in_process_cluster, until

MODELS = Path(__file__).parents[2] / "executor" / "models"
GOOD, BAD = (MODELS / f"table_of_{size}.onnx" for size in ("five", "four"))
REQUESTS_MAX = 20_000
AT_ONCE = 16
SESSIONS = 400
"""Which of them a share has is the same in every run: 8 have the trial's, spread over their turns."""
FIRST = 100
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
    """Requests for one of five numbers each, of many sessions in turn, and what became of them."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.answers: Counter[str] = Counter()
        """By version; those that failed, which only the new one does, under "failed"."""
        self.errors: Counter[str] = Counter()
        self._places = itertools.count()

    async def run(self, wanted: Callable[[Rollout], bool]) -> Rollout:
        for _ in range(REQUESTS_MAX // AT_ONCE):
            await asyncio.gather(*(self._one(place) for place in itertools.islice(self._places, AT_ONCE)))
            rollout = await rollout_of(self.client)
            if wanted(rollout):
                return rollout
        raise AssertionError(f"{rollout} after {self.answers} and {self.errors}")

    async def _one(self, place: int) -> None:
        session, number = f"user-{(place + FIRST) % SESSIONS}", (place + place // SESSIONS) % 5
        try:
            answer = await self.client.infer("table", np.array([number]), session=session, timeout_s=10)
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
            assert "requests failed, and 1 % may" in ended.reason
            assert traffic.errors == {"INFERENCE_FAILED": traffic.answers["failed"]}
            hit = traffic.answers["failed"] + traffic.answers["2"]
            assert 0 < hit <= 0.05 * traffic.answers.total(), traffic.answers
            (look,) = looks(cluster)
            assert (look["ended"], look["action"], look["version"]) == (True, "roll_back", begun.version)
            assert ended.reason.startswith(look["reason"])
            assert look["new"]["failures"] > 0
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


@pytest.mark.parametrize(
    ("new", "state", "reason"), [(BAD, "rolled back", "requests failed"), (GOOD, "done", "")]
)
def test_streams_count_too_and_lead_a_version_to_its_end(
    tmp_path: Path, new: Path, state: str, reason: str
) -> None:
    async def scenario() -> None:
        async with serving(tmp_path, 3, new) as (_, client):
            await client.begin_rollout("table", "2", **QUICK)

            async def stream(place: int) -> None:
                inputs = {"index": np.array([place % 5])}
                taken = client.stream(
                    "table", inputs, carry={}, steps=2, session=f"user-{place}", timeout_s=10
                )
                with contextlib.suppress(InferenceFailed):
                    assert len([step async for step in taken]) == 2

            places = itertools.count()
            while (found := await rollout_of(client)).going:
                await asyncio.gather(*(stream(place) for place in itertools.islice(places, AT_ONCE)))
                assert next(places) < REQUESTS_MAX
            assert found.state == state
            assert reason in found.reason

    run(scenario)


@pytest.mark.parametrize("strategy", [None, "round_robin"])
def test_what_names_its_version_is_not_counted(tmp_path: Path, strategy: str | None) -> None:
    """A strategy has the router look at every request, also at one that leaves it nothing to decide."""

    async def scenario() -> None:
        async with serving(tmp_path, 1, GOOD) as (cluster, client):
            if strategy is not None:
                await client.set_strategy("table", strategy)
            await client.begin_rollout("table", "2", **QUICK)
            counting = cluster.running["n1"]._running().counting
            for name, counted in (("table@2", 0), ("table@1", 0), ("table", 1)):
                steps = client.stream(name, {"index": np.array([4])}, carry={}, steps=1)
                assert len([step async for step in steps]) == 1
                await client.infer(name, np.array([4]))
                (tally,) = counting.tallies().values()
                assert tally.new.requests + tally.old.requests == 2 * counted

    run(scenario)


# -- what it waits for, and who is left out -----------------------------------------------------------------


def looks(cluster: InProcessCluster) -> list[dict[str, Any]]:
    return [look for node in cluster.running.values() for look in node.status()["rollouts"]]


def test_without_traffic_it_waits_and_says_so_until_somebody_aborts_it(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path, 1, GOOD) as (cluster, client):
            begun = await client.begin_rollout("table", "2", **QUICK)
            await until(lambda: bool(looks(cluster)))
            (look,) = looks(cluster)
            expected = {
                "model": "table",
                "from": "1",
                "to": "2",
                "step": 0,
                "percent": 2.5,
                "version": begun.version,
                "action": "wait",
                "reason": "no requests yet: it waits for traffic",
                "for_requests": True,
                "new": {"requests": 0, "failures": 0, "p99_s": 0.0},
                "old": look["old"],
                "left_out": [],
                "ended": False,
            }
            assert look == expected
            with pytest.raises(VersionConflict):
                await client.abort_rollout("table", expected_version=begun.version + 1)
            ended = await client.abort_rollout("table", expected_version=begun.version)
            assert (ended.state, ended.reason) == ("aborted", "somebody aborted it")
            assert (await client.routes()).routes == []
            # What was seen of it last stays with the node that led, until the model's next one begins.
            assert looks(cluster) == [{**expected, "ended": True}]
            await until(lambda: not cluster.running["n1"]._running().rollouts.looks)
            assert looks(cluster) == [{**expected, "ended": True}]
            again = await client.begin_rollout("table", "2", **QUICK)
            await until(
                lambda: [(e["version"], e["ended"]) for e in looks(cluster)] == [(again.version, False)]
            )

    run(scenario)


def test_of_rollouts_that_have_ended_only_so_many_looks_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rollouts, "ENDED_MAX", 1)

    async def scenario() -> None:
        async with serving(tmp_path, 1, GOOD) as (cluster, client):
            await client.deploy("other", GOOD, version="1", timeout_s=30)
            await client.deploy("other", GOOD, version="2", activate=False, timeout_s=30)
            for model in ("table", "other"):
                await client.begin_rollout(model, "2", **QUICK)
                await until(lambda: any(not look["ended"] for look in looks(cluster)))
                await client.abort_rollout(model)
                await until(lambda: not cluster.running["n1"]._running().rollouts.looks)
            assert [look["model"] for look in looks(cluster)] == ["other"]

    run(scenario)


def counted(look: Mapping[str, Any]) -> int:
    """How many requests of the new version a look has seen, of one that waits for more."""
    found = re.match(r"(\d+) of min_requests=", look["reason"])
    return int(found[1]) if found else 0


def test_a_member_that_does_not_answer_is_left_out_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = Counting.answer
    mute: Counting | None = None

    def silent(self: Counting, exchange: Exchange) -> None:
        if self is not mute:
            answer(self, exchange)

    monkeypatch.setattr(Counting, "answer", silent)
    monkeypatch.setattr(rollouts, "FIGURES_TIMEOUT_S", 0.05)

    async def scenario() -> None:
        nonlocal mute
        async with serving(tmp_path, 3, GOOD) as (cluster, client):

            def is_left_out() -> bool:
                nonlocal mute
                # Looked for anew each time: whoever leads asks the others, and that may change.
                name = next(each for each in cluster.names if each != cluster.leader())
                mute = cluster.running[name]._running().counting
                return any(name in look["left_out"] for look in looks(cluster))

            await cluster.elected()
            assert not is_left_out()
            await client.begin_rollout("table", "2", **{**QUICK, "min_requests": 100_000})
            traffic = Traffic(client)
            for _ in range(20):
                await asyncio.gather(*(traffic._one(place) for place in range(20, 36)))
            await until(is_left_out)
            mute = None
            monkeypatch.setattr(rollouts, "FIGURES_TIMEOUT_S", 5.0)
            # With those that the mute one had answered; one that was repeated counts twice.
            await until(lambda: any(not look["left_out"] and counted(look) >= 20 for look in looks(cluster)))

    run(scenario)


def test_figures_are_for_nodes_and_begin_with_each_step(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path, 1, GOOD) as (cluster, client):
            request = Request(CallKind.READ, "ROLLOUT_FIGURES", {})
            with pytest.raises(PermissionDenied, match="what nodes ask one another"):
                await client._call(request, None)
            await client.begin_rollout("table", "2", **{**QUICK, "interval_s": 3600.0})
            counting = cluster.running["n1"]._running().counting
            await Traffic(client).run(lambda rollout: rollout.step == 1)
            tally = counting.tallies()["table"]
            assert tally.new.requests < 20
            assert tally.old.requests > 500
            await client.abort_rollout("table")
            assert counting.tallies() == {}
            begun = await client.begin_rollout("table", "2", **QUICK)
            (tally,) = counting.tallies().values()
            assert (tally.version, tally.new.requests, tally.old.requests) == (begun.version, 0, 0)

    run(scenario)


# -- what is refused before it is proposed ------------------------------------------------------------------


def test_a_version_that_takes_other_inputs_is_not_rolled_out(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path, 1, MODELS / "strings.onnx") as (_, client):
            with pytest.raises(InvalidArgument, match="table@2 does not take what table@1 takes: its inputs"):
                await client.begin_rollout("table", "2")
            with pytest.raises(InvalidArgument, match="the last of them 100"):
                await client.begin_rollout("table", "2", steps=(5, 20))
            assert await client.rollouts() == []
            with pytest.raises(ModelNotFound, match="there is no version 3 of table"):
                await client.begin_rollout("table", "3")
            with pytest.raises(ModelNotFound, match="there is no model chair"):
                await client.begin_rollout("chair", "3")
            with pytest.raises(NotFound):
                await client.abort_rollout("table")
            for wrong in ({"model": 3}, {"to": None}, {"plan": [1]}, {"model": ["table"]}):
                args = {"model": "table", "to": "2", "plan": {}, **wrong}
                with pytest.raises(InvalidArgument):
                    await client._command("rollout.begin", args, None)

    run(scenario)


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ([2, 3], [2, 3], None),
        ([2, 3], ["n", None], None),
        ([2, 3], None, None),
        (None, None, None),
        (["n", 3], ["batch", 3], None),
        (["n", 3], [2, 3], "x has the shape [2, 3], not ['n', 3]"),
        ([2, 3], [2], "x has the shape [2], not [2, 3]"),
        (None, [2], "x has the shape [2], not None"),
    ],
)
def test_which_shapes_a_version_takes(old: Any, new: Any, problem: str | None) -> None:
    def spec(shape: Any, dtype: str = "FP32") -> list[dict[str, Any]]:
        return [{"name": "x", "dtype": dtype, "shape": shape}]

    assert rollouts._refused_input(spec(old), spec(new)) == problem
    other = rollouts._refused_input(spec(old), spec(new, "INT64"))
    assert other == "x is of type INT64, not FP32"


@pytest.mark.parametrize(
    ("error", "counted"),
    [
        (None, (1, 0)),
        (InferenceFailed("x"), (1, 1)),
        (DeadlineExceeded("x"), (1, 1)),
        (ModelNotReady("x"), (1, 1)),
        *((error("x"), (0, 0)) for error in (InputInvalid, ResourceExhausted, CircuitOpen, Cancelled)),
        (Unavailable("x"), (0, 0)),
    ],
)
def test_which_errors_are_a_version_s(error: McpError | None, counted: tuple[int, int]) -> None:
    async def scenario() -> None:
        figures = Figures()
        rollouts._ended(figures, 0.0, error)
        assert (figures.requests, figures.failures) == counted

    run(scenario)


@pytest.mark.parametrize(
    ("steps", "error", "counted"),
    [
        (0, InferenceFailed("x"), (1, 1, 0)),
        (0, DeadlineExceeded("x"), (1, 1, 0)),
        (0, Cancelled("x"), (0, 0, 0)),
        (2, None, (1, 0, 1)),
        (2, Cancelled("x"), (1, 0, 1)),
        (2, DeadlineExceeded("its reader is slow"), (1, 0, 1)),
        (2, InferenceFailed("x"), (1, 1, 1)),
    ],
)
def test_a_stream_counts_with_its_first_step_and_as_failed_if_it_fails_later(
    steps: int, error: McpError | None, counted: tuple[int, int, int]
) -> None:
    async def scenario() -> None:
        figures, others = Figures(), Figures()
        now = [figures]
        counting = SimpleNamespace(figures=lambda model: now[0])
        for _ in range(2):
            stream = rollouts._Stream(counting, None, 0.0)  # type: ignore[arg-type]
            for _ in range(steps):
                stream.stepped()
            stream.ended(error)
        assert (figures.requests, figures.failures, figures.latencies.count) == tuple(2 * n for n in counted)
        # The rollout has gone on to another step meanwhile: what fails now, fails in that.
        stream = rollouts._Stream(counting, None, 0.0)  # type: ignore[arg-type]
        stream.stepped()
        now[0] = others
        stream.ended(InferenceFailed("x"))
        assert (others.requests, others.failures) == (1, 1)
        now[0] = None  # type: ignore[call-overload]
        stream.ended(InferenceFailed("x"))

    run(scenario)
