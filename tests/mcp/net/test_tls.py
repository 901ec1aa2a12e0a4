"""TLS and mutual TLS, with certificates made here."""

import asyncio
import contextlib
import datetime
import errno
import ipaddress
import logging
import os
import socket

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from mcp import errors
from mcp.net import tls_server
from mcp.net.dial import connect
from mcp.net.limits import Limits
from mcp.net.listener import Listener
from mcp.net.tls import client_context, server_context
from mcp.wire.messages import Message
from simulations.in_process import until

ECHO = Message("ECHO", {}, "i")


def issue(folder, name, authority=None):
    """Write ``name``.crt and ``name``.key for 127.0.0.1, signed by ``authority`` or by itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    issuer, signer = authority or (subject, key)
    now = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now)
        .not_valid_after(now + datetime.timedelta(days=36500))
        .add_extension(x509.BasicConstraints(ca=authority is None, path_length=None), critical=True)
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False
        )
    )
    certificate = builder.sign(signer, hashes.SHA256())
    (folder / f"{name}.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / f"{name}.key").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return subject, key


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tls")
    authority = issue(folder, "ca")
    issue(folder, "node", authority)
    issue(folder, "client", authority)
    issue(folder, "stranger")
    return folder


def server(files, **options):
    return server_context(files / "node.crt", files / "node.key", **options)


def run_pair(node, client, recorder, server_tls, client_tls, then):
    async def main():
        handler = recorder()
        listener = Listener("127.0.0.1:0", node, handler, ssl=server_tls)
        await listener.start()
        try:
            await then(
                listener, lambda: connect(listener.bound_address, client, ssl=client_tls, timeout_s=10)
            )
        finally:
            await listener.close()

    asyncio.run(main())


@pytest.mark.parametrize("mutual", [False, True])
def test_a_connection_over_tls(client, node, recorder, files, mutual):
    async def then(listener, dial):
        connection = await dial()
        segment = os.urandom(2_000_000)
        calls = [connection.request(ECHO, [segment], timeout_s=20) for _ in range(5)]
        assert all(reply.segments[0] == segment for reply in await asyncio.gather(*calls))
        connection.close()
        assert await connection.wait_closed() is None

    shown = {"certificate": files / "client.crt", "key": files / "client.key"} if mutual else {}
    near = client_context(authority=files / "ca.crt", **shown)
    far = server(files, authority=files / "ca.crt" if mutual else None)
    run_pair(node, client, recorder, far, near, then)


def test_a_node_with_an_unknown_certificate_is_not_trusted(client, node, recorder, files):
    async def then(listener, dial):
        with pytest.raises(errors.AuthenticationFailed, match="not trusted"):
            await dial()
        assert listener.connections == frozenset()

    run_pair(node, client, recorder, server(files), client_context(authority=files / "stranger.crt"), then)


@pytest.mark.parametrize("shown", [None, "stranger"])
def test_a_client_without_the_right_certificate_is_refused(client, node, recorder, files, shown):
    async def then(listener, dial):
        with pytest.raises((errors.AuthenticationFailed, errors.Unavailable), match=r"TLS.*certificate"):
            await dial()
        assert listener.connections == frozenset()

    extra = {"certificate": files / f"{shown}.crt", "key": files / f"{shown}.key"} if shown else {}
    near = client_context(authority=files / "ca.crt", **extra)
    run_pair(node, client, recorder, server(files, authority=files / "ca.crt"), near, then)


def test_tls_on_one_end_only_says_so(client, node, recorder, files):
    async def plain_to_tls(listener, dial):
        with pytest.raises(errors.Unavailable, match="TLS"):
            await dial()

    async def tls_to_plain(listener, dial):
        with pytest.raises(errors.AuthenticationFailed, match="uses TLS too"):
            await dial()

    run_pair(node, client, recorder, server(files), None, plain_to_tls)
    run_pair(node, client, recorder, None, client_context(authority=files / "ca.crt"), tls_to_plain)


def test_files_that_are_missing_or_wrong_are_named(files, tmp_path):
    with pytest.raises(errors.ConfigInvalid, match=r"absent\.crt"):
        server_context(files / "absent.crt", files / "node.key")
    with pytest.raises(errors.ConfigInvalid, match=r"node\.key"):
        server_context(files / "ca.crt", files / "node.key")
    with pytest.raises(errors.ConfigInvalid, match=r"node\.key"):
        client_context(authority=files / "node.key")
    with pytest.raises(errors.ConfigInvalid, match="neither"):
        client_context(certificate=files / "client.crt")
    assert client_context().get_ca_certs() is not None


@contextlib.asynccontextmanager
async def listening(files, node, recorder, **limits):
    listener = Listener("127.0.0.1:0", node, recorder(), ssl=server(files), limits=Limits(**limits))
    await listener.start()
    try:
        yield listener, listener.bound_address
    finally:
        await listener.close()


async def served(files, client, where):
    connection = await connect(where, client, ssl=client_context(authority=files / "ca.crt"), timeout_s=10)
    assert (await connection.request(ECHO, timeout_s=10)).message.type == "ECHOED"
    connection.close()
    await connection.wait_closed()


async def told_to_go(reader):
    with contextlib.suppress(ConnectionResetError):
        assert await asyncio.wait_for(reader.read(), 10) == b""


def with_each_loop(main):
    asyncio.run(main())
    with contextlib.suppress(ImportError):
        import uvloop

        uvloop.run(main())


def test_tls_handshakes_that_never_end_are_few_and_the_oldest_makes_room(
    client, node, recorder, files, caplog
):
    async def main():
        caplog.clear()
        limits = {"tls_handshakes_max": 3, "handshake_timeout_s": 600}
        async with listening(files, node, recorder, **limits) as (listener, where):
            silent = []
            for number in range(1, 9):
                silent.append(await asyncio.open_connection(where.host, where.port))
                await until(lambda: listener._server.handshakes + listener.refused == len(silent))
                assert listener._server.handshakes == min(number, 3)
            for reader, _ in silent[:5]:
                await told_to_go(reader)
            # Whoever is quick is served, however many only fill the places.
            await served(files, client, where)
            await told_to_go(silent[5][0])
            assert (listener.refused, listener._server.handshakes) == (6, 2)
            silent[6][1].close()  # and whoever leaves makes room
            await until(lambda: listener._server.handshakes == 1)
        await told_to_go(silent[7][0])
        for _, writer in silent:
            writer.close()

    caplog.set_level(logging.WARNING)
    with_each_loop(main)
    assert caplog.text.count("tls_handshakes_max=3") == 1, "not once for each that makes room"


def test_a_tls_handshake_that_is_slow_or_garbage_gives_its_place_back(client, node, recorder, files):
    async def main():
        limits = {"tls_handshakes_max": 1, "handshake_timeout_s": 0.3}
        async with listening(files, node, recorder, **limits) as (listener, where):
            for said in (b"", b"\x16\x03\x01", b"GET / HTTP/1.1\r\n\r\n", os.urandom(4096)):
                reader, writer = await asyncio.open_connection(where.host, where.port)
                writer.write(said)
                with contextlib.suppress(ConnectionResetError):
                    await asyncio.wait_for(reader.read(), 10)
                writer.close()
                await until(lambda: not listener._server.handshakes)
            assert listener.refused == 4
            await asyncio.wait_for(served(files, client, where), 10)

    with_each_loop(main)


def test_a_process_without_files_accepts_again_when_it_has_some(
    client, node, recorder, files, monkeypatch, caplog
):
    class Full(socket.socket):
        """A socket whose process has no files left, for a while."""

        attempts = 0

        def accept(self):
            Full.attempts += 1
            if Full.attempts <= 2:
                raise OSError(errno.EMFILE, "Too many open files")
            return super().accept()

    async def main():
        Full.attempts = 0
        listener = Listener("127.0.0.1:0", node, recorder(), ssl=server(files))
        with monkeypatch.context() as patch:
            patch.setattr(socket, "socket", Full)
            await listener.start()
        await served(files, client, listener.bound_address)
        await listener.close()
        assert Full.attempts >= 3

    monkeypatch.setattr(tls_server, "_NO_ROOM_PAUSE_S", 0.05)
    with_each_loop(main)
    assert "no connection can be accepted" in caplog.text
