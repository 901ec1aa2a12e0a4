"""What a connection shows to the code above it: its peer, its replies, and the handler it calls."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeAlias

from mcp.errors import McpError, PermissionDenied
from mcp.wire.handshake import PeerLimits, Role
from mcp.wire.messages import Message

if TYPE_CHECKING:
    from mcp.net.connection import Connection
    from mcp.net.exchange import Exchange


@dataclass(frozen=True, slots=True)
class Peer:
    """Who is at the other end, as the handshake proved it.

    ``version`` is what both ends speak; ``address`` is where the peer was seen, for people to read;
    ``limits`` are what it accepts. ``journal`` is the number of a node's journal, by its own word; 0: it says
    none.
    """

    node_id: str
    role: Role
    version: str
    address: str
    limits: PeerLimits
    journal: int = 0


class Reply(NamedTuple):
    """The answer to a request. The segments are read-only and valid as long as they are referenced."""

    message: Message
    segments: tuple[memoryview, ...]


@dataclass(slots=True)
class Counters:
    """What a connection has seen. Totals since it was made."""

    frames_received: int = 0
    bytes_received: int = 0
    bytes_queued: int = 0
    requests_received: int = 0
    requests_refused: int = 0
    messages_expired: int = 0
    notices_dropped: int = 0
    answers_unsolicited: int = 0
    answers_late: int = 0


class Handler(Protocol):
    """The code above a connection.

    All calls come from the event loop and must return soon: no blocking, no waiting; start a task where
    there is more to do. Order: ``on_connected`` once, then any others, then ``on_closed`` once.
    """

    def on_connected(self, connection: Connection) -> None:
        """The handshake is done and ``connection.peer`` known."""

    def on_request(self, exchange: Exchange) -> None:
        """A request came. Answer it now or later, exactly once.

        What is raised here is the answer: an :class:`~mcp.errors.McpError` as it is, anything else as
        INTERNAL. The connection goes on.
        """

    def on_notice(self, connection: Connection, body: memoryview) -> None:
        """A one-way message came. ``body`` is valid only during the call: decode or copy it."""

    def on_closed(self, connection: Connection, reason: McpError | None) -> None:
        """The connection is gone. ``reason`` is ``None`` after an orderly close by either end."""


class RequestsRefused:
    """The handler of an end that only asks: it refuses requests and ignores notices."""

    def on_connected(self, connection: Connection) -> None:
        """Do nothing."""

    def on_request(self, exchange: Exchange) -> None:
        """Refuse."""
        raise PermissionDenied("this peer only sends requests and handles none; ask a node")

    def on_notice(self, connection: Connection, body: memoryview) -> None:
        """Ignore it."""

    def on_closed(self, connection: Connection, reason: McpError | None) -> None:
        """Do nothing."""


Heard: TypeAlias = Callable[[bytes, str], None]
"""Takes a datagram and the address that it came from. Called from the event loop; it returns soon and
raises nothing."""


class DatagramPort(Protocol):
    """A place that datagrams leave from and arrive at.

    Whatever is sent may be lost, come late, twice, or in another order, and nobody is told.
    """

    @property
    def address(self) -> str:
        """Where it is, with the port that was taken."""

    def send(self, address: str, data: bytes) -> bool:
        """Send one datagram; ``False``: it was dropped at once. Raises nothing and never waits."""

    def close(self) -> None:
        """Hear nothing any more. Twice is as good as once."""
