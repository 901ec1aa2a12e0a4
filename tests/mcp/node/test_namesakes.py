"""A name is one process: a second one is refused, and whoever lives keeps its links and its place."""

from __future__ import annotations

import asyncio
import logging
import random
import shutil
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from mcp.clock import SystemClock
from mcp.errors import NameTaken, Unavailable
from mcp.net.connection import Connection
from mcp.net.interface import Heard
from mcp.net.memory import MemoryDatagrams, MemoryNetwork, ProtocolFactory
from mcp.node import Node, NodeConfig, namesakes
from mcp.node import node as node_module
from mcp.node.links import PeerLinks
from mcp.node.namesakes import Starter, refuse_to_be_a_second
from mcp.node.surroundings import Surroundings
from simulations.in_process import QUICK, InProcessCluster, until
from simulations.in_process import in_process_cluster as nodes

THREE = {name: f"memory://{name}" for name in ("n1", "n2", "n3")}


def run(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(scenario())


class Elsewhere(MemoryNetwork):
    """The cluster's network as another machine sees it: what it has under the node's own name is its own."""

    def __init__(self, shared: MemoryNetwork, own: str) -> None:
        super().__init__()
        self._shared, self._own = shared, own

    def listen(self, name: str, factory: ProtocolFactory) -> None:
        (super() if name == self._own else self._shared).listen(name, factory)

    def stop_listening(self, name: str) -> None:
        (super() if name == self._own else self._shared).stop_listening(name)

    def connect(self, name: str, factory: ProtocolFactory) -> Any:
        return self._shared.connect(name, factory)

    def datagrams(self, name: str, heard: Heard) -> MemoryDatagrams:
        return (super() if name == self._own else self._shared).datagrams(name, heard)

    def carry(self, source: str, target: str, data: bytes) -> None:
        self._shared.carry(source, target, data)


def another(cluster: InProcessCluster, name: str, folder: str, **place: Any) -> Node:
    """A process on another machine, under a name of the cluster's."""
    config = NodeConfig(
        name,
        cluster.path / folder,
        **{"listen": ("memory://elsewhere",), **place},
        election_timeout_min_s=0.1,
        election_timeout_max_s=0.2,
        heartbeat_s=0.02,
        workers=1,
        limits=QUICK,
    )
    return Node(config, surroundings=Surroundings(network=Elsewhere(cluster.network, name)))


def links(cluster: InProcessCluster) -> dict[tuple[str, str], Connection | None]:
    """Every link that the nodes have, by its two ends."""
    found = {name: cast(Any, node)._parts.links for name, node in cluster.running.items()}
    return {(name, peer): found[name].connection(peer) for name in found for peer in found[name].up()}


async def all_linked(cluster: InProcessCluster) -> None:
    await until(lambda: len(links(cluster)) == 6)


@pytest.mark.parametrize("name", ["n1", "n3"])
@pytest.mark.parametrize(
    "place",
    [
        {"voters": THREE},
        {"voters": "with its own address"},
        {"join": ("memory://n2",)},
    ],
    ids=["peers", "peers, other address", "join"],
)
def test_a_second_process_of_a_living_node_is_refused_before_anybody_hears_of_it(
    tmp_path: Path, name: str, place: dict[str, Any]
) -> None:
    async def scenario() -> None:
        async with nodes(tmp_path) as cluster:
            await all_linked(cluster)
            before = links(cluster)
            if isinstance(place.get("voters"), str):
                place["voters"] = {**THREE, name: "memory://elsewhere"}
            copy = another(cluster, name, "copy", **place)
            with pytest.raises(
                NameTaken, match=f"node {name} is alive: it answers at memory://{name}, .* stop"
            ):
                await copy.start()
            assert links(cluster) == before
            async with cluster.client() as client:
                assert {member.node for member in await client.members()} == set(THREE)
            for node in cluster.running.values():
                assert [member.address for member in cast(Any, node)._parts.gossiping.members()] == [
                    *THREE.values()
                ]

    run(scenario)


@pytest.mark.parametrize("name", ["n1", "n3"])
def test_a_second_process_that_comes_through_nevertheless_gets_no_link_and_stops(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As where both start at the same moment, or the first was not reachable just then."""

    async def nobody_is_asked(*_: Any) -> None:
        return

    monkeypatch.setattr(node_module, "refuse_to_be_a_second", nobody_is_asked)
    monkeypatch.setattr(node_module, "SHUT_OUT_S", 0.5)

    async def scenario() -> None:
        async with nodes(tmp_path) as cluster:
            await all_linked(cluster)
            before = links(cluster)
            copy = another(cluster, name, "copy", voters=THREE)
            await copy.start()
            error = await asyncio.wait_for(copy.wait_failed(), 20)
            assert isinstance(error, NameTaken)
            assert "stop the other" in str(error)
            assert links(cluster) == before
            await copy.stop()

    with caplog.at_level(logging.WARNING, "mcp.node"):
        run(scenario)
    told = [record.getMessage() for record in caplog.records if "two processes call" in record.getMessage()]
    assert 1 <= len(told) <= 2, "each of the two others says it once"
    assert f"themselves node {name}: the one at memory://" in told[0]


def test_a_process_that_lives_when_the_other_has_gone_is_taken(tmp_path: Path) -> None:
    """A disk that was lost, at another address: the one that has gone is missed by nobody."""

    async def scenario() -> None:
        async with nodes(tmp_path) as cluster, cluster.client() as client:
            await client.put("key", 1)
            await cluster.stop("n1")
            shutil.rmtree(tmp_path / "n1")
            cluster.running["n1"] = again = another(
                cluster, "n1", "n1", voters=THREE, advertise="memory://elsewhere"
            )
            await again.start()
            await until(lambda: again.status()["standing"] != "voter")
            await until(lambda: again.status()["standing"] == "voter")
            await cluster.members_up()

    run(scenario)


def test_a_member_that_restarts_at_another_address_is_taken(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with nodes(tmp_path) as cluster, cluster.client() as client:
            await client.put("key", 1)
            await cluster.stop("n1")
            cluster.running["n1"] = moved = another(
                cluster, "n1", "n1", voters=THREE, advertise="memory://elsewhere"
            )
            await moved.start()
            await cluster.members_up()
            await all_linked(cluster)
            assert moved.status()["standing"] == "voter"

    run(scenario)


def test_two_on_copies_of_one_data_directory_are_refused_too(tmp_path: Path) -> None:
    """Their journals have one number: nothing else tells them apart."""

    async def scenario() -> None:
        async with nodes(tmp_path) as cluster:
            await cluster.stop("n3")
            shutil.copytree(tmp_path / "n3", tmp_path / "copy")
            await cluster.start("n3")
            await all_linked(cluster)
            with pytest.raises(NameTaken, match="n3 is alive: it answers at memory://n3"):
                await another(cluster, "n3", "copy", voters=THREE).start()

    run(scenario)


# -- links ------------------------------------------------------------------------------------------


class End:
    """A connection, as far as links know one."""

    def __init__(self, journal: int, address: str) -> None:
        self.peer = SimpleNamespace(node_id="n3", journal=journal)
        self.address = address
        self.is_open = True
        self.reason: Exception | None = None

    def close(self, reason: Exception | None = None) -> None:
        self.is_open, self.reason = False, reason


def made(known: int) -> PeerLinks:
    async def dial(_address: str) -> Connection:
        raise Unavailable("nobody is there")

    return PeerLinks(
        "n1",
        dial,
        backoff_s_min=1,
        backoff_s_max=1,
        generator=random.Random(1),
        on_up=lambda _: None,
        on_down=lambda _: None,
        journal_of=lambda _: known,
    )


@pytest.mark.parametrize(
    ("known", "first", "second", "stays"),
    [
        (0, 7, 8, True),
        (7, 7, 8, True),
        (9, 7, 8, True),
        (8, 7, 8, False),
        (7, 7, 7, False),
        (7, 7, 0, False),
        (0, 0, 8, False),
    ],
    ids=["nobody knows", "the member first", "neither", "the member second", "again", "unnumbered", "older"],
)
def test_of_two_processes_the_member_has_the_name_and_else_the_first(
    known: int, first: int, second: int, stays: bool
) -> None:
    found = made(known)
    one, two = End(first, "a:1"), End(second, "b:2")
    found.adopt(cast(Connection, one))
    found.adopt(cast(Connection, two))
    assert found.connection("n3") is cast(Connection, one if stays else two)
    assert (one.is_open, two.is_open) == (stays, not stays)
    if stays:
        assert isinstance(two.reason, NameTaken)
        assert "at a:1" in str(two.reason)


def test_who_has_gone_keeps_no_name() -> None:
    found = made(7)
    one, two = End(7, "a:1"), End(8, "b:2")
    found.adopt(cast(Connection, one))
    one.is_open = False
    found.adopt(cast(Connection, two))
    assert found.connection("n3") is cast(Connection, two)


# -- asking at the start ----------------------------------------------------------------------------


class Answering:
    """Nodes that answer ``STATUS``, by address; what is a list is answered one after another."""

    def __init__(self, told: Mapping[str, tuple[str, list[dict[str, Any]]]]) -> None:
        self.told = told
        self.asked: list[str] = []

    async def visit(self, address: str) -> Connection:
        self.asked.append(address)
        if address not in self.told:
            raise Unavailable("nobody is there")
        node, answers = self.told[address]
        payload = answers.pop(0) if len(answers) > 1 else answers[0]

        async def request(_message: Any, timeout_s: float) -> Any:
            return SimpleNamespace(message=SimpleNamespace(payload=payload))

        peer = SimpleNamespace(node_id=node)
        return cast(Connection, SimpleNamespace(peer=peer, request=request, close=lambda: None))


def starts(answering: Answering, *, fresh: bool = True, journal: int = 8) -> None:
    starter = Starter("n3", journal, reached=["a:3"], others=["a:1", "a:2"], fresh=fresh)
    asyncio.run(refuse_to_be_a_second(answering.visit, SystemClock(), starter))


def test_whoever_has_a_link_to_the_name_is_believed_when_that_lasts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(namesakes, "ASK_AGAIN_S", 0.0)
    linked = {"journal": 1, "peers": {"n3": {"journal": 7}}}
    gone = {"journal": 1, "peers": {"n3": {"journal": 0}}}
    starts(Answering({"a:1": ("n1", [linked, linked, gone])}))
    monkeypatch.setattr(namesakes, "GONE_S", 0.0)
    with pytest.raises(NameTaken, match="n3 is alive: n1 has a link to it"):
        starts(Answering({"a:1": ("n1", [linked])}))
    starts(Answering({"a:1": ("n1", [linked])}), journal=7)


def test_silence_others_names_and_older_answers_are_no_reason() -> None:
    starts(Answering({}))
    starts(Answering({"a:3": ("n2", [{"journal": 5}])}))
    starts(
        Answering(
            {"a:1": ("n1", [{}]), "a:2": ("n2", [{"peers": {"n3": {"connected": True}}, "members": 7}])}
        )
    )


def test_a_member_asks_only_where_it_is_reached_itself_and_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    """Its journal is the one that is known: the other one is to go."""
    answering = Answering({"a:3": ("n3", [{"journal": 9}])})
    with caplog.at_level(logging.WARNING, "mcp.node"):
        starts(answering, fresh=False)
    assert answering.asked == ["a:3"]
    assert "another process answers as node n3 at a:3" in caplog.text
    with pytest.raises(NameTaken):
        starts(Answering({"a:3": ("n3", [{"journal": 8}])}), fresh=False)
