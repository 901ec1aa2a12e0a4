"""Requests, answers, cancellation and closing, on two connections joined in memory."""

import asyncio
import contextlib
import gc
import logging

import numpy as np
import pytest

from mcp import errors
from mcp.net.limits import Limits
from mcp.net.pair import memory_pair
from mcp.wire.codec import encode_error, encode_message
from mcp.wire.frame import FrameKind
from mcp.wire.handshake import Role
from mcp.wire.messages import Message, Ttl
from mcp.wire.tensors import pack_all, unpack_all

ECHO = Message("ECHO", {"a": 1}, "id-1", "trace-1")
HOLD = Message("HOLD", {}, "id-2")


async def settle(rounds=20):
    """Let everything happen that can happen without time passing."""
    for _ in range(rounds):
        await asyncio.sleep(0)


async def pair(client, node, handler, near_handler=None, **limits):
    near, far = await memory_pair(
        client, node, initiator_handler=near_handler, acceptor_handler=handler, limits=Limits(**limits)
    )
    return near, far


def test_both_ends_know_their_peer(client, node, recorder):
    async def main():
        handler = recorder()
        near, far = await pair(client, node, handler)
        assert (near.peer.node_id, near.peer.role, near.peer.version) == ("node-1", Role.NODE, "1.0")
        assert (far.peer.node_id, far.peer.role) == ("client-1", Role.CLIENT)
        assert await handler.connected.get() is far

    asyncio.run(main())


def test_a_request_gets_its_answer(client, node, recorder):
    async def main():
        near, _ = await pair(client, node, recorder())
        arrays = {"x": np.arange(5000.0), "s": np.array(["añ"], object)}
        specs, segments = pack_all(arrays)
        request = Message("ECHO", {"inputs": specs}, "id", "trace")
        reply = await near.request(request, segments, timeout_s=5)
        assert (reply.message.id, reply.message.trace_id, reply.message.type) == ("id", "trace", "ECHOED")
        got = unpack_all(reply.message.payload["inputs"], reply.segments)
        assert got["x"].tolist() == arrays["x"].tolist()
        assert np.shares_memory(got["x"], np.frombuffer(reply.segments[0].obj, np.uint8))

    asyncio.run(main())


def test_what_is_to_be_done_with_an_answer_is_done_at_once_and_may_fail(client, node, recorder, caplog):
    async def main():
        near, _ = await pair(client, node, recorder())
        seen = []

        def fail(future):
            seen.append(future.exception() or future.result().message.type)
            raise ZeroDivisionError("a bug")

        for request in (ECHO, Message("BUG", {}, "id")):
            call = near.begin(request, timeout_s=5)
            call.go_on(fail)
            with contextlib.suppress(errors.McpError):
                await call.future
        assert seen[0] == "ECHOED"
        assert isinstance(seen[1], errors.McpError)
        held = near.begin(HOLD, timeout_s=5)
        held.go_on(lambda future: seen.append(future.cancelled()))
        held.cancel()
        held.cancel()
        assert seen[2:] == [True]
        assert (await near.request(ECHO, timeout_s=5)).message.type == "ECHOED"
        assert caplog.text.count("what was to be done with an answer failed") == 2

    asyncio.run(main())


def test_many_requests_at_once_each_get_their_own(client, node, recorder):
    async def main():
        near, far = await pair(client, node, recorder())
        requests = (near.request(Message("ECHO", {"n": n}, str(n)), timeout_s=5) for n in range(1000))
        replies = await asyncio.gather(*requests)
        assert [reply.message.payload["n"] for reply in replies] == list(range(1000))
        assert near.requests_in_flight == far.exchanges_in_progress == 0

    asyncio.run(main())


def test_both_ends_can_ask_on_one_connection(client, node, recorder):
    async def main():
        near, far = await pair(client, node, recorder(), recorder())
        both = await asyncio.gather(near.request(ECHO, timeout_s=5), far.request(ECHO, timeout_s=5))
        assert [reply.message.type for reply in both] == ["ECHOED", "ECHOED"]

    asyncio.run(main())


def test_answers_may_come_later_and_in_another_order(client, node, recorder):
    async def main():
        handler = recorder()
        near, _ = await pair(client, node, handler)
        first = asyncio.ensure_future(near.request(HOLD, timeout_s=5))
        second = asyncio.ensure_future(near.request(HOLD, timeout_s=5))
        one, two = await handler.exchanges.get(), await handler.exchanges.get()
        two.reply(HOLD.reply("B", {}))
        assert (await second).message.type == "B"
        assert not first.done()
        one.reply(HOLD.reply("A", {}))
        assert (await first).message.type == "A"

    asyncio.run(main())


def test_only_the_first_answer_counts(client, node, recorder):
    async def main():
        handler = recorder()
        near, _ = await pair(client, node, handler)
        request = asyncio.ensure_future(near.request(HOLD, timeout_s=5))
        exchange = await handler.exchanges.get()
        exchange.reply(HOLD.reply("FIRST", {}))
        exchange.reply(HOLD.reply("SECOND", {}))
        exchange.fail(errors.Busy("third"))
        assert (await request).message.type == "FIRST"
        await settle()
        assert near.counters.answers_unsolicited == 0

    asyncio.run(main())


def test_the_peers_error_is_raised_here(client, node, recorder):
    async def main():
        handler = recorder()
        near, _ = await pair(client, node, handler)
        request = asyncio.ensure_future(near.request(HOLD, timeout_s=5))
        (await handler.exchanges.get()).fail(errors.VersionConflict("lost", details={"version": 4}))
        with pytest.raises(errors.VersionConflict, match="lost") as caught:
            await request
        assert caught.value.details == {"version": 4}

    asyncio.run(main())


def test_a_bug_in_a_handler_is_answered_and_the_connection_goes_on(client, node, recorder, caplog):
    async def main():
        near, _ = await pair(client, node, recorder())
        with pytest.raises(errors.McpError, match="BUG") as caught:
            await near.request(Message("BUG", {}, "i"), timeout_s=5)
        assert caught.value.code == "INTERNAL"
        assert "a bug" not in caught.value.message
        assert (await near.request(ECHO, timeout_s=5)).message.type == "ECHOED"

    with caplog.at_level(logging.ERROR, "mcp.net"):
        asyncio.run(main())
    assert "ZeroDivisionError" in caplog.text


def test_an_end_without_a_handler_refuses_requests(client, node, recorder):
    async def main():
        _, far = await pair(client, node, recorder())
        with pytest.raises(errors.PermissionDenied):
            await far.request(ECHO, timeout_s=5)

    asyncio.run(main())


def test_an_answer_that_cannot_be_sent_becomes_an_error(client, node, recorder):
    async def main():
        handler = recorder()
        near, _ = await pair(client, node, handler, frame_bytes_max=8192)
        for payload, kind in (
            ({"x": bytes(9000)}, errors.FrameTooLarge),
            ({"x": object()}, errors.InvalidArgument),
        ):
            request = asyncio.ensure_future(near.request(HOLD, timeout_s=5))
            (await handler.exchanges.get()).reply(HOLD.reply("R", payload))
            with pytest.raises(kind):
                await request

    asyncio.run(main())


def test_an_error_with_too_many_details_arrives_without_them(client, node, recorder):
    async def main():
        handler = recorder()
        near, _ = await pair(client, node, handler, frame_bytes_max=4096)
        request = asyncio.ensure_future(near.request(HOLD, timeout_s=5))
        (await handler.exchanges.get()).fail(errors.VersionConflict("lost", details={"value": bytes(5000)}))
        with pytest.raises(errors.VersionConflict, match="lost"):
            await request

    asyncio.run(main())


def test_a_request_that_is_too_large_is_not_sent(client, node, recorder):
    async def main():
        near, _ = await pair(client, node, recorder(), frame_bytes_max=8192)
        with pytest.raises(errors.FrameTooLarge, match="frame_bytes_max=8192"):
            await near.request(ECHO, [bytes(9000)], timeout_s=5)
        assert near.requests_in_flight == 0
        assert (await near.request(ECHO, timeout_s=5)).message.type == "ECHOED"

    asyncio.run(main())


def test_a_request_without_an_answer_ends_and_is_cancelled(client, node, recorder):
    async def main():
        handler = recorder()
        near, far = await pair(client, node, handler)
        with pytest.raises(errors.DeadlineExceeded):
            await near.request(HOLD, timeout_s=0.001)
        exchange = await handler.exchanges.get()
        cancelled = asyncio.Event()
        exchange.on_cancel(cancelled.set)
        await cancelled.wait()
        assert exchange.cancelled
        exchange.reply(HOLD.reply("LATE", {}))
        await settle()
        assert far.exchanges_in_progress == near.requests_in_flight == 0
        assert near.counters.answers_late == 1
        assert near.counters.answers_unsolicited == 0

    asyncio.run(main())


def test_no_time_left_means_not_sent(client, node, recorder):
    async def main():
        near, far = await pair(client, node, recorder())
        with pytest.raises(errors.DeadlineExceeded, match="not sent"):
            await near.request(ECHO, timeout_s=0)
        await settle()
        assert far.counters.requests_received == 0

    asyncio.run(main())


def test_cancelling_the_task_cancels_the_request(client, node, recorder):
    async def main():
        handler = recorder()
        near, _ = await pair(client, node, handler)
        request = asyncio.ensure_future(near.request(HOLD, timeout_s=5))
        exchange = await handler.exchanges.get()
        called = []
        exchange.on_cancel(lambda: called.append("first"))
        exchange.on_cancel(lambda: 1 / 0)
        exchange.on_cancel(lambda: called.append("last"))
        request.cancel()
        with pytest.raises(asyncio.CancelledError):
            await request
        await settle()
        assert called == ["first", "last"]
        exchange.on_cancel(lambda: called.append("at once"))
        assert called[-1] == "at once"
        assert near.requests_in_flight == 0

    asyncio.run(main())


def test_something_else_may_be_done_where_a_request_fails_once(client, node, recorder):
    async def main():
        handler = recorder()
        near, _ = await pair(client, node, handler)
        for takes_over, told in ((True, "second"), (False, "first")):
            request = asyncio.ensure_future(near.request(HOLD, timeout_s=5))
            exchange = await handler.exchanges.get()
            seen = []
            exchange.on_end(lambda error, seen=seen: seen.append(("ended", error.message)))
            exchange.on_cancel(lambda seen=seen: seen.append("cancelled"))

            def instead(error, seen=seen, takes_over=takes_over):
                seen.append(("asked", error.message))
                return takes_over

            exchange.on_failure(instead)
            exchange.fail(errors.Busy("first"))
            # What was begun is over before anything else begins.
            assert seen == [("ended", "first"), ("asked", "first")]
            assert exchange.answered is not takes_over
            exchange.on_end(lambda error, seen=seen: seen.append(("ended", error.message)))
            exchange.fail(errors.Busy("second"))
            assert seen[2:] == [("ended", "second" if takes_over else "the request is over")]
            with pytest.raises(errors.Busy, match=told):
                await request

    asyncio.run(main())


def test_nothing_else_is_done_for_a_requester_that_has_gone_away(client, node, recorder):
    async def main():
        handler = recorder()
        near, _ = await pair(client, node, handler)
        request = asyncio.ensure_future(near.request(HOLD, timeout_s=5))
        exchange = await handler.exchanges.get()
        called = []
        exchange.on_failure(lambda _: called.append("asked") or True)
        exchange.on_cancel(lambda: called.append("cancelled"))
        request.cancel()
        with pytest.raises(asyncio.CancelledError):
            await request
        await settle()
        assert called == ["cancelled"]
        assert exchange.answered

    asyncio.run(main())


def test_the_remaining_time_travels_with_the_request(client, node, recorder):
    async def main():
        handler = recorder()
        near, _ = await pair(client, node, handler)
        loop = asyncio.get_running_loop()
        before = loop.time()
        tasks = [
            asyncio.ensure_future(near.request(Message("HOLD", {}, "i", ttl=ttl), timeout_s=40))
            for ttl in (Ttl(3, 60_000), Ttl(3, 2_000))
        ]
        one, two = await handler.exchanges.get(), await handler.exchanges.get()
        after = loop.time()
        assert (one.message.ttl, two.message.ttl) == (Ttl(3, 40_000), Ttl(3, 2_000))
        assert before + 40 <= one.deadline <= after + 40
        assert before + 2 <= two.deadline <= after + 2
        for task in tasks:
            task.cancel()

    asyncio.run(main())


def test_an_expired_message_is_refused_counted_and_its_sender_told(client, node, recorder):
    async def main():
        near, far = await pair(client, node, recorder())
        with pytest.raises(errors.MessageExpired):
            await near.request(Message("ECHO", {}, "i", ttl=Ttl(3, 0)), timeout_s=5)
        assert far.counters.messages_expired == 1

    asyncio.run(main())


def test_above_the_peers_limit_nothing_is_sent(client, node, recorder):
    async def main():
        handler = recorder()
        near, _ = await pair(client, node, handler, streams_max=2)
        held = [asyncio.ensure_future(near.request(HOLD, timeout_s=5)) for _ in range(2)]
        first = await handler.exchanges.get()
        with pytest.raises(errors.Busy, match="streams_max=2"):
            await near.request(ECHO, timeout_s=5)
        first.reply(HOLD.reply("DONE", {}))
        await held[0]
        assert (await near.request(ECHO, timeout_s=5)).message.type == "ECHOED"
        held[1].cancel()

    asyncio.run(main())


def test_a_peer_that_ignores_the_limit_is_answered_busy(client, node, recorder):
    async def main():
        handler = recorder()
        near, far = await pair(client, node, handler, streams_max=2)
        for stream in (101, 103, 105):
            near._send(FrameKind.REQUEST, stream, encode_message(HOLD))
        await handler.exchanges.get()
        await handler.exchanges.get()
        await settle()
        assert far.counters.requests_refused == 1
        assert handler.exchanges.empty()
        assert near.counters.answers_unsolicited == 1
        assert near.is_open

    asyncio.run(main())


def test_notices_arrive_in_order_whole_or_in_pieces(client, node, recorder):
    async def main():
        handler = recorder()
        near, _ = await pair(client, node, handler)
        assert near.notify(b"one")
        assert near.notify([b"t", memoryview(b"wo"), bytearray()])
        assert near.notify(bytes(200_000))
        assert [await handler.notices.get() for _ in range(2)] == [b"one", b"two"]
        assert len(await handler.notices.get()) == 200_000

    asyncio.run(main())


def test_notices_are_dropped_and_counted_above_the_limit(client, node, recorder):
    async def main():
        handler = recorder()
        near, far = await pair(client, node, handler, write_buffer_bytes_max=10_000)
        far._transport.pause_reading()
        sent = [near.notify(bytes(1000)) for _ in range(100)]
        assert sent.count(True) == 10
        assert sent[:10] == [True] * 10
        assert near.counters.notices_dropped == 90
        far._transport.resume_reading()
        await settle()
        assert near.notify(b"again")
        near.abort()
        assert not near.notify(b"nobody there")

    asyncio.run(main())


def test_writes_of_one_iteration_leave_together(client, node, recorder):
    async def main():
        near, far = await pair(client, node, recorder())
        writes = []
        transport = near._transport
        original = transport.writelines
        transport.writelines = lambda buffers: (writes.append(len(buffers)), original(buffers))
        transport.write = lambda data: (writes.append(1), type(transport).write(transport, data))
        await asyncio.gather(*(near.request(ECHO, timeout_s=5) for _ in range(50)))
        assert writes[:2] == [1, 49]  # the first is alone and waits for nobody
        assert far.counters.frames_received == 2 + 50

    asyncio.run(main())


def test_an_orderly_close_is_no_error(client, node, recorder):
    async def main():
        handler = recorder()
        near, far = await pair(client, node, handler)
        near.notify(b"last words")
        near.close()
        assert await near.wait_closed() is None
        assert await far.wait_closed() is None
        assert await handler.notices.get() == b"last words"
        assert await handler.closed.get() is None
        assert handler.closed.empty()
        near.close()
        near.abort()
        with pytest.raises(errors.Unavailable, match="not open"):
            await near.request(ECHO, timeout_s=5)

    asyncio.run(main())


def test_the_reason_of_a_close_arrives(client, node, recorder):
    async def main():
        near, far = await pair(client, node, recorder())
        far.close(errors.Busy("draining"))
        reason = await near.wait_closed()
        assert (type(reason), reason.message) == (errors.Busy, "draining")

    asyncio.run(main())


@pytest.mark.parametrize("how", ["close", "abort"])
def test_when_the_peer_leaves_a_sent_request_has_an_unknown_outcome(client, node, recorder, how):
    async def main():
        handler = recorder()
        near, far = await pair(client, node, handler)
        request = asyncio.ensure_future(near.request(HOLD, timeout_s=5))
        exchange = await handler.exchanges.get()
        getattr(far, how)()
        with pytest.raises(errors.OutcomeUnknown):
            await request
        assert exchange.cancelled
        exchange.reply(HOLD.reply("TOO LATE", {}))
        assert (await near.wait_closed() is None) == (how == "close")

    asyncio.run(main())


def test_a_request_that_never_left_can_be_repeated_safely(client, node, recorder):
    async def main():
        near, far = await pair(client, node, recorder())
        far._transport.pause_reading()
        large = asyncio.ensure_future(near.request(ECHO, [bytes(1_000_000)], timeout_s=5))
        behind = asyncio.ensure_future(near.request(ECHO, timeout_s=5))
        await settle()
        far.abort()
        with pytest.raises(errors.Unavailable, match="before the request was sent"):
            await behind
        with pytest.raises(errors.Unavailable, match="before the request was sent"):
            await large

    asyncio.run(main())


def test_what_is_queued_is_sent_before_an_orderly_close(client, node, recorder):
    async def main():
        handler = recorder()
        near, far = await pair(client, node, handler)
        far._transport.pause_reading()
        for index in range(5):
            near.notify(bytes([index]) * 300_000)
        near.close()
        await settle()
        assert not near.closed.done()
        far._transport.resume_reading()
        assert await far.wait_closed() is None
        assert [(await handler.notices.get())[0] for _ in range(5)] == list(range(5))
        assert await near.wait_closed() is None

    asyncio.run(main())


def test_a_request_that_is_still_sent_by_a_close_has_an_unknown_outcome(client, node, recorder):
    async def main():
        handler = recorder()
        near, far = await pair(client, node, handler)
        far._transport.pause_reading()
        near.notify(bytes(1_000_000))
        request = asyncio.ensure_future(near.request(HOLD, timeout_s=5))
        await settle()
        near.close()
        with pytest.raises(errors.OutcomeUnknown):
            await request
        far._transport.resume_reading()
        assert (await handler.exchanges.get()).message.type == "HOLD"

    asyncio.run(main())


def test_a_close_does_not_wait_for_ever(client, node, recorder):
    async def main():
        near, far = await pair(client, node, recorder(), close_timeout_s=0.001)
        far._transport.pause_reading()
        far._timer.cancel()
        near.notify(bytes(1_000_000))
        near.close()
        assert await near.wait_closed() is None

    asyncio.run(main())


def test_what_comes_while_a_close_waits_is_read_and_forgotten(client, node, recorder):
    async def main():
        handler, near_handler = recorder(), recorder()
        near, far = await pair(client, node, handler, near_handler)
        far._transport.pause_reading()
        near.notify(bytes(1_000_000))
        near.close()
        far.notify(bytes(300_000))
        await settle()
        assert far._transport.get_write_buffer_size() == 0
        assert near_handler.notices.empty()
        assert not near.closed.done()
        far._transport.resume_reading()
        assert await far.wait_closed() is None
        assert len(await handler.notices.get()) == 1_000_000

    asyncio.run(main())


def test_a_half_closed_connection_is_closed(client, node, recorder):
    async def main():
        handler = recorder()
        near, far = await pair(client, node, handler)
        near._transport.write_eof()
        assert "goodbye" in (await far.wait_closed()).message
        assert type(await near.wait_closed()) is errors.Unavailable

    asyncio.run(main())


@pytest.mark.parametrize(
    ("kind", "stream", "body", "code"),
    [
        (FrameKind.REQUEST, 2, encode_message(HOLD), "PROTOCOL_ERROR"),  # our own streams are odd
        (FrameKind.HELLO, 0, b"", "PROTOCOL_ERROR"),
        (FrameKind.GOODBYE, 0, b"\xc1", "PROTOCOL_ERROR"),
        (FrameKind.NOTICE, 0, bytes(9000), "FRAME_TOO_LARGE"),
    ],
)
def test_a_peer_that_breaks_the_protocol_is_told_and_left(client, node, recorder, kind, stream, body, code):
    async def main():
        near, far = await pair(client, node, recorder(), frame_bytes_max=8192)
        near._frame_bytes_max = 1 << 20
        near._send(kind, stream, body)
        assert (await far.wait_closed()).code == code
        assert (await near.wait_closed()).code == code

    asyncio.run(main())


def test_a_stream_is_not_used_twice_at_once(client, node, recorder):
    async def main():
        near, far = await pair(client, node, recorder())
        for _ in range(2):
            near._send(FrameKind.REQUEST, 7, encode_message(HOLD))
        assert "in use" in (await far.wait_closed()).message

    asyncio.run(main())


def test_a_request_that_is_no_message_is_answered_and_the_connection_goes_on(client, node, recorder):
    async def main():
        near, far = await pair(client, node, recorder())
        call = near._calls.open(asyncio.get_running_loop().create_future(), 10)
        near._send(FrameKind.REQUEST, call.stream, b"\x81\xa4type\x05")
        with pytest.raises(errors.InvalidArgument, match="lacks the field"):
            await call.future
        assert (await near.request(ECHO, timeout_s=5)).message.type == "ECHOED"
        assert far.counters.requests_refused == 1

    asyncio.run(main())


@pytest.mark.parametrize("kind", [FrameKind.RESPONSE, FrameKind.ERROR])
def test_an_answer_that_cannot_be_read_ends_the_call_and_the_connection(client, node, recorder, kind):
    async def main():
        handler = recorder()
        near, far = await pair(client, node, handler)
        request = asyncio.ensure_future(near.request(HOLD, timeout_s=5))
        await handler.exchanges.get()
        far._send(kind, 1, b"\xc1")
        with pytest.raises(errors.ProtocolError):
            await request
        assert (await far.wait_closed()).code == "PROTOCOL_ERROR"

    asyncio.run(main())


def test_answers_that_nobody_asked_for_are_counted_and_ignored(client, node, recorder):
    async def main():
        near, far = await pair(client, node, recorder())
        for stream in (1, 2, 77):
            far._send(FrameKind.RESPONSE, stream, b"not even a message")
            far._send(FrameKind.ERROR, stream, encode_error(errors.Busy("x")))
        far._send(FrameKind.CANCEL, 99)
        await settle()
        assert near.counters.answers_unsolicited == 6
        assert near.is_open

    asyncio.run(main())


def test_a_silent_peer_is_asked_and_then_given_up(client, node, recorder):
    async def main():
        near, far = await pair(client, node, recorder(), keepalive_s=0.002, dead_after_s=0.05)
        frames = far.counters.frames_received
        far._transport.pause_reading()
        far._timer.cancel()
        reason = await near.wait_closed()
        assert "taken for dead" in reason.message
        assert far.counters.frames_received == frames

    asyncio.run(main())


def test_whoever_was_called_can_be_as_impatient_as_whoever_called(client, node, recorder):
    async def main():
        near, far = await pair(client, node, recorder())
        near._timer.cancel()
        near._transport.pause_reading()
        far.watch_closely(Limits(keepalive_s=0.002, dead_after_s=0.05))
        reason = await far.wait_closed()
        assert "taken for dead" in reason.message

    asyncio.run(main())


def test_a_peer_that_answers_pings_stays(client, node, recorder):
    async def main():
        near, far = await pair(client, node, recorder(), keepalive_s=0.001, dead_after_s=10)
        far._timer.cancel()
        pongs = asyncio.Queue()
        near._dispatch[FrameKind.PONG] = pongs.put_nowait
        for _ in range(5):
            assert (await pongs.get()).kind is FrameKind.PONG
        assert near.is_open

    asyncio.run(main())


def test_a_peer_that_still_reads_is_alive_and_one_that_stopped_is_not(client, node, recorder):
    async def main():
        near, far = await pair(client, node, recorder())
        near._transport.pause_reading()
        for _ in range(3):
            far.notify(bytes(50_000))
        far._flush()
        near._transport.resume_reading()
        near._transport._deliver()
        near._transport.pause_reading()
        assert far.backlog_bytes > 0
        far._heard -= 1000
        far._tick()
        assert far.is_open
        far._heard -= 1000
        far._tick()
        assert not far.is_open

    asyncio.run(main())


def test_a_handler_that_fails_elsewhere_does_no_harm(client, node, recorder, caplog):
    async def main():
        handler = recorder()
        near, far = await pair(client, node, handler)
        handler.on_notice = handler.on_closed = lambda *_: 1 / 0
        near.notify(b"x")
        assert (await near.request(ECHO, timeout_s=5)).message.type == "ECHOED"
        near.close()
        assert await far.wait_closed() is None

    asyncio.run(main())
    assert caplog.text.count("ZeroDivisionError") == 2


def test_nothing_is_left_behind(client, node, recorder, caplog):
    """No future whose error was never seen, no timer that keeps a connection alive."""

    async def main():
        handler = recorder()
        near, far = await pair(client, node, handler)
        request = asyncio.ensure_future(near.request(HOLD, timeout_s=5))
        exchange = await handler.exchanges.get()
        exchange.fail(errors.Busy("at the moment of cancelling"))
        far._flush()
        near._transport._deliver()
        request.cancel()
        with pytest.raises(asyncio.CancelledError):
            await request
        near.abort()
        await far.wait_closed()
        await near.wait_closed()

    asyncio.run(main())
    gc.collect()
    assert "never retrieved" not in caplog.text
