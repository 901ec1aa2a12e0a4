"""State machines that users bring: executed in the same order as everything else, under the same promises.

A machine is a deterministic function of the commands that it gets. It sits behind the sessions, so a
command reaches it once however often it is retried, and its state travels in the same snapshots and counts
in the same digest as the rest. Every node of a cluster has to have the same machines.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Protocol

from mcp.errors import InvalidArgument, NotFound, StorageCorrupt
from mcp.state import arguments
from mcp.state.arguments import LABEL
from mcp.state.commands import Moment
from mcp.state.limits import StateLimits

_EXECUTE: Final = frozenset({"machine", "data"})


class Machine(Protocol):
    """What a user brings. :class:`executor.interface.Executor` in the terms of this package."""

    def execute(self, data: bytes, moment: Moment) -> Any:
        """Execute one command; gives plain values. An :class:`~mcp.errors.McpError` is an outcome too."""

    def snapshot(self) -> bytes:
        """The whole state. Equal states give equal bytes."""

    def restore(self, snapshot: bytes) -> None:
        """Replace the whole state."""


class Machines:
    """The machines by name."""

    def __init__(self, machines: Mapping[str, Machine], limits: StateLimits) -> None:
        self._machines = {name: machines[name] for name in sorted(machines)}
        self._limits = limits

    def execute(self, args: dict[str, Any], moment: Moment) -> Any:
        """``{machine, data}``: what executing ``data`` gave.

        Raises :class:`~mcp.errors.NotFound` for a machine that there is not, and what the machine raises.
        """
        arguments.only(args, _EXECUTE)
        name = arguments.matching(args["machine"], "machine", LABEL)
        machine = self._machines.get(name)
        if machine is None:
            known = ", ".join(self._machines) or "none"
            raise NotFound(f"there is no executor {name!r} here; there are: {known}")
        data = args["data"]
        if type(data) is not bytes:
            raise InvalidArgument(f"data is bytes, not {arguments.shown(data)}")
        value = machine.execute(data, moment)
        arguments.packed(value, f"the result of {name}", self._limits.value_bytes_max)
        return value

    def to_plain(self) -> list[Any]:
        """Return plain values, equal for equal machines."""
        return [[name, machine.snapshot()] for name, machine in self._machines.items()]

    def restore(self, plain: list[Any]) -> None:
        """Replace the state of every machine. Raises :class:`~mcp.errors.StorageCorrupt`."""
        saved = dict(plain)
        if saved.keys() != self._machines.keys():
            raise StorageCorrupt(
                f"the state has the executors {', '.join(sorted(saved)) or 'none'}, this node was "
                f"started with {', '.join(self._machines) or 'none'}: give every node of the cluster the same"
            )
        for name, snapshot in saved.items():
            try:
                self._machines[name].restore(snapshot)
            except Exception as error:
                raise StorageCorrupt(f"executor {name!r} cannot restore its own snapshot: {error}") from error
