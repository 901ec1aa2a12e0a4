"""The proof that a datagram or a stream message comes from a holder of the cluster's key.

::

    version (1 byte) | tag (16 bytes) | body

The tag is HMAC-SHA-256 over version and body, cut to 128 bits (RFC 2104, section 5), under a key that
HKDF (RFC 5869) derives from the cluster key for this one use: no salt, and ``info`` is a label followed
by the SHA-256 digest of the cluster id. Datagrams and stream messages have labels, and so keys, of their
own, and so has every cluster: none of them passes for another. The tag is checked before anything is
parsed.

There is no nonce to be kept unique and nothing is hidden: names, addresses and cards can be read on the
network, as they can in the handshake. As there, an empty cluster key proves nothing.

What a replay can do. A datagram that is sent again has a tag that is right. Its updates are old, and the
order of incarnations and versions makes old updates no updates. A ping is answered once more; the answer
goes to the address that the view has for the sender's name, so only the ping of a name that is in no view
draws an answer to whoever repeated it. An old acknowledgement has the number of no probe that waits, for
numbers begin at random in every life and only go up. An old summary is answered with what the view holds,
at most ``SUMMARIES_PER_S_MAX`` times a second. An old suspicion or death of the present incarnation can
be repeated: the member refutes it, as it did the first time, and from then on it is of an old
incarnation. Once a dead member is forgotten (``dead_remembered_s``), an old update can bring it back for
as long as it takes to find it dead again.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import Final

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from mcp.errors import AuthenticationFailed, FrameTooLarge, ProtocolError, VersionMismatch

GOSSIP_VERSION: Final = 1
"""The first byte of every datagram and stream message."""

TAG_BYTES: Final = 16
SEAL_BYTES: Final = 1 + TAG_BYTES
"""What a seal adds to a body."""

DATAGRAM_LABEL: Final = b"MCP 1 gossip datagram"
STREAM_LABEL: Final = b"MCP 1 gossip stream"

_VERSION: Final = bytes((GOSSIP_VERSION,))


class Seal:
    """Seals bodies of one kind, and opens them. ``bytes_max``: the largest sealed body."""

    __slots__ = ("_bytes_max", "_key")

    def __init__(self, cluster_key: bytes, cluster_id: str, label: bytes, bytes_max: int) -> None:
        info = label + hashlib.sha256(cluster_id.encode()).digest()
        self._key = HKDF(algorithm=SHA256(), length=32, salt=None, info=info).derive(cluster_key)
        self._bytes_max = bytes_max

    @property
    def room(self) -> int:
        """The bytes that a body may have."""
        return self._bytes_max - SEAL_BYTES

    def seal(self, body: bytes) -> bytes:
        """The body with version and tag. It is not above :attr:`room`."""
        return _VERSION + self._tag(body) + body

    def open(self, sealed: bytes) -> bytes:
        """The body. Raises :class:`~mcp.errors.ProtocolError`, :class:`~mcp.errors.AuthenticationFailed`."""
        if len(sealed) > self._bytes_max:
            raise FrameTooLarge(f"a gossip message of {len(sealed)} bytes is over {self._bytes_max}")
        if len(sealed) <= SEAL_BYTES:
            raise ProtocolError(f"a gossip message has more than {SEAL_BYTES} bytes, not {len(sealed)}")
        if sealed[0] != GOSSIP_VERSION:
            raise VersionMismatch(
                f"a gossip message is of version {sealed[0]}, and this node speaks {GOSSIP_VERSION}; "
                "run the same major version everywhere"
            )
        body = sealed[SEAL_BYTES:]
        if not hmac.compare_digest(self._tag(body), sealed[1:SEAL_BYTES]):
            raise AuthenticationFailed(
                "a gossip message is not from a holder of this cluster's key; "
                "configure the same cluster id and cluster key everywhere"
            )
        return body

    def _tag(self, body: bytes) -> bytes:
        return hmac.digest(self._key, _VERSION + body, "sha256")[:TAG_BYTES]
