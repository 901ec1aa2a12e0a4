"""Who takes part: the configuration of a cluster, and the changes that can be made to it.

A configuration is a set of members. *Voters* count: a majority of them decides. *Observers* receive the log
and apply it, and neither vote nor count. A configuration is an entry of the log like any other
(:attr:`~consensus.interface.EntryKind.CONFIG`), and only one member's place differs between one and the next,
so that any majority of the one shares a node with any majority of the other (Ongaro 2014, section 4.1).

*A member is a name and an incarnation.* A disk that was emptied has forgotten its votes and what it
acknowledged, so whoever runs on it is another server that happens to have the same name. Therefore every
journal draws a random number when it is made, its incarnation, and a configuration names both: a vote or an
acknowledgement counts only if it comes from the incarnation that the configuration names. Nothing has to be
detected or remembered by the node that has lost its memory; to the others it is a stranger, and Raft's
proof, which is about servers that do not forget, holds for those that count. To come back it is taken in as a
new observer, is caught up and promoted, once the member whose disk is gone has been removed.

A member with the incarnation 0 has a journal from before there were incarnations. It is told from an emptied
disk all the same, because that one has a number.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import msgpack

from consensus.errors import MembershipRefused

VOTERS_MAX = 7
"""More voters make every commit slower and tolerate no more than three failures in practice."""

OBSERVERS_MAX = 16
"""Every observer costs the leader as much as a voter does."""

NAME_BYTES_MAX = 128
ADDRESS_BYTES_MAX = 160
CONFIGURATION_BYTES_MAX = 8 * 1024
"""Of an encoded configuration: more than the limits above add up to."""

INCARNATION_MAX = 2**63 - 1

_VERSION = 1


class Standing(enum.StrEnum):
    """What a node is in the configuration that is in force for it."""

    VOTER = "voter"
    OBSERVER = "observer"
    OUTSIDER = "outsider"
    """Not in it, or only under another incarnation: taken out, or not taken in yet."""


@dataclass(frozen=True, slots=True)
class Member:
    """One server. ``address`` is where others reach it, opaque here; ``incarnation`` is its journal's."""

    name: str
    incarnation: int = 0
    address: str = ""
    votes: bool = True


@dataclass(frozen=True)
class Configuration:
    """The members, in the order of their names, which are distinct."""

    members: tuple[Member, ...] = ()

    @classmethod
    def of_voters(cls, names: Iterable[str]) -> Configuration:
        """The configuration that a cluster is started with: no incarnation is known yet."""
        return cls.of(Member(name) for name in names)

    @classmethod
    def of(cls, members: Iterable[Member]) -> Configuration:
        """These members. Raises :class:`ValueError` when they make no configuration."""
        ordered = tuple(sorted(members, key=lambda member: member.name))
        names = {member.name for member in ordered}
        voters = sum(member.votes for member in ordered)
        if len(names) != len(ordered) or voters > VOTERS_MAX or len(ordered) - voters > OBSERVERS_MAX:
            raise ValueError(
                f"a configuration has distinct names, at most {VOTERS_MAX} voters and {OBSERVERS_MAX} "
                f"observers, not {[member.name for member in ordered]}"
            )
        return cls(ordered)

    @cached_property
    def voters(self) -> tuple[str, ...]:
        """The names of the voters, in order."""
        return tuple(member.name for member in self.members if member.votes)

    @cached_property
    def observers(self) -> tuple[str, ...]:
        """The names of the observers, in order."""
        return tuple(member.name for member in self.members if not member.votes)

    def get(self, name: str) -> Member | None:
        """The member of this name, in whatever incarnation."""
        return next((member for member in self.members if member.name == name), None)

    def standing(self, name: str, incarnation: int) -> Standing:
        """What this incarnation of this name is here."""
        member = self.get(name)
        if member is None or member.incarnation != incarnation:
            return Standing.OUTSIDER
        return Standing.VOTER if member.votes else Standing.OBSERVER

    def with_member(self, member: Member) -> Configuration:
        """The same with this member, in the place of one of its name if there is one."""
        return Configuration.of((*(m for m in self.members if m.name != member.name), member))

    def without(self, name: str) -> Configuration:
        """The same without the member of this name."""
        return Configuration(tuple(member for member in self.members if member.name != name))

    def to_plain(self) -> list[Any]:
        """As plain values."""
        return [[m.name, m.incarnation, m.address, m.votes] for m in self.members]

    def encode(self) -> bytes:
        """As an entry's data. Equal configurations give equal bytes."""
        packed: bytes = msgpack.packb([_VERSION, self.to_plain()])
        return packed

    @classmethod
    def decode(cls, data: bytes) -> Configuration:
        """What :meth:`encode` gave. Raises :class:`ValueError` and nothing else, whatever the bytes are."""
        if len(data) > CONFIGURATION_BYTES_MAX:
            raise ValueError(f"a configuration of {len(data)} bytes, at most {CONFIGURATION_BYTES_MAX}")
        try:
            plain = msgpack.unpackb(
                data, max_map_len=0, max_ext_len=0, max_array_len=VOTERS_MAX + OBSERVERS_MAX
            )
        except (ValueError, TypeError, OverflowError, RecursionError, msgpack.UnpackException) as error:
            raise ValueError("a configuration is not msgpack") from error
        match plain:
            case [int(version), list(members)] if version == _VERSION:
                decoded = cls.of(map(_member, members))
            case _:
                raise ValueError("a configuration of a form that this program does not know")
        if [m.name for m in decoded.members] != [fields[0] for fields in members] or not decoded.voters:
            raise ValueError("a configuration without voters, or out of order")
        return decoded


def _member(fields: Any) -> Member:
    match fields:
        case [str(name), int(incarnation), str(address), bool(votes)] if type(incarnation) is int:
            if not 1 <= len(name.encode()) <= NAME_BYTES_MAX or len(address.encode()) > ADDRESS_BYTES_MAX:
                raise ValueError("a member's name or address is too long")
            if not 0 <= incarnation <= INCARNATION_MAX:
                raise ValueError("a member's incarnation is no number of 63 bits")
            return Member(name, incarnation, address, votes)
    raise ValueError("a member of a form that this program does not know")


# -- changes ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class AddObserver:
    """Take in this server, as one that does not count; or learn its new address, if it is a member."""

    name: str
    incarnation: int
    address: str = ""

    def __str__(self) -> str:
        return f"add observer {self.name}"


@dataclass(frozen=True, slots=True)
class Promote:
    """Let an observer vote and count. Refused until it has caught up."""

    name: str
    incarnation: int

    def __str__(self) -> str:
        return f"promote {self.name}"


@dataclass(frozen=True, slots=True)
class Remove:
    """Take a member out. The incarnation says which, should another have come in its place meanwhile."""

    name: str
    incarnation: int

    def __str__(self) -> str:
        return f"remove {self.name}"


Change = AddObserver | Promote | Remove

_CHANGES: dict[str, Callable[..., Change]] = {"add": AddObserver, "promote": Promote, "remove": Remove}
_FIELDS = {"add": (str, int, str), "promote": (str, int), "remove": (str, int)}


def change_to_plain(change: Change) -> list[Any]:
    """As plain values, for :func:`change_from_plain`."""
    match change:
        case AddObserver():
            return ["add", change.name, change.incarnation, change.address]
        case Promote():
            return ["promote", change.name, change.incarnation]
        case Remove():
            return ["remove", change.name, change.incarnation]


def change_from_plain(plain: Any) -> Change:
    """The change. Raises :class:`ValueError` for anything else than :func:`change_to_plain` gives."""
    if type(plain) is not list or not plain or type(plain[0]) is not str or plain[0] not in _CHANGES:
        raise ValueError("a change of a kind that this program does not know")
    if tuple(map(type, plain[1:])) != _FIELDS[plain[0]]:
        raise ValueError(f"the fields of the change {plain[0]!r} are wrong")
    change = _CHANGES[plain[0]](*plain[1:])
    _member([change.name, change.incarnation, getattr(change, "address", ""), False])
    return change


def changed(before: Configuration, change: Change) -> Configuration:
    """The configuration after ``change``: ``before`` itself, if it is so already.

    Raises :class:`~consensus.errors.MembershipRefused` for what makes no sense.
    """
    match change:
        case AddObserver():
            return _with_observer(before, change)
        case Promote():
            return _promoted(before, change)
        case Remove():
            return _removed(before, change)


def _with_observer(before: Configuration, change: AddObserver) -> Configuration:
    known = before.get(change.name)
    if known is not None and known.incarnation == change.incarnation:
        same = known.address == change.address or not change.address
        return before if same else before.with_member(replace(known, address=change.address))
    if known is not None and known.votes:
        raise MembershipRefused(
            f"{change.name} is a voter under another incarnation, whose disk is gone if this is it: remove "
            f"that one first, then add this one"
        )
    if known is None and len(before.observers) >= OBSERVERS_MAX:
        raise MembershipRefused(f"there are {OBSERVERS_MAX} observers, which is the limit; remove one first")
    return before.with_member(Member(change.name, change.incarnation, change.address, votes=False))


def _promoted(before: Configuration, change: Promote) -> Configuration:
    member = _known(before, change.name, change.incarnation)
    if member.votes:
        return before
    if len(before.voters) >= VOTERS_MAX:
        raise MembershipRefused(f"there are {VOTERS_MAX} voters, which is the limit; remove one first")
    return before.with_member(replace(member, votes=True))


def _removed(before: Configuration, change: Remove) -> Configuration:
    member = before.get(change.name)
    if member is None or member.incarnation != change.incarnation:
        return before
    after = before.without(change.name)
    if not after.voters:
        raise MembershipRefused(
            f"{change.name} is the only voter: without it nobody could decide anything; promote another first"
        )
    return after


def _known(before: Configuration, name: str, incarnation: int) -> Member:
    member = before.get(name)
    if member is None or member.incarnation != incarnation:
        what = "no member" if member is None else "a member in another incarnation"
        raise MembershipRefused(f"{name} is {what}; add it as an observer first")
    return member
