"""Many commands in one request, at a real node: what is refused as a whole, and what one by one."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest

from mcp.clock import SystemClock, new_id
from mcp.errors import InvalidArgument, from_wire
from mcp.net.connection import Connection
from mcp.net.dial import connect
from mcp.node.config import NodeConfig
from mcp.node.node import Node
from mcp.state.applied import Applied
from mcp.state.commands import COMMAND_BYTES_MAX, SCHEMA_MAX, decode_command
from mcp.wire.handshake import Identity, Role
from mcp.wire.messages import Message
from simulations.in_process import until

SESSION = "5" * 32


async def dial(node: Node) -> Connection:
    identity = Identity("mcp", "tester", b"", Role.CLIENT)
    return await connect(node._memory_address, identity, network=node._memory)


async def ask(connection: Connection, type_: str, payload: dict[str, Any]) -> dict[str, Any]:
    message = Message(type_, payload, new_id(SystemClock()))
    return (await connection.request(message, timeout_s=10.0)).message.payload


async def opened(connection: Connection) -> None:
    opening = {"session": SESSION, "seq": 1, "ack": 1, "op": "session.open", "args": {}}
    await ask(connection, "COMMAND", opening)


def put(seq: int, key: str) -> list[Any]:
    return [seq, "key.put", {"key": key, "value": seq}]


def test_each_command_has_its_result_in_the_order_in_which_they_came(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with Node.local(tmp_path) as node:
            connection = await dial(node)
            await opened(connection)
            commands = [
                put(1, "a"),
                [2, "member.down", {"node": "local", "incarnation": 1}],
                [3, "key.cas", {"key": "a", "value": 0, "expected_version": 9}],
                [4, "no.such", {}],
                put(5, "a"),
                put(1, "a"),
            ]
            answer = await ask(connection, "COMMANDS", {"session": SESSION, "ack": 1, "commands": commands})
            results = answer["results"]
            versions = [result[1]["version"] for result in results if isinstance(result, list)]
            # The last is a repetition of the first: it has the same result, and no second effect.
            assert versions == [1, 2, 1]
            codes = [from_wire(result).code for result in results if isinstance(result, dict)]
            assert codes == ["PERMISSION_DENIED", "VERSION_CONFLICT", "INVALID_ARGUMENT"]
            assert answer["leader"] == "local"
            connection.close()

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("commands", "told"),
    [
        (None, "a list of 1 to commands_max=256"),
        ([], "a list of 1 to commands_max=256"),
        ([put(1, "a")] * 257, "a list of 1 to commands_max=256"),
        ([put(1, "a"), [2, "key.put"]], "seq, op and args"),
        ([[True, "key.put", {}]], "seq, op and args"),
        ([["1", "key.put", {}]], "seq, op and args"),
        ([[1, 2, {}]], "seq, op and args"),
        ([[1, "key.put", []]], "seq, op and args"),
        ([7], "seq, op and args"),
    ],
)
def test_what_is_no_list_of_commands_is_refused_and_nothing_of_it_is_done(
    tmp_path: Path, commands: object, told: str
) -> None:
    async def scenario() -> None:
        async with Node.local(tmp_path) as node, node.client() as client:
            connection = await dial(node)
            await opened(connection)
            with pytest.raises(InvalidArgument, match=told):
                await ask(connection, "COMMANDS", {"session": SESSION, "ack": 1, "commands": commands})
            assert await client.keys("") == []
            connection.close()

    asyncio.run(scenario())


def applied_by(node: Node, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The operations that the node's state executes from now on."""
    state, seen = node._parts.state, []
    apply = state.apply

    def noted(data: bytes, **where: Any) -> Applied:
        seen.append(decode_command(data).op)
        return apply(data, **where)

    monkeypatch.setattr(state, "apply", noted)
    return seen


@pytest.mark.parametrize(
    ("schema_max", "expected"),
    [
        (SCHEMA_MAX, ["key.delete_prefix", "key.put", "key.put", "session.group"]),
        # A node that has not executed the raise to schema 3 has each ordered by itself.
        (2, ["key.cas", "key.delete_prefix", "key.put", "key.put", "key.put", "key.put"]),
    ],
)
def test_what_can_go_together_is_one_command_of_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, schema_max: int, expected: list[str]
) -> None:
    async def scenario() -> None:
        async with Node.local(tmp_path, schema_max=schema_max) as node:
            connection = await dial(node)
            await opened(connection)
            await until(lambda: node.status()["schema"]["in_force"] == schema_max)
            seen = applied_by(node, monkeypatch)
            commands = [
                put(5, "a"),
                [6, "key.delete_prefix", {"prefix": "zz"}],
                [7, "key.cas", {"key": "a", "value": 0, "expected_version": 1}],
                put(2, "late"),  # below ack: it is no business of the others
                put(0, "b"),
                put(9, "c"),
            ]
            answer = await ask(connection, "COMMANDS", {"session": SESSION, "ack": 5, "commands": commands})
            told = [
                from_wire(result).code if isinstance(result, dict) else result[1]
                for result in answer["results"]
            ]
            index = answer["results"][0][0]
            first, _, second, late, unnumbered, third = told
            assert [first["version"], second["version"], third["version"]] == [1, 2, 1]
            assert (late, unnumbered) == ("INVALID_ARGUMENT", "INVALID_ARGUMENT")
            assert first["index"] == index == answer["results"][2][0]
            assert sorted(seen) == expected
            connection.close()

    asyncio.run(scenario())


def test_a_group_that_is_too_large_for_one_command_goes_one_by_one(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with Node.local(tmp_path) as node:
            connection = await dial(node)
            await opened(connection)
            await until(lambda: node.status()["schema"]["in_force"] == SCHEMA_MAX)
            commands = [
                [seq, "key.put", {"key": str(seq), "value": bytes(COMMAND_BYTES_MAX // 8)}]
                for seq in range(1, 10)
            ]
            answer = await ask(connection, "COMMANDS", {"session": SESSION, "ack": 1, "commands": commands})
            assert [result[1]["version"] for result in answer["results"]] == [1] * 9
            connection.close()

    asyncio.run(scenario())


def test_a_session_that_is_over_is_the_answer_to_each(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with Node.local(tmp_path) as node:
            connection = await dial(node)
            await until(lambda: node.status()["schema"]["in_force"] == SCHEMA_MAX)
            commands = [put(1, "a"), put(2, "a")]
            answer = await ask(connection, "COMMANDS", {"session": SESSION, "ack": 1, "commands": commands})
            assert [from_wire(result).code for result in answer["results"]] == ["SESSION_EXPIRED"] * 2
            connection.close()

    asyncio.run(scenario())


def test_only_clients_in_the_nodes_process_hand_over(tmp_path: Path) -> None:
    async def scenario() -> None:
        config = NodeConfig("n1", tmp_path, listen=("127.0.0.1:0",), engine="solo")
        async with Node(config) as node:
            own = await dial(node)
            assert own._handover is not None
            over_tcp = await connect(node.address, Identity("mcp", "tester", b"", Role.CLIENT))
            assert over_tcp._handover is None
            assert node._parts is not None
            accepted = [each for listener in node._parts.listeners for each in listener.connections]
            assert sorted(each._handover is None for each in accepted) == [False, True]
            for connection in (own, over_tcp):
                connection.close()

    asyncio.run(scenario())


@pytest.mark.parametrize("value", [OrderedDict({1: 2}), OrderedDict({b"k": 2}), [OrderedDict({None: 1})]])
def test_a_nodes_own_client_is_told_as_others_are_of_what_is_no_plain_value(
    tmp_path: Path, value: object
) -> None:
    async def scenario() -> None:
        async with Node.local(tmp_path) as node, node.client() as client:
            for write in (client.put("k", value), client.put_many({"k": value, "l": 1})):
                with pytest.raises(InvalidArgument, match="is not a string"):
                    await write
            assert await client.keys() == []

    asyncio.run(scenario())


def test_what_cannot_be_written_to_the_log_spoils_no_others_of_the_same_turn(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with Node.local(tmp_path) as node, node.client() as client:
            await client.put("first", 0)
            writes = [client.put(f"k{number}", number) for number in range(3)]
            too_large = client.compare_and_set("c", 1, expected_version=2**70)
            outcomes = await asyncio.gather(*writes, too_large, return_exceptions=True)
            assert outcomes[:3] == [1, 1, 1]
            assert isinstance(outcomes[3], InvalidArgument)

    asyncio.run(scenario())
