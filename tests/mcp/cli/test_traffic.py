"""``mcpctl route`` and ``mcpctl limits`` against a real node, with the examples of this repository."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mcp.cli import root
from mcp.cli.documents import documents, is_rules
from mcp.errors import DependencyMissing, InvalidArgument

REPOSITORY = Path(__file__).resolve().parents[3]
EXAMPLES = REPOSITORY / "examples"
DIGITS = str(EXAMPLES / "digits" / "digits.onnx")
SCANS = f"image=@{EXAMPLES / 'digits' / 'held_out.npz'}:images"
STRINGS = str(Path(__file__).parents[2] / "executor" / "models" / "strings.onnx")
KEY = "a-key-for-tests-0123456789"

Run = Callable[..., tuple[int, str, str]]
AsJson = Callable[..., Any]


@pytest.fixture
def run(
    node_address: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Run]:
    monkeypatch.setenv("MCP_CONNECT", node_address)
    monkeypatch.setenv("MCP_CLUSTER_KEY", KEY)

    def run(*arguments: str) -> tuple[int, str, str]:
        status = root.run(arguments)
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    yield run
    # The node is one for all tests.
    assert run("route", "remove", "--rules")[0] == 0
    assert run("route", "remove", "product-service", "digits", "words")[0] == 0
    assert run("limits", "remove")[0] == 0
    assert run("route", "strategy", "digits", "--default")[0] == 0


@pytest.fixture
def as_json(run: Run) -> AsJson:
    def as_json(*arguments: str) -> Any:
        status, out, err = run(*arguments, "--json")
        assert (status, err) == (0, "")
        return json.loads(out)

    return as_json


@pytest.fixture
def models(run: Run) -> Iterator[None]:
    for name, version in (
        ("product-service", "v1"),
        ("product-service", "v2"),
        ("digits", "1"),
        ("digits", "2"),
    ):
        assert run("deploy", name, DIGITS, "--version", version)[0] == 0
    said = ("--alias", "glm-large", "--family", "glm", "--task", "echo")
    assert run("deploy", "words", STRINGS, "--version", "1", *said)[0] == 0
    yield
    for name in ("product-service", "digits", "words"):
        assert run("undeploy", name)[0] == 0


@pytest.mark.usefixtures("models")
def test_istio_s_routes_are_applied_listed_followed_and_removed(run: Run, as_json: AsJson) -> None:
    status, out, err = run("routes", "apply", str(EXAMPLES / "virtual_service.yaml"))
    assert (status, err) == (0, "")
    assert out.startswith("1 route in force (product-service), version ")
    _, out, _ = run("route", "list")
    assert "product-service@v1 80 %, product-service@v2 20 %" in out
    listed = as_json("route", "list")["routes"]
    ask = ("infer", "product-service", "--input", SCANS, "--rows", "0")
    versions = {as_json(*ask, "--session", f"user-{n}")["version"] for n in range(16)}
    assert versions == {"v1", "v2"}
    assert len({as_json(*ask, "--session", "user-1")["version"] for _ in range(3)}) == 1
    assert run("route", "remove", "product-service", "nobody") == (
        0,
        "removed: product-service\n",
        "mcpctl: there was no route for nobody\n",
    )
    assert as_json("route", "list")["routes"]["routes"] == []
    assert listed["routes"][0]["host"] == "product-service"


@pytest.mark.usefixtures("models")
def test_what_list_prints_can_be_applied_again(run: Run, as_json: AsJson, tmp_path: Path) -> None:
    as_json("route", "apply", str(EXAMPLES / "virtual_service.yaml"))
    before = as_json("route", "list")["routes"]
    file = tmp_path / "routes.json"
    file.write_text(json.dumps(before))
    assert run("route", "apply", str(file), "--expected-version", str(before["version"]))[0] == 0
    after = as_json("route", "list")["routes"]
    assert after["routes"] == before["routes"]
    assert after["version"] == before["version"] + 1
    status, _, err = run("route", "apply", str(file), "--expected-version", str(before["version"]))
    assert status == 4
    assert err.startswith("mcpctl: VERSION_CONFLICT: the routes are at version")


@pytest.mark.usefixtures("models")
def test_the_example_of_a_request_is_explained_and_answered(run: Run, as_json: AsJson) -> None:
    request = str(EXAMPLES / "infer_request.json")
    status, out, _ = run("route", "explain", request)
    assert status == 0
    assert out.splitlines()[0].startswith("words version 1 on t1 (rules version")
    assert "hint    glm-large is an alias of words" in out
    decision = as_json("route", "explain", request)
    assert (decision["model"], decision["nodes"], decision["decided_by"]) == ("words", ["t1"], "t1")
    assert as_json("infer", "--request", request)["outputs"]["same"] == ["用户输入文本分片"]
    assert as_json("infer", "glm", "--text", "x")["model"] == "words"


@pytest.mark.usefixtures("models")
def test_rules_of_a_file_decide_by_headers_and_sizes(run: Run, as_json: AsJson, tmp_path: Path) -> None:
    assert as_json("route", "apply", str(EXAMPLES / "routing.rules"))["rules"] == [
        'when header.x-tester == "true" use digits@2',
        "when batch > 64 use digits@1",
    ]
    request = tmp_path / "request.json"
    data = [[float(n % 17) for n in range(64)]]
    request.write_text(
        json.dumps(
            {
                "mcp_version": "1.0",
                "type": "INFER_REQUEST",
                "payload": {"model_hint": "digits", "inputs": [{"name": "image", "data": data * 65}]},
            }
        )
    )
    decision = as_json("route", "explain", str(request))
    assert decision["version"] == "1"
    assert [reason["step"] for reason in decision["reasons"]][:2] == ["hint", "rule"]
    _, out, _ = run("route", "explain", str(request), "--header", "x-tester=true")
    assert out.startswith("digits version 2 on t1")
    ask = ("infer", "digits", "--input", SCANS, "--rows")
    assert as_json(*ask, "0:70")["version"] == "1"
    assert as_json(*ask, "0:70", "--header", "X-Tester=true")["version"] == "2"
    _, out, _ = run("route", "list")
    assert '1  when header.x-tester == "true" use digits@2' in out


@pytest.mark.usefixtures("models")
def test_a_refusal_is_explained_too(run: Run, tmp_path: Path) -> None:
    request = tmp_path / "request.json"
    payload = {
        "model_hint": "digits",
        "inputs": [{"name": "image", "datatype": "FP32", "data": [[1.0, 2.0]]}],
    }
    message = {"mcp_version": "1.0", "type": "INFER_REQUEST", "payload": payload}
    request.write_text(json.dumps(message))
    status, out, err = run("route", "explain", str(request))
    assert status == 2
    assert out.splitlines()[0] == "digits is the name of a model"
    assert err.startswith("mcpctl: INPUT_INVALID: the inputs do not fit digits@")
    status, out, _ = run("route", "explain", str(request), "--json")
    assert json.loads(out)["error"]["details"]["reasons"][0] == "digits is the name of a model"


@pytest.mark.usefixtures("models")
def test_what_is_wrong_is_told_by_its_place_and_changes_nothing(
    run: Run, as_json: AsJson, tmp_path: Path
) -> None:
    before = as_json("route", "list")
    service = (EXAMPLES / "virtual_service.yaml").read_text()
    cases = {
        "fault.yaml": (service + "      fault: {abort: {}}\n", "spec.http[0].fault: faults are"),
        "deployed.yaml": (service.replace("subset: v2", "subset: v3"), "product-service@v3 is not deployed"),
        "kind.yaml": (service.replace("VirtualService", "Gateway"), "kind: VirtualService is expected"),
        "broken.yaml": ("a: [", "is no YAML"),
        "broken.json": ('{"routes": [}', "is no JSON"),
        "list.json": ("[1]", "a map is expected"),
        "rule.rules": ("# first\nwhen batch > 1 us x", "line 2: at character 16: expected"),
        "target.rules": ("when batch > 1 use nobody", "nobody is not deployed"),
        "empty.rules": ("# nothing\n", "says nothing"),
        "column.yaml": ("a: b\n  c: d\n", "line 2, column 4: it is no YAML: mapping values are not"),
        "host.yaml": (service.replace("hosts:", "hosst:"), "spec.hosst: unknown field; did you mean hosts?"),
        "when.rules": (
            "# first\nwehn batch > 1 use x\n",
            'line 2: at character 1: expected "when", got wehn;',
        ),
        "two.rules": ("wehn batch > 1 us x\n", "line 1: at character 1: expected"),
        "if.rules": ("if batch > 1 use x\n", "line 1: at character 1: expected"),
    }
    for name, (text, says) in cases.items():
        (tmp_path / name).write_text(text)
        status, out, err = run("route", "apply", str(tmp_path / name))
        assert (status, out) == (2, ""), name
        assert f": {tmp_path / name}" in err, name
        assert says in err, name
    assert run("route", "remove")[0] == 2
    assert run("route", "remove", "x", "--rules")[0] == 2
    assert run("route", "explain", str(EXAMPLES / "infer_request.json"), "--header", "x")[0] == 2
    assert as_json("route", "list") == before


@pytest.mark.usefixtures("models")
def test_limits_are_applied_listed_and_removed(run: Run, as_json: AsJson, tmp_path: Path) -> None:
    assert "nothing is limited" in run("limits", "list")[1]
    status, out, _ = run("limits", "apply", str(EXAMPLES / "limits.json"))
    assert status == 0
    assert out.startswith("the limits are in force, version ")
    _, out, _ = run("limits", "list")
    for row in (
        "a node                                512 requests under way",
        "each client                           50 per 1 s, at most 100 at once (token bucket)",
        "model digits, per node                200 per 1 s (sliding window)",
        "the cluster (everything), all models  300 per 1 s",
    ):
        assert row in out
    listed = as_json("limits", "list")
    assert listed["limits"]["in_flight_max"] == 512
    assert listed["shares"]["everything"]["units"] == 300_000
    file = tmp_path / "limits.yaml"
    file.write_text("in_flight_max: 5\nmodels: {digits: {limit: {amont: 3}}}\n")
    status, _, err = run("limits", "apply", str(file))
    assert status == 2
    told = f"{file}: models.digits.limit.amont: unknown field; did you mean amount?; there are: kind, amount"
    assert told in err
    file.write_text((EXAMPLES / "fallbacks.json").read_text().replace("probabilities", "likelihoods"))
    status, _, err = run("limits", "apply", str(file))  # only nodes know the model
    assert status == 2
    assert f"{file}: models.digits.fallbacks[1].answer is no answer of digits" in err
    status, _, err = run("limits", "apply", str(EXAMPLES / "limits.json"), "--expected-version", "99")
    assert status == 4
    assert run("limits", "remove")[0] == 0
    assert as_json("limits", "list")["limits"] is None


@pytest.mark.usefixtures("models")
def test_a_refused_request_ends_with_the_status_for_trying_again(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "limits.json"
    limit = {"kind": "sliding_window", "amount": 1, "per_s": 3600}
    file.write_text(
        json.dumps({"models": {"digits": {"limit": limit, "breaker": None, "concurrency": None}}})
    )
    assert run("limits", "apply", str(file))[0] == 0
    ask = ("infer", "digits", "--input", SCANS, "--rows", "0", "--timeout", "1")
    assert run(*ask)[0] == 0
    status, _, err = run(*ask)
    assert status == 3
    assert "RESOURCE_EXHAUSTED: model 'digits' is asked for more than its limit lets in" in err


def test_rules_are_told_from_documents() -> None:
    assert is_rules("# a comment\n\n  when batch > 1 use m\n")
    assert is_rules("wehn batch > 1 us m")
    assert is_rules("if batch > 1 use m")
    assert not is_rules("whenever: 1")
    assert not is_rules("wen: {use: m}")
    assert not is_rules("- we use it")
    assert not is_rules('{"when": 1}')
    assert documents('{"a": 1}', "f") == [{"a": 1}]
    assert documents("a: 1\n---\n---\nb: 2\n", "f") == [{"a": 1}, {"b": 2}]
    with pytest.raises(InvalidArgument, match="is no YAML"):
        documents("a: " + "9" * 5000, "f")
    with pytest.raises(InvalidArgument, match="more than 64 documents"):
        documents("---\na: 1\n" * 65, "f")
    with pytest.raises(InvalidArgument):
        documents("!!python/object/apply:os.system ['true']", "f")


def test_yaml_without_its_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.import_module

    def missing(name: str, *more: Any) -> Any:
        if name == "yaml":
            raise ImportError(name)
        return real(name, *more)

    monkeypatch.setattr(importlib, "import_module", missing)
    assert documents('{"a": 1}', "f") == [{"a": 1}]
    with pytest.raises(DependencyMissing, match=r"message-coordination-protocol\[yaml\]"):
        documents("a: 1", "f")


@pytest.mark.usefixtures("models")
def test_a_strategy_is_declared_shown_explained_and_removed(run: Run, as_json: AsJson) -> None:
    told = as_json("route", "strategy", "digits")
    assert (told["model"], told["strategy"]) == ("digits", None)
    declared = as_json("route", "strategy", "digits", "priority_queue")
    assert (declared["strategy"], declared["version"]) == ("priority_queue", told["version"] + 1)
    _, out, _ = run("routes", "list")
    assert f"strategies, version {declared['version']}" in out
    assert "digits  priority_queue" in out
    assert as_json("route", "list")["strategies"]["strategies"] == {"digits": "priority_queue"}
    asked = as_json("infer", "digits", "--input", SCANS, "--rows", "0", "--priority", "3")
    assert asked["version"] == "2"
    status, out, err = run("route", "strategy", "digits", "fastest")
    assert (status, out) == (2, "")
    assert "'fastest' is not one of" in err
    status, _, err = run("route", "strategy", "dogs", "round_robin")
    assert status != 0
    assert "there is no model 'dogs'; there are digits, " in err
    status, _, err = run("route", "strategy", "digits", "round_robin", "--default")
    assert status == 2
    wrong = ("--expected-version", "0")
    assert run("route", "strategy", "digits", "--default", *wrong)[0] != 0
    assert run("route", "strategy", "digits", "--default")[1].startswith(
        "digits: the node that is asked answers, version "
    )
