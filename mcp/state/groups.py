"""Several commands of one session in one command of the log.

A client with many callers has many small commands at once. Each is numbered, checked, executed, refused and
kept under its number as if it stood alone in the log, one after the other; what they share is the reading
of the command, the look at the session and the place in the log. So whoever sends one of them again, alone
or among others, gets its kept result.

Only operations that give no events and that do not look at their position within the entry are taken
(``GROUPED``), which is most of what comes in numbers. Since schema 3.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from mcp.errors import InvalidArgument
from mcp.state.applied import Applied, Operation, recorded
from mcp.state.arguments import integer, only, sequence
from mcp.state.commands import GROUP, Moment, encode_command
from mcp.state.keys import written
from mcp.state.packing import pack
from mcp.state.sessions import Sessions

GROUPED: Final = frozenset({"key.put", "key.cas", "key.delete"})
"""The operations that may stand in a group."""

GROUP_COMMANDS_MAX: Final = 1024
"""So many commands may be in one: a session keeps at least as many results."""

WRITTEN_BYTES_MAX: Final = 40
"""What a session keeps of a write is no longer."""

PutRun = Callable[[Sequence[dict[str, Any]], Moment], list[int]]

_GROUP: Final = frozenset({"ack", "commands"})
_PUTS: Final = frozenset({"key.put"})
_LISTS: Final = frozenset({list})
_THREE: Final = frozenset({3})
_TEXTS: Final = frozenset({str})
_INTEGERS: Final = frozenset({int})
_MAPS: Final = frozenset({dict})


class Columns(NamedTuple):
    """Commands ``[seq, op, args]``, turned round."""

    numbers: tuple[int, ...]
    ops: tuple[str, ...]
    each: tuple[dict[str, Any], ...]
    """The arguments of each."""


def encode_group(session: str, ack: int, commands: Sequence[Sequence[Any]]) -> bytes:
    """The bytes of one command for the log, of commands ``[seq, op, args]`` with ops of ``GROUPED``.

    Raises as :func:`~mcp.state.commands.encode_command`.
    """
    return encode_command(GROUP, {"ack": ack, "commands": commands}, session=session)


def apply_group(
    args: dict[str, Any],
    moment: Moment,
    sessions: Sessions,
    operations: Mapping[str, Operation],
    put_run: PutRun,
) -> list[Applied]:
    """``{ack, commands}``: execute the commands in their order; gives what came of each.

    ``put_run`` is :meth:`mcp.state.keys.Keys.put_run`: most groups are of nothing but writes.

    Raises :class:`~mcp.errors.InvalidArgument` for what is no group, and what
    :meth:`~mcp.state.sessions.Sessions.enter` raises: no command of it was executed then.
    """
    only(args, _GROUP)
    ack, commands = integer(args["ack"], "ack"), sequence(args["commands"], "commands", GROUP_COMMANDS_MAX)
    found = columns(commands)
    if found is None or not operations.keys() >= set(found.ops):
        raise _no_group(commands, operations)
    numbers, ops, each = found
    session = sessions.enter(moment.session, min(numbers), ack, moment.time_s)
    applied: list[Applied] = []
    if set(ops) == _PUTS and sessions.takes_each(session, numbers, WRITTEN_BYTES_MAX):
        versions = put_run(each, moment)
        known = {version: _written(version, moment.index) for version in set(versions)}
        kept = [known[version] for version in versions]
        applied = [result for result, _ in kept]
        sessions.keep_each(session, numbers[: len(kept)], [data for _, data in kept])
    return applied + sessions.execute_each(session, commands[len(applied) :], operations, moment)


def _written(version: int, index: int) -> tuple[Applied, bytes]:
    """What a write gave, and what the session keeps of that."""
    value = written(version, index)
    return recorded((value, None, (), True, True)), pack((value, None))


def columns(commands: list[Any]) -> Columns | None:
    """The numbers, operations and arguments of commands; ``None`` where one is no ``[seq, op, args]``.

    It looks at all of them at once, which costs a fraction of a look at each.
    """
    if set(map(type, commands)) == _LISTS and set(map(len, commands)) == _THREE:
        numbers, ops, each = zip(*commands, strict=True)
        if (
            set(map(type, numbers)) == _INTEGERS
            and set(map(type, ops)) == _TEXTS
            and set(map(type, each)) == _MAPS
        ):
            return Columns(numbers, ops, each)
    return None


def _no_group(commands: list[Any], operations: Mapping[str, Operation]) -> InvalidArgument:
    for command in commands:
        found = columns([command])
        if found is None or found.ops[0] not in operations:
            return _no_command(command)
    return InvalidArgument("a group has at least one command")


def _no_command(command: object) -> InvalidArgument:
    return InvalidArgument(
        "a command of a group is an array of seq, op and args, and its op one of "
        f"{', '.join(sorted(GROUPED))}, not {command!r:.80}"
    )
