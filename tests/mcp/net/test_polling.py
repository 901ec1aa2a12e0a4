"""Looking for the next bytes before the loop sleeps: when, for how long, and when not at all."""

import asyncio
import contextlib
import gc
from dataclasses import replace
from weakref import ref

import pytest

from mcp.errors import ConfigInvalid
from mcp.net.dial import connect
from mcp.net.limits import Limits
from mcp.net.listener import Listener
from mcp.net.pair import memory_pair
from mcp.net.polling import POLL_S_MAX, REST_S, TRIES, TRUST_MAX, Poller, Polling, _pollers, poller_of
from mcp.wire.messages import Message

LIMIT_S = 0.0004
STEP_S = 0.0001


def in_vain(polling: Polling, now: float) -> float:
    """Looks until it stops; the time then."""
    while polling.look(now):
        now += STEP_S
    return now


def test_it_looks_for_as_long_as_it_may():
    polling = Polling()
    assert polling.sent(10.0, LIMIT_S)
    assert in_vain(polling, 10.0) == pytest.approx(10.0 + LIMIT_S, abs=STEP_S)
    assert not polling.looking


def test_it_stops_when_bytes_have_come():
    polling = Polling()
    polling.sent(10.0, LIMIT_S)
    assert polling.look(10.0)
    polling.came()
    assert not polling.look(10.0 + STEP_S)


def test_what_does_not_pay_is_left_alone_and_tried_again_later():
    polling, now = Polling(), 10.0
    for _ in range(TRIES):
        assert polling.sent(now, LIMIT_S)
        now = in_vain(polling, now)
    assert not polling.sent(now, LIMIT_S)
    assert not polling.sent(now + REST_S * 0.9, LIMIT_S)
    assert polling.sent(now + REST_S, LIMIT_S)


def test_however_often_it_paid_it_does_not_look_in_vain_for_ever():
    polling, now = Polling(), 10.0
    for _ in range(10 * TRUST_MAX):
        polling.sent(now, LIMIT_S)
        polling.came()
    tried = 0
    while polling.sent(now, LIMIT_S):
        now = in_vain(polling, now)
        tried += 1
    assert tried == TRUST_MAX


def test_where_others_want_the_processor_it_rests_at_once():
    polling = Polling()
    for _ in range(TRUST_MAX):
        polling.sent(10.0, LIMIT_S)
        polling.came()
    polling.sent(10.0, LIMIT_S)
    assert not polling.look(10.0 + 2 * LIMIT_S)
    assert not polling.sent(10.0 + 3 * LIMIT_S, LIMIT_S)


class Loop:
    """Callbacks that are to come, one turn at a time."""

    def __init__(self) -> None:
        self.soon = []

    def call_soon(self, callback) -> None:
        self.soon.append(callback)

    def turn(self) -> None:
        soon, self.soon = self.soon, []
        for callback in soon:
            callback()


def test_the_loop_turns_and_makes_way_until_bytes_come():
    loop, ways = Loop(), []
    poller = Poller(loop, monotonic=lambda: 10.0, give_way=lambda: ways.append(1))
    for _ in range(3):
        poller.sent(LIMIT_S)
    for turn in range(1, 6):
        assert len(loop.soon) == 1
        loop.turn()
        assert len(ways) == turn
    poller.came()
    loop.turn()
    assert not loop.soon


def test_there_is_one_for_a_loop_and_it_goes_with_it():
    loop, other = asyncio.new_event_loop(), asyncio.new_event_loop()
    assert poller_of(loop) is poller_of(loop)
    assert poller_of(loop) is not poller_of(other)
    gone = ref(loop)
    loop.close()
    other.close()
    del loop
    gc.collect()
    assert gone() is None


class Counted(Poller):
    """Counts, and looks."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self.limits_s, self.came_total = [], 0

    def sent(self, limit_s: float) -> None:
        self.limits_s.append(limit_s)
        super().sent(limit_s)

    def came(self) -> None:
        self.came_total += 1
        super().came()


@pytest.fixture
def counted(monkeypatch):
    """Makes the running loop's poller one that counts."""
    monkeypatch.setattr("mcp.net.link.several_processors", lambda: True)

    def begin() -> Counted:
        loop = asyncio.get_running_loop()
        _pollers[loop] = Counted(loop)
        return _pollers[loop]

    return begin


@contextlib.asynccontextmanager
async def dialled(node, who, handler, *, accepts=0.0002, dials=0.0):
    """A connection of ``who`` over a socket; for so many seconds each end may look."""
    listener = Listener("127.0.0.1:0", node, handler, limits=Limits(poll_s=accepts))
    await listener.start()
    connection = await connect(str(listener.bound_address), who, timeout_s=10, limits=Limits(poll_s=dials))
    try:
        yield connection
    finally:
        connection.close()
        await listener.close()


async def echo(connection, number=1):
    await connection.request(Message("ECHO", {}, str(number)), timeout_s=10)


def test_over_a_socket_each_end_looks_behind_what_it_has_sent(client, node, recorder, counted):
    async def main():
        poller = counted()
        async with dialled(node, client, recorder(), accepts=0.0003, dials=0.0002) as connection:
            for number in range(3):
                await echo(connection, number)
            assert poller.limits_s == [0.0002, 0.0003] * 3
            assert poller.came_total >= 6
            connection.notify(b"nobody answers this")
        assert len(poller.limits_s) == 6

    asyncio.run(main())


def test_in_memory_nobody_does(client, node, recorder, counted):
    async def main():
        poller = counted()
        near, _ = await memory_pair(client, node, acceptor_handler=recorder(), limits=Limits(poll_s=0.0002))
        await echo(near)
        assert not poller.limits_s
        near.close()

    asyncio.run(main())


def test_where_it_is_off_nobody_does(client, node, recorder, counted):
    async def main():
        poller = counted()
        async with dialled(node, client, recorder(), accepts=0.0) as connection:
            await echo(connection)
            assert not poller.limits_s

    asyncio.run(main())


def test_behind_an_answer_to_a_node_nobody_does(node, recorder, counted):
    async def main():
        poller = counted()
        async with dialled(node, replace(node, node_id="node-2"), recorder()) as connection:
            await echo(connection)
            assert not poller.limits_s

    asyncio.run(main())


def test_on_one_processor_nobody_does(client, node, recorder, counted, monkeypatch):
    async def main():
        poller = counted()
        monkeypatch.setattr("mcp.net.link.several_processors", lambda: False)
        async with dialled(node, client, recorder()) as connection:
            await echo(connection)
            assert not poller.limits_s

    asyncio.run(main())


@pytest.mark.parametrize("wrong", [-0.1, POLL_S_MAX * 1.01, float("nan"), True, "1"])
def test_a_time_that_cannot_be_is_refused(wrong):
    with pytest.raises(ConfigInvalid, match="poll_s"):
        Limits(poll_s=wrong)
    assert Limits(poll_s=0).poll_s == 0
