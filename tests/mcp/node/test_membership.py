"""Whole nodes that join, leave, are replaced, and lose their disks."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
from collections.abc import Callable, Coroutine
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from consensus.errors import ConsensusError
from consensus.interface import Role
from consensus.ports import DriverLimits
from mcp.client.exchange import Request
from mcp.client.kinds import CallKind
from mcp.clock import SystemClock, new_id
from mcp.errors import (
    ConfigInvalid,
    MembershipRefused,
    NotFound,
    OutcomeUnknown,
    PermissionDenied,
    Unavailable,
)
from mcp.net.dial import connect
from mcp.node import NodeConfig
from mcp.node.storage import NodeFiles, open_files
from mcp.wire.handshake import Identity
from mcp.wire.handshake import Role as Role_
from mcp.wire.messages import Message, Ttl
from simulations.in_process import InProcessCluster, until
from simulations.in_process import in_process_cluster as nodes

ROOT = Path(__file__).parents[3]
DIGITS = ROOT / "examples" / "digits" / "digits.onnx"
SMALL = DriverLimits(log_entries_max=20, log_entries_retained=2)


def run(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(scenario())


def voters(cluster: InProcessCluster) -> set[tuple[str, ...]]:
    """The voters, as all members that run have them."""
    told = [node.status() for node in cluster.running.values()]
    return {tuple(status["voters"]) for status in told if status["standing"] != "outsider"}


async def agreed(cluster: InProcessCluster, *names: str) -> None:
    await until(lambda: voters(cluster) == {names})


async def roles(cluster: InProcessCluster) -> dict[str, str]:
    async with cluster.client() as client:
        return {member.node: member.role for member in await client.members()}


def test_a_node_joins_by_snapshot_and_log_serves_and_then_votes(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with nodes(tmp_path, consensus_limits=SMALL) as cluster, cluster.client() as client:
            await client.deploy("digits", DIGITS)
            for n in range(60):
                await client.put(f"key-{n}", n)
            await cluster.join("n4", "n2")
            await agreed(cluster, "n1", "n2", "n3", "n4")
            await cluster.equal()
            assert cluster.running["n4"].status()["first_index"] > 20
            async with cluster.client("n4") as reader:
                read = await reader.get("key-59", consistency="linearizable")
                assert read is not None
                assert read.value == 59
                answer = await reader.infer("digits", np.zeros((1, 64), np.float32), timeout_s=30)
                assert answer.node == "n4"
                assert await roles(cluster) == dict.fromkeys(("n1", "n2", "n3", "n4"), "voter")
            await cluster.stop("n4")
            await cluster.join("n4", "n1")
            await agreed(cluster, "n1", "n2", "n3", "n4")

    run(scenario)


@pytest.mark.parametrize("name", ["a4", "n4"])
def test_who_dials_whom_does_not_matter_to_whoever_joins(tmp_path: Path, name: str) -> None:
    """Of two nodes the one with the smaller name dials, and it may be the one that nobody knows yet."""

    async def scenario() -> None:
        async with nodes(tmp_path, 2) as cluster:
            leader = await cluster.elected()
            await cluster.join(name, next(n for n in cluster.names if n != leader))
            await agreed(cluster, *sorted(("n1", "n2", name)))
            await cluster.members_up()
            await cluster.stop(leader)
            async with cluster.client(name) as client:
                await client.put("key", "two of three", timeout_s=20)

    run(scenario)


def test_an_observer_serves_and_votes_only_when_it_is_promoted(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with nodes(tmp_path, 1) as cluster, cluster.client() as client:
            await cluster.join("n2", "n1", observer=True)
            await until(lambda: cluster.running["n2"].status()["standing"] == "observer")
            await client.put("key", 1)
            async with cluster.client("n2") as reader:
                await reader.put("key", 2, timeout_s=20)
                read = await reader.get("key", consistency="linearizable", timeout_s=20)
                assert read is not None
                assert read.value == 2
            assert await roles(cluster) == {"n1": "voter", "n2": "observer"}
            index = await client.promote("n2", timeout_s=20)
            assert index > 0
            assert await client.promote("n2", timeout_s=20) == index
            await agreed(cluster, "n1", "n2")

    run(scenario)


def test_a_cluster_that_waits_for_a_voter_to_begin_says_for_whom(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mcp.node.joining.LOOK_S", 0.02)

    def told() -> list[str]:
        said = [record.getMessage() for record in caplog.records]
        return [
            line for line in said if "waits for" in line and "all its voters run at the same time" in line
        ]

    async def scenario() -> None:
        cluster = InProcessCluster(tmp_path)
        try:
            await cluster.start("n1")
            await until(lambda: any("node n1 waits for n2, n3:" in line for line in told()))
            await cluster.start("n2")
            await until(lambda: any("node n1 waits for n3:" in line for line in told()))
            await until(lambda: any("node n2 waits for n3:" in line for line in told()))
            for name in ("n1", "n2"):  # until it changes: a link may break and be made again
                own = [line for line in told() if line.startswith(f"node {name} ")]
                assert all(one != other for one, other in pairwise(own)), "each is told once"
            await cluster.start("n3")
            await cluster.elected()
        finally:
            for name in list(cluster.running):
                await cluster.stop(name)

    with caplog.at_level(logging.WARNING, "mcp.node"):
        run(scenario)


def test_a_node_says_in_its_log_what_it_is_and_what_to_do_when_it_is_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        async with nodes(tmp_path, 1) as cluster, cluster.client() as client:
            await cluster.join("n2", "n1")
            await agreed(cluster, "n1", "n2")
            await until(lambda: "node n2 is a voter of the cluster" in caplog.text)
            await client.remove("n2", timeout_s=20)
            await until(lambda: "node n2 was removed and is no member" in caplog.text)

    with caplog.at_level(logging.INFO, "mcp.node"):
        run(scenario)
    assert "node n2 is no member of the cluster yet, and asks to be taken in" in caplog.text
    out = next(record for record in caplog.records if "was removed" in record.getMessage())
    assert out.levelno == logging.WARNING
    assert "empty its data directory and start it with --join" in out.getMessage()


def test_a_removed_leader_says_so_and_answers_nothing_that_may_be_old(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with nodes(tmp_path) as cluster, cluster.client() as client:
            await client.put("key", 1)
            leader = await cluster.elected()
            await client.remove(leader, timeout_s=20)
            rest = [name for name in cluster.names if name != leader]
            await until(lambda: cluster.running[leader].status()["standing"] == "outsider")
            await agreed(cluster, *rest)
            await client.put("key", 2, timeout_s=20)
            async with cluster.client(leader) as reader:
                status = await reader.status()
                gone = next(node for node in status.nodes if node.node == leader)
                assert gone.problem == "is no member of the cluster"
                await refused(reader, leader, "session")
                await refused(reader, leader, "stale")
            await cluster.stop(leader)
            await cluster.start(leader)
            await until(lambda: cluster.running[leader].status()["standing"] == "outsider")
            async with cluster.client(leader) as reader:
                await refused(reader, leader, "stale")
            assert voters(cluster) == {tuple(rest)}, "it does not come back by itself"
            assert (await roles(cluster))[leader] == "none"

    run(scenario)


async def refused(reader: Any, node: str, consistency: str) -> None:
    """The node answers no read, not even one that may be old: how old is not known to it."""
    read = {"kind": "key", "args": {"key": "key"}, "consistency": consistency}
    with pytest.raises(Unavailable, match="no member of the cluster"):
        await reader._exchange.attempt(Request(CallKind.READ, "READ", read), f"memory://{node}", 5.0)


@pytest.mark.parametrize("how", ["same command", "join"])
def test_a_voter_whose_disk_was_emptied_is_taken_in_again_as_another(tmp_path: Path, how: str) -> None:
    async def scenario() -> None:
        async with nodes(tmp_path) as cluster, cluster.client() as client:
            await client.put("key", 1)
            before = {member.node: member.journal for member in await client.members()}
            await cluster.stop("n3")
            shutil.rmtree(tmp_path / "n3")
            await (cluster.start("n3") if how == "same command" else cluster.join("n3", "n1"))
            await until(lambda: cluster.running["n3"].status()["standing"] != "voter")
            await until(lambda: cluster.running["n3"].status()["standing"] == "voter")
            await agreed(cluster, "n1", "n2", "n3")
            await cluster.members_up()
            after = {member.node: member.journal for member in await client.members()}
            assert before["n3"] != after["n3"]
            assert {n: before[n] for n in ("n1", "n2")} == {n: after[n] for n in ("n1", "n2")}
            await cluster.stop("n1")
            await client.put("key", 2, timeout_s=20)

    run(scenario)


def test_nobody_is_taken_in_under_the_name_of_a_node_that_is_alive(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with nodes(tmp_path) as cluster, cluster.client() as client:
            await client.put("key", 1)
            before = {member.node: member.journal for member in await client.members()}
            identity = Identity("mcp", "n3", b"", Role_.NODE)
            payload = {"change": "join", "node": "n3", "journal": 999, "address": "memory://elsewhere"}

            async def ask_once() -> None:
                network, clock = cluster.network, SystemClock()
                connection = await connect("memory://n1", identity, clock=clock, network=network, timeout_s=5)
                message = Message("MEMBER_CHANGE", payload, new_id(clock), ttl=Ttl(1, 5000))
                try:
                    await connection.request(message, timeout_s=5)
                finally:
                    connection.close()

            async def ask() -> None:
                """Again, as a node that joins does: the one that is alive makes its link to n1 anew."""
                while True:
                    with contextlib.suppress(OutcomeUnknown, Unavailable):
                        return await ask_once()

            with pytest.raises(MembershipRefused, match="n3 is alive at memory://n3,"):
                await ask()
            assert {member.node: member.journal for member in await client.members()} == before
            await cluster.stop("n3")
            await ask()
            after = {member.node: (member.role, member.journal) for member in await client.members()}
            assert after["n3"] == ("observer", 999)

    run(scenario)


def test_a_voter_is_taken_in_again_also_where_a_node_leads_that_it_never_knew(tmp_path: Path) -> None:
    """It is the one to dial that leader, by its name, and was begun with others."""

    async def scenario() -> None:
        async with nodes(tmp_path) as cluster, cluster.client() as client:
            await cluster.join("n4", "n1")
            await agreed(cluster, "n1", "n2", "n3", "n4")
            before = {member.node: member.journal for member in await client.members()}
            await lead(cluster, "n4")
            await cluster.stop("n3")
            await client.remove("n3", timeout_s=20)
            await cluster.stop("n2")
            shutil.rmtree(tmp_path / "n2")
            await cluster.start("n2")
            await until(lambda: cluster.running["n2"].status()["standing"] != "voter")
            await until(lambda: cluster.running["n2"].status()["standing"] == "voter")
            await agreed(cluster, "n1", "n2", "n4")
            after = {member.node: member.journal for member in await client.members()}
            assert before["n2"] != after["n2"]

    run(scenario)


def test_a_node_that_was_removed_takes_nobody_in_and_whoever_asked_it_asks_another(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with nodes(tmp_path) as cluster, cluster.client() as client:
            leader = await cluster.elected()
            gone, member = (name for name in cluster.names if name != leader)
            await client.remove(gone, timeout_s=20)
            await until(lambda: cluster.running[gone].status()["standing"] == "outsider")
            request = Request(CallKind.READ, "MEMBER_CHANGE", {"change": "promote", "node": member})
            with pytest.raises(Unavailable, match="no member of the cluster; ask another"):
                await client._exchange.attempt(request, f"memory://{gone}", 5.0)
            await cluster.join("n4", gone, member)
            await agreed(cluster, *sorted({leader, member, "n4"}))

    run(scenario)


async def lead(cluster: InProcessCluster, name: str) -> None:
    """Have that node lead; one that was removed may not hear of it."""
    drivers = {each: node._parts.driver for each, node in cluster.running.items()}
    while drivers[name].status().role is not Role.LEADER:
        leader = drivers[name].leader
        if leader is None:
            await asyncio.sleep(0.05)
            continue
        with contextlib.suppress(ConsensusError):
            await drivers[leader].transfer_leadership(name, timeout_s=5)


def test_a_voter_that_was_away_finds_a_leader_that_came_meanwhile(tmp_path: Path) -> None:
    """It is the one to dial that leader, by its name, and does not know it."""

    async def scenario() -> None:
        async with nodes(tmp_path) as cluster, cluster.client() as client:
            await cluster.elected()
            await cluster.stop("n1")
            await cluster.join("n4", "n2")
            await agreed(cluster, "n1", "n2", "n3", "n4")
            await lead(cluster, "n4")
            await cluster.start("n1")
            await until(lambda: cluster.running["n1"].status()["leader"] == "n4")
            await client.put("key", 1, timeout_s=20)

    run(scenario)


def test_whoever_was_away_asks_more_than_one_that_was_removed_meanwhile(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with nodes(tmp_path, 4) as cluster, cluster.client() as client:
            await cluster.elected()
            await cluster.stop("n2")
            await client.remove("n1", timeout_s=20)
            await cluster.join("n5", "n3")
            await agreed(cluster, "n2", "n3", "n4", "n5")
            await lead(cluster, "n5")
            # The first by name of those that it knows is no member any more, and has heard of no other.
            await cluster.start("n2")
            await until(lambda: cluster.running["n2"].status()["leader"] == "n5")

    run(scenario)


def test_a_dead_node_is_replaced(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with nodes(tmp_path) as cluster, cluster.client() as client:
            leader = await cluster.elected()
            dead, alive = (name for name in cluster.names if name != leader)
            await cluster.stop(dead)
            with pytest.raises(MembershipRefused, match="which is no majority"):
                await until_refused(client, alive)
            await client.remove(dead, timeout_s=20)
            await cluster.join("n4", alive)
            await agreed(cluster, *sorted({leader, alive, "n4"}))
            await cluster.stop(leader)
            await client.put("key", 2, timeout_s=20)

    async def until_refused(client: Any, name: str) -> None:
        # It takes a moment until the leader has missed the one that is dead.
        await asyncio.sleep(0.5)
        await client.remove(name, timeout_s=20)

    run(scenario)


def test_whoever_is_no_member_cannot_be_promoted_or_removed_and_nobody_joins_for_another(
    tmp_path: Path,
) -> None:
    async def scenario() -> None:
        async with nodes(tmp_path, 1) as cluster, cluster.client() as client:
            for call in (client.promote, client.remove):
                with pytest.raises(NotFound, match="'n9' is no member of the cluster"):
                    await call("n9")
            with pytest.raises(MembershipRefused, match="n1 is the only voter"):
                await client.remove("n1")
            payload = {"change": "join", "node": "n9", "journal": 7, "address": "memory://n9"}
            with pytest.raises(PermissionDenied, match="a node joins by itself"):
                await client._exchange.attempt(
                    Request(CallKind.READ, "MEMBER_CHANGE", payload), "memory://n1", 5.0
                )

    run(scenario)


def test_data_directories_from_before_there_were_journals_with_numbers_go_on(tmp_path: Path) -> None:
    async def scenario() -> None:
        def unnumbered(path: Path, _incarnation: int) -> NodeFiles:
            return open_files(path, 0)

        cluster = InProcessCluster(tmp_path, consensus_limits=SMALL)
        cluster.open_files = unnumbered
        for name in cluster.names:
            await cluster.start(name)
        async with cluster.client() as client:
            for n in range(30):
                await client.put("key", n, timeout_s=20)
        for name in cluster.names:
            await cluster.stop(name)
        cluster.open_files = open_files
        await cluster.start("n1")
        await cluster.start("n2")
        async with cluster.client() as client:
            read = await client.get("key", consistency="linearizable", timeout_s=20)
            assert read is not None
            assert read.value == 29
            await cluster.start("n3")
            await cluster.join("n4", "n1")
            await agreed(cluster, "n1", "n2", "n3", "n4")
            assert [member.journal for member in await client.members()][:3] == [0, 0, 0]
            await cluster.stop("n3")
            shutil.rmtree(tmp_path / "n3")
            await cluster.start("n3")
            await until(lambda: cluster.running["n3"].status()["standing"] != "voter")
            await until(lambda: cluster.running["n3"].status()["standing"] == "voter")
            await agreed(cluster, "n1", "n2", "n3", "n4")
            assert (await client.members())[2].journal not in (0, None)
        for name in list(cluster.running):
            await cluster.stop(name)

    run(scenario)


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"join": ("a:1",), "voters": {"n1": "b:1"}}, "not both"),
        ({"observer": True, "voters": {"n1": "b:1"}}, "an observer joins a running cluster"),
        ({"join": ("a:1",), "listen": ("0.0.0.0:7400",)}, "0.0.0.0:7400 is no place"),
        ({"join": ("a:1",), "listen": ()}, "no address is no place"),
        ({"join": ("a:1",), "engine": "solo"}, "the solo engine serves one process"),
    ],
)
def test_settings_of_a_node_that_joins(tmp_path: Path, settings: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigInvalid, match=why):
        NodeConfig("n1", tmp_path, cluster_key=b"0123456789abcdef", **settings)


def test_through_a_node_that_was_removed_members_are_found_or_it_is_said_at_once(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with nodes(tmp_path) as cluster, cluster.client() as client:
            await client.put("key", 1)
            leader = await cluster.elected()
            gone = next(name for name in cluster.names if name != leader)
            await client.remove(gone, timeout_s=20)
            await until(lambda: cast(Any, cluster.running[gone])._parts.roster.removed)
            for kind, payload in (
                ("COMMAND", {"op": "session.open", "args": {}, "session": "s", "seq": 1, "ack": 1}),
                ("READ", {"kind": "key", "args": {"key": "key"}, "consistency": "stale"}),
            ):
                request = Request(CallKind.READ, kind, payload)
                told = f"node {gone} was removed .*: n. at memory://n., n. at"
                with pytest.raises(Unavailable, match=told):
                    await client._exchange.attempt(request, f"memory://{gone}", 5.0)
            async with cluster.client(gone) as elsewhere:
                await elsewhere.put("key", 2, timeout_s=20)
            cast(Any, cluster.running[gone])._parts.roster.peers = dict
            alone = cluster.client(gone)
            alone._exchange.routing.hear = lambda _: None  # type: ignore[method-assign]
            async with alone:
                began = asyncio.get_running_loop().time()
                for call in (alone.put("key", 3, timeout_s=600), alone.get("key", timeout_s=600)):
                    with pytest.raises(Unavailable, match=f"node {gone} was removed"):
                        await call
                assert asyncio.get_running_loop().time() - began < 60

    run(scenario)
