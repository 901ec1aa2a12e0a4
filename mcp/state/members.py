"""Who is in the cluster, as far as the log says: up or down, and in which incarnation.

Every start of a node's process is an incarnation with a higher number. News about an older incarnation
cannot undo news about a newer one, so a late "it is down" does not hit the process that replaced the
one that went down (Das, Gupta and Motivala, "SWIM", 2002, section 4.2). A member that is down and says
hello in the same incarnation was cut off rather than restarted, and is up again.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final

from mcp.errors import Busy, Fenced, NotFound
from mcp.state.arguments import LABEL, NODE, integer, matching, names, only
from mcp.state.commands import Moment
from mcp.state.limits import StateLimits
from mcp.state.packing import reader

_HELLO: Final = frozenset({"node", "address", "incarnation", "providers"})
_OPTIONAL: Final = frozenset({"schema", "executors"})
_DOWN: Final = frozenset({"node", "incarnation"})

EXECUTORS_MAX: Final = 64
"""So many executors a node has at most."""


@dataclass(frozen=True, slots=True)
class Member:
    """A node. ``up`` since, or down since, ``since_s`` and the log position ``index``.

    ``schema`` is the newest schema of commands that it executes: see :mod:`mcp.state.schema`. ``executors``
    are the names of the users' own that it has: see :mod:`mcp.state.machines`.
    """

    node: str
    address: str
    incarnation: int
    providers: tuple[str, ...]
    up: bool
    since_s: float
    index: int
    schema: int = 1
    executors: tuple[str, ...] = ()

    def to_wire(self) -> dict[str, Any]:
        """Return the member as a client reads it."""
        return {
            "node": self.node,
            "address": self.address,
            "incarnation": self.incarnation,
            "providers": list(self.providers),
            "state": "up" if self.up else "down",
            "since_s": self.since_s,
            "index": self.index,
            "schema": self.schema,
            "executors": list(self.executors),
        }


class Members:
    """The members by node id."""

    def __init__(self, limits: StateLimits) -> None:
        self.revision = 0
        """How often anything changed in this process: whoever has made something of it looks here."""
        self._limits = limits
        self._members: dict[str, Member] = {}

    def __len__(self) -> int:
        return len(self._members)

    def get(self, node: str) -> Member | None:
        """Return the member with this id, or ``None``."""
        return self._members.get(node)

    def all(self) -> list[Member]:
        """Return every member, in the order of their ids."""
        return [self._members[node] for node in sorted(self._members)]

    def is_up(self, node: str) -> bool:
        """Say whether ``node`` is a member that is up."""
        member = self._members.get(node)
        return member is not None and member.up

    def up(self) -> list[Member]:
        """Return every member that is up, in the order of their ids."""
        return [member for member in self.all() if member.up]

    def hello(self, args: dict[str, Any], moment: Moment) -> tuple[Member | None, Member]:
        """``{node, address, incarnation, providers, schema?, executors?}``: the member before and after.

        Raises :class:`~mcp.errors.Fenced` when a newer incarnation is known, and
        :class:`~mcp.errors.Busy` at ``members_max`` when nobody is down to make room.
        """
        only(args, _HELLO, _OPTIONAL)
        node = matching(args["node"], "node", NODE)
        member = Member(
            node,
            matching(args["address"], "address", NODE),
            integer(args["incarnation"], "incarnation"),
            names(args["providers"], "providers", LABEL, self._limits.providers_max),
            up=True,
            since_s=moment.time_s,
            index=moment.index,
            schema=integer(args.get("schema", 1), "schema", 1),
            executors=names(args.get("executors", []), "executors", LABEL, EXECUTORS_MAX),
        )
        before = self._members.get(node)
        if before is None:
            self._make_room()
        else:
            _check_incarnation(before, member.incarnation)
            if before.up and before.incarnation == member.incarnation:
                member = replace(member, since_s=before.since_s, index=before.index)
        self._members[node] = member
        self.revision += 1
        return before, member

    def down(self, args: dict[str, Any], moment: Moment) -> tuple[Member, Member]:
        """``{node, incarnation}``: return the member as it was and as it is.

        Raises :class:`~mcp.errors.NotFound` for no member, and :class:`~mcp.errors.Fenced` when a newer
        incarnation is known. One that is down already stays so.
        """
        only(args, _DOWN)
        node = matching(args["node"], "node", NODE)
        incarnation = integer(args["incarnation"], "incarnation")
        before = self._members.get(node)
        if before is None:
            raise NotFound(f"there is no member {node}; it has never said hello")
        _check_incarnation(before, incarnation)
        after = replace(before, incarnation=incarnation, up=False)
        if before.up:
            after = replace(after, since_s=moment.time_s, index=moment.index)
        self._members[node] = after
        self.revision += 1
        return before, after

    def read(self, args: dict[str, Any]) -> list[dict[str, Any]]:
        """``{}``: return every member, in the order of their ids."""
        only(args, frozenset())
        return [member.to_wire() for member in self.all()]

    def _make_room(self) -> None:
        if len(self._members) < self._limits.members_max:
            return
        down = [member for member in self._members.values() if not member.up]
        if not down:
            raise Busy(f"members_max={self._limits.members_max} members are up; take one down first")
        longest = min(down, key=lambda member: (member.index, member.node))
        del self._members[longest.node]

    def to_plain(self) -> list[Any]:
        """Return plain values, equal for equal members."""
        return [_values(member) for member in self.all()]

    @classmethod
    def from_plain(cls, plain: list[Any], limits: StateLimits) -> Members:
        """Rebuild what :meth:`to_plain` wrote."""
        members = cls(limits)
        for node, address, incarnation, providers, up, since_s, index, *rest in plain:
            schema, executors = rest if rest else (1, [])
            members._members[node] = Member(
                node, address, incarnation, tuple(providers), up, since_s, index, schema, tuple(executors)
            )
        return members


def _check_incarnation(member: Member, incarnation: int) -> None:
    if incarnation < member.incarnation:
        raise Fenced(
            f"incarnation {incarnation} of {member.node} is over: {member.incarnation} is known; "
            "a node that starts again takes a higher incarnation",
            details={"node": member.node, "incarnation": member.incarnation},
        )


_values: Final = reader(Member)
