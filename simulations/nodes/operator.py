"""Who joins, who goes and whose disk is emptied while whole nodes serve: pursued as operators do it.

Whoever joins is started with the addresses of some members, and whoever has lost its disk is started as
it was: the rest is the nodes' own business. Removals are asked for through a client, and again when that
failed. The same limits hold as in `simulations.engine.operator`: a disk is emptied only while every voter
runs on its own, and its voter is replaced before the next one; no more voters are removed than a cluster
can lose. Everything else the nodes have to refuse, or to bring about.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from consensus.configuration import VOTERS_MAX, Configuration, Standing
from consensus.interface import Role
from mcp.client.client import Client
from mcp.errors import McpError
from simulations.moves import VOTERS_LEAST, WISHES_MAX, Kind, Move
from simulations.nodes.machine import Machine, State
from simulations.nodes.replacing import Replacements
from simulations.nodes.scenario import Scenario
from simulations.world import World

LOOK_S = 0.2
"""So often the operator looks how its wishes are."""
REMOVE_TIMEOUTS_S = (0.3, 1.0, 3.0)
SETTLED_S = 10.0
"""A deploy may take so long; whoever comes or goes meanwhile changes what a quorum of it is."""


class Around(Protocol):
    """What the operator finds around itself."""

    world: World
    scenario: Scenario
    done: Counter[str]
    machines: dict[str, Machine]
    replacements: Replacements


@dataclass(slots=True)
class Wish:
    """``incarnation`` is that of the server which is to go."""

    kind: Kind
    name: str
    incarnation: int | None = None


def configuration(machines: Mapping[str, Machine]) -> Configuration | None:
    """The members by whoever leads the highest term, and by nobody while nobody leads."""
    leading = [
        (parts.driver.status().term, parts.driver.configuration)
        for machine in machines.values()
        if (parts := machine.parts) is not None and parts.driver.status().role is Role.LEADER
    ]
    return max(leading, key=lambda each: each[0])[1] if leading else None


class Operator:
    """One run's moves. :meth:`run` is a task of the clients' loop."""

    def __init__(self, around: Around, client: Client) -> None:
        self.client = client
        self.stopping = False
        """What has not come true by now is not asked for any more; nodes go on by themselves."""
        self._around = around
        self._machines = around.machines
        self._random = around.world.stream("operator")
        self._fresh = list(around.scenario.fresh)
        self._due = list(around.scenario.moves)
        self._wishes: list[Wish] = []
        self._upheavals: list[float] = []
        self._seen: Configuration | None = None

    async def run(self) -> None:
        """Look, begin what is due, ask for the next step towards one wish, and look again."""
        world = self._around.world
        while not self.stopping:
            await asyncio.sleep(LOOK_S)
            while self._due and self._due[0].at_s <= world.now and not self.stopping:
                self._begin(self._due.pop(0))
            self._wishes = [wish for wish in self._wishes if not self._came_true(wish)]
            removals = [wish for wish in self._wishes if wish.kind is Kind.REMOVE]
            if removals and not self.stopping:
                await self._remove(self._random.choice(removals))

    def look(self) -> None:
        """Note when the members change."""
        now = configuration(self._machines)
        if now is not None and now != self._seen:
            if self._seen is not None:
                self._upheaval()
            self._seen = now

    def upheavals(self, since_s: float) -> int:
        """How often somebody came, went, or lost its disk since then."""
        return sum(at_s >= since_s for at_s in self._upheavals)

    def _upheaval(self) -> None:
        self._upheavals.append(self._around.world.now)

    # -- wishes -------------------------------------------------------------------------------------

    def _begin(self, move: Move) -> None:
        now = configuration(self._machines)
        if now is None or len(self._wishes) >= WISHES_MAX:
            return
        seeds = [member.name for member in now.members]
        self._random.shuffle(seeds)
        if move.kind in (Kind.JOIN, Kind.OBSERVE):
            name = self._fresh.pop(0)
            coming = sum(wish.kind in (Kind.JOIN, Kind.REPLACE) for wish in self._wishes)
            if move.kind is Kind.JOIN and len(now.voters) + coming >= VOTERS_MAX:
                return
            self._wish(Wish(move.kind, name))
            self._machines[name].enlist(self._addresses(seeds), observer=move.kind is Kind.OBSERVE)
            return
        busy = {wish.name for wish in self._wishes}
        names = [m.name for m in now.members if m.name not in busy and (m.votes or move.kind is Kind.REMOVE)]
        if not names:
            return
        name = names[int(move.pick * len(names))]
        if move.kind is Kind.REMOVE:
            self._begin_removal(name, now)
        elif self._can_spare(name, now):
            seeds.remove(name)
            self._wish(Wish(move.kind, name))
            self._around.done["disks emptied"] += 1
            self._upheaval()
            self._machines[name].empty_disk(self._addresses(seeds))

    def _addresses(self, names: Sequence[str]) -> list[str]:
        return [self._machines[name].address for name in names]

    def _begin_removal(self, name: str, now: Configuration) -> None:
        removing = sum(wish.kind is Kind.REMOVE for wish in self._wishes)
        replacing = any(wish.kind is Kind.REPLACE for wish in self._wishes)
        member = now.get(name)
        assert member is not None
        if not replacing and len(now.voters) - removing > VOTERS_LEAST:
            self._around.replacements.removed.add(name)
            self._wish(Wish(Kind.REMOVE, name, member.incarnation))

    def _wish(self, wish: Wish) -> None:
        self._wishes.append(wish)
        self._around.world.tell("operator", f"wants to {wish.kind} {wish.name}")

    def _can_spare(self, name: str, now: Configuration) -> bool:
        """Whether the cluster outlives the loss of this disk, whatever is under way.

        Every voter has to run, as the server that it is known as, and by its own log have the members that
        the leader has: so no other disk is lost, and no change is pending that others do not know of.
        """
        if any(wish.kind in (Kind.REMOVE, Kind.REPLACE) for wish in self._wishes):
            return False
        if name not in now.voters or len(now.voters) <= VOTERS_LEAST:
            return False
        for voter in now.voters:
            machine, member = self._machines[voter], now.get(voter)
            parts = machine.parts
            if parts is None or member is None or machine.incarnation != member.incarnation:
                return False
            if parts.driver.configuration != now:
                return False
        return True

    def _came_true(self, wish: Wish) -> bool:
        """By every node that is a voter, as far as it knows, and has a leader."""
        views = [
            parts.driver.configuration
            for machine in self._machines.values()
            if (parts := machine.parts) is not None
            and parts.driver.status().leader is not None
            and parts.driver.status().standing is Standing.VOTER
        ]
        if not views or not all(self._is_so(wish, view) for view in views):
            return False
        self._around.done[f"{wish.kind} done"] += 1
        self._around.world.tell("operator", f"{wish.kind} {wish.name} has come true")
        return True

    def _is_so(self, wish: Wish, view: Configuration) -> bool:
        member = view.get(wish.name)
        if wish.kind is Kind.REMOVE:
            return member is None or member.incarnation != wish.incarnation
        machine = self._machines[wish.name]
        if member is None or machine.incarnation is None or member.incarnation != machine.incarnation:
            return False
        return member.votes or wish.kind is Kind.OBSERVE or machine.observer

    async def _remove(self, wish: Wish) -> None:
        self._around.done["removals asked for"] += 1
        try:
            await self.client.remove(wish.name, timeout_s=self._random.choice(REMOVE_TIMEOUTS_S))
        except McpError as error:
            self._around.done[f"remove {error.code}"] += 1
            self._around.world.tell("operator", f"remove {wish.name}: {error.code}: {error}")

    # -- the end ------------------------------------------------------------------------------------

    def waiting(self) -> str | None:
        """Who is not yet what it was started to be, and has to become it by itself."""
        now = configuration(self._machines)
        for wish in self._wishes:
            machine = self._machines[wish.name]
            if wish.kind is Kind.REMOVE or machine.state is State.LOST:
                continue
            if (wish.name, machine.incarnation) in self._around.replacements.replaced:
                continue  # it was dead for too long, and stays out
            if now is None or not self._is_so(wish, now):
                return f"{wish.name} was started to {wish.kind} and has not come to it"
        return None
