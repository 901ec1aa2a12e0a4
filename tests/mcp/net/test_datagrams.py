"""Datagrams on real sockets of this machine, and in memory: bounded, never raising, where listeners are."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from typing import Any

import pytest

from mcp.errors import ConfigInvalid
from mcp.net import names as names_module
from mcp.net.datagrams import hear_group, open_datagrams
from mcp.net.interface import DatagramPort
from mcp.net.memory import MemoryNetwork
from mcp.net.names import NAMES_MAX, Names

WAIT_S = 10.0


class Ear:
    """What was heard, and a way to wait for it."""

    def __init__(self) -> None:
        self.heard: list[tuple[bytes, str]] = []
        self._more = asyncio.Event()

    def __call__(self, data: bytes, sender: str) -> None:
        self.heard.append((data, sender))
        self._more.set()

    async def until(self, count: int) -> list[bytes]:
        async with asyncio.timeout(WAIT_S):
            while len(self.heard) < count:
                self._more.clear()
                await self._more.wait()
        return [data for data, _ in self.heard]


async def known(names: Names, host: str, wanted: tuple[str, ...]) -> None:
    async with asyncio.timeout(WAIT_S):
        while names.addresses(host) != wanted:  # noqa: ASYNC110 - nothing signals what a test waits for
            await asyncio.sleep(0.001)


def run(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(scenario())


@contextlib.asynccontextmanager
async def ports(*addresses: str, names: Names | None = None) -> AsyncIterator[list[tuple[DatagramPort, Ear]]]:
    names = names or Names()
    opened: list[tuple[DatagramPort, Ear]] = []
    try:
        for address in addresses:
            ear = Ear()
            opened.append((await open_datagrams(address, ear, names=names), ear))
        yield opened
    finally:
        for port, _ in opened:
            port.close()
        names.close()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_what_is_sent_is_heard_with_the_address_that_answers_reach(host: str) -> None:
    async def scenario() -> None:
        async with ports(f"{host}:0", "127.0.0.1:0") as ((near, near_ear), (far, far_ear)):
            port = near.address.rpartition(":")[2]
            assert far.send(f"127.0.0.1:{port}", b"there")
            assert await near_ear.until(1) == [b"there"]
            assert near.send(near_ear.heard[0][1], b"and back")
            assert await far_ear.until(1) == [b"and back"]
            assert far_ear.heard[0][1] == f"127.0.0.1:{port}"

    run(scenario)


def test_the_port_is_the_listener_s_and_one_that_is_taken_is_told_with_what_to_do() -> None:
    async def scenario() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
            taken.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{taken.getsockname()[1]}"
            with pytest.raises(ConfigInvalid, match=f"{address} \\(UDP\\).*choose another address"):
                await open_datagrams(address, Ear(), names=Names())
        async with ports(address) as ((port, _),):
            assert port.address == address

    run(scenario)


@pytest.mark.parametrize(
    "target", ["", "nonsense", "unix:///tmp/x", "memory://n1", "127.0.0.1:0", "[::1]:7400", "127.0.0.1:99999"]
)
def test_what_cannot_be_sent_is_dropped_and_raises_nothing(target: str) -> None:
    async def scenario() -> None:
        async with ports("127.0.0.1:0") as ((port, _),):
            assert not port.send(target, b"lost")

    run(scenario)


def test_nobody_there_a_closed_port_and_too_much_at_once_raise_nothing() -> None:
    async def scenario() -> None:
        async with ports("127.0.0.1:0", "127.0.0.1:0") as ((near, near_ear), (far, _)):
            gone = far.address
            far.close()
            far.close()
            assert not far.send(near.address, b"from a closed one")
            for _ in range(3):
                near.send(gone, b"to nobody")
                await asyncio.sleep(0)
            near.send(near.address, bytes(100_000))
            near.send(near.address, b"still here")
            assert (await near_ear.until(1))[-1] == b"still here"

    run(scenario)


def test_a_name_is_resolved_meanwhile_and_again_and_what_it_stood_for_holds_until_then() -> None:
    async def scenario() -> None:
        answers: list[Sequence[str] | OSError] = [["127.0.0.1"], OSError("no resolver"), ["127.0.0.2"]]
        asked: list[str] = []

        async def resolve(host: str) -> Sequence[str]:
            asked.append(host)
            found = answers[min(len(asked), 3) - 1]
            if isinstance(found, OSError):
                raise found
            return found

        names = Names(resolve, again_s=0.0)
        async with ports("127.0.0.1:0", names=names) as ((port, ear),):
            number = port.address.rpartition(":")[2]
            assert not port.send(f"node.test:{number}", b"too early")
            await known(names, "node.test", ("127.0.0.1",))
            assert port.send(f"node.test:{number}", b"found")
            assert await ear.until(1) == [b"found"]
            await known(names, "node.test", ("127.0.0.2",))
            assert len(asked) >= 3
            assert set(asked) == {"node.test"}

    run(scenario)


def test_what_a_name_stands_for_is_kept_for_the_declared_time() -> None:
    async def scenario() -> None:
        asked: list[str] = []

        async def resolve(host: str) -> Sequence[str]:
            asked.append(host)
            return ["127.0.0.1", "not an address", "::1"]

        names = Names(resolve)
        await known(names, "node.test", ("127.0.0.1", "::1"))
        for _ in range(10):
            names.addresses("node.test")
            await asyncio.sleep(0)
        assert asked == ["node.test"]
        assert names.addresses("10.0.0.1") == ("10.0.0.1",)
        assert asked == ["node.test"]
        names.close()

    run(scenario)


def test_names_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        async def resolve(host: str) -> Sequence[str]:
            await asyncio.Event().wait()
            return []

        names = Names(resolve)
        for number in range(NAMES_MAX + 50):
            names.addresses(f"n{number}.test")
        assert len(names._names) == NAMES_MAX
        waiting = [task for task in asyncio.all_tasks() if "Names._ask" in repr(task.get_coro())]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert sum(not task.done() for task in waiting) == NAMES_MAX
        names.close()

    assert names_module.RESOLVE_AGAIN_S == 30.0
    run(scenario)


def test_everybody_at_a_broadcast_address_hears_and_can_answer() -> None:
    async def scenario() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
            free.bind(("127.0.0.1", 0))
            group = f"127.255.255.255:{free.getsockname()[1]}"
        ears = [Ear(), Ear()]
        hearing = [await hear_group(group, ear) for ear in ears]
        try:
            async with ports("127.0.0.1:0") as ((port, ear),):
                assert port.send(group, b"who is there?")
                for each in ears:
                    assert await each.until(1) == [b"who is there?"]
                    assert each.heard[0][1] == port.address
                assert port.send(ears[0].heard[0][1], b"I am")
                assert await ear.until(1) == [b"I am"]
        finally:
            for each_hearing in hearing:
                each_hearing.close()

    run(scenario)


@pytest.mark.parametrize("address", ["localhost:7400", "[::1]:7400", "203.0.113.1:7400"])
def test_what_is_no_address_of_everybody_here_is_refused(address: str) -> None:
    async def scenario() -> None:
        with pytest.raises(ConfigInvalid, match=r"broadcast address of this network, such as 10\.0\.0\.255"):
            await hear_group(address, Ear())

    run(scenario)


def test_in_memory_they_arrive_in_a_later_turn_and_only_where_somebody_hears() -> None:
    async def scenario() -> None:
        network, ear = MemoryNetwork(), Ear()
        names = Names()
        near = await open_datagrams("memory://near", ear, names=names, network=network)
        far = await open_datagrams("memory://far", Ear(), names=names, network=network)
        assert far.send("memory://near", b"1")
        assert far.send("memory://nobody", b"lost")
        assert not far.send("127.0.0.1:7400", b"of another network")
        assert not ear.heard
        assert await ear.until(1) == [b"1"]
        assert ear.heard[0][1] == "memory://far" == far.address
        with pytest.raises(ConfigInvalid, match="memory://near"):
            await open_datagrams("memory://near", Ear(), names=names, network=network)
        far.send("memory://near", b"2")
        near.close()
        await asyncio.sleep(0)
        assert len(ear.heard) == 1
        with pytest.raises(ConfigInvalid, match="has no datagrams"):
            await open_datagrams("unix:///tmp/n1", Ear(), names=names)

    run(scenario)
