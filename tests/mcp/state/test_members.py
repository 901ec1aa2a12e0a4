"""Members: news about an older incarnation cannot undo news about a newer one."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp.state import events
from mcp.state.applied import Applied
from mcp.state.commands import encode_command
from mcp.state.limits import StateLimits
from mcp.state.state import ReplicatedState


class Feed:
    """Applies a node's commands at consecutive positions, one second apart."""

    def __init__(self, **limits: Any) -> None:
        self.state = ReplicatedState(StateLimits(**limits))
        self.index = 0

    def __call__(self, op: str, **args: Any) -> Applied:
        self.index += 1
        data = encode_command(f"member.{op}", args)
        return self.state.apply(data, index=self.index, position=0, term=1, time_s=self.index, seed=0)

    def hello(self, node: str = "n", incarnation: int = 1, **more: Any) -> Applied:
        args = {"node": node, "address": "h:1", "incarnation": incarnation, "providers": [], **more}
        return self("hello", **args)

    def down(self, node: str = "n", incarnation: int = 1) -> Applied:
        return self("down", node=node, incarnation=incarnation)


def code(applied: Applied) -> str | None:
    return applied.error[0] if applied.error else None


def test_hello_and_down() -> None:
    feed = Feed()
    assert feed.hello(providers=["CUDA", "CPU"]).events == (events.MemberUp("n", "h:1", 1),)
    assert feed.hello(providers=["CPU"], address="h:2").events == ()
    assert feed.state.read("members", {}) == [
        {
            "node": "n",
            "address": "h:2",
            "incarnation": 1,
            "providers": ["CPU"],
            "state": "up",
            "since_s": 1,
            "index": 1,
            "schema": 1,
            "executors": [],
        }
    ]
    assert feed.down().events == (events.MemberDown("n", 1),)
    assert feed.down().events == ()
    member = feed.state.members.get("n")
    assert member is not None
    assert (member.up, member.since_s, member.index) == (False, 3, 3)


def test_an_old_incarnation_is_fenced() -> None:
    feed = Feed()
    feed.hello(incarnation=2)
    assert code(feed.down(incarnation=1)) == "FENCED"
    assert feed.state.members.is_up("n")
    assert code(feed.hello(incarnation=1)) == "FENCED"


def test_one_that_was_cut_off_comes_back() -> None:
    feed = Feed()
    feed.hello()
    feed.down()
    assert feed.hello().events == (events.MemberUp("n", "h:1", 1),)
    assert feed.hello(incarnation=2).events == (events.MemberUp("n", "h:1", 2),)


def test_nobody_unknown_is_taken_down() -> None:
    assert code(Feed().down("x")) == "NOT_FOUND"


def test_the_longest_down_makes_room() -> None:
    feed = Feed(members_max=2)
    feed.hello("a")
    feed.hello("b")
    assert code(feed.hello("c")) == "BUSY"
    feed.down("b")
    feed.down("a")
    assert code(feed.hello("c")) is None
    assert [member.node for member in feed.state.members.all()] == ["a", "c"]


@pytest.mark.parametrize(
    "bad",
    [{"node": ""}, {"node": "a b"}, {"address": None}, {"incarnation": -1}, {"providers": "CPU"}, {"x": 1}],
)
def test_arguments_are_checked(bad: dict[str, Any]) -> None:
    feed = Feed()
    assert code(feed.hello(**bad)) == "INVALID_ARGUMENT"
    assert len(feed.state.members) == 0


@given(st.lists(st.tuples(st.sampled_from(["hello", "down"]), st.integers(0, 4)), max_size=20))
def test_the_incarnation_never_goes_back(news: list[tuple[str, int]]) -> None:
    feed = Feed()
    known: int | None = None
    up = False
    for what, incarnation in news:
        applied = (
            feed.hello(incarnation=incarnation) if what == "hello" else feed.down(incarnation=incarnation)
        )
        if known is None and what == "down":
            assert code(applied) == "NOT_FOUND"
        elif known is not None and incarnation < known:
            assert code(applied) == "FENCED"
        else:
            assert code(applied) is None
            known, up = incarnation, what == "hello"
        member = feed.state.members.get("n")
        assert (member and (member.incarnation, member.up)) == (None if known is None else (known, up))
