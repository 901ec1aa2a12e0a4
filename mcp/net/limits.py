"""The named limits of a connection and of a listener."""

from __future__ import annotations

import resource
from dataclasses import dataclass, fields, replace
from typing import Final

from mcp.errors import ConfigInvalid
from mcp.net.polling import POLL_S_MAX
from mcp.wire.frame import FRAME_BYTES_MAX, HANDSHAKE_FRAME_BYTES_MAX

FRAME_BYTES_MAX_MOST: Final = 1024 * 1024 * 1024
"""The most that ``frame_bytes_max`` may be set to."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a connection takes and how long it waits. Raises :class:`~mcp.errors.ConfigInvalid`.

    ``frame_bytes_max``: the largest frame that is received.
    ``streams_max``: requests of the peer that are being handled; more are answered BUSY.
    ``write_high_water_bytes``: with more answers than this unsent, no further requests are read.
    ``write_buffer_bytes_max``: with more than this unsent, notices are dropped and requests answered BUSY.
    ``commands_max``: commands in one request of the peer.
    ``connections_max``: clients' connections of one listener; more are answered BUSY. Nodes have as many
    places of their own, so that clients cannot keep them apart.
    ``handshakes_max``: connections of one listener that are in their handshake; the oldest makes room.
    ``tls_handshakes_max``: connections of one listener that are in their TLS handshake, which comes
    before; the oldest makes room.
    ``handshake_timeout_s``: from the connection to the end of the handshake.
    ``keepalive_s``: silence after which the peer is asked for a sign of life.
    ``dead_after_s``: silence after which the connection is given up.
    ``close_timeout_s``: how long an orderly close may take to send what is queued.
    ``poll_s``: for how long the next bytes are looked for, before the event loop goes to sleep, 0 to
    :data:`~mcp.net.polling.POLL_S_MAX` (:mod:`mcp.net.polling`).
    """

    frame_bytes_max: int = FRAME_BYTES_MAX
    streams_max: int = 1024
    write_high_water_bytes: int = 1024 * 1024
    write_buffer_bytes_max: int = 16 * 1024 * 1024
    commands_max: int = 256
    connections_max: int = 1024
    handshakes_max: int = 512
    tls_handshakes_max: int = 256
    handshake_timeout_s: float = 5.0
    keepalive_s: float = 10.0
    dead_after_s: float = 30.0
    close_timeout_s: float = 5.0
    poll_s: float = 0.0

    def __post_init__(self) -> None:
        check_poll_s(self.poll_s)
        for limit in fields(self):
            if limit.name != "poll_s" and not getattr(self, limit.name) > 0:
                raise ConfigInvalid(f"{limit.name} must be above 0, not {getattr(self, limit.name)!r}")
        if not HANDSHAKE_FRAME_BYTES_MAX <= self.frame_bytes_max <= FRAME_BYTES_MAX_MOST:
            raise ConfigInvalid(
                f"frame_bytes_max must be {HANDSHAKE_FRAME_BYTES_MAX} to {FRAME_BYTES_MAX_MOST}, "
                f"not {self.frame_bytes_max}"
            )
        if self.dead_after_s <= self.keepalive_s:
            raise ConfigInvalid(
                f"dead_after_s={self.dead_after_s} must be above keepalive_s={self.keepalive_s}, "
                "or no peer could give a sign of life in time"
            )


def check_poll_s(poll_s: float) -> float:
    """Give ``poll_s``, if it can be had. Raises :class:`~mcp.errors.ConfigInvalid`."""
    if isinstance(poll_s, bool) or not isinstance(poll_s, int | float) or not 0 <= poll_s <= POLL_S_MAX:
        raise ConfigInvalid(f"poll_s must be 0 (do not look) to {POLL_S_MAX} seconds, not {poll_s!r:.80}")
    return poll_s


DEFAULT_LIMITS: Final = Limits()
"""The limits where none are given."""

FILES_KEPT: Final = 256
"""Of the files that a process may open, so many are not for connections that come."""

FILES_ENOUGH: Final = 65_536
"""What counts where the system sets no limit to open files."""

_NODES_SHARE: Final = 3, 4
"""Of the files for connections that come, the share of the nodes' own protocol; the gateway has the rest."""


def files_max() -> int:
    """How many files this process may have open."""
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return FILES_ENOUGH if soft == resource.RLIM_INFINITY else soft


def fitting(files_max: int, listeners: int) -> Limits:
    """The limits of each of so many listeners in a process that may have ``files_max`` files open.

    Whoever connects must not be able to take what the journal and the other nodes need.
    """
    share, of = _NODES_SHARE
    room = max(16, (files_max - FILES_KEPT) * share // of // max(1, listeners))
    return replace(
        DEFAULT_LIMITS,
        connections_max=min(DEFAULT_LIMITS.connections_max, room // 2),
        handshakes_max=min(DEFAULT_LIMITS.handshakes_max, room // 4),
        tls_handshakes_max=min(DEFAULT_LIMITS.tls_handshakes_max, room // 8),
    )
