"""``mcpctl serve --http``: where it says so, from where it may be told, and what it says where it cannot."""

from __future__ import annotations

import json
import os
import shutil
import socket
import ssl
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from mcp.cli.gateway import GatewaySettings, gateway_settings
from mcp.errors import DependencyMissing

pytest.importorskip("starlette", reason="needs the extra http")
pytest.importorskip("uvicorn", reason="needs the extra http")

REPOSITORY = Path(__file__).resolve().parents[3]


def command(folder: Path, *options: str) -> list[str]:
    return [
        *(sys.executable, "-m", "mcp", "serve", "--stop-on-eof", "--node-id", "t1"),
        *("--listen", "127.0.0.1:0", "--data-dir", str(folder / "data"), *options),
    ]


@contextmanager
def served(
    folder: Path, *options: str, environment: Mapping[str, str] | None = None
) -> Iterator[dict[str, str]]:
    """The words of the line with which the node says that it is ready."""
    process = subprocess.Popen(
        command(folder, *options),
        cwd=REPOSITORY,
        env={**os.environ, **(environment or {})},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        first, *words = process.stdout.readline().split()
        assert first == "ready"
        yield dict(word.split("=", 1) for word in words)
    finally:
        process.stdin.close()
        assert process.wait(timeout=30) == 0
        process.stdout.close()


def got(url: str, context: ssl.SSLContext | None = None) -> Any:
    with urllib.request.urlopen(url, timeout=30, context=context) as answer:
        return json.load(answer)


def live(address: str, credentials: Any = None) -> bool:
    """Whether gRPC's ``ServerLive`` is answered with true."""
    grpc = pytest.importorskip("grpc", reason="needs the extra grpc")
    made = (
        grpc.insecure_channel(address) if credentials is None else grpc.secure_channel(address, credentials)
    )
    with made as channel:
        return (
            channel.unary_unary("/inference.GRPCInferenceService/ServerLive")(b"", timeout=30) == b"\x08\x01"
        )


def test_the_ready_line_has_the_addresses_after_the_words_of_before(tmp_path: Path) -> None:
    with served(tmp_path, "--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0") as ready:
        assert list(ready) == ["node", "address", "engine", "http", "grpc"]
        assert got(f"http://{ready['http']}/v2")["name"] == "mcp"
        assert got(f"http://{ready['http']}/v2/health/ready")["ready"] is True
        assert live(ready["grpc"])


def free_address() -> str:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{found.getsockname()[1]}"


def test_the_ready_line_says_where_a_node_listens_that_others_are_told_elsewhere(tmp_path: Path) -> None:
    told = free_address()
    with served(tmp_path, "--peers", f"t1={told}") as ready:
        assert ready["address"] == told
        assert ready["listen"].startswith("127.0.0.1:")
        assert ready["listen"] != told


def test_a_copied_command_on_another_data_directory_is_refused(tmp_path: Path) -> None:
    peers = ("--peers", f"t1={free_address()}")
    with served(tmp_path, *peers, "--listen", peers[1].removeprefix("t1=")) as ready:
        done = subprocess.run(
            command(tmp_path / "copy", *peers),
            cwd=REPOSITORY,
            env=os.environ,
            stdin=subprocess.PIPE,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert (done.returncode, done.stdout) == (4, "")
        assert f"NAME_TAKEN: node t1 is alive: it answers at {ready['address']}, and" in done.stderr


def test_environment_and_file_tell_it_too(tmp_path: Path) -> None:
    file = tmp_path / "node.toml"
    file.write_text('grpc = "127.0.0.1:1"\nhttp_control = true\n')
    environment = {"MCP_HTTP": "127.0.0.1:0"}
    with served(tmp_path, "--config", str(file), "--grpc", "127.0.0.1:0", environment=environment) as ready:
        assert live(ready["grpc"])
        request = urllib.request.Request(
            f"http://{ready['http']}/v2/repository/models/nope/load", method="POST", data=b""
        )
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(request, timeout=30)
        assert refused.value.code == 404


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_a_node_with_a_certificate_serves_with_it(tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"),
            *("-keyout", str(key), "-out", str(certificate), "-days", "2", "-subj", "/CN=localhost"),
            *("-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"),
        ],
        check=True,
        capture_output=True,
    )
    grpc = pytest.importorskip("grpc", reason="needs the extra grpc")
    tls = ("--tls-cert", str(certificate), "--tls-key", str(key))
    options = (*tls, "--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0")
    with served(tmp_path, *options) as ready:
        context = ssl.create_default_context(cafile=certificate)
        assert got(f"https://{ready['http']}/v2/health/ready", context)["ready"] is True
        assert live(ready["grpc"], grpc.ssl_channel_credentials(certificate.read_bytes()))


def test_an_address_that_is_taken_is_one_line_and_no_node(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        outcome = subprocess.run(
            command(tmp_path, "--http", address, "--log-level", "error"),
            cwd=REPOSITORY,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert (outcome.returncode != 0, outcome.stdout) == (True, "")
    assert f"cannot serve HTTP at {address}" in outcome.stderr


@pytest.mark.parametrize(
    ("flag", "package"),
    [("http", "starlette"), ("http", "uvicorn"), ("grpc", "grpc"), ("grpc", "google.protobuf")],
)
def test_without_its_packages_the_command_that_installs_them_is_told(
    monkeypatch: pytest.MonkeyPatch, flag: str, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    assert gateway_settings(None, None, False) == GatewaySettings()
    install = rf"{package}.*pip install 'message-coordination-protocol\[{flag}\]'"
    addresses = {"http": None, "grpc": None, flag: "127.0.0.1:0"}
    with pytest.raises(DependencyMissing, match=install):
        gateway_settings(addresses["http"], addresses["grpc"], False)


def test_a_node_without_http_imports_none_of_it() -> None:
    program = (
        "import mcp.cli.serve, sys; print([m for m in ('starlette', 'uvicorn', 'grpc') if m in sys.modules])"
    )
    outcome = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, check=True)
    assert outcome.stdout.strip() == b"[]"
