"""Several commands of one session in one command of the log.

A client with many callers has many small commands at once. Each is numbered, checked, executed, refused and
kept under its number as if it stood alone in the log, one after the other; what they share is the reading
of the command, the look at the session and the place in the log. So whoever sends one of them again, alone
or among others, gets its kept result.

Only operations that give no events and that do not look at their position within the entry are taken
(``GROUPED``), which is most of what comes in numbers. Since schema 3.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from mcp.errors import InvalidArgument
from mcp.state.applied import Applied, Operation
from mcp.state.arguments import INTEGER_MAX, integer, only, sequence
from mcp.state.commands import GROUP, Moment, encode_command
from mcp.state.sessions import Sessions

GROUPED: Final = frozenset({"key.put", "key.cas", "key.delete"})
"""The operations that may stand in a group."""

GROUP_COMMANDS_MAX: Final = 1024
"""So many commands may be in one: a session keeps at least as many results."""

_GROUP: Final = frozenset({"ack", "commands"})


def encode_group(session: str, ack: int, commands: Sequence[Sequence[Any]]) -> bytes:
    """The bytes of one command for the log, of commands ``[seq, op, args]`` with ops of ``GROUPED``.

    Raises as :func:`~mcp.state.commands.encode_command`.
    """
    return encode_command(GROUP, {"ack": ack, "commands": commands}, session=session)


def apply_group(
    args: dict[str, Any], moment: Moment, sessions: Sessions, operations: Mapping[str, Operation]
) -> list[Applied]:
    """``{ack, commands}``: execute the commands in their order; gives what came of each.

    Raises :class:`~mcp.errors.InvalidArgument` for what is no group, and what
    :meth:`~mcp.state.sessions.Sessions.enter` raises: no command of it was executed then.
    """
    only(args, _GROUP)
    ack, commands = integer(args["ack"], "ack"), sequence(args["commands"], "commands", GROUP_COMMANDS_MAX)
    lowest = _lowest(commands, operations)
    session = sessions.enter(moment.session, lowest, ack, moment.time_s)
    return sessions.execute_each(session, commands, operations, moment)


def _lowest(commands: list[Any], operations: Mapping[str, Operation]) -> int:
    """The lowest number of the commands, which are what they should be."""
    lowest = INTEGER_MAX
    command: Any = None
    try:
        for command in commands:
            seq, op, args = command
            if type(seq) is not int or type(args) is not dict or op not in operations:
                raise _no_command(command)
            lowest = min(lowest, seq)
    except (TypeError, ValueError):
        raise _no_command(command) from None
    if not commands:
        raise InvalidArgument("a group has at least one command")
    return lowest


def _no_command(command: object) -> InvalidArgument:
    return InvalidArgument(
        "a command of a group is an array of seq, op and args, and its op one of "
        f"{', '.join(sorted(GROUPED))}, not {command!r:.80}"
    )
