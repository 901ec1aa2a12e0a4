"""What carries gossip by stream: in order, bounded, over a link where there is one, and never raising."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, cast

from mcp.clock import SystemClock
from mcp.errors import Unavailable
from mcp.net.connection import Connection
from mcp.node.couriers import COURIERS_MAX, WAITING_MAX, Couriers
from mcp.wire.messages import Message


class Line:
    """A connection that keeps what it was given; it answers when it is told to."""

    def __init__(self, *, breaks_after: int = 10**6) -> None:
        self.sent: list[bytes] = []
        self.closed = False
        self.answering = asyncio.Event()
        self._breaks_after = breaks_after

    async def request(self, message: Message, *, timeout_s: float) -> None:
        assert message.type == "GOSSIP"
        await self.answering.wait()
        if len(self.sent) >= self._breaks_after:
            raise Unavailable("the connection is not open")
        self.sent.append(message.payload["sealed"])

    def close(self) -> None:
        self.closed = True


def run(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(scenario())


def couriers(links: dict[str, Line], lines: dict[str, Line], dialled: list[str]) -> Couriers:
    async def dial(address: str) -> Connection:
        dialled.append(address)
        if address not in lines:
            raise Unavailable(f"nobody listens at {address}")
        return cast(Connection, lines[address])

    return Couriers(lambda address: cast(Connection, links.get(address)), dial, SystemClock())


async def turns(count: int = 20) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def test_messages_go_in_order_over_the_link_or_over_one_connection_that_is_closed_behind_them() -> None:
    async def scenario() -> None:
        link, line, dialled = Line(), Line(), list[str]()
        carrying = couriers({"a": link}, {"b": line}, dialled)
        for n in range(5):
            for address in ("a", "b"):
                carrying.send(address, bytes((n,)))
        link.answering.set()
        line.answering.set()
        await turns()
        assert link.sent == line.sent == [bytes((n,)) for n in range(5)]
        assert dialled == ["b"]
        assert (link.closed, line.closed) == (False, True)
        carrying.send("b", b"again")
        await turns()
        assert dialled == ["b", "b"]
        await carrying.close()

    run(scenario)


def test_what_cannot_be_carried_is_lost_and_counted_and_the_next_one_is_tried() -> None:
    async def scenario() -> None:
        line = Line(breaks_after=1)
        line.answering.set()
        dialled = list[str]()
        carrying = couriers({}, {"b": line}, dialled)
        carrying.send("nobody", b"1")
        for n in range(3):
            carrying.send("b", bytes((n,)))
        await turns()
        assert line.sent == [b"\x00"]
        assert carrying.lost == 3
        assert line.closed
        carrying.send("nobody", b"2")
        await turns()
        assert dialled.count("nobody") == 2
        await carrying.close()

    run(scenario)


def test_what_waits_is_bounded_for_each_address_and_for_all() -> None:
    async def scenario() -> None:
        line = Line()
        lines = {f"b{n}": line for n in range(COURIERS_MAX + 5)}
        carrying = couriers({}, lines, [])
        for _ in range(WAITING_MAX + 10):
            carrying.send("b0", b"x")
        assert carrying.dropped == 10
        for address in lines:
            if address != "b0":
                carrying.send(address, b"y")
        assert carrying.dropped == 10 + 5
        await turns()
        await carrying.close()
        assert line.sent == []
        assert line.closed
        assert len(asyncio.all_tasks()) == 1

    run(scenario)
