"""What is told of a node: metrics that are its status's figures, health, and the page that explains them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from served_node import MODELS, Gateway, gateway_of, serving
from test_exposition import Sample, read

from mcp.errors import McpError, Unavailable
from mcp.gateway import gateway_metrics, node_metrics, triton_metrics
from mcp.gateway.exposition import MEDIA_TYPE, Exposition, Kind
from mcp.gateway.gateway_metrics import RequestFigures
from mcp.gateway.limits import MODELS_TOLD_MAX, PEERS_TOLD_MAX, REQUEST_SERIES_MAX
from mcp.gateway.observer import Observer
from mcp.gateway.room import Room
from mcp.gateway.statistics import Statistics
from simulations.in_process import in_process_cluster, until

PAGE = Path(__file__).parents[3] / "docs" / "observing.md"
FAMILIES = (*node_metrics.FAMILIES, *gateway_metrics.FAMILIES, *triton_metrics.FAMILIES)
X = np.random.default_rng(1).standard_normal((3, 64)).astype(np.float32)
ASKED = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [3, 64], "data": X.reshape(-1).tolist()}]}
PROMETHEUS = "KSERVE_CLIENT_PYTHON"
"""Names a Python that has prometheus_client, as one with kserve does."""


def value(samples: list[Sample], name: str, **labels: str) -> float:
    (found,) = [s.value for s in samples if s.name == name and labels.items() <= s.labels.items()]
    return found


async def scraped(gateway: Gateway, query: str = "") -> tuple[dict[str, str], list[Sample]]:
    answer = await gateway.get(f"/metrics{query}")
    assert (answer.status, answer.headers["content-type"]) == (200, MEDIA_TYPE)
    return read(answer.body.decode())


def test_metrics_are_the_figures_of_the_node_and_of_its_gateway(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path) as gateway:
            await gateway.deploy("dense")
            _, before = await scraped(gateway)
            for _ in range(3):
                assert (await gateway.post("/v2/models/dense/infer", ASKED)).status == 200
            assert (await gateway.post("/v2/models/dense/infer", b"{}")).status == 400
            assert (await gateway.get("/nowhere/at/all")).status == 404
            assert (await gateway.post("/v2/health/live")).status == 405
            types, after = await scraped(gateway)
            status = gateway.node.status()
            for name, field in (
                ("mcp_consensus_term", "term"),
                ("mcp_consensus_commit_index", "commit_index"),
                ("mcp_consensus_applied_index", "applied_index"),
            ):
                assert value(after, name) == status[field]
            assert value(after, "mcp_consensus_role", role="leader") == 1
            assert value(after, "mcp_consensus_role", role="follower") == 0
            assert value(after, "mcp_consensus_sync_duration_seconds_count") > 0
            assert value(after, "mcp_consensus_sync_duration_seconds_sum") > 0
            assert value(after, "mcp_ready") == value(after, "mcp_storage_ok") == 1
            assert value(after, "mcp_connections") == 1  # the gateway's own client
            assert value(after, "mcp_gateway_connections", protocol="http") >= 1
            dense = {"model": "dense", "version": "1"}
            runs = "mcp_model_run_duration_seconds_count"
            assert value(after, runs, **dense) == value(before, runs, **dense) + 3
            assert value(after, "mcp_model_run_duration_seconds_sum", **dense) > 0
            assert value(after, "mcp_inference_duration_seconds_count", **dense) == 3
            requests = "mcp_gateway_requests_total"
            assert value(after, requests, operation="infer", status="200") == 3
            assert value(after, requests, operation="infer", status="400") == 1
            assert value(after, requests, operation="unknown", status="404") == 1
            assert value(after, requests, operation="unknown", status="405") == 1
            assert value(after, "mcp_gateway_errors_total", code="INPUT_INVALID") == 1
            assert value(after, "mcp_gateway_request_duration_seconds_count", operation="infer") == 4
            told = {family.name: family.kind for family in FAMILIES}
            assert types == {name: told[name] for name in types}
            rising = {name for name, kind in types.items() if kind != "gauge"}
            earlier = {(s.name, *s.labels.items()): s.value for s in before}
            for sample in after:
                if re.sub(r"_(bucket|sum|count)$", "", sample.name) in rising:
                    assert sample.value >= earlier.get((sample.name, *sample.labels.items()), 0), sample

            types, triton = await scraped(gateway, "?names=nv")
            assert all(name.startswith("nv_inference_") for name in types)
            assert value(triton, "nv_inference_request_success", **dense) == 3
            assert value(triton, "nv_inference_exec_count", **dense) == value(after, runs, **dense)
            assert value(triton, "nv_inference_request_duration_us", **dense) > 0
            assert (await gateway.get("/metrics?names=other")).status == 400

    asyncio.run(scenario())


def test_followers_and_links_are_told_of_too(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with in_process_cluster(tmp_path, 3) as cluster:
            leader = cluster.running[await cluster.elected()]
            async with gateway_of(leader) as gateway:
                await until(lambda: all(p["match"] for p in leader.status()["peers"].values()))
                gossiping = leader._running().gossiping
                await until(lambda: gossiping.figures()["members"]["alive"] == 3)
                await until(
                    lambda: all(gossiping.figures()[way]["datagram"] > (0, 0) for way in ("sent", "received"))
                )
                _, samples = await scraped(gateway)
                for peer in set(cluster.running) - {leader.config.node_id}:
                    assert value(samples, "mcp_consensus_peer_connected", peer=peer) == 1
                    assert value(samples, "mcp_consensus_peer_match_index", peer=peer) > 0
                assert value(samples, "mcp_consensus_voters") == 3
                assert value(samples, "mcp_gossip_members", state="alive") == 3
                assert value(samples, "mcp_gossip_members", state="dead") == 0
                assert value(samples, "mcp_gossip_health_score") >= 0
                for name in ("messages_sent", "sent_bytes", "messages_received", "received_bytes"):
                    assert value(samples, f"mcp_gossip_{name}_total", transport="datagram") > 0
            follower = next(n for n in cluster.running.values() if n is not leader)
            async with gateway_of(follower) as gateway:
                _, samples = await scraped(gateway)
                assert value(samples, "mcp_consensus_role", role="follower") == 1
                ready = await gateway.get("/readyz")
                assert (ready.status, ready.value["node"]) == (200, follower.config.node_id)
                assert ready.value["log_position"] == follower.status()["applied_index"]
                for name in set(cluster.running) - {follower.config.node_id}:
                    await cluster.stop(name)
                await until(lambda: follower.status()["leader"] is None)
                ready = await gateway.get("/readyz")
                assert (ready.status, ready.value["ready"]) == (503, False)
                assert "leader" in ready.value["error"]
                assert (await gateway.get("/livez")).value == {"live": True}

    asyncio.run(scenario())


def test_a_node_that_stopped_is_neither_alive_nor_ready_and_has_no_metrics_of_its_own(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path) as gateway:
            failed = {**gateway.node.status(), "storage": "failed: input/output error"}
            gateway.observer.node = lambda **_: failed
            live, ready = await gateway.get("/livez"), await gateway.get("/readyz")
            assert (live.status, ready.status) == (503, 503)
            assert live.error == ready.error == "storage failed: input/output error"
            gateway.observer.node = _gone
            live, ready = await gateway.get("/livez"), await gateway.get("/readyz")
            assert (live.status, live.error) == (ready.status, ready.error) == (503, "not running")
            types, _ = await scraped(gateway)
            assert "mcp_consensus_term" not in types
            assert "mcp_gateway_requests_total" in types
            gateway.observer.node = None
            assert (await gateway.get("/livez")).status == (await gateway.get("/readyz")).status == 200

    asyncio.run(scenario())


def test_what_limits_routes_and_strategies_did_is_told(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path) as gateway:
            await gateway.deploy("dense")
            _, before = await scraped(gateway)
            assert value(before, "mcp_admission_admitted_total") == 0
            await gateway.client.set_strategy("dense", "predicted_completion")
            one = {"limit": {"kind": "sliding_window", "amount": 1, "per_s": 600}, "concurrency": None}
            fixed = json.dumps({"y": {"dtype": "FP32", "shape": [1, 10], "data": [0.5] * 10}})
            when = {"kind": "fixed", "answer": fixed, "when": ["model_rate"]}
            await gateway.client.set_limits({"models": {"dense": {**one, "fallbacks": [when]}}})
            row = np.ones((1, 64), np.float32)
            for _ in range(3):
                await gateway.client.infer("dense", {"x": row})
            _, samples = await scraped(gateway)
            assert value(samples, "mcp_inference_routed_total") == 3
            assert value(samples, "mcp_admission_admitted_total") == 1
            assert value(samples, "mcp_admission_refused_total", reason="model_rate") == 2
            assert value(samples, "mcp_admission_fallbacks_total", kind="fixed") == 2
            assert value(samples, "mcp_scheduling_choices_total", choice="here") == 3

    asyncio.run(scenario())


def test_every_version_has_its_own_metrics_and_shared_bytes_count_once(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path) as gateway:
            client, path = gateway.client, MODELS / "dense.onnx"
            await client.deploy("dense", path, version="1")
            await client.deploy("twin", path, version="1")
            await client.deploy("dense", MODELS / "count.onnx", version="2", activate=False)
            await client.infer("dense@2", np.ones((1, 1), np.int64))
            await client.infer("twin", X)
            _, samples = await scraped(gateway)
            canary = {"model": "dense", "version": "2"}
            assert value(samples, "mcp_model_active", model="dense", version="1") == 1
            assert value(samples, "mcp_model_active", **canary) == 0
            assert value(samples, "mcp_model_ready", **canary) == 1
            runs = "mcp_model_run_duration_seconds_count"
            assert value(samples, runs, **canary) == 1
            # One session, whose runs are told under both names.
            assert value(samples, runs, model="twin") == value(samples, runs, model="dense", version="1") == 1
            assert value(samples, "mcp_models_left_out") == 0
            assert value(samples, "mcp_artefacts_loaded") == 2
            sizes = [(MODELS / f"{name}.onnx").stat().st_size for name in ("dense", "count")]
            assert value(samples, "mcp_artefacts_loaded_bytes") == sum(sizes)
            digests = [s.labels["digest"] for s in samples if s.name == "mcp_model_info"]
            assert (len(digests), len(set(digests))) == (3, 2)

    asyncio.run(scenario())


def test_rollouts_and_breakers_are_told_of(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path) as gateway:
            client = gateway.client
            await client.deploy("table", MODELS / "table_of_five.onnx", version="1")
            await client.deploy("table", MODELS / "table_of_four.onnx", version="2", activate=False)
            await client.set_limits({"models": {"table": {"breaker": {"calls_min": 2, "window_calls": 2}}}})
            await client.begin_rollout(
                "table", "2", steps=(50, 100), interval_s=3600, min_requests=1000, max_error=1.0
            )
            for number in range(40):
                with contextlib.suppress(McpError):
                    await client.infer("table", np.array([4]), session=f"s{number}")
            _, samples = await scraped(gateway)
            assert value(samples, "mcp_rollout_state", model="table", state="going") == 1
            assert value(samples, "mcp_rollout_state", model="table", state="rolled_back") == 0
            assert value(samples, "mcp_rollout_step", model="table") == 0
            assert value(samples, "mcp_rollout_share_ratio", model="table") == 0.25
            told = gateway.node.status()["metrics"]["rollouts"][0]["seen"]
            for side, version in (("old", "1"), ("new", "2")):
                labels = {"model": "table", "version": version, "side": side}
                assert value(samples, "mcp_rollout_requests_total", **labels) == told[version][0] > 0
                assert value(samples, "mcp_rollout_failures_total", **labels) == told[version][1]
            assert told["2"][1] == told["2"][0]
            breaker = {"model": "table", "node": gateway.node.config.node_id}
            opened = value(samples, "mcp_breaker_openings_total", **breaker)
            states = [s.labels["state"] for s in samples if s.name == "mcp_breaker_state" and s.value]
            assert (opened > 0, len(states)) == (True, 1)
            assert value(samples, "mcp_breakers_left_out") == 0
            await client.abort_rollout("table")
            _, samples = await scraped(gateway)
            assert value(samples, "mcp_rollout_state", model="table", state="aborted") == 1
            assert not any(s.name == "mcp_rollout_requests_total" for s in samples)

    asyncio.run(scenario())


def _gone(**_: bool) -> Any:
    raise Unavailable("not running")


def test_probes_do_not_go_through_all_models(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path) as gateway:
            await gateway.deploy("dense")
            assert [each["name"] for each in gateway.node.status()["models"]] == ["dense"]
            assert gateway.node.status(with_models=False)["models"] == []
            asked: list[bool] = []

            def noted(*, with_models: bool = True) -> Any:
                asked.append(with_models)
                return gateway.node.status(with_digest=False, with_models=with_models)

            gateway.observer.node = noted
            assert (await gateway.get("/livez")).status == (await gateway.get("/readyz")).status == 200
            assert asked == [False, False]

    asyncio.run(scenario())


def test_labels_are_bounded_whatever_comes(tmp_path: Path) -> None:
    figures = RequestFigures()
    for number in range(3 * REQUEST_SERIES_MAX):
        figures.answered("http", f"operation-{number}", "200", 0.1)
    statistics = Statistics()
    for number in range(3 * MODELS_TOLD_MAX):
        statistics.succeeded(f"m{number}", "1", 0.1, 0.0)
    into = Exposition()
    figures.tell(into, statistics, Room())
    _, samples = read(into.text())
    assert sum(s.name == "mcp_gateway_requests_total" for s in samples) == REQUEST_SERIES_MAX + 1
    assert value(samples, "mcp_gateway_requests_total", operation="other") == 2 * REQUEST_SERIES_MAX
    assert sum(s.name == "mcp_inference_duration_seconds_count" for s in samples) == MODELS_TOLD_MAX

    async def scenario() -> None:
        async with serving(tmp_path) as gateway:
            await gateway.deploy("dense")
            status = gateway.node.status()
            model = status["models"][0]
            many = [{**model, "name": f"m{number}"} for number in range(MODELS_TOLD_MAX + 7)]
            many[0]["others"] = {"2": {key: model[key] for key in ("digest", "ready", "inference")}}
            peers = {f"n{number}": {"connected": True, "match": 1} for number in range(3 * PEERS_TOLD_MAX)}
            into = Exposition()
            node_metrics.tell_node(into, {**status, "models": many, "peers": peers})
            _, samples = read(into.text())
            assert value(samples, "mcp_models_left_out") == 8
            assert sum(s.name == "mcp_model_ready" for s in samples) == MODELS_TOLD_MAX
            assert sum(s.name == "mcp_consensus_peer_match_index" for s in samples) == PEERS_TOLD_MAX

    asyncio.run(scenario())


def rows() -> list[str]:
    return [
        f"| `{family.name}` | {family.kind} | {family.unit} | "
        f"{', '.join(f'`{label}`' for label in family.labels)} | {family.meaning} |"
        for family in FAMILIES
    ]


def test_the_page_has_every_metric_as_it_is_told() -> None:
    """To have the tables written anew: the rows that are missing are in the message."""
    found = re.findall(r"^\| `(?:mcp|nv)_.*\|$", PAGE.read_text(), re.MULTILINE)
    assert found == rows(), "\n".join(rows())


def test_names_and_units_are_those_of_the_format() -> None:
    names = [family.name for family in FAMILIES]
    assert len(set(names)) == len(names)
    for family in (*node_metrics.FAMILIES, *gateway_metrics.FAMILIES):
        assert re.fullmatch(r"mcp_[a-z0-9_]+", family.name)
        assert family.name.endswith("_total") == (family.kind is Kind.COUNTER)
        assert not family.name.endswith(("_us", "_ms", "_kb")), "base units"
        if family.unit == "seconds":
            assert family.name.endswith("_seconds")
        assert family.meaning.endswith(".")


@pytest.mark.skipif(
    shutil.which(os.environ.get(PROMETHEUS, "")) is None,
    reason=f"{PROMETHEUS} names no Python with prometheus_client",
)
def test_prometheus_own_parser_reads_the_same(tmp_path: Path) -> None:
    program = (
        "import json, sys\n"
        "from prometheus_client.parser import text_string_to_metric_families as parse\n"
        "print(json.dumps([[s.name, s.labels, s.value] for f in parse(sys.stdin.read()) for s in f.samples]))"
    )

    async def scenario() -> str:
        async with serving(tmp_path) as gateway:
            await gateway.deploy("dense")
            await gateway.post("/v2/models/dense/infer", ASKED)
            return (await gateway.get("/metrics")).body.decode()

    text = asyncio.run(scenario())
    outcome = subprocess.run(
        [os.environ[PROMETHEUS], "-c", program], input=text.encode(), capture_output=True, check=True
    )
    theirs = [Sample(name, labels, float(told)) for name, labels, told in json.loads(outcome.stdout)]
    assert sorted(map(repr, theirs)) == sorted(repr(s) for s in read(text)[1])


def test_an_observer_counts_also_who_is_gone() -> None:
    observer = Observer()
    with pytest.raises(KeyError), observer.request("http", "infer", {}):
        raise KeyError
    _, samples = read(observer.metrics(Statistics(), Room()))
    assert value(samples, "mcp_gateway_requests_total", status="gone") == 1
