"""The client's calls, against stand-in nodes over in-memory connections in virtual time."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest

from mcp.clock import Clock, SystemClock
from mcp.errors import (
    AuthenticationFailed,
    Busy,
    DeadlineExceeded,
    InferenceFailed,
    InvalidArgument,
    ModelNotFound,
    ModelNotReady,
    NotFound,
    TooLarge,
    Unavailable,
    VersionConflict,
)


def test_keys_are_written_read_compared_and_deleted(cluster_of: Any, virtual: Any) -> None:
    async def main(clock: Clock) -> None:
        async with cluster_of(clock=clock) as cluster, cluster.client() as client:
            assert await client.get("k") is None
            assert await client.put("k", {"a": [1, b"x", None, 0.5]}) == 1
            found = await client.get("k")
            assert (found.key, found.value, found.version) == ("k", {"a": [1, b"x", None, 0.5]}, 1)
            assert found.index > 0
            assert await client.compare_and_set("k", "new", expected_version=1) == 2
            with pytest.raises(VersionConflict) as conflict:
                await client.compare_and_set("k", "late", expected_version=1)
            assert conflict.value.details["value"] == "new"
            assert conflict.value.details["version"] == 2
            (lost,) = await client.conflicts("k")
            assert lost["attempted"] == "late"
            assert await client.keys("", 10) == ["k"]
            assert await client.delete("k", expected_version=2) == 2
            assert await client.get("k", consistency="linearizable") is None
            assert await client.delete("k") == 0

    virtual(main)


def test_what_a_client_wrote_it_demands_of_every_node(cluster_of: Any, virtual: Any) -> None:
    async def main(clock: Clock) -> None:
        async with cluster_of(clock=clock) as cluster, cluster.client() as client:
            await client.put("k", 1)
            wrote = cluster.state.applied_index
            for _ in range(20):
                await client.get("k")
            reads = [m for n in cluster.nodes.values() for m in n.received if m.type == "READ"]
            assert len(reads) == 20
            assert all(message.vector.get("log") >= wrote for message in reads)

    virtual(main)


def test_a_lost_comparison_moves_the_session_on_too(cluster_of: Any, virtual: Any) -> None:
    async def main(clock: Clock) -> None:
        async with cluster_of(clock=clock) as cluster, cluster.client() as one, cluster.client() as two:
            await one.put("k", 1)
            with pytest.raises(VersionConflict):
                await two.compare_and_set("k", 2, expected_version=0)
            assert two._exchange.vector.get("log") == cluster.state.applied_index

    virtual(main)


def test_an_array_a_dict_and_a_text_are_inferred(cluster_of: Any, virtual: Any) -> None:
    async def main(clock: Clock) -> None:
        async with cluster_of(clock=clock) as cluster, cluster.client() as client:
            bare = await client.infer("m", np.float32([[1, 2]]))
            assert bare.outputs["only twice"].tolist() == [[2, 4]]
            assert bare.output is bare.outputs["only twice"]
            assert (bare.model, bare.version) == ("m", "1")
            assert bare.node in cluster.nodes
            named = await client.infer("m", {"a": np.int64([3]), "b": [1.5]})
            assert {k: v.tolist() for k, v in named.outputs.items()} == {"a twice": [6], "b twice": [3.0]}
            assert (await client.infer("m", "用户")).outputs["text"].tolist() == ["用户"]

    virtual(main)


def test_the_remaining_time_travels_with_the_request(cluster_of: Any, virtual: Any) -> None:
    async def main(clock: Clock) -> None:
        async with cluster_of(size=1, clock=clock) as cluster, cluster.client() as client:
            await client.infer("m", np.zeros(1), timeout_s=2.5)
            (message,) = [m for m in cluster.nodes["n1"].received if m.type == "INFER_REQUEST"]
            assert 2490 <= message.ttl.ms <= 2500
            assert message.payload["timeout_ms"] == message.ttl.ms

    virtual(main)


def test_direct_inference_is_spread_over_all_nodes(cluster_of: Any, virtual: Any) -> None:
    async def main(clock: Clock) -> None:
        async with cluster_of(clock=clock) as cluster, cluster.client("n2") as client:
            await client.infer("m", np.zeros(1))
            await asyncio.sleep(0.1)  # virtual: the members are asked for and connected meanwhile
            answers = await asyncio.gather(*(client.infer("m", np.zeros(1)) for _ in range(60)))
            share = {node: sum(a.node == node for a in answers) for node in cluster.nodes}
            assert min(share.values()) >= 10, share

    virtual(main)


def test_a_node_that_is_not_ready_is_passed_over_at_once(cluster_of: Any, fault: Any, virtual: Any) -> None:
    async def main(clock: Clock) -> None:
        async with cluster_of(clock=clock) as cluster, cluster.client() as client:
            for name in ("n1", "n2"):
                cluster.nodes[name].faults.append(fault("INFER_REQUEST", ModelNotReady("loading"), 999))
            began = clock.monotonic()
            assert (await client.infer("m", np.zeros(1))).node == "n3"
            assert clock.monotonic() - began < 0.005

    virtual(main)


def test_busy_everywhere_is_told_to_the_caller_once_the_budget_is_spent(
    cluster_of: Any, fault: Any, virtual: Any
) -> None:
    async def main(clock: Clock) -> None:
        async with cluster_of(clock=clock) as cluster, cluster.client() as client:
            for node in cluster.nodes.values():
                node.faults.append(fault("INFER_REQUEST", Busy("full"), 10**6))
            calls = [client.infer("m", np.zeros(1), timeout_s=60) for _ in range(200)]
            errors = await asyncio.gather(*calls, return_exceptions=True)
            assert {type(error) for error in errors} == {Busy}
            # The budget is 100 and a fifth of the calls: far from one retry for each.
            assert cluster.received("INFER_REQUEST") <= 200 + 100 + 40

    virtual(main)


def test_a_hanging_node_costs_only_a_part_of_the_time(cluster_of: Any, fault: Any, virtual: Any) -> None:
    async def main(clock: Clock) -> None:
        async with cluster_of(clock=clock) as cluster, cluster.client() as client:
            await client.put("k", 1)
            cluster.nodes["n1"].faults += [fault("COMMAND", "hang"), fault("READ", "hang")]
            assert await client.put("k", 2, timeout_s=9) == 2
            for _ in range(6):
                assert (await client.get("k", timeout_s=9)).value == 2
            assert cluster.nodes["n1"].cancelled >= 1

    virtual(main)


def test_a_deadline_that_nothing_was_sent_for_says_so(cluster_of: Any, virtual: Any) -> None:
    async def main(clock: Clock) -> None:
        async with cluster_of(clock=clock) as cluster, cluster.client() as client:
            for node in cluster.nodes.values():
                await node.stop()
            began = clock.monotonic()
            with pytest.raises(DeadlineExceeded, match="Nothing was changed"):
                await client.put("k", 1, timeout_s=3)
            with pytest.raises(DeadlineExceeded, match="nobody listens"):
                await client.get("k", timeout_s=3)
            assert clock.monotonic() - began <= 6

    virtual(main)


def test_cancelling_a_call_cancels_its_request(cluster_of: Any, fault: Any, virtual: Any) -> None:
    async def main(clock: Clock) -> None:
        async with cluster_of(size=1, clock=clock) as cluster, cluster.client() as client:
            node = cluster.nodes["n1"]
            node.faults.append(fault("INFER_REQUEST", "hang"))
            call = asyncio.create_task(client.infer("m", np.zeros(1)))
            await asyncio.sleep(0.1)
            assert "INFER_REQUEST" in node.types()
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            await asyncio.sleep(0.1)
            assert node.cancelled == 1

    virtual(main)


def test_a_durable_inference_is_submitted_and_its_result_awaited(cluster_of: Any, virtual: Any) -> None:
    async def main(clock: Clock) -> None:
        async with cluster_of(clock=clock) as cluster, cluster.client() as client:
            deploy_directly(cluster)
            identifier = await client.submit("m", {"x": np.float32([1, 2])})
            assert (await client.result(identifier, wait=False)).status == "assigned"
            waiting = asyncio.create_task(client.result(identifier, timeout_s=60))
            await asyncio.sleep(17)  # virtual: longer than several slices of waiting
            complete(cluster, identifier, {"outputs": inline({"y": np.float32([4])})})
            record = await waiting
            assert record.status == "done"
            assert record.finished
            assert record.outputs["y"].tolist() == [4]
            assert (record.mode, record.model, record.node, record.attempts) == ("durable", "m", "n1", 1)

    virtual(main)


def test_a_failed_inference_is_returned_with_its_error(cluster_of: Any, virtual: Any) -> None:
    async def main(clock: Clock) -> None:
        async with cluster_of(clock=clock) as cluster, cluster.client() as client:
            deploy_directly(cluster)
            await client.submit("m", {"x": np.float32([1])}, id="mine")
            error = {"code": "INVALID_ARGUMENT", "message": "no such thing"}
            complete(cluster, "mine", {"error": error})
            record = await client.result("mine")
            assert record.status == "failed"
            assert record.outputs is None
            assert isinstance(record.error, InvalidArgument)

    virtual(main)


def test_a_result_that_is_not_there_in_time_goes_on(cluster_of: Any, virtual: Any) -> None:
    async def main(clock: Clock) -> None:
        async with cluster_of(clock=clock) as cluster, cluster.client() as client:
            deploy_directly(cluster)
            await client.submit("m", {"x": np.float32([1])}, id="slow")
            with pytest.raises(DeadlineExceeded, match="it goes on"):
                await client.result("slow", timeout_s=12)
            with pytest.raises(NotFound):
                await client.result("never.submitted")
            with pytest.raises(NotFound):
                await client.result("never-submitted", wait=False)

    virtual(main)


def test_mistakes_are_found_before_anything_is_sent(cluster_of: Any) -> None:
    async def main(clock: Clock) -> None:
        async with cluster_of(clock=clock) as cluster, cluster.client() as client:
            wrong = [
                client.infer("", np.zeros(1)),
                client.infer("m", {}),
                client.infer("m", 3.0),  # type: ignore[arg-type]
                client.infer("m", {"x": np.zeros(1, complex)}),
                client.infer("m", {"x": {}}),  # type: ignore[dict-item]
                client.infer("m", np.zeros(1), timeout_s=-1),
                client.infer("m", np.zeros(1), timeout_s=float("nan")),
                client.infer("m", np.zeros(1), outputs="y"),
                client.submit("m", np.zeros(1), mode="twice"),  # type: ignore[arg-type]
                client.get(""),
                client.get("k", consistency="fresh"),  # type: ignore[arg-type]
                client.put("k", object()),
                client.put("k", {1: "not text"}),
                client.put("k", 2**80),
                client.compare_and_set("k", 1, expected_version=-1),
                client.compare_and_set("k", 1, expected_version=True),
                client.keys("", 0),
                client.keys("", after=""),
                client.activate("m", ""),
                client.activate("m", None),  # type: ignore[arg-type]
                client.undeploy("m", ""),
                client.deploy("m", b""),
                client.deploy("m", "/no/such/file.onnx"),
                client.deploy("m", b"x", aliases="one"),
                client.deploy("m", "no\0path"),
                client.deploy("m", "\ud800"),
                client.infer("m", np.zeros(1), headers="x-a"),  # type: ignore[arg-type]
                client.apply_routes([1]),  # type: ignore[list-item]
                client.apply_routes(1),  # type: ignore[arg-type]
                client.apply_routes({"host": "m"}),  # type: ignore[arg-type]
                client.set_limits("none"),  # type: ignore[arg-type]
                client.explain("m"),  # type: ignore[arg-type]
                client.begin_rollout("m", "2", steps=100),  # type: ignore[arg-type]
                client.begin_rollout("m", "2", steps="5"),  # type: ignore[arg-type]
            ]
            for call in wrong:
                with pytest.raises(InvalidArgument):
                    await call
            with pytest.raises(TooLarge, match="inline_bytes_max"):
                await client.submit("m", np.zeros(20_000))
            assert sum(len(node.received) for node in cluster.nodes.values()) == 0

    asyncio.run(main(SystemClock()))  # files are read in threads


def test_a_wrong_key_is_told_as_such_and_not_retried_for_ever(cluster_of: Any, virtual: Any) -> None:
    async def main(clock: Clock) -> None:
        async with cluster_of(clock=clock) as cluster:
            for settings in ({"cluster_key": b"another key"}, {"cluster_id": "another"}):
                async with cluster.client(**settings) as client:
                    with pytest.raises(AuthenticationFailed):
                        await client.get("k")
                    with pytest.raises(AuthenticationFailed):
                        await client.put("k", 1)
            assert clock.monotonic() < 1

    virtual(main)


def test_status_asks_every_node_and_lists_those_that_do_not_answer(
    cluster_of: Any, fault: Any, virtual: Any
) -> None:
    async def main(clock: Clock) -> None:
        async with cluster_of(size=5, clock=clock) as cluster, cluster.client("n1") as client:
            await cluster.nodes["n4"].stop()
            cluster.nodes["n5"].faults.append(fault("STATUS", "hang", 99))
            status = await client.status()
            assert [(n.node, n.reachable) for n in status.nodes] == [
                ("n1", True),
                ("n2", True),
                ("n3", True),
                ("n4", False),
                ("n5", False),
            ]
            assert status.leader == "n1"
            assert status.has_quorum
            errors = {n.node: type(n.error) for n in status.nodes if n.error}
            assert errors == {"n4": Unavailable, "n5": DeadlineExceeded}
            assert clock.monotonic() <= 2.5

    virtual(main)


def test_a_node_that_never_answered_is_listed_by_the_name_that_the_others_know(
    cluster_of: Any, virtual: Any
) -> None:
    async def main(clock: Clock) -> None:
        async with cluster_of(clock=clock) as cluster:
            await cluster.nodes["n2"].stop()
            async with cluster.client() as client:
                status = await client.status()
                assert [(n.node, n.reachable) for n in status.nodes] == [
                    *(("n1", True), ("n2", False), ("n3", True)),
                ]

    virtual(main)


def test_a_node_that_refuses_the_client_is_listed_with_the_reason(cluster_of: Any, virtual: Any) -> None:
    async def main(clock: Clock) -> None:
        async with cluster_of(clock=clock) as cluster, cluster.client(cluster_key=b"another key") as client:
            status = await client.status()
            assert [type(node.error) for node in status.nodes] == [AuthenticationFailed] * 3
            assert "cluster key" in (status.nodes[0].problem or "")

    virtual(main)


def test_a_version_is_activated_and_taken_out_of_service(cluster_of: Any, virtual: Any) -> None:
    async def main(clock: Clock) -> None:
        async with cluster_of(clock=clock) as cluster, cluster.client() as client:
            deploy_directly(cluster)
            deploy_directly(cluster, digest="e" * 64)

            async def versions() -> list[Any]:
                return [(m.version, m.versions) for m in await client.models()]

            assert await versions() == [("2", ["1", "2"])]
            await client.activate("m", "1")
            await client.activate("m", "1")
            assert await versions() == [("1", ["1", "2"])]
            await client.undeploy("m", "1")
            assert await versions() == [("2", ["2"])]
            with pytest.raises(ModelNotFound):
                await client.activate("m", "1")
            with pytest.raises(ModelNotFound):
                await client.undeploy("m", "1")
            await client.undeploy("m")
            assert await versions() == []

    virtual(main)


def test_many_keys_are_read_in_pieces(cluster_of: Any, virtual: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mcp.client.client.KEYS_PER_READ_MAX", 3)

    async def main(clock: Clock) -> None:
        async with cluster_of(size=1, clock=clock) as cluster, cluster.client() as client:
            names = [f"k{number}" for number in range(7)]
            for name in names:
                await client.put(name, 1)
            assert await client.keys(limit=7) == await client.keys(limit=9) == names
            assert await client.keys(limit=4) == names[:4]
            assert await client.keys("k", 2, after="k4") == names[5:]
            limits = [m.payload["args"]["limit"] for m in cluster.nodes["n1"].received if m.type == "READ"]
            assert limits == [3, 3, 1, 3, 3, 3, 3, 1, 2]

    virtual(main)


def test_a_read_whose_answer_is_lost_is_never_of_unknown_outcome(
    cluster_of: Any, fault: Any, virtual: Any
) -> None:
    async def main(clock: Clock) -> None:
        async with cluster_of(clock=clock) as cluster, cluster.client() as client:
            for node in cluster.nodes.values():
                node.faults.append(fault("READ", "lose answer", 10**6))
            with pytest.raises(DeadlineExceeded, match="Nothing was changed") as error:
                await client.get("k", consistency="linearizable", timeout_s=3)
            assert "OUTCOME_UNKNOWN" not in error.value.message
            assert "request id" not in error.value.message

    virtual(main)


def test_models_and_members_are_typed(cluster_of: Any, virtual: Any) -> None:
    async def main(clock: Clock) -> None:
        async with cluster_of(clock=clock) as cluster, cluster.client() as client:
            deploy_directly(cluster)
            (model,) = await client.models()
            assert (model.name, model.version, model.holders, model.ready) == ("m", "1", ["n1"], None)
            assert (model.size, model.tags, model.inputs) == (1, [], [])
            members = await client.members()
            assert [(m.node, m.state) for m in members] == [("n1", "up"), ("n2", "up"), ("n3", "up")]

    virtual(main)


def test_more_calls_than_a_connection_takes_wait_for_their_turn(cluster_of: Any, virtual: Any) -> None:
    from mcp.net.limits import Limits

    async def main(clock: Clock) -> None:
        limits = Limits(streams_max=8)
        async with cluster_of(size=1, clock=clock, limits=limits) as cluster, cluster.client() as client:
            calls = [client.infer("m", np.zeros(1)) for _ in range(500)]
            writes = [client.put(f"k{i % 7}", i) for i in range(500)]
            await asyncio.gather(*calls, *writes)
            assert len(cluster.ops()) == 500

    virtual(main)


def test_waiting_for_results_does_not_keep_other_calls_out(cluster_of: Any, virtual: Any) -> None:
    from mcp.net.limits import Limits

    async def main(clock: Clock) -> None:
        limits = Limits(streams_max=8)
        async with cluster_of(size=1, clock=clock, limits=limits) as cluster, cluster.client() as client:
            deploy_directly(cluster)
            await client.submit("m", {"x": np.float32([1])}, id="slow")
            waiting = [asyncio.create_task(client.result("slow", timeout_s=60)) for _ in range(50)]
            await asyncio.sleep(1)
            began = clock.monotonic()
            await client.put("k", 1)
            assert clock.monotonic() - began < 0.005
            complete(cluster, "slow", {"outputs": []})
            assert {record.status for record in await asyncio.gather(*waiting)} == {"done"}

    virtual(main)


def test_a_closed_client_ends_what_is_under_way(cluster_of: Any, fault: Any, virtual: Any) -> None:
    async def main(clock: Clock) -> None:
        async with cluster_of(clock=clock) as cluster:
            client = cluster.client()
            await client.get("k")
            for node in cluster.nodes.values():
                node.faults.append(fault("INFER_REQUEST", "hang", 9))
            call = asyncio.create_task(client.infer("m", np.zeros(1)))
            await asyncio.sleep(0.1)
            await client.close()
            await client.close()
            with pytest.raises(Unavailable, match="closed"):
                await call
            for later in (client.get("k"), client.put("k", 1), client.infer("m", np.zeros(1))):
                with pytest.raises(Unavailable, match="closed"):
                    await later

    virtual(main)


def test_closing_leaves_no_task_and_no_session_behind(cluster_of: Any, virtual: Any) -> None:
    async def main(clock: Clock) -> None:
        async with cluster_of(clock=clock) as cluster:
            async with cluster.client() as client:
                await asyncio.gather(*(client.put("k", i) for i in range(10)))
                assert len(cluster.state.sessions) == 1
            assert len(cluster.state.sessions) == 0
            await asyncio.sleep(0)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    virtual(main)


def test_a_client_without_addresses_is_refused() -> None:
    from mcp.client.client import Client

    for addresses in ([], "", ["a:1", ""], ["no port"], [f"h:{i}" for i in range(100)]):
        with pytest.raises(InvalidArgument):
            Client(addresses)


def deploy_directly(cluster: Any, digest: str = "d" * 64) -> None:
    manifest = {"name": "m", "digest": digest, "size": 1}
    cluster.commit("model.deploy", {"manifest": manifest, "holders": ["n1"]})


def complete(cluster: Any, identifier: str, outcome: dict[str, Any]) -> None:
    record = cluster.state.inferences.get(identifier)
    args = {"id": identifier, "node": "n1", "token": record.token, "outcome": outcome}
    cluster.commit("inference.complete", args)


def inline(arrays: dict[str, Any]) -> list[dict[str, Any]]:
    from mcp.wire.tensors import pack_inline

    return [pack_inline(name, array) for name, array in arrays.items()]


def test_a_record_keeps_what_replicas_reported() -> None:
    from mcp.client import answers

    record = answers.record(
        {
            "id": "i",
            "status": "failed",
            "mode": "replicated",
            "error": {"code": "INFERENCE_FAILED", "message": "m"},
            "replicas": {"n1": {"equal": False, "max_abs_diff": 0.5}, "n2": {"equal": True}},
        },
        None,
    )
    assert isinstance(record.error, InferenceFailed)
    assert not record.replicas["n1"].equal
    assert record.replicas["n1"].max_abs_diff == 0.5
    assert record.replicas["n2"].max_abs_diff is None
