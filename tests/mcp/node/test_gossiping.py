"""Nodes that find each other: in memory, and on this machine's own sockets."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

import pytest

from mcp.client.client import Client
from mcp.cluster.gossip.updates import State
from mcp.errors import InvalidArgument
from mcp.net.memory import MemoryNetwork
from mcp.node import Node, NodeConfig
from mcp.node.surroundings import Surroundings
from simulations.in_process import InProcessCluster, until
from simulations.in_process import in_process_cluster as nodes

ROOT = Path(__file__).parents[3]
DIGITS = ROOT / "examples" / "digits" / "digits.onnx"
KEY = b"a key for tests, and no other"


def run(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(scenario())


def states(node: Node) -> dict[str, State]:
    assert node._parts is not None
    return {member.name: member.state for member in node._parts.gossiping.members()}


def alike(*running: Node) -> bool:
    """Whether these see each other and nobody else, and the same cards."""
    names = {node.config.node_id for node in running}
    seen = [{name for name, state in states(node).items() if state is State.ALIVE} for node in running]
    digests = {node._parts.gossiping._running().digest for node in running if node._parts is not None}
    return all(each == names for each in seen) and len(digests) == 1


async def see_each_other(cluster: InProcessCluster) -> None:
    await until(lambda: alike(*cluster.running.values()))


def test_every_node_sees_who_is_there_what_each_can_do_and_who_has_left(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with nodes(tmp_path, labels={"zone": "a"}) as cluster, cluster.client() as client:
            await client.deploy("digits", DIGITS)
            await cluster.join("n4", "n2", observer=True)
            await see_each_other(cluster)
            ready = {"digits@1"}

            def all_ready() -> bool:
                views = [n._parts.gossiping.view().nodes for n in cluster.running.values() if n._parts]
                all_there = all(len(view) == len(cluster.running) for view in views)
                return all_there and all(set(record.ready) == ready for view in views for record in view)

            await until(all_ready)
            async with cluster.client("n3") as other, asyncio.timeout(30):
                view = await other.nodes()
                while not all(node.load["at"] for node in view.nodes):  # it comes with the next probes
                    view = await other.nodes()
            assert view.asked in cluster.running
            assert [node.node for node in view.nodes] == ["n1", "n2", "n3", "n4"]
            cards = [node.card for node in view.nodes]
            assert [card["standing"] for card in cards] == ["voter"] * 3 + ["observer"]
            assert all(card["providers"] == ["cpu"] and card["labels"] == {"zone": "a"} for card in cards)
            assert all(node.load["queue"] == 0 for node in view.nodes)
            await cluster.stop("n4")
            await until(lambda: all(states(n)["n4"] is State.LEFT for n in cluster.running.values()))

    run(scenario)


def test_a_node_that_does_not_answer_is_dead_and_is_seen_again_when_it_is_back(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with nodes(tmp_path) as cluster:
            await see_each_other(cluster)
            lost = cluster.running["n2"]
            assert lost._parts is not None
            silent = lost._parts.gossiping
            core, silent._core = silent._core, None
            rest = [cluster.running["n1"], cluster.running["n3"]]
            await until(lambda: all(states(node)["n2"] is State.DEAD for node in rest))
            assert list(rest[0].status()["voters"]) == ["n1", "n2", "n3"]
            silent._core = core
            silent._wake()
            await see_each_other(cluster)

    run(scenario)


class Counting(MemoryNetwork):
    """A network that counts datagrams."""

    carried = 0

    def carry(self, source: str, target: str, data: bytes) -> None:
        """Count it."""
        self.carried += 1
        super().carry(source, target, data)


def test_nodes_at_rest_send_datagrams_and_nothing_else(tmp_path: Path) -> None:
    async def scenario() -> None:
        cluster = InProcessCluster(tmp_path)
        network = cluster.network = Counting()
        try:
            for name in cluster.names:
                await cluster.start(name)
            await cluster.elected()
            await cluster.members_up()
            await see_each_other(cluster)
            counts = [n._parts.dispatch.counts for n in cluster.running.values() if n._parts]
            began, streams = network.carried, [count.get("GOSSIP", 0) for count in counts]
            await until(lambda: network.carried > began + 30)
            assert [count.get("GOSSIP", 0) for count in counts] == streams
        finally:
            for name in list(cluster.running):
                await cluster.stop(name)

    run(scenario)


class Deaf(MemoryNetwork):
    """A network that carries no datagram."""

    def carry(self, source: str, target: str, data: bytes) -> None:
        """Lose it."""


def test_where_datagrams_are_blocked_streams_do(tmp_path: Path) -> None:
    async def scenario() -> None:
        cluster = InProcessCluster(tmp_path)
        cluster.network = Deaf()
        try:
            for name in cluster.names:
                await cluster.start(name)
            await see_each_other(cluster)
            parts = cluster.running["n1"]._parts
            assert parts is not None
            # More than one protocol period and every timeout: nobody is held for dead, by anybody.
            before = parts.gossiping._running()._detector._seq
            await until(lambda: parts.gossiping._running()._detector._seq > before + 4)
            assert all(State.DEAD not in states(node).values() for node in cluster.running.values())
            await cluster.stop("n3")
            await until(lambda: states(cluster.running["n1"])["n3"] in (State.DEAD, State.LEFT))
        finally:
            for name in list(cluster.running):
                await cluster.stop(name)

    run(scenario)


def test_one_that_is_no_member_may_be_named_to_whoever_joins(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with nodes(tmp_path) as cluster, cluster.client("n1", "n2") as client:
            await see_each_other(cluster)
            await client.remove("n3", timeout_s=20)
            await until(lambda: cluster.running["n3"].status()["standing"] == "outsider")
            await cluster.join("n4", "n3")
            rest = [cluster.running[name] for name in ("n1", "n2", "n4")]
            await until(lambda: {tuple(n.status()["voters"]) for n in rest} == {("n1", "n2", "n4")})
            parts = rest[0]._parts
            assert parts is not None
            await until(lambda: [r.node for r in parts.gossiping.view().nodes] == ["n1", "n2", "n4"])

    run(scenario)


def test_a_node_alone_sees_itself_and_gossips_with_nobody(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with Node.local(tmp_path) as node, node.client() as client:
            view = await client.nodes()
            assert [(seen.node, seen.state) for seen in view.nodes] == [("local", "alive")]
            assert view.nodes[0].load["at"] == node.status()["applied_index"]
            assert node._parts is not None
            assert node._parts.gossiping._timer is None
            with pytest.raises(InvalidArgument, match="alone"):
                await ask(client, "GOSSIP", {"sealed": b"anything"})

    run(scenario)


async def ask(client: Client, kind: str, payload: dict[str, Any]) -> Any:
    from mcp.client.exchange import Request
    from mcp.client.kinds import CallKind

    return await client._call(Request(CallKind.READ, kind, payload), 5.0)


@pytest.mark.parametrize("sealed", [None, 1, "text", [b"x"]])
def test_a_gossip_request_without_bytes_is_refused(tmp_path: Path, sealed: Any) -> None:
    async def scenario() -> None:
        async with nodes(tmp_path, 1) as cluster, cluster.client() as client:
            with pytest.raises(InvalidArgument, match="'sealed'"):
                await ask(client, "GOSSIP", {"sealed": sealed})

    run(scenario)


# -- real sockets -----------------------------------------------------------------------------------


def free_addresses(count: int) -> list[str]:
    with contextlib.ExitStack() as stack:
        taken = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in taken:
            each.bind(("127.0.0.1", 0))
        return [f"127.0.0.1:{each.getsockname()[1]}" for each in taken]


@contextlib.asynccontextmanager
async def started(*made: Node) -> AsyncIterator[None]:
    try:
        for node in made:
            await node.start()
        yield
    finally:
        for node in made:
            await node.stop()


def founder(path: Path, address: str, **settings: Any) -> Node:
    return Node(
        NodeConfig("n1", path / "n1", listen=(address,), voters={"n1": address}, cluster_key=KEY, **settings)
    )


def joiner(path: Path, around: Surroundings | None = None, **settings: Any) -> Node:
    config = NodeConfig("n2", path / "n2", listen=("127.0.0.1:0",), cluster_key=KEY, **settings)
    return Node(config, surroundings=around)


async def votes(first: Node, second: Node) -> None:
    await until(lambda: tuple(first.status()["voters"]) == ("n1", "n2") and alike(first, second))


def test_a_fresh_node_comes_in_by_broadcast_alone(tmp_path: Path) -> None:
    async def scenario() -> None:
        first, group = free_addresses(2)
        everybody = group.replace("127.0.0.1", "127.255.255.255")
        n1 = founder(tmp_path, first, broadcast=everybody)
        n2 = joiner(tmp_path, broadcast=everybody)
        async with started(n1, n2):
            await votes(n1, n2)

    run(scenario)


def test_a_fresh_node_comes_in_by_a_name_that_stands_for_several(tmp_path: Path) -> None:
    async def scenario() -> None:
        first, _ = free_addresses(2)
        port = first.rpartition(":")[2]
        asked = []

        async def resolve(host: str) -> Sequence[str]:
            asked.append(host)
            return ["127.0.0.9", "127.0.0.1"]

        # Only the gossip resolves it so: the name is none that this machine's resolver knows.
        n1 = founder(tmp_path, first)
        n2 = joiner(tmp_path, Surroundings(resolve=resolve), join=(f"cluster.invalid:{port}",))
        async with started(n1, n2):
            await votes(n1, n2)
            assert set(asked) == {"cluster.invalid"}

    run(scenario)


def test_hostile_datagrams_change_nothing_and_are_counted(tmp_path: Path) -> None:
    async def scenario() -> None:
        first, _ = free_addresses(2)
        n1 = founder(tmp_path, first)
        n2 = joiner(tmp_path, join=(first,))
        async with started(n1, n2):
            await votes(n1, n2)
            assert n1._parts is not None
            assert n2._parts is not None
            core, untouched = n1._parts.gossiping._running(), n2._parts.gossiping._running()
            before = states(n1)
            generator = random.Random(5)
            host, _, port = first.rpartition(":")
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
                for _ in range(200):
                    size = generator.choice((0, 1, 17, 18, 100, 1400, 1401, 9000))
                    version = generator.choice((b"\x01", b"\x02", b""))
                    stranger.sendto((version + generator.randbytes(size))[: size or 1], (host, int(port)))
                    await asyncio.sleep(0)
            await until(lambda: sum(core.refused.values()) >= 100)
            strange = {
                "AUTHENTICATION_FAILED",
                "FRAME_TOO_LARGE",
                "PROTOCOL_ERROR",
                "VERSION_MISMATCH",
            }
            assert core.refused.keys() <= strange
            assert states(n1) == before
            await until(lambda: core.digest == untouched.digest)
            await votes(n1, n2)

    run(scenario)


def test_another_cluster_s_node_is_not_seen(tmp_path: Path) -> None:
    async def scenario() -> None:
        first, second = free_addresses(2)
        n1 = founder(tmp_path, first)
        config = NodeConfig(
            "n2",
            tmp_path / "n2",
            listen=(second,),
            join=(first,),
            cluster_key=KEY + b"?",
        )
        n2 = Node(config)
        async with started(n1, n2):
            await until(lambda: n2.status()["joining"] is not None)
            assert set(states(n1)) == {"n1"}
            assert set(states(n2)) == {"n2"}

    run(scenario)
