"""A buffer that delivers messages in causal order, whatever the order of their arrival.

Every sender numbers its messages 1, 2, 3... A message carries its sender's vector: under the sender's
own name the message's number, under every other name how many messages of that sender had been
delivered to it when it sent. So a message may be delivered once it is the next of its sender and
everything that its sender had seen has been delivered here too.

A message that has to wait is filed under *one* thing that it waits for. The delivery of that thing is
the only moment at which looking at the message again can help, so nothing is ever searched: each
message is looked at once more per component at most.

Source: Birman, Schiper and Stephenson, "Lightweight Causal and Atomic Group Multicast", 1991,
section 5.1 (CBCAST).
"""

from __future__ import annotations

from typing import Final, Generic, TypeVar

from mcp.causality.vector import COMPONENTS_MAX, VersionVector
from mcp.errors import Busy, InvalidArgument

HELD_MAX: Final = 1024
"""How many messages wait at most, unless told otherwise."""

M = TypeVar("M")


class CausalBuffer(Generic[M]):
    """Holds each message until everything it depends on has been delivered.

    ``delivered`` is where to resume: what earlier was delivered, from :attr:`delivered` of the buffer
    that delivered it. At most ``held_max`` messages wait and at most ``senders_max`` senders are known.
    """

    def __init__(
        self,
        *,
        delivered: VersionVector | None = None,
        held_max: int = HELD_MAX,
        senders_max: int = COMPONENTS_MAX,
    ) -> None:
        if held_max < 0 or senders_max < 1:
            raise InvalidArgument(
                f"held_max={held_max} and senders_max={senders_max} must be at least 0 and at least 1"
            )
        self._delivered = delivered if delivered is not None else VersionVector()
        self._held_max = held_max
        self._senders_max = senders_max
        self._senders = set(self._delivered)
        self._held: dict[tuple[str, int], tuple[VersionVector, M]] = {}
        self._waiting_for: dict[tuple[str, int], list[tuple[str, int]]] = {}
        self._duplicates = 0

    @property
    def delivered(self) -> VersionVector:
        """How many messages of each sender were delivered: what to resume from, or to ask a sender for."""
        return self._delivered

    @property
    def held(self) -> int:
        """How many messages wait."""
        return len(self._held)

    @property
    def duplicates(self) -> int:
        """How many messages were dropped because they had been delivered already, or were held."""
        return self._duplicates

    def add(self, sender: str, vector: VersionVector, message: M) -> list[M]:
        """Take a message that arrived; return what can be delivered now, in causal order.

        ``vector.get(sender)`` is the message's number. A duplicate is dropped and counted. Raises
        :class:`~mcp.errors.InvalidArgument` when the vector does not number the message, and
        :class:`~mcp.errors.Busy` when the message would have to wait and ``held_max`` others do, or when
        its sender is one more than ``senders_max``: it was not taken, so let the sender send it again.
        """
        number = vector.get(sender)
        if number == 0:
            raise InvalidArgument(
                f"the vector {vector} of a message from {sender!r} does not count the message itself; "
                "increment the sender's own component before sending"
            )
        identity = (sender, number)
        if number <= self._delivered.get(sender) or identity in self._held:
            self._duplicates += 1
            return []
        self._check_senders(sender)
        missing = self._missing(sender, vector)
        if missing is None:
            self._senders.add(sender)
            return self._deliver_from(identity, vector, message)
        if len(self._held) >= self._held_max:
            raise Busy(
                f"held_max={self._held_max} messages wait for others already, and message {number} of "
                f"{sender!r} waits for message {missing[1]} of {missing[0]!r}; send it again later"
            )
        self._senders.add(sender)
        self._held[identity] = (vector, message)
        self._waiting_for.setdefault(missing, []).append(identity)
        return []

    def _check_senders(self, sender: str) -> None:
        if sender not in self._senders and len(self._senders) >= self._senders_max:
            raise Busy(f"senders_max={self._senders_max} senders are known already; {sender!r} is one more")

    def _missing(self, sender: str, vector: VersionVector) -> tuple[str, int] | None:
        """Name one message that has to be delivered before the one with this vector; None: it can be."""
        for component in vector:
            needed = vector.get(component) - (component == sender)
            if self._delivered.get(component) < needed:
                return component, needed
        return None

    def _deliver_from(self, identity: tuple[str, int], vector: VersionVector, message: M) -> list[M]:
        """Deliver one message and then whatever waited for it, and for that, and so on."""
        self._held[identity] = (vector, message)
        ready = [identity]
        messages: list[M] = []
        for delivered in ready:
            messages.append(self._held.pop(delivered)[1])
            self._delivered = self._delivered.advance(*delivered)
            for waiting in self._waiting_for.pop(delivered, ()):
                missing = self._missing(waiting[0], self._held[waiting][0])
                if missing is None:
                    ready.append(waiting)
                else:
                    self._waiting_for.setdefault(missing, []).append(waiting)
        return messages
