"""How nodes of two versions share one log, and when the newer commands come into force.

Each node says in its hello which schema it executes at most, so the log knows that of every member. One
schema is *in force*: it is part of the state, begins at 1 and only grows, one step at a time, with a
command ``schema.raise``. The leader proposes it when every voter, and every other member that is up, has said
that it can; the state checks the same against what the log says at that position, so a hello of an older
version that came just before is heeded. Commands of a newer schema than the one in force are not proposed:
whoever proposes has executed the raise, so in the log they come after it.

So, before the raise, any node may go back to the older version: nothing that it does not know is in the log.
From the raise on an older version stops there, or at a snapshot written since, with an error that says so:
it could not know what the others make of what follows. A member that is down and does not vote is not
waited for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from mcp.errors import InvalidArgument, McpError, Unavailable, Unsupported, VersionMismatch
from mcp.state.arguments import NODE, integer, names, only
from mcp.state.commands import SCHEMA_MAX, schema_of
from mcp.state.limits import StateLimits
from mcp.state.members import Members

_RAISE: Final = frozenset({"schema", "voters"})


class Schema:
    """The schema in force, and what may be proposed under it. ``own_max`` is what this very node executes.

    Raises :class:`ValueError` for an ``own_max`` that this version does not execute.
    """

    def __init__(self, members: Members, limits: StateLimits, own_max: int, in_force: int = 1) -> None:
        if not 1 <= own_max <= SCHEMA_MAX:
            raise ValueError(f"schema {own_max}: this version executes 1 to {SCHEMA_MAX}")
        self.in_force = in_force
        self.own_max = own_max
        self._members = members
        self._limits = limits

    def due(self, voters: Sequence[str]) -> int | None:
        """Return the schema that may be put into force now, as far as this node knows; ``None``: none."""
        following = self.in_force + 1
        if following > self.own_max or self._behind(following, voters) or self._silent(voters):
            return None
        return following

    def has(self, op: str, args: Mapping[str, Any] | None = None) -> bool:
        """Say whether the operation may be proposed, with these arguments."""
        return schema_of(op, args) <= self.in_force

    def refusal(self, op: str, voters: Sequence[str], args: Mapping[str, Any] | None = None) -> McpError:
        """Return why an operation may not be proposed yet.

        :class:`~mcp.errors.Unsupported` when a node is known not to execute it, and
        :class:`~mcp.errors.Unavailable` when that will be known, or changed, in a moment.
        """
        schema = schema_of(op, args)
        what = op if schema == schema_of(op) else f"{op} with these arguments"
        text = f"{what} needs schema {schema}, and {self.in_force} is in force"
        behind, silent = self._behind(schema, voters), self._silent(voters)
        if behind:
            return Unsupported(
                f"{text}: {', '.join(behind)}; once all nodes are upgraded it comes into force by itself"
            )
        if silent:
            return Unavailable(f"{text}: {', '.join(silent)} has not said what it executes; start it")
        return Unavailable(f"{text}: the leader is about to raise it; ask again")

    def raise_to(self, args: dict[str, Any]) -> bool:
        """``{schema, voters}``: put the next schema into force; whether that changed anything.

        Raises :class:`~mcp.errors.Unsupported` when a voter, or another member that is up, does not execute
        it; :class:`~mcp.errors.InvalidArgument` for more than one step; and, on the node that it concerns
        alone, :class:`~mcp.errors.VersionMismatch`: that node must not go on.
        """
        only(args, _RAISE)
        schema = integer(args["schema"], "schema", 1)
        voters = names(args["voters"], "voters", NODE, self._limits.members_max)
        if schema <= self.in_force:
            return False
        if schema != self.in_force + 1:
            raise InvalidArgument(
                f"schema {self.in_force} is in force, and is raised by one, not to {schema}"
            )
        behind = self._behind(schema, voters) + [f"{node} has said nothing" for node in self._silent(voters)]
        if behind:
            raise Unsupported(f"schema {schema} cannot come into force: {', '.join(behind)}")
        if schema > self.own_max:
            raise VersionMismatch(
                f"schema {schema} comes into force here, and this node executes commands up to "
                f"{self.own_max}; upgrade this node, then start it"
            )
        self.in_force = schema
        return True

    def _behind(self, schema: int, voters: Sequence[str]) -> list[str]:
        return [
            f"{member.node} executes up to {member.schema}"
            for member in self._members.all()
            if member.schema < schema and (member.up or member.node in voters)
        ]

    def _silent(self, voters: Sequence[str]) -> list[str]:
        return [node for node in sorted(voters) if self._members.get(node) is None]
