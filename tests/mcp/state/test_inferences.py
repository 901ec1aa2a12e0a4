"""Inferences: assigned, fenced, reassigned, compared; one result each."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from mcp.errors import InvalidArgument
from mcp.state import events
from mcp.state.applied import Applied
from mcp.state.commands import Moment, encode_command
from mcp.state.limits import StateLimits
from mcp.state.records import TRANSITIONS, InvalidTransition, Status, Trigger
from mcp.state.state import ReplicatedState
from mcp.wire.tensors import pack_inline

A, B = "a" * 64, "b" * 64


def tensors(*numbers: float) -> list[dict[str, Any]]:
    return [pack_inline("x", np.array(numbers, np.float32))]


def result(*numbers: float) -> dict[str, Any]:
    return {"outputs": tensors(*numbers)}


def error(code: str) -> dict[str, Any]:
    return {"error": {"code": code, "message": f"it was {code}"}}


class Feed:
    """Applies nodes' commands at consecutive positions."""

    def __init__(self, **limits: Any) -> None:
        self.state = ReplicatedState(StateLimits(**limits))
        self.index = 0

    def __call__(self, op: str, **args: Any) -> Applied:
        self.index += 1
        data = encode_command(op, args)
        return self.state.apply(data, index=self.index, position=0, term=1, time_s=self.index, seed=0)

    def hello(self, node: str, incarnation: int = 1) -> Applied:
        return self("member.hello", node=node, address="h:1", incarnation=incarnation, providers=[])

    def down(self, node: str, incarnation: int = 1) -> Applied:
        return self("member.down", node=node, incarnation=incarnation)

    def deploy(self, name: str = "m", digest: str = A, holders: tuple[str, ...] = ("a", "b", "c")) -> Applied:
        manifest = {"name": name, "digest": digest, "size": 3}
        return self("model.deploy", manifest=manifest, holders=list(holders))

    def submit(self, id_: str = "i", mode: str = "durable", hint: str = "m", **more: Any) -> Applied:
        args = {"inputs": tensors(1), "trace_id": "t", **more}
        return self("inference.submit", id=id_, model_hint=hint, mode=mode, **args)

    def complete(self, id_: str, node: str | None, token: int, outcome: dict[str, Any]) -> Applied:
        return self("inference.complete", id=id_, node=node, token=token, outcome=outcome)

    def report(self, id_: str, node: str, outcome: dict[str, Any]) -> Applied:
        return self("inference.report", id=id_, node=node, outcome=outcome)

    def record(self, id_: str = "i") -> dict[str, Any]:
        record: dict[str, Any] = self.state.read("inference", {"id": id_})
        return record


def cluster(*nodes: str, **limits: Any) -> Feed:
    feed = Feed(**limits)
    for node in nodes:
        feed.hello(node)
    feed.deploy()
    return feed


def code(applied: Applied) -> str | None:
    return applied.error[0] if applied.error else None


# -- durable ----------------------------------------------------------------------------------------


def test_a_durable_inference_is_assigned_and_completed() -> None:
    feed = cluster("a")
    taken = feed.submit()
    assert taken.value == {
        "id": "i",
        "status": "assigned",
        "model": "m",
        "version": "1",
        "digest": A,
        "assignee": "a",
        "token": 1,
    }
    assert taken.events == (events.InferenceAssigned("i", "a", 1),)
    record = feed.state.inferences.get("i")
    assert record is not None
    assert record.inputs == tensors(1)
    done = feed.complete("i", "a", 1, result(2))
    assert (done.value, done.events) == ({}, (events.InferenceFinished("i", "done"),))
    assert feed.record() == {
        "id": "i",
        "status": "done",
        "mode": "durable",
        "model": "m",
        "version": "1",
        "digest": A,
        "node": "a",
        "token": 1,
        "attempts": 1,
        "outputs": tensors(2),
        "blob": None,
        "error": None,
        "replicas": {},
        "owing": [],
        "trace_id": "t",
        "submitted_s": 3,
        "finished_s": 4,
        "index": 3,
    }


def test_the_least_loaded_live_holder_is_chosen() -> None:
    feed = cluster("a", "b", "d")
    chosen = [feed.submit(f"i{n}").value["assignee"] for n in range(20)]
    assert {"a", "b"} == set(chosen), "c is not a member, d does not hold the model"
    for pair in range(0, 20, 2):
        assert set(chosen[pair : pair + 2]) == {"a", "b"}, "equally loaded before every pair"
    assert len({tuple(chosen[pair : pair + 2]) for pair in range(0, 20, 2)}) == 2, (
        "ties are not always one node's"
    )


def test_the_version_is_picked_at_submission() -> None:
    feed = cluster("a")
    feed.submit("first")
    feed.deploy(digest=B)
    assert feed.submit("first").value["version"] == "1", "the same content again is the same inference"
    assert feed.submit("second").value["version"] == "2"
    assert feed.submit("third", hint="m@1").value["digest"] == A


def test_an_id_is_taken_once() -> None:
    feed = cluster("a")
    feed.submit()
    before = feed.state.inferences.to_plain()
    assert feed.submit(trace_id="other").value["token"] == 1
    assert code(feed.submit(inputs=tensors(9))) == "INVALID_ARGUMENT"
    assert code(feed.submit(mode="replicated")) == "INVALID_ARGUMENT"
    feed.complete("i", "a", 1, result(2))
    assert feed.submit().value["status"] == "done"
    assert before != feed.state.inferences.to_plain()
    assert feed.state.inferences.done == 1


def test_completing_twice_changes_nothing() -> None:
    feed = cluster("a")
    feed.submit()
    feed.complete("i", "a", 1, result(2))
    before = feed.record()
    again = feed.complete("i", "a", 1, result(2))
    assert (again.value, again.error, again.events) == ({}, None, ())
    assert code(feed.complete("i", "a", 1, result(3))) == "FENCED"
    assert feed.record() == before


def test_a_member_that_goes_down_loses_what_it_was_to_run() -> None:
    feed = cluster("a", "b")
    first = feed.submit("i1").value["assignee"]
    feed.submit("i2")
    other = {"a": "b", "b": "a"}[first]
    gone = feed.down(first)
    assert gone.events == (events.MemberDown(first, 1), events.InferenceAssigned("i1", other, 3))
    late = feed.complete("i1", first, 1, result(1))
    assert code(late) == "FENCED"
    assert late.error is not None
    assert late.error[2] == {"token": 3, "status": "assigned", "owing": [other]}
    assert code(feed.complete("i1", first, 3, result(1))) == "FENCED"
    assert code(feed.complete("i1", other, 1, result(1))) == "FENCED"
    assert code(feed.complete("i1", other, 3, result(2))) is None
    assert feed.record("i1")["outputs"] == tensors(2)
    assert feed.record("i1")["attempts"] == 2


def test_a_restarted_member_has_lost_its_work() -> None:
    feed = cluster("a")
    feed.submit()
    again = feed.hello("a", incarnation=2)
    assert again.events == (events.MemberUp("a", "h:1", 2), events.InferenceAssigned("i", "a", 2))
    assert code(feed.complete("i", "a", 1, result(1))) == "FENCED"
    assert feed.hello("a", incarnation=2).events == ()
    assert code(feed.down("a", incarnation=1)) == "FENCED"
    assert feed.record()["token"] == 2


def test_waiting_for_a_holder() -> None:
    feed = Feed()
    feed.deploy(holders=())
    taken = feed.submit()
    assert (taken.value["status"], taken.value["assignee"], taken.events) == ("waiting", None, ())
    feed.submit("j")
    assert feed.state.inferences.waiting == 2
    feed.hello("a")
    assert feed.state.inferences.waiting == 2
    held = feed("model.holder", digest=A, node="a")
    assert held.events == (
        events.HolderChanged(A, "a", held=True),
        events.InferenceAssigned("i", "a", 1),
        events.InferenceAssigned("j", "a", 2),
    )
    feed.down("a")
    assert feed.record()["status"] == "waiting"
    assert code(feed.complete("i", "a", 1, result(1))) == "FENCED"
    back = feed.hello("a")
    assert back.events[1:] == (events.InferenceAssigned("i", "a", 3), events.InferenceAssigned("j", "a", 4))


def test_undeploying_fails_what_waits_and_leaves_what_runs() -> None:
    feed = cluster("a")
    feed.submit("runs")
    feed.deploy("n", B, holders=())
    feed.submit("waits", hint="n")
    gone = feed("model.undeploy", name="n", version=None)
    assert gone.events[-1] == events.InferenceFinished("waits", "failed")
    assert feed.record("waits")["error"]["code"] == "MODEL_NOT_FOUND"
    feed("model.undeploy", name="m", version=None)
    assert feed.record("runs")["status"] == "assigned"
    assert feed.down("a").events[-1] == events.InferenceFinished("runs", "failed")
    assert feed.record("runs")["error"]["code"] == "MODEL_NOT_FOUND"


def test_an_error_that_others_would_give_too_is_final() -> None:
    feed = cluster("a", "b")
    node = feed.submit().value["assignee"]
    failed = feed.complete("i", node, 1, error("INPUT_INVALID"))
    assert failed.events == (events.InferenceFinished("i", "failed"),)
    expected = {"code": "INPUT_INVALID", "message": "it was INPUT_INVALID", "details": {}}
    assert (feed.record()["error"], feed.record()["node"]) == (expected, node)
    assert code(feed.complete("i", node, 1, error("INPUT_INVALID"))) is None


def test_another_error_is_tried_elsewhere_and_not_for_ever() -> None:
    feed = cluster("a", "b", attempts_max=3)
    nodes = [feed.submit().value["assignee"]]
    for token in (1, 2, 3):
        last = feed.complete("i", nodes[-1], token, error("UNAVAILABLE"))
        nodes.append(feed.record()["node"])
    assert nodes[1] != nodes[0]
    assert nodes[2] == nodes[0]
    assert last.events == (events.InferenceFinished("i", "failed"),)
    failure = feed.record()["error"]
    assert (failure["code"], failure["details"]) == ("INFERENCE_FAILED", {"attempts": 3})
    assert "it was UNAVAILABLE" in failure["message"]


def test_reassigning_needs_the_current_token() -> None:
    feed = cluster("a", "b")
    first = feed.submit().value["assignee"]
    moved = feed("inference.reassign", id="i", token=1, reason="slow")
    assert moved.events[0] != events.InferenceAssigned("i", first, 2)
    assert code(feed("inference.reassign", id="i", token=1, reason="slow")) == "FENCED"
    feed.complete("i", feed.record()["node"], 2, result(1))
    assert code(feed("inference.reassign", id="i", token=2, reason="slow")) == "FENCED"


def test_a_large_result_is_named_by_its_digest() -> None:
    feed = cluster("a")
    feed.submit()
    blob = {"digest": B, "size": 10**6, "node": "a"}
    feed.complete("i", "a", 1, blob)
    assert (feed.record()["outputs"], feed.record()["blob"]) == (None, blob)


def test_a_long_account_of_an_error_is_cut() -> None:
    feed = cluster("a")
    feed.submit()
    outcome = {"error": {"code": "MODEL_INVALID", "message": "x" * 10**5, "details": {"y": "z" * 10**4}}}
    assert code(feed.complete("i", "a", 1, outcome)) is None
    assert len(feed.record()["error"]["message"]) == 4096
    assert feed.record()["error"]["details"] == {}


# -- replicated -------------------------------------------------------------------------------------


def test_replicas_are_compared_with_the_first() -> None:
    feed = cluster("a", "b", "c")
    asked = feed.submit(mode="replicated")
    assert (asked.value["status"], asked.value["assignee"]) == ("assigned", None)
    assert asked.events == (events.ReplicatedRequested("i", ("a", "b", "c")),)
    assert feed.report("i", "b", result(1)).events == ()
    assert feed.report("i", "a", result(1.00001)).events == ()
    assert feed.report("i", "b", result(5)).events == (), "a second report of one node changes nothing"
    last = feed.report("i", "c", result(3))
    assert last.events == (events.ReplicaDiverged("i", "c", 2.0), events.InferenceFinished("i", "done"))
    record = feed.record()
    assert (record["node"], record["outputs"]) == ("b", tensors(1))
    assert record["replicas"] == {
        "b": {"equal": True, "max_abs_diff": 0.0},
        "a": {"equal": True, "max_abs_diff": pytest.approx(1e-5, rel=0.1)},
        "c": {"equal": False, "max_abs_diff": 2.0},
    }
    assert feed.state.inferences.diverged == 1
    assert feed.report("i", "a", result(9)).error is None
    assert code(feed.report("i", "d", result(9))) == "FENCED"


def test_a_replica_that_goes_down_is_not_waited_for() -> None:
    feed = cluster("a", "b", "c")
    feed.submit(mode="replicated")
    feed.report("i", "a", result(1))
    assert feed.down("b").events == (events.MemberDown("b", 1),)
    assert code(feed.report("i", "b", result(1))) == "FENCED"
    feed.hello("b")
    assert feed.down("c").events[-1] == events.InferenceFinished("i", "done")
    assert list(feed.record()["replicas"]) == ["a"]


def test_when_every_replica_is_lost_those_that_live_are_asked_again() -> None:
    feed = cluster("a", "b")
    feed.submit(mode="replicated")
    feed.down("a")
    assert feed.hello("b", 2).events[-1] == events.ReplicatedRequested("i", ("b",))
    assert feed.record()["attempts"] == 2
    feed.down("b", 2)
    assert feed.record()["status"] == "waiting"
    assert feed.hello("a").events[-1] == events.ReplicatedRequested("i", ("a",))


def test_a_result_is_a_better_reference_than_an_error() -> None:
    feed = cluster("a", "b", "c")
    feed.submit(mode="replicated")
    feed.report("i", "a", error("INFERENCE_FAILED"))
    assert feed.report("i", "b", result(1)).events == (events.ReplicaDiverged("i", "a", None),)
    feed.report("i", "c", result(1))
    record = feed.record()
    assert (record["status"], record["node"], record["outputs"]) == ("done", "b", tensors(1))
    assert record["replicas"]["a"] == {"equal": False, "max_abs_diff": None}


def test_replicas_that_all_fail() -> None:
    feed = cluster("a", "b")
    feed.submit(mode="replicated")
    feed.report("i", "b", error("INPUT_INVALID"))
    assert feed.report("i", "a", error("INPUT_INVALID")).events == (events.InferenceFinished("i", "failed"),)
    record = feed.record()
    assert (record["status"], record["error"]["code"]) == ("failed", "INPUT_INVALID")
    assert [replica["equal"] for replica in record["replicas"].values()] == [True, True]


def test_each_mode_has_its_own_way_to_end() -> None:
    feed = cluster("a")
    feed.submit("d")
    feed.submit("r", "replicated")
    assert code(feed.report("d", "a", result(1))) == "INVALID_ARGUMENT"
    assert code(feed.complete("r", "a", 2, result(1))) == "INVALID_ARGUMENT"
    assert code(feed("inference.reassign", id="r", token=2, reason="")) == "INVALID_ARGUMENT"
    assert code(feed.complete("x", "a", 2, result(1))) == "NOT_FOUND"
    assert [r.id for r in feed.state.inferences.assigned_to("a")] == ["d"]
    assert [r.id for r in feed.state.inferences.expected_of("a")] == ["r"]


# -- bounds and arguments ---------------------------------------------------------------------------


def test_what_is_not_finished_is_bounded() -> None:
    feed = cluster("a", inferences_max=2)
    assert [code(feed.submit(f"i{n}")) for n in range(3)] == [None, None, "BUSY"]
    feed.complete("i0", "a", 1, result(1))
    assert code(feed.submit("i2")) is None
    small = cluster("a", inferences_bytes_max=60)
    assert [code(small.submit(f"i{n}")) for n in range(2)] == [None, "BUSY"]


def test_what_is_finished_is_bounded() -> None:
    feed = cluster("a", finished_max=2)
    for n in range(3):
        feed.submit(f"i{n}")
    for n in (1, 0, 2):
        feed.complete(f"i{n}", "a", n + 1, result(1))
    assert [feed.state.read("inference", {"id": f"i{n}"}) is None for n in range(3)] == [False, True, False]
    heavy = cluster("a", finished_bytes_max=600)
    for n in range(6):
        heavy.submit(f"i{n}")
        heavy.complete(f"i{n}", "a", n + 1, result(*range(50)))
    kept = [n for n in range(6) if heavy.state.read("inference", {"id": f"i{n}"})]
    assert kept == [4, 5]


@pytest.mark.parametrize(
    ("bad", "expected"),
    [
        ({"id_": "a b"}, "INVALID_ARGUMENT"),
        ({"id_": ""}, "INVALID_ARGUMENT"),
        ({"mode": "direct"}, "INVALID_ARGUMENT"),
        ({"mode": None}, "INVALID_ARGUMENT"),
        ({"hint": "x"}, "MODEL_NOT_FOUND"),
        ({"hint": 3}, "INVALID_ARGUMENT"),
        ({"trace_id": 3}, "INVALID_ARGUMENT"),
        ({"inputs": {}}, "INVALID_ARGUMENT"),
        ({"inputs": [[]]}, "INVALID_ARGUMENT"),
        ({"inputs": [{**tensors(1)[0], "segment": 0}]}, "INVALID_ARGUMENT"),
        ({"inputs": [{**tensors(1)[0], "data": "text"}]}, "INVALID_ARGUMENT"),
        ({"inputs": [{**tensors(1)[0], "data": b"123"}]}, "INPUT_INVALID"),
        ({"inputs": [{**tensors(1)[0], "dtype": "FLOAT"}]}, "INPUT_INVALID"),
        ({"inputs": [{**tensors(1)[0], "shape": [-1]}]}, "INPUT_INVALID"),
        ({"inputs": tensors(1) * 2}, "INPUT_INVALID"),
        ({"inputs": tensors(*[0] * 16384)}, None),
        ({"inputs": tensors(*[0] * 16385)}, "TOO_LARGE"),
        ({"more": 1}, "INVALID_ARGUMENT"),
    ],
)
def test_what_is_submitted_is_checked(bad: dict[str, Any], expected: str | None) -> None:
    feed = cluster("a")
    assert code(feed.submit(**bad)) == expected
    assert (len(feed.state.inferences) == 0) is (expected is not None)


@pytest.mark.parametrize(
    ("outcome", "expected"),
    [
        ({}, "INVALID_ARGUMENT"),
        ({"outputs": tensors(1), "error": {}}, "INVALID_ARGUMENT"),
        ({"outputs": tensors(*[0] * 16385)}, "TOO_LARGE"),
        ({"outputs": None}, "INVALID_ARGUMENT"),
        ({"error": {"code": "X"}}, "INVALID_ARGUMENT"),
        ({"error": {"code": 1, "message": "m"}}, "INVALID_ARGUMENT"),
        ({"error": {"code": "X", "message": b"m"}}, "INVALID_ARGUMENT"),
        ({"digest": A, "size": 1}, "INVALID_ARGUMENT"),
        ({"digest": "a", "size": 1, "node": "a"}, "INVALID_ARGUMENT"),
        (None, "INVALID_ARGUMENT"),
    ],
)
def test_an_outcome_is_checked(outcome: Any, expected: str) -> None:
    feed = cluster("a")
    feed.submit("d")
    feed.submit("r", "replicated")
    assert code(feed.complete("d", "a", 1, outcome)) == expected
    assert code(feed.report("r", "a", outcome)) == expected
    assert [feed.record(i)["status"] for i in "dr"] == ["assigned", "assigned"]


def test_reading_needs_an_id() -> None:
    feed = Feed()
    assert feed.state.read("inference", {"id": "unknown"}) is None
    with pytest.raises(InvalidArgument):
        feed.state.read("inference", {})


# -- the table --------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", Status)
@pytest.mark.parametrize("trigger", Trigger)
def test_a_transition_that_is_not_in_the_table_tells_its_story(status: Status, trigger: Trigger) -> None:
    feed = cluster("a")
    feed.submit()
    if status is Status.WAITING:
        feed.down("a")
    elif status is not Status.ASSIGNED:
        feed.complete("i", "a", 1, result(1) if status is Status.DONE else error("TOO_LARGE"))
    record = feed.state.inferences.get("i")
    assert record is not None
    assert record.status is status
    moment = Moment(99, 0, 99.0, "")
    if (status, trigger) in TRANSITIONS:
        assert record.moved(trigger, moment, "a", {}).status is TRANSITIONS[status, trigger]
    else:
        with pytest.raises(
            InvalidTransition, match=f"inference i is {status} and cannot {trigger}.*at 3 assign a"
        ):
            record.moved(trigger, moment, "a", {})


def test_final_states_are_final() -> None:
    assert not [status for status, _ in TRANSITIONS if status in (Status.DONE, Status.FAILED)]


# -- any order of events ----------------------------------------------------------------------------

NODES = ("a", "b", "c")
IDS = ("i", "j", "k", "l")
OUTCOMES = st.sampled_from([result(1), result(2), error("INPUT_INVALID"), error("BUSY")])


class Fencing(RuleBasedStateMachine):
    """Nodes come, go and answer with any token; who may answer is tracked from the events alone."""

    @initialize()
    def start(self) -> None:
        self.feed = cluster("a", "b", attempts_max=4)
        self.incarnation = {"a": 1, "b": 1, "c": 0}
        self.current: dict[str, tuple[str, int]] = {}
        self.asked: dict[str, set[str]] = {}
        self.finished: dict[str, Any] = {}
        self.tokens = [0]

    def follow(self, applied: Applied) -> Applied:
        for event in applied.events:
            if isinstance(event, events.InferenceAssigned):
                assert event.token > self.tokens[-1], "tokens only grow"
                self.tokens.append(event.token)
                self.current[event.id] = (event.node, event.token)
            elif isinstance(event, events.ReplicatedRequested):
                self.asked[event.id] = set(event.nodes)
            elif isinstance(event, events.InferenceFinished):
                assert event.id not in self.finished
                self.finished[event.id] = self.feed.record(event.id)
        for inference, (node, token) in list(self.current.items()):
            if not self.feed.state.inferences.owes(node, inference, token):
                del self.current[inference]
        return applied

    @rule(node=st.sampled_from(NODES), newer=st.booleans())
    def hello(self, node: str, newer: bool) -> None:
        self.incarnation[node] += newer
        self.follow(self.feed.hello(node, self.incarnation[node]))

    @rule(node=st.sampled_from(NODES))
    def down(self, node: str) -> None:
        self.follow(self.feed.down(node, self.incarnation[node]))

    @rule(node=st.sampled_from(NODES), held=st.booleans())
    def hold(self, node: str, held: bool) -> None:
        self.follow(self.feed("model.holder", digest=A, node=node, held=held))

    @rule(id_=st.sampled_from(IDS))
    def submit(self, id_: str) -> None:
        self.follow(self.feed.submit(id_, "durable" if id_ in "ij" else "replicated"))

    @rule(id_=st.sampled_from(["i", "j"]), node=st.sampled_from(NODES), outcome=OUTCOMES, data=st.data())
    def complete(self, id_: str, node: str, outcome: dict[str, Any], data: st.DataObject) -> None:
        right = self.current.get(id_)
        if right and data.draw(st.booleans()):
            node, token = right
        else:
            token = data.draw(st.sampled_from(self.tokens[-4:]))
        known = self.finished.get(id_)
        got = code(self.follow(self.feed.complete(id_, node, token, outcome)))
        if self.feed.state.inferences.get(id_) is None:
            assert got == "NOT_FOUND"
        elif right == (node, token):
            assert got is None
        elif known and (known["node"], known["token"]) == (node, token):
            assert got in (None, "FENCED")
        else:
            assert got == "FENCED"

    @rule(id_=st.sampled_from(["i", "j"]), data=st.data())
    def reassign(self, id_: str, data: st.DataObject) -> None:
        token = data.draw(st.sampled_from(self.tokens[-4:]))
        right = self.current.get(id_)
        got = code(self.follow(self.feed("inference.reassign", id=id_, token=token, reason="slow")))
        assert (got is None) is (right is not None and right[1] == token)

    @rule(id_=st.sampled_from(["k", "l"]), node=st.sampled_from(NODES), outcome=OUTCOMES)
    def report(self, id_: str, node: str, outcome: dict[str, Any]) -> None:
        record = self.feed.state.inferences.get(id_)
        owed = record is not None and node in record.owing
        known = record is not None and node in {report.node for report in record.reports}
        got = code(self.follow(self.feed.report(id_, node, outcome)))
        assert got == ("NOT_FOUND" if record is None else None if owed or known else "FENCED")
        if owed:
            assert node in self.asked[id_]

    @invariant()
    def results_are_recorded_once(self) -> None:
        for inference, record in self.finished.items():
            assert self.feed.record(inference) == record

    @invariant()
    def everything_is_where_it_should_be(self) -> None:
        state = self.feed.state
        version = state.models.get("m")
        assert version is not None
        live = [node for node in version.holders if state.members.is_up(node)]
        owed: dict[str, list[tuple[int, str]]] = {node: [] for node in NODES}
        for inference in IDS:
            record = state.inferences.get(inference)
            if record is None:
                continue
            assert record.attempts <= 4
            assert all(state.members.is_up(node) for node in record.owing)
            assert bool(record.owing) is (record.status is Status.ASSIGNED)
            if record.status is Status.WAITING:
                assert live == []
            for node in record.owing:
                owed[node].append((record.token, record.id))
        for node in NODES:
            assert [(r.token, r.id) for r in state.inferences.owed_by(node)] == sorted(owed[node])

    @invariant()
    def restoring_changes_nothing(self) -> None:
        other = ReplicatedState()
        other.restore(self.feed.state.snapshot())
        assert other.snapshot() == self.feed.state.snapshot()
        for node in NODES:
            assert other.inferences.owed_by(node) == self.feed.state.inferences.owed_by(node)


Fencing.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestFencing = Fencing.TestCase
