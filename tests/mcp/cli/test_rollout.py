"""``mcpctl rollout`` against a real node: what is read, what is told, and how it ends."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from rich.console import Console

from mcp.cli import exits, root
from mcp.cli.rollout import (
    look_at,
    looked,
    looks_in,
    rollouts_table,
    seconds_of,
    share_of,
    steps_of,
    told,
)
from mcp.client.results import ClusterStatus, NodeStatus
from mcp.client.traffic import Rollout

REPOSITORY = Path(__file__).resolve().parents[3]
MODEL = str(Path(__file__).parents[2] / "executor" / "models" / "table_of_five.onnx")
KEY = "a-key-for-tests-0123456789"
LISTS_MAX = 200
WAITS = "no requests yet: it waits for traffic"

Run = Callable[..., tuple[int, str, str]]


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

    assert run("deploy", "table", MODEL, "--version", "1")[0] == 0
    status, out, _ = run("deploy", "table", MODEL, "--version", "2", "--no-activate")
    assert (status, out.startswith("table version 2 is deployed: ")) == (0, True)
    yield run
    assert run("undeploy", "table")[0] == 0


def listed(run: Run, model: str = "table") -> dict[str, Any]:
    status, out, _ = run("rollout", "list", "--json")
    assert status == 0
    (found,) = [each for each in json.loads(out) if each["model"] == model]
    return dict(found)


def test_it_begins_is_listed_and_aborted(run: Run) -> None:
    assert run("infer", "table", "--input", "index=[4]", "--json")[0] == 0
    options = ("--steps", "1,10,100", "--max-error", "0.5%", "--interval", "1m30s", "--min-requests", "7")
    status, out, err = run("rollout", "table", "--to", "2", *options, "--no-wait")
    assert (status, out, err) == (0, "table: version 1 to 2, trial: 0.5 % of the requests\n", "")
    found = listed(run)
    assert (found["from"], found["to"], found["state"], found["step"]) == ("1", "2", "going", 0)
    assert found["plan"] == {
        "steps": [1, 10, 100],
        "max_error": 0.005,
        "max_p99_ratio": 1.5,
        "interval_s": 90.0,
        "min_requests": 7,
    }
    status, out, _ = run("rollout", "list")
    assert status == 0
    line = next(line for line in out.splitlines() if line.startswith("table"))
    assert line.split()[:7] == ["table", "1", "2", "going", "0/3", "0.5", "%"]
    # All but what the leader saw last, which it looks at twice a second.
    told = [json.loads(run("rollout", *which, "--json")[1]) for which in (("status", "table"), ("list",))]
    assert [{**each, "look": None} for each in told[0]] == [{**each, "look": None} for each in told[1]]
    assert any((listed(run)["look"] or {}).get("reason") == WAITS for _ in range(LISTS_MAX))
    status, out, _ = run("status")
    assert f"rollout of table: version 1 to 2, 0.5 % of the requests; {WAITS}\n" in out
    (look,) = json.loads(run("status", "--json")[1])["rollouts"]
    assert (look["model"], look["percent"], look["ended"]) == ("table", 0.5, False)
    # Its route is nobody else's, and a second one is refused.
    status, _, err = run("route", "remove", "table")
    assert (status, "belongs to a rollout" in err) == (exits.REFUSED, True)
    assert run("rollout", "begin", "table", "--to", "2")[0] == exits.REFUSED
    version = str(found["version"])
    assert (
        run("rollout", "abort", "table", "--expected-version", str(found["version"] + 1))[0] == exits.REFUSED
    )
    status, out, _ = run("rollout", "abort", "table", "--expected-version", version)
    assert (status, out) == (0, "table: version 1 to 2: aborted, somebody aborted it\n")
    status, out, err = run("rollout", "status", "table")
    line = next(line for line in out.splitlines() if line.startswith("table"))
    assert (status, err, line.split()[5:]) == (0, "", ["0", "%", "0", "0", "somebody", "aborted", "it"])
    assert listed(run)["look"]["ended"] is True
    assert "rollout of table" not in run("status")[1]
    status, _, err = run("rollout", "status", "digits")
    assert (status, "begin one: mcpctl rollout digits --to VERSION" in err) == (exits.NOT_FOUND, True)
    assert run("rollout", "abort", "table")[0] == exits.REFUSED
    assert run("rollout", "abort", "nothing-of-the-kind")[0] == exits.NOT_FOUND


def test_it_is_followed_to_its_end(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    # Undeployed in the meantime, which is what ends it: there is no traffic.
    from mcp.cli import rollout

    begun = rollout.find

    async def find(client: Any, model: str) -> Rollout:
        found = await begun(client, model)
        if found.going:
            await client.undeploy("table", "2")
        return found

    monkeypatch.setattr(rollout, "find", find)
    monkeypatch.setattr(rollout, "LOOK_S", 0.01)
    status, out, _ = run("rollout", "table", "--to", "2", "--max-error", "0.01")
    assert status == exits.FAILED
    assert out.splitlines() == [
        "table: version 1 to 2, trial: 2.5 % of the requests",
        "table: version 1 to 2: aborted, version 2 was undeployed",
    ]
    assert run("deploy", "table", MODEL, "--version", "2", "--no-activate")[0] == 0
    status, out, _ = run("rollout", "table", "--to", "2", "--json")
    assert status == exits.FAILED
    assert json.loads(out)["state"] == "aborted"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("table",), "Missing option '--to'"),
        (("table", "--to", "2", "--steps", "5,x"), "are no whole percents"),
        (("table", "--to", "2", "--steps", "2.5,100"), "are no whole percents"),
        (("table", "--to", "2", "--steps", "5,20"), "the last of them 100"),
        (("table", "--to", "2", "--max-error", "2"), "is no share"),
        (("table", "--to", "2", "--interval", "soon"), "is no duration"),
        (("table", "--to", "1"), "is the active one"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(run: Run, arguments: tuple[str, ...], said: str) -> None:
    status, out, err = run("rollout", *arguments)
    assert (status, out) == (exits.INVALID, "")
    assert said in err
    assert err.count("\n") == 1


def test_what_options_mean() -> None:
    context = click.Context(click.Command("x"))
    parameter = click.Option(["--x"])
    assert steps_of(context, parameter, "5%, 20,100") == (5, 20, 100)
    assert [share_of(context, parameter, text) for text in ("1%", "0.01", "0", "100%")] == [0.01, 0.01, 0, 1]
    assert [seconds_of(context, parameter, text) for text in ("30s", "1m30s", "0", "2.5")] == [30, 90, 0, 2.5]


def test_the_last_look_is_shown_of_this_rollout_only_and_why_there_is_none() -> None:
    going = Rollout("m", "1", "2", {"steps": [5, 100]}, 1, 5.0, "going", "", 3, 9, 0.0)
    done = Rollout("m", "1", "2", {"steps": [5, 100]}, 2, 100.0, "done", "", 5, 12, 0.0)
    look = {"model": "m", "to": "2", "version": 4, "ended": True, "new": {"requests": 7, "failures": 1}}
    before = {**look, "version": 2, "to": "1"}
    nodes = [NodeStatus("a", "n1", details={"rollouts": [before, "?"]}), NodeStatus("b", "n2")]
    nodes.append(NodeStatus("c", "n3", details={"rollouts": [look]}))
    for order in (nodes, nodes[::-1]):
        assert looks_in(ClusterStatus(order, None, 0, [], [])) == {"m": look}
    assert look_at(done, {"m": look}) == look
    assert look_at(going, {"m": look}) is None
    assert look_at(done, {"m": before}) is None
    assert look_at(going, {"m": {"reason": "of a node that says no more"}}) is not None
    for looks, shown in (({"m": look}, "7       1"), ({}, "?       ?")):
        with io.StringIO() as out:
            Console(file=out, width=120).print(rollouts_table([done], looks))
            assert shown in out.getvalue()


def test_what_is_told() -> None:
    going = Rollout("m", "1", "2", {"steps": [5, 100]}, 1, 5.0, "going", "", 3, 9, 0.0)
    assert told(going) == "m: version 1 to 2, step 1 of 2: 5 % of the requests"
    done = Rollout("m", "1", "2", {"steps": [5, 100]}, 2, 100.0, "done", "", 5, 12, 0.0)
    assert told(done) == "m: version 1 to 2: done"
    assert looked(None) == ""
    look = {"reason": "no requests yet: it waits for traffic", "left_out": ["n2", "n3"]}
    assert looked(look) == ("; no requests yet: it waits for traffic; without n2, n3, which did not answer")
