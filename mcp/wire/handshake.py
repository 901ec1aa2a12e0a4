"""The handshake: who is there, which version, and proof that both know the cluster's key. Pure.

::

    initiator                                       acceptor
    HELLO {version, cluster_id, role, node_id, nonce}  ->
                       <-  CHALLENGE {version, cluster_id, node_id, nonce, proof}
    PROOF {proof, limits, journal}  ->
                       <-  WELCOME {version, limits, journal}   or at any point, by either,  REJECT

Each proof is HMAC-SHA256 (RFC 2104) under the cluster key, over a label and both hellos. Why that proves it:

- Only who holds the key can make it, and the key itself never travels.
- Both nonces are in it, and each end draws its own, so no earlier proof can be replayed.
- Each direction has its own label, and the transcript tells initiator from acceptor, so an end's proof
  cannot be sent back to it, nor passed on to a third node as another's.
- Every field enters the transcript as its SHA-256 digest, all of one length, so that no two different
  hellos give the same transcript.

The acceptor proves itself first and the initiator only after checking it: a stranger that answers at a
node's address learns nothing from a client beyond its names. A stranger that calls a node sees one HMAC of
it; take 32 random bytes as the key, so that guessing is hopeless. With no key on either end the proofs hold
and prove nothing. The handshake proves who took part in it, not who sends later bytes: where others can
write to the network's packets, use TLS too.
"""

from __future__ import annotations

import enum
import hashlib
import hmac
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from mcp.errors import AuthenticationFailed, ConfigInvalid, McpError, ProtocolError, from_wire
from mcp.wire.codec import decode_map, encode_error, encode_map
from mcp.wire.frame import Buffer, FrameKind
from mcp.wire.version import PROTOCOL_VERSION, negotiate_version

NONCE_BYTES: Final = 32
PROOF_BYTES: Final = 32
FRAME_BYTES_MAX_LEAST: Final = 4096
"""The least ``frame_bytes_max`` that a peer may announce."""
JOURNAL_MAX: Final = 2**63 - 1
"""The largest number of a node's journal."""

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")
_ACCEPTOR_LABEL: Final = b"MCP 1 acceptor proof"
_INITIATOR_LABEL: Final = b"MCP 1 initiator proof"


class Role(enum.StrEnum):
    """What an end of a connection is."""

    NODE = "node"
    CLIENT = "client"


_ROLES: Final = tuple(role.value for role in Role)


@dataclass(frozen=True, slots=True)
class Identity:
    """Who this end is and what it can prove.

    ``cluster_id`` and ``node_id``: 1 to 128 of letters, digits and ``. _ : -``. ``cluster_key``: any
    bytes, 32 random ones are right; empty proves nothing. ``journal`` is the number of a node's journal, by
    which it is told from another process of its name; 0 says none. Raises
    :class:`~mcp.errors.ConfigInvalid`.
    """

    cluster_id: str
    node_id: str
    cluster_key: bytes = field(default=b"", repr=False)
    role: Role = Role.NODE
    journal: int = 0

    def __post_init__(self) -> None:
        for name, value in (("cluster_id", self.cluster_id), ("node_id", self.node_id)):
            if not isinstance(value, str) or not _NAME.fullmatch(value):
                raise ConfigInvalid(
                    f"{name} is 1 to 128 letters, digits and . _ : - that start with a letter or digit, "
                    f"not {value!r:.80}"
                )
        if not isinstance(self.cluster_key, bytes):
            raise ConfigInvalid(f"cluster_key is bytes, not {type(self.cluster_key).__name__}")


@dataclass(frozen=True, slots=True)
class PeerLimits:
    """What an end accepts: the largest frame, the requests in flight towards it, commands in one of them.

    Who says nothing of ``commands_max`` takes one at a time (``COMMAND``), and knows no ``COMMANDS``.
    """

    frame_bytes_max: int
    streams_max: int
    commands_max: int = 1


@dataclass(frozen=True, slots=True)
class Established:
    """A finished handshake: who the peer is, the version both speak, and what the peer accepts.

    ``journal`` is the peer's own word, with which it tells itself from others of its name; 0: it says none.
    """

    node_id: str
    role: Role
    version: str
    limits: PeerLimits
    journal: int = 0


@dataclass(frozen=True, slots=True)
class Step:
    """What to do after a frame: send these, and then go on, be established, or close with ``failure``."""

    send: tuple[tuple[FrameKind, bytes], ...] = ()
    established: Established | None = None
    failure: McpError | None = None


@dataclass(frozen=True, slots=True)
class _Hello:
    version: str
    cluster_id: str
    node_id: str
    role: Role
    nonce: bytes

    def digest(self) -> bytes:
        parts = (self.version, self.cluster_id, self.node_id, self.role)
        return b"".join(hashlib.sha256(part.encode()).digest() for part in parts) + self.nonce

    def to_wire(self) -> dict[str, Any]:
        return {
            "version": self.version,
            "cluster_id": self.cluster_id,
            "node_id": self.node_id,
            "nonce": self.nonce,
        }


class InitiatorHandshake:
    """The end that connected. ``nonce``: 32 unpredictable bytes, never used before."""

    def __init__(self, identity: Identity, nonce: bytes, limits: PeerLimits) -> None:
        self._identity = identity
        self._limits = limits
        self._own = _own_hello(identity, identity.role, nonce)
        self._peer: _Hello | None = None

    def start(self) -> Step:
        """Open with a HELLO."""
        return Step(send=((FrameKind.HELLO, encode_map({**self._own.to_wire(), "role": self._own.role})),))

    def receive(self, kind: FrameKind, body: Buffer) -> Step:
        """Handle the acceptor's next frame. Never raises: what is wrong is the step's ``failure``."""
        try:
            if kind is FrameKind.REJECT:
                return Step(failure=from_wire(decode_map(body)))
            if self._peer is None:
                return self._on_challenge(_expect(FrameKind.CHALLENGE, kind, body))
            return self._on_welcome(self._peer, _expect(FrameKind.WELCOME, kind, body))
        except AuthenticationFailed as error:
            return refuse(error)  # or the acceptor could not tell this from an end that is stopped
        except McpError as error:
            return Step(failure=error)

    def _on_challenge(self, fields: Mapping[str, Any]) -> Step:
        negotiate_version(fields.get("version"))
        acceptor = _read_hello(fields, Role.NODE)
        _check_same_cluster(self._own, acceptor)
        transcript = self._own.digest() + acceptor.digest()
        if not _proves(self._identity.cluster_key, _ACCEPTOR_LABEL, transcript, fields):
            raise AuthenticationFailed(
                f"node {acceptor.node_id} does not know the cluster key of this end; "
                f"{_advice(self._identity.cluster_key)}, and check the address"
            )
        self._peer = acceptor
        proof = _proof(self._identity.cluster_key, _INITIATOR_LABEL, transcript)
        body = encode_map({"proof": proof, **_said(self._identity, self._limits)})
        return Step(send=((FrameKind.PROOF, body),))

    def _on_welcome(self, peer: _Hello, fields: Mapping[str, Any]) -> Step:
        version = negotiate_version(fields.get("version"))
        return Step(established=_established(peer, version, fields))


def _advice(key: bytes) -> str:
    """What to look for where two ends' keys differ, from what this end's looks like."""
    if not key:
        return "it has none: give it the cluster's (--cluster-key-file, MCP_CLUSTER_KEY_FILE, cluster_key)"
    if key[-1:].isspace():
        return "it ends in white space, a newline perhaps: leave that out"
    return "configure the same cluster key on both"


class AcceptorHandshake:
    """The end that listens. ``nonce``: 32 unpredictable bytes, never used before.

    ``admit`` is asked last, for one whose proof is right, and raises where it is not to be let in.
    """

    def __init__(
        self,
        identity: Identity,
        nonce: bytes,
        limits: PeerLimits,
        admit: Callable[[Established], None] = lambda _peer: None,
    ) -> None:
        self._identity = identity
        self._limits = limits
        self._admit = admit
        self._own = _own_hello(identity, Role.NODE, nonce)
        self._peer: _Hello | None = None

    def start(self) -> Step:
        """Wait for the initiator's HELLO."""
        return Step()

    def receive(self, kind: FrameKind, body: Buffer) -> Step:
        """Handle the initiator's next frame. Never raises; a failure comes with the REJECT to send."""
        try:
            if kind is FrameKind.REJECT:
                error = from_wire(decode_map(body))
                return Step(failure=type(error)(f"the end that connected refused this one: {error.message}"))
            if self._peer is None:
                return self._on_hello(_expect(FrameKind.HELLO, kind, body))
            return self._on_proof(self._peer, _expect(FrameKind.PROOF, kind, body))
        except McpError as error:
            return refuse(error)

    def _on_hello(self, fields: Mapping[str, Any]) -> Step:
        negotiate_version(fields.get("version"))
        initiator = _read_hello(fields, _read_role(fields))
        _check_same_cluster(self._own, initiator)
        self._peer = initiator
        proof = _proof(self._identity.cluster_key, _ACCEPTOR_LABEL, initiator.digest() + self._own.digest())
        return Step(send=((FrameKind.CHALLENGE, encode_map({**self._own.to_wire(), "proof": proof})),))

    def _on_proof(self, peer: _Hello, fields: Mapping[str, Any]) -> Step:
        transcript = peer.digest() + self._own.digest()
        if not _proves(self._identity.cluster_key, _INITIATOR_LABEL, transcript, fields):
            raise AuthenticationFailed(
                "the proof does not match this node's cluster key; configure the same cluster key on both"
            )
        version = negotiate_version(peer.version)
        established = _established(peer, version, fields)
        self._admit(established)
        body = encode_map({"version": version, **_said(self._identity, self._limits)})
        return Step(send=((FrameKind.WELCOME, body),), established=established)


Handshake: TypeAlias = InitiatorHandshake | AcceptorHandshake
"""What a connection runs first."""


def refuse(error: McpError) -> Step:
    """Say why to the peer, and close."""
    return Step(send=((FrameKind.REJECT, encode_error(error)),), failure=error)


def _own_hello(identity: Identity, role: Role, nonce: bytes) -> _Hello:
    if len(nonce) != NONCE_BYTES:
        raise ConfigInvalid(f"a nonce has {NONCE_BYTES} bytes, not {len(nonce)}")
    return _Hello(PROTOCOL_VERSION, identity.cluster_id, identity.node_id, role, nonce)


def _expect(expected: FrameKind, kind: FrameKind, body: Buffer) -> dict[str, Any]:
    if kind is not expected:
        raise ProtocolError(f"the handshake expected {expected.name} and got {kind.name}")
    return decode_map(body)


def _read_hello(fields: Mapping[str, Any], role: Role) -> _Hello:
    return _Hello(
        str(fields.get("version")),
        _read_name(fields, "cluster_id"),
        _read_name(fields, "node_id"),
        role,
        _read_bytes(fields, "nonce", NONCE_BYTES),
    )


def _read_name(fields: Mapping[str, Any], name: str) -> str:
    value = fields.get(name)
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise ProtocolError(f'the handshake field "{name}" is no valid name: {value!r:.80}')
    return value


def _read_role(fields: Mapping[str, Any]) -> Role:
    role = fields.get("role")
    if role not in _ROLES:
        raise ProtocolError(f'the handshake field "role" must be "node" or "client", not {role!r:.80}')
    return Role(role)


def _read_bytes(fields: Mapping[str, Any], name: str, size: int) -> bytes:
    value = fields.get(name)
    if not isinstance(value, bytes) or len(value) != size:
        raise ProtocolError(f'the handshake field "{name}" must be {size} bytes, not {value!r:.80}')
    return value


def _check_same_cluster(own: _Hello, peer: _Hello) -> None:
    if not hmac.compare_digest(own.cluster_id.encode(), peer.cluster_id.encode()):
        raise AuthenticationFailed(
            f'the peers are not of one cluster: "{peer.cluster_id}" was asked for or offered, and this end '
            "is of another; check the address and the cluster id"
        )
    if own.node_id == peer.node_id:
        raise AuthenticationFailed(
            f'both ends call themselves "{own.node_id}": a node connected to itself, or two have one name; '
            "give every node an id of its own, and every id among the peers an address of its own"
        )


def _proof(key: bytes, label: bytes, transcript: bytes) -> bytes:
    return hmac.new(key, label + transcript, hashlib.sha256).digest()


def _proves(key: bytes, label: bytes, transcript: bytes, fields: Mapping[str, Any]) -> bool:
    return hmac.compare_digest(_proof(key, label, transcript), _read_bytes(fields, "proof", PROOF_BYTES))


def _said(identity: Identity, limits: PeerLimits) -> dict[str, Any]:
    """What an end says of itself once the other has proved to be of the cluster."""
    said: dict[str, Any] = {"limits": _limits_to_wire(limits)}
    return said | ({"journal": identity.journal} if identity.journal else {})


def _established(peer: _Hello, version: str, fields: Mapping[str, Any]) -> Established:
    journal = fields.get("journal", 0)
    if type(journal) is not int or not 0 <= journal <= JOURNAL_MAX:
        raise ProtocolError(
            f'the handshake field "journal" must be an integer from 0 to 2^63-1, not {journal!r:.80}'
        )
    return Established(peer.node_id, peer.role, version, _read_limits(fields), journal)


def _limits_to_wire(limits: PeerLimits) -> dict[str, int]:
    said = {"frame_bytes_max": limits.frame_bytes_max, "streams_max": limits.streams_max}
    return said | ({"commands_max": limits.commands_max} if limits.commands_max > 1 else {})


def _read_limits(fields: Mapping[str, Any]) -> PeerLimits:
    limits = fields.get("limits")
    if not isinstance(limits, dict):
        raise ProtocolError(f'the handshake field "limits" must be a map, not {limits!r:.80}')
    limits = {"commands_max": 1, **limits}
    least = {"frame_bytes_max": FRAME_BYTES_MAX_LEAST, "streams_max": 1, "commands_max": 1}
    for name, minimum in least.items():
        value = limits.get(name)
        if not isinstance(value, int) or isinstance(value, bool) or value < minimum:
            raise ProtocolError(f'the limit "{name}" must be an integer from {minimum} on, not {value!r:.80}')
    return PeerLimits(limits["frame_bytes_max"], limits["streams_max"], limits["commands_max"])
