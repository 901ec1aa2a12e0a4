"""Many commands in one request, at a real node: what is refused as a whole, and what one by one."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from mcp.clock import SystemClock, new_id
from mcp.errors import InvalidArgument, from_wire
from mcp.net.connection import Connection
from mcp.net.dial import connect
from mcp.node.node import Node
from mcp.wire.handshake import Identity, Role
from mcp.wire.messages import Message

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
