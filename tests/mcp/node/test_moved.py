"""Nodes that come back at another address: the others find them, and the log says where they are."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from mcp.node import Node
from mcp.node.ownership import ADDRESS, FILE_NAME
from simulations.in_process import InProcessCluster, until


def run(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(scenario())


def noted(folder: Path) -> object:
    """Where the cluster was told to find the node, by its own notes."""
    return json.loads((folder / FILE_NAME).read_text()).get(ADDRESS)


class Placed(InProcessCluster):
    """Nodes that listen at places of their own. What each is told of the others is where they began."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.places = {name: f"memory://{name}.0" for name in self.names}
        self._began = dict(self.places)

    async def start(self, name: str) -> Node:
        place = self.places[name]
        return await self._start(name, listen=(place,), voters={**self._began, name: place})

    async def move(self, name: str, *, times: int = 1) -> None:
        """Stop the node, and start it elsewhere."""
        await self.stop(name)
        self.places[name] = f"memory://{name}.{times}"
        await self.start(name)

    def told(self) -> set[tuple[tuple[str, str], ...]]:
        """Where the members are, as each node tells it."""
        lists = [node.status()["members"] for node in self.running.values()]
        return {tuple((member["node"], member["address"]) for member in members) for members in lists}

    def said(self) -> set[tuple[tuple[str, str], ...]]:
        """The same, by the replicated configuration."""
        found = [node._parts.roster.configuration for node in self.running.values() if node._parts]
        return {tuple((member.name, member.address) for member in each.members) for each in found}

    async def known(self) -> None:
        """Wait until all know where all are."""
        places = {tuple(self.places.items())}
        await until(lambda: self.said() == places and self.told() == places)

    async def __aenter__(self) -> Placed:
        for name in self.names:
            await self.start(name)
        await self.elected()
        await self.members_up()
        return self

    async def __aexit__(self, *exception: object) -> None:
        for name in list(self.running):
            await self.stop(name)


@pytest.mark.parametrize("order", ["n1 n2 n3", "n3 n2 n1", "n2 n3 n1"])
def test_all_move_one_after_the_other(tmp_path: Path, order: str) -> None:
    """Nobody is told of the others' moves, and in the end nobody is where anybody was told at the start."""

    async def scenario() -> None:
        async with Placed(tmp_path) as cluster:
            for name in order.split():
                await cluster.move(name)
                async with cluster.client(name) as client:
                    await client.put("moved", name, timeout_s=20)
                await cluster.known()
            await until(lambda: {name: noted(tmp_path / name) for name in cluster.names} == cluster.places)

    run(scenario)


def test_two_move_at_once_and_find_each_other_by_the_third(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with Placed(tmp_path) as cluster:
            await cluster.stop("n1")
            await cluster.stop("n2")
            for name in ("n1", "n2"):
                cluster.places[name] = f"memory://{name}.1"
                await cluster.start(name)
            async with cluster.client("n1") as client:
                await client.put("moved", "two", timeout_s=20)
            await cluster.known()

    run(scenario)


def test_one_that_moved_while_another_was_away_is_found(tmp_path: Path) -> None:
    """The log of the one that was away says where the others were."""

    async def scenario() -> None:
        async with Placed(tmp_path) as cluster:
            await cluster.stop("n1")
            for name in ("n3", "n2"):
                await cluster.move(name)
                async with cluster.client(name) as client:
                    await client.put("moved", name, timeout_s=20)
                await cluster.known()
            await cluster.start("n1")
            await cluster.members_up()
            await cluster.known()

    run(scenario)


def test_one_that_has_not_moved_says_nothing(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with Placed(tmp_path) as cluster:
            await cluster.known()
            node = cluster.running["n1"]
            before = node._parts.roster.configuration if node._parts else None
            await cluster.stop("n2")
            await cluster.start("n2")
            await cluster.members_up()
            assert node._parts is not None
            assert node._parts.roster.configuration is before
            assert not node._parts.joining.moved

    run(scenario)
