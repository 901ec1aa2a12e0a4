"""As much of protobuf's encoding as a few calls need. Pure.

Generated code for another product's messages would register them for the whole process (and clash with
others' copies); these are three fields of four messages. Source: the protocol buffers documentation,
"Encoding".
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

_VARINT: Final = 0
_FIXED_BYTES: Final = {1: 8, 5: 4}
_LENGTH: Final = 2


def varint(value: int) -> bytes:
    """A number that is not negative, seven bits in a byte, the least first."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def blob(number: int, value: bytes) -> bytes:
    """A field of bytes, text or a message."""
    return varint(number << 3 | _LENGTH) + varint(len(value)) + value


def integer(number: int, value: int) -> bytes:
    """A field of a number."""
    return varint(number << 3 | _VARINT) + varint(value)


def fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """The fields of a message, by number, in order. Raises ``ValueError`` where it is cut short."""
    offset = 0
    while offset < len(message):
        key, offset = _read(message, offset)
        number, kind = key >> 3, key & 7
        if kind == _VARINT:
            value, offset = _read(message, offset)
            yield number, value
            continue
        if kind == _LENGTH:
            length, offset = _read(message, offset)
        elif kind in _FIXED_BYTES:
            length = _FIXED_BYTES[kind]
        else:
            raise ValueError(f"a protobuf field of kind {kind}; expected 0, 1, 2 or 5")
        if offset + length > len(message):
            raise ValueError(f"a protobuf field of {length} bytes, {len(message) - offset} are left")
        yield number, message[offset : offset + length]
        offset += length


def _read(message: bytes, offset: int) -> tuple[int, int]:
    value = shift = 0
    while offset < len(message):
        byte = message[offset]
        offset += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, offset
        shift += 7
    raise ValueError("a protobuf number that does not end")
