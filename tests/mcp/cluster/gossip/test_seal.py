"""Who can be heard at all."""

from __future__ import annotations

import hashlib
import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp.cluster.gossip.seal import DATAGRAM_LABEL, STREAM_LABEL, TAG_BYTES, Seal
from mcp.errors import AuthenticationFailed, FrameTooLarge, McpError, ProtocolError, VersionMismatch

SEAL = Seal(b"secret", "mcp", DATAGRAM_LABEL, 100)


def test_the_key_is_derived_as_rfc_5869_says() -> None:
    """Extract and expand, written out: one block is all that 32 bytes take."""
    info = b"MCP 1 gossip datagram" + hashlib.sha256(b"mcp").digest()
    extracted = hmac.digest(bytes(32), b"secret", "sha256")
    key = hmac.digest(extracted, info + b"\x01", "sha256")
    tag = hmac.digest(key, b"\x01" + b"body", "sha256")[:TAG_BYTES]
    assert SEAL.seal(b"body") == b"\x01" + tag + b"body"
    assert tag.hex() == "2ed392b955b85ebc521d54261773a14b"


@given(st.binary(min_size=1, max_size=83))
def test_what_was_sealed_is_opened(body: bytes) -> None:
    assert SEAL.open(SEAL.seal(body)) == body


@given(st.binary(min_size=1, max_size=50), st.integers(0, 66), st.integers(1, 255))
def test_no_byte_can_be_changed(body: bytes, at: int, change: int) -> None:
    sealed = bytearray(SEAL.seal(body))
    sealed[at % len(sealed)] ^= change
    with pytest.raises(McpError) as refused:
        SEAL.open(bytes(sealed))
    expected = VersionMismatch if at % len(sealed) == 0 else AuthenticationFailed
    assert refused.type is expected


@pytest.mark.parametrize(
    "other",
    [
        Seal(b"Secret", "mcp", DATAGRAM_LABEL, 100),
        Seal(b"secret", "mcp2", DATAGRAM_LABEL, 100),
        Seal(b"secret", "mcp", STREAM_LABEL, 100),
        Seal(b"", "mcp", DATAGRAM_LABEL, 100),
    ],
)
def test_another_key_cluster_or_use_is_refused(other: Seal) -> None:
    with pytest.raises(AuthenticationFailed):
        SEAL.open(other.seal(b"body"))


def test_what_is_too_short_or_too_long_is_refused_unread() -> None:
    with pytest.raises(ProtocolError):
        SEAL.open(b"")
    with pytest.raises(ProtocolError):
        SEAL.open(SEAL.seal(b""))
    with pytest.raises(FrameTooLarge):
        SEAL.open(SEAL.seal(bytes(SEAL.room + 1)))
    SEAL.open(SEAL.seal(bytes(SEAL.room)))
