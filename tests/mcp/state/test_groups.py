"""Several commands of a session in one of the log: the same as one after the other, for less."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcp.errors import TooLarge
from mcp.state.applied import Applied
from mcp.state.commands import GROUP, encode_command
from mcp.state.groups import GROUP_COMMANDS_MAX, GROUPED, encode_group
from mcp.state.limits import StateLimits
from mcp.state.state import ReplicatedState

SESSION = "5" * 32
NODES = ["n1"]


def ready(in_force: int = 3, **limits: Any) -> Feed:
    """A state with an open session, and that schema in force."""
    feed = Feed(ReplicatedState(StateLimits(**limits)))
    hello = {"node": "n1", "address": "n1", "incarnation": 1, "providers": [], "schema": 3}
    feed.entry(encode_command("member.hello", hello))
    for schema in range(2, in_force + 1):
        feed.entry(encode_command("schema.raise", {"schema": schema, "voters": NODES}))
    feed.entry(encode_command("session.open", {}, session=SESSION, seq=1, ack=1))
    return feed


class Feed:
    """A state that is given one entry after the other."""

    def __init__(self, state: ReplicatedState) -> None:
        self.state = state
        self.index = 0

    def entry(self, *commands: bytes) -> list[Applied]:
        self.index += 1
        return [
            self.state.apply(data, index=self.index, position=at, term=1, time_s=1.0 * self.index, seed=7)
            for at, data in enumerate(commands)
        ]


def alone(command: list[Any], ack: int) -> bytes:
    seq, op, args = command
    return encode_command(op, args, session=SESSION, seq=seq, ack=ack)


KEYS = st.sampled_from(["a", "b", ""])
ARGS = {
    "key.put": st.fixed_dictionaries({"key": KEYS, "value": st.integers(0, 3) | st.just(b"x" * 40)}),
    "key.cas": st.fixed_dictionaries(
        {"key": KEYS, "value": st.integers(0, 3), "expected_version": st.integers(-1, 3)}
    ),
    "key.delete": st.fixed_dictionaries({"key": KEYS}) | st.just({"kez": "a"}),
}


COMMANDS = st.lists(
    st.sampled_from(sorted(GROUPED)).flatmap(
        lambda op: st.tuples(st.integers(1, 9), st.just(op), ARGS[op]).map(list)
    ),
    min_size=1,
    max_size=8,
)
VALUES = [None, True, 1, 2.5, "text", b"bytes", b"x" * 15, b"x" * 20, b"x" * 40]
WRITES = st.fixed_dictionaries({"key": st.sampled_from("abcd"), "value": st.sampled_from(VALUES)})
ODD_WRITES = st.sampled_from(
    [
        {"key": "a"},
        {"value": 1},
        {"key": "a", "valeu": 1},
        {"key": "a", "value": 1, "more": 1},
        {"key": "", "value": 1},
        {"key": 1, "value": 1},
        {"key": "\xe4" * 5, "value": 1},
        {"key": "k" * 9, "value": 1},
        {"key": "a", "value": [1]},
        {"key": "a", "value": {"b": [{}]}},
    ]
)


@st.composite
def runs(draw: st.DrawFn) -> list[Any]:
    """Writes under numbers that follow one another, as clients send them, but for one perhaps."""
    each = draw(st.lists(WRITES, min_size=3, max_size=8))
    if draw(st.booleans()):
        each.insert(draw(st.integers(0, len(each))), draw(ODD_WRITES))
    commands = [[seq, "key.put", args] for seq, args in enumerate(each, draw(st.integers(1, 30)))]
    if draw(st.integers(0, 3)) == 0:
        commands.insert(draw(st.integers(0, len(commands))), draw(st.sampled_from(commands)))
    return commands


TIGHT = [
    {"session_results_max": 4},
    {"session_results_bytes_max": 100},
    {"results_bytes_max": 100},
    {"results_bytes_max": 300},
    {"values_bytes_max": 45},
    {"value_bytes_max": 21},
    {"keys_max": 2},
]
ENTRIES = st.lists(st.tuples(st.integers(1, 30), COMMANDS | runs() | runs()), min_size=1, max_size=5)


@settings(max_examples=800, deadline=None)
@given(ENTRIES, st.sampled_from([{}, *TIGHT]))
def test_a_group_is_its_commands_one_after_the_other(entries: list[Any], limits: dict[str, int]) -> None:
    grouped, single = ready(key_bytes_max=8, **limits), ready(key_bytes_max=8, **limits)
    for wanted, commands in entries:
        ack = min(wanted, *(seq for seq, _, _ in commands))
        (group,) = grouped.entry(encode_group(SESSION, ack, commands))
        assert group.error is None
        assert group.value == single.entry(*(alone(command, ack) for command in commands))
    for feed in (grouped, single):
        feed.entry(encode_command("noop", {}))
    assert grouped.state.digest() == single.state.digest()


def test_a_group_creates_keys_above_what_was_deleted() -> None:
    feed = ready()
    feed.entry(encode_group(SESSION, 1, [[seq, "key.put", {"key": "a", "value": 1}] for seq in (1, 2, 3)]))
    feed.entry(alone([4, "key.delete", {"key": "a"}], 1))
    puts = [[5, "key.put", {"key": "a", "value": 1}], [6, "key.put", {"key": "b", "value": 1}]]
    (group,) = feed.entry(encode_group(SESSION, 1, puts))
    assert [each.value["version"] for each in group.value] == [4, 4]


def test_a_repetition_alone_gets_the_result_that_the_group_gave_and_the_other_way_round() -> None:
    feed = ready()
    first, second = [1, "key.put", {"key": "a", "value": 1}], [2, "key.put", {"key": "a", "value": 2}]
    (group,) = feed.entry(encode_group(SESSION, 1, [first, second]))
    (again,) = feed.entry(alone(second, 1))
    assert (again.value, again.executed, again.recorded) == (group.value[1].value, False, True)
    third = [3, "key.put", {"key": "a", "value": 3}]
    (by_itself,) = feed.entry(alone(third, 1))
    (group,) = feed.entry(encode_group(SESSION, 1, [second, third]))
    assert [(each.executed, each.value["version"]) for each in group.value] == [(False, 2), (False, 3)]
    assert by_itself.value == group.value[1].value


@pytest.mark.parametrize(
    ("args", "told"),
    [
        ({"ack": 1}, "missing: commands"),
        ({"ack": 1, "commands": [], "more": 1}, "unknown: 'more'"),
        ({"ack": 1, "commands": []}, "at least one command"),
        ({"ack": -1, "commands": [[1, "key.put", {}]]}, "ack is an integer"),
        ({"ack": 1, "commands": {}}, "commands is an array"),
        ({"ack": 1, "commands": [[1, "key.put"]]}, "an array of seq, op and args"),
        ({"ack": 1, "commands": [[1, "noop", {}]]}, "one of key.cas, key.delete, key.put"),
        ({"ack": 1, "commands": [[1, GROUP, {}]]}, "one of key.cas, key.delete, key.put"),
        ({"ack": 1, "commands": [[1, ["key.put"], {}]]}, "an array of seq, op and args"),
        ({"ack": 1, "commands": [[1, "key.put", []]]}, "an array of seq, op and args"),
        ({"ack": 1, "commands": [[True, "key.put", {}]]}, "an array of seq, op and args"),
        ({"ack": 1, "commands": [[0, "key.put", {"key": "a", "value": 1}]]}, "numbered from 1"),
        ({"ack": 2, "commands": [[1, "key.put", {"key": "a", "value": 1}]]}, "ack is not above seq"),
    ],
)
def test_what_is_no_group_changes_nothing(args: dict[str, Any], told: str) -> None:
    feed = ready()
    before = feed.state.digest()
    (refused,) = feed.entry(encode_command(GROUP, args, session=SESSION))
    assert refused.error is not None
    assert told in refused.error[1]
    assert not refused.recorded
    assert len(feed.state.keys) == 0
    assert feed.state.sessions.executed == 0
    assert feed.state.digest() != before, "the position in the log has moved"


def test_a_group_is_of_a_client_and_since_schema_3() -> None:
    commands = [[1, "key.put", {"key": "a", "value": 1}]]
    args = {"ack": 1, "commands": commands}
    (nobodys,) = ready().entry(encode_command(GROUP, args))
    assert nobodys.error is not None
    assert nobodys.error[0] == "INVALID_ARGUMENT"
    (closed,) = ready().entry(encode_command(GROUP, args, session="6" * 32))
    assert closed.error is not None
    assert closed.error[0] == "SESSION_EXPIRED"
    (early,) = ready(in_force=2).entry(encode_group(SESSION, 1, commands))
    assert early.error is not None
    assert early.error[0] == "UNSUPPORTED"
    old = msgpack.packb([1, *msgpack.unpackb(encode_group(SESSION, 1, commands))[1:]])
    (unknown,) = ready().entry(old)
    assert unknown.error is not None
    assert "there is no operation" in unknown.error[1]


def test_a_group_has_its_limits() -> None:
    many = [[seq, "key.delete", {"key": "a"}] for seq in range(1, GROUP_COMMANDS_MAX + 2)]
    (refused,) = ready().entry(encode_group(SESSION, 1, many))
    assert refused.error is not None
    assert refused.error[0] == "TOO_LARGE"
    (taken,) = ready(session_results_max=2000).entry(encode_group(SESSION, 1, many[:-1]))
    assert len(taken.value) == GROUP_COMMANDS_MAX
    with pytest.raises(TooLarge):
        encode_group(SESSION, 1, [[1, "key.put", {"key": "a", "value": bytes(300_000)}]])
