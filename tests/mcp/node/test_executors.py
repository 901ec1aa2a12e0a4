"""A user's own executor behind the log: exactly once, in one order, in snapshots."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from executor.interface import Command, Result
from mcp.errors import McpError, NotFound, StorageCorrupt
from mcp.node.ordered import UserMachine
from mcp.state.state import ReplicatedState
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


def test_a_state_with_executors_is_not_restored_without_them() -> None:
    snapshot = ReplicatedState(machines={"accounts": UserMachine(Accounts())}).snapshot()
    bare = ReplicatedState()
    before = bare.digest()
    with pytest.raises(StorageCorrupt, match="accounts"):
        bare.restore(snapshot)
    assert bare.digest() == before
