"""Listening and connecting over real sockets: TCP, Unix, TLS, and who is refused."""

import asyncio
import contextlib
import logging
import os
import socket
import stat
from dataclasses import replace

import pytest

from mcp import errors
from mcp.net.dial import connect
from mcp.net.limits import Limits
from mcp.net.listener import Listener
from mcp.net.memory import MemoryNetwork, MemoryTransport
from mcp.wire.codec import encode_map
from mcp.wire.frame import FrameKind, FrameReader, encode_frame
from mcp.wire.handshake import Role
from mcp.wire.messages import Message
from simulations.in_process import until

ECHO = Message("ECHO", {"a": 1}, "i")
LOCAL = "127.0.0.1:0"


LOOPS = [pytest.param(asyncio.run, id="asyncio")]
with contextlib.suppress(ImportError):
    import uvloop

    LOOPS.append(pytest.param(uvloop.run, id="uvloop"))


@contextlib.asynccontextmanager
async def listening(identity, handler, address=LOCAL, **options):
    listener = Listener(address, identity, handler, **options)
    await listener.start()
    try:
        yield listener
    finally:
        await listener.close()


@pytest.mark.parametrize("run", LOOPS)
@pytest.mark.parametrize("scheme", ["tcp", "unix"])
def test_a_connection_over_sockets(client, node, recorder, tmp_path, run, scheme):
    async def main():
        handler = recorder()
        address = LOCAL if scheme == "tcp" else f"unix://{tmp_path}/n.sock"
        async with listening(node, handler, address) as listener:
            connection = await connect(str(listener.bound_address), client, timeout_s=10)
            segment = os.urandom(3_000_000)
            replies = await asyncio.gather(
                *(connection.request(ECHO, [segment, b"x" * n], timeout_s=20) for n in range(4))
            )
            assert all(reply.segments[0] == segment for reply in replies)
            assert [len(reply.segments[1]) for reply in replies] == list(range(4))
            accepted = await handler.connected.get()
            assert accepted.notify(b"to a client")
            if scheme == "tcp":
                assert accepted.peer.address.startswith("127.0.0.1:")
                for end in (connection, accepted):
                    sock = end._transport.get_extra_info("socket")
                    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            connection.close()
            assert await accepted.wait_closed() is None
            assert await connection.wait_closed() is None

    run(main())


@pytest.mark.parametrize("run", LOOPS)
def test_closing_a_listener_says_goodbye_and_a_client_can_come_back(client, node, recorder, run):
    async def main():
        async with listening(node, recorder()) as first:
            address = first.bound_address
            connection = await connect(address, client, timeout_s=10)
        assert await connection.wait_closed() is None
        with pytest.raises(errors.Unavailable, match="nobody listens"):
            await connect(address, client, timeout_s=10)
        async with listening(node, recorder(), address):
            again = await connect(address, client, timeout_s=10)
            assert (await again.request(ECHO, timeout_s=10)).message.type == "ECHOED"
            again.close()
            await again.wait_closed()

    run(main())


def test_the_bound_address_is_known_after_the_start(node, recorder):
    async def main():
        listener = Listener(LOCAL, node, recorder())
        with pytest.raises(errors.Unavailable, match="not started"):
            _ = listener.bound_address
        await listener.start()
        assert listener.bound_address.port > 0
        await listener.close()
        await listener.close()

    asyncio.run(main())


def test_an_address_that_is_taken_is_an_error_and_the_first_goes_on(client, node, recorder, tmp_path):
    async def main():
        network = MemoryNetwork()
        for address in (LOCAL, f"unix://{tmp_path}/n.sock", "memory://n"):
            async with listening(node, recorder(), address, network=network) as first:
                second = Listener(first.bound_address, node, recorder(), network=network)
                with pytest.raises(errors.ConfigInvalid, match="listen"):
                    await second.start()
                connection = await connect(first.bound_address, client, timeout_s=10, network=network)
                assert (await connection.request(ECHO, timeout_s=10)).message.type == "ECHOED"

    asyncio.run(main())


def test_a_unix_socket_is_private_and_removed(node, recorder, tmp_path):
    async def main():
        path = tmp_path / "n.sock"
        async with listening(node, recorder(), f"unix://{path}"):
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert not path.exists()

    asyncio.run(main())


def test_a_stale_unix_socket_is_replaced_and_another_file_is_not(client, node, recorder, tmp_path):
    async def main():
        path = tmp_path / "n.sock"
        with socket.socket(socket.AF_UNIX) as stale:
            stale.bind(str(path))
        async with listening(node, recorder(), f"unix://{path}") as listener:
            connection = await connect(listener.bound_address, client, timeout_s=10)
            connection.close()
            await connection.wait_closed()
        path.write_text("precious")
        with pytest.raises(errors.ConfigInvalid, match="no socket"):
            await Listener(f"unix://{path}", node, recorder()).start()
        assert path.read_text() == "precious"

    asyncio.run(main())


def test_a_listener_leaves_the_socket_of_its_successor(node, recorder, tmp_path):
    async def main():
        path = tmp_path / "n.sock"
        async with listening(node, recorder(), f"unix://{path}"):
            path.unlink()
            with socket.socket(socket.AF_UNIX) as successor:
                successor.bind(str(path))
        assert path.exists()

    asyncio.run(main())


@pytest.mark.parametrize(
    ("change", "kind", "says"),
    [
        ({"cluster_key": b"wrong"}, errors.AuthenticationFailed, "cluster key"),
        ({"cluster_key": b""}, errors.AuthenticationFailed, "cluster key"),
        ({"cluster_id": "stage"}, errors.AuthenticationFailed, "not of one cluster"),
        ({"node_id": "node-1"}, errors.AuthenticationFailed, "itself"),
    ],
)
def test_a_stranger_is_refused_and_told_where_and_why(client, node, recorder, change, kind, says):
    async def main():
        handler = recorder()
        async with listening(node, handler) as listener:
            with pytest.raises(kind, match=says) as caught:
                await connect(listener.bound_address, replace(client, **change), timeout_s=10)
            assert str(listener.bound_address) in caught.value.message
            (connection,) = listener.connections or [None]
            if connection is not None:
                await connection.wait_closed()
                await asyncio.sleep(0)
            assert listener.refused == 1
            assert listener.connections == frozenset()
        assert handler.connected.empty()
        assert handler.closed.empty()

    asyncio.run(main())


def test_a_full_listener_refuses_with_busy(client, node, recorder):
    async def main():
        async with listening(node, recorder(), limits=Limits(connections_max=1)) as listener:
            first = await connect(listener.bound_address, client, timeout_s=10)
            with pytest.raises(errors.Busy, match="connections_max=1"):
                await connect(listener.bound_address, replace(client, node_id="second"), timeout_s=10)
            assert (await first.request(ECHO, timeout_s=10)).message.type == "ECHOED"
            first.close()
            await first.wait_closed()

    asyncio.run(main())


def test_clients_leave_nodes_their_own_places(client, node, recorder):
    async def main():
        async with listening(node, recorder(), limits=Limits(connections_max=1)) as listener:
            where = listener.bound_address
            first = await connect(where, client, timeout_s=10)
            peer = replace(client, node_id="peer", role=Role.NODE)
            second = await connect(where, peer, timeout_s=10)
            with pytest.raises(errors.Busy, match="connections_max=1 connections of nodes"):
                await connect(where, replace(peer, node_id="another"), timeout_s=10)
            for connection in (first, second):
                connection.close()
                await connection.wait_closed()
            await until(lambda: not listener.connections)
            third = await connect(where, replace(client, node_id="third"), timeout_s=10)
            third.close()

    asyncio.run(main())


def test_whoever_says_nothing_makes_room_for_others(client, node, recorder):
    async def main():
        async with listening(node, recorder(), limits=Limits(handshakes_max=3)) as listener:
            where = listener.bound_address
            silent = [await asyncio.open_connection(where.host, where.port) for _ in range(3)]
            await until(lambda: len(listener.connections) == 3)
            connection = await connect(where, client, timeout_s=10)
            assert (await connection.request(ECHO, timeout_s=10)).message.type == "ECHOED"
            with contextlib.suppress(ConnectionResetError):
                assert await asyncio.wait_for(silent[0][0].read(), 10) == b"", "the oldest was given up"
            assert len(listener.connections) == 3
            connection.close()
            for _, writer in silent:
                writer.close()

    asyncio.run(main())


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("unix:///nonexistent/n.sock", "nobody listens"),
        ("host.invalid:1", "not known"),
        ("memory://nobody", "nobody listens"),
    ],
)
def test_an_address_where_nobody_is_says_what_to_check(client, address, says):
    async def main():
        with pytest.raises(errors.Unavailable, match=says):
            await connect(address, client, timeout_s=30, network=MemoryNetwork())

    asyncio.run(main())


def test_a_memory_address_needs_its_network(client, node, recorder):
    async def main():
        with pytest.raises(errors.ConfigInvalid, match="network="):
            await connect("memory://n", client)
        with pytest.raises(errors.ConfigInvalid, match="network="):
            await Listener("memory://n", node, recorder()).start()

    asyncio.run(main())


@contextlib.asynccontextmanager
async def raw_server(answer):
    """A server that is no node: it calls ``answer(reader, writer)``."""
    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


def test_a_server_that_never_answers_is_given_up(client):
    async def main():
        left = asyncio.Event()

        async def say_nothing(reader, writer):
            await reader.read(1 << 16)
            await reader.read(1 << 16)
            writer.close()
            left.set()

        async with raw_server(say_nothing) as address:
            with pytest.raises(errors.Unavailable, match=r"did not answer within 0\.05 s"):
                await connect(address, client, timeout_s=0.05, limits=Limits(handshake_timeout_s=1000))
            await left.wait()

    asyncio.run(main())


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", errors.ProtocolError),
        (b"", errors.Unavailable),
        (b"".join(encode_frame(FrameKind.WELCOME, 0, encode_map({"version": "1.0"}))), errors.ProtocolError),
        (b"".join(encode_frame(FrameKind.NOTICE, 0, b"x")), errors.ProtocolError),
        (
            b"".join(encode_frame(FrameKind.REJECT, 0, encode_map({"code": "BUSY", "message": "m"}))),
            errors.Busy,
        ),
    ],
)
def test_a_server_that_is_no_node_is_recognised(client, reply, kind):
    async def main():
        async def answer(reader, writer):
            await reader.read(1 << 16)
            writer.write(reply)
            await writer.drain()
            writer.close()

        async with raw_server(answer) as address:
            with pytest.raises(errors.McpError) as caught:
                await connect(address, client, timeout_s=10)
            assert type(caught.value) is kind
            assert address in caught.value.message

    asyncio.run(main())


async def read_frames(reader):
    """All frames until the end of the stream."""
    frames, parser = [], FrameReader()
    while data := await reader.read(1 << 16):
        parser.get_buffer()[: len(data)] = data
        parser.received(len(data))
        while (frame := parser.next_frame()) is not None:
            frames.append((frame.kind, bytes(frame.body)))
    return frames


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),  # TLS
        b"".join(encode_frame(FrameKind.HELLO, 0, bytes(5000))),
        b"".join(encode_frame(FrameKind.REQUEST, 1, b"", [b"x"])),
        b"".join(encode_frame(FrameKind.HELLO, 0, encode_map({"version": "2.0"}))),
    ],
)
def test_nothing_but_a_handshake_is_read_from_a_stranger(node, recorder, data):
    async def main():
        handler = recorder()
        async with listening(node, handler) as listener:
            reader, writer = await asyncio.open_connection("127.0.0.1", listener.bound_address.port)
            writer.write(data)
            ((kind, _),) = await read_frames(reader)
            assert kind is FrameKind.REJECT
            writer.close()
        assert handler.connected.empty()

    asyncio.run(main())


def test_a_handshake_that_dawdles_is_ended(node, recorder):
    async def main():
        limits = Limits(handshake_timeout_s=0.05)
        async with listening(node, recorder(), limits=limits) as listener:
            reader, writer = await asyncio.open_connection("127.0.0.1", listener.bound_address.port)
            hello = b"".join(encode_frame(FrameKind.HELLO, 0, bytes(600)))

            async def drip():
                with contextlib.suppress(ConnectionError):
                    for index in range(len(hello) - 1):
                        writer.write(hello[index : index + 1])
                        await writer.drain()
                        await asyncio.sleep(0.001)

            dripping = asyncio.ensure_future(drip())
            with contextlib.suppress(ConnectionError):
                assert await reader.read() == b""
            dripping.cancel()
            writer.close()
            assert listener.refused == 1

    asyncio.run(main())


def test_a_connection_that_comes_while_the_listener_closes_is_closed_too(node, recorder):
    async def main():
        listener = Listener(LOCAL, node, recorder())
        await listener.start()
        connection = listener._accept()
        await listener.close()
        transport = MemoryTransport(asyncio.get_running_loop(), connection, "late")
        connection.connection_made(transport)
        assert transport.is_closing()
        await connection.wait_closed()
        await asyncio.sleep(0)
        assert listener.connections == frozenset()

    asyncio.run(main())


@pytest.mark.parametrize(
    ("said", "level"), [(b"", logging.DEBUG), (b"HELP\r\n" * 8, logging.INFO)], ids=["nothing", "no frame"]
)
def test_whoever_leaves_without_a_word_is_no_suspect(node, recorder, said, level, caplog):
    async def main():
        async with listening(node, recorder()) as listener:
            address = listener.bound_address
            _, writer = await asyncio.open_connection(address.host, address.port)
            writer.write(said)
            writer.close()
            await until(lambda: listener.refused)

    with caplog.at_level(logging.DEBUG, "mcp.net"):
        asyncio.run(main())
    found = [
        record.levelno for record in caplog.records if "ended during its handshake" in record.getMessage()
    ]
    assert found == [level]


def test_a_client_with_another_key_is_told_of_at_info(client, node, recorder, caplog):
    async def main():
        async with listening(node, recorder()) as listener:
            with pytest.raises(errors.AuthenticationFailed, match="cluster key"):
                await connect(listener.bound_address, replace(client, cluster_key=b"another"))
            await until(lambda: listener.refused)

    with caplog.at_level(logging.INFO, "mcp.net"):
        asyncio.run(main())
    assert "the end that connected refused this one: node " in caplog.text
