"""A live listener against bytes that mean nothing, before and after the handshake."""

import asyncio
import random

import pytest

from mcp.net.dial import connect
from mcp.net.limits import Limits
from mcp.net.listener import Listener
from mcp.wire.codec import encode_map, encode_message
from mcp.wire.frame import FrameKind, encode_frame
from mcp.wire.messages import Message

ECHO = Message("ECHO", {"x": [1, {"y": b"z"}]}, "i")
HELLO = {"version": "1.0", "cluster_id": "prod", "role": "client", "node_id": "f", "nonce": b"n" * 32}


def garbage(rng):
    """Random bytes, or a valid frame that was cut, damaged or stretched."""
    kind = rng.choice(list(FrameKind))
    body = rng.choice([b"", encode_map(HELLO), encode_message(ECHO), rng.randbytes(rng.randrange(60))])
    segments = [rng.randbytes(rng.randrange(40)) for _ in range(rng.randrange(3))]
    data = bytearray(b"".join(encode_frame(kind, rng.randrange(4), body, segments)))
    for _ in range(rng.choice([0, 0, 1, 3])):
        data[rng.randrange(len(data))] = rng.randrange(256)
    return rng.choice(
        [rng.randbytes(rng.randrange(200)), bytes(data), bytes(data[: rng.randrange(len(data))])]
    )


async def attack(listener, data):
    reader, writer = await asyncio.open_connection("127.0.0.1", listener.bound_address.port)
    try:
        writer.write(data)
        writer.write_eof()
        return await reader.read()
    except ConnectionError:
        return b""
    finally:
        writer.close()


@pytest.mark.parametrize("seed", range(3))
def test_strangers_who_send_anything_leave_no_trace(client, node, recorder, seed):
    rng = random.Random(seed)

    async def main():
        handler = recorder()
        listener = Listener("127.0.0.1:0", node, handler)
        await listener.start()
        for _ in range(60):
            answer = await attack(listener, b"".join(garbage(rng) for _ in range(rng.randrange(1, 4))))
            assert len(answer) < 4096
        assert handler.connected.empty()
        connection = await connect(listener.bound_address, client, timeout_s=10)
        assert (await connection.request(ECHO, timeout_s=10)).message.type == "ECHOED"
        assert listener.refused == 60
        connection.close()
        await connection.wait_closed()
        await listener.close()
        assert listener.connections == frozenset()

    asyncio.run(main())


@pytest.mark.parametrize("seed", range(3))
def test_a_peer_that_goes_mad_harms_only_itself(client, node, recorder, seed, caplog):
    rng = random.Random(seed)

    async def main():
        handler = recorder()
        listener = Listener("127.0.0.1:0", node, handler, limits=Limits(frame_bytes_max=1 << 16))
        await listener.start()
        sane = await connect(listener.bound_address, client, timeout_s=10)
        for _ in range(40):
            mad = await connect(listener.bound_address, client, timeout_s=10)
            for _ in range(rng.randrange(1, 6)):
                mad._outbox.put([garbage(rng)])
            mad._flush()
            mad.close()
            await mad.wait_closed()
            assert (await sane.request(ECHO, timeout_s=10)).message.type == "ECHOED"
        sane.close()
        await sane.wait_closed()
        await listener.close()
        assert listener.connections == frozenset()
        for _ in range(41):
            await handler.closed.get()

    asyncio.run(main())
    assert caplog.text == ""
