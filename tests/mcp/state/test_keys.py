"""Keys: versions that only grow, losers that are told, and a conflict log that is bounded."""

from __future__ import annotations

import hashlib
from typing import Any

import msgpack
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from mcp.errors import InvalidArgument, TooLarge
from mcp.state.applied import Applied
from mcp.state.commands import encode_command, writer_of
from mcp.state.limits import StateLimits
from mcp.state.state import ReplicatedState


class Feed:
    """Applies commands of one session at consecutive positions."""

    def __init__(self, **limits: Any) -> None:
        self.state = ReplicatedState(StateLimits(**limits))
        self.index = 0
        self.apply("session.open", {}, 0)

    def apply(self, op: str, args: dict[str, Any], seq: int) -> Applied:
        self.index += 1
        data = encode_command(op, args, session="s", seq=seq, ack=seq)
        return self.state.apply(data, index=self.index, position=0, term=1, time_s=self.index * 0.5, seed=0)

    def __call__(self, op: str, **args: Any) -> Applied:
        return self.apply(f"key.{op}", args, self.index)

    def key(self, key: str = "k") -> Any:
        return self.state.read("key", {"key": key})


def code(applied: Applied) -> str | None:
    return applied.error[0] if applied.error else None


def test_put_counts_versions_from_one() -> None:
    feed = Feed()
    assert feed.key() is None
    assert feed("put", key="k", value={"a": [1, b"x", None]}).value == {"version": 1, "index": 2}
    assert feed("put", key="k", value=2).value == {"version": 2, "index": 3}
    assert feed.key() == {"key": "k", "value": 2, "version": 2, "index": 3, "writer": writer_of("s")}


def test_the_loser_gets_the_winner() -> None:
    feed = Feed()
    feed("put", key="k", value="winner")
    lost = feed("cas", key="k", expected_version=0, value="loser")
    assert code(lost) == "VERSION_CONFLICT"
    assert lost.error is not None
    assert lost.error[2] == {"key": "k", "value": "winner", "version": 1, "writer": writer_of("s")}
    assert feed.state.read("conflicts", {"key": "k"}) == [
        {
            "key": "k",
            "session": writer_of("s"),
            "time_s": 1.5,
            "expected_version": 0,
            "attempted": "loser",
            "winner_version": 1,
            "index": 3,
        }
    ]
    assert feed("cas", key="k", expected_version=1, value="next").value["version"] == 2


def test_who_loses_against_nobody_is_not_sent_to_look_at_a_winner() -> None:
    _, message, details = Feed()("cas", key="k", expected_version=3, value=1).error or ("", "", {})
    assert message.endswith("there is no such key; to create it, expect version 0")
    assert (details["value"], details["version"]) == (None, 0)


def test_an_old_version_does_not_win_against_a_key_that_was_created_again() -> None:
    feed = Feed()
    assert feed("cas", key="k", expected_version=0, value=1).value["version"] == 1
    assert feed("delete", key="k", expected_version=1).value == {"version": 1}
    assert code(feed("cas", key="k", expected_version=1, value=2)) == "VERSION_CONFLICT"
    assert feed("cas", key="k", expected_version=0, value=3).value["version"] == 2
    assert code(feed("cas", key="k", expected_version=1, value=4)) == "VERSION_CONFLICT"
    assert feed.key()["value"] == 3


def test_deleting() -> None:
    feed = Feed()
    assert feed("delete", key="k").value == {"version": 0}
    feed("put", key="k", value=1)
    assert code(feed("delete", key="k", expected_version=5)) == "VERSION_CONFLICT"
    assert feed("delete", key="k", expected_version=None).value == {"version": 1}
    assert code(feed("delete", key="k", expected_version=1)) == "VERSION_CONFLICT"
    assert feed.key() is None


def test_a_large_loser_is_kept_as_its_digest() -> None:
    feed = Feed()
    value = "x" * 5000
    feed("cas", key="k", expected_version=3, value=value)
    packed = msgpack.packb(value)
    assert feed.state.read("conflicts", {"key": "k"})[0]["attempted"] == {
        "sha256": hashlib.sha256(packed).hexdigest(),
        "size": len(packed),
    }


def test_the_conflict_log_is_bounded_per_key_and_in_total() -> None:
    feed = Feed(conflicts_per_key_max=2, conflicts_max=3)
    for attempt, key in enumerate("aaabbb"):
        feed("cas", key=key, expected_version=9, value=attempt)

    def kept(key: str) -> list[int]:
        return [conflict["attempted"] for conflict in feed.state.read("conflicts", {"key": key})]

    assert (kept("a"), kept("b")) == ([2], [4, 5])
    feed("cas", key="c", expected_version=9, value=6)
    assert (kept("a"), kept("b"), kept("c")) == ([], [4, 5], [6])


def test_what_is_read_cannot_change_the_state() -> None:
    feed = Feed()
    feed("put", key="k", value={"a": [1]})
    feed.key()["value"]["a"].append(2)
    assert feed.key()["value"] == {"a": [1]}


def test_keys_are_listed_in_order() -> None:
    feed = Feed()
    for key in ("b/2", "a/1", "b/1", "ä"):
        feed("put", key=key, value=0)
    assert feed.state.read("keys", {}) == ["a/1", "b/1", "b/2", "ä"]
    assert feed.state.read("keys", {"prefix": "b/", "limit": 1}) == ["b/1"]
    assert feed.state.read("keys", {"prefix": "b/", "after": "b/1"}) == ["b/2"]
    assert feed.state.read("keys", {"after": "b/15"}) == ["b/2", "ä"]


@pytest.mark.parametrize(
    ("kind", "args"),
    [
        ("key", {}),
        ("key", {"key": ""}),
        ("key", {"key": 1}),
        ("key", {"key": "k", "more": 1}),
        ("keys", {"limit": 0}),
        ("keys", {"limit": 1001}),
        ("keys", {"prefix": None}),
        ("keys", {"after": 1}),
        ("conflicts", {}),
        ("nothing", {}),
        (["key"], {"key": "k"}),
        ("key", [("key", "k")]),
    ],
)
def test_bad_reads_are_refused(kind: Any, args: Any) -> None:
    with pytest.raises(InvalidArgument):
        Feed().state.read(kind, args)


def test_a_long_key_cannot_be_read() -> None:
    with pytest.raises(TooLarge):
        Feed().state.read("key", {"key": "ä" * 257})


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("op", "args", "expected"),
    [
        ("put", {"key": "k"}, "INVALID_ARGUMENT"),
        ("put", {"key": "k", "value": 1, "ttl": 3}, "INVALID_ARGUMENT"),
        ("put", {"key": "", "value": 1}, "INVALID_ARGUMENT"),
        ("put", {"key": b"k", "value": 1}, "INVALID_ARGUMENT"),
        ("put", {"key": "k" * 513, "value": 1}, "TOO_LARGE"),
        ("put", {"key": "k" * 512, "value": 1}, None),
        ("put", {"key": "k", "value": b"x" * 65536}, "TOO_LARGE"),
        ("put", {"key": "k", "value": b"x" * 65531}, None),
        ("put", {"key": "k", "value": nested(64)}, None),
        ("put", {"key": "k", "value": nested(65)}, "TOO_LARGE"),
        ("put", {"key": "k", "value": [msgpack.ExtType(5, b"x")]}, "INVALID_ARGUMENT"),
        ("put", {"key": "k", "value": {"at": msgpack.Timestamp(1)}}, "INVALID_ARGUMENT"),
        ("cas", {"key": "k", "value": 1}, "INVALID_ARGUMENT"),
        ("cas", {"key": "k", "value": 1, "expected_version": -1}, "INVALID_ARGUMENT"),
        ("cas", {"key": "k", "value": 1, "expected_version": False}, "INVALID_ARGUMENT"),
        ("cas", {"key": "k", "value": 1, "expected_version": None}, "INVALID_ARGUMENT"),
        ("delete", {"key": "k", "expected_version": "1"}, "INVALID_ARGUMENT"),
        ("delete", {}, "INVALID_ARGUMENT"),
        ("rename", {}, "INVALID_ARGUMENT"),
    ],
)
def test_arguments_are_checked(op: str, args: dict[str, Any], expected: str | None) -> None:
    feed = Feed()
    assert code(feed(op, **args)) == expected
    assert (len(feed.state.keys) == 0) is (expected is not None)


def test_keys_and_bytes_are_limited() -> None:
    feed = Feed(keys_max=2, values_bytes_max=20)
    assert [code(feed("put", key=key, value="x" * 8)) for key in "abc"] == [None, None, "BUSY"]
    assert code(feed("put", key="a", value="x" * 12)) == "BUSY", "21 bytes with the other key's"
    assert code(feed("put", key="a", value="x" * 3)) is None
    feed("delete", key="b")
    assert code(feed("put", key="c", value="x" * 8)) is None


KEYS = st.sampled_from(["a", "b"])


class Versions(RuleBasedStateMachine):
    """Against plain dictionaries, and with every version that was ever given out remembered."""

    def __init__(self) -> None:
        super().__init__()
        self.feed = Feed()
        self.slots: dict[str, tuple[int, int]] = {}
        self.given: dict[str, list[int]] = {"a": [], "b": []}
        self.lost = 0
        self.value = 0

    def written(self, key: str, applied: Applied) -> None:
        version = applied.value["version"]
        assert version > max(self.given[key], default=0), "no version of a key is given out twice"
        if key in self.slots:
            assert version == self.slots[key][0] + 1
        self.given[key].append(version)
        self.slots[key] = (version, self.value)

    @rule(key=KEYS)
    def put(self, key: str) -> None:
        self.value += 1
        self.written(key, self.feed("put", key=key, value=self.value))

    @rule(key=KEYS, data=st.data())
    def cas(self, key: str, data: st.DataObject) -> None:
        expected = data.draw(st.sampled_from([0, *self.given[key][-3:]]))
        self.value += 1
        applied = self.feed("cas", key=key, expected_version=expected, value=self.value)
        version, value = self.slots.get(key, (0, None))
        if expected == version:
            self.written(key, applied)
        else:
            assert code(applied) == "VERSION_CONFLICT"
            assert applied.error is not None
            details = applied.error[2]
            assert (details["version"], details["value"]) == (version, value)
            self.lost += 1

    @rule(key=KEYS, data=st.data())
    def delete(self, key: str, data: st.DataObject) -> None:
        expected = data.draw(st.sampled_from([None, 0, *self.given[key][-2:]]))
        applied = self.feed("delete", key=key, expected_version=expected)
        version = self.slots.get(key, (0, None))[0]
        if expected in (None, version):
            assert applied.value == {"version": version}
            self.slots.pop(key, None)
        else:
            assert code(applied) == "VERSION_CONFLICT"
            self.lost += 1

    @invariant()
    def the_state_is_the_model(self) -> None:
        for key in ("a", "b"):
            slot = self.feed.key(key)
            assert (slot and (slot["version"], slot["value"])) == self.slots.get(key)
        assert self.feed.state.read("keys", {}) == sorted(self.slots)
        assert len(self.feed.state.keys.conflicts) == self.lost


Versions.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestVersions = Versions.TestCase
