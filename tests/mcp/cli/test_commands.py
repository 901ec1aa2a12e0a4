"""The commands against a real node: what they print, for people and for programs, and how they fail."""

from __future__ import annotations

import errno
import functools
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

import mcp
from mcp.cli import root
from mcp.state.commands import SCHEMA_MAX

REPOSITORY = Path(__file__).resolve().parents[3]
MODEL = REPOSITORY / "examples" / "digits" / "digits.onnx"
ELEMENT = REPOSITORY / "tests" / "executor" / "models" / "element.onnx"
FIBONACCI = Path(__file__).parents[2] / "executor" / "models" / "fibonacci.onnx"
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
    _, _, err = run("put", "nothing", "x", "--expected-version", "7")
    assert err.endswith("there is no such key; to create it, expect version 0\n")


def test_keys_are_deleted_by_prefix(run: Run, as_json: Callable[..., Any]) -> None:
    (node,) = as_json("status")["nodes"]
    assert node["schema"]["own_max"] == SCHEMA_MAX
    for key in ("jobs/1", "jobs/2", "job"):
        assert run("put", key, "x")[0] == 0
    assert run("delete", "--prefix", "jobs/") == (0, "2 keys that begin with jobs/ are deleted\n", "")
    assert as_json("delete", "--prefix", "jobs/") == {"prefix": "jobs/", "deleted": 0}
    assert run("get", "job")[0] == 0
    assert run("delete", "job", "--prefix", "--expected-version", "1")[0] == 2


def test_a_key_is_deleted(run: Run, as_json: Callable[..., Any]) -> None:
    run("put", "doomed", "x")
    version = as_json("get", "doomed")["version"]
    assert run("delete", "doomed", "--expected-version", str(version + 1))[0] == 4
    assert run("delete", "doomed", "--expected-version", str(version)) == (
        *(0, f"doomed is deleted, it was at version {version}\n", ""),
    )
    assert run("get", "doomed")[0] == 5
    assert run("delete", "doomed") == (0, "there was no key doomed\n", "")
    assert as_json("delete", "doomed") == {"key": "doomed", "deleted": False, "version": None}


def test_a_list_that_stops_at_its_limit_says_so(run: Run, as_json: Callable[..., Any]) -> None:
    for name in ("many/1", "many/2", "many/3"):
        run("put", name, "x")
    assert as_json("keys", "many/") == {"keys": ["many/1", "many/2", "many/3"], "truncated": False}
    assert as_json("keys", "many/", "--limit", "3")["truncated"] is False
    assert as_json("keys", "many/", "--limit", "2") == {"keys": ["many/1", "many/2"], "truncated": True}
    status, out, err = run("keys", "many/", "--limit", "2")
    assert (status, out, err.count("\n")) == (0, "many/1\nmany/2\n", 1)
    assert "--after many/2" in err
    assert run("keys", "many/", "--after", "many/2") == (0, "many/3\n", "")
    assert run("keys", "many/", "--limit", "5000")[1].count("\n") == 3


@pytest.mark.parametrize(
    ("options", "variable", "status"),
    [
        (("--linearizable", "--stale"), None, 2),
        (("--linearizable", "--consistency", "stale"), None, 2),
        (("--consistency", "linearizable", "--linearizable"), None, 0),
        (("--consistency", "fresh"), None, 2),
        ((), "linearizable", 0),
        ((), "fresh", 2),
        (("--stale",), "linearizable", 0),
    ],
)
def test_one_consistency_at_a_time(
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
    options: tuple[str, ...],
    variable: str | None,
    status: int,
) -> None:
    run("put", "greeting", "hello")
    if variable is not None:
        monkeypatch.setenv("MCP_GET_CONSISTENCY", variable)
    found, out, err = run("get", "greeting", *options)
    assert (found, out) == (status, "" if status else "hello\n")
    assert err.startswith("mcpctl: INVALID_ARGUMENT: " if status else "")


def test_the_status_is_told_by_the_node_itself(
    run: Run, as_json: Callable[..., Any], node_address: str, digits: dict[str, Any]
) -> None:
    cluster = as_json("status")
    assert (cluster["leader"], cluster["serves"], cluster["error"]) == ("t1", True, None)
    (node,) = cluster["nodes"]
    assert (node["role"], node["reachable"], node["storage"]) == ("leader", True, "ok")
    assert (node["protocol_version"], node["package_version"]) == ("1.0", mcp.__version__)
    assert not {"details", "version", "models"} & node.keys()
    assert [(m["name"], m["ready_on"]) for m in cluster["models"]] == [("digits", ["t1"])]
    assert not {"size", "inputs", "outputs", "tags", "ready"} & cluster["models"][0].keys()
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
    (model,) = as_json("models")
    assert (model["name"], model["aliases"], model["ready_on"]) == ("digits", ["zip-codes"], ["t1"])
    assert model["size"] == MODEL.stat().st_size
    assert [spec["name"] for spec in model["inputs"]] == ["image"]
    assert [spec["name"] for spec in model["outputs"]] == ["probabilities", "label"]


def test_a_model_is_deployed_with_what_its_owner_says_about_batching(
    run: Run, as_json: Callable[..., Any]
) -> None:
    def found(command: str, *fields: str) -> Any:
        listed = functools.reduce(lambda value, field: value[field], fields, as_json(command))
        return next(model for model in listed if model["name"] == "batched")

    as_json("deploy", "batched", str(MODEL), "--batching", "dynamic", "--batch-rows-max", "16")
    model = found("models")
    assert model["batching"] == {"mode": "dynamic", "rows_max": 16, "latency_bound_ms": 10.0, "pad": {}}
    assert run("infer", "batched", "--input", f"image=@{SCANS}:images", "--rows", "0:3")[0] == 0
    model = found("status", "models")
    figures = model["inference"]["t1"]
    assert (figures["batched"], figures["queued"]) == (True, 0)
    assert figures["batch_rows"]["4"] >= 1
    as_json("deploy", "batched", str(MODEL), "--batch-latency-bound", "0.002", "--batching", "off")
    model = found("models")
    assert (model["batching"]["mode"], model["batching"]["latency_bound_ms"]) == ("off", 2.0)
    assert model["inference"]["t1"]["not_batched"] == "it is switched off for this model"
    status, _, err = run("deploy", "batched", str(MODEL), "--batch-pad", "image=0")
    assert status != 0
    assert "'image' has no open size after the first" in err
    assert "is not INPUT=NUMBER" in run("deploy", "batched", str(MODEL), "--batch-pad", "image")[2]
    run("undeploy", "batched")


def test_a_version_is_put_back_into_service_and_taken_out(
    run: Run, as_json: Callable[..., Any], digits: dict[str, Any]
) -> None:
    def active() -> str:
        return str(next(model for model in as_json("models") if model["name"] == "digits")["version"])

    assert as_json("deploy", "digits", str(MODEL), "--version", "2")["digest"] == digits["digest"]
    assert active() == "2"
    assert "other versions" in run("models")[1]
    assert run("activate", "digits", "1") == (0, "digits version 1 is in service\n", "")
    assert active() == "1"
    assert run("deploy", "digits", str(MODEL), "--version", "2")[1].startswith(
        "digits version 2 is in service"
    )
    assert active() == "2", "what a deploy says is in service, is"
    assert run("undeploy", "digits", "--version", "2") == (
        *(0, "digits version 2 is out of service; version 1 is in service\n", ""),
    )
    assert run("activate", "digits", "2")[0] == 5
    assert as_json("deploy", "gone", str(MODEL))["version"] == "1"
    assert as_json("undeploy", "gone") == {"name": "gone", "undeployed": None, "active": None}
    assert run("undeploy", "gone")[0] == 5
    assert active() == "1"


def test_a_stream_is_printed_step_by_step(run: Run) -> None:
    assert run("deploy", "fibonacci", str(FIBONACCI))[0] == 0
    inputs = ("--input", "state=[[0, 1]]", "--input", "limit=[[8]]")
    steps = ("--stream", "20", "--carry", "next=state", "--until", "over")
    status, out, _ = run("infer", "fibonacci", *inputs, *steps, "--json")
    assert status == 0
    told = [json.loads(line) for line in out.splitlines()]
    assert [(each["step"], each["outputs"]["value"]) for each in told] == [
        *((1, [[1]]), (2, [[2]]), (3, [[3]]), (4, [[5]]), (5, [[8]])),
    ]
    status, out, _ = run("infer", "fibonacci", *inputs, "--stream", "2", "--carry", "next=state")
    assert status == 0
    assert [line for line in out.splitlines() if line.startswith("step")] == ["step 1 on t1", "step 2 on t1"]
    assert "give --stream STEPS too" in run("infer", "fibonacci", *inputs, "--until", "over")[2]
    assert "OUTPUT=INPUT" in run("infer", "fibonacci", *inputs, "--stream", "2", "--carry", "next")[2]
    status, _, err = run("infer", "fibonacci", *inputs, "--stream", "2", "--carry", "over=limit")
    assert status == 2
    assert "INPUT_INVALID" in err
    run("undeploy", "fibonacci")


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


def test_whole_numbers_become_what_the_version_or_the_family_takes_too(
    run: Run, as_json: Callable[..., Any], tmp_path: Path
) -> None:
    described = ("--family", "figures", "--task", "reading", "--tag", "small", "--tag", "grey")
    for version, *options in [("1",), ("2", "--no-activate")]:
        assert run("deploy", "figures-model", str(MODEL), "--version", version, *described, *options)[0] == 0
    (tmp_path / "scan.json").write_text(json.dumps({"image": [[0] * 64]}))
    hints = ("figures-model@2", "figures-model:2", "figures", "reading", "small,grey")
    for hint in hints:
        answer = as_json("infer", hint, "--json-input", str(tmp_path / "scan.json"))
        assert answer["version"] == ("2" if hint.endswith("2") else "1")
    run("undeploy", "figures-model")


@pytest.mark.usefixtures("digits")
@pytest.mark.parametrize(
    ("arguments", "status", "code"),
    [
        (("infer", "digits", "--input", "image=[[1.0, 2.0]]"), 2, "INPUT_INVALID"),
        (("infer", "digits", "--input", "picture=[[1.0]]"), 2, "INPUT_INVALID"),
        (("infer", "digits", "--text", "seven"), 2, "INPUT_INVALID"),
        (("infer", "nobody", "--input", "image=[[1.0]]"), 5, "MODEL_NOT_FOUND"),
        (("infer", "digits"), 2, "INVALID_ARGUMENT"),
        (("submit", "digits", "--input", "image=[[1.0, 2.0]]", "--wait"), 2, "INPUT_INVALID"),
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
    found, out, told = run(*arguments, "--json")
    error = json.loads(out)["error"]
    assert (found, told, error.keys()) == (status, err, {"code", "message", "details"})
    assert error["code"] == code
    assert error["message"] in err


@pytest.mark.usefixtures("digits")
def test_an_input_that_does_not_fit_is_said_of_the_model_by_name(run: Run) -> None:
    assert "model digits version 1: " in run("infer", "digits", "--input", "image=[[1.0, 2.0]]")[2]


def test_a_failed_inference_is_one_object(run: Run, as_json: Callable[..., Any]) -> None:
    as_json("deploy", "element", str(ELEMENT))
    beyond = ("--input", "data=[[1, 2, 3, 4]]", "--input", "index=[[9]]", "--wait", "--json")
    status, out, err = run("submit", "element", *beyond)
    record = json.loads(out)
    assert (status, record["status"], record["error"]["code"]) == (1, "failed", "INFERENCE_FAILED")
    assert err.startswith("mcpctl: INFERENCE_FAILED: ")


@pytest.mark.usefixtures("digits")
def test_an_input_comes_from_the_environment_by_the_option_s_name(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MCP_INFER_INPUT", f"image=@{SCANS}:images")
    monkeypatch.setenv("MCP_INFER_ROWS", "0")
    assert run("infer", "digits")[0] == 0


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
    status, out, err = run("status", "--connect", nowhere, "--timeout", "0.3", "--json")
    cluster = json.loads(out)
    assert (status, err.count("\n")) == (3, 1)
    assert (cluster["error"]["code"], cluster["serves"]) == ("UNAVAILABLE", False)
    assert cluster["nodes"][0].keys() == {"node", "address", "reachable", "error"}


@pytest.mark.parametrize(
    "setting", [("MCP_CLUSTER_KEY", "another-key-0123456789"), ("MCP_CLUSTER_ID", "other")]
)
def test_a_stranger_is_refused(run: Run, monkeypatch: pytest.MonkeyPatch, setting: tuple[str, str]) -> None:
    monkeypatch.setenv(*setting)
    status, out, err = run("get", "greeting")
    assert (status, out) == (4, "")
    assert err.startswith("mcpctl: AUTHENTICATION_FAILED: ")
    status, out, err = run("status")
    assert status == 4
    assert "no answer (AUTHENTICATION_FAILED)" in out
    assert err.startswith("mcpctl: AUTHENTICATION_FAILED: ")


def mcpctl(*arguments: str, stdout: Any, **variables: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "mcp", *arguments],
        cwd=REPOSITORY,
        # Buffered, as it is for users: what could not be written is tried again at exit.
        env={**os.environ, "PYTHONUNBUFFERED": "", **variables},
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no full device")
@pytest.mark.parametrize(
    "arguments", [("--help",), ("status",), ("status", "--json"), ("get", "no", "--json")]
)
def test_a_full_standard_output_is_one_line_and_a_status(
    node_address: str, arguments: tuple[str, ...]
) -> None:
    settings = {"MCP_CONNECT": node_address, "MCP_CLUSTER_KEY": KEY}
    with open("/dev/full", "w") as full, mcpctl(*arguments, stdout=full, **settings) as process:
        _, err = process.communicate(timeout=60)
    if "get" in arguments:
        assert (process.returncode, err) == (5, "mcpctl: NOT_FOUND: there is no key 'no'\n")
    else:
        reason = os.strerror(errno.ENOSPC)
        assert err == f"mcpctl: OUTPUT_FAILED: standard output cannot be written: {reason}\n"
        assert process.returncode == 1


@pytest.mark.parametrize("arguments", [("--help",), ("status",), ("status", "--json")])
def test_a_reader_that_left_is_a_status_and_not_a_word(node_address: str, arguments: tuple[str, ...]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    settings = {"MCP_CONNECT": node_address, "MCP_CLUSTER_KEY": KEY}
    with mcpctl(*arguments, stdout=writing, **settings) as process:
        os.close(writing)
        _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (141, "")


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


@pytest.mark.parametrize("value", ["NaN", "[1e999]", '{"a": 1, "a": 2}', "[" * 5000])
def test_a_value_that_json_cannot_tell_back_is_refused(run: Run, value: str) -> None:
    status, out, err = run("put", "odd", value, "--json-value")
    assert (status, out) == (2, "")
    assert "VALUE is not JSON" in err
    assert err.count("\n") == 1


def test_nodes_shows_what_each_can_do_and_how_busy_it_is(run: Run, as_json: Callable[..., Any]) -> None:
    view = as_json("nodes")
    assert view["asked"] == "t1"
    (node,) = view["nodes"]
    assert (node["node"], node["state"], node["card"]["standing"]) == ("t1", "alive", "voter")
    status, out, err = run("nodes")
    assert (status, err) == (0, "")
    head, row = out.splitlines()
    assert head.split()[:4] == ["node", "state", "for", "standing"]
    assert row.split()[:2] == ["t1", "alive"]
    assert "cpu" in row
    assert node["address"] in row
