"""The byte examples of docs/protocol.md, and its tables, are what the code does."""

import re
from pathlib import Path

import numpy as np
import pytest

import consensus.errors
import executor.errors
from mcp import errors
from mcp.cluster.gossip.codec import Datagram, Kind, decode_datagram, encode_datagram
from mcp.cluster.gossip.limits import (
    CARD_BYTES_MAX,
    CARD_INLINE_BYTES_MAX,
    DATAGRAM_BYTES_MAX,
    LOAD_BYTES_MAX,
    STREAM_BYTES_MAX,
)
from mcp.cluster.gossip.seal import DATAGRAM_LABEL, STREAM_LABEL, Seal
from mcp.cluster.gossip.updates import LoadUpdate, Suspect
from mcp.node.translation import translated
from mcp.wire.codec import decode_map, encode_map, encode_message
from mcp.wire.frame import FrameKind, encode_frame
from mcp.wire.handshake import AcceptorHandshake, Identity, InitiatorHandshake, PeerLimits, Role
from mcp.wire.messages import Message
from mcp.wire.tensors import BYTES_DTYPE, DTYPES, pack

ROOT = Path(__file__).parents[3]
TEXT = (ROOT / "docs" / "protocol.md").read_text()


def example(name):
    block = re.search(rf"```hex {name}\n(.*?)```", TEXT, re.DOTALL)
    return bytes.fromhex(block[1])


def test_the_ping():
    assert example("ping") == b"".join(encode_frame(FrameKind.PING))


def test_the_request():
    spec, segment = pack("x", np.array([1, 2, 3], np.int16), 0)
    message = Message("INFER_REQUEST", {"model_hint": "m", "inputs": [spec]}, "7")
    assert example("request") == b"".join(
        encode_frame(FrameKind.REQUEST, 1, encode_message(message), [segment])
    )


def test_a_part_and_credit():
    spec, segment = pack("y", np.array([1, 2, 3], np.int16), 0)
    body = encode_map({"step": 2, "outputs": [spec]})
    assert example("part") == b"".join(encode_frame(FrameKind.PART, 1, body, [segment]))
    assert example("credit") == b"".join(encode_frame(FrameKind.CREDIT, 1, encode_map({"parts": 8})))


def test_the_proofs():
    limits = PeerLimits(4096, 1)
    initiator = InitiatorHandshake(
        Identity("mcp", "client-1", b"secret", Role.CLIENT), bytes(range(32)), limits
    )
    acceptor = AcceptorHandshake(Identity("mcp", "node-1", b"secret"), bytes(range(32, 64)), limits)
    ((_, hello),) = initiator.start().send
    ((_, challenge),) = acceptor.receive(FrameKind.HELLO, hello).send
    ((_, proof),) = initiator.receive(FrameKind.CHALLENGE, challenge).send
    assert example("acceptor-proof") == decode_map(challenge)["proof"]
    assert example("initiator-proof") == decode_map(proof)["proof"]


def test_the_seal_of_gossip():
    seal = Seal(b"secret", "mcp", DATAGRAM_LABEL, DATAGRAM_BYTES_MAX)
    assert example("gossip-seal") == seal.seal(b"body")
    assert seal.open(example("gossip-seal")) == b"body"
    assert example("gossip-seal")[1:17].hex() == "2ed392b955b85ebc521d54261773a14b"
    assert f'"{DATAGRAM_LABEL.decode()}" or "{STREAM_LABEL.decode()}"' in TEXT


def test_a_ping_of_gossip():
    load = LoadUpdate("n1", 1, 3, encode_map({"queue": 0}))
    ping = Datagram(Kind.PING, 7, "n1", "n2", "", 0x0102030405060708, load, (Suspect("n3", 2, "n1"),))
    seal = Seal(b"secret", "mcp", DATAGRAM_LABEL, DATAGRAM_BYTES_MAX)
    assert example("gossip-ping") == seal.seal(encode_datagram(ping))
    assert decode_datagram(seal.open(example("gossip-ping"))) == ping


@pytest.mark.parametrize(
    "said",
    [
        f"At most {DATAGRAM_BYTES_MAX} bytes.",
        f"at most {STREAM_BYTES_MAX:,} bytes, each in a `GOSSIP`",
        f"Cards of more than {CARD_INLINE_BYTES_MAX} bytes",
        f"card, at most {CARD_BYTES_MAX} bytes",
        f"load, at most {LOAD_BYTES_MAX} bytes",
    ],
)
def test_the_sizes_of_gossip(said):
    assert said in TEXT


@pytest.mark.parametrize("kind", FrameKind)
def test_every_kind_has_its_row(kind):
    assert f"| `{kind.name}` | {kind.value} |" in TEXT


@pytest.mark.parametrize("dtype", [*DTYPES, BYTES_DTYPE])
def test_every_dtype_is_named(dtype):
    assert f"`{dtype}`" in TEXT


def codes(root):
    return {root.code}.union(*(codes(child) for child in root.__subclasses__()))


def kinds(root):
    return {root}.union(*(kinds(child) for child in root.__subclasses__()))


def test_every_code_of_an_error_is_named():
    assert {code for code in codes(errors.McpError) if f"`{code}`" not in TEXT} == set()


@pytest.mark.parametrize("root", [consensus.errors.ConsensusError, executor.errors.ExecutorError])
def test_every_code_of_an_engine_is_named_with_what_is_sent_instead(root):
    sent = codes(errors.McpError)
    for kind in kinds(root):
        name = translated(kind.__new__(kind)).code
        assert f"`{kind.code}`" in TEXT
        if kind.code not in sent:
            assert re.search(rf"^\| [^|]*`{kind.code}`[^|]* \| `{name}` \|$", TEXT, re.MULTILINE), kind.code


@pytest.mark.parametrize("code", ["OUTPUT_FAILED", "DEPENDENCY_CONFLICT"])
def test_the_command_line_s_own_codes_are_named(code):
    said = [path for path in (ROOT / "mcp").rglob("*.py") if code in path.read_text()]
    assert said
    assert f"`{code}`" in TEXT
