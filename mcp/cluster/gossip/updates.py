"""What members say of members: the updates that gossip carries, and the order among them.

For one member, updates are ordered by incarnation and, within one incarnation, by state: alive, suspect,
dead, left. The larger one holds, so that it makes no difference in which order, how often and by whom
they are told (SWIM, section 4.2, where a larger incarnation of the member's own overrides everything).
Only the member itself raises its incarnation. The card is apart from that: the larger version holds,
whatever the incarnation.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TypeAlias


class State(enum.IntEnum):
    """What a view holds of a member, in the order in which it overrides within one incarnation."""

    ALIVE = 0
    SUSPECT = 1
    DEAD = 2
    LEFT = 3

    @property
    def present(self) -> bool:
        """Whether a member in this state still counts."""
        return self <= State.SUSPECT


@dataclass(frozen=True, slots=True)
class Alive:
    """The member is there, under ``address``. ``card`` is encoded; ``None``: only its version is said."""

    name: str
    incarnation: int
    address: str
    card_version: int
    card: bytes | None = None


@dataclass(frozen=True, slots=True)
class Suspect:
    """``accuser`` has probed the member, and nothing came back."""

    name: str
    incarnation: int
    accuser: str


@dataclass(frozen=True, slots=True)
class Dead:
    """``accuser`` has waited for a refutation in vain."""

    name: str
    incarnation: int
    accuser: str


@dataclass(frozen=True, slots=True)
class Left:
    """The member has said farewell."""

    name: str
    incarnation: int


Update: TypeAlias = Alive | Suspect | Dead | Left
"""Any of them."""


@dataclass(frozen=True, slots=True)
class LoadUpdate:
    """A member's load, encoded. The larger ``(incarnation, sequence)`` holds."""

    name: str
    incarnation: int
    sequence: int
    load: bytes


@dataclass(frozen=True, slots=True)
class FullRecord:
    """All that a view holds of a member, as a stream carries it.

    ``age_ms``: for how long the member has been in this state.
    """

    name: str
    incarnation: int
    state: State
    address: str
    card_version: int
    card: bytes
    age_ms: int
    load: LoadUpdate | None = None
