"""What is declared about traffic, in the replicated state: versions, refusals, snapshots, older schemas."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp.errors import InvalidArgument, NotFound, PermissionDenied, TooLarge, VersionConflict, VersionMismatch
from mcp.node.ledger import LimitLedger
from mcp.state.applied import Applied
from mcp.state.commands import SCHEMA_MAX, encode_command, schema_of
from mcp.state.state import ReplicatedState
from mcp.state.traffic import (
    LIMITS_BYTES_MAX,
    ROUTE_BYTES_MAX,
    ROUTES_BYTES_MAX,
    ROUTES_MAX,
    RULE_BYTES_MAX,
    RULES_MAX,
    STRATEGIES_MAX,
    STRATEGY_BYTES_MAX,
)

SESSION = "s" * 32
LIMITS = {"cluster": {"all": {"amount": 100, "lease_s": 5.0, "skew_s": 1.0}}}


def new_state(schema_max: int = SCHEMA_MAX) -> ReplicatedState:
    return ReplicatedState(schema_max=schema_max, make_ledger=LimitLedger)


class Feed:
    """A log with one state behind it, whose schema is the newest."""

    def __init__(self, schema: int = SCHEMA_MAX) -> None:
        self.state = new_state()
        self.index = self.seq = 0
        self.time_s = 0.0
        said = {"address": "n1", "incarnation": 1, "providers": [], "schema": SCHEMA_MAX}
        self.node("member.hello", node="n1", **said)
        for following in range(2, schema + 1):
            self.node("schema.raise", schema=following, voters=["n1"])
        self.add(encode_command("session.open", {}, session=SESSION))

    def add(self, data: bytes) -> Applied:
        self.index += 1
        return self.state.apply(data, index=self.index, position=0, term=1, time_s=self.time_s, seed=0)

    def node(self, op: str, **args: Any) -> Applied:
        return self.add(encode_command(op, args))

    def __call__(self, op: str, **args: Any) -> Applied:
        self.seq += 1
        return self.add(encode_command(op, args, session=SESSION, seq=self.seq, ack=self.seq))

    def versions(self) -> list[int]:
        return [self.state.read(kind, {})["version"] for kind in ("rules", "routes", "limits", "strategies")]


def route(host: str, **more: Any) -> dict[str, Any]:
    return {"host": host, "entries": [{"destinations": [{"model": host, "weight": 1}]}], **more}


def code(applied: Applied) -> str | None:
    return applied.error[0] if applied.error else None


# -- changes ------------------------------------------------------------------------------------------------


def test_rules_and_limits_change_as_a_whole_and_routes_by_their_hosts() -> None:
    feed = Feed()
    assert [feed.state.read(kind, {}) for kind in ("rules", "routes", "limits")] == [
        {"version": 0, "index": 0, "rules": []},
        {"version": 0, "index": 0, "routes": []},
        {"version": 0, "index": 0, "limits": None},
    ]
    assert feed("rules.set", rules=["when length > 5 use m"]).value == {"version": 1, "index": feed.index}
    assert feed("rules.set", rules=["when length > 6 use m"]).value == {"version": 2, "index": feed.index}
    assert feed.state.read("rules", {})["rules"] == ["when length > 6 use m"]
    assert feed("routes.apply", routes=[route("b"), route("a")]).value == {"version": 1, "index": feed.index}
    at = feed.index
    assert feed("routes.apply", routes=[route("b", name="x"), route("c")]).value["version"] == 2
    assert feed.state.read("routes", {})["routes"] == [route("a"), route("b", name="x"), route("c")]
    assert feed("routes.remove", hosts=["a", "zz", "a"]).value == {
        "version": 3,
        "index": feed.index,
        "removed": ["a"],
    }
    assert feed.index > at
    assert feed.state.traffic.hosts == ["b", "c"]
    # What is not there is not removed, and that changes nothing.
    last = feed.index
    assert feed("routes.remove", hosts=["a"]).value == {"version": 3, "index": last, "removed": []}
    assert feed("limits.set", limits=LIMITS).value == {"version": 1, "index": feed.index}
    assert feed.state.read("limits", {})["limits"] == LIMITS
    assert feed("limits.set", limits=None).value["version"] == 2
    assert feed.state.read("limits", {}) == {"version": 2, "index": feed.index, "limits": None}


@pytest.mark.parametrize(
    ("op", "args"),
    [
        ("rules.set", {"rules": []}),
        ("routes.apply", {"routes": [route("m")]}),
        ("routes.remove", {"hosts": ["m"]}),
        ("limits.set", {"limits": {}}),
        ("strategy.set", {"model": "m", "strategy": "other"}),
    ],
)
def test_a_change_that_was_made_for_another_version_loses(op: str, args: dict[str, Any]) -> None:
    feed = Feed()
    feed("routes.apply", routes=[route("m")])
    feed("rules.set", rules=["when length > 5 use m"])
    feed("limits.set", limits=LIMITS)
    feed("strategy.set", model="m", strategy="some")
    before, digest = feed.versions(), feed.state.read("routes", {})
    assert before == [1, 1, 1, 1]
    for expected in (0, 2):
        lost = feed(op, **args, expected_version=expected)
        assert code(lost) == VersionConflict.code
        assert lost.error is not None
        assert f"at version 1, and {expected} was expected" in lost.error[1]
        assert lost.error[2] == {"key": op.partition(".")[0].replace("strategy", "strategies"), "version": 1}
    assert (feed.versions(), feed.state.read("routes", {})) == (before, digest)
    assert feed(op, **args, expected_version=1).value["version"] == 2


@pytest.mark.parametrize(
    ("op", "args", "refused", "what"),
    [
        ("rules.set", {}, InvalidArgument, "missing: rules"),
        ("rules.set", {"rules": "x"}, InvalidArgument, "rules is an array"),
        ("rules.set", {"rules": [1]}, InvalidArgument, "a rule is a string"),
        ("rules.set", {"rules": [""]}, InvalidArgument, "a rule has 0 bytes"),
        ("rules.set", {"rules": ["x"] * (RULES_MAX + 1)}, TooLarge, "rules has 257 items"),
        ("rules.set", {"rules": ["x" * (RULE_BYTES_MAX + 1)]}, TooLarge, "a rule has 16385 bytes"),
        ("rules.set", {"rules": ["x" * 16_000] * 10}, TooLarge, "rules has .* bytes as msgpack"),
        (
            "rules.set",
            {"rules": [], "expected_version": -1},
            InvalidArgument,
            "expected_version is an integer",
        ),
        ("routes.apply", {"routes": []}, InvalidArgument, "at least one route"),
        ("routes.apply", {"routes": [1]}, InvalidArgument, "a route is a map"),
        ("routes.apply", {"routes": [{}]}, InvalidArgument, "host of a route is a string, not None"),
        ("routes.apply", {"routes": [route("")]}, InvalidArgument, "host of a route has 0 bytes"),
        ("routes.apply", {"routes": [route("h" * 1025)]}, TooLarge, "host of a route has 1025 bytes"),
        (
            "routes.apply",
            {"routes": [route("m"), route("m")]},
            InvalidArgument,
            "two routes are for the host 'm'",
        ),
        ("routes.apply", {"routes": [route("m", x="x" * ROUTE_BYTES_MAX)]}, TooLarge, "a route has"),
        ("routes.apply", {"routes": [route("m", x=[[[[]]]] * 3)]}, None, ""),
        ("routes.remove", {"hosts": [3]}, InvalidArgument, "a host is a string"),
        ("limits.set", {"limits": 3}, InvalidArgument, "limits is a map"),
        ("limits.set", {"limits": {"x": "x" * LIMITS_BYTES_MAX}}, TooLarge, "limits has"),
        (
            "limits.set",
            {"limits": {"nonsense": 1}},
            "CONFIG_INVALID",
            "nonsense: unknown field; there are: clients",
        ),
        ("limits.set", {"limits": {"cluster": {"a": {"amount": 0}}}}, "CONFIG_INVALID", "amount=0"),
        ("strategy.set", {"model": "m"}, InvalidArgument, "missing: strategy"),
        ("strategy.set", {"model": "", "strategy": "s"}, InvalidArgument, "model is a string that matches"),
        ("strategy.set", {"model": "m", "strategy": 1}, InvalidArgument, "a strategy is a string"),
        ("strategy.set", {"model": "m", "strategy": "s" * (STRATEGY_BYTES_MAX + 1)}, TooLarge, "65 bytes"),
    ],
)
def test_what_makes_no_sense_changes_nothing(op: str, args: dict[str, Any], refused: Any, what: str) -> None:
    feed = Feed()
    feed("limits.set", limits=LIMITS)
    before, ledger = feed.versions(), feed.state.read("shares", {})
    applied = feed(op, **args)
    assert code(applied) == (None if refused is None else getattr(refused, "code", refused))
    if applied.error is not None:
        assert re.search(what, applied.error[1])
        assert (feed.versions(), feed.state.read("shares", {})) == (before, ledger)


def test_strategies_are_declared_by_their_models_and_bounded() -> None:
    feed = Feed()
    assert feed.state.read("strategies", {}) == {"version": 0, "index": 0, "strategies": {}}
    traffic = feed.state.traffic
    assert (traffic.routed, traffic.scheduled, traffic.names("m")) == (False, False, False)
    assert feed("strategy.set", model="m", strategy="some").value == {"version": 1, "index": feed.index}
    assert (traffic.routed, traffic.scheduled, traffic.names("m")) == (True, True, True)
    assert (traffic.has_route("m"), traffic.strategy("m"), traffic.strategy("n")) == (False, "some", None)
    for number in range(STRATEGIES_MAX - 1):
        feed("strategy.set", model=f"m{number}", strategy="other")
    assert code(feed("strategy.set", model="one-more", strategy="other")) == TooLarge.code
    # One that is there can be another one, and make room.
    assert feed("strategy.set", model="m", strategy="other").value["version"] == STRATEGIES_MAX + 1
    assert feed("strategy.set", model="m", strategy=None).value["version"] == STRATEGIES_MAX + 2
    assert feed("strategy.set", model="one-more", strategy="other").error is None
    assert "m" not in feed.state.read("strategies", {})["strategies"]


def test_a_deep_route_is_refused() -> None:
    deep: Any = 1
    for _ in range(20):
        deep = [deep]
    assert code(Feed()("routes.apply", routes=[route("m", x=deep)])) == TooLarge.code


def test_all_routes_together_are_bounded() -> None:
    feed = Feed()
    assert feed("routes.apply", routes=[route(f"h{n}") for n in range(ROUTES_MAX)]).error is None
    assert code(feed("routes.apply", routes=[route("one more")])) == TooLarge.code
    assert feed("routes.apply", routes=[route("h7", name="again")]).error is None
    large = Feed()
    each = ROUTE_BYTES_MAX - 1000
    for number in range(ROUTES_BYTES_MAX // each):
        assert large("routes.apply", routes=[route(f"h{number}", x="x" * each)]).error is None
    assert code(large("routes.apply", routes=[route("one more", x="x" * each)])) == TooLarge.code
    assert large("routes.remove", hosts=["h0"]).value["removed"] == ["h0"]
    assert large("routes.apply", routes=[route("one more", x="x" * each)]).error is None


# -- shares -------------------------------------------------------------------------------------------------


def test_shares_are_granted_by_the_log_and_its_stamps() -> None:
    feed = Feed()
    ask = {"limit": "all", "node": "n1/1", "seq": 1, "held": 0, "want": 60_000}
    assert code(feed.node("share.grant", **ask)) == NotFound.code
    feed("limits.set", limits=LIMITS)
    grant = feed.node("share.grant", **ask).value
    assert grant["seq"] == 1
    assert 60_000 <= grant["units"] <= 100_000
    # The same again has been overtaken by itself.
    assert feed.node("share.grant", **ask) == Applied(None, None, (), executed=True)
    other = feed.node("share.grant", **{**ask, "node": "n2/1"}).value
    assert grant["units"] + other["units"] <= 100_000
    assert feed.state.read("shares", {}) == {
        "all": {"units": 100_000, "shares": {"n1/1": grant["units"], "n2/1": other["units"]}}
    }
    assert feed.node("share.return", limit="all", node="n1/1", seq=2).value == {}
    assert feed.state.read("shares", {})["all"]["shares"] == {"n2/1": other["units"]}
    feed.time_s = 6.0
    assert feed.node("share.grant", **{**ask, "node": "n3"}).value["units"] >= 60_000
    # Only nodes ask, and not within a session.
    assert code(feed("share.grant", **ask)) == PermissionDenied.code
    assert code(feed.node("share.grant", **{**ask, "want": "much"})) == InvalidArgument.code
    assert code(feed.node("share.grant", **{**ask, "node": "with a space"})) == InvalidArgument.code
    feed("limits.set", limits=None)
    assert code(feed.node("share.grant", **{**ask, "seq": 9})) == NotFound.code


def test_without_a_ledger_there_is_nothing_to_share() -> None:
    feed = Feed()
    feed.state = ReplicatedState()
    assert feed.state.read("shares", {}) == {}


# -- snapshots and schemas ----------------------------------------------------------------------------------

VALUES = st.dictionaries(st.text(max_size=4), st.integers(0, 9) | st.text(max_size=4), max_size=3)


@given(
    st.lists(st.tuples(st.sampled_from("abc"), VALUES), max_size=6),
    st.lists(st.text(min_size=1, max_size=8), max_size=3),
    st.booleans(),
    st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["some", "other", None])), max_size=6),
)
def test_a_snapshot_carries_them(
    routes: list[tuple[str, dict[str, Any]]],
    rules: list[str],
    limited: bool,
    strategies: list[tuple[str, str | None]],
) -> None:
    feed = Feed()
    for host, more in routes:
        feed("routes.apply", routes=[{**more, "host": host}])
    if rules:
        feed("rules.set", rules=rules)
    for model, strategy in strategies:
        feed("strategy.set", model=model, strategy=strategy)
    if limited:
        feed("limits.set", limits=LIMITS)
        feed.node("share.grant", limit="all", node="n1", seq=1, held=0, want=5000)
    taken = feed.state.frozen()
    feed("routes.apply", routes=[route("later")])
    other = new_state()
    other.restore(taken())
    assert other.snapshot() == taken()
    assert other.traffic.hosts == sorted({host for host, _ in routes})
    assert other.read("rules", {})["rules"] == rules
    declared = {model: name for model, name in dict(strategies).items() if name is not None}
    assert other.read("strategies", {})["strategies"] == declared
    assert other.traffic.scheduled == bool(declared)
    assert all(other.traffic.names(name) for name in (*declared, *other.traffic.hosts))
    # It goes on as the first did.
    Feed.node(feed, "noop")
    feed.state.restore(feed.state.snapshot())
    one, two = new_state(), new_state()
    for state in (one, two):
        state.restore(taken())
        ask = {"limit": "all", "node": "n2", "seq": 1, "held": 0, "want": 99_000}
        state.apply(encode_command("share.grant", ask), index=99, position=0, term=1, time_s=1.0, seed=0)
    assert one.digest() == two.digest()


def test_before_the_schema_is_in_force_a_snapshot_is_as_older_versions_read_it() -> None:
    feed = Feed(schema=3)
    assert code(feed("rules.set", rules=[])) == "UNSUPPORTED"
    snapshot = feed.state.snapshot()
    older = ReplicatedState(schema_max=3)
    older.restore(snapshot)
    assert older.snapshot() == snapshot
    feed.node("schema.raise", schema=4, voters=["n1"])
    with pytest.raises(VersionMismatch, match="schema 4"):
        older.restore(feed.state.snapshot())


@pytest.mark.parametrize(
    "op",
    [
        *("rules.set", "routes.apply", "routes.remove", "limits.set", "strategy.set"),
        *("share.grant", "share.return"),
    ],
)
def test_all_of_it_needs_the_schema(op: str) -> None:
    assert schema_of(op) == 4


def test_what_changes_says_so_in_this_process() -> None:
    feed = Feed()
    seen = [feed.state.traffic.revision]
    for op, args in (
        ("rules.set", {"rules": []}),
        ("routes.apply", {"routes": [route("m")]}),
        ("routes.remove", {"hosts": ["m"]}),
        ("limits.set", {"limits": None}),
        ("strategy.set", {"model": "m", "strategy": "some"}),
    ):
        feed(op, **args)
        seen.append(feed.state.traffic.revision)
    assert seen == [0, 1, 2, 3, 4, 5]
    feed("rules.set", rules=[], expected_version=7)
    assert feed.state.traffic.revision == 5
