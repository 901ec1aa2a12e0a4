"""The envelope of a snapshot: what it is, which schema, and a digest of the rest.

``MCPSTATE``, the schema as one byte, the SHA-256 of the payload, the payload (msgpack). The payload of
equal states is equal, byte by byte, so the digests of two nodes at one log position can be compared.
"""

from __future__ import annotations

import hashlib
from typing import Any, Final

import msgpack

from mcp.errors import StorageCorrupt, VersionMismatch

SCHEMA_VERSION: Final = 1

_MAGIC: Final = b"MCPSTATE"
_DIGEST_AT: Final = len(_MAGIC) + 1
_PAYLOAD_AT: Final = _DIGEST_AT + 32


def seal(payload: list[Any]) -> bytes:
    """Return the snapshot of plain values."""
    data: bytes = msgpack.packb(payload)
    return _MAGIC + bytes([SCHEMA_VERSION]) + hashlib.sha256(data).digest() + data


def unseal(snapshot: bytes) -> list[Any]:
    """Return the plain values of a snapshot.

    Raises :class:`~mcp.errors.StorageCorrupt` for any bytes that :func:`seal` did not write, and
    :class:`~mcp.errors.VersionMismatch` for another schema.
    """
    if len(snapshot) < _PAYLOAD_AT or not snapshot.startswith(_MAGIC):
        raise StorageCorrupt("these bytes are no snapshot of the replicated state")
    if snapshot[len(_MAGIC)] != SCHEMA_VERSION:
        raise VersionMismatch(
            f"the snapshot has schema {snapshot[len(_MAGIC)]}, and this version reads {SCHEMA_VERSION}; "
            "upgrade the node, or restore with the version that wrote it"
        )
    data = memoryview(snapshot)[_PAYLOAD_AT:]
    if hashlib.sha256(data).digest() != snapshot[_DIGEST_AT:_PAYLOAD_AT]:
        raise StorageCorrupt(
            "the snapshot of the replicated state is damaged: its digest does not match; fetch another"
        )
    payload: list[Any] = msgpack.unpackb(data)
    return payload


def digest_of(snapshot: bytes) -> str:
    """Return the payload's SHA-256, as 64 hexadecimal digits."""
    return snapshot[_DIGEST_AT:_PAYLOAD_AT].hex()
