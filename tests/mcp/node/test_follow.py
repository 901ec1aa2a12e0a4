"""Following the state: what is looked at after each change, so that many models do not hold up the loop."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType, SimpleNamespace
from typing import Any, cast

from mcp.node.follow import Follower
from mcp.state.commands import encode_command
from mcp.state.state import ReplicatedState


class Ready:
    """A shelf on which everything is ready, but for ``lacking``, and what was wanted of it."""

    def __init__(self, lacking: str = "") -> None:
        self.lacking = lacking
        self.kept: set[str] = set()
        self.wanted: list[tuple[str, int, list[str]]] = []

    def keep_only(self, digests: set[str]) -> None:
        self.kept = digests

    def info(self, digest: str) -> object | None:
        return None if digest == self.lacking else self

    def want(self, digest: str, size: int, holders: list[str]) -> None:
        self.wanted.append((digest, size, holders))


def digest_of(number: int) -> str:
    return f"{number:064x}"


def deployed(count: int, *, distinct: int) -> ReplicatedState:
    state = ReplicatedState()
    for at in range(count):
        manifest = {"name": f"m{at}", "digest": digest_of(at % distinct), "size": 7}
        command = encode_command("model.deploy", {"manifest": manifest, "holders": ["n1", "n2"]})
        assert state.apply(command, index=at + 1, position=0, term=1, time_s=1.0, seed=0).error is None
    return state


def follower(state: ReplicatedState, shelf: Ready) -> Follower:
    assignments = SimpleNamespace(reconcile=lambda: None)
    unused = cast("Any", None)
    return Follower("n1", state, cast("Any", shelf), cast("Any", assignments), unused, unused)


def lines_of(work: Callable[[], None]) -> int:
    """How many lines of Python ``work`` executes."""
    count = 0

    def trace(_frame: FrameType, event: str, _argument: object) -> Any:
        nonlocal count
        count += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)
    return count


def test_a_look_at_ten_times_the_models_costs_ten_times_as_much_and_no_more() -> None:
    # At a thousand models the square of them kept the loop for so long that leaders were given up.
    for distinct in (1, 1000):
        few, many = (
            lines_of(follower(deployed(count, distinct=distinct), Ready()).look_again) for count in (30, 300)
        )
        assert many <= 11 * few


def test_what_lacks_here_is_brought_from_the_others_once_for_all_versions_that_have_it() -> None:
    shelf = Ready(lacking=digest_of(1))
    follower(deployed(9, distinct=3), shelf).look_again()
    assert shelf.wanted == [(digest_of(1), 7, ["n2"])]
    assert shelf.kept == {digest_of(each) for each in range(3)}
