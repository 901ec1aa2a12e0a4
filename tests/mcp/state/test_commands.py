"""Commands as bytes: written and read again; whatever else is refused, and never crashes."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp.errors import InvalidArgument, McpError, TooLarge, VersionMismatch
from mcp.state.commands import COMMAND_BYTES_MAX, Command, decode_command, encode_command

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.floats(allow_nan=False),
    st.text(max_size=8),
    st.binary(max_size=8),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


@given(
    st.text(max_size=8),
    st.text(max_size=8),
    st.integers(0, 2**63 - 1),
    st.integers(0, 2**63 - 1),
    st.dictionaries(st.text(max_size=8), VALUES, max_size=4),
)
def test_a_command_round_trips(op: str, session: str, seq: int, ack: int, args: dict[str, Any]) -> None:
    data = encode_command(op, args, session=session, seq=seq, ack=ack)
    assert decode_command(data) == Command(session, seq, ack, op, args)


@given(st.binary(max_size=64) | VALUES.map(msgpack.packb))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    try:
        decode_command(data)
    except McpError as error:
        assert error.message  # noqa: PT017 - any other exception fails the test


GOOD: list[Any] = [1, "s", 1, 1, "noop", {}]


@pytest.mark.parametrize(
    ("position", "bad"),
    [(1, 3), (1, b"s"), (2, -1), (2, True), (2, 1.0), (2, 2**63), (3, -1), (3, None), (4, b"noop"), (5, [])],
)
def test_a_wrong_element_is_refused(position: int, bad: Any) -> None:
    assert decode_command(msgpack.packb(GOOD)).op == "noop"
    with pytest.raises(InvalidArgument):
        decode_command(msgpack.packb([*GOOD[:position], bad, *GOOD[position + 1 :]]))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        msgpack.packb(GOOD[:5]),
        msgpack.packb([*GOOD, 1]),
        msgpack.packb([]),
        msgpack.packb({"op": "noop"}),
        msgpack.packb([True, *GOOD[1:]]),
        msgpack.packb(GOOD) + b"\x00",
        msgpack.packb([*GOOD[:5], {1: 2}]),
        msgpack.packb([*GOOD[:4], b"\xff\xfe", {}]).replace(b"\xc4\x02", b"\xa2"),
        b"\x91" * 5000 + b"\xc0",
    ],
)
def test_what_is_no_command_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidArgument):
        decode_command(data)


def test_another_schema_is_told_apart() -> None:
    for schema, schema_max in ((3, 2), (2, 1), (0, 2), (-1, 2)):
        with pytest.raises(VersionMismatch, match=f"up to schema {schema_max}, and this one has {schema}"):
            decode_command(msgpack.packb([schema, "whatever", "comes"]), schema_max)


def test_a_command_has_the_lowest_schema_that_knows_its_operation() -> None:
    assert decode_command(encode_command("key.put", {})).schema == 1
    assert decode_command(encode_command("nobody.knows", {})).schema == 1
    assert decode_command(encode_command("key.delete_prefix", {})).schema == 2


def test_commands_are_limited() -> None:
    with pytest.raises(TooLarge, match="send large data as a blob"):
        encode_command("key.put", {"value": b"x" * COMMAND_BYTES_MAX})
    with pytest.raises(TooLarge, match="declare fewer fixed answers, or shorter ones"):
        encode_command("limits.set", {"limits": "x" * COMMAND_BYTES_MAX})
    with pytest.raises(TooLarge):
        decode_command(b"x" * (COMMAND_BYTES_MAX + 1))


@pytest.mark.parametrize("bad", [object(), 2**64, "\ud800", {1, 2}])
def test_what_msgpack_cannot_carry_is_refused_before_it_is_sent(bad: Any) -> None:
    with pytest.raises(InvalidArgument, match=r"key\.put"):
        encode_command("key.put", {"value": bad})
