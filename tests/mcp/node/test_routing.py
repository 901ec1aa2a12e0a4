"""Requests that a name alone does not decide, on whole nodes: rules, routes, other nodes, copies, reasons."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from mcp.client.client import Client
from mcp.cluster.router.routes import RouteSet
from mcp.cluster.router.virtual_service import routes_from_virtual_service
from mcp.errors import (
    ConfigInvalid,
    DeadlineExceeded,
    InputInvalid,
    InvalidArgument,
    McpError,
    ModelNotFound,
    PermissionDenied,
    TooLarge,
    Unsupported,
    VersionConflict,
)
from mcp.node.config import NodeLimits
from mcp.node.routing import PROBLEMS_TOLD_MAX, Routing
from simulations.in_process import InProcessCluster, in_process_cluster, until
from simulations.nodes import models

EXAMPLES = Path(__file__).resolve().parents[3] / "examples"
STRINGS = (Path(__file__).parents[2] / "executor" / "models" / "strings.onnx").read_bytes()
DIGIT = models.inputs(0)
SESSIONS = 40


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(scenario())  # type: ignore[arg-type]


@asynccontextmanager
async def serving(
    path: Path, size: int = 1, **settings: Any
) -> AsyncIterator[tuple[InProcessCluster, Client]]:
    """Nodes that hold both versions of the digits under one name; the second one is active."""
    async with in_process_cluster(path, size, **settings) as cluster, cluster.client() as client:
        for version, model in models.versions().items():
            await client.deploy(
                "digits",
                model,
                version=version,
                aliases=["zip"],
                family="scans",
                task="classification",
                tags=["small", f"v{version}"],
                timeout_s=30,
            )
        yield cluster, client


def route(host: str, *destinations: tuple[str, int], **more: Any) -> dict[str, Any]:
    weighted = [{"model": "digits", "version": version, "weight": weight} for version, weight in destinations]
    return {"host": host, "entries": [{"destinations": weighted, **more}]}


def metric(cluster: InProcessCluster, name: str) -> Any:
    found = [node.status()["metrics"][name] for node in cluster.running.values()]
    return found[0] if len(found) == 1 else found


async def caught_up(client: Client) -> None:
    """From now on the client is answered by nodes that have seen all that was declared before."""
    await client.get("nothing", consistency="linearizable")


async def version_of(client: Client, hint: str = "digits", **how: Any) -> str:
    return (await client.infer(hint, DIGIT, **how)).version


# -- hints --------------------------------------------------------------------------------------------------


def test_a_hint_is_a_name_an_alias_a_family_a_task_or_tags(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path) as (cluster, client):
            for hint in ("digits", "digits@2", "digits:2", "zip"):
                assert await version_of(client, hint) == "2"
            assert await version_of(client, "digits@1") == "1"
            # So far no router was needed.
            assert metric(cluster, "inference_routed_total") == 0
            for hint in ("scans", "classification", "small", "v2", "small,v2"):
                assert await version_of(client, hint) == "2"
            assert metric(cluster, "inference_routed_total") == 5
            with pytest.raises(ModelNotFound, match="no model answers to 'v1'; name a model") as caught:
                await client.infer("v1", DIGIT)
            assert caught.value.details["candidates"] == ["digits"]
            await client.deploy("other", STRINGS, task="classification", timeout_s=30)
            # Of two the inputs fit one only.
            assert await version_of(client, "classification") == "2"
            assert (await client.infer("classification", "a text")).model == "other"
            await client.deploy("twin", models.versions()["1"], task="classification", timeout_s=30)
            with pytest.raises(InvalidArgument, match="may be any of 2 models: digits, twin"):
                await client.infer("classification", DIGIT)

    run(scenario)


def test_what_a_manifest_says_of_requests_counts(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with in_process_cluster(tmp_path, 1) as cluster, cluster.client() as client:
            await client.deploy(
                "digits",
                models.versions()["1"],
                requirements={"batch_max": 2, "providers": ["cpu"]},
                timeout_s=30,
            )
            (known,) = await client._read("models", {}, "session", None)
            assert known["requirements"] == {
                "length_max": None,
                "batch_max": 2,
                "size_max": None,
                "run_bytes": 0,
                "providers": ["cpu"],
            }
            two = np.concatenate([DIGIT["image"]] * 2)
            assert (await client.infer("digits", two)).version == "1"
            with pytest.raises(InputInvalid, match="a batch of 3 rows is over its batch_max=2"):
                await client.infer("digits", np.concatenate([DIGIT["image"]] * 3))
            other = models.versions()["2"]
            await client.deploy("digits", other, requirements={"providers": ["cuda", "rocm"]}, timeout_s=30)
            with pytest.raises(McpError, match="without provider cuda or rocm"):
                await client.infer("digits", DIGIT, timeout_s=0.5)
            for wrong in ({"batch_max": 0}, {"providers": "cpu"}, {"run_bytes": -1}):
                with pytest.raises(InvalidArgument):
                    await client.deploy("x", STRINGS, requirements=wrong, timeout_s=30)
            with pytest.raises(InvalidArgument, match="requirements have no rows_max; there are batch_max"):
                await client.deploy("x", STRINGS, requirements={"rows_max": 3}, timeout_s=30)

    run(scenario)


# -- routes and rules ---------------------------------------------------------------------------------------


def test_weights_are_kept_and_a_session_gets_one_version(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path, 3) as (cluster, client):
            await client.apply_routes([route("digits", ("1", 80), ("2", 20))])
            names = [f"user-{n}" for n in range(SESSIONS)]
            first = {name: await version_of(client, session=name) for name in names}
            assert 2 <= Counter(first.values())["2"] <= SESSIONS // 2
            for node in cluster.names:  # the same on every node
                async with cluster.client(node) as other:
                    await caught_up(other)
                    told = await asyncio.gather(*(version_of(other, session=name) for name in names))
                    assert dict(zip(names, told, strict=True)) == first
            # More weight moves some sessions there, and none away.
            await client.apply_routes([route("digits", ("1", 80), ("2", 60))])
            moved = {name: await version_of(client, session=name) for name in names}
            assert all(moved[name] == "2" for name, version in first.items() if version == "2")
            assert moved != first
            # An exact version is led nowhere; an alias goes the way of its model.
            assert await version_of(client, "digits@2", session=names[0]) == "2"
            assert await version_of(client, "zip", session="user-1") == moved["user-1"]
            assert await client.remove_routes(["digits", "nobody"]) == ["digits"]
            assert {await version_of(client, session=name) for name in names[:5]} == {"2"}

    run(scenario)


def test_headers_and_rules_decide_and_the_last_word_is_the_first_rule_s(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path) as (_, client):
            testers = {"matches": [{"headers": {"x-tester": {"exact": "yes"}}}]}
            both = route("digits", ("2", 1), **testers)
            both["entries"] += route("digits", ("1", 1))["entries"]
            await client.apply_routes([both])
            assert await version_of(client) == "1"
            assert await version_of(client, headers={"X-Tester": "yes"}) == "2"
            await client.set_rules(["when batch > 1 use digits@2", "when header.who == root use digits@2"])
            assert await version_of(client) == "1"
            assert await version_of(client, headers={"who": "root"}) == "2"
            assert (await client.infer("digits", np.concatenate([DIGIT["image"]] * 2))).version == "2"
            assert await version_of(client, "digits@1", headers={"who": "root"}) == "1"
            await client.set_rules([])
            assert await version_of(client, headers={"who": "root"}) == "1"

    run(scenario)


def test_what_a_route_decides_is_decided_for_each_inference(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path) as (_, client):

            async def many() -> list[str]:
                asked = [client.infer("digits", models.inputs(n % models.SAMPLES)) for n in range(64)]
                told = await asyncio.gather(*asked)
                for n, answer in enumerate(told):
                    right = models.answer(answer.version, n % models.SAMPLES)
                    assert models.summary(answer.outputs) == right
                return [answer.version for answer in told]

            await client.infer("digits", DIGIT)
            assert client._stacking.known("digits") is not None  # from now on several go in one request
            assert set(await many()) == {"2"}
            await client.apply_routes([route("digits", ("1", 50), ("2", 50))])
            assert 10 < (await many()).count("1") < 54
            known = client._stacking.known("digits")
            assert known is not None
            assert known.rows_max == 0
            await client.set_rules(["when batch > 1 use digits@1", "when batch == 1 use digits@2"])
            assert set(await many()) == {"2"}
            await client.set_rules([])
            await client.remove_routes(["digits"])
            await client.infer("digits", DIGIT)
            assert known.rows_max > 1

    run(scenario)


def test_what_a_hint_means_is_asked_once_for_a_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []
    named = Routing.named

    def counted(self: Routing, hint: object) -> Any:
        asked.append(hint)
        return named(self, hint)

    monkeypatch.setattr(Routing, "named", counted)

    async def scenario() -> None:
        async with serving(tmp_path) as (_, client):
            for expected in ("2", "1"):
                asked.clear()
                assert (await client.infer("digits", DIGIT)).version == expected
                assert len(asked) == 1
                await client.apply_routes([route("digits", ("1", 100))])

    run(scenario)


def test_the_example_of_a_virtual_service_is_applied_as_it_stands(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with in_process_cluster(tmp_path, 1) as cluster, cluster.client() as client:
            document = yaml.safe_load((EXAMPLES / "virtual_service.yaml").read_text())
            plain = RouteSet().apply(routes_from_virtual_service(document)).to_plain()["routes"]
            with pytest.raises(InvalidArgument, match="product-service: no model has this name or alias"):
                await client.apply_routes(plain)
            for version, model in models.versions().items():
                await client.deploy("product-service", model, version=f"v{version}", timeout_s=30)
            assert await client.apply_routes(plain) == 1
            versions = [await version_of(client, "product-service", session=str(n)) for n in range(SESSIONS)]
            assert set(versions) == {"v1", "v2"}
            assert (await client.routes()).routes == plain

    run(scenario)


def test_a_stream_is_routed_too(tmp_path: Path) -> None:
    fibonacci = (Path(__file__).parents[2] / "executor" / "models" / "fibonacci.onnx").read_bytes()

    async def scenario() -> None:
        async with in_process_cluster(tmp_path, 1) as cluster, cluster.client() as client:
            await client.deploy("fibonacci", fibonacci, task="counting", timeout_s=30)
            start = {"state": np.array([[0, 1]]), "limit": np.array([[100]])}
            stream = client.stream("counting", start, carry={"next": "state"}, steps=3)
            steps = [step async for step in stream]
            assert [step.number for step in steps] == [1, 2, 3]
            assert metric(cluster, "inference_routed_total") == 1

    run(scenario)


def test_a_routes_timeout_is_for_the_whole_of_a_stream(tmp_path: Path) -> None:
    fibonacci = (Path(__file__).parents[2] / "executor" / "models" / "fibonacci.onnx").read_bytes()

    async def scenario() -> None:
        async with in_process_cluster(tmp_path, 1) as cluster, cluster.client() as client:
            await client.deploy("fibonacci", fibonacci, version="1", timeout_s=30)
            weighted = [{"model": "fibonacci", "version": "1", "weight": 100}]
            entries = [{"destinations": weighted, "timeout_s": 0.3}]
            await client.apply_routes([{"host": "fibonacci", "entries": entries}])
            start = {"state": np.array([[0, 1]]), "limit": np.array([[10**18]])}
            stream = client.stream(
                "fibonacci", start, carry={"next": "state"}, steps=1_000_000, ahead=1, timeout_s=600
            )
            await anext(stream)
            await until(lambda: not cluster.running["n1"]._running().streamed.streams)
            with pytest.raises(DeadlineExceeded):
                assert not [step async for step in stream if step.number > 2]

    run(scenario)


# -- other nodes, copies ------------------------------------------------------------------------------------


def test_a_request_that_is_for_another_node_is_passed_on_to_it(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path, 3) as (cluster, client):
            await until(lambda: all(len(m["holders"]) == 3 for m in cluster.running["n1"].status()["models"]))
            await client.set_rules(["when header.place == two use digits@1 on node:n2"])
            for name in cluster.names:
                async with cluster.client(name) as other:
                    await caught_up(other)
                    answer = await other.infer("digits", DIGIT, headers={"place": "two"})
                    assert (answer.node, answer.version) == ("n2", "1")
                    right = models.answer("1", 0)
                    assert models.summary(answer.outputs) == right
                    # Wrong inputs are refused with the other node's own words.
                    with pytest.raises(InputInvalid):
                        await other.infer("digits", np.zeros((1, 63), np.float32), headers={"place": "two"})
            assert metric(cluster, "inference_forwarded_total") == [1, 0, 1]
            await client.set_rules(["when header.place == two use digits@1 on label:gpu"])
            with pytest.raises(McpError, match="digits@1; of 3: 3 not on label:gpu"):
                await client.explain({"model_hint": "digits", "headers": {"place": "two"}}, timeout_s=1)

    run(scenario)


def test_a_rule_s_labels_are_those_that_nodes_say_of_themselves(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path, 3) as (cluster, client):
            await until(lambda: all(len(m["holders"]) == 3 for m in cluster.running["n1"].status()["models"]))
            await cluster.stop("n3")
            cluster.settings["labels"] = {"gpu": ""}
            await cluster.start("n3")
            await client.set_rules(["when batch > 0 use digits on label:gpu"])

            def seen(name: str) -> set[str]:
                routing = cluster.running[name]._running().routing
                return {node.node for node in routing._current_view().nodes if "gpu" in node.labels}

            await until(lambda: all(seen(name) == {"n3"} for name in cluster.names))
            for name in cluster.names:
                async with cluster.client(name) as other:
                    await caught_up(other)
                    assert (await other.infer("digits", DIGIT)).node == "n3"

    run(scenario)


def test_who_is_gone_by_what_is_seen_is_asked_no_more(tmp_path: Path) -> None:
    """The log may say for a while longer that it is up."""

    async def scenario() -> None:
        limits = NodeLimits(node_dead_after_s=60.0, peer_backoff_s_max=0.05)
        async with serving(tmp_path, 3, limits=limits) as (cluster, _):
            await until(lambda: all(len(m["holders"]) == 3 for m in cluster.running["n1"].status()["models"]))

            def known() -> set[str]:
                routing = cluster.running["n1"]._running().routing
                return {node.node for node in routing._current_view().nodes}

            await until(lambda: known() == {"n1", "n2", "n3"})
            await cluster.stop("n3")
            await until(lambda: known() == {"n1", "n2"})
            up = {m["node"] for m in cluster.running["n1"].status()["members"] if m["state"] == "up"}
            assert "n3" in up

    run(scenario)


def test_who_cannot_be_reached_is_told(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path, 3) as (cluster, client):
            await until(lambda: all(len(m["holders"]) == 3 for m in cluster.running["n1"].status()["models"]))
            await client.set_rules(["when batch > 0 use digits on node:n3"])
            async with cluster.client("n1") as other:
                await caught_up(other)
                assert (await other.infer("digits", DIGIT)).node == "n3"
                await cluster.stop("n3")
                with pytest.raises(McpError, match="n3"):
                    await other.infer("digits", DIGIT, timeout_s=0.6)

    run(scenario)


def test_copies_are_run_and_make_no_difference(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path) as (cluster, client):
            copies = {"mirrors": [{"model": "digits", "version": "2", "percent": 100}]}
            await client.apply_routes([route("digits", ("1", 1), **copies)])
            for _ in range(3):
                answer = await client.infer("digits", DIGIT)
                assert models.summary(answer.outputs) == models.answer("1", 0)
            await until(lambda: metric(cluster, "inference_copies_total")["made"] == 3)
            # What the copy makes of its inputs is nobody's business.
            await client.deploy("words", STRINGS, timeout_s=30)
            copies = {"mirrors": [{"model": "words", "percent": 100}]}
            await client.apply_routes([route("digits", ("1", 1), **copies)])
            assert await version_of(client) == "1"
            assert metric(cluster, "inference_copies_total") == {"made": 3, "failed": 0, "skipped": 0}

    run(scenario)


# -- what is refused ----------------------------------------------------------------------------------------


def test_what_makes_no_sense_never_gets_into_the_log(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path) as (cluster, client):
            await client.rules()
            await client.set_rules([])
            before = cluster.running["n1"].status()["last_index"]
            fixed = {"default_model": {"fallbacks": [{"kind": "fixed", "answer": "sorry"}]}}
            answers = [{"kind": "fixed", "answer": "x" * 50_000}] * 4
            large = {"default_model": {"fallbacks": answers}}
            rules, routes, limits = client.set_rules, client.apply_routes, client.set_limits
            wrong: list[tuple[Awaitable[object], type[McpError], str]] = [
                (rules(["if x"]), InvalidArgument, r'rules\[0\]: at character 1: expected "when"'),
                (rules(["when batch > 1 use nope"]), InvalidArgument, "nope is not deployed"),
                (routes([{"host": "digits"}]), InvalidArgument, r"routes\[0\].entries"),
                (routes([route("digits", ("9", 1))]), InvalidArgument, "digits@9 is not deployed"),
                (routes([route("digits", ("1", 0))]), InvalidArgument, "one of them above 0"),
                (limits({"in_flight_max": 0}), ConfigInvalid, "in_flight_max=0"),
                (limits(large), TooLarge, "over limits_bytes_max=196608: declare fewer fixed answers"),
                (limits(fixed), ConfigInvalid, r"default_model.fallbacks\[0\].answer: it is no JSON"),
            ]
            for call, error, says in wrong:
                with pytest.raises(error, match=says):
                    await call
            with pytest.raises(PermissionDenied, match=r"share\.grant is proposed by nodes"):
                await client._command("share.grant", {}, 2.0)
            many = [f"when batch > {n} use m{n}" for n in range(PROBLEMS_TOLD_MAX + 2)]
            with pytest.raises(InvalidArgument, match="and 2 more") as caught:
                await client.set_rules(many)
            assert len(caught.value.details["problems"]) == len(many)
            # Also when they come with others in one message.
            results = await asyncio.gather(
                client.put("a", 1), client.set_rules(["nonsense"]), client.put("b", 2), return_exceptions=True
            )
            assert [type(result) for result in results] == [int, InvalidArgument, int]
            applied = cluster.running["n1"].status()["last_index"] - before
            assert applied <= 3  # the puts, and maybe the opening of another session
            with pytest.raises(VersionConflict):
                await client.set_rules([], expected_version=7)
            assert (await client.rules()).version == 1

    run(scenario)


def test_until_all_nodes_are_upgraded_nothing_can_be_declared(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with in_process_cluster(tmp_path, 1, schema_max=3) as cluster, cluster.client() as client:
            for call in (
                lambda: client.set_rules([]),
                lambda: client.set_limits(None),
                lambda: client.remove_routes(["m"]),
                lambda: client.deploy("m", STRINGS, requirements={"batch_max": 3}, timeout_s=5),
            ):
                with pytest.raises(Unsupported, match="needs schema 4"):
                    await call()
            await client.deploy("m", STRINGS, task="echo", timeout_s=30)
            # What needs no declaration is there all the same.
            assert (await client.infer("echo", "x")).model == "m"
            assert (await client.limits()).limits is None
            assert await client.shares() == {}

    run(scenario)


WRONG_FIELDS: list[tuple[dict[str, Any], str]] = [
    ({"model_hint": 7}, "model_hint: a map is expected, not 7"),
    ({"model_hint": {"name": "digits", "nam": "x"}}, "model_hint.nam: unknown field; did you mean name"),
    ({"model_hint": ""}, "not empty"),
    ({}, "model_hint: missing"),
    ({"model_hint": "scans", "session": 5}, "session: a text of at most"),
    ({"model_hint": "scans", "session": "s" * 129}, "session: a text of at most"),
    ({"model_hint": "scans", "headers": {"a": 1}}, "headers.a: a text"),
    ({"model_hint": "scans", "priority": "high"}, "priority: an integer"),
    ({"model_hint": "scans", "seed": "x"}, "seed is an integer"),
    ({"model_hint": "scans", "inputs": [{"dtype": "X", "shape": []}]}, r"inputs\[0\].dtype"),
]


def test_a_request_s_fields_are_checked(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path) as (_, client):
            for fields, says in WRONG_FIELDS:
                with pytest.raises(InvalidArgument, match=says):
                    await client.explain(fields)

    run(scenario)


# -- reasons ------------------------------------------------------------------------------------------------


def test_a_decision_is_explained_with_its_reasons(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path) as (_, client):
            await client.set_rules(["when header.big == yes use digits@1"])
            await client.apply_routes([route("digits", ("1", 1), ("2", 1))])
            asked: dict[str, Any] = {
                "model_hint": {"family": "scans", "tags": ["small"]},
                "inputs": [{"name": "image", "dtype": "FP32", "shape": [1, 64]}],
            }
            decision = await client.explain({**asked, "session": "one"})
            assert (decision["model"], decision["nodes"], decision["decided_by"]) == ("digits", ["n1"], "n1")
            assert (decision["rules_version"], decision["routes_version"]) == (1, 1)
            assert [reason["step"] for reason in decision["reasons"]] == [
                *("hint", "route", "inputs", "nodes", "choice"),
            ]
            again = await client.explain({**asked, "session": "one", "seed": 12345})
            assert again["version"] == decision["version"]
            ruled = await client.explain({**asked, "headers": {"big": "yes"}})
            assert ruled["version"] == "1"
            assert ruled["reasons"][1]["reason"].startswith("rule 1 of version 1 of the rules holds")
            with pytest.raises(InputInvalid) as caught:
                await client.explain(
                    {**asked, "inputs": [{"name": "image", "dtype": "FP32", "shape": [1, 63]}]}
                )
            assert caught.value.details["reasons"][0] == "family scans, tags small: that is digits"

    run(scenario)


def test_what_a_snapshot_brings_is_what_requests_are_decided_by(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path) as (cluster, client):
            await client.apply_routes([route("digits", ("1", 1))])
            assert await version_of(client) == "1"
            node = cluster.running["n1"]
            state = node._running().state
            state.restore(state.snapshot())
            assert await version_of(client) == "1"
            await client.apply_routes([route("digits", ("2", 1))])
            assert await version_of(client) == "2"

    run(scenario)
