"""What changes in a view, and what a node has to send."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from mcp.cluster.gossip.updates import State


class EventKind(enum.StrEnum):
    """What happened to a member."""

    JOINED = "joined"
    """It is there, for the first time or again."""
    UPDATED = "updated"
    """It has another card, or another address."""
    SUSPECTED = "suspected"
    """It does not answer somebody."""
    REFUTED = "refuted"
    """It was suspected, and has said itself that it is there."""
    DIED = "died"
    """Nobody heard it refute."""
    LEFT = "left"
    """It said farewell."""
    CONFLICT = "conflict"
    """Its name is claimed at ``other_address`` too. Somebody has to give one of the two another name."""


@dataclass(frozen=True, slots=True)
class Event:
    """``at`` is in seconds of the clock that the node was given; ``state`` is the state since then."""

    kind: EventKind
    name: str
    address: str
    incarnation: int
    state: State
    at: float
    other_address: str = ""


@dataclass(frozen=True, slots=True)
class Output:
    """What to do: datagrams and stream messages to send, each as ``(address, bytes)``, and what changed.

    A stream message goes over a connection, whole and in order with others to that address, or is lost with
    the connection; it is at most ``STREAM_BYTES_MAX`` long, and the carrier keeps its bounds.
    """

    datagrams: tuple[tuple[str, bytes], ...] = ()
    streams: tuple[tuple[str, bytes], ...] = ()
    events: tuple[Event, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.datagrams or self.streams or self.events)
