"""Messages that come again with other ids: read once, and the same as if they were read each time."""

import random
import tracemalloc

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcp.causality.vector import VersionVector
from mcp.errors import InputInvalid, ProtocolError
from mcp.wire import recurring, tensors
from mcp.wire.codec import decode_map, decode_message, encode_message, message_from_fields
from mcp.wire.messages import Message, Ttl
from mcp.wire.tensors import pack_all, unpack_all


@pytest.fixture(autouse=True)
def nothing_known():
    recurring._known.clear()
    tensors.forget_plans()
    yield
    recurring._known.clear()
    tensors.forget_plans()


def fresh_id(number: int) -> str:
    return f"{random.Random(number).getrandbits(128):032x}"


def request(number: int, **changes) -> Message:
    fields = {
        "type": "INFER_REQUEST",
        "payload": {
            "model_hint": "digits",
            "inputs": [{"name": "x", "dtype": "FP32", "shape": [1, 4], "segment": 0}],
        },
        "ttl": Ttl(4, 10_000),
        **changes,
    }
    return Message(id=fresh_id(2 * number), trace_id=fresh_id(2 * number + 1), **fields)


def test_the_second_is_read_as_the_first_and_not_parsed():
    first, second = (decode_message(encode_message(request(number))) for number in (1, 2))
    assert first == request(1)
    assert second == request(2)
    assert second.payload is first.payload


@pytest.mark.parametrize(
    "other",
    [
        {"payload": {"model_hint": "digits"}},
        {"type": "INFER_RESPONSE"},
        {"ttl": Ttl(4, 9_999)},
        {"vector": VersionVector.from_mapping({"log": 7})},
        {"credit": 3},
    ],
)
def test_whatever_differs_but_the_ids_is_another_message(other):
    decode_message(encode_message(request(1)))
    for number in (2, 3):
        assert decode_message(encode_message(request(number, **other))) == request(number, **other)


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(["INFER_REQUEST", "INFER_RESPONSE", "READ"]),
    st.dictionaries(st.text(max_size=5), st.integers(0, 3) | st.text(max_size=5), max_size=3),
    st.lists(st.text(st.characters(codec="utf-8"), min_size=1, max_size=33), min_size=2, max_size=2),
    st.booleans(),
)
def test_it_is_what_reading_it_anew_gives(type_, payload, ids, long):
    if long:
        ids = [fresh_id(1), fresh_id(2)]
    body = encode_message(Message(type_, payload, ids[0], ids[1]))
    for _ in range(2):
        assert decode_message(body) == message_from_fields(decode_map(body))


def test_other_types_are_not_kept():
    for number in range(3):
        decode_message(encode_message(request(number, type="READ")))
    assert not recurring._known


def test_an_id_that_is_no_text_is_refused_as_ever():
    body = encode_message(request(1))
    decode_message(body)
    broken = body[:6] + b"\xff" + body[7:]
    with pytest.raises(ProtocolError):
        decode_message(broken)


def test_another_number_of_fields_before_the_same_bytes_is_refused_as_ever():
    body = encode_message(request(1))
    decode_message(body)
    with pytest.raises(ProtocolError):
        decode_message(bytes([body[0] + 1]) + body[1:])


def test_it_is_bounded_in_number_and_in_size():
    for number in range(recurring.KNOWN_MAX + 1):
        decode_message(encode_message(request(number, payload={"number": number, "inputs": []})))
    assert len(recurring._known) == 1
    assert len(tensors._plans) == 1
    recurring._known.clear()
    decode_message(encode_message(request(1, payload={"data_chunk": "x" * recurring.BYTES_MAX})))
    assert not recurring._known


def test_a_long_message_is_not_copied_to_look_for_it():
    body = encode_message(request(1, payload={"data_chunk": "x" * (1 << 20)}))
    tracemalloc.start()
    try:
        assert recurring.recurred(body) is None
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < len(body) // 2


def test_from_elsewhere_in_another_order_it_is_read_and_not_kept():
    message = request(1)
    fields = {
        "type": message.type,
        "payload": message.payload,
        "id": message.id,
        "trace_id": message.trace_id,
    }
    assert decode_message(msgpack.packb(fields)).payload == message.payload
    assert not recurring._known


def test_tensors_of_what_recurs_are_the_same_arrays():
    arrays = {"x": np.arange(4, dtype=np.float32)[np.newaxis], "y": np.ones((2, 3), np.int64)}
    specs, segments = pack_all(arrays)
    payload = {"inputs": specs}
    first, second = (decode_message(encode_message(request(number, payload=payload))) for number in (1, 2))
    assert id(second.payload["inputs"]) in tensors._plans
    for message in (first, second):
        found = unpack_all(message.payload["inputs"], segments, text=True)
        assert list(found) == list(arrays)
        for name, array in arrays.items():
            np.testing.assert_array_equal(found[name], array)
            assert found[name].dtype == array.dtype
            assert not found[name].flags.writeable


@pytest.mark.parametrize("segments", [[], [b"12"], [b"1" * 17]], ids=["none", "too short", "too long"])
def test_segments_that_do_not_fit_are_refused_as_ever(segments):
    decode_message(encode_message(request(1)))
    again = decode_message(encode_message(request(2)))
    with pytest.raises(InputInvalid):
        unpack_all(again.payload["inputs"], [memoryview(each) for each in segments])


@pytest.mark.parametrize(
    "spec",
    [
        {"name": "x", "dtype": "BOOL", "shape": [1], "segment": 0},
        {"name": "x", "dtype": "BYTES", "shape": [1], "segment": 0},
        {"name": "x", "dtype": "FP32", "shape": [1], "data": b"1234"},
        {"name": "x", "dtype": "FP33", "shape": [1], "segment": 0},
        {"name": "x", "dtype": "FP32", "shape": [-1], "segment": 0},
        {"name": "x", "dtype": "FP32", "shape": [1], "segment": -1},
        {"name": "x", "dtype": "FP32", "shape": [1]},
        "x",
    ],
)
def test_what_has_to_be_looked_at_each_time_is(spec):
    for number in (1, 2):
        message = decode_message(encode_message(request(number, payload={"inputs": [spec]})))
    assert id(message.payload["inputs"]) not in tensors._plans


def test_a_name_twice_is_refused_each_time():
    spec = {"name": "x", "dtype": "UINT8", "shape": [1], "segment": 0}
    for number in (1, 2):
        message = decode_message(encode_message(request(number, payload={"inputs": [spec, spec]})))
        with pytest.raises(InputInvalid, match="twice"):
            unpack_all(message.payload["inputs"], [memoryview(b"1")])
