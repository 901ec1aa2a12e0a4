"""Messages that go from one end to the other of a connection within a process as they are."""

import asyncio

import pytest

from mcp import errors
from mcp.net.limits import Limits
from mcp.net.memory import MemoryNetwork
from mcp.net.pair import memory_pair
from mcp.wire.messages import Message, Ttl

HOLD = Message("HOLD", {"a": [1]}, "id-1", "trace-1")


async def pair(client, node, handler, **limits):
    network = MemoryNetwork(handing_over=True)
    return await memory_pair(client, node, acceptor_handler=handler, limits=Limits(**limits), network=network)


async def settle(rounds=20):
    for _ in range(rounds):
        await asyncio.sleep(0)


def test_a_final_message_is_handed_over_and_any_other_is_copied(client, node, recorder):
    async def main():
        handler = recorder()
        near, _ = await pair(client, node, handler)
        for final in (True, False):
            call = near.begin(HOLD, timeout_s=5, final=final)
            exchange = await handler.exchanges.get()
            assert exchange.message == HOLD.with_ttl_ms(5000)
            assert (exchange.message.payload is HOLD.payload) is final
            answer = exchange.message.reply("HELD", {"b": [2]})
            exchange.reply(answer, final=final)
            reply = await call.future
            assert reply.message == answer
            assert (reply.message is answer) is final

    asyncio.run(main())


def test_over_a_wire_nothing_is_handed_over(client, node, recorder):
    async def main():
        handler = recorder()
        near, _ = await memory_pair(client, node, acceptor_handler=handler)
        near.begin(HOLD, timeout_s=5, final=True)
        assert (await handler.exchanges.get()).message.payload is not HOLD.payload

    asyncio.run(main())


def test_the_remaining_time_goes_with_it(client, node, recorder):
    async def main():
        handler = recorder()
        near, _ = await pair(client, node, handler)
        for ms, timeout_s, left in ((700, 5, 700), (60_000, 0.25, 250)):
            near.begin(Message("HOLD", {}, "i", ttl=Ttl(3, ms)), timeout_s=timeout_s, final=True)
            assert (await handler.exchanges.get()).message.ttl == Ttl(3, left)
        near.begin(Message("HOLD", {}, "i", ttl=Ttl(3, 0)), timeout_s=5, final=True)
        late = near.begin(HOLD, timeout_s=5, final=True)
        assert (await handler.exchanges.get()).message.id == HOLD.id
        assert not late.future.done()

    asyncio.run(main())


def test_each_answer_is_that_of_its_request_whichever_way_they_go(client, node, recorder):
    async def main():
        handler = recorder()
        near, _ = await pair(client, node, handler)
        calls = [
            near.begin(Message("HOLD", {"n": n}, f"i{n}"), timeout_s=5, final=n % 3 > 0) for n in range(12)
        ]
        held = [await handler.exchanges.get() for _ in calls]
        for n in (7, 2, 9, 0, 4, 11, 1, 3, 10, 5, 8, 6):
            held[n].reply(held[n].message.reply("HELD", {"n": n}), final=n % 2 > 0)
        for n, call in enumerate(calls):
            assert (await call.future).message.payload == {"n": n}

    asyncio.run(main())


def test_what_is_refused_or_not_waited_for_any_more_leaves_nothing_behind(client, node, recorder):
    async def main():
        handler = recorder()
        near, far = await pair(client, node, handler, streams_max=2)
        dropped = near.begin(HOLD, timeout_s=5, final=True)
        near.begin(HOLD, timeout_s=5, final=True)
        with pytest.raises(errors.Busy):
            near.begin(HOLD, timeout_s=5, final=True)
        first = await handler.exchanges.get()
        await handler.exchanges.get()
        first.reply(HOLD.reply("HELD", {"n": 1}), final=True)
        near.abandon(dropped)
        await settle()
        assert near.counters.answers_late == 1
        far._check_room = lambda: (_ for _ in ()).throw(errors.Busy("full"))
        refused = near.begin(Message("HOLD", {}, "refused"), timeout_s=5, final=True)
        with pytest.raises(errors.Busy, match="full"):
            await refused.future
        del far._check_room
        near.begin(Message("HOLD", {}, "taken"), timeout_s=5, final=True)
        assert (await handler.exchanges.get()).message.id == "taken"
        for end in (near, far):
            assert not end._handover.given

    asyncio.run(main())


@pytest.mark.parametrize("leave", ["close", "abort"])
def test_a_request_that_was_handed_over_is_in_doubt_when_its_end_leaves(client, node, recorder, leave):
    async def main():
        handler = recorder()
        near, far = await pair(client, node, handler)
        call = near.begin(HOLD, timeout_s=5, final=True)
        await handler.exchanges.get()
        getattr(far, leave)()
        with pytest.raises(errors.OutcomeUnknown):
            await call.future

    asyncio.run(main())
