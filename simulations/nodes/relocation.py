"""Nodes that move: one is stopped, and starts on its disk at another address, of which it alone is told.

As docs/operations.md asks of operators: one at a time, and the next when the cluster shows where the last
is. One founder stays where it is, for clients are told of addresses once, and so are nodes that start; once
it is no member any more, everybody stays.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Protocol

from simulations.moves import Relocation
from simulations.nodes.machine import Machine, State
from simulations.nodes.operator import configuration
from simulations.world import World


class Around(Protocol):
    """What is found around."""

    world: World
    done: Counter[str]
    machines: dict[str, Machine]


class Relocations:
    """The relocations of one run; :meth:`look` is called now and then while it is under fire."""

    def __init__(self, around: Around, due: Iterable[Relocation], stays: str) -> None:
        self._around = around
        self._due = list(due)
        self._stays = stays

    def look(self) -> None:
        """Begin what is due, unless the last is not known yet."""
        around = self._around
        if not self._due or self._due[0].at_s > around.world.now or unknown(around.machines) is not None:
            return
        move = self._due.pop(0)
        known = configuration(around.machines)
        assert known is not None
        machines = [around.machines[member.name] for member in known.members]
        machines = [machine for machine in machines if machine.state is not State.LOST]
        if self._stays in (machine.name for machine in machines) and len(machines) > 1:
            machines = [machine for machine in machines if machine.name != self._stays]
            machine = machines[int(move.pick * len(machines))]
            number = int(machine.address.partition(".")[2] or 0) + 1
            around.done["nodes moved"] += 1
            machine.relocate(f"{machine.name}.{number}")


def unknown(machines: Mapping[str, Machine]) -> str | None:
    """Who has moved, and whoever leads does not know where to; ``None``: nobody, and somebody leads."""
    known = configuration(machines)
    if known is None:
        return "nobody leads"
    for member in known.members:
        machine = machines[member.name]
        own = f"memory://{machine.address}"
        itself = member.incarnation in (0, machine.incarnation) and machine.state is not State.LOST
        if itself and machine.address != machine.name and member.address != own:
            return (
                f"{member.name} has moved to {own}, and is thought to be at {member.address or 'its first'}"
            )
    return None
