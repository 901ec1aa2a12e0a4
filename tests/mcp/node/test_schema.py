"""A newer schema of commands on whole nodes: refused while one is old, in force by itself once none is."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from consensus.batch import Batch, encode_batch
from consensus.interface import Entry, EntryKind
from mcp.client.client import Client
from mcp.errors import ConfigInvalid, InvalidArgument, Unsupported
from mcp.node.config import NodeConfig
from mcp.node.node import Node
from mcp.node.ordered import OrderedState
from mcp.state.commands import SCHEMA_MAX, encode_command
from mcp.state.state import ReplicatedState
from simulations.in_process import InProcessCluster, in_process_cluster, until


def said(cluster: InProcessCluster, name: str) -> int:
    """What all nodes know of the schema that one of them executes, at least."""
    known = [m for node in cluster.running.values() for m in node.status()["members"] if m["node"] == name]
    return min(member["schema"] for member in known)


def test_a_newer_command_is_refused_until_the_last_node_is_upgraded(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with in_process_cluster(tmp_path, schema_max=1) as cluster, cluster.client() as client:
            await client.put("jobs/1", 1)
            del cluster.settings["schema_max"]
            for name in cluster.names:
                with pytest.raises(Unsupported, match="executes up to 1; once all nodes are upgraded"):
                    await client.delete_prefix("jobs/")
                await cluster.stop(name)
                await cluster.start(name)
                await until(lambda name=name: said(cluster, name) == SCHEMA_MAX)
            # Until the leader has raised it a node says that it is about to, and the client asks again.
            assert await client.delete_prefix("jobs/") == 1
            assert await client.keys() == []
            await cluster.equal()
            whole = {"in_force": SCHEMA_MAX, "own_max": SCHEMA_MAX}
            # It is raised by one at a time.
            await until(lambda: all(n.status()["schema"] == whole for n in cluster.running.values()))

    asyncio.run(scenario())


def test_a_node_that_is_taken_back_too_late_stops_and_says_what_to_do(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with in_process_cluster(tmp_path) as cluster, cluster.client() as client:
            await client.delete_prefix("jobs/")
            name = cluster.names[0]
            await cluster.stop(name)
            cluster.settings["schema_max"] = 1
            node = await cluster.start(name)
            reason = await asyncio.wait_for(node.wait_failed(), 10)
            assert "schema 2 comes into force here, and this node executes commands up to 1" in str(reason)
            assert "upgrade this node, then start it" in str(reason)
            await cluster.stop(name)
            del cluster.settings["schema_max"]
            await cluster.start(name)
            await client.put("after", True)
            await until(lambda: cluster.leader() is not None)
            await cluster.equal()

    asyncio.run(scenario())


def test_nothing_is_executed_behind_what_a_node_cannot_execute() -> None:
    state = ReplicatedState(schema_max=1)
    hello = {"node": "n1", "address": "n1", "incarnation": 1, "providers": [], "schema": 2}
    commands = [
        encode_command("member.hello", hello),
        encode_command("schema.raise", {"schema": 2, "voters": ["n1"]}),
        encode_command("session.open", {}, session="s" * 32, seq=1, ack=1),
    ]
    told: list[int] = []
    ordered = OrderedState(
        state,
        queue_commands_max=10,
        commands_per_slice=10,
        on_applied=lambda index, _events: told.append(index),
        on_restored=lambda _index: None,
    )
    # As the driver does with what came in one output of the engine.
    for index, command in enumerate(commands, 1):
        batch = Batch(1.0, 0, [bytes(16)], [command])
        ordered.push(Entry(index, 1, EntryKind.COMMAND, encode_batch(batch)), batch)
    assert told == [1]
    assert (state.applied_index, len(state.sessions)) == (2, 0)


def test_more_keys_than_one_command_deletes(tmp_path: Path) -> None:
    async def fill(client: Client, count: int) -> None:
        await asyncio.gather(*(client.put(f"jobs/{i}", i) for i in range(count)))

    async def scenario() -> None:
        async with Node.local(tmp_path) as node, node.client() as client:
            await fill(client, 2100)
            await client.put("job", 0)
            assert await client.delete_prefix("jobs/") == 2100
            assert await client.keys() == ["job"]
            for prefix in ("", 1):
                with pytest.raises(InvalidArgument):
                    await client.delete_prefix(prefix)  # type: ignore[arg-type]

    asyncio.run(scenario())


def test_a_node_executes_no_schema_that_it_does_not_know(tmp_path: Path) -> None:
    for most in (0, SCHEMA_MAX + 1):
        with pytest.raises(ConfigInvalid, match=f"schema_max={most}: this version executes"):
            NodeConfig("n1", tmp_path, engine="solo", schema_max=most)
