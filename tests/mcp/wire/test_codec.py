"""Messages and errors in msgpack."""

import tracemalloc
from collections import Counter, OrderedDict, namedtuple

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcp import errors
from mcp.causality.vector import VersionVector
from mcp.wire.codec import (
    DEPTH_MAX,
    ERROR_BYTES_LEAST,
    ERROR_MESSAGE_CHARS_MAX,
    decode_error,
    decode_map,
    decode_message,
    encode_error,
    encode_map,
    encode_message,
)
from mcp.wire.messages import DEFAULT_TTL, EMPTY_VECTOR, Message, Ttl

texts = st.text(st.characters(codec="utf-8"), max_size=20)
names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=30)
plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | texts
    | st.binary(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)
vectors = st.dictionaries(names, st.integers(1, 2**63 - 1), max_size=3).map(VersionVector.from_mapping)
messages = st.builds(
    Message,
    names,
    st.dictionaries(texts, plain, max_size=4),
    names,
    st.text(st.characters(codec="utf-8"), max_size=30),
    vectors,
    st.builds(Ttl, st.integers(0, 255), st.integers(0, 2**32 - 1)),
)
FIELDS = {"type": "T", "id": "i", "payload": {}}


@settings(max_examples=150, deadline=None)
@given(messages)
def test_what_is_encoded_is_decoded(message):
    body = encode_message(message)
    assert decode_message(body) == message


def test_the_map_is_the_documented_one():
    message = Message(
        "READ", {"kind": "key"}, "id1", "t1", VersionVector.from_mapping({"log": 7}), Ttl(3, 250)
    )
    assert msgpack.unpackb(encode_message(message)) == {
        "id": "id1",
        "type": "READ",
        "trace_id": "t1",
        "payload": {"kind": "key"},
        "vector": {"log": 7},
        "ttl": {"hops": 3, "ms": 250},
    }


def test_unknown_fields_are_ignored_and_optional_ones_have_defaults():
    message = decode_message(msgpack.packb({**FIELDS, "new_in_1_7": [1, {"x": 2}]}))
    assert message == Message("T", {}, "i", "", EMPTY_VECTOR, DEFAULT_TTL)


def test_the_remaining_time_can_be_set_while_encoding():
    assert decode_message(encode_message(Message("T", {}, "i"), ttl_ms=12)).ttl == Ttl(DEFAULT_TTL.hops, 12)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"type": 1}, "type"),
        ({"type": ""}, "type"),
        ({"type": "x" * 129}, "type"),
        ({"id": None}, "id"),
        ({"id": b"bytes"}, "id"),
        ({"trace_id": 7}, "trace_id"),
        ({"payload": []}, "payload"),
        ({"payload": None}, "payload"),
        ({"vector": [1]}, "vector"),
        ({"vector": {"log": -1}}, "vector"),
        ({"vector": {"log": 1.5}}, "vector"),
        ({"ttl": 5}, "ttl"),
        ({"ttl": None}, "ttl"),
        ({"vector": None}, "vector"),
        ({"vector": 0}, "vector"),
        ({"ttl": {"hops": 256}}, "ttl.hops"),
        ({"ttl": {"hops": True}}, "ttl.hops"),
        ({"ttl": {"ms": -1}}, "ttl.ms"),
        ({"ttl": {"ms": "soon"}}, "ttl.ms"),
    ],
)
def test_a_field_of_the_wrong_type_is_refused_by_name(fields, named):
    with pytest.raises(errors.ProtocolError, match=named):
        decode_message(msgpack.packb({**FIELDS, **fields}))


@pytest.mark.parametrize("missing", ["type", "id", "payload"])
def test_a_missing_field_is_refused_by_name(missing):
    with pytest.raises(errors.ProtocolError, match=missing):
        decode_message(msgpack.packb({name: value for name, value in FIELDS.items() if name != missing}))


def nested(depth):
    return msgpack.packb({"a": None})[:-1] * depth + b"\xc0"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xc0",
        b"\x91\x01",
        b"\x80\x80",
        b"\x82\xa1a\x01\xa1a\x02",  # a key twice
        b"\x81\x01\x02",  # a key that is no string
        b"\x81\xc4\x01a\x01",  # a key of bytes
        b"\x81\xa1a\xa1\xff",  # no UTF-8
        b"\x81\xa1a\xd6\xff\0\0\0\0",  # a timestamp
        b"\x81\xa1a\xc7\x00\x05",  # an extension
        b"\x81\xa1a\xdd\xff\xff\xff\xff",  # an array that is not there
        b"\x81\xa1a\xc1",  # never used
        nested(DEPTH_MAX + 1),
        nested(5000),
    ],
)
def test_what_is_no_map_of_plain_values_is_refused(body):
    with pytest.raises(errors.ProtocolError):
        decode_map(body)


def many(value, count=40):
    """A map of a list that holds it so often."""
    return b"\x81\xa1m\xdc" + count.to_bytes(2, "big") + value * count


@pytest.mark.parametrize(
    "value",
    [
        b"\x81\x01\x02",
        b"\x81\xc4\x01a\x01",
        b"\x82\xa1a\x01\xa1a\x02",
        b"\x91\x81\xa1a\x81\xc4\x01a\x01",
        nested(DEPTH_MAX - 1),
    ],
)
def test_what_is_no_plain_value_is_refused_among_many(value):
    with pytest.raises(errors.ProtocolError):
        decode_map(many(value))


def test_nesting_up_to_the_limit_is_allowed():
    for body in (nested(DEPTH_MAX), many(nested(DEPTH_MAX - 2))):
        assert encode_map(decode_map(body)) == body


@pytest.mark.parametrize(
    "kinds", [[[1], [2]], [{"a": 1}, {"b": {"c": []}}], [[1], {"a": [1]}, (), {}, 3, "x", b"y"]]
)
@pytest.mark.parametrize("count", [1, 20, 200])
def test_maps_and_lists_in_numbers_are_plain(kinds, count):
    value = {"m": kinds * count, "n": {"o": kinds * count}}
    assert decode_map(encode_map(value)) == msgpack.unpackb(msgpack.packb(value))
    for wrong in ({1: 2}, {"deep": [{b"k": 0}]}, [[{None: 0}]]):
        with pytest.raises(errors.InvalidArgument, match="is not a string"):
            encode_map({"m": [*kinds * count, wrong]})


class Own(str):
    """A string that is equal to nothing else."""

    __hash__ = str.__hash__

    def __eq__(self, other):
        return self is other


def nested_in(kind, levels):
    value = kind()
    for _ in range(levels):
        value = OrderedDict(a=value) if kind is OrderedDict else kind([value])
    return value


@pytest.mark.parametrize("count", [1, 40])
@pytest.mark.parametrize(
    ("value", "told"),
    [
        (OrderedDict({1: 2}), "is not a string"),
        (OrderedDict({b"k": 2}), "is not a string"),
        ([OrderedDict({"a": [Counter({None: 1})]})], "is not a string"),
        ({Own("k"): 1, Own("k"): 2}, "twice"),
        (nested_in(OrderedDict, DEPTH_MAX), "deeper"),
        (nested_in(type("Own", (list,), {}), DEPTH_MAX), "deeper"),
        (msgpack.ExtType(1, b""), "extension"),
        ([msgpack.Timestamp(1)], "extension"),
    ],
)
def test_subclasses_are_checked_as_what_they_are_written_as(value, told, count):
    with pytest.raises(errors.InvalidArgument, match=told):
        encode_map({"m": [value] * count})


@pytest.mark.parametrize("count", [1, 40])
def test_subclasses_of_plain_values_are_written_as_those(count):
    value = [OrderedDict(a=1), Counter("aab"), namedtuple("Pair", "a b")(1, Own("x")), {Own("k"): True}]
    read = [{"a": 1}, {"a": 2, "b": 1}, [1, "x"], {"k": True}]
    assert decode_map(encode_map({"m": value * count})) == {"m": read * count}


def test_claims_of_length_do_not_set_memory_aside():
    body = b"\x81\xa1a" + b"\xdd\x00\x01\x00\x00" * 900 + bytes(70_000)  # 900 nested arrays of 65536 each
    tracemalloc.start()
    try:
        with pytest.raises(errors.ProtocolError):
            decode_map(body)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200) | plain.map(msgpack.packb))
def test_arbitrary_bytes_give_a_map_or_a_protocol_error(body):
    for decode in (decode_map, decode_message, decode_error):
        try:
            decoded = decode(body)
        except errors.ProtocolError as error:
            assert error.message  # noqa: PT017
        else:
            assert isinstance(decoded, dict | Message | errors.McpError)


@settings(max_examples=100, deadline=None)
@given(messages, st.data())
def test_a_damaged_message_is_decoded_or_refused_but_nothing_else(message, data):
    body = bytearray(encode_message(message))
    body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    try:
        assert isinstance(decode_message(body), Message)
    except errors.ProtocolError as error:
        assert error.message  # noqa: PT017


@pytest.mark.parametrize(
    ("payload", "named"),
    [
        ({"args": {"value": object()}}, "args.value"),
        ({"args": [1, {"deep": {1, 2}}]}, r"args\[1\].deep"),
        ({"n": 2**64}, 'payload.n"'),
        ({"n": -(2**63) - 1}, 'payload.n"'),
        ({"s": "\ud800"}, 'payload.s"'),
        ({"m": {1: 2}}, "key 1"),
        ({b"k": 2}, "key b'k'"),
    ],
)
def test_what_cannot_be_sent_is_refused_by_the_sender(payload, named):
    with pytest.raises(errors.InvalidArgument, match=named):
        encode_message(Message("T", payload, "i"))


def test_a_payload_that_contains_itself_is_refused():
    payload = {}
    payload["again"] = payload
    with pytest.raises(errors.InvalidArgument, match="depth_max"):
        encode_message(Message("T", payload, "i"))


@pytest.mark.parametrize("kind", [errors.Busy, errors.VersionConflict, errors.McpError, errors.NoLeader])
def test_errors_arrive_as_they_were_raised(kind):
    error = decode_error(encode_error(kind("what and why", details={"version": 3})))
    assert type(error) is kind
    assert (error.message, error.details) == ("what and why", {"version": 3})


def test_an_error_is_cut_to_what_fits():
    error = errors.VersionConflict("ä" * 9000, details={"value": bytes(100)})
    assert decode_error(encode_error(error, bytes_max=20_000)).details == {"value": bytes(100)}
    assert len(encode_error(error)) <= ERROR_BYTES_LEAST
    cut = decode_error(encode_error(error))
    assert (type(cut), cut.details) == (errors.VersionConflict, {})
    assert len(cut.message) == ERROR_MESSAGE_CHARS_MAX


def test_an_error_is_encoded_whatever_it_holds():
    error = decode_error(encode_error(errors.Busy("x\ud800" + "y" * 10_000, details={"o": object()})))
    assert type(error) is errors.Busy
    assert error.details == {}
    assert error.message.startswith("x?y")


def test_an_unknown_code_is_a_remote_error():
    error = decode_error(msgpack.packb({"code": "NEW_IN_2", "message": "m"}))
    assert type(error) is errors.RemoteError
    assert error.details["code"] == "NEW_IN_2"


def test_a_message_counts_its_hops_down():
    assert Ttl(2, 5).hop() == Ttl(1, 5)
    with pytest.raises(errors.MessageExpired, match="hop limit"):
        Ttl(0, 5).hop()
    with pytest.raises(errors.MessageExpired, match="expired"):
        Ttl(2, 0).hop()


def test_time_is_spent_and_then_a_message_is_expired():
    assert Ttl(1, 100).spent(40) == Ttl(1, 60)
    assert not Ttl(0, 1).expired
    assert Ttl(1, 100).spent(101).expired


def test_a_reply_keeps_the_ids():
    request = Message("READ", {}, "id", "trace", VersionVector.from_mapping({"log": 1}))
    reply = request.reply("READ_RESULT", {"value": 1}, VersionVector.from_mapping({"log": 4}))
    assert (reply.id, reply.trace_id, reply.type, reply.vector.get("log")) == (
        "id",
        "trace",
        "READ_RESULT",
        4,
    )


def test_a_message_made_by_hand_is_checked():
    with pytest.raises(errors.InvalidArgument, match="vector"):
        Message("T", {}, "i", vector={"log": 1})
