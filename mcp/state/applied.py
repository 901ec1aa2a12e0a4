"""What comes of a command: a value or an error, the same on every node."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from mcp.errors import McpError
from mcp.state.commands import Moment
from mcp.state.events import Event

Error = tuple[str, str, dict[str, Any]]
"""A code, a message and details, as of :class:`~mcp.errors.McpError`."""


class Applied(NamedTuple):
    """What a command gave: a value, or an error. The same on every node.

    ``executed`` is false when the command had no chance to take effect: it was no command, its session is
    not open, or its kept result was returned. ``recorded``: this is the command's outcome for good, and
    repeating it gives the same.
    """

    value: Any
    error: Error | None
    events: tuple[Event, ...] = ()
    executed: bool = False
    recorded: bool = False


recorded: Final = functools.partial(tuple.__new__, Applied)
"""One of its five fields, without the call that a named tuple's constructor is."""

Operation = Callable[[dict[str, Any], Moment], Any]
"""Executes a command's arguments. It gives a value or raises, and then it has changed nothing."""


class Incapable(Exception):
    """This node cannot execute what the others do: it must not go on, and only it knows.

    The text says what to do. No outcome of a command, because the other nodes have another.
    """


def error_of(error: McpError) -> Error:
    """The error as the state keeps it."""
    return error.code, error.message, error.details


def guarded(operation: Operation, op: str, args: dict[str, Any], moment: Moment) -> tuple[Any, Error | None]:
    """Run an operation; gives its value, or its error. What concerns this node alone passes through."""
    try:
        return operation(args, moment), None
    except Exception as error:
        return None, failure_of(error, op)


def failure_of(error: Exception, op: str) -> Error:
    """What an operation gave that raised ``error``; what concerns this node alone is raised anew."""
    if isinstance(error, McpError):
        return error_of(error)
    if isinstance(error, MemoryError | Incapable):
        raise error
    # A defect, and the same one on every node: an entry that stopped the nodes that apply it
    # would stop them again at each start.
    return "INTERNAL", f"{op:.40}: {type(error).__name__}: {error}", {}
