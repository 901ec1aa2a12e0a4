"""Sessions: each command takes effect once, however often and however late it arrives."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from mcp.state.applied import Applied
from mcp.state.commands import encode_command
from mcp.state.limits import StateLimits
from mcp.state.state import ReplicatedState


class Feed:
    """Applies commands at consecutive positions."""

    def __init__(self, **limits: Any) -> None:
        self.state = ReplicatedState(StateLimits(**limits))
        self.index = 0
        self.time_s = 1000.0

    def __call__(self, op: str, session: str = "", seq: int = 0, ack: int = 0, **args: Any) -> Applied:
        self.index += 1
        data = encode_command(op, args, session=session, seq=seq, ack=ack)
        return self.state.apply(data, index=self.index, position=0, term=1, time_s=self.time_s, seed=0)

    def put(self, session: str, seq: int, ack: int = 1) -> Applied:
        return self("key.put", session, seq, ack, key="k", value=seq)


def code(applied: Applied) -> str | None:
    return applied.error[0] if applied.error else None


def opened(*sessions: str, **limits: Any) -> Feed:
    feed = Feed(**limits)
    for session in sessions:
        assert feed("session.open", session).error is None
    return feed


def test_a_repeated_command_gets_the_kept_result_and_is_not_executed() -> None:
    feed = opened("s")
    first = feed.put("s", 1)
    again = feed.put("s", 1)
    assert first.executed
    assert not again.executed
    assert (first.value, first.error) == (again.value, again.error) == ({"version": 1, "index": 2}, None)
    assert feed.state.read("key", {"key": "k"})["version"] == 1
    assert (feed.state.sessions.executed, feed.state.sessions.deduplicated) == (1, 1)


def test_a_kept_error_is_the_same_error() -> None:
    feed = opened("s")
    feed.put("s", 1)
    lost = feed("key.cas", "s", 2, 1, key="k", expected_version=7, value="mine")
    again = feed("key.cas", "s", 2, 1, key="k", expected_version=7, value="mine")
    assert code(lost) == "VERSION_CONFLICT"
    assert again.error == lost.error
    assert len(feed.state.read("conflicts", {"key": "k"})) == 1


def test_numbers_may_come_in_any_order() -> None:
    feed = opened("s")
    assert [feed.put("s", seq).value["version"] for seq in (3, 1, 2)] == [1, 2, 3]
    assert [feed.put("s", seq).value["version"] for seq in (1, 2, 3)] == [2, 3, 1]


def test_an_acknowledged_command_is_refused_and_not_executed() -> None:
    feed = opened("s")
    feed.put("s", 1)
    feed.put("s", 3, ack=3)
    for late in (1, 2):
        refused = feed.put("s", late)
        assert code(refused) == "SESSION_EXPIRED"
        assert not refused.executed
    view = feed.state.sessions.get("s")
    assert view is not None
    assert (view.ack, view.kept, view.executed) == (3, (3,), 2)


def test_ack_never_goes_back_and_a_far_jump_is_quick() -> None:
    feed = opened("s")
    for seq in range(1, 6):
        feed.put("s", seq)
    feed.put("s", 2**62, ack=2**62)
    feed.put("s", 2**62 + 1, ack=1)
    view = feed.state.sessions.get("s")
    assert view is not None
    assert (view.ack, view.kept) == (2**62, (2**62, 2**62 + 1))


@pytest.mark.parametrize(("seq", "ack"), [(0, 0), (0, 1), (3, 4)])
def test_numbers_that_make_no_sense_are_refused(seq: int, ack: int) -> None:
    feed = opened("s")
    assert code(feed.put("s", seq, ack)) == "INVALID_ARGUMENT"
    assert feed.state.read("key", {"key": "k"}) is None


def test_an_unknown_session_executes_nothing() -> None:
    feed = Feed()
    refused = feed.put("never-opened", 1)
    assert code(refused) == "SESSION_EXPIRED"
    assert not refused.executed
    assert feed.state.read("key", {"key": "k"}) is None


def test_opening_twice_keeps_the_results() -> None:
    feed = opened("s")
    feed.put("s", 1)
    assert feed("session.open", "s").error is None
    assert not feed.put("s", 1).executed


def test_an_idle_session_ends_by_the_stamps() -> None:
    feed = opened("s", session_idle_s=10.0)
    feed.time_s += 10.0
    assert feed.put("s", 1).error is None
    feed.time_s += 10.1
    assert code(feed.put("s", 1)) == "SESSION_EXPIRED"
    assert feed.state.read("key", {"key": "k"})["version"] == 1
    assert feed.state.sessions.expired == 1


def test_an_ended_session_cannot_be_revived_by_a_late_duplicate() -> None:
    feed = opened("s")
    feed.put("s", 1)
    feed("session.close", "s", 2, 1)
    assert code(feed("session.open", "s", 1, 1)) == "SESSION_EXPIRED"
    assert code(feed.put("s", 1)) == "SESSION_EXPIRED"
    assert feed("session.close", "s", 2, 1).error is None
    assert feed.state.read("key", {"key": "k"})["version"] == 1


def test_ended_sessions_are_forgotten_in_the_order_of_their_end() -> None:
    feed = opened("a", "b", "c", ended_sessions_max=2)
    for session in ("b", "a", "c"):
        feed("session.close", session)
    assert [code(feed("session.open", s)) for s in ("a", "c", "b")] == [
        "SESSION_EXPIRED",
        "SESSION_EXPIRED",
        None,
    ]


def test_the_window_is_bounded_and_opens_with_ack() -> None:
    feed = opened("s", session_results_max=2)
    feed.put("s", 1)
    feed.put("s", 2)
    assert code(feed.put("s", 3)) == "BUSY"
    assert not feed.put("s", 2).executed, "what is kept is still answered"
    assert feed.put("s", 3, ack=2).executed


def test_the_window_is_bounded_in_bytes() -> None:
    feed = opened("s", "t", session_results_bytes_max=30, results_bytes_max=60)
    assert [code(feed.put("s", seq)) for seq in range(1, 4)] == [None, None, "BUSY"]
    assert [code(feed.put("t", seq)) for seq in range(1, 4)] == [None, None, "BUSY"]
    feed("session.open", "u")
    assert code(feed.put("u", 1)) == "BUSY", "results_bytes_max counts all sessions"
    feed("session.close", "s")
    assert code(feed.put("u", 1)) is None


def test_acknowledged_bytes_make_room() -> None:
    feed = opened("s", session_results_bytes_max=30, results_bytes_max=30)
    assert [code(feed.put("s", seq, ack=max(1, seq - 1))) for seq in range(1, 20)] == [None] * 19


def test_the_longest_idle_session_makes_room() -> None:
    feed = opened("a", "b", sessions_max=2, session_evict_idle_s=5.0)
    assert code(feed("session.open", "c")) == "BUSY"
    feed.time_s += 5.1
    feed.put("a", 1)
    assert code(feed("session.open", "c")) is None
    assert list(feed.state.sessions) == ["a", "c"]


@pytest.mark.parametrize("session", ["x" * 65, "a b", "ä"])
def test_a_session_id_is_checked_when_it_is_opened(session: str) -> None:
    assert code(Feed()("session.open", session)) == "INVALID_ARGUMENT"


def test_who_may_do_what() -> None:
    feed = opened("s")
    assert code(feed("member.down", "s", 1, 1, node="n", incarnation=1)) == "PERMISSION_DENIED"
    assert code(feed("key.put", key="k", value=1)) == "INVALID_ARGUMENT"
    assert code(feed("session.open")) == "INVALID_ARGUMENT"
    assert code(feed("noop", "", 3)) == "INVALID_ARGUMENT"
    assert code(feed("noop")) is None
    assert code(feed("noop", "s", 2, 1)) is None


SESSIONS = st.sampled_from(["a", "b", "c"])
WINDOW = 4
IDLE_S = 50.0
KEEP_S = 20.0
ROOM = 2


class Exactly(RuleBasedStateMachine):
    """Against a model that says it plainly: the set of what was executed, and when sessions end."""

    def __init__(self) -> None:
        super().__init__()
        self.feed = Feed(
            session_results_max=WINDOW, session_idle_s=IDLE_S, sessions_max=ROOM, session_evict_idle_s=KEEP_S
        )
        self.used: dict[str, float] = {}
        self.order: list[str] = []
        self.ended: set[str] = set()
        self.floor: dict[str, int] = {}
        self.kept: dict[str, dict[int, Any]] = {}
        self.version = 0

    def now(self) -> float:
        for session in [s for s in self.order if self.feed.time_s - self.used[s] > IDLE_S]:
            self.end(session)
        return self.feed.time_s

    def end(self, session: str) -> None:
        self.order.remove(session)
        self.ended.add(session)
        del self.kept[session]

    def use(self, session: str) -> None:
        self.used[session] = self.feed.time_s
        if session in self.order:
            self.order.remove(session)
        self.order.append(session)

    @rule(session=SESSIONS)
    def open(self, session: str) -> None:
        now = self.now()
        got = code(self.feed("session.open", session))
        if session in self.ended:
            assert got == "SESSION_EXPIRED"
        elif session in self.order:
            assert got is None
            self.use(session)
        elif len(self.order) == ROOM and now - self.used[self.order[0]] <= KEEP_S:
            assert got == "BUSY"
        else:
            assert got is None
            if len(self.order) == ROOM:
                self.end(self.order[0])
            self.floor[session], self.kept[session] = 1, {}
            self.use(session)

    @rule(session=SESSIONS)
    @precondition(lambda self: self.feed.index % 3 == 0)
    def close(self, session: str) -> None:
        self.now()
        assert code(self.feed("session.close", session)) is None
        if session in self.order:
            self.end(session)

    @rule(seconds=st.sampled_from([1.0, 21.0, 51.0]))
    def wait(self, seconds: float) -> None:
        self.feed.time_s += seconds

    @rule(session=SESSIONS, seq=st.integers(1, 8), lag=st.integers(0, 4))
    def put(self, session: str, seq: int, lag: int) -> None:
        self.now()
        got = self.feed.put(session, seq, max(1, seq - lag))
        if session not in self.order:
            assert code(got) == "SESSION_EXPIRED"
            return
        self.use(session)
        if seq < self.floor[session]:
            assert code(got) == "SESSION_EXPIRED"
            return
        self.floor[session] = max(self.floor[session], seq - lag)
        kept = self.kept[session]
        for below in [s for s in kept if s < self.floor[session]]:
            del kept[below]
        if seq in kept:
            assert not got.executed
            assert got.value == kept[seq]
        elif len(kept) >= WINDOW:
            assert code(got) == "BUSY"
        else:
            self.version += 1
            assert got.executed
            assert got.value["version"] == self.version
            kept[seq] = got.value

    @invariant()
    def as_many_effects_as_executions(self) -> None:
        slot = self.feed.state.read("key", {"key": "k"})
        assert (slot["version"] if slot else 0) == self.version == self.feed.state.sessions.executed

    @invariant()
    def restoring_changes_nothing(self) -> None:
        other = ReplicatedState()
        other.restore(self.feed.state.snapshot())
        assert other.snapshot() == self.feed.state.snapshot()


Exactly.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestExactly = Exactly.TestCase
