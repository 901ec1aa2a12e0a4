"""A user's own executor behind the log: exactly once, in one order, in snapshots."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from executor.interface import Command, Result
from mcp.errors import ConfigInvalid, McpError, NotFound, Unsupported
from mcp.node import Node, NodeConfig
from simulations.in_process import InProcessCluster, until
from simulations.in_process import in_process_cluster as nodes


class Accounts:
    """A bank: transfers between accounts, refused where there is not enough."""

    def __init__(self) -> None:
        self.balances = {"a": 100, "b": 0}

    def execute(self, command: Command) -> Result:
        source, target, amount = command.data.decode().split()
        if self.balances[source] < int(amount):
            return Result(error=("INPUT_INVALID", f"{source} has only {self.balances[source]}"))
        self.balances[source] -= int(amount)
        self.balances[target] += int(amount)
        return Result([self.balances[source], self.balances[target]])

    def snapshot(self) -> bytes:
        return repr(sorted(self.balances.items())).encode()

    def restore(self, snapshot: bytes) -> None:
        text = snapshot.decode()
        parts = text.replace("[", "").replace("]", "").replace("(", "").replace(")", "").split(", ")
        self.balances = {parts[i].strip("'"): int(parts[i + 1]) for i in range(0, len(parts), 2)}


def run(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(scenario())


async def transfer(client: Any, text: str) -> Any:
    return await client.execute("accounts", text.encode())


def test_every_replica_executes_the_same_and_a_restart_keeps_it(tmp_path: Path) -> None:
    async def scenario() -> None:
        made: list[Accounts] = []

        def fresh() -> dict[str, Accounts]:
            made.append(Accounts())
            return {"accounts": made[-1]}

        async with nodes(tmp_path, executors=fresh) as cluster, cluster.client() as client:
            assert await transfer(client, "a b 30") == [70, 30]
            with pytest.raises(McpError, match="only 30"):
                await transfer(client, "b a 31")
            with pytest.raises(NotFound, match="accounts"):
                await client.execute("nobody", b"")
            await cluster.equal()
            assert [m.balances for m in made] == [{"a": 70, "b": 30}] * 3
            name = cluster.names[0]
            await cluster.stop(name)
            await transfer(client, "a b 1")
            await cluster.start(name)
            await cluster.equal()
            assert made[-1].balances == {"a": 69, "b": 31}

    run(scenario)


def test_a_refusal_with_any_code_stops_nobody(tmp_path: Path) -> None:
    class Refuses(Accounts):
        def execute(self, command: Command) -> Result:
            if not command.data:
                return Result(error=("VERSION_MISMATCH", "of the user's own"))
            return super().execute(command)

    async def scenario() -> None:
        async with (
            nodes(tmp_path, executors=lambda: {"accounts": Refuses()}) as cluster,
            cluster.client() as client,
        ):
            with pytest.raises(McpError, match="of the user's own"):
                await client.execute("accounts", b"")
            assert await transfer(client, "a b 30") == [70, 30]
            await cluster.equal()

    run(scenario)


def known(cluster: InProcessCluster) -> dict[str, list[str]]:
    """Which executors every node has, as all know it."""
    said = [
        {member["node"]: member["executors"] for member in node.status()["members"]}
        for node in cluster.running.values()
    ]
    return said[0] if all(each == said[0] for each in said) else {}


def test_an_executor_that_not_every_node_has_executes_nothing_anywhere(tmp_path: Path) -> None:
    """A node that has none, or was started without: nobody is told one thing while another happens."""

    async def scenario() -> None:
        having: dict[str, Accounts] = {"accounts": Accounts()}
        async with nodes(tmp_path, executors=dict) as cluster, cluster.client() as client:
            with pytest.raises(NotFound, match="there is no executor 'accounts'; there are: none"):
                await transfer(client, "a b 1")
            first, *others = cluster.names
            cluster.executors = lambda: having
            await cluster.stop(first)
            await cluster.start(first)
            await until(lambda: known(cluster) == {"n1": ["accounts"], "n2": [], "n3": []})
            with pytest.raises(Unsupported, match="n2, n3 of the cluster's nodes have no executor"):
                await transfer(client, "a b 1")
            cluster.executors = lambda: {"accounts": Accounts()}
            for name in others:
                await cluster.stop(name)
                await cluster.start(name)
            await until(lambda: known(cluster) == {name: ["accounts"] for name in cluster.names})
            assert await transfer(client, "a b 30") == [70, 30]
            await cluster.equal()
            assert having["accounts"].balances == {"a": 70, "b": 30}

    run(scenario)


def test_a_node_that_is_started_without_an_executor_stops_and_says_so(tmp_path: Path) -> None:
    async def scenario() -> None:
        fresh = {"accounts": Accounts}
        executors = lambda: {name: make() for name, make in fresh.items()}  # noqa: E731
        async with nodes(tmp_path, executors=executors) as cluster, cluster.client() as client:
            await transfer(client, "a b 30")
            name = cluster.names[0]
            await cluster.stop(name)
            await transfer(client, "a b 1")
            fresh.clear()
            node = await cluster.start(name)
            reason = str(await asyncio.wait_for(node.wait_failed(), 20))
            assert "it is for the executor 'accounts', which this node has not" in reason
            assert "start this one with it" in reason
            await cluster.stop(name)
            fresh["accounts"] = Accounts
            await cluster.start(name)
            assert await transfer(client, "a b 1") == [68, 32]
            await cluster.equal()

    run(scenario)


def test_what_can_be_no_executor_is_told_when_a_node_is_made(tmp_path: Path) -> None:
    wrong: list[tuple[Any, str]] = [
        ({"q": object()}, "'q' is a object without execute, snapshot, restore"),
        ({"q": Accounts}, "'q' is a class"),
        ([Accounts()], "executors by name"),
        ({"": Accounts()}, "an executor's name"),
    ]
    for executors, told in wrong:
        with pytest.raises(ConfigInvalid, match=told):
            Node(NodeConfig("n1", tmp_path, engine="solo"), executors=executors)
        with pytest.raises(ConfigInvalid, match=told):
            Node.local(tmp_path, executors=executors)


class Odd(Accounts):
    """Does what no executor should."""

    def execute(self, command: Command) -> Any:
        what = command.data.decode()
        if what == "raise":
            raise ValueError(f"{self!r} has an address in it, which differs between nodes")
        if what == "cancel":
            raise asyncio.CancelledError
        if what == "exit":
            raise SystemExit
        answers: dict[str, Any] = {
            "none": None,
            "error": Result(error="a text"),  # type: ignore[arg-type]
            "long": Result(error=("OWN", "x" * 1_000_000)),
            "surrogate": Result(error=("\udcff" * 100, "a\udcff")),
        }
        return answers.get(what) if what in answers else super().execute(command)


@pytest.mark.parametrize(
    ("what", "told"),
    [
        ("raise", r"^the executor raised ValueError; the nodes' logs"),
        ("cancel", "the executor raised CancelledError"),
        ("exit", "the executor raised SystemExit"),
        ("none", "returned NoneType instead of a Result"),
        ("error", "whose error is not a code and a message"),
        ("long", r"^OWN: x{2000}$"),
        ("surrogate", r"^\?{64}: a\?$"),
    ],
)
def test_whatever_an_executor_does_is_one_outcome_everywhere(tmp_path: Path, what: str, told: str) -> None:
    async def scenario() -> None:
        async with (
            nodes(tmp_path, executors=lambda: {"accounts": Odd()}) as cluster,
            cluster.client() as client,
        ):
            with pytest.raises(McpError, match=told):
                await transfer(client, what)
            assert await transfer(client, "a b 30") == [70, 30]
            await cluster.equal()

    run(scenario)
