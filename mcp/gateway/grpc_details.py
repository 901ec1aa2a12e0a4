"""The detail of a refusal that says when to come back, as gRPC's richer errors carry it.

Written by hand, field by field: three small messages of ``google.rpc`` need no descriptors. Pure.

Source: google/rpc/status.proto and error_details.proto (``RetryInfo``); Protocol Buffers, "Encoding".
"""

from __future__ import annotations

from typing import Final

STATUS_DETAILS: Final = "grpc-status-details-bin"
"""The key of the trailing metadata that has a ``google.rpc.Status``."""

_TYPE: Final = "type.googleapis.com/google.rpc.RetryInfo"
_BYTES: Final = 2
_VARINT: Final = 0
_NANOSECONDS: Final = 1_000_000_000


def retry_info(code: int, message: str, retry_after_s: float) -> bytes:
    """A ``Status`` with that code of gRPC and message, and a ``RetryInfo`` of so many seconds."""
    seconds, nanos = divmod(round(retry_after_s * _NANOSECONDS), _NANOSECONDS)
    delay = _integer(1, seconds) + _integer(2, nanos)
    detail = _field(1, _TYPE.encode()) + _field(2, _field(1, delay))
    return _integer(1, code) + _field(2, message.encode()) + _field(3, detail)


def _integer(number: int, value: int) -> bytes:
    """A field of an integer from 0 on; 0 is the default and left out."""
    return _varint(number << 3 | _VARINT) + _varint(value) if value else b""


def _field(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | _BYTES) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    written = bytearray()
    while value > 127:
        written.append(value & 127 | 128)
        value >>= 7
    return bytes([*written, value])
