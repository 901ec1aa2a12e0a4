"""The handshake between both real ends, and with peers that cheat."""

from dataclasses import replace

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcp import errors
from mcp.wire.codec import decode_map, encode_map
from mcp.wire.frame import HANDSHAKE_FRAME_BYTES_MAX, HANDSHAKE_KINDS, FrameKind, encode_frame
from mcp.wire.handshake import AcceptorHandshake, Identity, InitiatorHandshake, PeerLimits, Role

KEY = b"k" * 32
NODE = Identity("prod", "node-1", KEY)
CLIENT = Identity("prod", "client-1", KEY, Role.CLIENT)
OURS, THEIRS = PeerLimits(1 << 20, 10), PeerLimits(1 << 21, 20)
NONCE_A, NONCE_B = b"a" * 32, b"b" * 32


def ends(initiator=CLIENT, acceptor=NODE, nonces=(NONCE_A, NONCE_B)):
    return InitiatorHandshake(initiator, nonces[0], OURS), AcceptorHandshake(acceptor, nonces[1], THEIRS)


def run(initiator, acceptor, change=lambda kind, fields: fields):
    """Pass frames between both ends until neither has any; return their last steps."""
    sender, receiver = initiator, acceptor
    step, last = initiator.start(), {}
    while step.send:
        last[sender] = step
        ((kind, body),) = step.send
        assert len(body) < HANDSHAKE_FRAME_BYTES_MAX
        step = receiver.receive(kind, encode_map(change(kind, decode_map(body))))
        sender, receiver = receiver, sender
    last[sender] = step
    return last.get(initiator), last.get(acceptor)


@pytest.mark.parametrize("key", [KEY, b""])
def test_both_ends_learn_who_the_other_is(key):
    near, far = run(*ends(Identity("prod", "client-1", key, Role.CLIENT), Identity("prod", "node-1", key)))
    assert (near.established.node_id, near.established.role, near.established.version) == (
        "node-1",
        Role.NODE,
        "1.0",
    )
    assert (far.established.node_id, far.established.role) == ("client-1", Role.CLIENT)
    assert near.established.limits == THEIRS
    assert far.established.limits == OURS


def test_nodes_say_which_journal_they_have_and_whoever_says_none_has_none():
    other = Identity("prod", "node-2", KEY, journal=2**63 - 1)
    near, far = run(*ends(other, replace(NODE, journal=7)))
    assert (near.established.journal, far.established.journal) == (7, 2**63 - 1)
    near, far = run(*ends(CLIENT, NODE))
    assert (near.established.journal, far.established.journal) == (0, 0)


@pytest.mark.parametrize("journal", [-1, 2**63, True, "7", 1.0, None])
def test_what_is_no_number_of_a_journal_is_refused(journal):
    _, far = run(*ends(), change=lambda kind, fields: {**fields, "journal": journal})
    assert type(far.failure) is errors.ProtocolError
    assert '"journal" must be an integer' in far.failure.message


@pytest.mark.parametrize("pair", [(b"x" * 32, KEY), (b"", KEY), (KEY, b"")])
def test_another_key_is_refused_and_the_client_proves_nothing(pair):
    initiator, acceptor = ends(Identity("prod", "c", pair[0]), Identity("prod", "n", pair[1]))
    near, far = run(initiator, acceptor)
    assert type(near.failure) is errors.AuthenticationFailed
    assert "cluster key" in near.failure.message
    ((kind, body),) = near.send
    assert kind is FrameKind.REJECT
    assert decode_map(body).keys() == {"code", "message"}
    assert type(far.failure) is errors.AuthenticationFailed
    assert "the end that connected refused this one: " in far.failure.message
    assert far.established is None


def test_a_client_without_the_key_cannot_finish_even_if_it_ignores_the_nodes_proof():
    _, acceptor = ends()
    hello = {"version": "1.0", "cluster_id": "prod", "role": "client", "node_id": "x", "nonce": NONCE_A}
    acceptor.receive(FrameKind.HELLO, encode_map(hello))
    step = acceptor.receive(
        FrameKind.PROOF,
        encode_map({"proof": b"0" * 32, "limits": {"frame_bytes_max": 4096, "streams_max": 1}}),
    )
    assert type(step.failure) is errors.AuthenticationFailed
    assert step.established is None
    assert step.send[0][0] is FrameKind.REJECT


def test_a_nodes_own_proof_cannot_be_sent_back_to_it():
    _, acceptor = ends()
    hello = {"version": "1.0", "cluster_id": "prod", "role": "client", "node_id": "x", "nonce": NONCE_B}
    ((_, challenge),) = acceptor.receive(FrameKind.HELLO, encode_map(hello)).send
    body = {"proof": decode_map(challenge)["proof"], "limits": {"frame_bytes_max": 4096, "streams_max": 1}}
    assert type(acceptor.receive(FrameKind.PROOF, encode_map(body)).failure) is errors.AuthenticationFailed


def test_a_recorded_proof_is_worthless_later():
    recorded = {}

    def record(kind, fields):
        recorded[kind] = fields
        return fields

    run(*ends(), record)
    _, later = ends(nonces=(NONCE_A, b"c" * 32))
    later.receive(FrameKind.HELLO, encode_map(recorded[FrameKind.HELLO]))
    step = later.receive(FrameKind.PROOF, encode_map(recorded[FrameKind.PROOF]))
    assert type(step.failure) is errors.AuthenticationFailed
    imitated, _ = ends(nonces=(b"d" * 32, NONCE_B))
    imitated.start()
    step = imitated.receive(FrameKind.CHALLENGE, encode_map(recorded[FrameKind.CHALLENGE]))
    assert type(step.failure) is errors.AuthenticationFailed


@pytest.mark.parametrize(
    ("kind", "field", "value"),
    [
        (FrameKind.HELLO, "role", "node"),
        (FrameKind.HELLO, "node_id", "other"),
        (FrameKind.HELLO, "nonce", b"z" * 32),
        (FrameKind.HELLO, "version", "1.7"),
        (FrameKind.CHALLENGE, "node_id", "other"),
        (FrameKind.CHALLENGE, "nonce", b"z" * 32),
        (FrameKind.CHALLENGE, "version", "1.7"),
        (FrameKind.CHALLENGE, "proof", b"z" * 32),
        (FrameKind.PROOF, "proof", b"z" * 32),
    ],
)
def test_whatever_is_changed_on_the_way_breaks_the_proof(kind, field, value):
    near, far = run(*ends(), lambda got, fields: {**fields, field: value} if got is kind else fields)
    assert type(near.failure) is errors.AuthenticationFailed
    assert far.established is None


def test_a_later_minor_version_is_spoken_as_ours():
    _, acceptor = ends()
    hello = {
        "version": "1.7",
        "cluster_id": "prod",
        "role": "client",
        "node_id": "x",
        "nonce": NONCE_A,
        "new": 1,
    }
    assert acceptor.receive(FrameKind.HELLO, encode_map(hello)).send[0][0] is FrameKind.CHALLENGE


def test_another_major_version_is_refused_on_both_ends():
    change = {FrameKind.HELLO: "2.0"}
    near, far = run(
        *ends(), lambda kind, fields: {**fields, "version": change.get(kind, fields.get("version"))}
    )
    assert type(near.failure) is type(far.failure) is errors.VersionMismatch
    assert "2.0" in near.failure.message
    assert "1.0" in near.failure.message
    near, _ = run(
        *ends(), lambda kind, fields: {**fields, "version": "2.3"} if kind is FrameKind.CHALLENGE else fields
    )
    assert type(near.failure) is errors.VersionMismatch


def test_another_cluster_is_refused_and_not_told_the_right_name():
    near, far = run(*ends(Identity("stage", "c", KEY), NODE))
    assert type(near.failure) is type(far.failure) is errors.AuthenticationFailed
    assert "prod" not in near.failure.message
    assert far.send[0][0] is FrameKind.REJECT


def test_a_node_does_not_connect_to_itself_nor_to_its_double():
    near, far = run(*ends(NODE, NODE))
    assert type(near.failure) is type(far.failure) is errors.AuthenticationFailed
    assert "node-1" in near.failure.message
    assert "itself" in near.failure.message


def test_a_full_node_says_so_to_whoever_has_the_key():
    asked = []

    def admit(peer):
        asked.append(peer)
        raise errors.Busy("full")

    full = AcceptorHandshake(NODE, NONCE_B, THEIRS, admit)
    near, far = run(InitiatorHandshake(CLIENT, NONCE_A, OURS), full)
    assert type(near.failure) is type(far.failure) is errors.Busy
    assert [(peer.node_id, peer.role) for peer in asked] == [("client-1", Role.CLIENT)]
    stranger = replace(CLIENT, cluster_key=b"another")
    full = AcceptorHandshake(NODE, NONCE_B, THEIRS, admit)
    near, _ = run(InitiatorHandshake(stranger, NONCE_A, OURS), full)
    assert type(near.failure) is errors.AuthenticationFailed
    assert [(peer.node_id, peer.role) for peer in asked] == [("client-1", Role.CLIENT)]


@pytest.mark.parametrize("nonce", [b"", b"x" * 31, b"x" * 33])
def test_a_nonce_has_one_length(nonce):
    with pytest.raises(errors.ConfigInvalid, match="nonce"):
        InitiatorHandshake(CLIENT, nonce, OURS)


@pytest.mark.parametrize("name", ["", "-x", "a b", "x" * 129, "ü", None, "a\n"])
def test_names_are_checked(name):
    with pytest.raises(errors.ConfigInvalid, match="node_id"):
        Identity("prod", name, KEY)


def test_the_key_is_not_shown():
    assert "kkk" not in repr(NODE)
    with pytest.raises(errors.ConfigInvalid, match="bytes"):
        Identity("prod", "n", "text")


HELLO = {"version": "1.0", "cluster_id": "prod", "role": "client", "node_id": "x", "nonce": NONCE_A}


@pytest.mark.parametrize(
    ("kind", "fields", "says"),
    [
        (FrameKind.HELLO, {**HELLO, "role": "admin"}, "role"),
        (FrameKind.HELLO, {**HELLO, "role": ["node"]}, "role"),
        (FrameKind.HELLO, {**HELLO, "nonce": b"short"}, "nonce"),
        (FrameKind.HELLO, {**HELLO, "nonce": "x" * 32}, "nonce"),
        (FrameKind.HELLO, {**HELLO, "node_id": "a b"}, "node_id"),
        (FrameKind.HELLO, {**HELLO, "cluster_id": 7}, "cluster_id"),
        (FrameKind.HELLO, {**HELLO, "version": 1}, "version"),
        (FrameKind.HELLO, {}, "version"),
        (FrameKind.PROOF, {"proof": b"x" * 32}, "expected HELLO"),
        (FrameKind.CHALLENGE, HELLO, "expected HELLO"),
    ],
)
def test_a_hello_that_is_wrong_is_refused_and_says_why(kind, fields, says):
    _, acceptor = ends()
    step = acceptor.receive(kind, encode_map(fields))
    assert isinstance(step.failure, errors.ProtocolError)
    assert says in step.failure.message
    assert step.send[0][0] is FrameKind.REJECT


@pytest.mark.parametrize(
    "limits",
    [
        None,
        {},
        {"frame_bytes_max": 4095, "streams_max": 1},
        {"frame_bytes_max": 1 << 20, "streams_max": True},
    ],
)
def test_limits_are_checked(limits):
    near, far = run(
        *ends(), lambda kind, fields: {**fields, "limits": limits} if kind is FrameKind.PROOF else fields
    )
    assert isinstance(far.failure, errors.ProtocolError)
    assert isinstance(near.failure, errors.ProtocolError)
    assert far.established is None


@settings(max_examples=150, deadline=None)
@given(
    st.booleans(),
    st.lists(
        st.tuples(
            st.sampled_from(sorted(HANDSHAKE_KINDS)),
            st.binary(max_size=100)
            | st.dictionaries(
                st.sampled_from(
                    ["version", "cluster_id", "role", "node_id", "nonce", "proof", "limits", "code"]
                ),
                st.sampled_from(["1.0", "prod", "node", "x", NONCE_A, {}, 7, None]),
            ).map(msgpack.packb),
        ),
        max_size=4,
    ),
)
def test_arbitrary_frames_never_establish_anything_and_never_raise(as_initiator, frames):
    end = ends()[0 if as_initiator else 1]
    end.start()
    for kind, body in frames:
        step = end.receive(kind, body)
        assert step.established is None
        for answer, answer_body in step.send:
            assert encode_frame(answer, 0, answer_body, frame_bytes_max=HANDSHAKE_FRAME_BYTES_MAX)


@pytest.mark.parametrize(
    ("key", "says"), [(b"", "it has none: give it"), (KEY + b"\n", "ends in white space")]
)
def test_an_end_with_a_key_that_looks_wrong_is_told_so(key, says):
    near, _ = run(*ends(replace(CLIENT, cluster_key=key)))
    assert type(near.failure) is errors.AuthenticationFailed
    assert says in near.failure.message
