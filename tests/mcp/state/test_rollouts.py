"""Rollouts in the replicated state: steps and weights together, never twice, never without ground."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcp.cluster.router.hashing import WeightedChoice, digest
from mcp.cluster.router.routes import RouteSet
from mcp.errors import InvalidArgument, TooLarge
from mcp.node.ledger import LimitLedger
from mcp.state import rollouts
from mcp.state.applied import Applied
from mcp.state.commands import SCHEMA_MAX, encode_command
from mcp.state.rollouts import STEPS_MAX, read_plan
from mcp.state.state import ReplicatedState

SESSION = "s" * 32
PLAN = {
    "steps": [5, 20, 100],
    "max_error": 0.01,
    "max_p99_ratio": 1.5,
    "interval_s": 30.0,
    "min_requests": 50,
}


def new_state() -> ReplicatedState:
    return ReplicatedState(make_ledger=LimitLedger)


class Feed:
    """A log with one state behind it, whose schema is the newest; the model "m" has the versions 1 to 3."""

    def __init__(self, schema: int = SCHEMA_MAX, versions: str = "123") -> None:
        self.state = new_state()
        self.index = self.seq = 0
        said = {"address": "n1", "incarnation": 1, "providers": [], "schema": SCHEMA_MAX}
        self.node("member.hello", node="n1", **said)
        for following in range(2, schema + 1):
            self.node("schema.raise", schema=following, voters=["n1"])
        self.add(encode_command("session.open", {}, session=SESSION))
        for version in versions:
            self.deploy("m", version, activate=version == "1")

    def add(self, data: bytes) -> Applied:
        self.index += 1
        return self.state.apply(data, index=self.index, position=0, term=1, time_s=float(self.index), seed=0)

    def node(self, op: str, **args: Any) -> Applied:
        return self.add(encode_command(op, args))

    def __call__(self, op: str, **args: Any) -> Applied:
        self.seq += 1
        return self.add(encode_command(op, args, session=SESSION, seq=self.seq, ack=self.seq))

    def deploy(self, name: str, version: str, *, activate: bool) -> Applied:
        spec = [{"name": "x", "dtype": "FP32", "shape": [1]}]
        manifest = {"name": name, "version": version, "digest": version * 64, "size": 1}
        manifest |= {"inputs": spec, "outputs": spec}
        return self.node("model.deploy", manifest=manifest, holders=["n1"], activate=activate)

    def begin(self, to: str = "2", **more: Any) -> Applied:
        return self("rollout.begin", model="m", to=to, plan=PLAN, **more)

    def on(self, op: str, **more: Any) -> Applied:
        return self.node(f"rollout.{op}", model="m", expected_version=self.version, **more)

    @property
    def rollout(self) -> dict[str, Any]:
        (found,) = self.state.read("rollouts", {})
        return dict(found)

    @property
    def version(self) -> int:
        return int(self.rollout["version"])

    @property
    def active(self) -> str:
        return self.state.models.resolve("m").version

    @property
    def weights(self) -> dict[str, int] | None:
        routes = RouteSet.from_plain({"version": 0, "routes": self.state.traffic.routes})
        route = routes.get("m")
        if route is None:
            return None
        return {str(each.version): each.weight for each in route.entries[0].destinations}


def code(applied: Applied) -> str | None:
    return applied.error[0] if applied.error else None


# -- the way of a rollout -----------------------------------------------------------------------------------


def test_steps_and_weights_change_together_up_to_the_end() -> None:
    feed = Feed()
    begun = feed.begin()
    assert begun.value == feed.rollout
    assert begun.value == {
        "model": "m",
        "from": "1",
        "to": "2",
        "plan": PLAN,
        "step": 0,
        "percent": 2.5,
        "state": "going",
        "version": 1,
        "index": feed.index,
        "since_s": float(feed.index),
        "begun": feed.index,
        "reason": "",
    }
    # The trial has half of the first share.
    assert feed.weights == {"1": 9750, "2": 250}
    for step, percent in enumerate(PLAN["steps"], 1):  # type: ignore[arg-type, var-annotated]
        assert feed.on("advance").error is None
        assert (feed.rollout["step"], feed.rollout["index"]) == (step, feed.index)
        assert feed.weights == {"1": 10_000 - 100 * percent, "2": 100 * percent}
        assert feed.state.traffic.routes_index == feed.index
    assert code(feed.on("advance")) == "INVALID_ARGUMENT"
    assert feed.active == "1"
    finished = feed.on("finish")
    assert [type(event).__name__ for event in finished.events] == ["ModelActivated"]
    assert (feed.rollout["state"], feed.active, feed.weights) == ("done", "2", None)


def test_what_is_rolled_back_or_aborted_is_as_before() -> None:
    for op, args, state in (
        ("roll_back", {"reason": "3 of 15 failed"}, "rolled back"),
        ("abort", {"reason": "tea"}, "aborted"),
    ):
        feed = Feed()
        feed.begin()
        feed.on("advance")
        if op == "abort":
            assert feed("rollout.abort", model="m", **args).error is None
        else:
            feed.on(op, **args)
        assert (feed.rollout["state"], feed.rollout["reason"]) == (state, args["reason"])
        assert (feed.active, feed.weights, feed.rollout["percent"]) == ("1", None, 0.0)
        # An ended one is not brought back, and another may begin.
        for again in ("advance", "finish"):
            assert code(feed.on(again)) == "VERSION_CONFLICT"
        assert code(feed("rollout.abort", model="m")) == "VERSION_CONFLICT"
        assert feed.begin("3", expected_version=feed.version).error is None
        assert feed.rollout["to"] == "3"


def test_two_who_drive_do_not_do_a_step_twice() -> None:
    feed = Feed()
    feed.begin()
    seen = feed.version
    assert feed.node("rollout.advance", model="m", expected_version=seen).error is None
    for op, args in (("advance", {}), ("finish", {}), ("roll_back", {"reason": ""})):
        lost = feed.node(f"rollout.{op}", model="m", expected_version=seen, **args)
        assert code(lost) == "VERSION_CONFLICT"
    assert (feed.rollout["step"], feed.version) == (1, seen + 1)
    # Nor is what was decided about one rollout done to the next one of the model.
    feed("rollout.abort", model="m")
    feed.begin()
    assert feed.rollout["step"] == 0
    assert code(feed.node("rollout.advance", model="m", expected_version=seen)) == "VERSION_CONFLICT"


def test_growing_weights_move_sessions_one_way() -> None:
    feed = Feed()
    feed.begin()
    sessions = [digest(f"user-{n}") for n in range(2000)]
    moved: set[int] = set()
    for step in range(4):
        weights = feed.weights
        assert weights is not None
        choice = WeightedChoice([(f"m@{version}", weight) for version, weight in weights.items()])
        there = {key for key in sessions if choice.place(key) == 1}
        assert there >= moved
        assert abs(len(there) / 2000 - weights["2"] / 10_000) < 0.03
        moved = there
        if step < 3:
            feed.on("advance")
    assert len(moved) == 2000


# -- refusals -----------------------------------------------------------------------------------------------


def test_what_cannot_begin_is_refused_and_changes_nothing() -> None:
    feed = Feed()
    before = feed.state.digest()
    assert code(feed("rollout.begin", model="nobody", to="2", plan=PLAN)) == "MODEL_NOT_FOUND"
    assert code(feed.begin("9")) == "MODEL_NOT_FOUND"
    assert code(feed.begin("1")) == "INVALID_ARGUMENT"
    assert code(feed.begin(expected_version=1)) == "VERSION_CONFLICT"
    assert code(feed("rollout.abort", model="m")) == "NOT_FOUND"
    assert code(feed.node("rollout.advance", model="m", expected_version=0)) == "NOT_FOUND"
    assert feed.state.rollouts.to_plain() == [0, []]
    assert feed.state.digest() != before  # the session's bookkeeping, and no more
    destinations = [{"model": "m", "version": "1", "weight": 1}]
    feed("routes.apply", routes=[{"host": "m", "entries": [{"destinations": destinations}]}])
    refused = feed.begin()
    assert code(refused) == "VERSION_CONFLICT"
    assert refused.error is not None
    assert "has a route, which a rollout would replace" in refused.error[1]
    feed("routes.remove", hosts=["m"])
    assert feed.begin(expected_version=0).error is None
    assert code(feed.begin("3")) == "VERSION_CONFLICT"


def test_the_route_of_a_rollout_is_nobody_elses() -> None:
    feed = Feed()
    feed.begin()
    weights = feed.weights
    destinations = [{"model": "m", "version": "1", "weight": 1}]
    routes = [{"host": host, "entries": [{"destinations": destinations}]} for host in ("a", "m")]
    assert code(feed("routes.apply", routes=routes)) == "VERSION_CONFLICT"
    assert code(feed("routes.remove", hosts=["a", "m"])) == "VERSION_CONFLICT"
    assert feed.weights == weights
    assert feed("routes.apply", routes=routes[:1]).error is None
    feed("rollout.abort", model="m")
    assert feed("routes.apply", routes=routes).error is None


def test_only_nodes_drive_and_only_clients_begin() -> None:
    feed = Feed()
    feed.begin()
    for op, args in (("advance", {}), ("finish", {}), ("roll_back", {"reason": ""})):
        denied = feed(f"rollout.{op}", model="m", expected_version=1, **args)
        assert code(denied) == "PERMISSION_DENIED"
    assert code(feed.node("rollout.abort", model="m")) == "INVALID_ARGUMENT"
    assert feed.version == 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": []},
        {"steps": [100, 100]},
        {"steps": [20, 5, 100]},
        {"steps": [5, 20]},
        {"steps": [0, 100]},
        {"steps": [5, 101]},
        {"steps": [2.5, 100]},
        {"steps": [True, 100]},
        {"steps": "100"},
        {"max_error": -0.1},
        {"max_error": 1.1},
        {"max_error": float("nan")},
        {"max_p99_ratio": "2"},
        {"interval_s": float("inf")},
        {"interval_s": -1},
        {"min_requests": 0},
        {"min_requests": 1.5},
        {"more": 1},
    ],
)
def test_a_plan_that_is_none_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument):
        read_plan({**PLAN, **wrong})
    assert code(Feed()("rollout.begin", model="m", to="2", plan={**PLAN, **wrong})) == "INVALID_ARGUMENT"


def test_plans_and_reasons_are_bounded() -> None:
    with pytest.raises(TooLarge):
        read_plan({**PLAN, "steps": [*range(1, STEPS_MAX + 1), 100]})
    assert read_plan({**PLAN, "steps": [*range(1, STEPS_MAX), 100]})
    with pytest.raises(InvalidArgument):
        read_plan({key: value for key, value in PLAN.items() if key != "interval_s"})
    feed = Feed()
    feed.begin()
    assert code(feed("rollout.abort", model="m", reason="x" * 1025)) == "TOO_LARGE"


def test_so_many_are_kept_and_the_one_that_ended_first_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rollouts, "ROLLOUTS_MAX", 2)
    feed = Feed()
    for name in "abc":
        for version in "12":
            feed.deploy(name, version, activate=version == "1")

    def begin(name: str) -> str | None:
        return code(feed("rollout.begin", model=name, to="2", plan=PLAN))

    assert begin("a") is None
    assert begin("b") is None
    assert begin("c") == "BUSY"
    feed("rollout.abort", model="b")
    assert begin("c") is None
    assert [each["model"] for each in feed.state.read("rollouts", {})] == ["a", "c"]


# -- models that change meanwhile ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("op", "args", "reason"),
    [
        ("model.undeploy", {"name": "m", "version": "2"}, "version 2 was undeployed"),
        ("model.undeploy", {"name": "m", "version": "1"}, "version 1 was undeployed"),
        ("model.undeploy", {"name": "m", "version": None}, "version 1 was undeployed"),
        ("model.activate", {"name": "m", "version": "3"}, "version 3 was put into service"),
        ("model.activate", {"name": "m", "version": "2"}, "version 2 was put into service"),
    ],
)
def test_a_rollout_without_ground_ends_in_the_same_command(
    op: str, args: dict[str, Any], reason: str
) -> None:
    feed = Feed()
    feed.begin()
    assert feed(op, **args).error is None
    assert (feed.rollout["state"], feed.rollout["reason"]) == ("aborted", reason)
    assert (feed.rollout["index"], feed.weights) == (feed.index, None)
    assert feed.state.traffic.held == frozenset()


def test_other_changes_of_models_do_not_concern_it() -> None:
    feed = Feed()
    feed.begin()
    feed("model.undeploy", name="m", version="3")
    feed("model.activate", name="m", version="1")
    feed.deploy("m", "3", activate=False)
    feed.deploy("other", "1", activate=True)
    assert (feed.rollout["state"], feed.version) == ("going", 1)
    feed.deploy("m", "2", activate=True)
    assert feed.rollout["reason"] == "version 2 was put into service"


# -- snapshots and schemas ----------------------------------------------------------------------------------


def test_a_snapshot_has_it_all_and_what_is_held() -> None:
    feed = Feed()
    feed.begin()
    feed.on("advance")
    other = new_state()
    other.restore(feed.state.snapshot())
    assert other.snapshot() == feed.state.snapshot()
    assert other.read("rollouts", {}) == [feed.rollout]
    assert other.traffic.held == {"m"}
    data = encode_command("rollout.advance", {"model": "m", "expected_version": feed.version})
    for state in (feed.state, other):
        state.apply(data, index=feed.index + 1, position=0, term=1, time_s=9.0, seed=0)
    assert other.digest() == feed.state.digest()
    assert other.read("rollouts", {})[0]["step"] == 2


def test_it_needs_the_newest_schema() -> None:
    feed = Feed(schema=3)
    assert code(feed.begin()) == "UNSUPPORTED"


# -- never two states at one log position -------------------------------------------------------------------

OTHER_CHANGES = ("finish", "roll_back", "abort", "activate", "undeploy", "deploy", "remove route")
CHANGES = st.lists(
    st.tuples(
        st.sampled_from(["begin", "begin", "advance", "advance", "advance", *OTHER_CHANGES]),
        st.integers(0, 2),
        st.sampled_from("123"),
    ),
    max_size=40,
)


@settings(max_examples=150, deadline=None)
@given(CHANGES, st.integers(0, 40))
def test_a_rollout_never_has_two_states_at_one_log_position(
    changes: list[tuple[str, int, str]], restored_at: int
) -> None:
    """Whatever comes, in which order and however late: one change a position, and weights that fit."""
    feed = Feed()
    states: dict[tuple[int, int], dict[str, Any]] = {}
    for number, (what, late, version) in enumerate(changes):
        known = feed.state.rollouts.get("m")
        expected = max(0, (0 if known is None else known.version) - late)
        before = feed.state.rollouts.changes
        if number == restored_at:
            again = new_state()
            again.restore(feed.state.snapshot())
            feed.state = again
        if what == "begin":
            feed.begin(version)
        elif what in ("advance", "finish"):
            feed.node(f"rollout.{what}", model="m", expected_version=expected)
        elif what == "roll_back":
            feed.node("rollout.roll_back", model="m", expected_version=expected, reason="")
        elif what == "abort":
            feed("rollout.abort", model="m", expected_version=expected)
        elif what == "activate":
            feed("model.activate", name="m", version=version)
        elif what == "undeploy":
            feed("model.undeploy", name="m", version=version)
        elif what == "deploy":
            feed.deploy("m", version, activate=late == 0)
        else:
            feed("routes.remove", hosts=["m"])
        _check(feed, before, states)


def _check(feed: Feed, before: int, states: dict[tuple[int, int], dict[str, Any]]) -> None:
    changes = feed.state.rollouts.changes
    assert changes - before in (0, 1)
    found = feed.state.read("rollouts", {})
    if not found:
        return
    (rollout,) = found
    assert rollout["version"] == changes
    assert (rollout["index"] == feed.index) == (changes > before)
    assert states.setdefault((rollout["version"], rollout["index"]), rollout) == rollout
    assert len({version for version, _ in states}) == len(states)
    if rollout["state"] == "going":
        weight = int(rollout["percent"] * 100)
        assert feed.weights == {rollout["from"]: 10_000 - weight, rollout["to"]: weight}
        assert feed.active == rollout["from"]
    else:
        assert feed.weights is None
