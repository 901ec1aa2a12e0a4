"""A request's body, read within bounds: of bytes, also once they are unpacked.

No more is read than fits, and an honest length that does not fit is refused before the first byte. Source of
the encodings: RFC 9110, section 8.4.1; RFC 1950 and 1952.
"""

from __future__ import annotations

import zlib
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any, Final

from mcp.errors import InvalidArgument, TooLarge, Unavailable
from mcp.gateway.limits import BODY_BYTES_MAX
from mcp.gateway.room import Held

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
"""ASGI's: gives the next ``http.request`` or ``http.disconnect``."""

_LENGTH_DIGITS_MAX: Final = 15
_WINDOW_BITS: Final = {"gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}


async def read_body(
    receive: Receive, headers: Mapping[str, str], held: Held, bytes_max: int = BODY_BYTES_MAX
) -> bytes | bytearray:
    """The whole body, unpacked.

    Raises :class:`~mcp.errors.TooLarge`, :class:`~mcp.errors.Busy` where it does not fit beside others,
    :class:`~mcp.errors.InvalidArgument` for what is not packed as the headers say, and
    :class:`~mcp.errors.Unavailable` when the client is gone.
    """
    encoding = _encoding(headers.get("content-encoding", ""))
    told = _told_length(headers.get("content-length"))
    if told > bytes_max:
        raise _too_large(bytes_max)
    held.grow(told)
    body = await _received(receive, held, told, bytes_max)
    return body if encoding is None else _unpacked(body, encoding, held, bytes_max)


async def _received(receive: Receive, held: Held, told: int, bytes_max: int) -> bytes | bytearray:
    body: bytes | bytearray = b""
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise Unavailable("the client is gone")
        piece: bytes = message.get("body", b"")
        size = len(body) + len(piece)
        if size > bytes_max:
            raise _too_large(bytes_max)
        held.grow(max(0, size - max(told, len(body))))
        more = message.get("more_body", False)
        if not body and not more:
            return piece
        body = bytearray(body) if isinstance(body, bytes) else body
        body += piece
        if not more:
            return body


def _unpacked(body: bytes | bytearray, encoding: str, held: Held, bytes_max: int) -> bytes:
    unpacking = zlib.decompressobj(_WINDOW_BITS[encoding])
    try:
        plain = unpacking.decompress(body, bytes_max + 1)
    except zlib.error as error:
        raise InvalidArgument(
            f"the body is not packed as Content-Encoding {encoding} says: {error}"
        ) from None
    if len(plain) > bytes_max:
        raise _too_large(bytes_max)
    if not unpacking.eof or unpacking.unused_data:
        raise InvalidArgument(f"the body does not end where its Content-Encoding {encoding} does")
    held.grow(len(plain))
    return plain


def _encoding(text: str) -> str | None:
    name = text.strip().lower()
    if name in ("", "identity"):
        return None
    if name not in _WINDOW_BITS:
        raise InvalidArgument(f"Content-Encoding must be gzip or deflate, got {text!r:.40}")
    return name


def _told_length(text: str | None) -> int:
    """The length that the headers tell; 0 where they do not."""
    if text is None:
        return 0
    if not (text.isascii() and text.isdigit()):
        raise InvalidArgument(f"Content-Length must be a number, got {text!r:.40}")
    return int(text) if len(text) <= _LENGTH_DIGITS_MAX else 10**_LENGTH_DIGITS_MAX


def _too_large(bytes_max: int) -> TooLarge:
    return TooLarge(f"the body has more than body_bytes_max={bytes_max} bytes; send smaller batches")
