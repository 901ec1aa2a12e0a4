"""Bodies of datagrams and stream messages: what is written is read, and nothing else is."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcp.cluster.gossip import codec
from mcp.cluster.gossip.codec import (
    Carried,
    Datagram,
    Delta,
    Kind,
    Summary,
    SummaryEntry,
    decode_datagram,
    decode_stream,
    encode_datagram,
    encode_stream,
)
from mcp.cluster.gossip.limits import (
    ADDRESS_BYTES_MAX,
    CARD_INLINE_BYTES_MAX,
    COUNT_MAX,
    DATAGRAM_BYTES_MAX,
    LOAD_BYTES_MAX,
    NAME_BYTES_MAX,
)
from mcp.cluster.gossip.seal import SEAL_BYTES
from mcp.cluster.gossip.updates import Alive, Dead, FullRecord, Left, LoadUpdate, State, Suspect
from mcp.errors import ProtocolError

names = st.one_of(st.sampled_from(["a", "N-9_", "n.2:x"]), st.text("abyzABYZ0189", min_size=1, max_size=9))
addresses = st.text("!~az:1.[]", min_size=1, max_size=20)
counts = st.integers(0, COUNT_MAX)
marks = st.integers(0, 2**64 - 1)
maps = st.dictionaries(st.sampled_from("abcé"), st.one_of(st.integers(0, 99), st.text(max_size=4)))
packed = maps.map(msgpack.packb)
cards = st.one_of(st.just(b""), packed)
updates = st.one_of(
    st.builds(Alive, names, counts, addresses, counts, st.one_of(st.none(), cards)),
    st.builds(Suspect, names, counts, names),
    st.builds(Dead, names, counts, names),
    st.builds(Left, names, counts),
)
loads = st.builds(LoadUpdate, names, counts, counts, packed)


@st.composite
def datagrams(draw: st.DrawFn) -> Datagram:
    sender = draw(names)
    own = draw(st.one_of(st.none(), st.builds(LoadUpdate, st.just(sender), counts, counts, packed)))
    return Datagram(
        draw(st.sampled_from(Kind)),
        draw(st.integers(0, 2**32 - 1)),
        sender,
        draw(st.one_of(st.just(""), names)),
        draw(st.one_of(st.just(""), names)),
        draw(marks),
        own,
        tuple(draw(st.lists(updates, max_size=8))),
        tuple(draw(st.lists(loads, max_size=3))),
    )


@st.composite
def records(draw: st.DrawFn) -> FullRecord:
    name = draw(names)
    load = draw(st.one_of(st.none(), st.builds(LoadUpdate, st.just(name), counts, counts, packed)))
    state, age_ms = draw(st.sampled_from(State)), draw(st.integers(0, 2**42))
    return FullRecord(name, draw(counts), state, draw(addresses), draw(counts), draw(cards), age_ms, load)


none_or_name = st.one_of(st.just(""), names)
entries = st.builds(SummaryEntry, names, st.sampled_from(State), marks)
streams = st.one_of(
    st.builds(
        Summary, names, addresses, none_or_name, none_or_name, st.lists(entries, max_size=20).map(tuple)
    ),
    st.builds(
        Delta, names, addresses, st.lists(records(), max_size=3).map(tuple), st.lists(names).map(tuple)
    ),
    st.builds(Carried, names, addresses, st.binary(max_size=50)),
)


@given(datagrams())
@settings(max_examples=40)
def test_a_datagram_is_read_as_it_was_written(message: Datagram) -> None:
    assert decode_datagram(encode_datagram(message)) == message


@given(streams)
@settings(max_examples=40)
def test_a_stream_message_is_read_as_it_was_written(message: codec.StreamMessage) -> None:
    assert decode_stream(encode_stream(message)) == message


@given(st.one_of(datagrams().map(encode_datagram), streams.map(encode_stream)), st.data())
@settings(max_examples=80)
def test_a_changed_body_is_refused_or_is_another_message_in_its_only_form(
    body: bytes, data: st.DataObject
) -> None:
    at = data.draw(st.integers(0, len(body) - 1))
    changed = body[:at] + bytes((data.draw(st.integers(0, 255)),)) + body[at + 1 :]
    changed = changed[: data.draw(st.integers(0, len(body)))] if data.draw(st.booleans()) else changed
    readers: tuple[tuple[Any, Any], ...] = (
        (decode_datagram, encode_datagram),
        (decode_stream, encode_stream),
    )
    for decode, encode in readers:
        try:
            message = decode(changed)
        except ProtocolError:
            continue
        assert encode(message) == changed


@given(st.binary(max_size=200))
@settings(max_examples=300)
def test_random_bytes_are_refused(body: bytes) -> None:
    for decode in (decode_datagram, decode_stream):
        with pytest.raises(ProtocolError):
            decode(body)


PING: list[Any] = [0, 7, "a", "b", "", 99, None, [], []]


@pytest.mark.parametrize(
    ("at", "value"),
    [
        (0, 5),
        (0, True),
        (0, -1),
        (1, 2**32),
        (1, 1.0),
        (2, ""),
        (2, "-a"),
        (2, "a" * (NAME_BYTES_MAX + 1)),
        (2, b"a"),
        (3, None),
        (4, "a b"),
        (5, 2**64 - 1 + 0.0),
        (6, []),
        (6, [1, 1, b"\xc0"]),
        (6, [1, 1, msgpack.packb({1: 2})]),
        (6, [1, 1, msgpack.packb({"a": "x" * LOAD_BYTES_MAX})]),
        (7, [["a", 1, 4]]),
        (7, [["a", 1, 3, "b"]]),
        (7, [["a", 1, 1]]),
        (7, [["a", 1, 0, "host", 1]]),
        (7, [["a", 1, 0, "ho st", 1, None]]),
        (7, [["a", 1, 0, "x" * (ADDRESS_BYTES_MAX + 1), 1, None]]),
        (7, [["a", COUNT_MAX + 1, 3]]),
        (7, [["a", -1, 3]]),
        (7, [["a", 1, 0, "host", 1, b"no map"]]),
        (7, [["a", 1, 0, "host", 1, msgpack.packb({"a": "x" * CARD_INLINE_BYTES_MAX})]]),
        (7, [["a", 1, 3]] * 256),
        (7, {}),
        (8, [["a", 1, 1]]),
        (8, [["a", 1, 1, None]]),
    ],
)
def test_a_datagram_with_one_wrong_field_is_refused(at: int, value: object) -> None:
    decode_datagram(msgpack.packb(PING))
    with pytest.raises(ProtocolError):
        decode_datagram(msgpack.packb([*PING[:at], value, *PING[at + 1 :]]))


def test_what_follows_a_datagram_and_what_is_written_at_length_is_refused() -> None:
    body = msgpack.packb(PING)
    with pytest.raises(ProtocolError, match="ends at byte"):
        decode_datagram(body + b"\xc0")
    with pytest.raises(ProtocolError, match="the one way"):
        decode_datagram(body.replace(b"\x07", b"\xcd\x00\x07"))


def test_claims_of_elements_that_are_not_there_are_refused_before_room_is_made() -> None:
    for body in (b"\xdd\xff\xff\xff\xff", b"\x99" * 1000, b"\xdc\xff\xff" * 400, b"\xc7\x00\x01"):
        with pytest.raises(ProtocolError):
            decode_datagram(body)


def test_the_largest_update_fits_into_the_most_crowded_datagram() -> None:
    name = "n" * NAME_BYTES_MAX
    card = msgpack.packb({"c": "x" * (CARD_INLINE_BYTES_MAX - 6)})
    load = msgpack.packb({"l": "x" * (LOAD_BYTES_MAX - 5)})
    assert (len(card), len(load)) == (CARD_INLINE_BYTES_MAX, LOAD_BYTES_MAX)
    own = LoadUpdate(name, COUNT_MAX, COUNT_MAX, load)
    update = Alive(name, COUNT_MAX, "a" * ADDRESS_BYTES_MAX, COUNT_MAX, card)
    message = Datagram(Kind.ACK, 2**32 - 1, name, name, name, 2**64 - 1, own, (update,))
    body = encode_datagram(message)
    assert decode_datagram(body) == message
    assert len(body) + SEAL_BYTES + codec.LIST_HEADS_BYTES <= DATAGRAM_BYTES_MAX
