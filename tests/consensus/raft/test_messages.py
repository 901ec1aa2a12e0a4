"""The codec: what goes in comes out, and nothing that a peer can send does harm."""

from __future__ import annotations

import contextlib
import random
import tracemalloc
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from raft_script import call_election
from raft_world import World

from consensus.configuration import Configuration
from consensus.errors import InvariantViolated
from consensus.interface import Entry, EntryKind, HardState, Recovered
from consensus.raft import RaftConfig, RaftEngine
from consensus.raft.messages import (
    INTEGER_MAX,
    Ack,
    Append,
    Codec,
    Malformed,
    Message,
    NewerTerm,
    NotMember,
    PreVote,
    PreVoteAnswer,
    RequestVote,
    SnapshotPending,
    TimeoutNow,
    TransferVote,
    Vote,
)

CONFIG = RaftConfig()
CODEC = Codec(CONFIG)
integers = st.integers(0, INTEGER_MAX)
positive = st.integers(1, INTEGER_MAX)


contents = st.one_of(
    st.tuples(st.sampled_from((EntryKind.COMMAND, EntryKind.NOOP)), st.binary(max_size=40)),
    st.tuples(
        st.just(EntryKind.CONFIG),
        st.lists(st.text("abc", min_size=1), min_size=1, max_size=7, unique=True).map(
            lambda names: Configuration.of_voters(names).encode()
        ),
    ),
)


@st.composite
def appends(draw: st.DrawFn) -> Append:
    """Appends as a leader builds them."""
    count = draw(st.integers(0, 5))
    prev_index = draw(st.integers(0, INTEGER_MAX - count))
    terms = sorted(draw(st.lists(integers, min_size=count + 2, max_size=count + 2)))
    entries = [Entry(prev_index + i, terms[i], *draw(contents)) for i in range(1, count + 1)]
    return Append(terms[-1], draw(integers), draw(integers), prev_index, terms[0], entries or ())


messages = st.one_of(
    st.builds(RequestVote, integers, integers, integers),
    st.builds(Vote, integers, integers),
    st.builds(Ack, integers, integers, positive, st.booleans(), st.booleans(), integers),
    st.builds(SnapshotPending, integers, integers),
    st.builds(PreVote, integers, integers, integers, integers),
    st.builds(PreVoteAnswer, integers, integers, st.booleans()),
    st.builds(TransferVote, integers, integers, integers),
    st.builds(NewerTerm, integers),
    st.builds(TimeoutNow, integers),
    st.builds(NotMember, integers, integers),
    appends(),
)


def encode(message: Message) -> bytes:
    if isinstance(message, Append):
        return CODEC.encode_append(
            message, CODEC.encode_entries([(e.data, e.index, e.term, e) for e in message.entries])
        )
    return CODEC.encode(message)


@given(messages)
def test_what_is_encoded_is_decoded(message: Message) -> None:
    decoded = CODEC.decode(encode(message))
    assert decoded == message
    assert type(decoded) is type(message)


GOOD_APPEND = [3, 2, 1, 0, 5, 1, [[6, 1, 0, b"x"], [7, 2, 1, b""]]]


def changed(*path_and_value: Any) -> list[Any]:
    *path, last, value = path_and_value
    fields = msgpack.unpackb(msgpack.packb(GOOD_APPEND))
    place = fields
    for step in path:
        place = place[step]
    place[last] = value
    return fields


def test_the_message_that_the_malformed_ones_derive_from_is_good() -> None:
    assert isinstance(CODEC.decode(msgpack.packb(GOOD_APPEND)), Append)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        (None, "not_a_message"),
        ([], "not_a_message"),
        ([True, 1], "not_a_message"),
        ([[2], 1], "not_a_message"),
        ({}, "not_a_message"),
        ({1: 1}, "not_msgpack"),
        (["append_entries"], "not_msgpack"),
        (msgpack.ExtType(1, b"x"), "not_msgpack"),
        ([0], "unknown_type"),
        ([255, 1], "unknown_type"),
        ([-1, 1], "unknown_type"),
        ([11], "wrong_length"),
        ([11, 1, 1, 1], "wrong_length"),
        ([11, -1, 0], "wrong_field"),
        ([11, 1, 2**63], "wrong_field"),
        ([11, 1.0, 0], "wrong_field"),
        ([11, None, 0], "wrong_field"),
        ([11, True, 0], "wrong_field"),
        ([11, b"1", 0], "wrong_field"),
        ([1, 1, 1], "wrong_length"),
        ([1, 1, 1, -1], "wrong_field"),
        ([2, 1], "unknown_type"),
        ([4, 1, 1, 1, True, False], "unknown_type"),
        ([12, 1, 1, 0, True, False, 0], "wrong_field"),
        ([12, 1, 1, 1, 1, False, 0], "wrong_field"),
        ([12, 1, 1, 1, True, None, 0], "wrong_field"),
        ([12, 1, 1, 1, True, False], "wrong_length"),
        ([12, 1, 1, 1, True, False, -1], "wrong_field"),
        ([12, 1, 1, 1, True, False, True], "wrong_field"),
        ([13, 1], "wrong_length"),
        ([13, 1, -1], "wrong_field"),
        ([5, 1], "wrong_length"),
        ([6, 1, 1, 1], "wrong_length"),
        ([6, 1, 1, 1, -1], "wrong_field"),
        ([7, 1, 1], "wrong_length"),
        ([7, 1, 1, 1], "wrong_field"),
        ([7, 1, -1, True], "wrong_field"),
        ([8, 1, 1], "wrong_length"),
        ([8, 1, 1, None], "wrong_field"),
        ([9], "wrong_length"),
        ([9, True], "wrong_field"),
        ([10, 1, 1], "wrong_length"),
        ([10, -1], "wrong_field"),
        (GOOD_APPEND[:-1], "wrong_length"),
        (changed(6, None), "wrong_entries"),
        (changed(6, b"entries"), "wrong_entries"),
        (changed(6, 0, b"entry"), "wrong_entries"),
        (changed(6, 0, [6, 1, 0]), "wrong_entries"),
        (changed(6, 0, 0, 5), "wrong_order"),
        (changed(6, 1, 0, 6), "wrong_order"),
        (changed(6, 0, 0, True), "wrong_field"),
        (changed(6, 0, 1, 0), "wrong_order"),
        (changed(6, 1, 1, 3), "wrong_order"),
        (changed(6, 0, 1, b"1"), "wrong_field"),
        (changed(6, 0, 2, 3), "wrong_field"),
        (changed(6, 0, 2, 2), "wrong_configuration"),
        (changed(6, 0, 2, True), "wrong_field"),
        (changed(6, 0, 3, None), "wrong_field"),
        (changed(6, 0, 3, [1]), "wrong_field"),
        (changed(5, 3), "wrong_order"),
        (changed(4, INTEGER_MAX), "wrong_order"),
    ],
)
def test_malformed_messages_are_named(fields: Any, reason: str) -> None:
    with pytest.raises(Malformed) as problem:
        CODEC.decode(msgpack.packb(fields))
    assert problem.value.reason == reason


def test_a_message_beyond_the_limit_is_not_looked_at() -> None:
    with pytest.raises(Malformed, match="oversize"):
        CODEC.decode(b"\xc1" * (CONFIG.append_bytes_max + 1))


def test_headers_that_promise_much_allocate_little() -> None:
    bomb = b"\xdd\x00\x0f\xff\xff" * (CONFIG.append_bytes_max // 5)
    nested = b"\x91" * CONFIG.append_bytes_max
    tracemalloc.start()
    for data in (bomb, nested, b"\xc6\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff"):
        with pytest.raises(Malformed, match="not_msgpack"):
            CODEC.decode(data)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 64 * 1024 * 1024


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_decoded_or_malformed(data: bytes) -> None:
    with contextlib.suppress(Malformed):
        CODEC.decode(data)


def fresh(role: str) -> RaftEngine:
    """An engine with a few entries, in each of the three roles."""
    engine = RaftEngine("a", "abc", Recovered(HardState(0, None), None, []), now=0.0, random=random.Random(1))
    engine.peer_connected("b", 0.0)
    if role != "follower":
        call_election(engine, "b", codec=CODEC)
    if role == "leader":
        engine.receive("b", CODEC.encode(Vote(1)), 0.6)
        for data in (b"x", b"y"):
            engine.propose(data, 0.6)
    assert engine.status().role == role
    engine.take_output()
    return engine


plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.binary(max_size=8)
    | st.text(max_size=4),
    lambda children: st.lists(children, max_size=5),
    max_leaves=12,
)
small = st.integers(0, 4)
near_messages = st.one_of(
    st.tuples(
        st.integers(0, 10),
        small,
        small,
        small,
        small,
        small,
        st.lists(st.tuples(small, small, st.integers(0, 1), st.binary(max_size=3)), max_size=3),
    ),
    st.tuples(st.just(1), small, small, small),
    st.tuples(st.just(2), small),
    st.tuples(st.just(4), small, small, small, st.booleans(), st.booleans()),
    st.tuples(st.just(5), small, small),
    st.tuples(st.just(6), small, small, small, small),
    st.tuples(st.just(7), small, small, st.booleans()),
    st.tuples(st.just(8), small, small, small),
    st.tuples(st.integers(9, 10), small),
    plain,
).map(lambda fields: msgpack.packb(fields, use_bin_type=True))


@settings(max_examples=300)
@given(
    st.sampled_from(["follower", "candidate", "leader"]),
    st.lists(
        st.tuples(
            st.sampled_from(["a", "b", "c", "d", ""]), st.one_of(near_messages, st.binary(max_size=30))
        ),
        max_size=12,
    ),
)
def test_an_engine_survives_whatever_peers_send(role: str, letters: list[tuple[str, bytes]]) -> None:
    """It may find a contradiction with what is committed, and then says so; nothing else is raised."""
    engine = fresh(role)
    try:
        for at, (peer, data) in enumerate(letters):
            before = engine.status()
            engine.receive(peer, data, 1.0)
            output = engine.take_output()
            after = engine.status()
            assert after.term >= before.term
            assert after.commit_index >= before.commit_index
            assert after.commit_index <= after.last_index
            assert [entry.index for entry in output.committed] == list(
                range(before.commit_index + 1, after.commit_index + 1)
            )
            engine.tick(1.0 + at * 0.1)
            engine.take_output()
    except InvariantViolated as violation:
        if "is committed" not in str(violation):
            raise


@pytest.mark.parametrize("seed", range(3))
def test_a_cluster_works_on_while_one_link_carries_garbage(seed: int) -> None:
    world = World(3, seed=seed)
    leader = world.elect()
    rng = random.Random(seed)
    for n in range(200):
        target = rng.choice(sorted(world.nodes))
        world.nodes[target].live.receive(
            rng.choice(sorted(world.nodes)), rng.randbytes(rng.randint(0, 40)), world.now
        )
        leader.propose(b"%d" % n)
        world.run(0.001)
    world.converge()
    assert list(world.leaders) == [1]
    assert leader.commands() == [b"%d" % n for n in range(200)]
