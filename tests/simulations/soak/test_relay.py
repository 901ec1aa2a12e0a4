"""The relay on loopback: real sockets, faults one at a time, and nothing that is not asked for."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest

from simulations.faults import FaultKind
from simulations.soak.kinds import LiveKind
from simulations.soak.path import BUFFER_BYTES_MAX, LOSSES_TO_RESET, Broken, Effect, Path
from simulations.soak.relay import Relay

BOUND_S = 10.0
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass
class Bench:
    """A relay from ``a`` to ``b``, and the sockets that ``b`` accepts."""

    relay: Relay
    arrived: asyncio.Queue[Streams]

    @property
    def there(self) -> Path:
        return self.relay.there

    @property
    def back(self) -> Path:
        return self.relay.back

    async def dial(self) -> Streams:
        return await asyncio.open_connection("127.0.0.1", self.relay.port)

    async def pair(self) -> tuple[Streams, Streams]:
        """A connection, as its dialler and as its target have it."""
        before = self.relay.connections
        dialled = await self.dial()
        found = dialled, await self.arrived.get()
        while self.relay.connections == before:  # noqa: ASYNC110  (the relay tells nobody)
            await asyncio.sleep(0)
        return found


@asynccontextmanager
async def bench() -> AsyncIterator[Bench]:
    arrived: asyncio.Queue[Streams] = asyncio.Queue()
    server = await asyncio.start_server(lambda r, w: arrived.put_nowait((r, w)), "127.0.0.1", 0)
    now = asyncio.get_running_loop().time
    there = Path("a", "b", random.Random(1), now)
    back = Path("b", "a", random.Random(2), now)
    relay = Relay(there, back, f"127.0.0.1:{server.sockets[0].getsockname()[1]}", 0)
    await relay.start()
    try:
        yield Bench(relay, arrived)
    finally:
        await relay.close()
        server.close()


def run(scenario: Callable[[Bench], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(BOUND_S), bench() as made:
            await scenario(made)

    asyncio.run(bounded())


async def ended(reader: asyncio.StreamReader) -> bool:
    """Whether the stream is over, in order or by a reset, with nothing left in it."""
    try:
        return await reader.read(1) == b""
    except ConnectionResetError:
        return True


async def silent(reader: asyncio.StreamReader, turns: int = 50) -> bool:
    """Whether nothing has come, although everything that runs here had its turns."""
    reading = asyncio.ensure_future(reader.read(1))
    for _ in range(turns):
        await asyncio.sleep(0.001)
    done = reading.done()
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)
    return not done


def test_what_goes_in_comes_out_both_ways_and_ends_in_order() -> None:
    async def scenario(made: Bench) -> None:
        near, far = await made.pair()
        sent = random.Random(3).randbytes(3_000_000)
        near[1].write(sent)
        near[1].write_eof()
        assert await far[0].read(-1) == sent
        far[1].write(b"answer after the end")
        far[1].close()
        assert await near[0].read(-1) == b"answer after the end"

    run(scenario)


def test_a_partition_holds_back_and_loses_nothing() -> None:
    async def scenario(made: Bench) -> None:
        near, far = await made.pair()
        cut = Effect(FaultKind.PARTITION)
        made.there.add(cut)
        near[1].write(b"held")
        assert await silent(far[0])
        made.there.remove(cut)
        assert await far[0].readexactly(4) == b"held"
        assert cut.hits == 1

    run(scenario)


def test_a_cut_in_one_way_lets_the_other_pass() -> None:
    async def scenario(made: Bench) -> None:
        near, far = await made.pair()
        made.there.add(Effect(FaultKind.ONE_WAY))
        far[1].write(b"heard")
        assert await near[0].readexactly(5) == b"heard"
        near[1].write(b"unheard")
        assert await silent(far[0])

    run(scenario)


@pytest.mark.parametrize("how", ["close", "abort"])
def test_a_partition_hides_that_the_other_end_died(how: str) -> None:
    async def scenario(made: Bench) -> None:
        near, far = await made.pair()
        cut = Effect(FaultKind.PARTITION)
        made.there.add(cut)
        made.back.add(cut)
        far[1].close() if how == "close" else far[1].transport.abort()
        near[1].write(b"to nobody")
        assert await silent(near[0])
        made.there.remove(cut)
        made.back.remove(cut)
        assert await ended(near[0])

    run(scenario)


def test_no_connection_is_made_through_a_partition() -> None:
    async def scenario(made: Bench) -> None:
        cut = Effect(FaultKind.ONE_WAY)
        made.back.add(cut)
        near = await made.dial()
        near[1].write(b"hello")
        assert await silent(near[0])
        assert made.arrived.empty()
        made.back.remove(cut)
        far = await made.arrived.get()
        assert await far[0].readexactly(5) == b"hello"

    run(scenario)


def test_a_target_that_is_not_there_refuses() -> None:
    async def scenario(made: Bench) -> None:
        relay = Relay(made.there, made.back, "127.0.0.1:1", 0)
        await relay.start()
        near = await asyncio.open_connection("127.0.0.1", relay.port)
        assert await ended(near[0])
        await relay.close()

    run(scenario)


def test_a_delay_keeps_order_and_does_not_slow_the_stream_down() -> None:
    async def scenario(made: Bench) -> None:
        near, far = await made.pair()
        made.there.add(Effect(FaultKind.DELAY, 0.2, jitter_s=0.1))
        now = asyncio.get_running_loop().time
        started = now()
        for number in range(40):
            near[1].write(bytes((number,)) * 100)
            await asyncio.sleep(0.001)
        received = await far[0].readexactly(4000)
        assert received == b"".join(bytes((number,)) * 100 for number in range(40))
        # 40 pieces of 0.1 s and more each, one after the other, would take 4 s.
        assert 0.1 <= now() - started < 4.0

    run(scenario)


def test_what_was_delayed_arrives_at_once_when_it_is_well_again() -> None:
    async def scenario(made: Bench) -> None:
        near, far = await made.pair()
        late = Effect(FaultKind.DELAY, 3600.0)
        made.there.add(late)
        near[1].write(b"late")
        assert await silent(far[0])
        made.there.remove(late)
        assert await far[0].readexactly(4) == b"late"

    run(scenario)


def test_a_throttle_lets_so_many_bytes_pass() -> None:
    async def scenario(made: Bench) -> None:
        near, far = await made.pair()
        slow = Effect(FaultKind.THROTTLE, 100_000.0)
        made.there.add(slow)
        now = asyncio.get_running_loop().time
        started = now()
        near[1].write(bytes(40_000))
        await far[0].readexactly(40_000)
        assert now() - started >= 0.3
        assert slow.hits

    run(scenario)


def test_a_sender_is_made_to_wait_when_too_much_is_held() -> None:
    async def scenario(made: Bench) -> None:
        near, _ = await made.pair()
        made.there.add(Effect(FaultKind.PARTITION))
        near[1].transport.set_write_buffer_limits(high=1)
        sent, waits = 0, False
        while not waits:
            near[1].write(bytes(1 << 20))
            sent += 1 << 20
            draining = asyncio.ensure_future(near[1].drain())
            waits = bool((await asyncio.wait([draining], timeout=0.5))[1])
            draining.cancel()
        # What the sockets hold on the way comes on top.
        assert BUFFER_BYTES_MAX <= sent < BUFFER_BYTES_MAX + (32 << 20)

    run(scenario)


def test_a_reset_reaches_both_ends_and_the_next_connection_works() -> None:
    async def scenario(made: Bench) -> None:
        near, far = await made.pair()
        assert made.relay.reset() == 1
        assert await ended(near[0])
        assert await ended(far[0])
        near, far = await made.pair()
        near[1].write(b"again")
        assert await far[0].readexactly(5) == b"again"
        assert made.relay.connections == 1

    run(scenario)


@pytest.mark.parametrize("gone", ["a", "b"])
def test_half_open_is_over_for_one_end_and_silent_for_the_other(gone: str) -> None:
    async def scenario(made: Bench) -> None:
        near, far = await made.pair()
        lost, left = (near, far) if gone == "a" else (far, near)
        assert made.relay.lose_end(gone) == 1
        assert await ended(lost[0])
        left[1].write(b"to nobody")
        assert await silent(left[0])
        made.relay.end_half_open()
        assert await ended(left[0])

    run(scenario)


def test_lost_pieces_come_later_and_too_many_losses_break_the_connection() -> None:
    path = Path("a", "b", random.Random(5), lambda: 0.0)
    loss = Effect(FaultKind.LOSS, 0.3)
    path.add(loss)
    late, broken = [], 0
    for _ in range(1000):
        try:
            late.append(path.lateness())
        except Broken:
            broken += 1
    assert {0.0, 0.2, 0.6} == {round(seconds, 6) for seconds in late}
    assert 10 <= broken <= 50  # 0.3 to the power of LOSSES_TO_RESET, of a thousand
    assert LOSSES_TO_RESET == 3
    assert loss.hits > 300


def test_certain_loss_breaks_every_connection() -> None:
    async def scenario(made: Bench) -> None:
        near, far = await made.pair()
        made.there.add(Effect(FaultKind.LOSS, 1.0))
        near[1].write(b"lost")
        assert await ended(near[0])
        assert await ended(far[0])

    run(scenario)


def test_corruption_changes_one_bit_and_not_the_length() -> None:
    async def scenario(made: Bench) -> None:
        near, far = await made.pair()
        flip = Effect(LiveKind.CORRUPT, 1.0)
        made.there.add(flip)
        near[1].write(bytes(1000))
        received = await far[0].readexactly(1000)
        assert sum(byte.bit_count() for byte in received) == flip.hits >= 1

    run(scenario)


def test_the_same_seed_draws_the_same() -> None:
    def drawn(seed: int) -> list[float]:
        path = Path("a", "b", random.Random(seed), lambda: 0.0)
        path.add(Effect(FaultKind.DELAY, 1.0, jitter_s=0.5, correlation=0.25))
        return [path.lateness() for _ in range(20)]

    assert drawn(1) == drawn(1) != drawn(2)


@pytest.mark.parametrize(
    ("kind", "amount", "told"),
    [
        (FaultKind.DUPLICATE, 0.5, "duplicate.*never delivers a byte twice"),
        (FaultKind.REORDER, 0.5, "reorder.*never delivers bytes out of order"),
        (FaultKind.KILL, 0.0, "kill"),
        (FaultKind.LOSS, 1.5, "out of range"),
        (FaultKind.DELAY, -1.0, "out of range"),
        (FaultKind.THROTTLE, 0.0, "above 0"),
    ],
)
def test_what_no_connection_can_suffer_is_refused(kind: FaultKind, amount: float, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        Effect(kind, amount)
