"""The envelope of a snapshot: what it is, which schema, and a digest of the rest.

``MCPSTATE``, the schema as one byte, the SHA-256 of the payload, the payload (msgpack). The payload of
equal states is equal, byte by byte, so the digests of two nodes at one log position can be compared. The
schema is the one that was in force: a version that executes no such commands reads no such snapshot.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any, Final

import msgpack

from mcp.errors import StorageCorrupt, VersionMismatch

_MAGIC: Final = b"MCPSTATE"
_DIGEST_AT: Final = len(_MAGIC) + 1
_PAYLOAD_AT: Final = _DIGEST_AT + 32
_DEPTH: Final = 3
"""The parts of the state, the lists in a part, the records in a list."""


def seal(payload: list[Any], schema: int) -> bytes:
    """Return the snapshot of plain values, under the schema in force."""
    data = b"".join(_pieces(msgpack.Packer(), payload, _DEPTH))
    return _MAGIC + bytes([schema]) + hashlib.sha256(data).digest() + data


def _pieces(packer: msgpack.Packer, value: Any, depth: int) -> Iterator[bytes]:
    """What packing all at once gives, in pieces: other threads have their turn between two of them."""
    if depth == 0 or type(value) is not list:
        yield packer.pack(value)
        return
    yield packer.pack_array_header(len(value))
    if depth == 1:
        yield from map(packer.pack, value)
        return
    for each in value:
        yield from _pieces(packer, each, depth - 1)


def unseal(snapshot: bytes, schema_max: int) -> list[Any]:
    """Return the plain values of a snapshot.

    Raises :class:`~mcp.errors.StorageCorrupt` for any bytes that :func:`seal` did not write, and
    :class:`~mcp.errors.VersionMismatch` for a schema that is not in 1..``schema_max``.
    """
    if len(snapshot) < _PAYLOAD_AT or not snapshot.startswith(_MAGIC):
        raise StorageCorrupt("these bytes are no snapshot of the replicated state")
    schema = snapshot[len(_MAGIC)]
    if not 1 <= schema <= schema_max:
        raise VersionMismatch(
            f"the snapshot has schema {schema}, and this node reads up to schema {schema_max}; "
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
