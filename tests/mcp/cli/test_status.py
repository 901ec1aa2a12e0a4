"""What ``mcpctl status`` says of clusters that are well, and of those that are not."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console

from mcp.cli import exits
from mcp.cli.models import COLUMNS, DISPENSABLE, holders, model_row, models_table, readiness
from mcp.cli.nodes import _row
from mcp.cli.output import console, fitting, narrower
from mcp.cli.replaced import replacing_told
from mcp.cli.status import cluster_json, cluster_parts, nodes_table, problems_told, trouble_of
from mcp.client.results import ClusterStatus, ModelStatus, NodeStatus, PeerStatus, cluster_status
from mcp.client.views import SeenNode
from mcp.errors import AuthenticationFailed, McpError, ModelInvalid, Unavailable, VersionMismatch

FAILED = "failed: cannot sync journal/1.log: Input/output error; stop this node"


def node(name: str, **fields: Any) -> NodeStatus:
    said = {"role": "follower", "leader": "n1", "term": 12, "storage": "ok", "applied_index": 1_234_567}
    said |= {"commit_index": 1_234_567, "last_index": 1_234_567, "uptime_s": 4_000.0}
    return NodeStatus(f"10.20.30.4{name[1:]}:7400", name, voters=["n1", "n2", "n3"], **{**said, **fields})


def silent(name: str, error: McpError | None = None) -> NodeStatus:
    return NodeStatus(f"10.20.30.4{name[1:]}:7400", name, error or Unavailable("nobody listens there"))


def cluster(*nodes: NodeStatus) -> ClusterStatus:
    return cluster_status(nodes)


LEADER, FOLLOWER = node("n1", role="leader"), node("n2")


@pytest.mark.parametrize(
    ("nodes", "code", "words"),
    [
        ([LEADER, FOLLOWER, silent("n3")], None, ()),
        ([LEADER, silent("n2"), silent("n3")], "UNAVAILABLE", ("1 of 3", "no majority", "n3: UNAVAILABLE")),
        (
            [LEADER, node("n2", storage="full"), silent("n3")],
            "UNAVAILABLE",
            ("1 can take part", "storage full"),
        ),
        (
            [node("n1", role="leader", storage=FAILED), FOLLOWER, node("n3")],
            *("NO_LEADER", ("none of them leads", "n1: storage failed: cannot sync")),
        ),
        (
            [node(name, leader=None, role="candidate") for name in ("n1", "n2", "n3")],
            *("NO_LEADER", ("3 of 3 nodes answered", "n2: knows no leader")),
        ),
        (
            [node(name, leader=None, term=0) for name in ("n1", "n2")],
            *("NO_LEADER", ("2 of 3", "once all its voters run at the same time; start n3")),
        ),
        (
            [node("n1", leader=None, term=0), silent("n2"), silent("n3")],
            *("NO_LEADER", ("1 of 3", "start n2, n3", "n2: UNAVAILABLE: nobody listens there")),
        ),
        (
            [
                node(
                    "n1",
                    leader=None,
                    term=0,
                    peers={"n2": PeerStatus(True, None), "n3": PeerStatus(False, None)},
                )
            ],
            *("NO_LEADER", ("1 of 3", "start n3, or check")),
        ),
        (
            [node(name, leader=None, term=0) for name in ("n1", "n2", "n3")],
            *("NO_LEADER", ("3 of 3 nodes answered", "an election is under way")),
        ),
        (
            [silent("n1"), silent("n2", AuthenticationFailed("no"))],
            "UNAVAILABLE",
            ("n2: AUTHENTICATION_FAILED",),
        ),
        (
            [silent(name, AuthenticationFailed("another key")) for name in ("n1", "n2")],
            "AUTHENTICATION_FAILED",
            (),
        ),
        ([silent("n1", VersionMismatch("version 2"))], "VERSION_MISMATCH", ()),
    ],
)
def test_a_cluster_that_does_not_serve_says_why(
    nodes: list[NodeStatus], code: str | None, words: tuple[str, ...]
) -> None:
    trouble = trouble_of(cluster(*nodes))
    assert (trouble.code if trouble else None) == code
    if trouble is not None:
        refused = code in ("AUTHENTICATION_FAILED", "VERSION_MISMATCH")
        assert exits.exit_status(trouble.code) == (exits.REFUSED if refused else exits.UNAVAILABLE)
        assert "\n" not in trouble.message
        for word in words:
            assert word in trouble.message


def shown(parts: list[Any], width: int = 200) -> str:
    out = Console(file=io.StringIO(), width=width)
    out.print(*parts, sep="\n")
    assert isinstance(out.file, io.StringIO)
    return out.file.getvalue()


def test_a_failed_storage_is_seen_in_the_table_and_explained_below_it() -> None:
    table, *notes = shown(cluster_parts(cluster(LEADER, FOLLOWER, node("n3", storage=FAILED)))).split(
        "\nn3: "
    )
    assert "FAILED" in table
    assert "Input/output" not in table
    assert notes[0].startswith("storage failed: cannot sync journal/1.log: Input/output error")


@pytest.mark.parametrize("width", [60, 80, 100, 200])
def test_no_address_is_cut_however_narrow_the_terminal(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mcp.cli.output.console", lambda: Console(width=width))
    found = cluster(LEADER, FOLLOWER, silent("n3"))
    lines = shown([nodes_table(found)], width).splitlines()
    assert len(lines) == 4
    assert max(map(len, lines)) <= width
    assert all(f"10.20.30.4{number}:7400" in lines[number] for number in (1, 2, 3))
    assert "…" not in "".join(lines)
    assert ("committed" in lines[0]) == (width >= 100)


def test_what_is_too_wide_even_then_goes_on_in_the_next_line() -> None:
    out = Console(width=20, file=io.StringIO())
    rows = [{"model": "m" * 30, "version": "1"}]
    out.print(fitting(narrower(COLUMNS, rows, DISPENSABLE), out))
    assert isinstance(out.file, io.StringIO)
    assert out.file.getvalue().count("m") == 30 + 1


def test_output_that_is_for_no_terminal_is_never_folded() -> None:
    assert console().width >= 400


MODEL = ModelStatus("m", "2", ["1", "2"], "d" * 64, ["al"], ["n1"], True)
BROKEN = ModelStatus("m", "2", ["1", "2"], "d" * 64, [], ["n1"], False, ModelInvalid("cut off"))


def test_who_has_a_model_ready_is_asked_of_every_node() -> None:
    nodes = [node("n1", models=[MODEL]), node("n2", models=[BROKEN]), node("n3"), silent("n4")]
    ready, problems = readiness(MODEL, nodes)
    assert (ready, list(problems)) == (["n1"], ["n2"])
    row = model_row(MODEL, nodes)
    assert str(row["ready on"]) == "n1, n2: MODEL_INVALID"
    assert row["other versions"] == "1"
    assert str(model_row(MODEL, [node("n3")])["ready on"]) == "loading"
    assert models_table([], nodes) == "no model is deployed yet: mcpctl deploy NAME MODEL.onnx"


def test_the_json_has_no_number_that_nobody_told() -> None:
    found = cluster(node("n1", role="leader", models=[MODEL]), silent("n2"))
    said = cluster_json(found, None)
    assert said["nodes"][1].keys() == {"node", "address", "reachable", "error"}
    assert said["models"][0].keys() == {
        *("name", "version", "versions", "digest", "aliases", "holders"),
        *("ready_on", "problems", "inference"),
    }
    assert "details" not in said["nodes"][0]


def test_the_leader_tells_of_dead_voters_what_was_done_and_what_was_not() -> None:
    steps = [{"action": "remove", "node": "n3", "dead": "n3", "index": 7, "at_s": 1_700_000_000.0}, {}]
    leads = node("n1", role="leader", replacing={"waits_for": "n2 dead for 60 s or longer", "steps": steps})
    other = node("n2", replacing={"waits_for": "by somebody who does not lead"})
    with io.StringIO() as out:
        Console(file=out, width=100).print(*cluster_parts(cluster(leads, other)))
        told = out.getvalue()
    assert "not replaced: n2 dead for 60 s or longer" in told
    assert "n3 was dead: remove n3 by n1, 2023-11-1" in told
    assert "by somebody" not in told
    assert "?" in told, "a step of which a node says nothing more"


def test_a_leader_of_before_is_listened_to_as_well() -> None:
    step = {"action": "remove", "node": "n3", "dead": "n3", "index": 7, "at_s": 1_700_000_000.0}
    led = node("n2", replacing={"steps": [step]})
    (told,) = replacing_told(cluster(node("n1", role="leader"), led))
    assert told.startswith("n3 was dead: remove n3 by n2, ")


def test_what_is_wrong_with_several_nodes_is_said_once() -> None:
    full = node("n4", storage="full")
    assert list(problems_told([silent("n1"), full, silent("n2"), node("n3")])) == [
        f"n1, n2: {silent('n1').problem}".replace(silent("n1").address, "its address"),
        "n4: storage full",
    ]
    assert list(problems_told([silent("n1")])) == [f"n1: {silent('n1').problem}"]


def test_whoever_has_left_holds_nothing_any_more() -> None:
    model = replace(MODEL, holders=["n1", "n2", "n3"])
    assert holders(model, [replace(node("n1"), voters=["n1"], observers=["n3"]), silent("n2")]) == [
        "n1",
        "n3",
    ]
    assert holders(model, [silent("n1")]) == ["n1", "n2", "n3"], "nobody has said who belongs to it"


def test_nodes_have_the_standing_that_the_members_list_gives_them() -> None:
    def standing(role: str, said: str) -> str:
        seen = SeenNode("n1", "a:1", "dead", 1.0, {"standing": said}, {}, role)
        return str(_row(seen)["standing"])

    assert standing("none", "voter") == "none", "it was replaced, and has not heard of it"
    assert standing("voter", "voter") == "voter"
    assert standing("", "outsider") == "none"
    assert standing("", "observer") == "observer"


def test_nodes_count_the_models_that_their_cards_have_no_room_for() -> None:
    def models(card: dict[str, Any]) -> str:
        return str(_row(SeenNode("n1", "a:1", "alive", 1.0, card, {}, "voter"))["models"])

    assert models({"models": {"a@1": 3, "b@1": 4}}) == "2"
    assert models({"models": {"a@1": 3, "b@1": 4}, "models_left_out": 814}) == "816"
    assert models({"models": {"a@1": 3}, "models_left_out": "many"}) == "1"
    assert models({}) == ""
