"""The HTTP server under hostile connections: bounded, and never an error of its own."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import json
import random
import signal
import ssl
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from served_node import Gateway, ask, gateway_of, serving

from mcp.errors import ConfigInvalid
from mcp.gateway import server as server_module
from mcp.gateway.server import HttpServer
from mcp.net.tls import server_context
from simulations.in_process import until

SEED = 20260


async def opened(gateway: Gateway) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, _, port = gateway.address.rpartition(":")
    return await asyncio.open_connection(host, int(port))


def tls_contexts(path: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """For a client that trusts whoever answers, and for a server, with a certificate made here."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "h")])
    begun = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(begun)
        .not_valid_after(begun + datetime.timedelta(days=36500))
        .sign(key, hashes.SHA256())
    )
    (path / "h.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (path / "h.key").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    near = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    near.check_hostname, near.verify_mode = False, ssl.CERT_NONE
    return near, server_context(path / "h.crt", path / "h.key")


async def exchanged(gateway: Gateway, data: bytes, *, whole: bool = False) -> bytes:
    """The first that comes back for ``data``, or with ``whole`` all until the end; nothing if it is cut."""
    reader, writer = await opened(gateway)
    try:
        writer.write(data)
        return await reader.read(-1 if whole else 65536)
    except ConnectionError:
        return b""
    finally:
        writer.close()


def test_what_is_no_http_is_told_so_in_json_and_closed(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path) as gateway:
            node_frame = bytes.fromhex(
                "d800000001000000"
            )  # no line, and whoever waits for its end waits long
            for data in (node_frame, b"\x00\x01\x02\r\n\r\n", b"GET / HTTP/1.1\r\nbad header\r\n\r\n"):
                answer = await exchanged(gateway, data, whole=True)
                assert answer.startswith(b"HTTP/1.1 400 "), answer
                assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"].startswith("this is no HTTP/1.1")
            answer = await exchanged(gateway, b"GET / HTTP/1.1\r\nA: " + b"x" * 20_000, whole=True)
            assert answer.startswith(b"HTTP/1.1 431 ")
            # What the server has not read is lost with the connection, and its answer may be with it.
            answer = await exchanged(gateway, b"GET / HTTP/1.1\r\nA: " + b"x" * 200_000, whole=True)
            assert answer == b"" or answer.startswith(b"HTTP/1.1 431 ")

    asyncio.run(scenario())


CHUNKED = b"POST /v2/models/dense/infer HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n"


@pytest.mark.parametrize(
    ("sent", "status", "told"),
    [
        (CHUNKED + b"\r\nzz\r\n{}\r\n0\r\n\r\n", 400, "illegal chunk header"),
        (CHUNKED + b"\r\n2\r\n{}GET", 400, "malformed chunk footer"),
        (CHUNKED + b"\r\n-1\r\n", 400, "illegal chunk header"),
        (CHUNKED + b"Content-Length: 5\r\n\r\n0\r\n\r\n", 400, "send one of them"),
        (CHUNKED.replace(b"HTTP/1.1", b"HTTP/1.0") + b"\r\n0\r\n\r\n", 400, "not of HTTP/1.0"),
        (CHUNKED.replace(b"chunked", b"gzip, chunked") + b"\r\n0\r\n\r\n", 501, "Only Transfer-Encoding"),
        (b"POST /v2 HTTP/1.1\r\nHost: h\r\nContent-Length: 5, 6\r\n\r\n{}", 400, "conflicting"),
    ],
)
def test_what_is_framed_wrongly_or_in_two_ways_is_refused_and_ends_the_connection(
    tmp_path: Path, sent: bytes, status: int, told: str
) -> None:
    async def scenario() -> None:
        async with serving(tmp_path) as gateway:
            await gateway.deploy("dense")
            # What follows is no request: nobody may smuggle one in behind a body whose end is not certain.
            answer = await exchanged(gateway, sent + b"GET /v2 HTTP/1.1\r\nHost: h\r\n\r\n", whole=True)
            head, _, body = answer.partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 %d " % status), answer
            assert b"MCP-Error-Code: PROTOCOL_ERROR" in head
            assert b"Connection: close" in head
            assert told in json.loads(body)["error"]
            await until(lambda: (gateway.room.requests, gateway.room.bytes) == (0, 0))

    asyncio.run(scenario())


def test_a_chunk_that_goes_wrong_later_ends_a_request_that_waits_for_its_body(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path) as gateway:
            await gateway.deploy("dense")
            reader, writer = await opened(gateway)
            writer.write(CHUNKED + b"\r\n2\r\n{}\r\n")
            await until(lambda: gateway.room.requests == 1)
            writer.write(b"nonsense\r\n")
            answer = await reader.read()
            assert answer.startswith(b"HTTP/1.1 400 ")
            assert answer.count(b"HTTP/1.1 ") == 1
            await until(lambda: (gateway.room.requests, gateway.room.bytes) == (0, 0))
            writer.close()

    asyncio.run(scenario())


def test_what_goes_wrong_behind_an_answer_is_not_answered_again(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path) as gateway:
            reader, writer = await opened(gateway)
            writer.write(CHUNKED.replace(b"/v2/models/dense/infer", b"/none") + b"\r\n")
            assert (await reader.readuntil(b"}")).startswith(b"HTTP/1.1 404 ")
            writer.write(b"nonsense\r\n")
            assert await reader.read() == b""
            writer.close()

    asyncio.run(scenario())


def test_random_bytes_and_broken_requests_are_never_an_error_of_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "HEAD_TIMEOUT_S", 0.01)
    generator = random.Random(SEED)
    infer = (
        b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1,64],"parameters":{"binary_data_size":256}}]}'
    )
    whole = (
        b"POST /v2/models/dense/infer HTTP/1.1\r\nHost: h\r\nInference-Header-Content-Length: %d\r\n"
        b"Content-Length: %d\r\n\r\n%s%s" % (len(infer), len(infer) + 256, infer, bytes(256))
    )

    def broken() -> bytes:
        data = bytearray(whole)
        for _ in range(generator.randrange(4)):
            data[generator.randrange(len(data))] = generator.randrange(256)
        return bytes(data[: generator.randrange(len(data) + 1)])

    async def scenario() -> None:
        async with serving(tmp_path, body_timeout_s=0.01) as gateway:
            await gateway.deploy("dense")
            assert (await exchanged(gateway, whole)).startswith(b"HTTP/1.1 200 ")
            for number in range(300):
                data = generator.randbytes(generator.randrange(300)) if number % 3 == 0 else broken()
                answer = await exchanged(gateway, data)
                assert not answer.startswith(b"HTTP/1.1 5"), (data, answer)
            await until(lambda: (gateway.room.requests, gateway.room.bytes) == (0, 0))
            assert (await gateway.get("/v2/health/ready")).status == 200

    asyncio.run(scenario())


def test_a_connection_too_many_is_told_429(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path, connections_max=2) as gateway:
            held = [await opened(gateway) for _ in range(2)]
            answer = await exchanged(gateway, b"", whole=True)
            assert answer.startswith(b"HTTP/1.1 429 ")
            assert b"Retry-After: 1\r\n" in answer
            for _, writer in held:
                writer.close()

            request = b"GET /v2 HTTP/1.1\r\nHost: h\r\n\r\n"
            while not (await exchanged(gateway, request)).startswith(b"HTTP/1.1 200 "):
                pass

    asyncio.run(scenario())


def test_tls_handshakes_that_never_end_are_few_and_soon_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "TLS_HANDSHAKES_MAX", 2)
    monkeypatch.setattr(server_module, "HEAD_TIMEOUT_S", 1.0)
    near, far = tls_contexts(tmp_path)

    async def scenario() -> None:
        async with serving(tmp_path, ssl=far) as gateway:
            host, _, port = gateway.address.rpartition(":")
            silent = [await opened(gateway) for _ in range(2)]
            for _ in range(3):
                assert await exchanged(gateway, b"", whole=True) == b"", "closed at once"
            for reader, writer in silent:
                with contextlib.suppress(ConnectionError):
                    assert await asyncio.wait_for(reader.read(), 10) == b""
                writer.close()
            reader, writer = await asyncio.open_connection(host, int(port), ssl=near, server_hostname="h")
            writer.write(b"GET /v2 HTTP/1.1\r\nHost: h\r\n\r\n")
            assert (await reader.readuntil(b"}")).startswith(b"HTTP/1.1 200 ")
            writer.close()
            await opened(gateway)  # it stops in time, with a handshake under way

    asyncio.run(scenario())


@pytest.mark.parametrize("sent", [b"", b"GET /v2 HTT", b"GET /v2 HTTP/1.1\r\nHost: h\r\n\r\nGET /v2 HT"])
def test_headers_that_do_not_come_end_the_connection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    monkeypatch.setattr(server_module, "HEAD_TIMEOUT_S", 0.05)

    async def scenario() -> None:
        async with serving(tmp_path) as gateway:
            reader, writer = await opened(gateway)
            whole, _, rest = sent.rpartition(b"\r\n\r\n")
            if whole:
                writer.write(whole + b"\r\n\r\n")
                assert (await reader.readuntil(b"}")).startswith(b"HTTP/1.1 200 ")
            writer.write(rest)
            with contextlib.suppress(ConnectionError):
                answer = await reader.read()
                assert answer.startswith(b"HTTP/1.1 408 ") if rest else b"HTTP" not in answer
                assert not rest or json.loads(answer.partition(b"\r\n\r\n")[2]).keys() == {"error"}
            writer.close()

    asyncio.run(scenario())


def test_who_does_not_take_an_answer_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "WRITE_TIMEOUT_S", 0.05)
    raw = bytes(32 * 1024**2)
    head = json.dumps(
        {
            "inputs": [
                {
                    "name": "x",
                    "datatype": "INT64",
                    "shape": [len(raw) // 8, 1],
                    "parameters": {"binary_data_size": len(raw)},
                }
            ],
            "parameters": {"binary_data_output": True},
        }
    ).encode()

    async def scenario() -> None:
        async with serving(tmp_path) as gateway:
            await gateway.deploy("count")
            reader, writer = await opened(gateway)
            writer.write(
                b"POST /v2/models/count/infer HTTP/1.1\r\nHost: h\r\nInference-Header-Content-Length: %d\r\n"
                b"Content-Length: %d\r\n\r\n" % (len(head), len(head) + len(raw))
            )
            writer.write(head + raw)
            assert (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 200 ")
            await until(lambda: (gateway.room.requests, gateway.room.bytes) == (0, 0))
            writer.close()

    asyncio.run(scenario())


def test_the_process_s_signals_are_left_alone_and_it_stops_with_a_connection_open(tmp_path: Path) -> None:
    async def scenario() -> None:
        before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
        async with serving(tmp_path) as gateway:
            assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
            reader, _ = await opened(gateway)
        assert await reader.read() == b""

    asyncio.run(scenario())


def test_an_address_that_cannot_be_used_is_told(tmp_path: Path) -> None:
    async def app(*_: object) -> None: ...

    async def scenario() -> None:
        async with serving(tmp_path) as gateway:
            with pytest.raises(ConfigInvalid, match=r"cannot serve HTTP at 127.0.0.1"):
                await HttpServer(app, gateway.address).start()
            with pytest.raises(ConfigInvalid, match="host:port"):
                HttpServer(app, "unix:///tmp/x")
            async with gateway_of(gateway.node) as second:
                assert (await ask(second.address, "GET", "/v2")).status == 200

    asyncio.run(scenario())
