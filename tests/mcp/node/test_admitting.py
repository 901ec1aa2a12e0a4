"""Limits that the cluster has declared, on whole nodes: refusals, shares, fallbacks, places given back."""

from __future__ import annotations

import asyncio
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
from mcp.client.tensors import packed
from mcp.errors import CircuitOpen, InputInvalid, McpError, ResourceExhausted
from mcp.node.admitting import Admitting
from simulations.in_process import InProcessCluster, in_process_cluster, until
from simulations.nodes import models

DIGIT = models.inputs(0)
SLOW = (Path(__file__).parents[2] / "executor" / "models" / "slow.onnx").read_bytes()
LONG = {"rounds": np.array(2**40), "x": np.ones(8, np.float32)}
"""For the slow model: more than anybody waits for."""
NOTHING = {"concurrency": None, "breaker": None}
"""Of a model: so that only what a test is about says no."""


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(scenario())  # type: ignore[arg-type]


@asynccontextmanager
async def serving(path: Path, size: int = 1) -> AsyncIterator[tuple[InProcessCluster, Client]]:
    async with in_process_cluster(path, size) as cluster, cluster.client() as client:
        await client.deploy("digits", models.versions()["1"], timeout_s=30)
        yield cluster, client


async def asked(client: Client, hint: str = "digits", inputs: Any = DIGIT, **more: Any) -> McpError | str:
    """Ask one node once: the error that it gives, or the model that answered."""
    fields, segments = packed(inputs)
    request = Request(CallKind.INFER, "INFER_REQUEST", {**fields, "model_hint": hint, **more}, segments)
    (address,) = client._exchange.routing.addresses[:1]
    try:
        return str((await client._exchange.attempt(request, address, 5.0)).payload["model"])
    except McpError as error:
        return error


def admitting(cluster: InProcessCluster, name: str = "n1") -> Admitting:
    return cluster.running[name]._running().admitting


def in_flight(cluster: InProcessCluster) -> int:
    admission = admitting(cluster).admission
    assert admission is not None
    return admission.in_flight


def test_without_limits_nothing_is_asked(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path) as (cluster, client):
            assert await asked(client) == "digits"
            assert admitting(cluster).admission is None
            assert cluster.running["n1"].status()["metrics"]["admission"] == {}
            await client.set_limits({"in_flight_max": 5})
            assert await asked(client) == "digits"
            assert cluster.running["n1"].status()["metrics"]["admission"]["admitted"] == 1
            await client.set_limits(None)
            assert await asked(client) == "digits"
            assert admitting(cluster).admission is None

    run(scenario)


def test_a_client_gets_what_its_limit_says_and_is_told_when_to_come_back(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path) as (cluster, client), cluster.client() as other:
            limit = {"kind": "sliding_window", "amount": 3, "per_s": 600}
            await client.set_limits({"clients": {"default": limit}, "default_model": NOTHING})
            told = [await asked(client) for _ in range(5)]
            assert told[:3] == ["digits"] * 3
            for refused in told[3:]:
                assert isinstance(refused, ResourceExhausted)
                assert refused.details["reason"] == "client_rate"
                assert 590 < refused.details["retry_after_s"] <= 601
            # Another client is another; what was refused has taken nothing.
            assert [await asked(other) for _ in range(3)] == ["digits"] * 3
            assert isinstance(await asked(other), ResourceExhausted)
            figures = cluster.running["n1"].status()["metrics"]["admission"]
            assert (figures["admitted"], figures["refused"]) == (6, {"client_rate": 3})
            assert (figures["in_flight"], figures["fallbacks"], figures["kept"]) == (0, {}, 0)

    run(scenario)


def test_inferences_that_come_in_one_request_count_one_by_one(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path) as (cluster, client):
            limit = {"kind": "sliding_window", "amount": 100, "per_s": 3600}
            await client.infer("digits", DIGIT)
            await client.set_limits({"clients": {"default": limit}, "default_model": NOTHING})
            asked = (client.infer("digits", DIGIT, timeout_s=2) for _ in range(150))
            told = await asyncio.gather(*asked, return_exceptions=True)
            assert 60 <= sum(not isinstance(each, BaseException) for each in told) <= 100
            assert cluster.running["n1"].status()["metrics"]["admission"]["admitted"] < 60

    run(scenario)


def test_a_place_is_given_back_however_a_request_ends(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path) as (cluster, client):
            await client.deploy("slow", SLOW, timeout_s=30)
            await client.set_limits({"in_flight_max": 1, "default_model": NOTHING})
            task = asyncio.ensure_future(asked(client, "slow", LONG))
            await until(lambda: admitting(cluster).admission is not None and in_flight(cluster) == 1)
            refused = await asked(client)
            assert isinstance(refused, ResourceExhausted)
            assert refused.details["reason"] == "node"
            task.cancel()
            await until(lambda: in_flight(cluster) == 0)
            assert await asked(client) == "digits"
            assert isinstance(await asked(client, "digits", np.zeros((1, 3), np.float32)), InputInvalid)
            assert in_flight(cluster) == 0
            late = await asked(client, "slow", LONG, timeout_ms=50)
            assert isinstance(late, McpError)
            await until(lambda: in_flight(cluster) == 0)
            async with cluster.client() as gone:
                task = asyncio.ensure_future(asked(gone, "slow", LONG))
                await until(lambda: in_flight(cluster) == 1)
            await until(lambda: in_flight(cluster) == 0)
            await asyncio.gather(task, return_exceptions=True)

    run(scenario)


def listening(heard: list[float | None], done: Callable[..., None]) -> Callable[..., None]:
    def listens(*how: Any) -> None:
        heard.append(how[-1])
        done(*how)

    return listens


def test_it_is_told_how_long_requests_waited_and_so_learns_what_is_too_much(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also of those that another node has answered: it says so."""
    told: dict[str, list[float | None]] = {}

    async def scenario() -> None:
        async with serving(tmp_path, 3) as (cluster, client):
            await client.set_limits({"default_model": {"breaker": None}})
            await client.set_rules(["when header.place == two use digits@1 on node:n2"])
            for name in cluster.names:
                async with cluster.client(name) as other:
                    await other.get("nothing", consistency="linearizable")
                    await asked(other)
                    limit = admitting(cluster, name).admission
                    assert limit is not None
                    learns = limit._models["digits"].concurrency
                    assert learns is not None
                    heard = told.setdefault(name, [])
                    done = learns.done
                    monkeypatch.setattr(
                        learns,
                        "done",
                        lambda *how, heard=heard, done=done: heard.append(how[-1]) or done(*how),
                    )
                    answers = [await asked(other, headers={"place": "two"}), await asked(other)]
                    assert answers == ["digits", "digits"]

    run(scenario)
    assert {name: len(heard) for name, heard in told.items()} == {"n1": 2, "n2": 2, "n3": 2}
    assert all(type(waited_s) is float for heard in told.values() for waited_s in heard)


def test_a_model_that_fails_is_not_asked_for_a_while_and_another_answers_instead(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path) as (_, client):
            await client.deploy("slow", SLOW, timeout_s=30)
            breaker = {"calls_min": 3}
            await client.set_limits({"default_model": {"concurrency": None, "breaker": breaker}})
            seen: list[McpError | str] = []
            for _ in range(10):
                seen.append(await asked(client, "slow", LONG, timeout_ms=30))
                if isinstance(seen[-1], CircuitOpen):
                    break
            refused = seen[-1]
            assert isinstance(refused, CircuitOpen)
            assert (refused.details["node"], refused.details["model"]) == ("n1", "slow")
            assert await asked(client) == "digits"
            instead = [{"kind": "model", "model": "digits"}]
            slow = {"concurrency": None, "breaker": breaker, "fallbacks": instead}
            await client.set_limits({"default_model": NOTHING, "models": {"slow": slow}})
            # The breaker is as it was: what is not changed goes on.
            assert await asked(client, "slow", DIGIT) == "digits"

    run(scenario)


def test_requests_of_a_leaky_queue_wait_for_their_turn(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path) as (_, client):
            limit = {"kind": "leaky_queue", "amount": 1, "burst": 1}
            await client.set_limits({"models": {"digits": {**NOTHING, "limit": limit}}})
            told = await asyncio.gather(*(asked(client) for _ in range(8)))
            # One at once, one a second later; more only if asking took so long.
            assert told.count("digits") in (2, 3)
            assert {each.details["reason"] for each in told if isinstance(each, McpError)} == {"model_rate"}

    run(scenario)


def test_the_cluster_s_limit_is_shared_out_by_the_log_and_not_by_request(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path, 3) as (cluster, client):
            shared = {"amount": 30, "per_s": 3600.0, "lease_s": 2.0, "skew_s": 0.5}
            await client.set_limits({"default_model": NOTHING, "cluster": {"all": shared}})
            await until(lambda: all(admitting(cluster, name).admission for name in cluster.names))

            async def from_node(name: str) -> Counter[str]:
                async with cluster.client(name) as other:
                    await other.get("nothing", consistency="linearizable")
                    told = [await asked(other) for _ in range(40)]
                    return Counter("in" if each == "digits" else each.code for each in told)  # type: ignore[union-attr]

            counted = await asyncio.gather(*map(from_node, cluster.names))
            assert {code for each in counted for code in each} <= {"in", "RESOURCE_EXHAUSTED"}
            # One request of each node, and the burst of what it was given.
            assert sum(each["in"] for each in counted) <= 3 + 30
            shares = await client.shares()
            assert shares["all"]["units"] == 30_000
            assert 0 < sum(shares["all"]["shares"].values()) <= 30_000
            assert all(holder.partition("/")[0] in cluster.names for holder in shares["all"]["shares"])

    run(scenario)


def test_a_changed_limit_is_another_one_s_share(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path) as (_, client):
            shared = {"amount": 1000, "lease_s": 1.0, "skew_s": 0.1}
            await client.set_limits({"cluster": {"a": shared, "b": shared}})

            async def holders(limit: str) -> set[str]:
                return set((await client.shares())[limit]["shares"])

            async with asyncio.timeout(20):
                while not (await holders("a") and await holders("b")):  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
                one = await holders("a")
                await client.set_limits({"cluster": {"a": {**shared, "amount": 500}, "b": shared}})
                while len(await holders("a") - one) < 1:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
                assert await holders("b") == one
                await client.set_limits(None)
                assert await client.shares() == {}

    run(scenario)
