"""The commands against a real node: what they print, for people and for programs, and how they fail."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mcp.cli import root

REPOSITORY = Path(__file__).resolve().parents[3]
MODEL = REPOSITORY / "examples" / "digits" / "digits.onnx"
SCANS = REPOSITORY / "examples" / "digits" / "held_out.npz"
KEY = "a-key-for-tests-0123456789"

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(node_address: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command line against the node, as the environment describes it."""
    monkeypatch.setenv("MCP_CONNECT", node_address)
    monkeypatch.setenv("MCP_CLUSTER_KEY", KEY)

    def run(*arguments: str) -> tuple[int, str, str]:
        status = root.run(arguments)
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


@pytest.fixture
def as_json(run: Run) -> Callable[..., Any]:
    def as_json(*arguments: str) -> Any:
        status, out, err = run(*arguments, "--json")
        assert (status, err) == (0, "")
        return json.loads(out)

    return as_json


@pytest.fixture
def digits(as_json: Callable[..., Any]) -> dict[str, Any]:
    deployed: dict[str, Any] = as_json(
        "deploy", "digits", str(MODEL), "--version", "1", "--alias", "zip-codes"
    )
    return deployed


def test_a_key_is_written_and_read(run: Run, as_json: Callable[..., Any]) -> None:
    assert run("put", "greeting", "hello") == (0, "greeting is at version 1\n", "")
    assert run("get", "greeting") == (0, "hello\n", "")
    assert run("get", "greeting", "--linearizable")[1] == "hello\n"
    assert run("get", "greeting", "--stale")[1] == "hello\n"
    found = as_json("get", "greeting")
    assert (found["value"], found["version"]) == ("hello", 1)
    assert "greeting" in run("keys", "gree")[1].split()


def test_a_value_can_be_json(run: Run) -> None:
    assert run("put", "limits", '{"rps": [1, 2.5]}', "--json-value")[0] == 0
    assert json.loads(run("get", "limits")[1]) == {"rps": [1, 2.5]}
    status, _, err = run("put", "limits", "{rps}", "--json-value")
    assert (status, err.count("\n")) == (2, 1)
    assert "not JSON" in err


def test_a_write_that_lost_is_refused_and_listed(run: Run, as_json: Callable[..., Any]) -> None:
    assert run("put", "contested", "first", "--expected-version", "0")[0] == 0
    status, out, err = run("put", "contested", "second", "--expected-version", "0")
    assert (status, out) == (4, "")
    assert err.startswith("mcpctl: VERSION_CONFLICT: ")
    lost = as_json("conflicts", "contested")
    assert [(entry["expected_version"], entry["attempted"]) for entry in lost] == [(0, "second")]
    assert "second" in run("conflicts", "contested")[1]
    assert run("conflicts", "nobody-wrote")[1] == "no write to nobody-wrote has lost\n"


def test_a_key_that_is_not_there_is_not_found(run: Run) -> None:
    assert run("get", "nothing") == (5, "", "mcpctl: NOT_FOUND: there is no key 'nothing'\n")


def test_the_status_is_told_by_the_node_itself(
    run: Run, as_json: Callable[..., Any], node_address: str, digits: dict[str, Any]
) -> None:
    cluster = as_json("status")
    assert cluster["leader"] == "t1"
    assert cluster["nodes"][0]["role"] == "leader"
    status, out, _ = run("status")
    assert status == 0
    assert "t1" in out
    assert node_address in out
    assert digits["digest"][:16] in out


def test_a_model_is_deployed_once_however_often_it_is_sent(
    run: Run, as_json: Callable[..., Any], digits: dict[str, Any]
) -> None:
    assert (digits["name"], digits["version"], digits["holders"]) == ("digits", "1", ["t1"])
    status, out, _ = run("deploy", "digits", str(MODEL), "--version", "1")
    assert status == 0
    assert "digits version 1 is in service: 193.0 kB" in out
    assert [(m["name"], m["aliases"]) for m in as_json("models")] == [("digits", ["zip-codes"])]


def test_a_file_that_is_no_model_is_refused(run: Run, tmp_path: Path) -> None:
    (tmp_path / "not.onnx").write_bytes(b"not a model")
    status, out, err = run("deploy", "broken", str(tmp_path / "not.onnx"))
    assert (status, out) == (2, "")
    assert err.startswith("mcpctl: MODEL_INVALID: ")


@pytest.mark.usefixtures("digits")
def test_scans_from_a_file_are_read(run: Run, as_json: Callable[..., Any]) -> None:
    with np.load(SCANS, allow_pickle=False) as scans:
        expected = scans["labels"][:5].tolist()
    pair = ("--input", f"image=@{SCANS}:images", "--rows", "0:5")
    answer = as_json("infer", "digits", *pair)
    assert answer["outputs"]["label"] == expected
    assert np.shape(answer["outputs"]["probabilities"]) == (5, 10)
    assert (answer["model"], answer["version"], answer["node"]) == ("digits", "1", "t1")
    status, out, _ = run("infer", "zip-codes", *pair)
    assert status == 0
    assert f"[{', '.join(map(str, expected))}]" in out
    assert all(line == line.rstrip() for line in out.splitlines())


@pytest.mark.usefixtures("digits")
def test_whole_numbers_in_json_become_what_the_model_takes(
    as_json: Callable[..., Any], tmp_path: Path
) -> None:
    (tmp_path / "scan.json").write_text(json.dumps({"image": [[0] * 64]}))
    answer = as_json("infer", "digits", "--json-input", str(tmp_path / "scan.json"))
    assert len(answer["outputs"]["label"]) == 1


@pytest.mark.usefixtures("digits")
@pytest.mark.parametrize(
    ("arguments", "status", "code"),
    [
        (("infer", "digits", "--input", "image=[[1.0, 2.0]]"), 2, "INPUT_INVALID"),
        (("infer", "digits", "--input", "picture=[[1.0]]"), 2, "INPUT_INVALID"),
        (("infer", "digits", "--text", "seven"), 2, "INPUT_INVALID"),
        (("infer", "nobody", "--input", "image=[[1.0]]"), 5, "MODEL_NOT_FOUND"),
        (("infer", "digits"), 2, "INVALID_ARGUMENT"),
        (("submit", "nobody", "--input", "image=[[1.0]]"), 5, "MODEL_NOT_FOUND"),
        (("result", "0" * 32), 5, "NOT_FOUND"),
    ],
)
def test_what_a_model_cannot_take_is_refused_with_a_code(
    run: Run, arguments: tuple[str, ...], status: int, code: str
) -> None:
    found, out, err = run(*arguments)
    assert (found, out, err.count("\n")) == (status, "", 1)
    assert err.startswith(f"mcpctl: {code}: ")


@pytest.mark.usefixtures("digits")
def test_a_submitted_inference_is_recorded(run: Run, as_json: Callable[..., Any]) -> None:
    scan = ("--input", f"image=@{SCANS}:images", "--rows", "0")
    status, out, _ = run("submit", "digits", *scan)
    assert status == 0
    record = as_json("result", out.strip())
    assert (record["status"], record["mode"], len(record["outputs"]["label"])) == ("done", "durable", 1)
    status, out, _ = run("submit", "digits", *scan, "--mode", "replicated", "--id", "mine", "--wait")
    assert status == 0
    assert out.startswith("mine  done, replicated, digits version 1")
    assert run("submit", "digits", *scan, "--mode", "replicated", "--id", "mine")[1] == "mine\n"


@pytest.fixture
def nowhere() -> str:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"127.0.0.1:{server.getsockname()[1]}"


def test_a_cluster_that_nobody_answers_for_is_unavailable(run: Run, nowhere: str) -> None:
    status, out, err = run("put", "a", "b", "--connect", nowhere, "--timeout", "0.3")
    assert (status, out, err.count("\n")) == (3, "", 1)
    status, out, err = run("status", "--connect", nowhere, "--timeout", "0.3")
    assert status == 3
    assert "no answer" in out
    assert err.startswith("mcpctl: UNAVAILABLE: 0 of 1 nodes answered")


@pytest.mark.parametrize(
    "setting", [("MCP_CLUSTER_KEY", "another-key-0123456789"), ("MCP_CLUSTER_ID", "other")]
)
def test_a_stranger_is_refused(run: Run, monkeypatch: pytest.MonkeyPatch, setting: tuple[str, str]) -> None:
    monkeypatch.setenv(*setting)
    status, out, err = run("get", "greeting")
    assert (status, out) == (4, "")
    assert err.startswith("mcpctl: AUTHENTICATION_FAILED: ")


@pytest.mark.parametrize(
    ("connect", "words"), [(",", "no address"), ("localhost", "'localhost' is no address")]
)
def test_what_is_no_address_is_refused(run: Run, connect: str, words: str) -> None:
    status, _, err = run("get", "a", "--connect", connect)
    assert status == 2
    assert words in err


def test_half_a_pair_of_tls_files_is_refused(run: Run, tmp_path: Path) -> None:
    (tmp_path / "cert.pem").write_text("no certificate")
    pem = str(tmp_path / "cert.pem")
    assert "go together" in run("get", "a", "--tls-cert", pem)[2]
    assert run("get", "a", "--tls-ca", pem)[2].startswith("mcpctl: CONFIG_INVALID: ")


def serve(*arguments: str, cwd: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "mcp", "serve", "--data-dir", str(cwd / "data"), *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_node_stops_in_order_when_it_is_told_to(tmp_path: Path, number: signal.Signals) -> None:
    with serve("--listen", "127.0.0.1:0", cwd=tmp_path) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("ready ")
        process.send_signal(number)
        _, err = process.communicate(timeout=20)
    assert process.returncode == 0, err
    assert "Traceback" not in err


def test_a_node_that_cannot_listen_says_so_in_one_line(tmp_path: Path, node_address: str) -> None:
    with serve("--listen", node_address, "--log-level", "error", cwd=tmp_path) as process:
        out, err = process.communicate(timeout=20)
    assert process.returncode != 0
    assert out == ""
    assert err.startswith("mcpctl: ")
    assert err.count("\n") == 1
    assert node_address.rpartition(":")[2] in err
