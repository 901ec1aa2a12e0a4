"""Slow and greedy peers: what is held stays bounded, and two ends never wait for each other."""

import asyncio

import pytest

from mcp import errors
from mcp.net.limits import Limits
from mcp.net.outbox import SLICE_BYTES, Outbox
from mcp.net.pair import memory_pair
from mcp.wire.codec import encode_message
from mcp.wire.frame import FrameKind
from mcp.wire.messages import Message, Ttl

ECHO = Message("ECHO", {"fill": bytes(1000)}, "i")


async def settle(rounds=30):
    for _ in range(rounds):
        await asyncio.sleep(0)


def test_requests_are_not_read_while_answers_are_unread(client, node, recorder):
    async def main():
        limits = Limits(write_high_water_bytes=20_000)
        near, far = await memory_pair(client, node, acceptor_handler=recorder(), limits=limits)
        near._transport.pause_reading()
        near._regulate = lambda: None  # it does not even look
        requests = [asyncio.ensure_future(near.request(ECHO, timeout_s=30)) for _ in range(1000)]
        await settle()
        answered = far.counters.requests_received
        assert answered < 200
        assert far.backlog_bytes < 20_000 + 2 * 70_000
        del near._regulate
        near._transport.resume_reading()
        assert len(await asyncio.gather(*requests)) == 1000
        assert far.counters.requests_received == 1000

    asyncio.run(main())


async def stopped(client, node, recorder):
    """Two ends of which the second has stopped reading, for the first does not read its answers."""
    near_handler = recorder()
    near, far = await memory_pair(
        client,
        node,
        initiator_handler=near_handler,
        acceptor_handler=recorder(),
        limits=Limits(write_high_water_bytes=20_000),
    )
    near._transport.pause_reading()
    near._regulate = lambda: None
    requests = [asyncio.ensure_future(near.request(ECHO, timeout_s=30)) for _ in range(1000)]
    await settle()
    assert not far._transport.is_reading()
    return near, far, requests


def test_an_end_that_has_stopped_reads_again_when_it_asks_something_itself(client, node, recorder):
    async def main():
        near, far, requests = await stopped(client, node, recorder)
        asked = asyncio.ensure_future(far.request(ECHO, timeout_s=30))
        await settle()
        assert far._transport.is_reading()
        del near._regulate
        near._transport.resume_reading()
        assert (await asked).message.type == "ECHOED"
        await asyncio.gather(*requests, return_exceptions=True)

    asyncio.run(main())


def test_unread_notices_do_not_stop_an_end_from_reading(client, node, recorder):
    async def main():
        limits = Limits(write_high_water_bytes=20_000)
        near, far = await memory_pair(client, node, acceptor_handler=recorder(), limits=limits)
        near._transport.pause_reading()
        for _ in range(20):
            assert far.notify(bytes(10_000))
        await settle()
        assert far.backlog_bytes == 20 * 10_024
        assert far._transport.is_reading()

    asyncio.run(main())


def test_a_peer_that_reads_its_refusals_is_not_cut_off(client, node, recorder):
    async def main():
        near, far = await memory_pair(client, node, acceptor_handler=recorder(), limits=Limits(streams_max=4))
        for _ in range(30):
            with pytest.raises(errors.MessageExpired):
                await near.request(Message("ECHO", {}, "i", ttl=Ttl(1, 0)), timeout_s=30)
        assert far.counters.requests_refused == 30

    asyncio.run(main())


def test_two_ends_that_flood_each_other_do_not_lock_up(client, node, recorder):
    async def main():
        limits = Limits(write_high_water_bytes=10_000)
        near, far = await memory_pair(
            client, node, initiator_handler=recorder(), acceptor_handler=recorder(), limits=limits
        )
        body = [bytes(50_000)]
        calls = [end.request(ECHO, body, timeout_s=30) for _ in range(100) for end in (near, far)]
        assert len(await asyncio.gather(*calls)) == 200

    asyncio.run(main())


def test_an_end_that_waits_for_an_answer_refuses_rather_than_stops_reading(client, node, recorder):
    async def main():
        handler = recorder()
        limits = Limits(write_high_water_bytes=10_000, write_buffer_bytes_max=50_000)
        near, far = await memory_pair(
            client, node, initiator_handler=handler, acceptor_handler=recorder(), limits=limits
        )
        asked = asyncio.ensure_future(far.request(Message("HOLD", {}, "i"), timeout_s=30))
        exchange = await handler.exchanges.get()
        near._transport.pause_reading()
        requests = [asyncio.ensure_future(near.request(ECHO, timeout_s=30)) for _ in range(500)]
        await settle()
        assert far.counters.requests_received == 500
        assert far.counters.requests_refused > 400
        assert far.backlog_bytes < 200_000
        exchange.reply(exchange.message.reply("DONE", {}))
        assert (await asked).message.type == "DONE"
        near._transport.resume_reading()
        answers = await asyncio.gather(*requests, return_exceptions=True)
        refused = [answer for answer in answers if isinstance(answer, errors.Busy)]
        assert len(refused) == far.counters.requests_refused
        assert all("write_buffer_bytes_max" in error.message for error in refused)

    asyncio.run(main())


@pytest.mark.parametrize("what", ["pings", "requests"])
def test_a_peer_that_makes_us_answer_and_never_reads_is_cut_off(client, node, recorder, what):
    async def main():
        handler = recorder()
        limits = Limits(streams_max=4, write_buffer_bytes_max=2_000)
        near, far = await memory_pair(
            client, node, initiator_handler=handler, acceptor_handler=recorder(), limits=limits
        )
        asked = asyncio.ensure_future(far.request(Message("HOLD", {}, "i"), timeout_s=30))
        await handler.exchanges.get()
        near._transport.pause_reading()
        stream = 1
        while far.is_open:
            if what == "pings":
                near._send(FrameKind.PING)
            else:
                near._send(FrameKind.REQUEST, stream, encode_message(ECHO))
                stream += 2
            await asyncio.sleep(0)
            assert far.backlog_bytes < 50_000
        with pytest.raises(errors.OutcomeUnknown, match="cut off"):
            await asked
        far.abort()

    asyncio.run(main())


class Slow(asyncio.Transport):
    """Takes one write and then needs to be drained."""

    def __init__(self, outbox):
        super().__init__()
        self.outbox, self.held, self.writes = outbox, 0, []

    def set_write_buffer_limits(self, high=None, low=None):
        assert high == 0

    def is_closing(self):
        return False

    def get_write_buffer_size(self):
        return self.held

    def write(self, data):
        self.writes.append(bytes(data))
        self.held += len(data)
        self.outbox.pause()

    def writelines(self, list_of_data):
        self.write(b"".join(list_of_data))

    def drain(self):
        self.held = 0
        self.outbox.resume()
        self.outbox.flush()


def test_a_large_buffer_is_handed_over_in_slices_as_they_are_taken():
    outbox = Outbox()
    transport = Slow(outbox)
    outbox.attach(transport)
    large = bytes(range(256)) * (SLICE_BYTES // 256 * 2 + 10)
    outbox.put([b"small", b"too", large, b"tail"])
    outbox.flush()
    assert transport.writes == [b"smalltoo"]
    assert outbox.backlog_bytes == len(large) + 12
    positions = [outbox.sent]
    while outbox.backlog_bytes:
        transport.drain()
        positions.append(outbox.sent)
    assert b"".join(transport.writes) == b"smalltoo" + large + b"tail"
    assert max(map(len, transport.writes)) == SLICE_BYTES
    assert positions == sorted(positions)
    assert positions[0] == 0
    assert positions[-1] == outbox.queued == outbox.handed


def test_an_end_that_closes_takes_whatever_still_comes(client, node, recorder):
    """It waits until its answers are read: meanwhile there is room for what nobody reads any more."""

    async def main():
        near, far = await memory_pair(client, node, acceptor_handler=recorder())
        near._transport.pause_reading()
        requests = [asyncio.ensure_future(near.request(ECHO, timeout_s=30)) for _ in range(1000)]
        await settle()
        large = Message("ECHO", {}, "large")
        requests.append(asyncio.ensure_future(near.request(large, [bytes(1_000_000)], timeout_s=30)))
        await asyncio.sleep(0)
        far.close()
        for _ in range(100):
            room = far.get_buffer(-1)
            assert len(room)
            far.buffer_updated(len(room))
        assert not far.closed.done()
        near._transport.resume_reading()
        await far.closed
        await asyncio.gather(*requests, return_exceptions=True)

    asyncio.run(main())
