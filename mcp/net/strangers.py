"""What answers at an address at which no node does, told by the first bytes that it sent. Pure."""

from __future__ import annotations

from typing import Final

from mcp.errors import ProtocolError
from mcp.wire.frame import FrameKind

FIRST_BYTES: Final = 64
"""So many of the first bytes are looked at."""
_KIND_AT: Final = 4
"""Where the kind of a frame is: nobody else has one of its few numbers there, but for damage and TLS."""
_KINDS: Final = frozenset(map(int, FrameKind))
_TLS_ALERT: Final = b"\x15\x03"


def stranger(first: bytes, *, over: bool = False) -> ProtocolError | None:
    """The error for a peer whose first bytes are no frame; ``None``: they may be one, or become one.

    ``over``: no more of them will come.
    """
    if not first or (len(first) <= _KIND_AT and not over):
        return None
    if first.startswith(_TLS_ALERT) and over:
        return ProtocolError(
            "what answers here speaks TLS, and this end does not: if it is a node of this cluster, give the "
            "authority of its certificate (--tls-ca); if not, give the address of one"
        )
    if first[_KIND_AT : _KIND_AT + 1] and first[_KIND_AT] in _KINDS:
        return None
    return ProtocolError(
        f"what answers here is no node but {_who(first)}: give the address of a node's own port (--listen, "
        "'address=' in its ready line), not that of its gateway (--http, --grpc) or of another program"
    )


def _who(first: bytes) -> str:
    line = first.splitlines()[0].decode("ascii", errors="backslashreplace")
    if first.startswith(b"HTTP/"):
        return f"an HTTP server (it sent {line!r})"
    if first.startswith(b"SSH-"):
        return f"an SSH server (it sent {line!r})"
    if len(first) > _KIND_AT and first[3:5] == b"\x04\x00":
        return "an HTTP/2 server, such as gRPC's (it sent its settings)"
    return f"another program (it sent {first[:24]!r})"
