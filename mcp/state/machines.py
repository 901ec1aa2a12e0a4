"""State machines that users bring: executed in the same order as everything else, under the same promises.

A machine is a deterministic function of the commands that it gets. It sits behind the sessions, so a
command reaches it once however often it is retried, and its state travels in the same snapshots and counts
in the same digest as the rest. Every node of a cluster has to have the same machines.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Protocol

import msgpack

from mcp.errors import InvalidArgument, NotFound, Unsupported
from mcp.plain import shown
from mcp.state import arguments
from mcp.state.applied import Incapable
from mcp.state.arguments import LABEL
from mcp.state.commands import Moment
from mcp.state.limits import StateLimits
from mcp.state.members import Members

_EXECUTE: Final = frozenset({"machine", "data"})
_CHANGES: Final = frozenset({list, dict})
_START_WITH_IT: Final = "every node of a cluster has the same executors: start this one with it"


class Machine(Protocol):
    """What a user brings. :class:`executor.interface.Executor` in the terms of this package."""

    def execute(self, data: bytes, moment: Moment) -> Any:
        """Execute one command; gives plain values. An :class:`~mcp.errors.McpError` is an outcome too."""

    def snapshot(self) -> bytes:
        """The whole state. Equal states give equal bytes."""

    def restore(self, snapshot: bytes) -> None:
        """Replace the whole state."""


class Machines:
    """The machines by name.

    A command for one is executed where every member that is up has said that it has it, which the log knows
    at every position; otherwise it is refused, on every node. A node that lacks one all the same (it was
    down, or was started again without it) cannot know what the others made of the command, and stops.
    From its first command on a machine is part of the replicated state.
    """

    def __init__(self, machines: Mapping[str, Machine], limits: StateLimits) -> None:
        self._machines = {name: machines[name] for name in sorted(machines)}
        self._limits = limits
        self._initial: dict[str, bytes] = {}
        """Of each that has executed something, its state before that."""

    @property
    def names(self) -> tuple[str, ...]:
        """What this node has."""
        return tuple(self._machines)

    def execute(self, args: dict[str, Any], moment: Moment, members: Members) -> Any:
        """``{machine, data}``: what executing ``data`` gave.

        Raises :class:`~mcp.errors.NotFound` for a machine that nobody has, :class:`~mcp.errors.Unsupported`
        for one that not everybody has, what the machine raises, and, on a node that lacks what the others
        have, :class:`~mcp.state.applied.Incapable`.
        """
        arguments.only(args, _EXECUTE)
        name = arguments.matching(args["machine"], "machine", LABEL)
        data = args["data"]
        if type(data) is not bytes:
            raise InvalidArgument(f"data is bytes, not {shown(data)}")
        _check_everybody_has(name, members)
        machine = self._machines.get(name)
        if machine is None:
            raise Incapable(f"it is for the executor {name!r}, which this node has not; {_START_WITH_IT}")
        if name not in self._initial:
            self._initial[name] = machine.snapshot()
        value = machine.execute(data, moment)
        kept = arguments.packed(value, f"the result of {name}", self._limits.value_bytes_max)
        # What a machine gave may be its own, and be changed by the next command before anybody is answered.
        return msgpack.unpackb(kept) if type(value) in _CHANGES else value

    def to_plain(self) -> list[Any]:
        """Return plain values, equal for equal machines: of all that have executed something."""
        return [[name, self._machines[name].snapshot()] for name in sorted(self._initial)]

    def restore(self, plain: list[Any]) -> None:
        """Replace the state of every machine; those that had executed nothing are as at the start.

        Raises :class:`~mcp.state.applied.Incapable` where this node has not all of them, or one cannot.
        """
        saved = dict(plain)
        missing = ", ".join(sorted(saved.keys() - self._machines.keys()))
        if missing:
            raise Incapable(
                f"it has the state of the executor {missing}, which this node has not; {_START_WITH_IT}"
            )
        for name in saved.keys() - self._initial.keys():
            self._initial[name] = self._machines[name].snapshot()
        for name, snapshot in {**self._initial, **saved}.items():
            try:
                self._machines[name].restore(snapshot)
            except Exception as error:
                raise Incapable(
                    f"the executor {name!r} cannot restore its own snapshot ({type(error).__name__}: "
                    f"{error}); start this node with a version of it that can"
                ) from error
        self._initial = {name: self._initial[name] for name in saved}


def _check_everybody_has(name: str, members: Members) -> None:
    up = members.up()
    lacking = [member.node for member in up if name not in member.executors]
    if up and not lacking:
        return
    if len(lacking) == len(up):
        known = ", ".join(sorted({executor for member in up for executor in member.executors})) or "none"
        raise NotFound(f"there is no executor {name!r}; there are: {known}")
    raise Unsupported(
        f"{', '.join(lacking)} of the cluster's nodes {_has(lacking)} no executor {name!r}, so nothing was "
        "executed; start every node with it"
    )


def _has(nodes: list[str]) -> str:
    return "has" if len(nodes) == 1 else "have"
