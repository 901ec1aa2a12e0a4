"""What has to hold where dead voters are replaced: nobody goes, and no spare votes, before the declared time.

It is seen from outside, by the configuration and by the engine's own account of when each voter answered
last. A voter that nobody asked to be removed, and whose disk is still its own, has been replaced: then the
node that leads has heard nothing of it for the declared time, by its own clock, and only since it leads.
Nobody goes like that where nothing was declared.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Final

from consensus.interface import EngineStatus, Role
from simulations.invariants import Violation
from simulations.nodes.machine import Machine

AFTER_THE_TIME: Final = "a voter is replaced only after the declared time"

Server = tuple[str, int]
"""A name, and the number of a journal."""


class _Reign:
    """What one life of a node has heard in one term that it leads."""

    def __init__(self) -> None:
        self.voters: set[Server] | None = None
        self.contact_s: dict[Server, float] = {}
        self.took_out = False


class Replacements:
    """Looks at whoever leads. ``after_s`` was declared; ``fail`` takes what is wrong."""

    def __init__(
        self, after_s: float | None, fail: Callable[[Exception], None], counts: Counter[str]
    ) -> None:
        self.replaced: set[Server] = set()
        """Who was taken out for having been dead."""
        self.removed: set[str] = set()
        """Whose removal somebody has asked for."""
        self.checked = 0
        """Replacements that were looked at."""
        self._after_s = after_s
        self._fail = fail
        self._counts = counts
        self._reigns: dict[tuple[str, int, int], _Reign] = {}

    def look(self, machines: Mapping[str, Machine]) -> None:
        """Look at every node that leads."""
        for machine in machines.values():
            parts = machine.parts
            if parts is None or parts.driver.status().role is not Role.LEADER:
                continue
            status = parts.driver.status()
            reign = self._reigns.setdefault((machine.name, machine.lives, status.term), _Reign())
            members = parts.driver.configuration.members
            voters = {(member.name, member.incarnation) for member in members if member.votes}
            if reign.voters is not None and voters != reign.voters:
                self._changed(reign, voters, machine, machines)
            reign.voters = voters
            self._note(reign, status)

    def _note(self, reign: _Reign, status: EngineStatus) -> None:
        assert reign.voters is not None
        for name, number in reign.voters:
            if name in status.last_contact_s:
                reign.contact_s[name, number] = status.last_contact_s[name]

    def _changed(
        self, reign: _Reign, voters: set[Server], leader: Machine, machines: Mapping[str, Machine]
    ) -> None:
        assert reign.voters is not None
        now = leader.clock.now()
        for server in sorted(reign.voters - voters):
            name, number = server
            if name in self.removed or number not in (0, machines[name].incarnation):
                continue
            self.replaced.add(server)
            self._counts["voters replaced"] += 1
            reign.took_out = True
            self._judge(f"{leader.name} takes {name} out", now - reign.contact_s.get(server, now))
        for name, _ in sorted(voters - reign.voters):
            if machines[name].observer and not reign.took_out:
                self._counts["spares promoted"] += 1
                longest_s = now - min(reign.contact_s.get(voter, now) for voter in reign.voters)
                self._judge(f"{leader.name} lets {name} vote", longest_s)

    def _judge(self, what: str, silent_s: float) -> None:
        self.checked += 1
        if self._after_s is None or silent_s < self._after_s:
            declared = (
                "nothing was declared" if self._after_s is None else f"declared are {self._after_s:g} s"
            )
            self._fail(Violation(AFTER_THE_TIME, f"{what} after {silent_s:.3f} s of silence; {declared}"))
