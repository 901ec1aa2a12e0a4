"""What is still to be told to the others, and what of it goes into the next datagram.

Updates ride on whatever is sent anyway (SWIM, section 4.1). Each is sent ``lambda * ln(n + 1)`` times by
every node that heard it, those that were sent least first and among them the latest first, so that news
is not held up by what nearly everybody has. An update that a later one overrides is not sent any more.
Loads have a queue of their own, with fewer repetitions and less room: they are out of date soon, and the
next probe of the member itself brings the latest one.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from mcp.cluster.gossip.codec import encode_load, encode_update
from mcp.cluster.gossip.limits import UPDATES_MAX
from mcp.cluster.gossip.updates import Alive, LoadUpdate, Suspect, Update

LOAD_TRANSMISSIONS: Final = 2
"""How often each node passes on one load of another member."""


@dataclass(slots=True)
class _Queued:
    encoded: bytes
    order: int
    incarnation: int
    sent: int = 0


class Dissemination:
    """The updates that are still to be sent.

    For one member there are at most its latest state, its latest card and as many suspicions as count, so
    that the queue is bounded by the view.
    """

    def __init__(self) -> None:
        self._queued: dict[tuple[str, str], _Queued] = {}
        self._order = 0

    def __len__(self) -> int:
        return len(self._queued)

    def add(self, update: Update) -> None:
        """Send this from now on, and nothing any more that it overrides."""
        slot = _slot(update)
        overridden = [
            key
            for key, queued in self._queued.items()
            if key[0] == update.name and _overrides(update, key[1], queued.incarnation)
        ]
        for key in overridden:
            del self._queued[key]
        self._order += 1
        self._queued[update.name, slot] = _Queued(encode_update(update), self._order, update.incarnation)

    def forget(self, name: str) -> None:
        """Send nothing of this member any more."""
        for key in [key for key in self._queued if key[0] == name]:
            del self._queued[key]

    def take(self, room: int, transmissions: int, without: Iterable[bytes] = ()) -> list[bytes]:
        """As many encoded updates as fit into ``room`` bytes; ``without`` are on board already."""
        if not self._queued:
            return []
        taken: list[bytes] = []
        aboard = set(without)
        for key, queued in sorted(self._queued.items(), key=lambda item: (item[1].sent, -item[1].order)):
            if len(queued.encoded) > room or queued.encoded in aboard:
                continue
            taken.append(queued.encoded)
            room -= len(queued.encoded)
            queued.sent += 1
            if queued.sent >= transmissions:
                del self._queued[key]
            # No update is shorter, so that a full datagram ends the search.
            if room < SHORTEST_UPDATE_BYTES or len(taken) + len(aboard) >= UPDATES_MAX:
                break
        return taken


SHORTEST_UPDATE_BYTES: Final = 5


def _slot(update: Update) -> str:
    """What of its member an update speaks of."""
    if isinstance(update, Suspect):
        # No name of a member has a space in it, so that this is no slot of another kind.
        return f"suspect {update.accuser}"
    return "card" if isinstance(update, Alive) and update.card is not None else "state"


def _overrides(update: Update, slot: str, incarnation: int) -> bool:
    """Whether what is in that slot need not be sent any more once this update is."""
    if slot == "state":
        return True
    if isinstance(update, Alive):
        # A suspicion of this incarnation holds, whatever is on the card; and a card holds in any incarnation.
        return slot != "card" and incarnation < update.incarnation
    return not isinstance(update, Suspect)


class LoadRelay:
    """The loads of other members that may still be passed on; at most one for each."""

    def __init__(self) -> None:
        self._queued: dict[str, _Queued] = {}
        self._order = 0

    def __len__(self) -> int:
        return len(self._queued)

    def add(self, load: LoadUpdate) -> None:
        """Pass this on, instead of an earlier one of the same member."""
        self._order += 1
        self._queued[load.name] = _Queued(encode_load(load), self._order, load.incarnation)

    def forget(self, name: str) -> None:
        """Pass nothing of this member on."""
        self._queued.pop(name, None)

    def take(self, room: int, to: str) -> list[bytes]:
        """As many encoded loads as fit, the latest of those sent least; not the receiver's own."""
        taken: list[bytes] = []
        for name, queued in sorted(self._queued.items(), key=lambda item: (item[1].sent, -item[1].order)):
            if name == to:
                continue
            if len(queued.encoded) > room or len(taken) >= UPDATES_MAX:
                break
            taken.append(queued.encoded)
            room -= len(queued.encoded)
            queued.sent += 1
            if queued.sent >= LOAD_TRANSMISSIONS:
                del self._queued[name]
        return taken
