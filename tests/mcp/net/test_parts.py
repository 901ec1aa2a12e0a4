"""Answers in parts: the credit on both ends, back-pressure, and every way in which they end."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp import errors
from mcp.net.dial import connect
from mcp.net.limits import Limits
from mcp.net.listener import Listener
from mcp.net.pair import memory_pair
from mcp.net.parts import Credit, Window
from mcp.wire.codec import encode_map
from mcp.wire.frame import FrameKind
from mcp.wire.messages import CREDIT_MAX, Message


def ask(credit=4):
    return Message("COUNT", {}, "i", credit=credit)


async def settle(rounds=30):
    for _ in range(rounds):
        await asyncio.sleep(0)


class Counter:
    """Answers in parts as fast as there is room: ``last`` of them, each with a segment."""

    def __init__(self, exchange, last=10**9, size=8):
        self.exchange, self.last, self.size = exchange, last, size
        self.made = 0
        exchange.on_room(self.go_on)

    def go_on(self):
        self.made += 1
        self.exchange.part({"number": self.made}, [bytes(self.size)])
        if self.made == self.last:
            self.exchange.reply(self.exchange.message.reply("COUNTED", {"made": self.made}))
        else:
            self.exchange.on_room(self.go_on)


@given(st.integers(1, 40), st.lists(st.booleans(), max_size=400))
def test_whatever_is_taken_when_no_more_wait_than_the_window_and_none_is_lost(size, turns):
    window, credit = Window(size), Credit(size)
    waiting = sent = 0
    for send in turns:
        if send and credit.parts:
            credit.spend()
            window.came()
            sent, waiting = sent + 1, waiting + 1
        elif not send and waiting:
            waiting -= 1
            more = window.taken()
            if more:
                credit.allow(more)
        assert waiting + credit.parts <= size
        # Somebody who takes everything is never left without a further part.
        assert waiting or credit.parts


@given(st.integers(1, 40))
def test_more_than_was_allowed_is_refused(size):
    window, credit = Window(size), Credit(size)
    for _ in range(size):
        window.came()
        credit.spend()
    with pytest.raises(errors.ProtocolError):
        window.came()
    with pytest.raises(RuntimeError):
        credit.spend()


@pytest.mark.parametrize("parts", [0, -1, None, "1", 1.0, True, CREDIT_MAX])
def test_credit_that_makes_no_sense_is_refused(parts):
    with pytest.raises(errors.ProtocolError, match="credit_max"):
        Credit(1).allow(parts)


@pytest.mark.parametrize("transport", ["memory", "tcp"])
def test_parts_come_in_order_and_then_the_end(client, node, recorder, transport):
    async def main():
        handler = recorder()
        listener = None
        if transport == "tcp":
            listener = Listener("127.0.0.1:0", node, handler)
            await listener.start()
            near = await connect(listener.bound_address, client)
        else:
            near, _ = await memory_pair(client, node, acceptor_handler=handler)
        parts = near.stream(ask(), timeout_s=30)
        counter = Counter(await handler.exchanges.get(), last=100, size=30_000)
        got = [(part.payload["number"], len(part.segments[0])) async for part in parts]
        assert got == [(number, 30_000) for number in range(1, 101)]
        assert parts.reply.message.payload == {"made": 100}
        assert counter.made == 100
        assert near.requests_in_flight == 0
        near.close()
        if listener is not None:
            await listener.close()

    asyncio.run(main())


def test_who_passes_parts_on_takes_them_and_says_itself_how_many_more(client, node, recorder):
    async def main():
        handler = recorder()
        near, far = await memory_pair(client, node, acceptor_handler=handler)
        parts = near.stream(ask(credit=2), timeout_s=30)
        counter = Counter(await handler.exchanges.get())
        assert await parts.arrived()
        assert await parts.arrived()  # it is left where it is
        await settle()
        assert [parts.take().payload["number"] for _ in range(2)] == [1, 2]
        await settle()
        assert counter.made == 2
        parts.allow(3)
        await settle()
        assert (counter.made, counter.exchange.parts_allowed) == (5, 0)
        far.abort()
        await settle()
        assert [(await parts.arrived(), parts.take().payload["number"])[1] for _ in range(3)] == [3, 4, 5]
        assert not await parts.arrived()
        parts.allow(1)
        with pytest.raises(errors.OutcomeUnknown):
            await anext(parts)
        parts.close()

    asyncio.run(main())


def test_a_slow_user_holds_up_its_own_producer_and_nobody_else(client, node, recorder):
    async def main():
        handler = recorder()
        near, far = await memory_pair(client, node, acceptor_handler=handler)
        parts = near.stream(ask(credit=4), timeout_s=30)
        counter = Counter(await handler.exchanges.get())
        await settle()
        assert counter.made == 4
        assert (await near.request(Message("ECHO", {}, "i"), timeout_s=30)).message.type == "ECHOED"
        assert [(await anext(parts)).payload["number"] for _ in range(3)] == [1, 2, 3]
        await settle()
        assert counter.made == 6  # half a window at a time
        parts.close()
        await settle()
        assert counter.exchange.cancelled
        assert counter.made == 6
        assert (near.requests_in_flight, far.exchanges_in_progress, far._awaiting_room) == (0, 0, 0)

    asyncio.run(main())


def test_a_producer_waits_while_too_much_is_unsent_whatever_was_allowed(client, node, recorder):
    async def main():
        handler = recorder()
        limits = Limits(write_high_water_bytes=20_000)
        near, far = await memory_pair(client, node, acceptor_handler=handler, limits=limits)
        parts = near.stream(ask(credit=1000), timeout_s=30)
        exchange = await handler.exchanges.get()
        near._transport.pause_reading()
        near._regulate = lambda: None
        counter = Counter(exchange, last=500, size=1000)
        await settle(200)
        made = counter.made
        assert 10 < made < 200
        assert far.backlog_bytes < 20_000 + 2 * 70_000
        del near._regulate
        near._transport.resume_reading()
        assert len([part async for part in parts]) == 500

    asyncio.run(main())


def test_whoever_waits_for_a_part_is_told_how_it_ended(client, node, recorder):
    async def main():
        handler = recorder()
        near, far = await memory_pair(client, node, acceptor_handler=handler)

        async def ended(end, timeout_s=30.0):
            parts = near.stream(ask(), timeout_s=timeout_s)
            exchange = await handler.exchanges.get()
            exchange.part({"number": 1})
            assert (await anext(parts)).payload == {"number": 1}
            waiting = asyncio.ensure_future(anext(parts))
            await settle()
            end(exchange)
            return await asyncio.gather(waiting, return_exceptions=True), exchange

        (error,), _ = await ended(lambda exchange: exchange.fail(errors.Busy("no")))
        assert isinstance(error, errors.Busy)
        (error,), exchange = await ended(lambda _: None, timeout_s=0.01)
        assert isinstance(error, errors.DeadlineExceeded)
        await settle()
        assert exchange.cancelled
        (error,), exchange = await ended(lambda _: near.abort())
        assert isinstance(error, errors.OutcomeUnknown)
        await settle()
        assert exchange.cancelled
        assert far.exchanges_in_progress == 0

    asyncio.run(main())


def test_parts_that_were_not_read_come_before_the_error(client, node, recorder):
    async def main():
        handler = recorder()
        near, _ = await memory_pair(client, node, acceptor_handler=handler)
        parts = near.stream(ask(), timeout_s=30)
        exchange = await handler.exchanges.get()
        exchange.part({"number": 1})
        exchange.fail(errors.InferenceFailed("the second step"))
        await settle()
        assert (await anext(parts)).payload == {"number": 1}
        with pytest.raises(errors.InferenceFailed):
            await anext(parts)

    asyncio.run(main())


def test_a_part_that_cannot_be_sent_ends_the_answer(client, node, recorder):
    async def main():
        handler = recorder()
        near, far = await memory_pair(client, node, acceptor_handler=handler)
        parts = near.stream(ask(), timeout_s=30)
        exchange = await handler.exchanges.get()
        exchange.part({"number": object()})
        with pytest.raises(errors.InvalidArgument):
            await anext(parts)
        assert exchange.answered
        assert far.is_open

    asyncio.run(main())


def test_an_answer_that_is_wanted_whole_has_no_room_for_parts(client, node, recorder):
    async def main():
        handler = recorder()
        near, _ = await memory_pair(client, node, acceptor_handler=handler)
        whole = asyncio.ensure_future(near.request(Message("HOLD", {}, "i"), timeout_s=30))
        exchange = await handler.exchanges.get()
        assert not exchange.in_parts
        assert not exchange.has_room
        exchange.part({"number": 1})
        exchange.reply(exchange.message.reply("DONE", {}))
        assert (await whole).message.type == "DONE"

    asyncio.run(main())


@pytest.mark.parametrize("what", ["too many", "of a whole answer", "no map"])
def test_parts_against_the_rules_end_the_connection(client, node, recorder, what):
    async def main():
        handler = recorder()
        near, far = await memory_pair(client, node, acceptor_handler=handler)
        body = b"\xc1" if what == "no map" else encode_map({})
        if what == "of a whole answer":
            call = asyncio.ensure_future(near.request(Message("HOLD", {}, "i"), timeout_s=30))
        else:
            parts = near.stream(ask(credit=1), timeout_s=30)
            call = asyncio.ensure_future(anext(parts))
        exchange = await handler.exchanges.get()
        for _ in range(2):
            far._send(FrameKind.PART, exchange._stream, body)
        await near.wait_closed()
        if what == "too many":
            await call
            call = asyncio.ensure_future(anext(parts))
        with pytest.raises(errors.ProtocolError):
            await call

    asyncio.run(main())


@pytest.mark.parametrize(
    "body", [b"\xc1", encode_map({}), encode_map({"parts": 0}), encode_map({"parts": 70_000})]
)
def test_credit_against_the_rules_ends_the_connection(client, node, recorder, body):
    async def main():
        handler = recorder()
        near, far = await memory_pair(client, node, acceptor_handler=handler)
        parts = near.stream(ask(), timeout_s=30)
        exchange = await handler.exchanges.get()
        near._send(FrameKind.CREDIT, exchange._stream, body)
        assert isinstance(await far.wait_closed(), errors.ProtocolError)
        with pytest.raises(errors.McpError):
            await anext(parts)

    asyncio.run(main())


def test_credit_for_what_is_over_is_ignored(client, node, recorder):
    async def main():
        near, far = await memory_pair(client, node, acceptor_handler=recorder())
        near._send(FrameKind.CREDIT, 1, encode_map({"parts": 1}))
        assert (await near.request(Message("ECHO", {}, "i"), timeout_s=30)).message.type == "ECHOED"
        assert far.is_open

    asyncio.run(main())
