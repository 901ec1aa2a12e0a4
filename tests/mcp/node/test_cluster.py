"""Three nodes and their clients: agreeing, serving, losing a node, coming back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mcp.errors import (
    InputInvalid,
    InvalidArgument,
    McpError,
    ModelInvalid,
    ModelNotFound,
    PermissionDenied,
    VersionConflict,
)
from simulations.in_process import in_process_cluster as nodes
from simulations.in_process import until

ROOT = Path(__file__).parents[3]
DIGITS = ROOT / "examples" / "digits" / "digits.onnx"
MODELS = ROOT / "tests" / "executor" / "models"


def run(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(scenario())


def digit() -> np.ndarray[Any, Any]:
    """One held-out scan of a six, shape [1, 64]."""
    with np.load(ROOT / "examples" / "digits" / "held_out.npz") as held_out:
        scan: np.ndarray[Any, Any] = held_out["images"][:1]
        return scan


def test_what_is_written_through_one_node_is_read_through_every_other(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with nodes(tmp_path) as cluster:
            for name in cluster.names:
                async with cluster.client(name) as client:
                    version = await client.put("key", name)
                    assert version > 0
                for other in cluster.names:
                    async with cluster.client(other) as reader:
                        read = await reader.get("key", consistency="linearizable")
                        assert read is not None
                        assert read.value == name
            await cluster.equal()

    run(scenario)


def test_a_client_reads_its_own_writes_on_any_node(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with nodes(tmp_path) as cluster, cluster.client() as client:
            for i in range(100):
                await client.put("counter", i)
                read = await client.get("counter")
                assert read is not None
                assert read.value == i

    run(scenario)


def test_a_lost_compare_and_set_tells_the_winner(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with nodes(tmp_path) as cluster, cluster.client() as one, cluster.client() as two:
            version = await one.put("key", "first")
            await one.compare_and_set("key", "second", expected_version=version)
            with pytest.raises(VersionConflict) as lost:
                await two.compare_and_set("key", "third", expected_version=version)
            assert lost.value.details["value"] == "second"
            (conflict,) = await two.conflicts("key")
            assert conflict["attempted"] == "third"

    run(scenario)


def test_writes_of_one_call_are_made_once_each_while_the_leader_goes(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with nodes(tmp_path) as cluster, cluster.client() as client:
            values = {f"k{number:04d}": number for number in range(3000)}
            leader = await cluster.elected()
            before = cluster.running[leader].status()["applied_index"]
            writing = asyncio.ensure_future(client.put_many(values, timeout_s=30))
            await until(lambda: cluster.running[leader].status()["applied_index"] > before + 4)
            assert not writing.done()
            await cluster.stop(leader)
            assert await writing == dict.fromkeys(values, 1)
            await cluster.start(leader)
            await cluster.equal()
            assert len(await client.keys(limit=4000)) == len(values)

    run(scenario)


def test_nothing_acknowledged_is_lost_when_the_leader_goes(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with nodes(tmp_path) as cluster, cluster.client() as client:
            acknowledged: dict[str, int] = {}

            async def write(worker: int) -> None:
                for i in range(40):
                    key = f"w{worker}-{i}"
                    acknowledged[key] = await client.put(key, i, timeout_s=20)

            writing = [asyncio.ensure_future(write(w)) for w in range(4)]
            await until(lambda: len(acknowledged) > 40)
            leader = await cluster.elected()
            await cluster.stop(leader)
            await asyncio.gather(*writing)
            await cluster.start(leader)
            await cluster.equal()
            for name in cluster.names:
                async with cluster.client(name) as reader:
                    keys = await reader.keys("w", limit=1000)
                    assert set(keys) == set(acknowledged)

    run(scenario)


def test_a_leader_that_is_stopped_hands_over_first(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with nodes(tmp_path) as cluster, cluster.client() as client:
            leader = await cluster.elected()
            for restarts in range(6):
                await client.put("restarts", restarts)
                term = cluster.running[leader].status()["term"]
                await cluster.stop(leader)
                said = [node.status() for node in cluster.running.values()]
                successors = [status["node"] for status in said if status["role"] == "leader"]
                assert len(successors) == 1, "there is a leader before the last one has gone"
                assert max(status["term"] for status in said) == term + 1
                await cluster.start(leader)
                leader = await cluster.elected()
            read = await client.get("restarts", consistency="linearizable")
            assert read is not None
            assert read.value == 5

    run(scenario)


def test_a_leader_without_anybody_to_take_over_stops_all_the_same(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with nodes(tmp_path) as cluster:
            leader = await cluster.elected()
            for name in cluster.names:
                if name != leader:
                    await cluster.stop(name)
            async with asyncio.timeout(10):
                await cluster.stop(leader)
            for name in cluster.names:
                await cluster.start(name)
            await cluster.elected()
            async with asyncio.timeout(10), asyncio.TaskGroup() as group:
                for name in cluster.names:
                    group.create_task(cluster.stop(name))

    run(scenario)


def test_a_deployed_model_answers_on_every_node(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with nodes(tmp_path) as cluster, cluster.client() as client:
            deployed = await client.deploy("digits", DIGITS, aliases=["scans"], timeout_s=30)
            assert len(deployed.holders) >= 2
            answers = {}
            for name in cluster.names:
                async with cluster.client(name) as direct:
                    answer = await direct.infer("scans", digit(), timeout_s=10)
                    assert (answer.model, answer.version) == ("digits", "1")
                    answers[name] = answer.outputs["probabilities"]
            assert len(answers) == 3
            for other in answers.values():
                np.testing.assert_allclose(other, answers["n1"], rtol=1e-5)

    run(scenario)


def test_a_node_that_was_away_fetches_what_was_deployed_meanwhile(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with nodes(tmp_path) as cluster, cluster.client() as client:
            leader = await cluster.elected()
            away = next(name for name in cluster.names if name != leader)
            await cluster.stop(away)
            deployed = await client.deploy("digits", DIGITS, timeout_s=30)
            assert away not in deployed.holders
            node = await cluster.start(away)
            await until(lambda: any(m["ready"] for m in node.status()["models"]))
            await until(lambda: away in node.status()["models"][0]["holders"])
            async with cluster.client(away) as direct:
                assert (await direct.infer("digits", digit())).node == away

    run(scenario)


def test_a_deploy_without_a_quorum_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with nodes(tmp_path) as cluster:
            for name in cluster.names[1:]:
                await cluster.stop(name)
            async with cluster.client("n1") as client:
                with pytest.raises(McpError) as refused:
                    await client.deploy("digits", DIGITS, timeout_s=1.5)
                assert refused.value.code in ("UNAVAILABLE", "DEADLINE_EXCEEDED")
            for name in cluster.names[1:]:
                await cluster.start(name)
            await cluster.elected()
            async with cluster.client() as client:
                assert await client.models() == []

    run(scenario)


def test_what_is_no_model_never_gets_into_the_log(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with nodes(tmp_path) as cluster, cluster.client() as client:
            with pytest.raises(ModelInvalid):
                await client.deploy("broken", b"this is no ONNX file", timeout_s=10)
            assert await client.models() == []

    run(scenario)


def test_durable_and_replicated_inferences_are_recorded_once(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with nodes(tmp_path) as cluster, cluster.client() as client:
            await client.deploy("digits", DIGITS, timeout_s=30)
            durable = [await client.submit("digits", digit()) for _ in range(10)]
            for inference in durable:
                record = await client.result(inference, timeout_s=10)
                assert record.status == "done"
                assert record.outputs is not None
                assert record.outputs["label"].tolist() == [6]
            await until(lambda: all(_holders(n) == 3 for n in _all(cluster)))
            inference = await client.submit("digits", digit(), mode="replicated")
            record = await client.result(inference, timeout_s=10)
            assert set(record.replicas) == set(cluster.names)
            assert all(replica.equal for replica in record.replicas.values())

    run(scenario)


def test_submitting_the_same_id_again_runs_nothing_again(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with nodes(tmp_path) as cluster, cluster.client() as client, cluster.client() as other:
            await client.deploy("digits", DIGITS, timeout_s=30)
            first = await client.submit("digits", digit(), id="the-one")
            before = await client.result(first, timeout_s=10)
            assert await other.submit("digits", digit(), id="the-one") == "the-one"
            after = await other.result("the-one", timeout_s=10)
            assert (after.token, after.attempts, after.node) == (before.token, before.attempts, before.node)
            with pytest.raises(InvalidArgument):
                await other.submit("digits", digit() + 1, id="the-one")

    run(scenario)


def test_an_inference_whose_node_dies_is_run_by_another_and_the_late_result_is_refused(
    tmp_path: Path,
) -> None:
    async def scenario() -> None:
        async with nodes(tmp_path) as cluster, cluster.client() as client:
            await client.deploy("digits", DIGITS, timeout_s=30)
            await until(lambda: all(_holders(n) == 3 for n in _all(cluster)))
            held = {name: _hold_runs(node) for name, node in cluster.running.items()}
            inference = await client.submit("digits", digit())
            first = await client.result(inference, wait=False)
            assert first.node is not None
            victim = first.node
            for name in cluster.names:
                if name != victim:
                    held[name].set()
            await cluster.stop(victim)
            record = await client.result(inference, timeout_s=20)
            assert record.status == "done"
            assert record.node != victim
            assert record.token > first.token
            leader = cluster.running[await cluster.elected()]
            outcome = {"outputs": []}
            late = {"id": inference, "node": victim, "token": first.token, "outcome": outcome}
            with pytest.raises(Exception, match="token") as refused:
                await leader._running().order.internal("inference.complete", late)
            assert getattr(refused.value, "code", None) == "FENCED"

    run(scenario)


def test_a_replica_that_differs_is_reported(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with nodes(tmp_path) as cluster, cluster.client() as client:
            await client.deploy("digits", DIGITS, timeout_s=30)
            await until(lambda: all(_holders(n) == 3 for n in _all(cluster)))
            _falsify(cluster.running["n2"])
            inference = await client.submit("digits", digit(), mode="replicated")
            record = await client.result(inference, timeout_s=10)
            assert {name for name, replica in record.replicas.items() if replica.equal} != set(cluster.names)
            await until(lambda: all(n.status()["metrics"]["replicas_diverged"] for n in _all(cluster)))

    run(scenario)


@pytest.mark.parametrize(
    ("model", "inputs", "error", "says"),
    [
        ("nobody", np.zeros((1, 64), np.float32), ModelNotFound, "digits"),
        ("digits", np.zeros((1, 63), np.float32), InputInvalid, "64"),
        ("digits", np.zeros((1, 64), np.int64), InputInvalid, "FP32"),
        ("digits", {"pixels": np.zeros((1, 64), np.float32)}, InputInvalid, "image"),
        ("digits", "a text", InputInvalid, "BYTES"),
    ],
)
def test_bad_inference_requests_say_what_was_expected(
    tmp_path: Path, model: str, inputs: Any, error: type[Exception], says: str
) -> None:
    async def scenario() -> None:
        async with nodes(tmp_path, 1) as cluster, cluster.client() as client:
            await client.deploy("digits", DIGITS, timeout_s=30)
            with pytest.raises(error, match=says):
                await client.infer(model, inputs, timeout_s=5)
            assert (await client.infer("digits", digit())).outputs["label"].tolist() == [6]

    run(scenario)


def test_a_text_is_answered_by_the_model_behind_the_alias(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with nodes(tmp_path, 1) as cluster, cluster.client() as client:
            await client.deploy("echo", MODELS / "strings.onnx", aliases=["glm-large"], timeout_s=30)
            answer = await client.infer("glm-large", "用户输入文本分片")
            assert "用户输入文本分片" in str(next(iter(answer.outputs.values())).tolist())

    run(scenario)


def test_a_client_cannot_propose_what_only_nodes_may(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with nodes(tmp_path, 1) as cluster, cluster.client() as client:
            with pytest.raises(PermissionDenied):
                await client._command("member.down", {"node": "n1", "incarnation": 2**60}, timeout_s=2)

    run(scenario)


def test_large_replicated_results_are_compared_within_the_tolerance(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with nodes(tmp_path) as cluster, cluster.client() as client:
            await client.deploy("digits", DIGITS, timeout_s=30)
            await until(lambda: all(_holders(n) == 3 for n in _all(cluster)))
            for node in _all(cluster):
                node._running().assignments._inline_bytes_max = 16
            _falsify(cluster.running["n2"], by=1e-6)
            _falsify(cluster.running["n3"], by=0.5)
            inference = await client.submit("digits", digit(), mode="replicated")
            record = await client.result(inference, timeout_s=10)
            assert record.status == "done"
            assert record.outputs is not None
            assert record.outputs["label"].tolist() == [6]
            assert {name: replica.equal for name, replica in record.replicas.items()} == {
                "n1": True,
                "n2": True,
                "n3": False,
            }
            near = record.replicas["n2"].max_abs_diff
            assert near is not None
            assert 0 < near < 1e-5

    run(scenario)


def test_a_large_durable_result_is_fetched_from_the_node_that_has_it(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with nodes(tmp_path) as cluster, cluster.client() as client:
            await client.deploy("digits", DIGITS, timeout_s=30)
            for node in _all(cluster):
                node._running().assignments._inline_bytes_max = 16
            record = await client.result(await client.submit("digits", digit()), timeout_s=10)
            assert record.outputs is not None
            assert record.outputs["label"].tolist() == [6]
            used = {digest for node in _all(cluster) for digest in node._running().state.inferences.blobs()}
            assert len(used) == 1

    run(scenario)


def _holders(node: Any) -> int:
    """How many hold the only model, as far as ``node`` knows; it may not know the model yet."""
    return sum(len(model["holders"]) for model in node.status()["models"])


def _all(cluster: Any) -> list[Any]:
    return list(cluster.running.values())


def _hold_runs(node: Any) -> asyncio.Event:
    """Keep a node's durable runs from beginning until the event is set: a node that is slow."""
    released = asyncio.Event()
    shelf = node._running().shelf
    original = shelf.run

    async def held(*args: Any) -> Any:
        await released.wait()
        return await original(*args)

    shelf.run = held
    return released


def _falsify(node: Any, by: float = 0.5) -> None:
    """Make a node's runs give wrong numbers: a broken machine."""
    shelf = node._running().shelf
    original = shelf.run

    async def wrong(*args: Any) -> Any:
        outputs = await original(*args)
        return {**outputs, "probabilities": outputs["probabilities"] + np.float32(by)}

    shelf.run = wrong
