"""An answer over ASGI, sent in slices so that what a slow client has not taken is not all in buffers."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

from mcp.wire.frame import Buffer

Send = Callable[[dict[str, Any]], Awaitable[None]]
"""ASGI's: takes ``http.response.start`` and then ``http.response.body``."""

SLICE_BYTES: Final = 256 * 1024
"""What is handed to the connection at once."""


@dataclass(frozen=True, slots=True)
class Reply:
    """A status, a media type, the pieces of the body, and further headers."""

    status: int
    media_type: str
    pieces: Sequence[Buffer] = ()
    headers: Mapping[str, str] = field(default_factory=dict)

    async def send(self, send: Send, headers: Mapping[str, str] = MappingProxyType({})) -> None:
        """Send all of it, with ``headers`` beside its own; slices wait for the connection."""
        size = sum(len(piece) for piece in self.pieces)
        named = {"Content-Type": self.media_type, "Content-Length": str(size), **self.headers, **headers}
        await send(head(self.status, named))
        left = size
        for part in _slices(self.pieces):
            left -= len(part)
            await send({"type": "http.response.body", "body": part, "more_body": left > 0})
        if not size:
            await send({"type": "http.response.body", "body": b""})

    async def __call__(self, _scope: Any, _receive: Any, send: Send) -> None:
        """As an ASGI application that always answers this."""
        await self.send(send)


def head(status: int, headers: Mapping[str, str]) -> dict[str, Any]:
    """The message that begins an answer."""
    encoded = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
    return {"type": "http.response.start", "status": status, "headers": encoded}


def json_reply(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Reply:
    """A reply with a JSON body."""
    body = json.dumps(value, allow_nan=False, separators=(",", ":")).encode()
    return Reply(status, "application/json", [body], headers or {})


def _slices(pieces: Sequence[Buffer]) -> Iterator[bytes]:
    """The pieces, small ones joined and large ones cut."""
    waiting = bytearray()
    for piece in pieces:
        view = memoryview(piece)
        for begin in range(0, len(view), SLICE_BYTES):
            waiting += view[begin : begin + SLICE_BYTES]
            if len(waiting) >= SLICE_BYTES:
                yield bytes(waiting)
                waiting.clear()
    if waiting:
        yield bytes(waiting)
